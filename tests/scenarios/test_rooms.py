"""Making rooms, naming them, listing them, and doing away with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.scenarios.conftest import FreshServer, People, Unique, every_room_version, of_2014
from tests.support import databases
from tests.support.client import Client, Json, bad_json, forbidden, ids, not_found, quote, refused
from tests.support.server import HomeServer

pytestmark = every_room_version


def _aliases(client: Client, room: str) -> list[str]:
    """The aliases that the room was told of."""
    return list(client.state_content(room, "m.room.aliases", client.server.name)["aliases"])


def _alias_path(alias: str) -> str:
    return f"/directory/room/{quote(alias)}"


def _public_rooms(client: Client, page: int = 100) -> Iterator[Json]:
    """All public rooms, page by page."""
    since: str | None = None
    while True:
        found = client.call("GET", "/publicRooms", **{"from": since, "limit": page})
        assert len(found["chunk"]) <= page
        yield from found["chunk"]
        if not found["chunk"]:
            return
        assert found["start"] != found["end"]
        since = found["end"]


def _listed(client: Client, room: str) -> Json | None:
    return next((entry for entry in _public_rooms(client) if entry["room_id"] == room), None)


# Creation.


@of_2014
def test_creation_tells_its_story_in_order(alice: Client, bob: Client, unique: Unique) -> None:
    """ROOM-1, ROOM-2."""
    name = unique("thepub")
    answer = alice.call(
        "POST",
        "/createRoom",
        {"room_alias_name": name, "name": "The Pub", "topic": "Happy hour", "invite": [bob.user_id]},
    )
    alias = f"#{name}:{alice.server.name}"
    assert answer == {"room_id": answer["room_id"], "room_alias": alias}
    events = alice.history(answer["room_id"])
    assert [(event["type"], event["state_key"], event["content"]) for event in events] == [
        ("m.room.create", "", {"creator": alice.user_id}),
        ("m.room.member", alice.user_id, events[1]["content"]),
        ("m.room.power_levels", "", events[2]["content"]),
        ("m.room.join_rules", "", {"join_rule": "invite"}),
        ("m.room.add_state_level", "", {"level": 100}),
        ("m.room.send_event_level", "", {"level": 0}),
        ("m.room.ops_levels", "", {"ban_level": 50, "kick_level": 50, "redact_level": 50}),
        ("m.room.aliases", alice.server.name, {"aliases": [alias]}),
        ("m.room.name", "", {"name": "The Pub"}),
        ("m.room.topic", "", {"topic": "Happy hour"}),
        ("m.room.member", bob.user_id, events[10]["content"]),
    ]
    assert events[1]["content"]["membership"] == "join"
    assert events[2]["content"][alice.user_id] == 100
    assert events[10]["content"]["membership"] == "invite"
    assert all(event["user_id"] == alice.user_id for event in events)
    required = {event["type"]: event.get("required_power_level") for event in events}
    assert [required[f"m.room.{level}"] for level in ("power_levels", "join_rules")] == [100, 100]
    assert [required[f"m.room.{level}_level"] for level in ("add_state", "send_event")] == [100, 100]
    assert required["m.room.ops_levels"] == 100
    assert [required["m.room.name"], required["m.room.topic"]] == [50, 50]


def test_room_ids_are_of_this_server_and_never_the_same(alice: Client, room_version: str) -> None:
    """ROOM-1. Those of room version 12 name no server."""
    rooms = {alice.create_room() for _ in range(5)}
    assert len(rooms) == 5
    ending = "" if room_version == "12" else f":{alice.server.name}"
    assert all(room.startswith("!") and room.endswith(ending) for room in rooms)


def test_rooms_are_private_unless_said_otherwise(alice: Client, bob: Client) -> None:
    """ROOM-1: neither listed nor open."""
    room = alice.create_room(name="Behind closed doors")
    assert _listed(alice, room) is None
    with forbidden():
        bob.join(room)
    assert alice.synced_rooms()[room]["visibility"] == "private"


def test_public_rooms_are_listed_and_open(alice: Client, bob: Client) -> None:
    """ROOM-1, ROOM-2, ROOM-5."""
    room = alice.create_room(visibility="public")
    assert alice.state_content(room, "m.room.join_rules") == {"join_rule": "public"}
    assert _listed(bob, room) is not None
    bob.join(room)
    assert bob.synced_rooms()[room]["visibility"] == "public"


def test_without_an_alias_none_is_answered(alice: Client) -> None:
    """ROOM-1."""
    assert set(alice.call("POST", "/createRoom", {})) == {"room_id"}
    assert set(alice.call("POST", "/createRoom", {"name": None, "topic": None, "invite": None})) == {"room_id"}


def test_taken_alias_makes_no_room(alice: Client, bob: Client, unique: Unique) -> None:
    """ROOM-1."""
    name = unique("thepub")
    first = alice.create_room(room_alias_name=name)
    for client in (alice, bob):
        before = set(client.synced_rooms())
        listed = {entry["room_id"] for entry in _public_rooms(client)}
        token = client.present()
        with refused(400, "M_ROOM_IN_USE"):
            client.create_room(room_alias_name=name, visibility="public", invite=[alice.user_id])
        assert set(client.synced_rooms()) == before
        assert {entry["room_id"] for entry in _public_rooms(client)} == listed
        assert client.events(token)["chunk"] == []
    assert alice.call("GET", _alias_path(f"#{name}:{alice.server.name}"))["room_id"] == first


def test_wrong_invitation_makes_no_room(alice: Client, bob: Client, unique: Unique) -> None:
    """ROOM-1: and takes no alias."""
    name = unique("party")
    with bad_json():
        alice.create_room(room_alias_name=name, invite=[bob.user_id, "nobody"])
    assert alice.synced_rooms() == {}
    assert bob.synced_rooms() == {}
    assert alice.create_room(room_alias_name=name)


def test_those_invited_on_creation_can_come(alice: Client, bob: Client, carol: Client) -> None:
    """ROOM-1."""
    room = alice.create_room(invite=[bob.user_id, carol.user_id.upper()])
    bob.join(room)
    carol.join(room)
    assert set(alice.members(room).values()) == {"join"}


def test_creator_who_invites_themself_is_simply_in(alice: Client, bob: Client) -> None:
    """ROOM-1: and to name somebody twice is to name them once."""
    room = alice.create_room(invite=[alice.user_id, bob.user_id, bob.user_id.upper()])
    assert alice.members(room) == {alice.user_id: "join", bob.user_id: "invite"}
    members = [event["state_key"] for event in alice.history(room) if event["type"] == "m.room.member"]
    assert members == [alice.user_id, bob.user_id]


# The directory.


def test_alias_leads_to_its_room(alice: Client, bob: Client, room: str, unique: Unique) -> None:
    """ROOM-3."""
    alias = f"#{unique('door')}:{alice.server.name}"
    alice.call("PUT", _alias_path(alias), {"room_id": room})
    assert bob.call("GET", _alias_path(alias)) == {"room_id": room, "servers": [alice.server.name]}
    assert bob.join(alias) == room


def test_unknown_alias_is_not_found(alice: Client) -> None:
    """ROOM-3."""
    alias = f"#nowhere:{alice.server.name}"
    with not_found():
        alice.call("GET", _alias_path(alias))
    with not_found():
        alice.join(alias)
    with not_found():
        alice.call("DELETE", _alias_path(alias))


def test_taken_alias_keeps_its_room(alice: Client, bob: Client, room: str, unique: Unique) -> None:
    """ROOM-3."""
    alias = f"#{unique('door')}:{alice.server.name}"
    alice.call("PUT", _alias_path(alias), {"room_id": room})
    other = bob.create_room()
    with refused(400, "M_ROOM_IN_USE"):
        bob.call("PUT", _alias_path(alias), {"room_id": other})
    assert bob.call("GET", _alias_path(alias))["room_id"] == room


def test_only_members_give_a_room_an_alias(alice: Client, bob: Client, room: str, unique: Unique) -> None:
    """ROOM-3, ROOM-4, PERM-3: any of them, whatever their power."""
    alias = f"#{unique('door')}:{alice.server.name}"
    with forbidden():
        bob.call("PUT", _alias_path(alias), {"room_id": room})
    with not_found():
        bob.call("GET", _alias_path(alias))
    bob.join(room)
    bob.call("PUT", _alias_path(alias), {"room_id": room})
    assert alice.call("GET", _alias_path(alias))["room_id"] == room


def test_alias_of_another_server_cannot_be_given(alice: Client, room: str) -> None:
    """ROOM-3."""
    alias = "#door:elsewhere.org"
    assert 400 <= alice.request("PUT", _alias_path(alias), {"room_id": room}).status < 500
    assert 400 <= alice.request("DELETE", _alias_path(alias)).status < 500


@pytest.fixture
def bobs_alias(alice: Client, bob: Client, room: str, unique: Unique) -> str:
    """An alias for alice's room, made by bob."""
    alias = f"#{unique('bobs-door')}:{alice.server.name}"
    bob.join(room)
    bob.call("PUT", _alias_path(alias), {"room_id": room})
    return alias


