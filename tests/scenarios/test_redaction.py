"""Taking back what was said: everywhere, and for good."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.scenarios.conftest import FreshServer, every_room_version, of_2014
from tests.support import databases
from tests.support.client import Client, Json, bad_json, forbidden, ids, quote
from tests.support.server import HomeServer

pytestmark = every_room_version

#: What a redacted event may still show; times and `redacted_because` are not of its sender's making.
KEPT = {
    *("event_id", "type", "room_id", "user_id", "state_key", "prev_state", "content"),
    *("redacted_because", "required_power_level", "origin_server_ts", "ts", "age", "membership"),
}
OFFENCE = "something-offensive"


def _with_content(content: Json) -> Json:
    return {**content, "org.example.more": OFFENCE}


def _readings(client: Client, room: str, event_id: str, since: str) -> dict[str, bytes]:
    """What every way of reading a room answers, by its path."""
    there = quote(room)
    state = [f"/rooms/{there}/state/{quote(event['type'])}/{quote(event['state_key'])}" for event in client.state(room)]
    paths = [
        f"/events/{quote(event_id)}",
        f"/events?from={since}&timeout=0",
        "/initialSync?limit=100",
        f"/rooms/{there}/initialSync?limit=100",
        f"/rooms/{there}/messages?limit=1000",
        f"/rooms/{there}/messages?limit=1000&dir=f&from={since}",
        f"/rooms/{there}/state",
        f"/rooms/{there}/members",
        "/publicRooms?limit=1000",
        *state,
    ]
    return {path: client.request("GET", path).body for path in paths}


def _appearances(readings: dict[str, bytes], word: str) -> list[str]:
    return [path for path, body in readings.items() if word.encode() in body]


# Who may redact.


def test_sender_redacts_their_own(alice: Client, bob: Client, room: str) -> None:
    """RED-1."""
    bob.join(room)
    event_id = bob.send(room, OFFENCE)
    bob.redact(room, event_id)
    assert alice.event(event_id)["content"] == {}


def test_operator_redacts_what_others_said(alice: Client, bob: Client, room: str) -> None:
    """RED-1: whoever has the redact level, though it be lower than the sender's power."""
    bob.join(room)
    event_id = alice.send(room, OFFENCE)
    alice.give_power(room, {bob.user_id: 50})
    bob.redact(room, event_id)
    assert alice.event(event_id)["content"] == {}


def test_others_do_not_redact(alice: Client, bob: Client, carol: Client, room: str) -> None:
    """RED-1: neither members without the level nor strangers."""
    carol.join(room)
    event_id = carol.send(room, "fine words")
    bob.join(room)
    alice.set_state(room, "m.room.power_levels", {alice.user_id: 100, bob.user_id: 49})
    with forbidden():
        bob.redact(room, event_id)
    bob.leave(room)
    with forbidden():
        bob.redact(room, event_id)
    own = bob.join(room) and bob.send(room, "my own")
    bob.leave(room)
    with forbidden():
        bob.redact(room, own)
    assert alice.event(event_id)["content"]["body"] == "fine words"
    assert alice.event(own)["content"]["body"] == "my own"


def test_redaction_can_be_sent_as_the_event_it_is(alice: Client, bob: Client, room: str) -> None:
    """RED-1."""
    bob.join(room)
    event_id = bob.send(room, OFFENCE)
    redaction = alice.send_event(room, "m.room.redaction", {"redacts": event_id, "reason": "not nice"})
    event = bob.event(event_id)
    assert event["content"] == {}
    assert event["redacted_because"]["event_id"] == redaction
    assert bob.event(redaction)["redacts"] == event_id


def test_redaction_sent_as_a_message_obeys_the_same_rules(alice: Client, bob: Client, room: str) -> None:
    """RED-1."""
    bob.join(room)
    event_id = alice.send(room, "fine words")
    for content in ({"redacts": event_id}, {"reason": "none"}, {"redacts": event_id, "reason": "none"}):
        bob.request("POST", f"/rooms/{room}/send/m.room.redaction", content)
        bob.request("POST", f"/rooms/{room}/send/m.room.redaction?redacts={quote(event_id)}", content)
    assert alice.event(event_id)["content"]["body"] == "fine words"


