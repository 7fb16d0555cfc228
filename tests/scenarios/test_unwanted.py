"""Ignored users, and invites that one does not take (SEC-9), on one server."""

from __future__ import annotations

import time

import pytest

from tests.scenarios.conftest import FreshServer, People
from tests.scenarios.test_typing import types, typing_in
from tests.support.client import ApiError, Client, Json, Pipeline, ids, quote, refused, texts
from tests.support.presence import presence_in, set_status


def ignore(client: Client, *others: Client) -> None:
    client.call("PUT", "/account/ignored_users", {"ignored_users": [other.user_id for other in others]})


def take_invites_of(client: Client, whom: str) -> None:
    client.call("PUT", "/account/invite_policy", {"policy": whom})


def invited_to(client: Client) -> list[str]:
    """The rooms that a client sees itself invited to when it begins."""
    rooms = client.call("GET", "/initialSync", limit=0)["rooms"]
    return [room["room_id"] for room in rooms if room["membership"] == "invite"]


def invites_in(events: list[Json], client: Client) -> list[Json]:
    return [event for event in events if event.get("state_key") == client.user_id]


def test_ignore_list_is_kept_and_checked(alice: Client, bob: Client) -> None:
    """SEC-9: one's own list, whole each time; nonsense is refused."""
    assert alice.call("GET", "/account/ignored_users") == {"ignored_users": []}
    alice.call("PUT", "/account/ignored_users", {"ignored_users": [bob.user_id.upper().replace("@BOB", "@bob")]})
    assert alice.call("GET", "/account/ignored_users") == {"ignored_users": [bob.user_id]}
    assert bob.call("GET", "/account/ignored_users") == {"ignored_users": []}
    for wrong in (["bob"], [alice.user_id], [f"@u{n}:x.org" for n in range(1001)], "all", [1]):
        with refused(400, "M_BAD_JSON"):
            alice.call("PUT", "/account/ignored_users", {"ignored_users": wrong})
    assert alice.call("GET", "/account/ignored_users") == {"ignored_users": [bob.user_id]}
    ignore(alice)
    assert alice.call("GET", "/account/ignored_users") == {"ignored_users": []}


def test_messages_of_ignored_users_are_not_streamed(alice: Client, bob: Client, carol: Client, room: str) -> None:
    """SEC-9: not while a poll waits, nor afterwards; others' messages and state are."""
    bob.join(room)
    carol.join(room)
    since = alice.present()
    poll = alice.poll(since)
    ignore(alice, bob)
    bob.send(room, "spam")
    bob.set_state(room, "m.room.member", {"membership": "join", "displayname": "Bob the Spammer"}, bob.user_id)
    sent = carol.send(room, "hello")
    first = poll.json()["chunk"]
    seen, _ = alice.events_until(since, sent)
    for events in (first, seen):
        assert "spam" not in texts(events)
    assert any(event["content"].get("displayname") == "Bob the Spammer" for event in seen)
    heard = carol.events(since)["chunk"]
    assert texts(heard) == ["spam", "hello"]
    ignore(alice)
    assert texts(alice.events(since)["chunk"]) == ["spam", "hello"]


def test_pages_are_full_though_somebody_is_ignored(alice: Client, bob: Client, room: str) -> None:
    """SEC-9, EVS-10: what is left out does not make a page short, which would say that history has ended."""
    bob.join(room)
    said = []
    for number in range(6):
        said.append(alice.send(room, f"word {number}"))
        for _ in range(30):
            bob.send(room, "spam")
    ignore(alice, bob)
    for direction, expected in (("b", list(reversed(said))), ("f", said)):
        token, paged, pages = None, list[Json](), 0
        while True:
            page = alice.messages(room, dir=direction, limit=2, from_=token)
            paged += page["chunk"]
            pages += 1
            token = page["end"]
            if len(page["chunk"]) < 2:
                break
        own = [event["event_id"] for event in paged if event["type"] == "m.room.message"]
        assert own == expected
        assert pages > 3
    assert "spam" not in texts(alice.room_initial_sync(room, limit=5)["messages"]["chunk"])
    assert len(alice.room_initial_sync(room, limit=5)["messages"]["chunk"]) == 5
    assert "spam" not in texts(alice.synced_rooms()[room]["messages"]["chunk"])
    assert texts(bob.messages(room, dir="b", limit=3)["chunk"]) == ["spam"] * 3


