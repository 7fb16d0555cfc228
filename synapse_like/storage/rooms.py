"""Rooms, and where each of them stands.

A `RoomHead` is what the next event of a room builds on: the newest events (the forward extremities) and the snapshot
of the state after them. It belongs to the writing transactions, which change it in place; the cache keeps it from one
to the next, and a rolled back transaction throws it away.

So do the state events of all rooms that were needed lately. They are in a cache of their own, since they may be large:
what bounds it is bytes, whichever rooms they are of. Each is found by the `era` of its room's head; what no head has as
its era any more is found by nobody, and goes when its turn comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, NamedTuple

import orjson
from msgspec import Struct, field

from synapse_like.protocol.events import Event, StateSlot
from synapse_like.protocol.room_versions import RoomRules, rules_for
from synapse_like.storage import events, gaps, state
from synapse_like.storage.caches import CacheKind
from synapse_like.storage.events import StoredEvent
from synapse_like.storage.state import NOTHING, Snapshot
from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import placeholders

#: Of how many missing events a head keeps the IDs.
MOST_MISSING_KEPT = 500
#: Of how many state events of a new room it keeps the slots.
MOST_FILLED_KEPT = 100

_eras = count()


class Extremity(Struct, frozen=True):
    """A newest event of a room."""

    event_nid: int
    event_id: str
    depth: int
    after: Snapshot


class RoomHead(Struct):
    """Where a room stands: see the head of this file.

    :ivar snapshot: the state after the extremities.
    :ivar entered_depth: how deep it was when this server came into it.
    :ivar era: by which its state events are found in memory.
    :ivar filled: the slots that have a state event, in a room that is new and small; None where that is not known.
    :ivar servers: the other servers in the room, and how many of their users are joined; None if not read yet.
    :ivar missing: the IDs of what is missing right before something in its history, and whether that is news; None if
        not looked up yet.
    :ivar is_inhabited: is a user of this server joined? None if not looked up yet.
    :ivar merged: states that several snapshots made together, by the numbers of these.
    """

    room_nid: int
    room_id: str
    rules: RoomRules
    extremities: tuple[Extremity, ...] = ()
    snapshot: Snapshot = NOTHING
    entered_depth: int = 0
    era: int = field(default_factory=lambda: next(_eras))
    filled: set[StateSlot] | None = None
    servers: dict[str, int] | None = None
    missing: dict[str, bool] | None = None
    is_inhabited: bool | None = None
    merged: dict[tuple[int, ...], Snapshot] = field(default_factory=dict)

    def as_moved(self, slots: Iterable[StateSlot]) -> Any:
        """Where it stands, for other processes that know where it stood.

        :param slots: those of its state that have changed.
        """
        newest = [
            (one.event_nid, one.event_id, one.depth, one.after.snapshot_id, one.after.height)
            for one in self.extremities
        ]
        return [self.snapshot.snapshot_id, self.snapshot.height, newest, sorted(slots)]

    def move(self, txn: Transaction, place: Any) -> None:
        """Stand where another process has moved it."""
        snapshot_id, height, newest, slots = place
        self.snapshot = Snapshot(snapshot_id, height)
        self.extremities = tuple(
            Extremity(event_nid, event_id, depth, Snapshot(*after)) for event_nid, event_id, depth, *after in newest
        )
        if slots:
            self.filled = self.is_inhabited = None
            for event_type, state_key in slots:
                txn.cache(CURRENT_STATE).forget((self.era, (event_type, state_key)))


class CurrentState(NamedTuple):
    """What a slot of the current state of a room holds.

    :ivar stored: None if it is known that there is nothing.
    """

    stored: StoredEvent | None

    @property
    def weight(self) -> int:
        """In bytes, roughly."""
        return events.OVERHEAD + (self.stored.size if self.stored is not None else 0)


HEADS = CacheKind[str, RoomHead]("heads", 500)
CURRENT_STATE = CacheKind[tuple[int, StateSlot], CurrentState](
    "current state", 16 * 1024 * 1024, weigh=lambda held: held.weight, in_bytes=True
)


def create(txn: Transaction, room_id: str, rules: RoomRules, *, is_public: bool) -> RoomHead:
    """Make a room without events; its first event follows in the same transaction."""
    txn.hold_room(room_id)
    room_nid = txn.insert(
        "INSERT INTO rooms (room_id, version, is_public) VALUES (?, ?, ?) RETURNING room_nid",
        (room_id, rules.name, int(is_public)),
    )
    txn.execute("INSERT INTO room_heads (room_nid, extremities, snapshot_id) VALUES (?, '[]', 0)", (room_nid,))
    return _keep(txn, RoomHead(room_nid, room_id, rules, filled=set(), servers={}, missing={}))


def know(txn: Transaction, room_id: str, rules: RoomRules) -> int:
    """The number of a room that this server has heard of, given to it now if it has none; without any event."""
    row = txn.one("SELECT room_nid FROM rooms WHERE room_id = ?", (room_id,))
    if row is not None:
        known: int = row[0]
        return known
    room_nid: int = txn.insert(
        "INSERT INTO rooms (room_id, version, is_public) VALUES (?, ?, 0) RETURNING room_nid", (room_id, rules.name)
    )
    txn.execute("INSERT INTO room_heads (room_nid, extremities, snapshot_id) VALUES (?, '[]', 0)", (room_nid,))
    return room_nid


def enter(txn: Transaction, room_id: str) -> RoomHead:
    """The head of a room that this server is about to come into, be it the first time; for a writing transaction."""
    room = head(txn, room_id)
    if room is not None:
        return room
    row = txn.one("SELECT room_nid, version FROM rooms WHERE room_id = ?", (room_id,))
    assert row is not None, "the room is known"
    return _keep(txn, RoomHead(row[0], room_id, rules_for(row[1])))


def head(txn: Transaction, room_id: str) -> RoomHead | None:
    """The head of a room, for a writing transaction; None if this server does not know the room."""
    txn.hold_room(room_id)
    held: RoomHead | None = txn.heads.get(room_id)
    if held is not None:
        # It may be ahead of its row, and there must not be two of it.
        return held
    kept = txn.cache(HEADS).get(room_id)
    if kept is not None:
        return _hold(txn, kept)
    row = txn.one(
        "SELECT r.room_nid, r.version, h.extremities, h.snapshot_id, s.height, h.entered_depth"
        " FROM rooms r JOIN room_heads h ON h.room_nid = r.room_nid"
        " JOIN state_snapshots s ON s.snapshot_id = h.snapshot_id WHERE r.room_id = ?",
        (room_id,),
    )
    if row is None:
        return None
    room_nid, version, extremities, snapshot_id, height, entered_depth = row
    newest = _extremities(txn, events.load(txn, orjson.loads(extremities)))
    return _keep(
        txn, RoomHead(room_nid, room_id, rules_for(version), newest, Snapshot(snapshot_id, height), entered_depth)
    )


def _extremities(txn: Transaction, newest: Sequence[StoredEvent]) -> tuple[Extremity, ...]:
    after = state.snapshots_after(txn, [stored.event_nid for stored in newest])
    return tuple(
        Extremity(stored.event_nid, stored.event.event_id, stored.event.depth, after[stored.event_nid])
        for stored in newest
    )


def _keep(txn: Transaction, room: RoomHead) -> RoomHead:
    txn.cache(HEADS).keep(room.room_id, room)
    return _hold(txn, room)


def _hold(txn: Transaction, room: RoomHead) -> RoomHead:
    txn.heads[room.room_id] = room
    txn.when_rolled_back(lambda: txn.cache(HEADS).forget(room.room_id))
    return room


def advance(txn: Transaction, room: RoomHead, extremities: tuple[Extremity, ...], snapshot: Snapshot) -> None:
    """Move the head; the row is written once, at the end of the transaction."""
    room.extremities = extremities
    room.snapshot = snapshot
    txn.before_commit(("head", room.room_nid), lambda: _write_head(txn, room))


def _write_head(txn: Transaction, room: RoomHead) -> None:
    newest = orjson.dumps([extremity.event_nid for extremity in room.extremities]).decode()
    txn.execute_later(
        "UPDATE room_heads SET extremities = ?, snapshot_id = ?, entered_depth = ? WHERE room_nid = ?",
        (newest, room.snapshot.snapshot_id, room.entered_depth, room.room_nid),
    )


def state_at_head(txn: Transaction, room: RoomHead, slots: Iterable[StateSlot]) -> dict[StateSlot, Event]:
    """The current state events in some slots; a slot without one is left out."""
    return {slot: stored.event for slot, stored in stored_state_at_head(txn, room, slots).items()}


def stored_state_at_head(txn: Transaction, room: RoomHead, slots: Iterable[StateSlot]) -> dict[StateSlot, StoredEvent]:
    """The same, as they are stored."""
    known = txn.cache(CURRENT_STATE)
    held = {slot: known.get((room.era, slot)) for slot in slots}
    unknown = [slot for slot, one in held.items() if one is None and (room.filled is None or slot in room.filled)]
    found = {slot: one.stored for slot, one in held.items() if one is not None and one.stored is not None}
    if unknown:
        either = " OR ".join(["(s.type = ? AND s.state_key = ?)"] * len(unknown))
        rows = txn.all(
            "SELECT c.event_nid FROM state_slots s JOIN current_state c ON c.slot_id = s.slot_id AND c.room_nid = ?"
            f" WHERE {either}",
            (room.room_nid, *(part for slot in unknown for part in slot)),
        )
        found |= {stored.event.state_slot: stored for stored in events.load(txn, [row[0] for row in rows])}
        for slot in unknown:
            remember_state(txn, room, slot, found.get(slot))
    return found


def stored_state_at(
    txn: Transaction, room: RoomHead, snapshot: Snapshot, slots: Iterable[StateSlot]
) -> dict[StateSlot, StoredEvent]:
    """The state events in some slots of any state of a room."""
    if snapshot == room.snapshot:
        return stored_state_at_head(txn, room, slots)
    numbers = [number for slot in slots if (number := state.slot_id(txn, slot)) is not None]
    found = state.in_slots_at_snapshot(txn, snapshot.snapshot_id, numbers)
    return {stored.event.state_slot: stored for stored in events.load(txn, list(found.values()))}


def missing(txn: Transaction, room: RoomHead) -> dict[str, bool]:
    """What is missing of the history of a room: see `RoomHead`."""
    if room.missing is None:
        room.missing = gaps.missing(txn, room.room_nid, MOST_MISSING_KEPT)
    return room.missing


def add_gaps(txn: Transaction, room: RoomHead, event_nid: int, event_ids: Sequence[str], *, is_news: bool) -> None:
    """Note what is missing before an event of a room; `is_news` as in `gaps.Gap`."""
    if event_ids:
        room.missing = None
        txn.changes(room.room_id)
        gaps.add(txn, room.room_nid, event_nid, event_ids, is_news=is_news)


def is_followed(txn: Transaction, room: RoomHead, event_id: str) -> bool:
    """Is an event that is not here yet missing right before one that is?"""
    known = missing(txn, room)
    if event_id in known:
        return True
    return len(known) == MOST_MISSING_KEPT and gaps.first_place_after(txn, room.room_nid, event_id) is not None


def close_gaps(txn: Transaction, room: RoomHead, event_id: str) -> None:
    """An event of a room has come that may have been missing."""
    known = missing(txn, room)
    if event_id in known or len(known) == MOST_MISSING_KEPT:
        room.missing = None
        txn.changes(room.room_id)
        gaps.close(txn, room.room_nid, event_id)


def remember_state(txn: Transaction, room: RoomHead, slot: StateSlot, stored: StoredEvent | None) -> None:
    """A state event is the current one of its slot, or there is none."""
    txn.cache(CURRENT_STATE).keep((room.era, slot), CurrentState(stored))
    if room.filled is not None:
        if stored is None:
            room.filled.discard(slot)
        else:
            room.filled.add(slot)
        if len(room.filled) > MOST_FILLED_KEPT:
            room.filled = None


def forget_state(room: RoomHead) -> None:
    """What is known of the state of a room may hold no longer."""
    room.era = next(_eras)
    room.filled = None


def forget_redacted(txn: Transaction, room: RoomHead, target: StoredEvent) -> None:
    """An event has been redacted: what is known of its slot may be what it was before."""
    if target.event.is_state:
        txn.cache(CURRENT_STATE).forget((room.era, target.event.state_slot))


class Room(Struct, frozen=True):
    """A room as readers need it."""

    room_nid: int
    room_id: str
    is_public: bool


class RoomView(Struct, frozen=True):
    """Where a room stands, for readers.

    :ivar snapshot_id: of its state.
    """

    room_nid: int
    room_id: str
    rules: RoomRules
    snapshot_id: int


def view(txn: Transaction, room_id: str) -> RoomView:
    """Where a room stands that is known to be here."""
    row = txn.one(
        "SELECT r.room_nid, r.version, h.snapshot_id FROM rooms r JOIN room_heads h ON h.room_nid = r.room_nid"
        " WHERE r.room_id = ?",
        (room_id,),
    )
    assert row is not None, "the room is known"
    return RoomView(row[0], room_id, rules_for(row[1]), row[2])


def find(txn: Transaction, room_id: str) -> Room | None:
    """A room by its ID, or None."""
    row = txn.one("SELECT room_nid, is_public FROM rooms WHERE room_id = ?", (room_id,))
    return Room(row[0], room_id, bool(row[1])) if row is not None else None


def lock(txn: Transaction, room: Room) -> None:
    """Keep other processes from adding to a room until this transaction has ended."""
    txn.hold_room(room.room_id)
    txn.one(f"SELECT 1 FROM rooms WHERE room_nid = ?{txn.for_update}", (room.room_nid,))


def what_is_here(txn: Transaction, room_id: str) -> tuple[list[str], int]:
    """The IDs of a room's newest events, and the depth from which on this server has it; for readers."""
    row = txn.one(
        "SELECT h.extremities, h.entered_depth FROM rooms r JOIN room_heads h ON h.room_nid = r.room_nid"
        " WHERE r.room_id = ?",
        (room_id,),
    )
    return (list(events.ids_of(txn, orjson.loads(row[0])).values()), row[1]) if row is not None else ([], 0)


