"""Reading a room: its history page by page, its members, its state."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.scenarios.conftest import FreshServer, every_room_version
from tests.support.client import Client, Json, forbidden, ids, not_found, quote, texts

pytestmark = every_room_version


def _walk(client: Client, room: str, direction: str, limit: int, since: str | None = None) -> tuple[list[Json], str]:
    """Page through a room until its history ends: all events in the order they came, and the last token."""
    events: list[Json] = []
    while True:
        page = client.messages(room, dir=direction, limit=limit, from_=since)
        assert set(page) == {"start", "end", "chunk"}
        assert len(page["chunk"]) <= limit
        if since is not None:
            assert page["start"] == since
        events += page["chunk"]
        since = page["end"]
        if len(page["chunk"]) < limit:
            return events, str(since)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
def test_history_is_walked_both_ways_without_gap_or_repeat(alice: Client, bob: Client, room: str, limit: int) -> None:
    """EVS-6, EVS-10: over state and messages alike; only the last page is short."""
    began = alice.history(room)
    bob.join(room)
    sent = []
    for number in range(4):
        sent.append(alice.send(room, str(number)))
        sent.append(alice.set_state(room, "m.room.topic", {"topic": str(number)}))
    back, beginning = _walk(bob, room, "b", limit)
    assert back[-1]["type"] == "m.room.create"
    assert ids(back)[: len(sent)] == sent[::-1], "newest first"
    assert len(set(ids(back))) == len(back) == len(began) + 1 + len(sent)
    forth, end = _walk(bob, room, "f", limit, beginning)
    assert ids(forth) == ids(back)[::-1]
    assert bob.messages(room, dir="b", from_=beginning)["chunk"] == []
    assert bob.messages(room, dir="f", from_=end)["chunk"] == []


def test_ten_events_back_from_the_present_are_the_default(alice: Client, room: str) -> None:
    """EVS-6."""
    sent = [alice.send(room, str(number)) for number in range(12)]
    assert ids(alice.messages(room)["chunk"]) == sent[:1:-1]


def test_page_ends_where_it_is_told_to(alice: Client, room: str) -> None:
    """EVS-6: `to` bounds it both ways."""
    alice.send(room, "0")
    first = alice.messages(room, limit=1)["start"]
    between = [alice.send(room, text) for text in ("1", "2", "3")]
    last = alice.messages(room, limit=1)["start"]
    alice.send(room, "4")
    back = alice.messages(room, dir="b", from_=last, to=first, limit=50)
    assert ids(back["chunk"]) == between[::-1]
    forth = alice.messages(room, dir="f", from_=first, to=last, limit=50)
    assert ids(forth["chunk"]) == between
    assert ids(alice.messages(room, dir="f", from_=first, to=last, limit=2)["chunk"]) == between[:2]
    assert alice.messages(room, dir="b", from_=first, to=first)["chunk"] == []


def test_walking_back_is_not_disturbed_by_what_is_said_meanwhile(alice: Client, room: str) -> None:
    """EVS-6."""
    for number in range(8):
        alice.send(room, str(number))
    expected = ids(alice.history(room))
    seen: list[str] = []
    since: str | None = None
    while len(seen) < len(expected):
        page = alice.messages(room, dir="b", limit=3, from_=since)
        seen += ids(page["chunk"])
        since = page["end"]
        alice.send(room, "meanwhile")
    assert seen == expected[::-1]


def test_stream_and_history_have_one_order(alice: Client, bob: Client, room: str) -> None:
    """EVS-6, EVS-1."""
    bob.join(room)
    since = bob.present()
    for number in range(5):
        (alice if number % 2 else bob).send(room, str(number))
    assert ids(bob.events(since)["chunk"]) == ids(bob.history(room))[-5:]


def test_tokens_of_the_stream_are_places_in_history(alice: Client, room: str) -> None:
    """EVS-6: a client that stopped listening can page on from there."""
    since = alice.present()
    event_id = alice.send(room, "hello")
    assert ids(alice.messages(room, dir="f", from_=since)["chunk"]) == [event_id]


def test_member_sees_what_was_said_before_they_came(alice: Client, bob: Client, room: str) -> None:
    """EVS-6: and while they were away."""
    alice.send(room, "before")
    bob.join(room)
    bob.leave(room)
    alice.send(room, "away")
    bob.join(room)
    assert texts(bob.history(room)) == ["before", "away"]


def test_rooms_are_kept_apart(alice: Client, room: str) -> None:
    """EVS-6: also if a token of one is used in another."""
    other = alice.create_room()
    alice.send(other, "over there")
    alice.send(room, "over here")
    token = alice.messages(other, limit=1)["end"]
    for direction in ("b", "f"):
        answer = alice.request("GET", f"/rooms/{quote(room)}/messages", dir=direction, limit=100, **{"from": token})
        assert answer.status in (200, 400)
        if answer.status == 200:
            assert {event["room_id"] for event in answer.json["chunk"]} <= {room}


def test_pages_go_on_after_a_restart(fresh_server: FreshServer) -> None:
    """EVS-6."""
    server = fresh_server()
    alice = Client(server).register("alice")
    room = alice.create_room()
    sent = [alice.send(room, str(number)) for number in range(10)]
    page = alice.messages(room, dir="b", limit=4)
    server.restart()
    assert ids(alice.messages(room, dir="b", limit=6, from_=page["end"])["chunk"]) == sent[5::-1]
    assert ids(alice.messages(room, dir="f", limit=100, from_=page["end"])["chunk"]) == sent[6:]


# Members and state.


def test_members_are_everyone_the_room_knows(alice: Client, bob: Client, carol: Client, room: str) -> None:
    """EVS-7."""
    bob.join(room)
    alice.invite(room, carol)
    answer = alice.call("GET", f"/rooms/{quote(room)}/members")
    assert set(answer) == {"start", "end", "chunk"}
    assert {event["type"] for event in answer["chunk"]} == {"m.room.member"}
    assert {event["state_key"]: event["content"]["membership"] for event in answer["chunk"]} == {
        alice.user_id: "join",
        bob.user_id: "join",
        carol.user_id: "invite",
    }
    bob.leave(room)
    alice.ban(room, carol)
    assert alice.members(room) == {alice.user_id: "join", bob.user_id: "leave", carol.user_id: "ban"}


def test_state_is_a_list_of_what_holds_now(alice: Client, room: str) -> None:
    """EVS-7."""
    began = alice.state(room)
    alice.set_state(room, "m.room.topic", {"topic": "old"})
    new = alice.set_state(room, "m.room.topic", {"topic": "new"})
    other = alice.set_state(room, "m.room.topic", {"topic": "other key"}, "key")
    alice.send(room, "no state")
    state = alice.call("GET", f"/rooms/{quote(room)}/state")
    assert isinstance(state, list)
    topics = {event["state_key"]: event["event_id"] for event in state if event["type"] == "m.room.topic"}
    assert topics == {"": new, "key": other}
    assert all("state_key" in event for event in state)
    assert len(state) == len(began) + 2


def test_piece_of_state_is_its_content_only(alice: Client, room: str) -> None:
    """EVS-7."""
    alice.set_state(room, "m.room.name", {"name": "Room name"})
    assert alice.call("GET", f"/rooms/{room}/state/m.room.name") == {"name": "Room name"}
    assert alice.state_content(room, "m.room.member", alice.user_id)["membership"] == "join"


def test_state_that_was_never_set_is_not_found(alice: Client, room: str) -> None:
    """EVS-7."""
    for event_type, key in (("m.room.topic", None), ("m.room.join_rules", "key"), ("m.room.member", "@nobody:x")):
        with not_found():
            alice.state_content(room, event_type, key)


READERS: dict[str, Callable[[Client, str], object]] = {
    "messages": Client.messages,
    "state": Client.state,
    "members": Client.members,
    "state content": lambda client, room: client.state_content(room, "m.room.create"),
    "absent state content": lambda client, room: client.state_content(room, "m.room.topic"),
    "initial sync": Client.room_initial_sync,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_rooms_are_read_by_their_members_only(
    alice: Client, bob: Client, room: str, read: Callable[[Client, str], object]
) -> None:
    """EVS-6, EVS-7: not by strangers, the invited, those who left or are banned."""
    with forbidden():
        read(bob, room)
    alice.invite(room, bob)
    with forbidden():
        read(bob, room)
    bob.join(room)
    bob.leave(room)
    with forbidden():
        read(bob, room)
    alice.ban(room, bob)
    with forbidden():
        read(bob, room)
    with forbidden():
        read(bob, f"!nowhere:{bob.server.name}")