def test_power_in_one_room_is_none_in_another(alice: Client, bob: Client, room: str) -> None:
    """RED-1."""
    bob.join(room)
    event_id = alice.send(room, "fine words")
    bobs_room = bob.create_room()
    answer = bob.request("POST", f"/rooms/{bobs_room}/redact/{quote(event_id)}", {})
    assert answer.status in (403, 404)
    assert "redacted_because" not in alice.event(event_id)
    assert alice.event(event_id)["content"]["body"] == "fine words"


def test_unknown_event_cannot_be_redacted(alice: Client, room: str) -> None:
    """RED-1."""
    before = ids(alice.history(room))
    for event_id in ("$nothing:localhost", f"$nothing:{alice.server.name}", "$nothing:elsewhere.org"):
        answer = alice.request("POST", f"/rooms/{room}/redact/{quote(event_id)}", {})
        assert answer.status in (403, 404)
    assert ids(alice.history(room)) == before


@pytest.mark.parametrize("reason", [5, [], {}])
def test_reason_is_text(alice: Client, room: str, reason: object) -> None:
    """EVT-2."""
    event_id = alice.send(room, "fine words")
    with bad_json():
        alice.call("POST", f"/rooms/{room}/redact/{quote(event_id)}", {"reason": reason})
    assert alice.event(event_id)["content"]["body"] == "fine words"


# What remains.


def test_redacted_message_is_bare_wherever_it_is_read(alice: Client, bob: Client, room: str) -> None:
    """RED-2."""
    bob.join(room)
    since = bob.present()
    event_id = alice.send(room, OFFENCE)
    assert len(_appearances(_readings(bob, room, event_id, since), OFFENCE)) == 6, "it is seen before"
    redaction = alice.redact(room, event_id, "not nice")
    readings = _readings(bob, room, event_id, since)
    assert _appearances(readings, OFFENCE) == []

    seen = [bob.event(event_id), *bob.events(since)["chunk"], *bob.history(room)]
    seen += bob.synced_rooms()[room]["messages"]["chunk"]
    copies = [event for event in seen if event["event_id"] == event_id]
    assert len(copies) == 4
    for copy in copies:
        assert set(copy) <= KEPT
        assert (copy["type"], copy["user_id"], copy["room_id"]) == ("m.room.message", alice.user_id, room)
        assert copy["content"] == {}
        because = copy["redacted_because"]
        assert (because["event_id"], because["type"]) == (redaction, "m.room.redaction")
        assert because["content"] | {"redacts": event_id} == {"reason": "not nice", "redacts": event_id}
        assert because["user_id"] == alice.user_id


def test_redaction_arrives_as_an_event_that_names_what_it_redacts(alice: Client, bob: Client, room: str) -> None:
    """RED-1, EVS-10."""
    bob.join(room)
    event_id = alice.send(room, OFFENCE)
    since = bob.present()
    redaction = alice.redact(room, event_id, "not nice")
    [event] = bob.events(since)["chunk"]
    assert (event["event_id"], event["type"], event["redacts"]) == (redaction, "m.room.redaction", event_id)
    assert event["content"] | {"redacts": event_id} == {"reason": "not nice", "redacts": event_id}
    assert "state_key" not in event


STATE: list[tuple[str, Json, Json]] = [
    ("m.room.topic", {"topic": OFFENCE}, {}),
    ("m.room.name", {"name": OFFENCE}, {}),
    ("org.example.state", {"word": OFFENCE}, {}),
    ("m.room.join_rules", _with_content({"join_rule": "public"}), {"join_rule": "public"}),
]
STATE_OF_2014: list[tuple[str, Json, Json]] = [
    ("m.room.add_state_level", _with_content({"level": 60}), {"level": 60}),
    ("m.room.send_event_level", _with_content({"level": 0}), {"level": 0}),
    (
        "m.room.ops_levels",
        _with_content({"kick_level": 40, "ban_level": 50, "redact_level": 60}),
        {"kick_level": 40, "ban_level": 50, "redact_level": 60},
    ),
]


@pytest.mark.parametrize(("event_type", "content", "left"), STATE)
def test_redacted_state_keeps_what_the_room_needs(
    alice: Client, room: str, event_type: str, content: Json, left: Json
) -> None:
    """RED-2."""
    _leaves_when_redacted(alice, room, event_type, content, left)


@of_2014
@pytest.mark.parametrize(("event_type", "content", "left"), STATE_OF_2014)
def test_redacted_levels_stay(alice: Client, room: str, event_type: str, content: Json, left: Json) -> None:
    """RED-2."""
    _leaves_when_redacted(alice, room, event_type, content, left)


