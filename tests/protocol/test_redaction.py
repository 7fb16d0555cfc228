"""Redaction: what goes, what stays, and that what stays stays good (RED-2)."""

import copy
from typing import Any

import pytest
from hypothesis import given

from synapse_like.protocol.redaction import redact, redact_pdu
from synapse_like.protocol.room_versions import ALL_RULES, SPEC_2014, V10, V11, RoomRules
from synapse_like.protocol.wire_formats import from_pdu, to_pdu
from tests.protocol.strategies import rules_and_pdus
from tests.protocol.test_pdu_id_pairs import MESSAGE, STATE
from tests.protocol.test_pdu_ids import TODAY, message_of

RulesAndPdu = tuple[RoomRules, dict[str, Any]]


# The room version of 2014.


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
def test_content_keeps_what_the_specification_of_2014_lists(
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


# The Matrix room versions.

EVER, NEVER = range(1, 13), range(0)


def versions_in_which(keeps: range) -> dict[str, bool]:
    return {rules.name: int(rules.name) in keeps for rules in TODAY}


@pytest.mark.parametrize(
    ("event_type", "key", "versions"),
    [
        ("m.room.member", "membership", EVER),
        ("m.room.member", "join_authorised_via_users_server", range(9, 13)),
        ("m.room.member", "displayname", NEVER),
        ("m.room.create", "creator", EVER),
        ("m.room.create", "room_version", range(11, 13)),
        ("m.room.create", "org.example.any", range(11, 13)),
        ("m.room.join_rules", "join_rule", EVER),
        ("m.room.join_rules", "allow", range(8, 13)),
        ("m.room.power_levels", "users", EVER),
        ("m.room.power_levels", "users_default", EVER),
        ("m.room.power_levels", "events", EVER),
        ("m.room.power_levels", "events_default", EVER),
        ("m.room.power_levels", "state_default", EVER),
        ("m.room.power_levels", "ban", EVER),
        ("m.room.power_levels", "kick", EVER),
        ("m.room.power_levels", "redact", EVER),
        ("m.room.power_levels", "invite", range(11, 13)),
        ("m.room.power_levels", "notifications", NEVER),
        ("m.room.aliases", "aliases", range(1, 6)),
        ("m.room.history_visibility", "history_visibility", EVER),
        ("m.room.redaction", "redacts", range(11, 13)),
        ("m.room.redaction", "reason", NEVER),
        ("m.room.name", "name", NEVER),
        ("m.room.message", "body", NEVER),
    ],
)
def test_key_of_the_content_stays_in_some_versions(event_type: str, key: str, versions: range) -> None:
    stays = {}
    for rules in TODAY:
        content = redact_pdu(rules, message_of(rules) | {"type": event_type, "content": {key: "x", "y": 1}})["content"]
        stays[rules.name] = key in content
    assert stays == versions_in_which(versions)


@pytest.mark.parametrize(
    ("key", "versions"),
    [
        *((key, EVER) for key in ("event_id", "type", "room_id", "sender", "state_key", "hashes", "signatures")),
        *((key, EVER) for key in ("depth", "prev_events", "auth_events", "origin_server_ts")),
        ("origin", range(1, 11)),
        ("membership", range(1, 11)),
        ("prev_state", range(1, 11)),
        ("redacts", NEVER),
        ("unsigned", NEVER),
        ("age_ts", NEVER),
    ],
)
def test_key_at_the_top_stays_in_some_versions(key: str, versions: range) -> None:
    stays = {rules.name: key in redact_pdu(rules, {**message_of(rules), key: "x"}) for rules in TODAY}
    assert stays == versions_in_which(versions)


@pytest.mark.parametrize(
    ("invite", "kept"),
    [
        ({"signed": {"token": "x"}, "display_name": "a…"}, {"signed": {"token": "x"}}),
        ({"display_name": "a…"}, {}),
        ("no object", None),
    ],
)
def test_invite_of_an_address_keeps_what_was_signed_from_version_11_on(invite: object, kept: object) -> None:
    content = {"membership": "invite", "third_party_invite": invite}
    pdu = message_of(V11) | {"type": "m.room.member", "content": content}
    expected = {"membership": "invite"} | ({} if kept is None else {"third_party_invite": kept})
    assert redact_pdu(V11, pdu)["content"] == expected
    assert redact_pdu(V10, pdu)["content"] == {"membership": "invite"}


@pytest.mark.parametrize(("rules", "target"), [(V10, None), (V11, "$x:y")])
def test_redacted_redaction_keeps_its_target_where_it_stands_in_the_content(
    rules: RoomRules, target: str | None
) -> None:
    pdu = message_of(rules) | {"type": "m.room.redaction", "redacts": "$x:y", "content": {"redacts": "$x:y"}}
    assert from_pdu(rules, pdu).redacts == "$x:y"
    assert redact(rules, from_pdu(rules, pdu)).redacts == target


# All of them.


@given(rules_and_pdus)
def test_redacting_twice_is_redacting_once(rules_and_pdu: RulesAndPdu) -> None:
    rules, pdu = rules_and_pdu
    once = redact_pdu(rules, pdu)
    assert redact_pdu(rules, once) == once


@given(rules_and_pdus)
def test_redacting_leaves_the_original_as_it_was(rules_and_pdu: RulesAndPdu) -> None:
    rules, pdu = rules_and_pdu
    before = copy.deepcopy(pdu)
    redact_pdu(rules, pdu)
    assert pdu == before


@given(rules_and_pdus)
def test_event_and_pdu_are_redacted_alike(rules_and_pdu: RulesAndPdu) -> None:
    rules, pdu = rules_and_pdu
    event = redact(rules, from_pdu(rules, pdu))
    stripped = redact_pdu(rules, pdu)
    assert to_pdu(rules, event) == stripped
    assert from_pdu(rules, stripped) == event


@pytest.mark.parametrize("rules", ALL_RULES, ids=lambda rules: f"version-{rules.name}")
def test_redaction_keeps_the_id(rules: RoomRules) -> None:
    pdu = MESSAGE if rules is SPEC_2014 else message_of(rules)
    assert from_pdu(rules, redact_pdu(rules, pdu)).event_id == from_pdu(rules, pdu).event_id