def test_its_maker_deletes_an_alias(bob: Client, bobs_alias: str) -> None:
    """ROOM-3."""
    bob.call("DELETE", _alias_path(bobs_alias))
    with not_found():
        bob.call("GET", _alias_path(bobs_alias))


def test_room_operator_deletes_an_alias(alice: Client, bobs_alias: str) -> None:
    """ROOM-3."""
    alice.call("DELETE", _alias_path(bobs_alias))
    with not_found():
        alice.call("GET", _alias_path(bobs_alias))


def test_others_do_not_delete_an_alias(carol: Client, room: str, bobs_alias: str) -> None:
    """ROOM-3: be they strangers or members."""
    with forbidden():
        carol.call("DELETE", _alias_path(bobs_alias))
    carol.join(room)
    with forbidden():
        carol.call("DELETE", _alias_path(bobs_alias))
    assert carol.call("GET", _alias_path(bobs_alias))["room_id"] == room


def test_server_admin_deletes_an_alias(
    server: HomeServer, bob: Client, room: str, bobs_alias: str, unique: Unique
) -> None:
    """ROOM-3, LOGIN-11."""
    name = unique("admin")
    made = server.command("register-user", name, "--admin", "--password", "a long password")
    assert made.returncode == 0, made.stderr
    admin = Client(server).login(name, "a long password")
    admin.call("DELETE", _alias_path(bobs_alias))
    with not_found():
        admin.call("GET", _alias_path(bobs_alias))