def _leaves_when_redacted(alice: Client, room: str, event_type: str, content: Json, left: Json) -> None:
    since = alice.present()
    event_id = alice.set_state(room, event_type, content)
    assert _appearances(_readings(alice, room, event_id, since), OFFENCE)
    alice.redact(room, event_id)
    assert _appearances(_readings(alice, room, event_id, since), OFFENCE) == []
    assert alice.state_content(room, event_type) == left
    event = alice.state_event(room, event_type)
    assert (event["event_id"], event["state_key"]) == (event_id, "")
    assert event["redacted_because"]["type"] == "m.room.redaction"
    assert set(event) <= KEPT


def test_redacted_power_levels_keep_their_force(
    alice: Client, bob: Client, carol: Client, room: str, room_version: str
) -> None:
    """RED-2."""
    bob.join(room)
    carol.join(room)
    alice.give_power(room, {bob.user_id: 50})
    levels = alice.state_content(room, "m.room.power_levels")
    alice.redact(room, alice.state_event(room, "m.room.power_levels")["event_id"])
    # Until room version 10 it is forgotten what inviting takes.
    forgotten = {"invite"} if room_version == "6" else set()
    kept = {key: value for key, value in levels.items() if key not in forgotten}
    assert alice.state_content(room, "m.room.power_levels") == kept
    bob.kick(room, carol)
    alice.send(room, "still the creator")


def test_redacted_membership_keeps_the_membership_alone(alice: Client, bob: Client, room: str) -> None:
    """RED-2: and the member."""
    since = alice.present()
    bob.join(room)
    content = {"membership": "join", "displayname": OFFENCE, "avatar_url": f"http://localhost/{OFFENCE}"}
    event_id = bob.set_state(room, "m.room.member", content, bob.user_id)
    alice.redact(room, event_id)
    assert _appearances(_readings(alice, room, event_id, since), OFFENCE) == []
    assert alice.state_content(room, "m.room.member", bob.user_id) == {"membership": "join"}
    bob.send(room, "still here")


@of_2014
def test_redacted_aliases_keep_the_aliases(alice: Client, room: str) -> None:
    """RED-2."""
    alias = f"#{room[1:9].lower()}-red:{alice.server.name}"
    alice.call("PUT", f"/directory/room/{quote(alias)}", {"room_id": room})
    alice.redact(room, alice.state_event(room, "m.room.aliases", alice.server.name)["event_id"])
    assert alice.state_content(room, "m.room.aliases", alice.server.name) == {"aliases": [alias]}
    assert alice.call("GET", f"/directory/room/{quote(alias)}")["room_id"] == room


def test_redacted_creation_keeps_the_creator(alice: Client, room: str, room_version: str) -> None:
    """RED-2: the room goes on. Since room version 11 all of it stays, and it is the sender who is the creator."""
    content = alice.state_content(room, "m.room.create")
    alice.redact(room, alice.state_event(room, "m.room.create")["event_id"])
    kept = content if room_version in ("11", "12") else {"creator": alice.user_id}
    assert alice.state_content(room, "m.room.create") == kept
    assert alice.state_event(room, "m.room.create")["user_id"] == alice.user_id
    alice.send(room, "still here")


def test_redacted_state_is_not_shown_by_what_replaced_it(alice: Client, bob: Client, room: str) -> None:
    """RED-2: as `prev_content`, whichever came first."""
    bob.join(room)
    since = bob.present()
    old = alice.set_state(room, "m.room.topic", {"topic": OFFENCE})
    alice.set_state(room, "m.room.topic", {"topic": "nice"})
    assert alice.state_event(room, "m.room.topic")["prev_content"] == {"topic": OFFENCE}
    alice.redact(room, old)
    assert _appearances(_readings(bob, room, old, since), OFFENCE) == []
    assert alice.state_content(room, "m.room.topic") == {"topic": "nice"}

    newer = alice.set_state(room, "m.room.topic", {"topic": OFFENCE})
    alice.redact(room, newer)
    alice.set_state(room, "m.room.topic", {"topic": "nice again"})
    assert _appearances(_readings(bob, room, newer, since), OFFENCE) == []


