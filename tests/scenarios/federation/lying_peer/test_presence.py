"""A server that lies about who is there, who types, and who lets whom see them (PRES-5, TYP-1, SEC-1, SEC-8)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import NewDatabase
from tests.scenarios.conftest import Unique
from tests.scenarios.federation.conftest import FederationOf, in_good_order
from tests.scenarios.federation.lying_peer.conftest import in_order
from tests.scenarios.test_typing import types, typing_in
from tests.support.client import Client, Json
from tests.support.federation import Federation
from tests.support.lying_peer import LyingPeer
from tests.support.peer_rooms import PeerRoom
from tests.support.presence import Ears, change_list, list_of, presence_in, requests_in, set_status
from tests.support.processes import wait_until
from tests.support.server import HomeServer


@pytest.fixture(scope="module")
def seeing(federation_of: FederationOf, new_database: NewDatabase) -> Iterator[Federation]:
    """One honest server that knows who is there; on each database, since not each takes any text."""
    with new_database() as url, federation_of(url, presence__enabled=True) as federation:
        yield federation


@pytest.fixture
def honest(seeing: Federation) -> Iterator[HomeServer]:
    with in_good_order(seeing) as federation:
        yield federation.servers[0]


@pytest.fixture
def peer(seeing: Federation, honest: HomeServer) -> Iterator[LyingPeer]:
    with LyingPeer(seeing.authority) as peer, in_order(peer):
        yield peer


@pytest.fixture
def third(seeing: Federation, honest: HomeServer) -> Iterator[LyingPeer]:
    with LyingPeer(seeing.authority, "127.0.0.1") as peer, in_order(peer):
        yield peer


@pytest.fixture
def bob(honest: HomeServer, unique: Unique) -> Client:
    return Client(honest).register(unique("bob"))


def say(peer: LyingPeer, server: HomeServer, edu_type: str, *contents: object) -> None:
    """Send EDUs."""
    edus = [{"edu_type": edu_type, "origin": peer.name, "content": content} for content in contents]
    peer.send(server, edus=edus)


def edus(peer: LyingPeer, edu_type: str = "m.presence") -> list[Json]:
    """The contents of the EDUs that a peer was sent."""
    sent = [edu for asked in peer.requests("send") for edu in asked.content["edus"]]
    return [edu["content"] for edu in sent if edu["edu_type"] == edu_type]


def pushed(peer: LyingPeer, user: Client) -> list[str]:
    """What a peer was told of somebody."""
    items = [item for content in edus(peer) for item in content.get("push", [])]
    return [item["presence"] for item in items if item["user_id"] == user.user_id]


def polled(peer: LyingPeer) -> list[str]:
    """For whom a peer was asked."""
    return [name for content in edus(peer) for name in content.get("poll", [])]


def join(peer: LyingPeer, host: Client, name: str = "mallory") -> tuple[PeerRoom, str]:
    """A public room of somebody's, with a user of the peer in it."""
    user = peer.user(name)
    return peer.join(host.server, host.create_room(visibility="public"), user), user


def test_server_says_and_hears_only_what_it_may(
    honest: HomeServer, alice: Client, bob: Client, peer: LyingPeer, third: LyingPeer
) -> None:
    """PRES-4, PRES-5, SEC-8, SEC-11: and what is true is believed."""
    ears = Ears(alice)
    _, mallory = join(peer, alice)
    _, tess = join(third, alice, "tess")
    stranger = peer.user("stranger")
    wait_until("the polls", lambda: mallory in polled(peer) and tess in polled(third))
    assert stranger not in polled(peer)

    set_status(bob, "free_for_chat")
    everybody = [alice.user_id, bob.user_id, *(f"@user{number}:{honest.name}" for number in range(998))]
    say(peer, honest, "m.presence", *[{"poll": everybody}] * 20)
    wait_until("an answer", lambda: pushed(peer, alice))
    online = {"presence": "online", "last_active_ago": 1}
    say(
        peer,
        honest,
        "m.presence",
        {"push": [{"user_id": name, **online} for name in (tess, stranger, alice.user_id, bob.user_id)]},
        {"push": [{"user_id": mallory, "presence": state} for state in ("asleep", None, 5, {}, ["online"])]},
        {"push": [{"user_id": mallory.upper(), **online}, {"user_id": [mallory], **online}, None, "x"]},
    )
    say(peer, honest, "m.presence", {"push": [{"user_id": mallory, **online, "status_msg": "true"}]})
    ears.until_it_is(mallory, "online")
    heard = ears.for_a_while(1.5)
    assert presence_in(heard, mallory) == ["online"]
    for name in (tess, stranger, bob.user_id):
        assert presence_in(heard, name) == []
    assert bob.call("GET", f"/presence/{bob.user_id}/status")["presence"] == "free_for_chat"
    assert pushed(peer, bob) == [], "nobody there may see him"


