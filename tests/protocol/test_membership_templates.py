"""Templates: what another server offers is taken for what it was asked for, and for nothing else (FED-7)."""

from __future__ import annotations

from typing import Any

import pytest

from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.events import Event, EventDraft
from synapse_like.protocol.hashes import ALGORITHM
from synapse_like.protocol.membership_templates import hashes_told, read_template, write_template
from synapse_like.protocol.room_versions import SPEC_2014, V1, V3, V6, V12, RoomRules

BOB = "@bob:b.example"
US = "b.example"
HASH = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
URL_SAFE = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"

each_format = pytest.mark.parametrize("rules", [SPEC_2014, V1, V3, V6, V12], ids=lambda rules: rules.name)


def room_id(rules: RoomRules) -> str:
    return "!room:a.example" if rules.room_id_names_server else f"!{URL_SAFE}"


def event_id(rules: RoomRules, name: str) -> str:
    if rules.event_id_form == "chosen-by-origin":
        return f"${name}:a.example"
    return "$" + name + (HASH if rules.event_id_form == "hash" else URL_SAFE)[len(name) :]


def offered(rules: RoomRules, **more: Any) -> Event:
    with_hashes = rules.pdu_format == "ids-with-hashes"
    fields: dict[str, Any] = {
        "event_id": "$outline:a.example",
        "room_id": room_id(rules),
        "type": "m.room.member",
        "sender": BOB,
        "state_key": BOB,
        "content": {"membership": "join"},
        "origin_server_ts": 1404838188000,
        "depth": 7,
        "prev_events": (event_id(rules, "p"),),
        "auth_events": (event_id(rules, "c"), event_id(rules, "l")),
        "prev_hashes": ({ALGORITHM: HASH},) if with_hashes else (),
        "auth_hashes": ({ALGORITHM: HASH},) * 2 if with_hashes else (),
    }
    return Event(**{**fields, **more})


def wanted(rules: RoomRules) -> EventDraft:
    return EventDraft(room_id(rules), "m.room.member", BOB, {"membership": "join"}, BOB)


@each_format
def test_what_is_asked_for_comes_back(rules: RoomRules) -> None:
    event = read_template(rules, write_template(rules, offered(rules)), wanted(rules), US)
    assert event.prev_events == (event_id(rules, "p"),)
    assert event.auth_events == (event_id(rules, "c"), event_id(rules, "l"))
    assert event.depth == 7
    if rules.pdu_format == "ids-with-hashes":
        assert hashes_told(event) == dict.fromkeys((*event.prev_events, *event.auth_events), HASH)


@each_format
def test_what_only_its_maker_can_give_is_neither_told_nor_believed(rules: RoomRules) -> None:
    """SEC-7, SEC-8: we do not sign what a peer has thought up."""
    told = write_template(rules, offered(rules))
    assert not told.keys() & {"hashes", "signatures", "event_id", "pdu_id", "ts", "origin_server_ts"}
    imposed = {"hashes": {"sha256": "x"}, "signatures": {"a.example": {}}, "unsigned": {"age": 1}, "extra": "key"}
    event = read_template(rules, {**told, **imposed}, wanted(rules), US)
    assert event == read_template(rules, told, wanted(rules), US)
    assert event.extra == {}


@each_format
@pytest.mark.parametrize(
    "other",
    [
        {"type": "m.room.topic", "content": {"topic": "x"}},
        {"content": {"membership": "ban"}},
        {"content": {}},
        {"state_key": "@carol:b.example"},
        {"sender": "@carol:b.example"},
        {"state_key": None},
    ],
    ids=str,
)
def test_template_for_something_else_is_refused(rules: RoomRules, other: dict[str, Any]) -> None:
    told = write_template(rules, offered(rules, **other))
    with pytest.raises(BadJson):
        read_template(rules, told, wanted(rules), US)


@each_format
def test_template_for_another_room_is_refused(rules: RoomRules) -> None:
    other = "!other:a.example" if rules.room_id_names_server else "!" + "A" * 43
    with pytest.raises(BadJson, match="another event"):
        read_template(rules, write_template(rules, offered(rules, room_id=other)), wanted(rules), US)


@each_format
def test_template_that_comes_after_nothing_is_refused(rules: RoomRules) -> None:
    told = write_template(rules, offered(rules, prev_events=(), prev_hashes=()))
    with pytest.raises(BadJson, match="after nothing"):
        read_template(rules, told, wanted(rules), US)


@pytest.mark.parametrize("told", [None, [], "x", {}, {"depth": -1}], ids=str)
def test_what_is_no_template_is_refused(told: object) -> None:
    with pytest.raises(BadJson):
        read_template(SPEC_2014, told, wanted(SPEC_2014), US)