def test_freed_alias_can_be_given_again(alice: Client, bob: Client, bobs_alias: str) -> None:
    """ROOM-3."""
    bob.call("DELETE", _alias_path(bobs_alias))
    other = alice.create_room()
    alice.call("PUT", _alias_path(bobs_alias), {"room_id": other})
    assert bob.call("GET", _alias_path(bobs_alias))["room_id"] == other


@of_2014
def test_room_is_told_all_its_aliases_at_every_change(alice: Client, bob: Client, room: str, unique: Unique) -> None:
    """ROOM-4."""
    bob.join(room)
    one, two = (f"#{unique(name)}:{alice.server.name}" for name in ("one", "two"))
    told = []
    for method, alias, client in (
        ("PUT", one, alice),
        ("PUT", two, bob),
        ("DELETE", one, alice),
        ("DELETE", two, bob),
    ):
        token = bob.present()
        client.call(method, _alias_path(alias), {"room_id": room} if method == "PUT" else None)
        [event] = bob.events(token)["chunk"]
        assert (event["type"], event["state_key"]) == ("m.room.aliases", alice.server.name)
        told.append(sorted(event["content"]["aliases"]))
    assert told == [[one], sorted([one, two]), [two], []]


# The list of public rooms.


def test_public_room_shows_its_names_and_how_many_are_in_it(
    alice: Client, bob: Client, carol: Client, unique: Unique
) -> None:
    """ROOM-5."""
    name = unique("thepub")
    room = alice.create_room(visibility="public", name="The Pub", topic="Happy hour", room_alias_name=name)
    expected = {
        "room_id": room,
        "aliases": [f"#{name}:{alice.server.name}"],
        "name": "The Pub",
        "topic": "Happy hour",
        "num_joined_members": 1,
    }
    assert _listed(bob, room) == expected
    bob.join(room)
    alice.invite(room, carol)
    alice.set_state(room, "m.room.topic", {"topic": "Closing time"})
    assert _listed(bob, room) == {**expected, "topic": "Closing time", "num_joined_members": 2}
    bob.leave(room)
    assert _listed(bob, room) == {**expected, "topic": "Closing time"}


def test_public_rooms_come_in_pages_each_room_once(people: People) -> None:
    """ROOM-5."""
    erin = people("erin")
    rooms = {erin.create_room(visibility="public") for _ in range(7)}
    everything = [entry["room_id"] for entry in _public_rooms(erin)]
    assert len(set(everything)) == len(everything)
    assert rooms <= set(everything)
    assert [entry["room_id"] for entry in _public_rooms(erin, page=3)] == everything
    whole = erin.call("GET", "/publicRooms")
    assert set(whole) == {"start", "end", "chunk"}


@pytest.mark.parametrize("query", [{"from": "made-up"}, {"limit": 0}, {"limit": "x"}, {"from": "\x00"}])
def test_bad_page_of_public_rooms_is_refused(alice: Client, query: dict[str, Any]) -> None:
    """ROOM-5."""
    with refused(400, "M_BAD_PAGINATION"):
        alice.call("GET", "/publicRooms", **query)


