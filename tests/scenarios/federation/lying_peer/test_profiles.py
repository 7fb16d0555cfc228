"""Profiles: what is told to a server that asks, and what is believed of one that answers."""

from __future__ import annotations

import pytest

from tests.support.client import Client, Json, not_found, refused
from tests.support.lying_peer import Asked, LyingPeer
from tests.support.processes import wait_until

AVATAR = "http://example.org/fish.png"


def member(client: Client, room: str, user: Client) -> Json:
    """What a room knows of somebody."""
    return dict(client.state_content(room, "m.room.member", user.user_id))


def test_other_servers_are_told_what_is_public_and_no_more(alice: Client, peer: LyingPeer) -> None:
    """PROF-1, PROF-3, SEC-11."""

    def query(**query: str) -> object:
        return peer.ask(alice.server, "GET", "/query/profile", user_id=alice.user_id, **query)

    assert query() == {}
    assert query(field="displayname") == {}
    alice.tell("displayname", "Alice")
    for number, visibility in enumerate(["public", "shared-rooms", "presence-list", "private"]):
        alice.tell(f"org.example.{number}", number, visibility)
    assert query() == {"displayname": "Alice", "org.example.0": 0}
    assert query(field="displayname") == {"displayname": "Alice"}
    assert query(field="org.example.0") == {"org.example.0": 0}
    for field in ("org.example.1", "org.example.2", "org.example.3", "org.example.4"):
        with not_found():
            query(field=field)
    with not_found():
        peer.ask(alice.server, "GET", "/query/profile", user_id=peer.user("mallory"))


def test_query_names_the_field_that_is_wanted(alice: Client, peer: LyingPeer) -> None:
    """PROF-1: and what was not asked for is not passed on."""
    mallory = peer.user("mallory")
    peer.answers["query"] = lambda asked: {"displayname": "M", "avatar_url": None, "age": [1, 2.5]}
    assert alice.profile(mallory) == {"displayname": "M", "age": [1, 2.5]}
    assert alice.profile_field(mallory, "displayname") == {"displayname": "M"}
    assert alice.profile_field(mallory, "avatar_url") == {}
    assert alice.profile_field(mallory, "age") == {"age": [1, 2.5]}
    with not_found():
        alice.profile_field(mallory, "phone")
    asked = peer.requests("query")
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
def test_what_cannot_be_a_profile_is_none(alice: Client, peer: LyingPeer, lie: object) -> None:
    """PROF-1: of the wrong type, or larger than it may be."""
    peer.answers["query"] = lambda asked: lie
    with refused(502, "M_UNREACHABLE"):
        alice.profile(peer.user("mallory"))


def test_refusal_of_the_other_server_is_passed_on(alice: Client, peer: LyingPeer) -> None:
    """PROF-1, API-3."""
    peer.answers["query"] = lambda asked: (403, {"errcode": "M_FORBIDDEN", "error": "Not for you."})
    with refused(403, "M_FORBIDDEN"):
        alice.profile(peer.user("mallory"))


def test_name_that_changes_during_a_join_reaches_the_room(alice: Client, peer: LyingPeer) -> None:
    """PROF-2: the join shows the old one, and the room was not yet one of hers when it changed."""
    alice.tell("displayname", "Alice")
    room = peer.host("spec-2014", peer.user("mallory"))
    answer = peer.answers["send_join"]

    def slow_join(asked: Asked) -> object:
        alice.another_connection().tell("displayname", "Alicia")
        return answer(asked)

    peer.answers["send_join"] = slow_join
    alice.join(room.room_id)
    wait_until(
        "the name", lambda: member(alice, room.room_id, alice) == {"membership": "join", "displayname": "Alicia"}
    )
