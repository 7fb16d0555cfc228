"""The 2014 PDU: every field in its place, and nothing accepted that is not one (FED-5)."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.events import Event
from synapse_like.protocol.room_versions import SPEC_2014
from synapse_like.protocol.wire_formats import from_pdu, to_pdu

Change = Callable[[dict[str, Any]], object]

MESSAGE: dict[str, Any] = {
    "pdu_id": "m1",
    "origin": "a.example",
    "context": "!r:b.example",
    "pdu_type": "m.room.message",
    "user_id": "@alice:a.example",
    "ts": 1404838188000,
    "depth": 7,
    "prev_pdus": [["b.example:8448", "p1"], ["a.example", "p2"]],
    "auth_pdus": [["a.example", "c0"]],
    "content": {"msgtype": "m.text", "body": "hello"},
    "is_state": False,
    "hashes": {"sha256": "h"},
    "signatures": {"a.example": {"ed25519:1": "s"}},
}

STATE: dict[str, Any] = MESSAGE | {
    "pdu_type": "m.room.topic",
    "content": {"topic": "Welcome"},
    "is_state": True,
    "state_key": "",
    "power_level": 100,
    "required_power_level": 50,
    "prev_state_id": "s0",
    "prev_state_origin": "b.example:8448",
}


def test_message_maps_field_by_field() -> None:
    assert from_pdu(SPEC_2014, MESSAGE) == Event(
        event_id="$m1:a.example",
        room_id="!r:b.example",
        type="m.room.message",
        sender="@alice:a.example",
        content={"msgtype": "m.text", "body": "hello"},
        origin_server_ts=1404838188000,
        depth=7,
        prev_events=("$p1:b.example:8448", "$p2:a.example"),
        auth_events=("$c0:a.example",),
        seals=("sha256", "h", "a.example", "ed25519:1", "s"),
    )


def test_state_maps_field_by_field() -> None:
    event = from_pdu(SPEC_2014, STATE)
    assert event.state_slot == ("m.room.topic", "")
    assert (event.power_level, event.required_power_level) == (100, 50)
    assert event.replaces_state == "$s0:b.example:8448"


@pytest.mark.parametrize(
    "wrong",
    [
        {"pdu_id": ""},
        {"pdu_id": "a:b"},
        {"pdu_id": 7},
        {"pdu_id": "a b"},
        {"pdu_id": "x" * 250},
        {"origin": "A.example"},
        {"origin": "not a server"},
        {"origin": "b.example"},
        {"context": "#r:b.example"},
        {"context": "!" + "h" * 43},
        {"context": None},
        {"pdu_type": ""},
        {"pdu_type": "x" * 256},
        {"pdu_type": "a\0b"},
        {"user_id": "@Alice:a.example"},
        {"user_id": "alice"},
        {"user_id": "@alice:b.example"},
        {"ts": -1},
        {"ts": "1"},
        {"ts": True},
        {"depth": -1},
        {"depth": 2**53},
        {"depth": None},
        {"prev_pdus": {}},
        {"prev_pdus": [["a.example"]]},
        {"prev_pdus": [["a.example", "x", "y"]]},
        {"prev_pdus": [["a.example", "x:y"]]},
        # Put together it would be an event ID, but that of another server.
        {"prev_pdus": [["8448", "x:a.example"]]},
        {"prev_pdus": [["not a server", "x"]]},
        {"prev_pdus": [[1, 2]]},
        {"prev_pdus": ["a.example"]},
        {"prev_pdus": [["a.example", f"p{n}"] for n in range(21)]},
        {"auth_pdus": None},
        {"auth_pdus": [["a.example", f"p{n}"] for n in range(51)]},
        {"content": []},
        {"content": {"level": 0.5}},
        {"content": {"level": 2**53}},
        {"is_state": 0},
        {"is_state": True},
        {"hashes": {"sha256": 1}},
        {"hashes": "h"},
        {"signatures": {"a.example": "s"}},
        {"signatures": {"a.example": {"ed25519:1": 1}}},
        {"signatures": []},
        {"unsigned": 1},
        {"redacts": "x"},
        {"redacts": "$" + "h" * 43},
        {"redacts": None},
        {"pdu_type": "m.room.redaction"},
        {"state_key": ""},
        {"power_level": 1},
        {"required_power_level": 1},
        {"prev_state_id": "x"},
        {"prev_state_origin": "a.example"},
    ],
)
def test_malformed_message_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadJson):
        from_pdu(SPEC_2014, MESSAGE | wrong)


@pytest.mark.parametrize(
    "change",
    [
        lambda pdu: pdu.pop("state_key"),
        lambda pdu: pdu.pop("prev_state_id"),
        lambda pdu: pdu.pop("prev_state_origin"),
        lambda pdu: pdu.update(state_key=None),
        lambda pdu: pdu.update(state_key="x" * 256),
        lambda pdu: pdu.update(power_level="100"),
        lambda pdu: pdu.update(required_power_level=None),
        lambda pdu: pdu.update(prev_state_id="a:b"),
        lambda pdu: pdu.update(prev_state_origin="no server"),
        lambda pdu: pdu.update(is_state=False),
    ],
)
def test_malformed_state_is_refused(change: Change) -> None:
    pdu = copy.deepcopy(STATE)
    from_pdu(SPEC_2014, pdu)
    change(pdu)
    with pytest.raises(BadJson):
        from_pdu(SPEC_2014, pdu)


def test_counts_at_their_bounds_pass() -> None:
    pairs = [["a.example", f"p{n}"] for n in range(50)]
    event = from_pdu(SPEC_2014, MESSAGE | {"prev_pdus": pairs[:20], "auth_pdus": pairs, "depth": 2**53 - 1})
    assert (len(event.prev_events), len(event.auth_events)) == (20, 50)


def test_redaction_names_its_target() -> None:
    pdu = MESSAGE | {"pdu_type": "m.room.redaction", "redacts": "$x:a.example", "content": {}}
    event = from_pdu(SPEC_2014, pdu)
    assert event.redacts == "$x:a.example"
    assert to_pdu(SPEC_2014, event) == pdu
