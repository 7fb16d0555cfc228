"""Typing across servers (TYP-1)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.scenarios.conftest import above_storage
from tests.scenarios.federation.conftest import Meet
from tests.scenarios.test_typing import types, typing_in
from tests.support.client import Client, Json
from tests.support.federation import Federation

#: What is typed is kept in memory alone.
pytestmark = above_storage


class Ears:
    """Somebody who follows the stream for who types."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._since = client.present()

    def __iter__(self) -> Iterator[list[str]]:
        while True:
            page: Json = self._client.events(self._since, timeout=10_000)
            self._since = page["end"]
            heard = typing_in(page["chunk"])
            assert page["chunk"], "nothing came"
            for event in heard:
                yield event["content"]["user_ids"]


def test_typing_is_told_to_other_servers(alice: Client, bob: Client, meet: Meet) -> None:
    room = meet(alice, bob)
    heard = iter(Ears(bob))
    types(alice, room)
    assert next(heard) == [alice.user_id]
    types(alice, room, False)
    assert next(heard) == []


def test_typing_that_ends_by_itself_ends_everywhere(alice: Client, bob: Client, meet: Meet) -> None:
    room = meet(alice, bob)
    heard = iter(Ears(bob))
    types(alice, room, timeout=500)
    assert next(heard) == [alice.user_id]
    assert next(heard) == []


def test_who_leaves_is_forgotten_on_other_servers(alice: Client, bob: Client, meet: Meet) -> None:
    room = meet(alice, bob)
    heard = iter(Ears(alice))
    types(bob, room)
    assert next(heard) == [bob.user_id]
    bob.leave(room)
    assert next(heard) == []


def test_server_that_cannot_be_reached_misses_no_messages_by_it(
    three: Federation, alice: Client, bob: Client, meet: Meet
) -> None:
    """What is typed meanwhile is worth nothing later, and must not be in the way of what is."""
    room = meet(alice, bob)
    since = bob.present()
    three.cut(three.servers[0])
    types(alice, room)
    types(alice, room, False)
    sent = alice.send(room, "can you hear me?")
    three.heal()
    seen, _ = bob.events_until(since, sent)
    assert all(event["content"]["user_ids"] in ([], [alice.user_id]) for event in typing_in(seen))


def test_who_types_is_forgotten_when_their_server_dies(
    three: Federation, alice: Client, bob: Client, meet: Meet
) -> None:
    """Soon after the time that was said of it: 30 seconds, of which others may hear nothing while it goes on."""
    room = meet(alice, bob)
    since = bob.present()
    types(alice, room, timeout=4000)
    page = bob.events(since, timeout=5000)
    assert [event["content"]["user_ids"] for event in typing_in(page["chunk"])] == [[alice.user_id]]
    alice.server.kill9()
    page = bob.events(page["end"], timeout=40_000)
    assert [event["content"]["user_ids"] for event in typing_in(page["chunk"])] == [[]]