@pytest.mark.parametrize(
    "item",
    [
        {"status_msg": "a\0b"},
        {"status_msg": "x" * 30_000},
        {"status_msg": {"a": 1}},
        {"displayname": "a\0b", "avatar_url": 5},
        {"displayname": "y" * 30_000},
        {"last_active_ago": 10**15},
        {"last_active_ago": -5},
        {"last_active_ago": True},
        {"device_type": "a\0b" * 1000},
    ],
)
def test_odd_words_do_no_harm(honest: HomeServer, alice: Client, peer: LyingPeer, item: Json) -> None:
    """PRES-5, SEC-1: a NUL made all presence of the server stand still, where PostgreSQL is its database."""
    ears = Ears(alice)
    _, mallory = join(peer, alice)
    wait_until("the poll", lambda: mallory in polled(peer))
    say(peer, honest, "m.presence", {"push": [{"user_id": mallory, "presence": "unavailable", **item}]})
    ears.until_it_is(mallory, "unavailable")
    assert len(str(ears.heard)) < 10_000
    say(peer, honest, "m.presence", {"push": [{"user_id": mallory, "presence": "online"}]})
    ears.until_it_is(mallory, "online")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"push": {}},
        {"push": [[]], "poll": "x", "unpoll": 5},
        {"poll": [None, 5, "", "@", "@:", "@\0:x", ["x"], {}, "@" + "x" * 500]},
        {"push": [{"user_id": "@\0:x", "presence": "online"}]},
    ],
)
def test_nonsense_about_presence_does_no_harm(honest: HomeServer, peer: LyingPeer, content: Json) -> None:
    """PRES-5, SEC-1."""
    say(peer, honest, "m.presence", content)


def test_answers_that_nobody_asked_for_are_ignored(
    honest: HomeServer, alice: Client, bob: Client, peer: LyingPeer, third: LyingPeer
) -> None:
    """PRES-3, SEC-8."""
    mallory, tess = peer.user("mallory"), third.user("tess")
    change_list(bob, invite=[alice.user_id])
    change_list(alice, accept=[bob.user_id], invite=[tess])
    before = list_of(alice), list_of(bob)
    pairs = [(alice.user_id, mallory), (alice.user_id, tess), (bob.user_id, alice.user_id), (mallory, alice.user_id)]
    named = [{"observer_user": observer, "observed_user": observed} for observer, observed in pairs]
    for kind in ("m.presence_accept", "m.presence_deny"):
        say(peer, honest, kind, *named, {}, {"observer_user": 5, "observed_user": None}, {"observer_user": "@\0:x"})
    assert (list_of(alice), list_of(bob)) == before
    say(peer, honest, "m.presence_invite", *named)
    assert requests_in(alice.initial_sync()["presence"]) == [mallory], "the only one that is the peer's to make"
    say(third, honest, "m.presence_accept", named[1])
    assert list_of(alice)[tess]["accepted"] is True


def test_typing_is_told_by_those_in_the_room_and_of_their_own_users(
    honest: HomeServer, alice: Client, bob: Client, peer: LyingPeer, third: LyingPeer
) -> None:
    """TYP-1, SEC-8."""
    room, mallory = join(peer, alice)
    private = alice.create_room()
    third.join(alice.server, room.room_id, third.user("tess"))
    bob.join(room.room_id)
    since = bob.present()

    def typing(room_id: object, user_id: object, **more: Any) -> Json:
        return {"room_id": room_id, "user_id": user_id, "typing": True, **more}

    lies = [
        typing(room.room_id, alice.user_id),
        typing(room.room_id, third.user("tess")),
        typing(room.room_id, peer.user("stranger")),
        typing(private, mallory),
        typing("!nowhere\0:x", mallory),
        typing(room.room_id, "@\0:" + peer.name),
        typing(room.room_id, [mallory]),
        typing(5, mallory),
        {"room_id": room.room_id, "user_ids": [alice.user_id, third.user("tess"), None, {}]},
        {"room_id": room.room_id},
        {},
    ]
    for lie in lies:
        # One by one: a list of those who type ends it for all others of that server.
        say(peer, honest, "m.typing", lie)
        assert typing_in(bob.events(since)["chunk"]) == []
    types(alice, room.room_id)
    page = bob.events(since, timeout=5000)
    say(peer, honest, "m.typing", {"room_id": room.room_id, "user_ids": []}, typing(room.room_id, mallory))
    page = bob.events(page["end"], timeout=5000)
    assert [event["content"] for event in typing_in(page["chunk"])] == [{"user_ids": sorted([alice.user_id, mallory])}]


def test_users_of_a_flood_of_requests_are_few(honest: HomeServer, alice: Client, peer: LyingPeer) -> None:
    """PRES-3, SEC-1, SEC-9."""
    for start in range(0, 300, 100):
        names = [peer.user(f"user{number}") for number in range(start, start + 100)]
        named = [{"observer_user": name, "observed_user": alice.user_id} for name in names]
        say(peer, honest, "m.presence_invite", *named)
    assert len(requests_in(alice.initial_sync()["presence"])) == 200
