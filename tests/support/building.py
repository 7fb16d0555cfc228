"""Fills the database of a home server quickly, to learn what a large one costs.

Rooms are not made up: each event goes the server's own way of an event (`handlers/event_creation.py`), so it has its
place in the graph, is authorised, hashed and signed, and comes in by the one door (`handlers/event_persistence.py`).
Left out is what stands before that: HTTP, the record for retransmissions, a commit for each message. Accounts have no
password, and a token that follows from the name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

from signedjson.types import SigningKey
from twisted.internet import reactor

from synapse_like.app.parts import engine_of
from synapse_like.clock import ReactorClock
from synapse_like.config import load
from synapse_like.federation.own_keys import read_signing_file
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.handlers.stored_secrets import stored_form
from synapse_like.protocol.events import EventDraft
from synapse_like.protocol.room_creation import opening_events
from synapse_like.protocol.room_versions import RoomRules, rules_for
from synapse_like.storage import accounts, rooms
from synapse_like.storage.connections import Connection
from synapse_like.storage.migrations import migrate
from synapse_like.storage.rooms import RoomHead
from synapse_like.storage.state import MEMBER
from synapse_like.storage.transactions import Transaction

T = TypeVar("T")

#: Events in one transaction.
AT_ONCE = 1000


class Building:
    """Adds to a database that no server runs on.

    :param connection: to the database, which has its tables.
    :param key: the server's signing key.
    :param rules: of the rooms that are made.
    """

    def __init__(self, connection: Connection, server_name: str, key: SigningKey, rules: RoomRules) -> None:
        self._name = server_name
        self._clock = ReactorClock(reactor)
        self._creation = EventCreation(server_name, key, self._clock, EventPersistence(server_name))
        self._connection = connection
        self.rules = rules

    def add_users(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """New accounts, logged in: their user IDs and access tokens."""
        users = [(f"@{name}:{self._name}", f"token-of-{name}") for name in names]
        for part in _parts(users):
            self._connection.transact(self._add_users, part)
        return users

    def _add_users(self, txn: Transaction, users: Sequence[tuple[str, str]]) -> None:
        now_ms = self._clock.now_ms()
        for user_id, token in users:
            accounts.create(txn, user_id, password_hash=None, now_ms=now_ms)
            accounts.add_token(txn, user_id, stored_form(token), now_ms=now_ms)

    def add_rooms(self, creator: str, number: int) -> list[str]:
        """New public rooms that only their creator is in; their IDs."""
        made: list[str] = []
        for part in _parts(range(number), AT_ONCE // 8):
            made += self._connection.transact(self._add_rooms, creator, len(part))
        return made

    def _add_rooms(self, txn: Transaction, creator: str, number: int) -> list[str]:
        made = []
        for _ in range(number):
            room = self._creation.found_room(txn, self.rules, creator, is_public=True)
            for draft in opening_events(self.rules, room.room_id, creator, is_public=True):
                self._creation.say(txn, room, draft)
            made.append(room.room_id)
        return made

    def join(self, room_id: str, users: Iterable[str]) -> None:
        """Let users join a room."""
        self._say(room_id, (EventDraft(room_id, MEMBER, user, {"membership": "join"}, user) for user in users))

    def talk(self, room_id: str, user: str, messages: int) -> None:
        """Let a user say as much as this in a room."""
        self._say(room_id, (_message(room_id, user, number) for number in range(messages)))

    def _say(self, room_id: str, drafts: Iterable[EventDraft]) -> None:
        for part in _parts(drafts):
            self._connection.transact(self._say_now, room_id, part)

    def _say_now(self, txn: Transaction, room_id: str, drafts: Sequence[EventDraft]) -> None:
        room = self._head(txn, room_id)
        for draft in drafts:
            self._creation.say(txn, room, draft)

    def fork(self, room_ids: Iterable[str], user: str, forks: int, *, with_state: bool) -> None:
        """Let a user say several things in each of some rooms without having heard of one when saying the other: then
        a room has as many newest events.

        :param with_state: each says what the topic is; otherwise they are messages.
        """
        for part in _parts(room_ids, max(1, AT_ONCE // forks)):
            self._connection.transact(self._fork, part, user, forks, with_state)

    def _fork(self, txn: Transaction, room_ids: Sequence[str], user: str, forks: int, with_state: bool) -> None:
        for room_id in room_ids:
            room = self._head(txn, room_id)
            drafts = [
                EventDraft(room_id, "m.room.topic", user, {"topic": f"Topic {number}"}, "")
                if with_state
                else _message(room_id, user, number)
                for number in range(forks)
            ]
            for made in [self._creation.make(txn, room, draft) for draft in drafts]:
                self._creation.persistence.persist(txn, room, made.event, made.pdu, made.replaced, before=made.before)
            assert len(room.extremities) == forks

    def _head(self, txn: Transaction, room_id: str) -> RoomHead:
        room = rooms.head(txn, room_id)
        assert room is not None, "the room was made before"
        return room


@contextmanager
def building(config: Path) -> Iterator[Building]:
    """Add to the database of a server that does not run.

    :param config: the server's settings file.
    """
    settings = load(config, os.environ)
    connection = Connection(engine_of(settings), exclusive=True)
    try:
        migrate(connection)
        key = read_signing_file(settings.signing_key_file)[0]
        yield Building(connection, settings.server_name, key, rules_for(settings.rooms.default_version))
    finally:
        connection.close()


def _message(room_id: str, user: str, number: int) -> EventDraft:
    content = {"msgtype": "m.text", "body": f"This is message {number} of those that were here before."}
    return EventDraft(room_id, "m.room.message", user, content)


def _parts(items: Iterable[T], most: int = AT_ONCE) -> Iterator[list[T]]:
    rest = iter(items)
    while part := list(islice(rest, most)):
        yield part
