"""Nothing in memory grows with the rooms, users and servers there ever were (SEC-1), and who waits holds little."""

# mypy: allow-untyped-calls

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from synapse_like.federation import agent, client, destinations, keyring, resolver
from synapse_like.handlers import authentication, content, incoming_transactions, notifier, presence_persons, typing
from synapse_like.http.channel import Headers
from synapse_like.http.requests import Call, Query
from synapse_like.storage import events, rooms, state
from tests.fuzz.test_http import Scene
from tests.support.inside import CLIENT_V1, FEDERATION_V1, Inside, Wire, inside, quoted, request

#: Bounds made so small that a few rooms, users and servers reach them.
SMALL = {
    (agent, "MOST_DESTINATIONS"): 4,
    (client, "MOST_MODERN"): 4,
    (destinations, "MOST_REMEMBERED"): 4,
    (keyring, "MOST_SERVERS"): 4,
    (keyring, "MOST_PAUSES"): 4,
    (resolver, "MOST_REMEMBERED"): 4,
    (authentication, "MOST_REMEMBERED"): 4,
    (content, "MOST_NOTED"): 4,
    (incoming_transactions, "MOST_ROOMS"): 4,
    (incoming_transactions, "MOST_ORIGINS"): 4,
    (notifier, "MOST_RECENT"): 20,
    (presence_persons, "MOST_REMEMBERED"): 4,
    (presence_persons, "MOST_LEARNED"): 4,
    (presence_persons, "MOST_LIST_NEWS"): 4,
    (typing, "MOST_ROOMS"): 4,
    (rooms.HEADS, "most"): 4,
    (rooms.CURRENT_STATE, "most"): 60_000,
    (events.EVENTS, "most"): 60_000,
    (state.SLOTS, "most"): 50,
    (state.STATES, "most"): 200,
}
#: Rooms, each with users of its own and a server of its own, until all bounds are reached; and as many once more.
ROUNDS = 8
#: Minutes after which whoever asks nothing is idle; two reviews of presence among them.
IDLE_MINUTES = 45
#: Long polls that wait.
POLLS = 20
#: Bytes that the dictionary of a connection takes at the most: one that shares its keys with all others.
SHARING = 600


class Town(Scene):
    """Ever new rooms, in which new users do what makes a server remember them."""

    def live(self, number: int) -> None:
        self.renew()
        server, alice = self.server, self.names["alice"]
        room = quoted(self.room.room_id)
        server.ask("PUT", f"/rooms/{room}/typing/{quoted(self.guest)}", {"typing": True}, alice)
        server.ask("GET", "/events?timeout=0", None, alice)
        server.ask("PUT", f"/presence/{quoted(self.guest)}/status", {"presence": "online", "status_msg": "x"}, alice)
        server.ask("PUT", f"/profile/{quoted(self.guest)}/displayname", {"displayname": "A"}, alice)
        server.ask("POST", "/presence/list", {"invite": [self.bob]}, alice)
        self.write(server, f"peer{number}.example", self.room.room_id)

    def write(self, server: Inside, peer: str, room_id: str) -> None:
        """Another server says something, and asks for something."""
        server.introduce(peer)
        edus = [
            {"edu_type": "m.typing", "content": {"room_id": room_id, "user_id": f"@x:{peer}", "typing": True}},
            {"edu_type": "m.presence", "content": {"poll": [self.guest]}},
        ]
        body = {"origin": peer, "origin_server_ts": 1, "prev_ids": [], "pdus": [], "edus": edus}
        server.ask_as_peer("PUT", f"{FEDERATION_V1}/send/1", body, peer)
        server.ask_as_peer("GET", f"{FEDERATION_V1}/query/profile?user_id={quoted(self.guest)}", None, peer)

    def _is_past(self, moment: float) -> bool:
        return self.server.loop.seconds() > moment

    def objects(self) -> Counter[str]:
        """How many objects of each class of ours there are when everybody has been idle for a while."""
        loop = self.server.loop
        for _ in range(IDLE_MINUTES):
            loop.advance(60)
            # Time goes on when what has begun by then has ended.
            now = loop.seconds()
            loop.until(partial(self._is_past, now))
        gc.collect()
        return Counter(
            f"{type(item).__module__}.{type(item).__qualname__}"
            for item in gc.get_objects()
            if str(type(item).__module__).startswith("synapse_like.")
        )


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    for (where, name), most in SMALL.items():
        monkeypatch.setattr(where, name, most)
    with inside(tmp_path) as server:
        yield Town(server)


def test_what_is_in_memory_does_not_grow_with_rooms_users_and_servers(town: Town) -> None:
    for number in range(ROUNDS):
        town.live(number)
    before = town.objects()
    for number in range(ROUNDS, 2 * ROUNDS):
        town.live(number)
    grown = town.objects() - before
    # One of a kind may be there by chance; one for each room, user or server may not.
    assert {name: more for name, more in grown.items() if more >= ROUNDS // 2} == {}


def test_a_poll_that_waits_holds_nothing_of_its_request(tmp_path: Path) -> None:
    """There may be thousands, and a browser sends a kilobyte of headers with each."""
    with inside(tmp_path) as server:
        server.register("alice")
        since = server.ask("GET", "/events?timeout=0", None, "alice")["end"]
        headers = {"Authorization": f"Bearer {server.tokens['alice']}", "User-Agent": "A browser"}
        poll = request("GET", f"{CLIENT_V1}/events?from={since}&timeout=2000", None, headers)
        channels = [server.client_site.buildProtocol(None) for _ in range(POLLS)]
        try:
            for channel in channels:
                channel.makeConnection(Wire())
                channel.dataReceived(poll)
            server.loop.until(lambda: server.server.event_stream.polls == POLLS)
            gc.collect()
            held = Counter(type(item) for item in gc.get_objects() if isinstance(item, Call | Query) or is_filled(item))
            assert held == {}
            assert max(sys.getsizeof(vars(channel)) for channel in channels) <= SHARING
        finally:
            for channel in channels:
                channel.connectionLost()


def is_filled(item: object) -> bool:
    """Whether something is headers, and has some."""
    return isinstance(item, Headers) and bool(item)
