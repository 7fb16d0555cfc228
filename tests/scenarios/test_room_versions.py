"""Rooms of every version, side by side on one server, through API v1."""

from __future__ import annotations

import pytest

from tests.scenarios.conftest import FreshServer
from tests.support.client import Client, bad_json, forbidden

VERSIONS = ("spec-2014", *map(str, range(1, 13)))
every_version = pytest.mark.parametrize("version", VERSIONS)


@every_version
def test_room_is_made_joined_talked_in_redacted_and_read(
    alice: Client, bob: Client, carol: Client, version: str
) -> None:
    """ROOM-1, MEM-1, RED-2."""
    room = alice.create_room(room_version=version, name="Tea", topic="Cake", invite=[bob.user_id])
    with forbidden():
        carol.join(room)
    bob.join(room)
    with forbidden():
        bob.set_state(room, "m.room.name", {"name": "Coffee"})
    alice.set_state(room, "m.room.name", {"name": "Coffee"})
    said = bob.send(room, "something to regret")
    redaction = bob.redact(room, said)
    assert alice.state_content(room, "m.room.name") == {"name": "Coffee"}
    assert alice.state_content(room, "m.room.topic") == {"topic": "Cake"}
    shown = alice.event(said)
    assert shown["content"] == {}
    assert shown["redacted_because"]["event_id"] == redaction
    assert alice.event(redaction)["redacts"] == said
    renamed = alice.state_event(room, "m.room.name")
    assert renamed["prev_content"] == {"name": "Tea"}
    assert [entry["room_id"] for entry in bob.initial_sync()["rooms"]] == [room]


@every_version
def test_order_is_kept_by_those_with_power_only(alice: Client, bob: Client, carol: Client, version: str) -> None:
    """MEM-3, RED-1."""
    room = alice.create_room(room_version=version, visibility="public")
    bob.join(room)
    carol.join(room)
    for action in (bob.kick, bob.ban):
        with forbidden():
            action(room, carol)
    said = carol.send(room, "mine")
    with forbidden():
        bob.redact(room, said)
    alice.redact(room, said)
    alice.kick(room, carol)
    carol.join(room)
    alice.ban(room, carol)
    with forbidden():
        carol.join(room)
    alice.unban(room, carol)
    carol.join(room)
    assert alice.members(room) == {alice.user_id: "join", bob.user_id: "join", carol.user_id: "join"}


def test_rooms_of_every_version_survive_a_restart(fresh_server: FreshServer) -> None:
    """ROOM-1."""
    server = fresh_server()
    alice = Client(server).register("alice")
    rooms = {version: alice.create_room(name="Before", room_version=version) for version in VERSIONS}
    before = {version: alice.send(room, "before") for version, room in rooms.items()}
    server.restart()
    for version, room in rooms.items():
        after = alice.send(room, "after")
        newest = [event["event_id"] for event in alice.messages(room, limit=2)["chunk"]]
        assert newest == [after, before[version]]
        explained = server.command("explain-state", room, "m.room.name")
        assert explained.returncode == 0, explained.stderr
        assert f"has room version {version}." in explained.stdout
        assert "Nothing is in conflict." in explained.stdout
        assert f"m.room.member '{alice.user_id}'" in explained.stdout


def test_version_that_nobody_knows_is_refused(alice: Client) -> None:
    """ROOM-1."""
    with bad_json():
        alice.create_room(room_version="99")
