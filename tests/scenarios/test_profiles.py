"""Profiles: what people tell of themselves, who may see it, and how rooms hear of it."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from tests.scenarios.conftest import FreshServer, People, every_room_version
from tests.support.client import Client, Json, bad_json, forbidden, not_found, quote, refused
from tests.support.processes import wait_until
from tests.support.server import HomeServer

AVATAR = "http://example.org/fish.png"


def member(client: Client, room: str, user: Client) -> Json:
    """What a room knows of somebody."""
    return dict(client.state_content(room, "m.room.member", user.user_id))


def tellings(client: Client, room: str, user: Client) -> list[Json]:
    """The contents of all m.room.member events about somebody, oldest first."""
    return [without_prev(event) for event in client.history(room) if event.get("state_key") == user.user_id]


def without_prev(event: Json) -> Json:
    """The content of an m.room.member event as it was sent: clients are shown the membership before it, too."""
    return {key: value for key, value in event["content"].items() if key != "prev"}


# Setting and reading.


def test_name_and_avatar_are_there_for_everybody(alice: Client, bob: Client) -> None:
    """PROF-1, EVS-9."""
    alice.tell("displayname", "Alice")
    alice.tell("avatar_url", AVATAR)
    for options in ({}, {"token": ""}):
        for client in (alice, bob):
            assert client.profile(alice, **options) == {"displayname": "Alice", "avatar_url": AVATAR}
            assert client.profile_field(alice, "displayname", **options) == {"displayname": "Alice"}
            assert client.profile_field(alice, "avatar_url", **options) == {"avatar_url": AVATAR}


def test_profile_survives_a_restart(fresh_server: FreshServer) -> None:
    """PROF-1, PROF-3."""
    server = fresh_server({"registration.mode": "open"})
    alice = Client(server).register("alice")
    alice.tell("displayname", "Alice")
    alice.tell("age", 36, "public")
    server.restart()
    assert alice.profile(alice) == {"displayname": "Alice", "age": 36}


@pytest.mark.parametrize(
    "name",
    ["Zoë ☃", "\U0001f9ff" * 250, "مرحبا", "a\u0000b", "  spaces  ", "\u202eevil", "x" * 256, "new\nline", "e\u0301"],
)
def test_any_unicode_can_be_a_name(alice: Client, room: str, name: str) -> None:
    """PROF-1, PROF-2: as it is, in the profile and in the room."""
    alice.tell("displayname", name)
    assert alice.profile_field(alice, "displayname")["displayname"] == name
    assert member(alice, room, alice)["displayname"] == name


@pytest.mark.parametrize("nothing", [None, ""])
@pytest.mark.parametrize("field", ["displayname", "avatar_url"])
def test_name_and_avatar_can_be_taken_away(alice: Client, bob: Client, room: str, field: str, nothing: object) -> None:
    """PROF-1, PROF-2: the rooms are told, too."""
    alice.tell(field, "something")
    alice.tell(field, nothing)
    assert bob.profile(alice) == {}
    assert bob.profile_field(alice, field) == {}
    assert tellings(alice, room, alice) == [
        {"membership": "join"},
        {"membership": "join", field: "something"},
        {"membership": "join"},
    ]


@pytest.mark.parametrize("field", ["displayname", "avatar_url"])
@pytest.mark.parametrize("value", [1, True, ["Alice"], {"name": "Alice"}])
def test_name_and_avatar_are_text(alice: Client, field: str, value: object) -> None:
    """PROF-1."""
    with bad_json():
        alice.tell(field, value)
    assert alice.profile(alice) == {}


def test_what_is_set_must_be_there(alice: Client) -> None:
    """PROF-1, API-3."""
    with bad_json():
        alice.call("PUT", f"/profile/{quote(alice.user_id)}/displayname", {"name": "Alice"})
    with bad_json():
        alice.call("PUT", f"/profile/{quote(alice.user_id)}/displayname", {"displayname": "A", "visibility": "private"})
    with refused(400, "M_NOT_JSON"):
        alice.call("PUT", f"/profile/{quote(alice.user_id)}/displayname", b'{"displayname": "\\ud800"}')
    assert alice.profile(alice) == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [("displayname", "x" * 257), ("displayname", "\U0001f9ff" * 251), ("avatar_url", "x" * 2001), ("age", "x" * 4095)],
)
def test_what_is_too_long_is_refused(alice: Client, field: str, value: str) -> None:
    """PROF-1, PROF-3."""
    with refused(413, "M_TOO_LARGE"):
        alice.tell(field, value)
    assert alice.profile(alice) == {}


def test_profile_has_a_bounded_number_of_fields(alice: Client) -> None:
    """PROF-3: and name and avatar are not counted."""
    for number in range(50):
        alice.tell(f"org.example.{number}", number)
    with refused(413, "M_TOO_LARGE"):
        alice.tell("org.example.more", 1)
    alice.tell("org.example.7", "another value")
    alice.tell("displayname", "Alice")
    alice.call("DELETE", f"/profile/{quote(alice.user_id)}/org.example.8")
    alice.tell("org.example.more", 1)
    assert len(alice.profile(alice)) == 51


def test_others_profiles_are_not_for_setting(alice: Client, bob: Client) -> None:
    """PROF-1, PROF-3."""
    bob.tell("displayname", "Bob")
    for target in (bob.user_id, "@bob:elsewhere.example.org", "@nobody:" + alice.server.name):
        for field in ("displayname", "avatar_url", "age"):
            with forbidden():
                alice.call("PUT", f"/profile/{quote(target)}/{field}", {field: "Mallory"})
            with forbidden():
                alice.call("DELETE", f"/profile/{quote(target)}/{field}")
    with refused(401, "M_MISSING_TOKEN"):
        alice.call("PUT", f"/profile/{quote(alice.user_id)}/displayname", {"displayname": "M"}, token="")
    assert alice.profile(bob) == {"displayname": "Bob"}


def test_who_is_not_there_has_no_profile(alice: Client, server: HomeServer) -> None:
    """PROF-1."""
    for path in ("", "/displayname", "/age"):
        with not_found():
            alice.call("GET", f"/profile/{quote(f'@nobody:{server.name}')}{path}")
    with bad_json():
        alice.call("GET", "/profile/nobody")


def test_false_token_is_refused_though_none_is_needed(alice: Client) -> None:
    """API-2, EVS-9."""
    with refused(401, "M_UNKNOWN_TOKEN"):
        alice.profile(alice, token="false")


# Further fields.


@pytest.mark.parametrize("value", [36, "text", {"lat": 51.5, "name": "London"}, ["+44 1", "+44 2"], False, 2**60])
def test_further_field_holds_any_json(alice: Client, bob: Client, value: object) -> None:
    """PROF-3."""
    for field in ("email", "phone", "website", "age", "location", "org.example.größe"):
        alice.tell(field, value, "public")
        assert bob.profile_field(alice, field) == {field: value}
    assert len(bob.profile(alice)) == 6


def test_further_field_can_be_taken_away(alice: Client) -> None:
    """PROF-3."""
    alice.tell("age", 36, "public")
    for _ in range(2):
        alice.call("DELETE", f"/profile/{quote(alice.user_id)}/age")
    with not_found():
        alice.profile_field(alice, "age")
    alice.tell("age", 36, "public")
    alice.tell("age", None)
    assert alice.profile(alice) == {}


@pytest.mark.parametrize("field", ["visibility", "", "a\nb", "x" * 129, "ü" * 65])
def test_not_everything_names_a_field(alice: Client, field: str) -> None:
    """PROF-3."""
    with bad_json():
        alice.tell(field, "public")
    assert alice.profile(alice) == {}


@pytest.mark.parametrize("visibility", ["everybody", "", 1, ["public"]])
def test_unknown_visibility_is_refused(alice: Client, visibility: object) -> None:
    """PROF-3."""
    with bad_json():
        alice.call("PUT", f"/profile/{quote(alice.user_id)}/age", {"age": 36, "visibility": visibility})
    assert alice.profile(alice) == {}


def test_field_is_private_if_nothing_else_is_said(alice: Client, bob: Client) -> None:
    """PROF-3: also when it was open before."""
    alice.tell("age", 36, "public")
    alice.tell("age", 37)
    assert alice.profile_field(alice, "age") == {"age": 37, "visibility": "private"}
    with not_found():
        bob.profile_field(alice, "age")


@pytest.mark.parametrize("visibility", ["public", "shared-rooms", "presence-list", "private"])
def test_field_is_seen_by_those_it_is_open_to(people: People, visibility: str) -> None:
    """PROF-3, EVS-9: whoever may not see it cannot tell it from one that is not there."""
    alice, friend, guest, former, stranger = (people(n) for n in ("alice", "friend", "guest", "former", "stranger"))
    room = alice.create_room(visibility="public")
    friend.join(room)
    alice.invite(room, guest)
    former.join(room)
    former.leave(room)
    alice.tell("age", 36, visibility)
    open_to = {"public": [friend, guest, former, stranger], "shared-rooms": [friend]}.get(visibility, [])

    assert alice.profile_field(alice, "age") == {"age": 36, "visibility": visibility}
    assert alice.profile(alice) == {"age": 36}
    for observer in (friend, guest, former, stranger):
        if observer in open_to:
            assert observer.profile_field(alice, "age") == {"age": 36}
            assert observer.profile(alice) == {"age": 36}
            continue
        answers = {observer.request("GET", f"/profile/{quote(alice.user_id)}/{f}").status for f in ("age", "aga")}
        assert answers == {404}
        assert observer.profile(alice) == {}
    assert alice.profile(alice, token="") == ({"age": 36} if visibility == "public" else {})
    # Nothing but name and avatar ever stands in a room.
    alice.tell("displayname", "Alice")
    assert member(friend, room, alice) == {"membership": "join", "displayname": "Alice"}


# Rooms are told.


@every_room_version
def test_rooms_are_told_once_of_each_change(alice: Client, bob: Client, room: str) -> None:
    """PROF-2."""
    bob.join(room)
    since = bob.present()
    alice.tell("displayname", "Alice")
    alice.tell("displayname", "Alice")
    alice.tell("avatar_url", AVATAR)
    last = alice.send(room, "done")
    seen, _ = bob.events_until(since, last)
    assert [(event["type"], event["user_id"], without_prev(event)) for event in seen[:-1]] == [
        ("m.room.member", alice.user_id, {"membership": "join", "displayname": "Alice"}),
        ("m.room.member", alice.user_id, {"membership": "join", "displayname": "Alice", "avatar_url": AVATAR}),
    ]


def test_only_rooms_that_one_is_in_are_told(alice: Client, bob: Client) -> None:
    """PROF-2."""
    left, invited, banned = (bob.create_room(visibility="public") for _ in range(3))
    for room in (left, banned):
        alice.join(room)
    alice.leave(left)
    bob.ban(banned, alice)
    bob.invite(invited, alice)
    before = [len(bob.history(room)) for room in (left, invited, banned)]
    alice.tell("displayname", "Alice")
    assert [len(bob.history(room)) for room in (left, invited, banned)] == before


def test_what_else_a_membership_says_is_kept(alice: Client, room: str) -> None:
    """PROF-2."""
    content = {"membership": "join", "org.example.mood": "good", "displayname": "Somebody"}
    alice.set_state(room, "m.room.member", content, alice.user_id)
    assert member(alice, room, alice) == content
    alice.tell("displayname", "Alice")
    assert member(alice, room, alice) == {**content, "displayname": "Alice"}


@every_room_version
def test_every_membership_event_of_ours_shows_name_and_avatar(alice: Client, bob: Client, room_version: str) -> None:
    """PROF-2: whatever way it is made."""
    shown = {"displayname": "Bob", "avatar_url": AVATAR}
    bob.tell("displayname", "Bob")
    bob.tell("avatar_url", AVATAR)
    own = bob.create_room()
    assert member(bob, own, bob) == {"membership": "join", **shown}

    room = alice.create_room(invite=[bob.user_id], visibility="public")
    for step in (
        lambda: bob.join(room),
        lambda: bob.leave(room),
        lambda: bob.call("POST", f"/rooms/{quote(room)}/join", {}),
        lambda: alice.kick(room, bob, "why not"),
        lambda: alice.invite(room, bob),
        lambda: bob.set_state(room, "m.room.member", {"membership": "join"}, bob.user_id),
        lambda: alice.ban(room, bob),
        lambda: alice.unban(room, bob),
    ):
        step()
    told = tellings(alice, room, bob)
    assert [content["membership"] for content in told] == [
        *("invite", "join", "leave", "join", "leave", "invite", "join", "ban", "leave")
    ]
    assert all(content.items() >= shown.items() for content in told)


@pytest.mark.parametrize("own", ["Robert", None])
def test_clients_own_word_counts_for_more(alice: Client, bob: Client, room: str, own: str | None) -> None:
    """PROF-2."""
    bob.tell("displayname", "Bob")
    bob.tell("avatar_url", AVATAR)
    content = {"membership": "join", "displayname": own}
    bob.set_state(room, "m.room.member", content, bob.user_id)
    assert member(alice, room, bob) == {**content, "avatar_url": AVATAR}


def test_all_of_many_rooms_are_told_once(alice: Client) -> None:
    """PROF-2: more of them than one transaction tells."""
    rooms = [alice.create_room() for _ in range(70)]
    alice.tell("displayname", "Alice")
    wait_until("all rooms to be told", lambda: all(len(tellings(alice, room, alice)) == 2 for room in rooms))
    alice.tell("avatar_url", AVATAR)
    alice.tell("avatar_url", "")
    alice.tell("displayname", "Alice L.")
    wait_until("it again", lambda: all(member(alice, room, alice).get("displayname") == "Alice L." for room in rooms))
    for room in rooms:
        told = [str(content) for content in tellings(alice, room, alice)]
        assert max(Counter(told).values()) <= 2  # with the avatar, and without it again
        assert all(one != other for one, other in pairwise(told))


def test_rooms_are_told_though_the_server_is_killed_meanwhile(fresh_server: FreshServer) -> None:
    """PROF-2: each once."""
    server = fresh_server({"registration.mode": "open"})
    alice = Client(server).register("alice")
    rooms = [alice.create_room() for _ in range(110)]
    alice.tell("displayname", "Alice")
    server.kill9()
    server.start()
    told = [len(tellings(alice, room, alice)) for room in rooms]
    assert 1 in told, "the server was done before it was killed, so that this proves nothing"
    assert set(told) <= {1, 2}
    wait_until("the rest to be told", lambda: all(len(tellings(alice, room, alice)) == 2 for room in rooms))
    assert {member(alice, room, alice)["displayname"] for room in rooms} == {"Alice"}
