"""Ignored users, and invites that one does not take (SEC-9), between servers."""

from __future__ import annotations

import pytest

from tests.scenarios.conftest import Unique
from tests.scenarios.federation.conftest import Meet, each_version
from tests.scenarios.test_typing import types, typing_in
from tests.scenarios.test_unwanted import ignore, invited_to, take_invites_of
from tests.support.client import ApiError, Client, refused, texts
from tests.support.federation import wait_until_agree
from tests.support.processes import wait_until


@each_version
def test_invite_from_another_server_is_refused(alice: Client, bob: Client, meet: Meet, version: str) -> None:
    """SEC-9: 403 with a sentence, by the server of who was invited; and taken once the user takes it."""
    take_invites_of(bob, "nobody")
    room = alice.create_room(room_version=version)
    with pytest.raises(ApiError) as refusal:
        alice.invite(room, bob)
    assert (refusal.value.status, refusal.value.errcode) == (403, "M_FORBIDDEN")
    assert "does not take invites from you" in refusal.value.sentence
    assert bob.user_id not in alice.members(room)
    with refused(403, "M_FORBIDDEN"):
        alice.set_state(room, "m.room.member", {"membership": "invite"}, bob.user_id)
    assert invited_to(bob) == []
    take_invites_of(bob, "shared_rooms")
    with refused(403, "M_FORBIDDEN"):
        alice.invite(room, bob)
    meet(alice, bob, room_version=version)
    alice.invite(room, bob)
    assert invited_to(bob) == [room]
    assert bob.join(room) == room


def test_invite_by_an_ignored_user_of_another_server_is_dropped(alice: Client, bob: Client) -> None:
    """SEC-9: who invites does not learn that they are ignored; the user is told nothing."""
    ignore(bob, alice)
    since = bob.present()
    room = alice.create_room()
    alice.invite(room, bob)
    assert alice.members(room)[bob.user_id] == "invite"
    assert bob.events(since, timeout=300)["chunk"] == []
    assert invited_to(bob) == []
    ignore(bob)
    other = alice.create_room()
    alice.invite(other, bob)
    assert invited_to(bob) == [other]


def test_invite_into_a_room_that_the_server_is_in_is_not_shown(
    alice: Client, bob: Client, meet: Meet, unique: Unique
) -> None:
    """SEC-9: it stands in the room for everybody, so that no server has another state; the user is not told of it."""
    room = meet(alice, bob)
    dave = Client(bob.server).register(unique("dave"))
    take_invites_of(dave, "nobody")
    since = dave.present()
    alice.invite(room, dave)
    wait_until("the invite", lambda: bob.members(room).get(dave.user_id) == "invite")
    wait_until_agree(room, alice, bob)
    assert dave.events(since, timeout=300)["chunk"] == []
    assert invited_to(dave) == []
    # To have invited somebody once in vain does not help.
    alice.invite(room, dave)
    sent = alice.send(room, "there")
    bob.events_until(since, sent)
    assert invited_to(dave) == []


def test_what_an_ignored_user_of_another_server_says_is_not_told(alice: Client, bob: Client, meet: Meet) -> None:
    """SEC-9: neither in the stream nor in history, nor that they type."""
    room = meet(alice, bob)
    ignore(bob, alice)
    since = bob.present()
    types(alice, room)
    alice.send(room, "spam")
    topic = alice.set_state(room, "m.room.topic", {"topic": "what it is about"})
    seen, _ = bob.events_until(since, topic)
    assert texts(seen) == []
    assert typing_in(seen) == []
    assert texts(bob.history(room)) == []
    wait_until_agree(room, alice, bob)
