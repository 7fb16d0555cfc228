"""Profiles of people on other servers."""

from __future__ import annotations

import pytest

from tests.scenarios.federation.conftest import Meet, each_version
from tests.support.client import Client, Json, not_found, quote, refused
from tests.support.federation import Federation, wait_until_agree, whole_history
from tests.support.processes import wait_until

AVATAR = "http://example.org/fish.png"


def member(client: Client, room: str, user: Client) -> Json:
    """What a room knows of somebody, as somebody's server has it."""
    return dict(client.state_content(room, "m.room.member", user.user_id))


def test_profile_is_fetched_from_its_own_server(alice: Client, bob: Client) -> None:
    """PROF-1, PROF-3, EVS-9."""
    assert bob.profile(alice) == {}
    assert bob.profile_field(alice, "displayname") == {}
    alice.tell("displayname", "Alice ☃")
    alice.tell("avatar_url", AVATAR)
    alice.tell("age", 36, "public")
    for options in ({}, {"token": ""}):
        assert bob.profile(alice, **options) == {"displayname": "Alice ☃", "avatar_url": AVATAR, "age": 36}
        assert bob.profile_field(alice, "displayname", **options) == {"displayname": "Alice ☃"}
        assert bob.profile_field(alice, "age", **options) == {"age": 36}


@pytest.mark.parametrize("visibility", ["shared-rooms", "presence-list", "private"])
def test_what_is_not_public_stays_on_its_server(alice: Client, bob: Client, meet: Meet, visibility: str) -> None:
    """PROF-3, SEC-11: also if the two share a room, since a server does not say for whom it asks."""
    meet(alice, bob)
    alice.tell("age", 36, visibility)
    assert bob.profile(alice) == {}
    with not_found():
        bob.profile_field(alice, "age")


def test_who_is_not_there_has_no_profile(alice: Client, bob: Client) -> None:
    """PROF-1."""
    with not_found():
        bob.call("GET", f"/profile/{quote(f'@nobody:{alice.server.name}')}")


def test_profile_of_a_server_that_is_down_is_not_to_be_had(three: Federation, alice: Client, bob: Client) -> None:
    """PROF-1."""
    three.cut(alice.server)
    with refused(502, "M_UNREACHABLE"):
        bob.profile(alice)


@each_version
def test_changed_name_reaches_other_servers_once(alice: Client, bob: Client, meet: Meet, version: str) -> None:
    """PROF-2: and the joins of remote rooms show name and avatar, too."""
    bob.tell("displayname", "Bob")
    room = meet(alice, bob, room_version=version)
    assert member(alice, room, bob) == {"membership": "join", "displayname": "Bob"}
    bob.tell("displayname", "Robert")
    wait_until("the name", lambda: member(alice, room, bob) == {"membership": "join", "displayname": "Robert"})
    bob.tell("avatar_url", AVATAR)
    wait_until("the avatar", lambda: member(alice, room, bob).get("avatar_url") == AVATAR)
    wait_until_agree(room, alice, bob)
    assert len([event for event in whole_history(alice, room) if event.get("state_key") == bob.user_id]) == 3


def test_name_is_shown_when_an_invite_is_turned_down(alice: Client, bob: Client) -> None:
    """PROF-2."""
    bob.tell("displayname", "Bob")
    room = alice.create_room()
    alice.invite(room, bob)
    wait_until("the invite", lambda: bob.synced_rooms().get(room))
    bob.leave(room)
    wait_until("the leave", lambda: alice.members(room)[bob.user_id] == "leave")
    assert member(alice, room, bob) == {"membership": "leave", "displayname": "Bob"}


def test_name_changes_where_somebody_else_let_one_in(alice: Client, bob: Client, meet: Meet) -> None:
    """PROF-2: the word of the server that vouched for the join is not repeated, since it would have to sign again."""
    club = meet(alice, bob)
    rule = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": club}]}
    room = alice.create_room(room_version="11")
    alice.set_state(room, "m.room.join_rules", rule)
    bob.join(room)
    assert "join_authorised_via_users_server" in member(alice, room, bob)
    bob.tell("displayname", "Bob")
    wait_until("the name", lambda: member(alice, room, bob) == {"membership": "join", "displayname": "Bob"})
