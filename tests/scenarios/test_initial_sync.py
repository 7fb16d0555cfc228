"""What a client finds when it starts."""

from __future__ import annotations

import pytest

from tests.scenarios.conftest import every_room_version
from tests.support.client import Client, forbidden, ids, quote, refused, texts

pytestmark = every_room_version


def test_user_without_rooms_finds_none(alice: Client, bob: Client, room: str) -> None:
    """EVS-4."""
    sync = bob.initial_sync()
    assert set(sync) >= {"end", "presence", "rooms"}
    assert sync["rooms"] == []
    assert isinstance(sync["presence"], list)
    assert isinstance(sync["end"], str)


def test_joined_room_is_shown_with_its_state_and_latest_events(alice: Client, bob: Client, room: str) -> None:
    """EVS-4."""
    bob.join(room)
    alice.set_state(room, "m.room.topic", {"topic": "old"})
    alice.send(room, "one")
    alice.set_state(room, "m.room.topic", {"topic": "new"})
    alice.send(room, "two")
    [synced] = bob.initial_sync(limit=3)["rooms"]
    assert set(synced) == {"room_id", "membership", "messages", "state", "visibility"}
    assert (synced["room_id"], synced["membership"], synced["visibility"]) == (room, "join", "public")
    messages = synced["messages"]
    assert set(messages) == {"start", "end", "chunk"}
    assert [event["type"] for event in messages["chunk"]] == ["m.room.message", "m.room.topic", "m.room.message"]
    assert texts(messages["chunk"]) == ["one", "two"], "oldest first"
    assert all(event["room_id"] == room for event in messages["chunk"])
    state = {(event["type"], event["state_key"]): event["content"] for event in synced["state"]}
    assert state["m.room.topic", ""] == {"topic": "new"}
    assert state["m.room.member", alice.user_id]["membership"] == "join"
    assert state["m.room.member", bob.user_id]["membership"] == "join"
    assert len(state) == len(synced["state"]) == len(bob.state(room))
    assert {"m.room.create", "m.room.power_levels", "m.room.join_rules"} <= {event_type for event_type, _ in state}


@pytest.mark.parametrize("limit", [1, 2, 5, 50])
def test_as_many_events_are_shown_as_were_asked_for(alice: Client, room: str, limit: int) -> None:
    """EVS-4: of each room, unless it has fewer."""
    for number in range(7):
        alice.send(room, str(number))
    elsewhere = alice.create_room()
    for number in range(3):
        alice.send(elsewhere, str(number))
    rooms = {synced["room_id"]: synced for synced in alice.initial_sync(limit=limit)["rooms"]}
    for room_id in (room, elsewhere):
        chunk = rooms[room_id]["messages"]["chunk"]
        everything = ids(alice.history(room_id))
        assert ids(chunk) == everything[-limit:]


def test_invited_room_shows_who_invited_and_nothing_of_itself(alice: Client, bob: Client) -> None:
    """EVS-4."""
    room = alice.create_room(name="Secret society", invite=[bob.user_id])
    alice.send(room, "bob does not hear this")
    expected = {"room_id": room, "membership": "invite", "inviter": alice.user_id}
    assert bob.initial_sync()["rooms"] == [expected]
    assert b"Secret society" not in bob.request("GET", "/initialSync").body


def test_rooms_one_has_left_do_not_appear(alice: Client, bob: Client, room: str, private_room: str) -> None:
    """EVS-4, ROOM-8: whether one went, was sent away, or never came."""
    bob.join(room)
    bob.leave(room)
    assert bob.initial_sync()["rooms"] == []
    bob.join(room)
    alice.kick(room, bob)
    assert bob.initial_sync()["rooms"] == []
    alice.ban(room, bob)
    assert bob.initial_sync()["rooms"] == []
    alice.invite(private_room, bob)
    bob.leave(private_room)
    assert bob.initial_sync()["rooms"] == []


def test_stream_goes_on_where_initial_sync_ended(alice: Client, bob: Client, room: str) -> None:
    """EVS-4, EVS-1."""
    bob.join(room)
    before = alice.send(room, "before")
    sync = bob.initial_sync(limit=50)
    after = alice.send(room, "after")
    assert ids(sync["rooms"][0]["messages"]["chunk"])[-1] == before
    page = bob.events(sync["end"])
    assert ids(page["chunk"]) == [after]
    assert page["start"] == sync["end"]


def test_pages_go_on_where_initial_sync_began(alice: Client, room: str) -> None:
    """EVS-4, EVS-6: back from `start`, on from `end`, without gap or repeat."""
    for number in range(6):
        alice.send(room, str(number))
    everything = ids(alice.history(room))
    for messages in (
        alice.initial_sync(limit=4)["rooms"][0]["messages"],
        alice.room_initial_sync(room, limit=4)["messages"],
    ):
        older = alice.messages(room, dir="b", from_=messages["start"], limit=1000)
        assert ids(older["chunk"])[::-1] + ids(messages["chunk"]) == everything
        assert alice.messages(room, dir="f", from_=messages["end"])["chunk"] == []
    later = alice.send(room, "later")
    assert ids(alice.messages(room, dir="f", from_=messages["end"])["chunk"]) == [later]


@pytest.mark.parametrize("limit", ["-1", "many", "1.5", "9" * 30])
def test_limit_that_is_none_is_refused(alice: Client, room: str, limit: str) -> None:
    """EVS-4."""
    for path in ("/initialSync", f"/rooms/{room}/initialSync"):
        with refused(400, "M_BAD_PAGINATION"):
            alice.call("GET", path, limit=limit)


def test_one_room_is_shown_as_among_all(alice: Client, bob: Client, room: str) -> None:
    """EVS-5: and with the presence of its members."""
    bob.join(room)
    alice.send(room, "hello")
    one = bob.room_initial_sync(room, limit=5)
    [among_all] = bob.initial_sync(limit=5)["rooms"]
    assert isinstance(one["presence"], list)
    for key in ("room_id", "membership", "visibility"):
        assert one[key] == among_all[key]
    assert ids(one["messages"]["chunk"]) == ids(among_all["messages"]["chunk"])
    assert len(one["messages"]["chunk"]) == 5
    assert sorted(ids(one["state"])) == sorted(ids(among_all["state"]))


def test_room_is_shown_to_its_members_only(alice: Client, bob: Client, carol: Client, room: str) -> None:
    """EVS-5: a room one may not see is as one that is not there."""
    path = f"/rooms/{quote(room)}/initialSync"
    unseen = bob.request("GET", path)
    unknown = bob.request("GET", f"/rooms/{quote('!nowhere:' + bob.server.name)}/initialSync")
    assert (unseen.status, unseen.json["errcode"]) == (403, "M_FORBIDDEN")
    assert (unknown.status, unknown.body) == (unseen.status, unseen.body)
    bob.join(room)
    assert bob.room_initial_sync(room)["membership"] == "join"
    bob.leave(room)
    with forbidden():
        bob.room_initial_sync(room)
    alice.invite(room, carol)
    with forbidden():
        carol.room_initial_sync(room)
