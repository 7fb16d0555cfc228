"""Rooms that others have made, as a server hears of them: without network, signatures or time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from synapse_like.handlers.event_checks import CheckedEvent, Lacking, Verdict, read_foreign
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.handlers.event_reception import admit
from synapse_like.handlers.rooms import purge
from synapse_like.protocol.events import Event, Pdu, StateSlot
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.wire_formats import encode_pdu, to_pdu
from synapse_like.storage import events, rooms, state
from synapse_like.storage.connections import Connection
from synapse_like.storage.events import Standing
from synapse_like.storage.transactions import Transaction

SERVER = "here.example"


def checked(rules: RoomRules, event: Event) -> CheckedEvent:
    """An event as if its signatures and its hash had been checked."""
    return CheckedEvent(rules, event, encode_pdu(to_pdu(rules, event)))


@dataclass(frozen=True, slots=True)
class Impression:
    """What a server makes of a room.

    :ivar current: the state that its clients are shown, by the IDs of the events.
    :ivar at_head: the state that its next event would see.
    :ivar extremities: the IDs of the newest events.
    :ivar timeline: the IDs of the events that clients are shown.
    :ivar standings: of all events, by ID.
    :ivar redacted: the IDs of events that were stripped.
    :ivar before: the state before each event, by the event's ID.
    """

    current: dict[StateSlot, str]
    at_head: dict[StateSlot, str]
    extremities: frozenset[str]
    timeline: frozenset[str]
    standings: dict[str, Standing]
    redacted: frozenset[str]
    before: dict[str, dict[StateSlot, str]]

    @property
    def has_soft_failed(self) -> bool:
        """Was something kept from clients that came too late to be allowed?"""
        return Standing.SOFT_FAILED in self.standings.values()


class DirectDatabase:
    """A database without threads, and with nobody else on it."""

    is_shared = False

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def read(self, _name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._connection.transact(function, *args, **kwargs)

    write = read

    async def write_to_room(self, _room_id: str, name: str, function: Callable[..., Any], *args: Any, **kw: Any) -> Any:
        return await self.write(name, function, *args, **kw)


class Trusting:
    """Takes every signature for true."""

    async def read_many(self, rules: RoomRules, room_id: str, pdus: Sequence[object]) -> dict[str, tuple[Event, Pdu]]:
        read = [read_foreign(rules, pdu) for pdu in pdus]
        return {event.event_id: (event, pdu) for event, pdu in read}

    async def check_many(self, rules: RoomRules, read: Sequence[tuple[Event, Pdu]], **_: object) -> list[CheckedEvent]:
        return [checked(rules, event) for event, _pdu in read]

    async def ask_policy(self, checked: Sequence[CheckedEvent]) -> list[CheckedEvent]:
        return list(checked)


class Listener:
    """A server that hears of one room."""

    def __init__(self, connection: Connection, rules: RoomRules, room_id: str) -> None:
        self.connection = connection
        self.rules = rules
        self.room_id = room_id
        self.persistence = EventPersistence(SERVER)

    def hear(self, heard: Iterable[Event]) -> list[Verdict | Lacking]:
        """Take some events in, in one transaction; the creation of the room is taken on trust."""
        return self.connection.transact(lambda txn: [self._admit(txn, event) for event in heard])

    def hear_in_lots(self, heard: Sequence[Event], random: Random) -> None:
        """Take events in, some at a time, and lose what is remembered now and then."""
        left = list(heard)
        while left:
            size = random.randrange(1, 6)
            results = self.hear(left[:size])
            assert all(isinstance(result, Verdict) for result in results)
            del left[:size]
            if random.random() < 0.3:
                self.connection.caches.clear()

    def _admit(self, txn: Transaction, event: Event) -> Verdict | Lacking:
        item = checked(self.rules, event)
        if event.type == "m.room.create" and rooms.find(txn, event.room_id) is None:
            made = rooms.create(txn, event.room_id, self.rules, is_public=False)
            self.persistence.persist(txn, made, event, item.pdu, None)
            return Verdict(event.event_id)
        room = rooms.head(txn, self.room_id)
        assert room is not None
        return admit(txn, self.persistence, room, item)

    def look(self) -> Impression:
        """What it makes of the room now."""
        return self.connection.transact(self._look)

    def _look(self, txn: Transaction) -> Impression:
        room = rooms.head(txn, self.room_id)
        assert room is not None
        rows = txn.all(
            "SELECT event_id, standing, place, redacted_by, snapshot_before FROM events WHERE room_nid = ?",
            (room.room_nid,),
        )
        current = events.load(txn, state.current(txn, room.room_nid))
        return Impression(
            current={stored.event.state_slot: stored.event.event_id for stored in current},
            at_head=dict(state.ids_at(txn, room.snapshot.snapshot_id)),
            extremities=frozenset(extremity.event_id for extremity in room.extremities),
            timeline=frozenset(row[0] for row in rows if row[2] is not None),
            standings={row[0]: Standing(row[1]) for row in rows},
            redacted=frozenset(row[0] for row in rows if row[3] is not None),
            before={row[0]: dict(state.ids_at(txn, row[4])) for row in rows if row[4]},
        )

    def forget(self) -> None:
        """Be as if it had never heard of the room."""
        self.connection.transact(purge, self.room_id, server_name=SERVER, force=True)
        self.connection.caches.clear()


def some_causal_order(heard: Iterable[Event], random: Random) -> list[Event]:
    """Events in an order in which they may be heard: each after those that it follows."""
    left = {event.event_id: event for event in heard}
    ordered: list[Event] = []
    while left:
        free = [event for event in left.values() if not any(prev in left for prev in event.prev_events)]
        event = random.choice(free)
        ordered.append(event)
        del left[event.event_id]
    return ordered
