"""Who types is told to those in the room, and to nobody else (TYP-1, EVS-2)."""

from __future__ import annotations

import time

from tests.scenarios.conftest import FreshServer, People, Unique, any_process
from tests.support.client import Client, Json, bad_json, forbidden, quote
from tests.support.processes import wait_until


def types(client: Client, room: str, typing: bool = True, **body: object) -> None:
    path = f"/rooms/{quote(room)}/typing/{quote(client.user_id)}"
    client.call("PUT", path, {"typing": typing, **body})


def typing_in(events: list[Json]) -> list[Json]:
    return [event for event in events if event["type"] == "m.typing"]


@any_process
def test_typing_wakes_the_others_and_is_told_once(alice: Client, bob: Client, room: str) -> None:
    bob.join(room)
    poll = bob.poll(bob.present(), timeout=60_000)
    types(alice, room)
    page = poll.json()
    assert page["chunk"] == [{"type": "m.typing", "room_id": room, "content": {"user_ids": [alice.user_id]}}]
    assert bob.events(page["end"])["chunk"] == []
    types(alice, room)
    assert bob.events(page["end"])["chunk"] == [], "still typing is no news"
    types(alice, room, False)
    page = bob.events(page["end"], timeout=5000)
    assert [event["content"] for event in page["chunk"]] == [{"user_ids": []}]
    assert bob.events(page["end"])["chunk"] == []


@any_process
def test_typing_ends_by_itself(alice: Client, bob: Client, room: str) -> None:
    bob.join(room)
    since = bob.present()
    types(alice, room, timeout=300)
    page = bob.events(since, timeout=5000)
    assert page["chunk"][0]["content"] == {"user_ids": [alice.user_id]}
    started = time.monotonic()
    page = bob.events(page["end"], timeout=10_000)
    assert page["chunk"][0]["content"] == {"user_ids": []}
    assert time.monotonic() - started < 5


@any_process
def test_only_those_in_the_room_see_it(alice: Client, people: People, private_room: str) -> None:
    """A matrix: whoever is not joined sees nothing, whatever they were or may become."""
    names = ("member", "invited", "left", "banned", "kicked", "stranger")
    member, invited, left, banned, kicked, _ = everybody = [people(name) for name in names]
    for user in (member, left, banned, kicked):
        alice.invite(private_room, user)
        user.join(private_room)
    left.leave(private_room)
    alice.ban(private_room, banned)
    alice.kick(private_room, kicked)
    alice.invite(private_room, invited)
    lobby = alice.create_room(visibility="public")
    for user in everybody:
        user.join(lobby)
    since = {user.user_id: user.present() for user in everybody}
    types(alice, private_room)
    types(alice, lobby)

    def rooms_seen(user: Client) -> set[str]:
        """Where somebody types, as the user has seen when the last that was said has come."""
        token, seen = since[user.user_id], set[str]()
        while lobby not in seen:
            page = user.events(token, timeout=5000)
            assert page["chunk"], "it never comes"
            seen |= {event["room_id"] for event in typing_in(page["chunk"])}
            token = page["end"]
        return seen

    seen = {name: rooms_seen(user) for name, user in zip(names, everybody, strict=True)}
    assert [name for name in names if private_room in seen[name]] == ["member"]


@any_process
def test_who_comes_in_is_told_who_types(alice: Client, bob: Client, room: str) -> None:
    since = bob.present()
    types(alice, room)
    bob.join(room)
    seen: list[Json] = []
    # What another process has heard may come a moment after the join that is bob's own.
    while not seen:
        page = bob.events(since, timeout=5000)
        assert page["chunk"], "it never comes"
        seen, since = typing_in(page["chunk"]), page["end"]
    assert seen == [{"type": "m.typing", "room_id": room, "content": {"user_ids": [alice.user_id]}}]


@any_process
def test_who_leaves_types_no_more(alice: Client, bob: Client, room: str) -> None:
    bob.join(room)
    since = alice.present()
    types(bob, room)
    page = alice.events(since, timeout=5000)
    bob.leave(room)
    seen: list[Json] = []

    def has_stopped() -> bool:
        nonlocal page
        page = alice.events(page["end"], timeout=1000)
        seen.extend(typing_in(page["chunk"]))
        return bool(seen)

    wait_until("the end of it", has_stopped)
    assert [event["content"]["user_ids"] for event in seen] == [[]]


def test_one_types_for_oneself_and_where_one_is(alice: Client, bob: Client, room: str) -> None:
    path = f"/rooms/{quote(room)}/typing/"
    with forbidden():
        bob.call("PUT", path + quote(bob.user_id), {"typing": True})
    bob.join(room)
    with forbidden():
        bob.call("PUT", path + quote(alice.user_id), {"typing": True})
    with forbidden():
        bob.call("PUT", f"/rooms/{quote('!none:nowhere')}/typing/{quote(bob.user_id)}", {"typing": True})


def test_malformed_bodies_are_refused(alice: Client, room: str) -> None:
    path = f"/rooms/{quote(room)}/typing/{quote(alice.user_id)}"
    for body in (
        {},
        {"typing": "yes"},
        {"typing": 1},
        {"typing": True, "timeout": -1},
        {"typing": True, "timeout": "x"},
    ):
        with bad_json():
            alice.call("PUT", path, body)


def test_restart_forgets_who_typed_and_tells_so(fresh_server: FreshServer, unique: Unique) -> None:
    """A token from before works: no error, no event lost, and nobody types for ever."""
    server = fresh_server()
    alice, bob = (Client(server).register(unique(name)) for name in ("alice", "bob"))
    room = alice.create_room(visibility="public")
    bob.join(room)
    since = bob.present()
    types(alice, room)
    page = bob.events(since, timeout=5000)
    sent = alice.send(room, "before the power cut")
    server.kill9()
    server.start()
    seen, end = bob.events_until(page["end"], sent)
    assert [event["content"]["user_ids"] for event in typing_in(seen)] == [[]]
    assert bob.events(end)["chunk"] == []