def test_redacted_reason_of_a_kick_is_gone(alice: Client, bob: Client, room: str) -> None:
    """RED-2: also for the one who was kicked."""
    bob.join(room)
    since = bob.present()
    alice.kick(room, bob, OFFENCE)
    event_id = alice.state_event(room, "m.room.member", bob.user_id)["event_id"]
    assert OFFENCE.encode() in bob.request("GET", f"/events?from={since}&timeout=0").body
    alice.redact(room, event_id)
    assert OFFENCE.encode() not in bob.request("GET", f"/events?from={since}&timeout=0").body
    bob.join(room)
    assert _appearances(_readings(bob, room, event_id, since), OFFENCE) == []


def test_redacted_invitation_is_bare(alice: Client, bob: Client, private_room: str) -> None:
    """RED-2: in what the invited sees, too."""
    since = bob.present()
    content = {"membership": "invite", "reason": OFFENCE}
    event_id = alice.set_state(private_room, "m.room.member", content, bob.user_id)
    alice.redact(private_room, event_id)
    for path in (f"/events?from={since}&timeout=0", "/initialSync"):
        assert OFFENCE.encode() not in bob.request("GET", path).body
    bob.join(private_room)


# It cannot be undone.


def test_redaction_is_not_undone_by_another(alice: Client, room: str) -> None:
    """RED-2: neither by redacting again nor by redacting the redaction."""
    since = alice.present()
    event_id = alice.send(room, OFFENCE)
    redaction = alice.redact(room, event_id, f"because {OFFENCE}-reason")
    alice.redact(room, event_id)
    assert alice.event(event_id)["content"] == {}
    alice.redact(room, redaction)
    event = alice.event(event_id)
    assert event["content"] == {}
    assert event["redacted_because"]
    assert _appearances(_readings(alice, room, event_id, since), OFFENCE) == [], "the reason is gone, too"


@pytest.mark.parametrize("how", [HomeServer.restart, lambda server: (server.kill9(), server.start())])
def test_redacted_data_leaves_the_database(fresh_server: FreshServer, how: Callable[[HomeServer], object]) -> None:
    """RED-2: at once, and it is not back after a restart."""
    server = fresh_server()
    alice, bob = Client(server).register("alice"), Client(server).register("bob")
    room = alice.create_room(visibility="public")
    bob.join(room)
    since = bob.present()
    offences = [alice.send(room, f"{OFFENCE} {number}") for number in range(20)]
    offences += [alice.set_state(room, event_type, {key: OFFENCE}) for event_type, key in (
        ("m.room.topic", "topic"), ("m.room.name", "name"), ("org.example.state", "word")
    )]  # fmt: skip
    bob.events(since)
    bob.history(room)
    assert databases.contains(server.database, server.data_dir, OFFENCE), "it is there before"
    for event_id in offences:
        alice.redact(room, event_id)
    assert not databases.contains(server.database, server.data_dir, OFFENCE)
    how(server)
    assert not databases.contains(server.database, server.data_dir, OFFENCE)
    for event_id in offences:
        assert _appearances(_readings(bob, room, event_id, since), OFFENCE) == []


# PostgreSQL overwrites deleted rows when it vacuums, in its own time.
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True, scope="session")
def test_redacted_data_leaves_the_files_of_sqlite(fresh_server: FreshServer) -> None:
    """RED-2: not only the tables; whoever finds the disk finds nothing."""
    server = fresh_server()
    alice = Client(server).register("alice")
    room = alice.create_room()
    messages = [alice.send(room, f"{OFFENCE} {number}") for number in range(20)]
    messages.append(alice.set_state(room, "m.room.topic", {"topic": OFFENCE}))
    assert databases.files_contain(server.data_dir, OFFENCE), "it is there before"
    for event_id in messages:
        alice.redact(room, event_id)
    assert not databases.files_contain(server.data_dir, OFFENCE)
    server.restart()
    assert not databases.files_contain(server.data_dir, OFFENCE)
    server.terminate()
    assert not databases.files_contain(server.data_dir, OFFENCE)


def test_redactions_of_redactions_do_not_pile_up_in_what_is_read(alice: Client, bob: Client, room: str) -> None:
    """RED-2, SEC-1: a member who redacts their own redactions for ever must not spoil the room for the others."""
    bob.join(room)
    target = bob.send(room, "the first of many")
    first = target
    for _ in range(300):
        target = bob.redact(room, target)
    shown = alice.event(first)
    assert shown["redacted_because"]["type"] == "m.room.redaction"
    assert "redacted_because" not in shown["redacted_because"]
    assert len(alice.messages(room, limit=400)["chunk"]) > 300
    assert alice.initial_sync()["rooms"]