# Leaving, and the end of a room.


def test_left_room_disappears_from_initial_sync(alice: Client, bob: Client, room: str) -> None:
    """ROOM-8, EVS-4."""
    bob.join(room)
    assert bob.synced_rooms()[room]["membership"] == "join"
    bob.leave(room)
    assert room not in bob.synced_rooms()
    assert room in alice.synced_rooms()
    bob.join(room)
    assert room in bob.synced_rooms()


def test_who_left_an_invite_only_room_must_be_invited_again(alice: Client, bob: Client, private_room: str) -> None:
    """ROOM-8."""
    alice.invite(private_room, bob)
    bob.join(private_room)
    bob.leave(private_room)
    with forbidden():
        bob.join(private_room)
    alice.invite(private_room, bob)
    bob.join(private_room)


@pytest.mark.room_versions("spec-2014", "12")
def test_room_that_all_have_left_can_be_purged(fresh_server: FreshServer) -> None:
    """ROOM-8: with everything that was said in it, and nothing else."""
    server = fresh_server()
    alice, bob = Client(server).register("alice"), Client(server).register("bob")
    room = alice.create_room(visibility="public", room_alias_name="gone", name="Soon gone", invite=[bob.user_id])
    kept = alice.create_room(name="Kept")
    bob.join(room)
    event_id = alice.send(room, "forget-me-altogether")
    kept_event = alice.send(kept, "remember-me")
    alice.leave(room)

    refusal = server.command("purge-room", room)
    assert refusal.returncode == 1, "bob is still there"
    assert "Traceback" not in refusal.stderr
    assert bob.event(event_id)

    bob.leave(room)
    token = bob.present()
    assert databases.contains(server.database, server.data_dir, "forget-me-altogether")
    purge = server.command("purge-room", room)
    assert purge.returncode == 0, purge.stderr
    for _ in range(2):
        assert not databases.contains(server.database, server.data_dir, "forget-me-altogether")
        for client in (alice, bob):
            with not_found():
                client.event(event_id)
            with not_found():
                client.join(room)
            with not_found():
                client.call("GET", _alias_path(f"#gone:{server.name}"))
            with forbidden():
                client.messages(room)
        assert list(_public_rooms(alice)) == []
        assert set(alice.synced_rooms()) == {kept}
        assert bob.events(token)["chunk"] == []
        assert alice.event(kept_event)["content"]["body"] == "remember-me"
        server.restart()
    assert server.command("purge-room", room).returncode == 1, "there is no such room any more"


@of_2014
def test_room_made_after_a_purge_has_nothing_of_the_old_one(fresh_server: FreshServer) -> None:
    """ROOM-8: though the server had the old one in its memory, and its database has the place free again."""
    server = fresh_server()
    alice, bob, carol = (Client(server).register(name) for name in ("alice", "bob", "carol"))
    old = alice.create_room(visibility="public", name="Old", topic="Old")
    bob.join(old)
    poll = bob.poll(bob.present(), timeout=60_000)
    bob.history(old)
    assert server.command("purge-room", old, "--force").returncode == 0

    new = carol.create_room(visibility="public", name="New")
    sent = carol.send(new, "is anybody here?")
    assert carol.members(new) == {carol.user_id: "join"}
    assert ids(carol.history(new))[-1] == sent
    assert len(carol.history(new)) == len(carol.state(new)) + 1
    with not_found():
        carol.state_content(new, "m.room.topic")
    for client in (alice, bob):
        with forbidden():
            client.messages(new)
        assert client.synced_rooms() == {}
        with not_found():
            client.event(sent)
    assert poll.is_waiting()
    bob.join(new)
    assert [event["room_id"] for event in poll.json()["chunk"]] == [new]
    assert [listed["num_joined_members"] for listed in _public_rooms(bob)] == [2]


@of_2014
def test_purge_can_be_forced_on_a_room_with_members(fresh_server: FreshServer) -> None:
    """ROOM-8."""
    server = fresh_server()
    alice = Client(server).register("alice")
    room = alice.create_room(visibility="public")
    kept = alice.create_room()
    event_id = alice.send(room, "hello")
    assert server.command("purge-room", room, "--force").returncode == 0
    assert set(alice.synced_rooms()) == {kept}
    with not_found():
        alice.event(event_id)
    with forbidden():
        alice.send(room, "is anybody there?")
    assert ids(alice.history(kept))