def rules_of(txn: Transaction, room_id: str) -> RoomRules | None:
    """The rules of a room; None if this server has never heard of it."""
    row = txn.one("SELECT version FROM rooms WHERE room_id = ?", (room_id,))
    return rules_for(row[0]) if row is not None else None


def is_entered(txn: Transaction, room_nid: int) -> bool:
    """Was anybody here ever in a room? If not, all that is known of it is somebody's word."""
    return txn.one("SELECT 1 FROM room_heads WHERE room_nid = ? AND snapshot_id != 0", (room_nid,)) is not None


def by_nids(txn: Transaction, room_nids: Iterable[int]) -> dict[int, Room]:
    """Rooms by their numbers."""
    wanted = list(room_nids)
    rows = txn.all(f"SELECT room_nid, room_id, is_public FROM rooms WHERE room_nid IN ({placeholders(wanted)})", wanted)
    return {row[0]: Room(row[0], row[1], bool(row[2])) for row in rows}


def public(txn: Transaction, *, after: int, limit: int) -> list[Room]:
    """Public rooms that somebody is in, in the order of their making, from the one after the number `after`."""
    rows = txn.all(
        "SELECT room_nid, room_id FROM rooms r WHERE is_public = 1 AND room_nid > ? AND EXISTS"
        " (SELECT 1 FROM current_state c WHERE c.room_nid = r.room_nid AND c.membership = 'join')"
        " ORDER BY room_nid LIMIT ?",
        (after, limit),
    )
    return [Room(row[0], row[1], True) for row in rows]


def delete(txn: Transaction, room: Room) -> None:
    """Take a room out, after everything that belongs to it."""
    txn.heads.pop(room.room_id, None)
    txn.cache(HEADS).forget(room.room_id)
    txn.execute("DELETE FROM room_heads WHERE room_nid = ?", (room.room_nid,))
    txn.execute("DELETE FROM rooms WHERE room_nid = ?", (room.room_nid,))
