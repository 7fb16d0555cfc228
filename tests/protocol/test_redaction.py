"""Redaction: what goes, what stays, and that what stays stays good (RED-2)."""

import copy
from typing import Any

import pytest
from hypothesis import given

from synapse_like.protocol.redaction import redact, redact_pdu
from synapse_like.protocol.room_versions import SPEC_2014
from synapse_like.protocol.wire_formats import from_pdu, to_pdu
from tests.protocol.strategies import pdus
from tests.protocol.test_wire_formats import MESSAGE, STATE


@pytest.mark.parametrize(
    ("event_type", "content", "kept"),
    [
        ("m.room.member", {"membership": "join", "displayname": "x", "reason": "y"}, {"membership": "join"}),
        ("m.room.create", {"creator": "@a:b", "x": 1}, {"creator": "@a:b"}),
        ("m.room.join_rules", {"join_rule": "public", "x": 1}, {"join_rule": "public"}),
        ("m.room.power_levels", {"@a:b": 1, "default": 2, "x": 3}, {"@a:b": 1, "default": 2}),
        ("m.room.add_state_level", {"level": 1, "x": 2}, {"level": 1}),
        ("m.room.send_event_level", {"level": 1, "x": 2}, {"level": 1}),
        (
            "m.room.ops_levels",
            {"ban_level": 1, "kick_level": 2, "redact_level": 3, "x": 4},
            {"ban_level": 1, "kick_level": 2, "redact_level": 3},
        ),
        ("m.room.aliases", {"aliases": ["#a:b"], "x": 1}, {"aliases": ["#a:b"]}),
        ("m.room.name", {"name": "x"}, {}),
        ("m.room.topic", {"topic": "x"}, {}),
        ("m.room.message", {"body": "x", "msgtype": "m.text"}, {}),
        ("m.room.redaction", {"reason": "x"}, {}),
        ("org.example.unknown", {"membership": "x", "level": 1}, {}),
    ],
)
def test_content_keeps_what_the_specification_lists(
    event_type: str, content: dict[str, Any], kept: dict[str, Any]
) -> None:
    assert redact_pdu(SPEC_2014, STATE | {"pdu_type": event_type, "content": content})["content"] == kept


def test_unknown_and_unsigned_keys_go() -> None:
    stripped = redact_pdu(SPEC_2014, MESSAGE | {"unsigned": {"age": 1}, "org.example.rude": "x"})
    assert stripped == MESSAGE | {"content": {}}


def test_all_that_graph_and_rules_need_stays() -> None:
    assert redact_pdu(SPEC_2014, STATE) == STATE | {"content": {}}
    redaction = MESSAGE | {"pdu_type": "m.room.redaction", "redacts": "$x:a.example"}
    assert redact_pdu(SPEC_2014, redaction)["redacts"] == "$x:a.example"


@given(pdus())
def test_redacting_twice_is_redacting_once(pdu: dict[str, Any]) -> None:
    once = redact_pdu(SPEC_2014, pdu)
    assert redact_pdu(SPEC_2014, once) == once


@given(pdus())
def test_redacting_leaves_the_original_as_it_was(pdu: dict[str, Any]) -> None:
    before = copy.deepcopy(pdu)
    redact_pdu(SPEC_2014, pdu)
    assert pdu == before


@given(pdus())
def test_event_and_pdu_are_redacted_alike(pdu: dict[str, Any]) -> None:
    event = redact(SPEC_2014, from_pdu(SPEC_2014, pdu))
    assert to_pdu(SPEC_2014, event) == redact_pdu(SPEC_2014, pdu)
    assert from_pdu(SPEC_2014, redact_pdu(SPEC_2014, pdu)) == event