def test_page_is_filled_up_over_several_transactions(alice: Client, bob: Client, room: str) -> None:
    """SEC-9, EVS-10: also where more was said by ignored users than is looked at in one transaction."""
    alice.send(room, "long ago")
    bob.join(room)
    with Pipeline(bob.server) as pipeline:
        for _ in range(30):
            for _ in range(70):
                body = {"msgtype": "m.text", "body": "spam"}
                pipeline.send(bob, "POST", f"/rooms/{quote(room)}/send/m.room.message", body)
            assert {pipeline.answer().status for _ in range(70)} == {200}
    ignore(alice, bob)
    page = alice.messages(room, dir="b", limit=2)
    assert texts(page["chunk"]) == ["long ago"]
    assert len(page["chunk"]) == 2


def test_moderator_who_is_ignored_still_takes_things_away(alice: Client, bob: Client, carol: Client, room: str) -> None:
    """SEC-9: that somebody else's message is gone is told; that an ignored user has redacted their own is not."""
    bob.join(room)
    carol.join(room)
    alice.give_power(room, {bob.user_id: 100})
    ignore(alice, bob)
    of_carol, of_bob = carol.send(room, "rude"), bob.send(room, "spam")
    since = alice.present()
    bob.redact(room, of_bob, "more spam")
    redaction = bob.redact(room, of_carol)
    seen, _ = alice.events_until(since, redaction)
    assert ids(seen) == [redaction]


def test_typing_of_ignored_users_is_not_told(alice: Client, bob: Client, carol: Client, room: str) -> None:
    """SEC-9, TYP-1."""
    bob.join(room)
    carol.join(room)
    ignore(alice, bob)
    since = alice.present()
    types(bob, room)
    page = alice.events(since, timeout=300)
    assert typing_in(page["chunk"]) == []
    types(carol, room)
    [event] = typing_in(alice.events(page["end"], timeout=10_000)["chunk"])
    assert event["content"]["user_ids"] == [carol.user_id]


def test_presence_of_ignored_users_is_not_told(fresh_server: FreshServer) -> None:
    """SEC-9, PRES-1: in the stream and where a client begins."""
    server = fresh_server({"presence.enabled": True})
    alice, bob, carol = (Client(server).register(name) for name in ("alice", "bob", "carol"))
    room = alice.create_room(visibility="public")
    bob.join(room)
    carol.join(room)
    ignore(alice, bob)
    since = alice.present()
    for person in (bob, carol):
        set_status(person, "online", "here I am")
    seen: list[Json] = []
    deadline = time.monotonic() + 20
    while not presence_in(seen, carol):
        assert time.monotonic() < deadline
        page = alice.events(since, timeout=1000)
        seen, since = seen + page["chunk"], page["end"]
    time.sleep(1.5)
    seen += alice.events(since)["chunk"]
    assert presence_in(seen, bob) == []
    for begun in (alice.initial_sync(limit=1), alice.room_initial_sync(room)):
        assert presence_in(begun["presence"], carol)
        assert presence_in(begun["presence"], bob) == []


def test_invites_by_ignored_users_are_dropped(alice: Client, bob: Client) -> None:
    """SEC-9: who invited does not learn it, and who was invited is told nothing, also later."""
    ignore(alice, bob)
    since = alice.present()
    room = bob.create_room()
    bob.invite(room, alice)
    assert bob.members(room)[alice.user_id] == "invite"
    assert alice.events(since, timeout=300)["chunk"] == []
    assert invited_to(alice) == []
    ignore(alice)
    assert invited_to(alice) == []
    bob.kick(room, alice)
    bob.invite(room, alice)
    assert invited_to(alice) == [room]
    ignore(alice, bob)
    assert invited_to(alice) == []


