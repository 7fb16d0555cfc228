"""Contents: the shapes that the specification asks for, and nothing more (EVT-1 to EVT-4)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse_like.protocol.contents import check_content, check_event_type, check_state_key
from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.room_versions import SPEC_2014
from tests.protocol.refusals import refusal_of
from tests.protocol.strategies import any_values, contents, texts

ALICE = "@alice:a.example"

STATE_KEYS = {"m.room.member": ALICE, "m.room.aliases": "a.example"}

STATE: dict[str, dict[str, Any]] = {
    "m.room.name": {"name": "Pub"},
    "m.room.topic": {"topic": "Welcome"},
    "m.room.create": {"creator": ALICE},
    "m.room.member": {"membership": "join", "displayname": "Alice", "avatar_url": None, "reason": "x"},
    "m.room.join_rules": {"join_rule": "public"},
    "m.room.power_levels": {ALICE: 100, "default": 0},
    "m.room.add_state_level": {"level": 50},
    "m.room.send_event_level": {"level": 0},
    "m.room.ops_levels": {"ban_level": 50, "kick_level": 40, "redact_level": -1},
    "m.room.aliases": {"aliases": ["#pub:a.example", "#the Pub:b.example"]},
}

IMAGE_INFO = {"size": 1, "w": 2, "h": 3, "mimetype": "image/png"}
SESSION = {"type": "offer", "sdp": "v=0"}

EVENTS: dict[str, dict[str, Any]] = {
    "m.room.message": {"msgtype": "m.text", "body": "hello", "sender_ts": 1},
    "m.room.message.feedback": {"type": "read", "target_event_id": "e3b2icys"},
    "m.room.redaction": {"reason": "rude"},
    "m.call.invite": {"version": 0, "call_id": "1", "lifetime": 60000, "offer": SESSION},
    "m.call.candidates": {
        "version": 0,
        "call_id": "1",
        "candidates": [{"sdpMid": "audio", "sdpMLineIndex": 0, "candidate": "candidate:1"}],
    },
    "m.call.answer": {"version": 0, "call_id": "1", "answer": SESSION},
    "m.call.hangup": {"version": 0, "call_id": "1"},
}

MESSAGES: dict[str, dict[str, Any]] = {
    "m.text": {"body": "hello"},
    "m.emote": {"body": "waves"},
    "m.image": {
        "url": "http://a.example/1",
        "info": IMAGE_INFO,
        "thumbnail_url": "http://a.example/2",
        "thumbnail_info": IMAGE_INFO,
        "body": "a picture",
    },
    "m.audio": {"url": "http://a.example/1", "info": {"mimetype": "audio/aac", "size": 1, "duration": 2}, "body": "x"},
    "m.video": {
        "url": "http://a.example/1",
        "info": IMAGE_INFO | {"duration": 5, "thumbnail_url": "http://a.example/2", "thumbnail_info": IMAGE_INFO},
        "body": "x",
    },
    "m.location": {
        "geo_uri": "geo:1,2",
        "thumbnail_url": "http://a.example/2",
        "thumbnail_info": IMAGE_INFO,
        "body": "x",
    },
}


def check(event_type: str, content: object) -> None:
    state_key = STATE_KEYS.get(event_type, "") if event_type in STATE else None
    check_content(SPEC_2014, event_type, content, state_key=state_key)


def check_message(msgtype: str, content: dict[str, Any]) -> None:
    check("m.room.message", {"msgtype": msgtype, **content})


ALL = STATE | EVENTS
KNOWN_TYPES = st.sampled_from(sorted(ALL))


@pytest.mark.parametrize("event_type", sorted(ALL))
def test_well_formed_content_passes(event_type: str) -> None:
    check(event_type, ALL[event_type])


@pytest.mark.parametrize("event_type", sorted(ALL))
def test_keys_that_are_not_known_pass(event_type: str) -> None:
    if event_type != "m.room.power_levels":
        check(event_type, ALL[event_type] | {"org.example.more": [None]})


REQUIRED = {
    "m.room.name": ["name"],
    "m.room.topic": ["topic"],
    "m.room.create": ["creator"],
    "m.room.member": ["membership"],
    "m.room.join_rules": ["join_rule"],
    "m.room.power_levels": [],
    "m.room.add_state_level": ["level"],
    "m.room.send_event_level": ["level"],
    "m.room.ops_levels": [],
    "m.room.aliases": ["aliases"],
    "m.room.message": ["msgtype", "body"],
    "m.room.message.feedback": ["type", "target_event_id"],
    "m.room.redaction": [],
    "m.call.invite": ["version", "call_id", "lifetime", "offer"],
    "m.call.candidates": ["version", "call_id", "candidates"],
    "m.call.answer": ["version", "call_id", "answer"],
    "m.call.hangup": ["version", "call_id"],
}


@pytest.mark.parametrize("event_type", sorted(ALL))
def test_exactly_the_required_keys_may_not_be_absent(event_type: str) -> None:
    content = ALL[event_type]
    for key in content:
        rest = {name: value for name, value in content.items() if name != key}
        if key in REQUIRED[event_type]:
            with pytest.raises(BadJson, match=f"content.{key}' is missing"):
                check(event_type, rest)
        else:
            check(event_type, rest)


@pytest.mark.parametrize("event_type", sorted(ALL))
def test_every_known_key_has_its_type_checked_and_named(event_type: str) -> None:
    for key in ALL[event_type]:
        for wrong in (True, 0.5, [1], {"x": 1}):
            with pytest.raises(BadJson, match="content"):
                check(event_type, ALL[event_type] | {key: wrong})


@pytest.mark.parametrize(
    ("event_type", "content"),
    [
        ("m.room.member", {"membership": "kick"}),
        ("m.room.member", {"membership": ""}),
        ("m.room.member", {"membership": "Join"}),
        ("m.room.join_rules", {"join_rule": "open"}),
        ("m.room.create", {"creator": "alice"}),
        ("m.room.create", {"creator": "@Alice:a.example"}),
        ("m.room.power_levels", {ALICE: "100"}),
        ("m.room.power_levels", {ALICE: 2**53}),
        ("m.room.power_levels", {"default": None}),
        ("m.room.power_levels", {"alice": 100}),
        ("m.room.power_levels", {"Default": 100}),
        ("m.room.power_levels", {"@Alice:a.example": 100}),
        ("m.room.ops_levels", {"ban_level": None}),
        ("m.room.ops_levels", {"redact_level": "50"}),
        ("m.room.aliases", {"aliases": "#pub:a.example"}),
        ("m.room.aliases", {"aliases": ["pub"]}),
        ("m.room.aliases", {"aliases": [None]}),
        ("m.room.message.feedback", {"type": "seen", "target_event_id": "x"}),
        ("m.room.message", {"msgtype": "m.text", "body": "x", "sender_ts": "1"}),
        ("m.call.invite", EVENTS["m.call.invite"] | {"offer": {"type": "offer"}}),
        ("m.call.invite", EVENTS["m.call.invite"] | {"offer": {"type": "offer", "sdp": 1}}),
        ("m.call.answer", EVENTS["m.call.answer"] | {"answer": {"sdp": "v=0"}}),
        ("m.call.candidates", EVENTS["m.call.candidates"] | {"candidates": [{}]}),
        (
            "m.call.candidates",
            EVENTS["m.call.candidates"] | {"candidates": [{"sdpMid": "audio", "sdpMLineIndex": "0", "candidate": "x"}]},
        ),
    ],
)
def test_malformed_content_is_refused(event_type: str, content: dict[str, Any]) -> None:
    with pytest.raises(BadJson):
        check(event_type, content)


@pytest.mark.parametrize("membership", ["invite", "join", "leave", "ban", "knock"])
def test_every_membership_passes(membership: str) -> None:
    check("m.room.member", {"membership": membership})


@pytest.mark.parametrize("key", ["displayname", "avatar_url", "reason"])
def test_member_may_say_null_where_text_is_meant(key: str) -> None:
    check("m.room.member", {"membership": "join", key: None})
    with pytest.raises(BadJson, match=f"content.{key}' must be a string or null"):
        check("m.room.member", {"membership": "join", key: 1})


@pytest.mark.parametrize("msgtype", sorted(MESSAGES))
def test_every_kind_of_message_passes(msgtype: str) -> None:
    check_message(msgtype, MESSAGES[msgtype])


@pytest.mark.parametrize("msgtype", sorted(MESSAGES))
def test_message_needs_only_its_first_key(msgtype: str) -> None:
    required, *optional = MESSAGES[msgtype]
    check_message(msgtype, {required: MESSAGES[msgtype][required]})
    with pytest.raises(BadJson, match=f"content.{required}' is missing"):
        check_message(msgtype, {key: MESSAGES[msgtype][key] for key in optional})


@pytest.mark.parametrize("msgtype", sorted(MESSAGES))
def test_every_known_key_of_a_message_has_its_type_checked(msgtype: str) -> None:
    for key in MESSAGES[msgtype]:
        with pytest.raises(BadJson, match=f"content.{key}"):
            check_message(msgtype, MESSAGES[msgtype] | {key: 1})


@pytest.mark.parametrize(("msgtype", "where"), [("m.image", "info"), ("m.audio", "info"), ("m.video", "info")])
def test_every_known_key_of_a_description_has_its_type_checked(msgtype: str, where: str) -> None:
    content = MESSAGES[msgtype]
    for key in content[where]:
        with pytest.raises(BadJson, match=rf"content\.{where}\.{key}"):
            check_message(msgtype, content | {where: content[where] | {key: True}})
    check_message(msgtype, content | {where: {}})


@pytest.mark.parametrize("msgtype", ["m.image", "m.audio", "m.video", "m.location"])
def test_body_of_media_may_be_an_object(msgtype: str) -> None:
    check_message(msgtype, MESSAGES[msgtype] | {"body": {"size": 1}})


@pytest.mark.parametrize("msgtype", ["m.text", "m.emote"])
def test_body_of_text_may_not_be_an_object(msgtype: str) -> None:
    with pytest.raises(BadJson, match="must be a string"):
        check_message(msgtype, {"body": {}})


def test_unknown_kinds_of_message_pass_if_they_name_themselves() -> None:
    check("m.room.message", {"msgtype": "org.example.hologram", "url": 7})
    for content in ({}, {"msgtype": None}, {"msgtype": ["m.text"]}):
        with pytest.raises(BadJson, match=r"content\.msgtype"):
            check("m.room.message", content)


@given(contents, st.none() | texts)
def test_unknown_types_pass_untouched(content: dict[str, Any], state_key: str | None) -> None:
    check_content(SPEC_2014, "org.example.unknown", content, state_key=state_key)


@pytest.mark.parametrize("event_type", ["m.room.message", "m.room.name", "org.example.unknown"])
@pytest.mark.parametrize("content", [None, [], "x", 1, [["msgtype", "m.text"]]])
def test_content_must_be_an_object(event_type: str, content: object) -> None:
    with pytest.raises(BadJson, match="'content' must be an object"):
        check(event_type, content)


@given(KNOWN_TYPES, any_values)
def test_no_content_fails_otherwise_than_by_bad_json(event_type: str, content: object) -> None:
    error = refusal_of(check, event_type, content)
    assert error is None or isinstance(error, BadJson)


@given(KNOWN_TYPES, st.data())
def test_no_single_wrong_value_fails_otherwise_than_by_bad_json(event_type: str, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(ALL[event_type])))
    error = refusal_of(check, event_type, ALL[event_type] | {key: data.draw(any_values)})
    assert error is None or isinstance(error, BadJson)


@pytest.mark.parametrize("event_type", sorted(STATE))
def test_state_needs_a_state_key(event_type: str) -> None:
    with pytest.raises(BadJson, match="needs a state key"):
        check_content(SPEC_2014, event_type, STATE[event_type], state_key=None)


@pytest.mark.parametrize(
    ("event_type", "state_key"),
    [
        ("m.room.member", ""),
        ("m.room.member", "alice"),
        ("m.room.member", "@Alice:a.example"),
        ("m.room.aliases", ""),
        ("m.room.aliases", "A.example"),
        ("m.room.aliases", "@alice:a.example"),
    ],
)
def test_state_key_that_names_a_user_or_a_server_must_be_one(event_type: str, state_key: str) -> None:
    with pytest.raises(BadJson):
        check_content(SPEC_2014, event_type, STATE[event_type], state_key=state_key)


def test_redaction_is_not_state() -> None:
    with pytest.raises(BadJson, match="not a state event"):
        check_content(SPEC_2014, "m.room.redaction", {}, state_key="")


@pytest.mark.parametrize("name", ["m.room.message", "x" * 255, "ü" * 127, "a b", "日本"])
def test_type_and_state_key_may_be_any_text_of_255_bytes(name: str) -> None:
    check_event_type(name)
    check_state_key(name)


@pytest.mark.parametrize("name", ["x" * 256, "ü" * 128, "a\0b", "\ud800"])
def test_unfit_type_or_state_key_is_refused(name: str) -> None:
    with pytest.raises(BadJson):
        check_event_type(name)
    with pytest.raises(BadJson):
        check_state_key(name)


def test_state_key_may_be_empty_and_a_type_may_not() -> None:
    check_state_key("")
    with pytest.raises(BadJson, match="must have a type"):
        check_event_type("")
