"""Rooms that two processes of a server write to in turn: what each has in memory of them is right, and not read again.

It is the load of every room whose people are at several processes, so that it must not cost more than with one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from signedjson.key import encode_verify_key_base64, generate_signing_key, get_verify_key
from signedjson.sign import sign_json
from signedjson.types import SigningKey
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from synapse_like.clock import ReactorClock
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.handlers.membership import Membership, Wish
from synapse_like.handlers.notifier import Notifier, visible_from_memory
from synapse_like.handlers.third_party_invites import Redemption, ThirdPartyInvites
from synapse_like.protocol.errors import AuthError
from synapse_like.protocol.events import EventDraft
from synapse_like.protocol.identifiers import domain_of
from synapse_like.protocol.room_creation import opening_events
from synapse_like.protocol.room_versions import V1
from synapse_like.protocol.third_party_invites import THIRD_PARTY_INVITE
from synapse_like.storage import events, room_servers, rooms, state
from synapse_like.storage.connections import Connection
from synapse_like.storage.engines.opening import open_engine
from synapse_like.storage.event_news import EventPersisted, Unread
from synapse_like.storage.events import StoredEvent
from synapse_like.storage.migrations import migrate
from synapse_like.storage.rooms import RoomHead
from synapse_like.storage.transactions import Transaction
from tests.storage.test_sharing import Process
from tests.support.postgres import PostgreSQL

HERE = "here"
ALICE, BOB, CAROL = "@alice:here", "@bob:here", "@carol:there"
TOPIC = ("m.room.topic", "")


class Author:
    """One of the processes, which writes events.

    :ivar told: the events that it was told of, its own and the other's.
    """

    def __init__(self, url: str, key: SigningKey) -> None:
        self.process = Process(url)
        self._clock = ReactorClock(reactor)
        self.creation = EventCreation(HERE, key, self._clock, EventPersistence(HERE))
        self.told: list[EventPersisted] = []
        self.process.bus.subscribe(EventPersisted, self.told.append)

    def found(self) -> str:
        def found(txn: Transaction) -> str:
            room = self.creation.found_room(txn, V1, ALICE, is_public=True)
            for draft in opening_events(V1, room.room_id, ALICE, is_public=True):
                self.creation.say(txn, room, draft)
            return room.room_id

        return str(self.process.result(self.process.database.write("found", found)))

    def say(self, room_id: str, *drafts: EventDraft) -> Sequence[StoredEvent]:
        said: Sequence[StoredEvent] = self._try_to_say(room_id, *drafts)
        return said

    def is_refused(self, room_id: str, draft: EventDraft) -> bool:
        return bool(self._try_to_say(room_id, draft).check(AuthError))

    def _try_to_say(self, room_id: str, *drafts: EventDraft) -> Any:
        def say(txn: Transaction) -> list[StoredEvent]:
            room = rooms.head(txn, room_id)
            assert room is not None
            return [self.creation.say(txn, room, draft) for draft in drafts]

        return self.process.result(self.process.database.write_to_room(room_id, "say", say))

    def statements_of_head(self, room_id: str) -> int:
        """How many statements it takes to know where a room stands, and who may say something there."""

        def count(txn: Transaction) -> int:
            txn.hold_room(room_id)
            before = txn.statements
            room = rooms.head(txn, room_id)
            assert room is not None
            rooms.stored_state_at_head(txn, room, [("m.room.power_levels", ""), ("m.room.member", ALICE)])
            return txn.statements - before

        return int(self.process.result(self.process.database.write_to_room(room_id, "count", count)))

    def topic(self, room_id: str) -> str | None:
        def topic(txn: Transaction) -> str | None:
            room = rooms.head(txn, room_id)
            assert room is not None
            held = rooms.state_at_head(txn, room, [TOPIC])
            return str(held[TOPIC].content["topic"]) if TOPIC in held else None

        found: str | None = self.process.result(self.process.database.write_to_room(room_id, "topic", topic))
        return found

    def at_head(self, room_id: str, look: Callable[[Transaction, RoomHead], Any]) -> Any:
        """What a transaction that writes to a room finds there."""

        def find(txn: Transaction) -> Any:
            room = rooms.head(txn, room_id)
            assert room is not None
            return look(txn, room)

        return self.process.result(self.process.database.write_to_room(room_id, "find", find))

    def hear(self, position: int) -> None:
        self.process.bridge.pump(lambda: any(news.position == position for news in self.told))


def message(room_id: str, body: str = "hello", sender: str = ALICE) -> EventDraft:
    return EventDraft(room_id, "m.room.message", sender, {"msgtype": "m.text", "body": body})


def topic(room_id: str, words: str) -> EventDraft:
    return EventDraft(room_id, "m.room.topic", ALICE, {"topic": words}, "")


def joining(room_id: str, user_id: str) -> EventDraft:
    return EventDraft(room_id, "m.room.member", user_id, {"membership": "join"}, user_id)


def kicking(room_id: str, user_id: str) -> EventDraft:
    return EventDraft(room_id, "m.room.member", ALICE, {"membership": "leave"}, user_id)


@pytest.fixture
def authors(postgresql: PostgreSQL) -> Iterator[tuple[Author, Author]]:
    with postgresql.database() as url:
        connection = Connection(open_engine(url, data_dir=Path()), exclusive=True)
        migrate(connection)
        connection.close()
        key = generate_signing_key("1")
        one, two = Author(url, key), Author(url, key)
        yield one, two
        for author in (one, two):
            author.process.database.stop()


def test_what_two_say_in_turn_is_one_thread_and_nothing_is_read_again_for_it(authors: tuple[Author, Author]) -> None:
    one, two = authors
    room_id = one.found()
    two.say(room_id, message(room_id))
    one.say(room_id, message(room_id))
    for author in (two, one) * 3:
        assert author.statements_of_head(room_id) == 0
        author.say(room_id, message(room_id))
    [newest] = two.say(room_id, message(room_id))
    one.hear(newest.position)
    said = [news.stored for news in one.told if isinstance(news.stored, StoredEvent)]
    for before, after in pairwise(said):
        assert after.event.prev_events == (before.event.event_id,)
    assert len(said) == len(one.told)


def test_what_another_changes_of_a_room_is_known_and_the_rest_is_not_read_again(
    authors: tuple[Author, Author],
) -> None:
    one, two = authors
    room_id = one.found()
    assert two.topic(room_id) is None
    one.say(room_id, topic(room_id, "first"), message(room_id))
    assert two.topic(room_id) == "first"
    two.say(room_id, topic(room_id, "second"))
    two.say(room_id, joining(room_id, BOB))
    assert one.topic(room_id) == "second"
    assert one.statements_of_head(room_id) == 0
    one.say(room_id, message(room_id, sender=BOB))
    assert two.topic(room_id) == "second"


def test_what_is_refused_changes_nothing_for_others(authors: tuple[Author, Author]) -> None:
    one, two = authors
    room_id = one.found()
    two.say(room_id, message(room_id))
    assert one.is_refused(room_id, message(room_id, sender=BOB))
    assert two.statements_of_head(room_id) == 0
    two.say(room_id, message(room_id))


def test_an_event_that_nobody_waits_for_is_not_read_where_another_stored_it(authors: tuple[Author, Author]) -> None:
    one, two = authors
    watched, other = one.found(), one.found()
    notifier = Notifier(two.process.database, two.process.bus, ReactorClock(reactor), position=0)
    [came] = one.say(watched, joining(watched, BOB))
    two.hear(came.position)
    watcher = two.process.result(Deferred.fromCoroutine(notifier.watch(BOB)))
    position = notifier.position
    one.say(other, message(other))
    [newest] = one.say(watched, message(watched))
    two.hear(newest.position)
    kinds = {news.room_id: type(news.stored) for news in two.told if news.position > position}
    assert kinds == {other: Unread, watched: StoredEvent}
    found = visible_from_memory(watcher, position, notifier.recent)
    assert [stored.event_nid for stored in found or ()] == [newest.event_nid]
    # Who comes to be interested in that room has to look in the database.
    watcher.rooms.add(other)
    assert visible_from_memory(watcher, position, notifier.recent) is None


def test_of_what_is_missing_another_process_knows_though_the_room_has_moved_by_the_same_job(
    authors: tuple[Author, Author],
) -> None:
    one, two = authors
    room_id = one.found()
    for author in authors:
        assert author.at_head(room_id, rooms.missing) == {}

    def add(txn: Transaction, room: RoomHead) -> None:
        stored = one.creation.say(txn, room, message(room_id))
        rooms.add_gaps(txn, room, stored.event_nid, ["$lost:there"], is_news=True)

    one.at_head(room_id, add)
    for author in authors:
        assert author.at_head(room_id, rooms.missing) == {"$lost:there": True}

    def close(txn: Transaction, room: RoomHead) -> None:
        two.creation.say(txn, room, message(room_id))
        rooms.close_gaps(txn, room, "$lost:there")

    two.at_head(room_id, close)
    for author in authors:
        assert author.at_head(room_id, rooms.missing) == {}


def test_which_servers_are_in_a_room_another_process_knows_whoever_put_them_out(authors: tuple[Author, Author]) -> None:
    one, two = authors
    room_id = one.found()
    assert two.at_head(room_id, room_servers.present) == {}
    one.say(room_id, joining(room_id, CAROL))
    assert two.at_head(room_id, room_servers.present) == {"there": 1}
    # One of ours says it.
    one.say(room_id, kicking(room_id, CAROL))
    assert two.at_head(room_id, room_servers.present) == {}


def test_state_that_is_redacted_is_so_for_another_process(authors: tuple[Author, Author]) -> None:
    one, two = authors
    room_id = one.found()
    [said] = one.say(room_id, topic(room_id, "taken back"))
    assert two.topic(room_id) == "taken back"
    one.say(room_id, EventDraft(room_id, "m.room.redaction", ALICE, {}, redacts=said.event.event_id))

    def content(txn: Transaction, room: RoomHead) -> Any:
        return rooms.state_at_head(txn, room, [TOPIC])[TOPIC].content

    assert two.at_head(room_id, content) == {}


def test_where_a_room_was_come_into_another_process_knows(authors: tuple[Author, Author]) -> None:
    one, two = authors
    room_id = one.found()
    assert two.at_head(room_id, lambda txn, room: room.entered_depth) == 0

    def enter(txn: Transaction, room: RoomHead) -> int:
        present = events.load(txn, state.current(txn, room.room_nid))
        made = one.creation.make(txn, room, joining(room_id, BOB))
        now = {stored.event.state_slot: stored for stored in present}
        one.creation.persistence.enter(txn, room, made.event, made.pdu, made.before, now)
        return made.event.depth

    depth = one.at_head(room_id, enter)
    assert depth > 1
    assert two.at_head(room_id, lambda txn, room: room.entered_depth) == depth
    two.say(room_id, message(room_id, sender=BOB))


def test_a_room_that_is_written_to_twice_in_a_transaction_stays_one_whatever_is_forgotten_meanwhile(
    authors: tuple[Author, Author],
) -> None:
    """What another thread reads in the log may have all copies forgotten, at any time."""
    one, two = authors
    room_id = one.found()
    caches = two.process.database.caches
    said: list[StoredEvent] = []
    entered, goes_on = threading.Event(), threading.Event()

    def say(txn: Transaction) -> None:
        for _ in range(2):
            room = rooms.head(txn, room_id)
            assert room is not None
            said.append(two.creation.say(txn, room, message(room_id)))
            entered.set()
            assert goes_on.wait(30)

    saying = two.process.database.write_to_room(room_id, "say", say)
    assert entered.wait(30)
    assert caches.find("heads", room_id) is not None
    caches.clear()
    goes_on.set()
    two.process.result(saying)
    said += two.say(room_id, message(room_id))
    said += one.say(room_id, message(room_id))
    for before, after in pairwise(said):
        assert after.event.prev_events == (before.event.event_id,)


class Inviting:
    """A process that is told whose an address is, and stops when it has found that an invite is to be made of it."""

    def __init__(self, author: Author) -> None:
        self._creation = author.creation
        self._is_to_go_on: Deferred[None] = Deferred()
        self.has_stopped = False
        database, clock = author.process.database, ReactorClock(reactor)
        remote: Any = self
        self._membership = Membership(database, author.creation, Mock(), remote)
        membership: Any = self
        self._invites = ThirdPartyInvites(
            database, clock, author.creation, membership, Mock(), Mock(), Mock(), Mock(), accept_untrusted=False
        )

    def begin(self, redemption: Redemption) -> Deferred[None]:
        return Deferred.fromCoroutine(self._invites.exchange(domain_of(redemption.target), redemption))

    def go_on(self) -> None:
        self._is_to_go_on.callback(None)

    async def invite_as_wished(self, wish: Wish) -> None:
        self.has_stopped = True
        await self._is_to_go_on
        await self._membership.invite_as_wished(wish)

    # The server of somebody who is not ours signs whatever it is asked to.

    async def invite(self, draft: EventDraft) -> EventDraft:
        return draft

    def admit_invite(self, txn: Transaction, draft: EventDraft) -> None:
        room = rooms.head(txn, draft.room_id)
        assert room is not None
        self._creation.say(txn, room, draft)


@pytest.mark.parametrize("target", [BOB, CAROL])
def test_an_invite_to_an_address_of_which_two_are_told_at_once_becomes_one_invite(
    authors: tuple[Author, Author], target: str
) -> None:
    """ID-1: an identity server may say it twice."""
    one, two = authors
    room_id = one.found()
    key = generate_signing_key("0")
    told = {"public_key": encode_verify_key_base64(get_verify_key(key)), "key_validity_url": "https://id.example"}
    content = {**told, "display_name": "b...", "public_keys": [told]}
    one.say(room_id, EventDraft(room_id, THIRD_PARTY_INVITE, ALICE, content, "token"))
    signed = sign_json({"mxid": target, "token": "token"}, "id.example", key)
    inviting = [Inviting(author) for author in authors]
    begun = [process.begin(Redemption(room_id, ALICE, signed)) for process in inviting]
    for author, process in zip(authors, inviting, strict=True):
        author.process.bridge.pump(lambda process=process: process.has_stopped, 30)
    for process in inviting:
        process.go_on()
    for author, exchanged in zip(authors, begun, strict=True):
        assert author.process.result(exchanged) is None
    [last] = two.say(room_id, message(room_id))
    one.hear(last.position)
    assert [news.memberships for news in one.told if target in news.memberships] == [{target: "invite"}]