def test_ignored_users_say_nothing_by_kicks_and_bans(alice: Client, bob: Client, carol: Client) -> None:
    """SEC-9: the reason for which an invite is taken back, or somebody banned, would be a message."""
    ignore(alice, bob)
    since = alice.present()
    room = bob.create_room()
    bob.invite(room, alice)
    bob.kick(room, alice, "spam")
    bob.ban(room, alice, "spam")
    bob.unban(room, alice)
    assert alice.events(since, timeout=300)["chunk"] == []
    # Of a room that she is in, or was really invited to, she must know how it stands.
    shared = carol.create_room()
    carol.invite(shared, bob)
    bob.join(shared)
    carol.give_power(shared, {bob.user_id: 60})
    for is_joined in (False, True):
        carol.invite(shared, alice)
        if is_joined:
            alice.join(shared)
        bob.kick(shared, alice)
        memberships = [event["content"]["membership"] for event in invites_in(alice.events(since)["chunk"], alice)]
        assert memberships[-1] == "leave"
    assert memberships == ["invite", "leave", "invite", "join", "leave"]


@pytest.mark.parametrize("way", ["invite", "state", "create", "idempotent"])
def test_invites_are_taken_of_whom_one_says(alice: Client, bob: Client, carol: Client, way: str) -> None:
    """SEC-9: refused with a sentence, whatever way the invite is made."""

    def invite(inviter: Client) -> str:
        if way == "create":
            return inviter.create_room(invite=[alice.user_id])
        room = inviter.create_room()
        body: Json = {"user_id": alice.user_id}
        if way == "invite":
            inviter.call("POST", f"/rooms/{quote(room)}/invite", body)
        elif way == "idempotent":
            inviter.call("PUT", f"/rooms/{quote(room)}/invite/{inviter.new_txn()}", body)
        else:
            inviter.set_state(room, "m.room.member", {"membership": "invite"}, alice.user_id)
        return room

    assert alice.call("GET", "/account/invite_policy") == {"policy": "everyone"}
    expected = [invite(bob)]
    take_invites_of(alice, "nobody")
    with pytest.raises(ApiError) as refusal:
        invite(bob)
    assert (refusal.value.status, refusal.value.errcode) == (403, "M_FORBIDDEN")
    assert refusal.value.sentence == f"{alice.user_id} does not take invites from you."
    shared = alice.create_room(visibility="public")
    bob.join(shared)
    take_invites_of(alice, "shared_rooms")
    expected.append(invite(bob))
    with refused(403, "M_FORBIDDEN"):
        invite(carol)
    take_invites_of(alice, "contacts")
    with refused(403, "M_FORBIDDEN"):
        invite(bob)
    assert sorted(invited_to(alice)) == sorted(expected)
    with refused(400, "M_BAD_JSON"):
        take_invites_of(alice, "friends")
    assert alice.call("GET", "/account/invite_policy") == {"policy": "contacts"}


def test_who_may_not_invite_is_told_nothing_of_the_user(alice: Client, bob: Client, carol: Client, room: str) -> None:
    """SEC-9: the rules of the room come first."""
    take_invites_of(carol, "nobody")
    with pytest.raises(ApiError) as refusal:
        bob.invite(room, carol)
    assert refusal.value.status == 403
    assert "does not take" not in refusal.value.sentence


def test_who_knocks_is_let_in(people: People) -> None:
    """SEC-9: an answer to one's own knock is wanted, whatever one takes else."""
    alice, bob = people("alice"), people("bob")
    take_invites_of(bob, "nobody")
    room = alice.create_room()
    alice.set_state(room, "m.room.join_rules", {"join_rule": "knock"})
    bob.set_state(room, "m.room.member", {"membership": "knock"}, bob.user_id)
    alice.invite(room, bob)
    assert invited_to(bob) == [room]
    assert bob.join(room) == room
