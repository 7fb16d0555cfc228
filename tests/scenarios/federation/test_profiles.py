"""Profiles of people on other servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import NewDatabase
from tests.scenarios.conftest import Unique
from tests.scenarios.federation.conftest import FederationOf, Meet, each_version, in_good_order
from tests.support.client import Client, Json, not_found, quote, refused
from tests.support.federation import Federation, wait_until_agree, whole_history
from tests.support.lying_peer import Asked, LyingPeer
from tests.support.processes import wait_until
from tests.support.server import HomeServer

AVATAR = "http://example.org/fish.png"


def member(client: Client, room: str, user: Client) -> Json:
    """What a room knows of somebody, as somebody's server has it."""
    return dict(client.state_content(room, "m.room.member", user.user_id))


# Between two honest servers.


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


# With a server that says anything.


@pytest.fixture(scope="module")
def lone(federation_of: FederationOf, new_database: NewDatabase) -> Iterator[Federation]:
    with new_database() as url, federation_of(url) as federation:
        yield federation


@pytest.fixture
def home(lone: Federation) -> Iterator[HomeServer]:
    with in_good_order(lone) as federation:
        yield federation.servers[0]


@pytest.fixture
def tess(home: HomeServer, unique: Unique) -> Client:
    return Client(home).register(unique("tess"))


@pytest.fixture
def peer(lone: Federation, home: HomeServer) -> Iterator[LyingPeer]:
    with LyingPeer(lone.authority) as peer:
        yield peer
        assert not peer.faults


def test_other_servers_are_told_what_is_public_and_no_more(tess: Client, peer: LyingPeer) -> None:
    """PROF-1, PROF-3, SEC-11."""

    def query(**query: str) -> object:
        return peer.ask(tess.server, "GET", "/query/profile", user_id=tess.user_id, **query)

    assert query() == {}
    assert query(field="displayname") == {}
    tess.tell("displayname", "Tess")
    for number, visibility in enumerate(["public", "shared-rooms", "presence-list", "private"]):
        tess.tell(f"org.example.{number}", number, visibility)
    assert query() == {"displayname": "Tess", "org.example.0": 0}
    assert query(field="displayname") == {"displayname": "Tess"}
    assert query(field="org.example.0") == {"org.example.0": 0}
    for field in ("org.example.1", "org.example.2", "org.example.3", "org.example.4"):
        with not_found():
            query(field=field)
    with not_found():
        peer.ask(tess.server, "GET", "/query/profile", user_id=peer.user("mallory"))


def test_query_names_the_field_that_is_wanted(tess: Client, peer: LyingPeer) -> None:
    """PROF-1: and what was not asked for is not passed on."""
    asked: list[Asked] = []
    mallory = peer.user("mallory")
    peer.answers["query"] = lambda one: asked.append(one) or {"displayname": "M", "avatar_url": None, "age": [1, 2.5]}
    assert tess.profile(mallory) == {"displayname": "M", "age": [1, 2.5]}
    assert tess.profile_field(mallory, "displayname") == {"displayname": "M"}
    assert tess.profile_field(mallory, "avatar_url") == {}
    assert tess.profile_field(mallory, "age") == {"age": [1, 2.5]}
    with not_found():
        tess.profile_field(mallory, "phone")
    assert [one.parameters for one in asked] == [["profile"]] * 5
    assert [one.query for one in asked] == [
        {"user_id": [mallory]},
        *({"user_id": [mallory], "field": [field]} for field in ("displayname", "avatar_url", "age", "phone")),
    ]


@pytest.mark.parametrize(
    "lie",
    [
        ["Mallory"],
        {"displayname": 5},
        {"avatar_url": {"url": AVATAR}},
        {"displayname": "x" * 257},
        {"displayname": "Mallory", "avatar_url": "x" * 2001},
        {"age": "x" * 4095},
        {"x" * 129: 1},
        {"location": [[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]},
        {f"org.example.{number}": number for number in range(53)},
    ],
)
def test_what_cannot_be_a_profile_is_none(tess: Client, peer: LyingPeer, lie: object) -> None:
    """PROF-1: of the wrong type, or larger than it may be."""
    peer.answers["query"] = lambda asked: lie
    with refused(502, "M_UNREACHABLE"):
        tess.profile(peer.user("mallory"))


def test_refusal_of_the_other_server_is_passed_on(tess: Client, peer: LyingPeer) -> None:
    """PROF-1, API-3."""
    peer.answers["query"] = lambda asked: (403, {"errcode": "M_FORBIDDEN", "error": "Not for you."})
    with refused(403, "M_FORBIDDEN"):
        tess.profile(peer.user("mallory"))


def test_name_that_changes_during_a_join_reaches_the_room(tess: Client, peer: LyingPeer) -> None:
    """PROF-2: the join shows the old one, and the room was not yet one of hers when it changed."""
    tess.tell("displayname", "Tess")
    room = peer.host("spec-2014", peer.user("mallory"))
    answer = peer.answers["send_join"]

    def slow_join(asked: Asked) -> object:
        tess.another_connection().tell("displayname", "Teresa")
        return answer(asked)

    peer.answers["send_join"] = slow_join
    tess.join(room.room_id)
    wait_until("the name", lambda: member(tess, room.room_id, tess) == {"membership": "join", "displayname": "Teresa"})
