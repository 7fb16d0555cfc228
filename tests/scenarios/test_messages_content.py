"""What may stand in an event: everything, if it is somebody's own type; what was agreed on, if it is one of `m.`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenarios.conftest import every_room_version
from tests.support.client import Client, Json, bad_json, ids, quote, refused

TEXT = {"msgtype": "m.text", "body": "I am a fish"}
URL = "http://localhost/fish.jpg"
IMAGE_INFO = {"size": 12345, "w": 640, "h": 480, "mimetype": "image/jpeg"}


# Anybody's own events.


@every_room_version
@pytest.mark.parametrize(
    "event_type", ["org.example.event", "com.example/odd type", "日本.イベント", "x" * 255, "%", "a.b"]
)
def test_unknown_types_pass_untouched(alice: Client, bob: Client, room: str, event_type: str) -> None:
    """EVT-1."""
    bob.join(room)
    content = {"": {"a": [1, None, True, {"b": ["ü", "🐟", "\\", '"', "\u2028"]}]}, "msgtype": 5, "body": [], "n": -7}
    since = bob.present()
    event_id = alice.send_event(room, event_type, content)
    [event] = bob.events(since)["chunk"]
    assert (event["event_id"], event["type"], event["content"]) == (event_id, event_type, content)
    alice.set_state(room, event_type, content, "key")
    assert bob.state_content(room, event_type, "key") == content


@every_room_version
def test_content_may_be_empty(alice: Client, room: str) -> None:
    """EVT-1."""
    assert alice.event(alice.send_event(room, "org.example", {}))["content"] == {}
    assert alice.event(alice.set_state(room, "org.example", {}))["content"] == {}


@every_room_version
def test_encrypted_content_passes_untouched(alice: Client, room: str) -> None:
    """E2E-1."""
    content = {"algorithm": "m.example", "ciphertext": "A" * 40_000, "keys": {"@bob:x": {"": "🔑"}}}
    assert alice.event(alice.send_event(room, "m.room.encrypted", content))["content"] == content


@every_room_version
def test_event_of_up_to_64_kib_passes(alice: Client, room: str) -> None:
    """EVT-1."""
    body = "x" * 63_000
    assert alice.event(alice.send(room, body))["content"]["body"] == body


@every_room_version
@pytest.mark.parametrize("body", ["x" * 65_536, "é" * 32_768, "\\" * 33_000, "x" * 500_000])
def test_event_of_more_than_64_kib_is_too_large(alice: Client, room: str, body: str) -> None:
    """EVT-1: counted in bytes as it is passed on."""
    before = ids(alice.history(room))
    with refused(413, "M_TOO_LARGE"):
        alice.send(room, body)
    with refused(413, "M_TOO_LARGE"):
        alice.set_state(room, "m.room.topic", {"topic": body})
    with refused(413, "M_TOO_LARGE"):
        alice.send_event(room, "org.example", {body: 1})
    assert ids(alice.history(room)) == before


# State.

GOOD_STATE: list[tuple[str, Json]] = [
    ("m.room.name", {"name": "My Room"}),
    ("m.room.name", {"name": ""}),
    ("m.room.name", {"name": "x", "org.example.more": [1]}),
    ("m.room.topic", {"topic": "Welcome to the real world."}),
    ("m.room.join_rules", {"join_rule": "public"}),
    ("m.room.join_rules", {"join_rule": "knock"}),
    ("m.room.join_rules", {"join_rule": "invite"}),
    ("m.room.join_rules", {"join_rule": "private"}),
    ("m.room.add_state_level", {"level": 5}),
    ("m.room.send_event_level", {"level": 0}),
    ("m.room.ops_levels", {"ban_level": 5, "kick_level": 5}),
    ("m.room.ops_levels", {"redact_level": 10}),
]

BAD_STATE: list[tuple[str, Json]] = [
    ("m.room.name", {}),
    ("m.room.name", {"name": None}),
    ("m.room.name", {"name": 5}),
    ("m.room.name", {"name": ["x"]}),
    ("m.room.topic", {}),
    ("m.room.topic", {"topic": {"text": "x"}}),
    ("m.room.topic", {"topic": 0}),
    ("m.room.join_rules", {}),
    ("m.room.join_rules", {"join_rule": "open"}),
    ("m.room.join_rules", {"join_rule": ["public"]}),
    ("m.room.join_rules", {"join_rule": None}),
    ("m.room.add_state_level", {}),
    ("m.room.add_state_level", {"level": "50"}),
    ("m.room.add_state_level", {"level": True}),
    ("m.room.add_state_level", {"level": None}),
    ("m.room.send_event_level", {}),
    ("m.room.send_event_level", {"level": 0.5}),
    ("m.room.send_event_level", {"level": [0]}),
    ("m.room.ops_levels", {"ban_level": "5"}),
    ("m.room.ops_levels", {"kick_level": None}),
    ("m.room.ops_levels", {"redact_level": False}),
    ("m.room.power_levels", {"default": "0"}),
    ("m.room.power_levels", {"users": {}}),
    ("m.room.aliases", {}),
    ("m.room.aliases", {"aliases": "#a:b"}),
    ("m.room.aliases", {"aliases": [5]}),
    ("m.room.aliases", {"aliases": ["no alias"]}),
]


@pytest.mark.parametrize(("event_type", "content"), GOOD_STATE)
def test_state_of_the_agreed_shape_is_taken_as_it_is(alice: Client, room: str, event_type: str, content: Json) -> None:
    """EVT-2."""
    alice.set_state(room, event_type, content)
    assert alice.state_content(room, event_type) == content


@pytest.mark.parametrize(("event_type", "content"), BAD_STATE)
def test_state_of_another_shape_is_refused(alice: Client, room: str, event_type: str, content: Json) -> None:
    """EVT-2."""
    before = ids(alice.state(room))
    key = alice.server.name if event_type == "m.room.aliases" else None
    with bad_json():
        alice.set_state(room, event_type, content, key)
    assert ids(alice.state(room)) == before


@every_room_version
@pytest.mark.parametrize("key", ["displayname", "avatar_url", "reason"])
def test_what_members_say_of_themselves_is_text(alice: Client, room: str, key: str) -> None:
    """EVT-2."""
    with bad_json():
        alice.set_state(room, "m.room.member", {"membership": "join", key: ["x"]}, alice.user_id)
    alice.set_state(room, "m.room.member", {"membership": "join", key: "x"}, alice.user_id)
    assert alice.state_content(room, "m.room.member", alice.user_id)[key] == "x"


# Messages and calls.

GOOD: list[tuple[str, Json]] = [
    ("m.room.message", TEXT),
    ("m.room.message", {**TEXT, "sender_ts": 1412597932000}),
    ("m.room.message", {**TEXT, "org.example.more": {"a": 1}}),
    ("m.room.message", {"msgtype": "m.emote", "body": "tries"}),
    ("m.room.message", {"msgtype": "org.example.own"}),
    ("m.room.message", {"msgtype": "org.example.own", "body": 5, "url": 5, "info": 5}),
    ("m.room.message", {"msgtype": "m.image", "url": URL}),
    ("m.room.message", {"msgtype": "m.image", "url": URL, "info": IMAGE_INFO, "body": "a fish"}),
    ("m.room.message", {"msgtype": "m.image", "url": URL, "thumbnail_url": URL, "thumbnail_info": IMAGE_INFO}),
    ("m.room.message", {"msgtype": "m.image", "url": URL, "body": {"size": 5, "w": 1}}),
    ("m.room.message", {"msgtype": "m.audio", "url": URL, "info": {"mimetype": "audio/aac", "size": 5, "duration": 9}}),
    ("m.room.message", {"msgtype": "m.video", "url": URL, "body": "a film", "info": {"w": 1, "h": 2, "duration": 3}}),
    ("m.room.message", {"msgtype": "m.video", "url": URL, "info": {"thumbnail_url": URL, "thumbnail_info": {}}}),
    ("m.room.message", {"msgtype": "m.location", "geo_uri": "geo:51.5,-0.1", "body": "London", "thumbnail_url": URL}),
    ("m.room.message.feedback", {"type": "delivered", "target_event_id": "$e3b2icys:localhost"}),
    ("m.room.message.feedback", {"type": "read", "target_event_id": "$e3b2icys:localhost"}),
    ("m.call.invite", {"call_id": "1", "version": 0, "lifetime": 30000, "offer": {"type": "offer", "sdp": "v=0"}}),
    ("m.call.candidates", {"call_id": "1", "version": 0, "candidates": []}),
    (
        "m.call.candidates",
        {"call_id": "1", "version": 0, "candidates": [{"sdpMid": "audio", "sdpMLineIndex": 0, "candidate": "x"}]},
    ),
    ("m.call.answer", {"call_id": "1", "version": 0, "answer": {"type": "answer", "sdp": "v=0"}}),
    ("m.call.hangup", {"call_id": "1", "version": 0}),
]  # fmt: skip


def _without(content: Json, key: str) -> Json:
    return {name: value for name, value in content.items() if name != key}


_IMAGE: Json = {"msgtype": "m.image", "url": URL}
_INVITE: Json = {"call_id": "1", "version": 0, "lifetime": 30000, "offer": {"type": "offer", "sdp": "v=0"}}
_CANDIDATE: Json = {"sdpMid": "audio", "sdpMLineIndex": 0, "candidate": "x"}
_CANDIDATES: Json = {"call_id": "1", "version": 0, "candidates": [_CANDIDATE]}
_ANSWER: Json = {"call_id": "1", "version": 0, "answer": {"type": "answer", "sdp": "v=0"}}

BAD: list[tuple[str, Any]] = [
    ("m.room.message", {}),
    ("m.room.message", {"body": "no msgtype"}),
    ("m.room.message", {"msgtype": 5, "body": "x"}),
    ("m.room.message", {"msgtype": None, "body": "x"}),
    ("m.room.message", {"msgtype": "m.text"}),
    ("m.room.message", {"msgtype": "m.text", "body": 5}),
    ("m.room.message", {"msgtype": "m.text", "body": {"a": 1}}),
    ("m.room.message", {**TEXT, "sender_ts": "now"}),
    ("m.room.message", {"msgtype": "m.emote"}),
    ("m.room.message", {"msgtype": "m.emote", "body": []}),
    *(("m.room.message", {"msgtype": f"m.{kind}", "body": "no url"}) for kind in ("image", "audio", "video")),
    *(("m.room.message", {"msgtype": f"m.{kind}", "url": 5}) for kind in ("image", "audio", "video")),
    *(("m.room.message", {"msgtype": f"m.{kind}", "url": URL, "info": "x"}) for kind in ("image", "audio", "video")),
    ("m.room.message", {**_IMAGE, "info": {**IMAGE_INFO, "size": "big"}}),
    ("m.room.message", {**_IMAGE, "info": {**IMAGE_INFO, "w": [640]}}),
    ("m.room.message", {**_IMAGE, "info": {**IMAGE_INFO, "mimetype": 5}}),
    ("m.room.message", {**_IMAGE, "thumbnail_url": 5}),
    ("m.room.message", {**_IMAGE, "thumbnail_info": "x"}),
    ("m.room.message", {**_IMAGE, "thumbnail_info": {"h": "tall"}}),
    ("m.room.message", {**_IMAGE, "body": 5}),
    ("m.room.message", {"msgtype": "m.audio", "url": URL, "info": {"duration": "long"}}),
    ("m.room.message", {"msgtype": "m.video", "url": URL, "info": {"duration": True}}),
    ("m.room.message", {"msgtype": "m.video", "url": URL, "info": {"thumbnail_url": 5}}),
    ("m.room.message", {"msgtype": "m.location", "body": "nowhere"}),
    ("m.room.message", {"msgtype": "m.location", "geo_uri": [51, 0]}),
    ("m.room.message.feedback", {}),
    ("m.room.message.feedback", {"type": "read"}),
    ("m.room.message.feedback", {"target_event_id": "$e:x"}),
    ("m.room.message.feedback", {"type": "heard", "target_event_id": "$e:x"}),
    ("m.room.message.feedback", {"type": "read", "target_event_id": 5}),
    *(("m.call.invite", _without(_INVITE, key)) for key in _INVITE),
    ("m.call.invite", {**_INVITE, "version": "0"}),
    ("m.call.invite", {**_INVITE, "lifetime": "long"}),
    ("m.call.invite", {**_INVITE, "call_id": 1}),
    ("m.call.invite", {**_INVITE, "offer": "v=0"}),
    ("m.call.invite", {**_INVITE, "offer": {"type": "offer"}}),
    ("m.call.invite", {**_INVITE, "offer": {"type": "offer", "sdp": 0}}),
    *(("m.call.candidates", _without(_CANDIDATES, key)) for key in _CANDIDATES),
    *(("m.call.candidates", {**_CANDIDATES, "candidates": [_without(_CANDIDATE, key)]}) for key in _CANDIDATE),
    ("m.call.candidates", {**_CANDIDATES, "candidates": _CANDIDATE}),
    ("m.call.candidates", {**_CANDIDATES, "candidates": ["x"]}),
    ("m.call.candidates", {**_CANDIDATES, "candidates": [{**_CANDIDATE, "sdpMLineIndex": "0"}]}),
    *(("m.call.answer", _without(_ANSWER, key)) for key in _ANSWER),
    ("m.call.answer", {**_ANSWER, "answer": []}),
    ("m.call.answer", {**_ANSWER, "answer": {"sdp": "v=0"}}),
    *(("m.call.hangup", content) for content in ({}, {"call_id": "1"}, {"version": 0}, {"call_id": [], "version": 0})),
]  # fmt: skip


@pytest.mark.parametrize(("event_type", "content"), GOOD)
def test_messages_and_calls_of_the_agreed_shape_pass_untouched(
    alice: Client, room: str, event_type: str, content: Json
) -> None:
    """EVT-2, EVT-3, EVT-4, EVS-10, VOIP-1."""
    event = alice.event(alice.send_event(room, event_type, content))
    assert (event["type"], event["content"]) == (event_type, content)


@pytest.mark.parametrize(("event_type", "content"), BAD)
def test_messages_and_calls_of_another_shape_are_refused(
    alice: Client, room: str, event_type: str, content: Json
) -> None:
    """EVT-2, EVT-3, EVT-4: by POST as by PUT."""
    before = ids(alice.history(room))
    path = f"/rooms/{quote(room)}/send/{event_type}"
    for method, target in (("POST", path), ("PUT", f"{path}/1")):
        with bad_json():
            alice.call(method, target, content)
    assert ids(alice.history(room)) == before


def test_refusal_names_the_key_that_is_wrong(alice: Client, room: str) -> None:
    """API-3: so that whoever writes a client need not guess."""
    for content, key in (({"msgtype": "m.text", "body": 5}, "body"), ({"msgtype": "m.image"}, "url")):
        answer = alice.request("POST", f"/rooms/{room}/send/m.room.message", content)
        assert key in answer.json["error"]


@pytest.mark.room_versions("1", "11")
def test_calls_are_checked_in_rooms_of_today_too(alice: Client, room: str) -> None:
    """EVT-4: there, a version may be a text, and what is needed is still needed."""
    for event_type, good in ((kind, content) for kind, content in GOOD if kind.startswith("m.call.")):
        alice.send_event(room, event_type, good)
        alice.send_event(room, event_type, {**good, "version": "1", "party_id": "x"})
        before = ids(alice.history(room))
        for bad in ({**good, "version": True}, _without(good, "version"), _without(good, "call_id"), {}):
            with bad_json():
                alice.send_event(room, event_type, bad)
        assert ids(alice.history(room)) == before
