"""The state of rooms: shared snapshots for every point in history, and one table for the present.

A snapshot is kept as the difference to its parent. Snapshots of a room form chains; the snapshot at height `n` has as
its parent the one at height `n - 16^k`, where `16^k` is the largest power of 16 that divides `n`, and holds what
changed between them. So a change is written once for each power of 16 below the number of changes (about four times
after ten thousand), and reading a state walks at most 15 snapshots for each: the tables neither explode nor grow slow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from synapse_like.protocol.events import StateSlot
from synapse_like.storage.caches import CacheKind
from synapse_like.storage.database import Transaction
from synapse_like.storage.engines import Row, placeholders

BASE = 16
SLOTS = CacheKind[StateSlot, int]("slots", 20_000)
MEMBER = "m.room.member"


def slot_id(txn: Transaction, slot: StateSlot) -> int | None:
    """The number of a (type, state key), or None if it was never used."""
    known = txn.cache(SLOTS).get(slot)
    if known is not None:
        return known
    row = txn.one("SELECT slot_id FROM state_slots WHERE type = ? AND state_key = ?", slot)
    if row is None:
        return None
    txn.cache(SLOTS).put(txn, slot, row[0])
    number: int = row[0]
    return number


def make_slot_id(txn: Transaction, slot: StateSlot) -> int:
    """The number of a (type, state key), given to it now if it has none."""
    known = slot_id(txn, slot)
    if known is None:
        known = txn.insert("INSERT INTO state_slots (type, state_key) VALUES (?, ?) RETURNING slot_id", slot)
        txn.cache(SLOTS).put(txn, slot, known)
    return known


def reach(height: int) -> int:
    """How far below it the parent of the snapshot at this height is: the largest power of 16 that divides it."""
    step = 1
    while height and height % (step * BASE) == 0:
        step *= BASE
    return step


@dataclass(frozen=True, slots=True)
class NewSnapshot:
    """A snapshot that has its place in the chain, but not yet its changes.

    :ivar inherited: what changed before it, since its parent: event_nid by slot_id.
    """

    snapshot_id: int
    height: int
    inherited: Mapping[int, int | None]


def place_snapshot(txn: Transaction, room_nid: int, *, parent_id: int, parent_height: int) -> NewSnapshot:
    """Make the snapshot that follows another; `fill_snapshot` must come next.

    :param parent_id: the snapshot it follows; 0 for the first of a room.
    :param parent_height: the height of that one; -1 for the first.
    """
    height = parent_height + 1
    step = reach(height)
    inherited: dict[int, int | None] = {}
    base_id: int | None = parent_id or None
    if step > 1:
        base_id, inherited = _gather(txn, parent_id, height - step)
    snapshot_id: int = txn.insert(
        "INSERT INTO state_snapshots (room_nid, parent_id, height) VALUES (?, ?, ?) RETURNING snapshot_id",
        (room_nid, base_id, height),
    )
    return NewSnapshot(snapshot_id, height, inherited)


def fill_snapshot(txn: Transaction, snapshot: NewSnapshot, changes: Mapping[int, int | None]) -> None:
    """Say by what a snapshot differs from the one it follows.

    :param changes: event_nid by slot_id; None takes a slot away.
    """
    for slot, event_nid in {**snapshot.inherited, **changes}.items():
        txn.execute(
            "INSERT INTO state_deltas (snapshot_id, slot_id, event_nid) VALUES (?, ?, ?)",
            (snapshot.snapshot_id, slot, event_nid),
        )


_CHAIN = (
    "WITH RECURSIVE chain (snapshot_id, parent_id, height) AS ("
    " SELECT snapshot_id, parent_id, height FROM state_snapshots WHERE snapshot_id = ?"
    " UNION ALL SELECT s.snapshot_id, s.parent_id, s.height FROM state_snapshots s"
    " JOIN chain c ON s.snapshot_id = c.parent_id WHERE c.height > ?)"
)


def _gather(txn: Transaction, snapshot_id: int, down_to: int) -> tuple[int, dict[int, int | None]]:
    """What changed from the ancestor at height `down_to` to a snapshot, and that ancestor."""
    rows = txn.all(
        f"{_CHAIN} SELECT c.snapshot_id, c.height, d.slot_id, d.event_nid FROM chain c"
        " LEFT JOIN state_deltas d ON d.snapshot_id = c.snapshot_id AND c.height > ? ORDER BY c.height",
        (snapshot_id, down_to, down_to),
    )
    ancestor_id: int = rows[0][0]
    changes = {slot: event_nid for _, _, slot, event_nid in rows if slot is not None}
    return ancestor_id, changes


def at_snapshot(txn: Transaction, snapshot_id: int) -> dict[int, int]:
    """The whole state of a snapshot: event_nid by slot_id."""
    rows = txn.all(
        f"{_CHAIN} SELECT d.slot_id, d.event_nid FROM chain c"
        " JOIN state_deltas d ON d.snapshot_id = c.snapshot_id ORDER BY c.height",
        (snapshot_id, -1),
    )
    return _nearest(rows)


def in_slots_at_snapshot(txn: Transaction, snapshot_id: int, slots: Iterable[int]) -> dict[int, int]:
    """Some slots of a snapshot: event_nid by slot_id."""
    wanted = list(slots)
    rows = txn.all(
        f"{_CHAIN} SELECT d.slot_id, d.event_nid FROM chain c"
        f" JOIN state_deltas d ON d.snapshot_id = c.snapshot_id AND d.slot_id IN ({placeholders(wanted)})"
        " ORDER BY c.height",
        (snapshot_id, -1, *wanted),
    )
    return _nearest(rows)


def _nearest(rows: Iterable[Row]) -> dict[int, int]:
    """What holds of the (slot_id, event_nid) of a chain, from its root upwards: the last word on each slot."""
    nearest: dict[int, int | None] = {row[0]: row[1] for row in rows}
    return {slot: event_nid for slot, event_nid in nearest.items() if event_nid is not None}


# The present.


def set_current(txn: Transaction, room_nid: int, slot: int, event_nid: int, membership: str | None) -> None:
    """Put an event into the current state of its room.

    :param membership: what an m.room.member event says; None for other types.
    """
    txn.execute(
        "INSERT INTO current_state (room_nid, slot_id, event_nid, membership) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (room_nid, slot_id) DO UPDATE"
        " SET event_nid = excluded.event_nid, membership = excluded.membership",
        (room_nid, slot, event_nid, membership),
    )


def current(txn: Transaction, room_nid: int) -> list[int]:
    """The event numbers of a room's whole current state, oldest first."""
    rows = txn.all("SELECT event_nid FROM current_state WHERE room_nid = ? ORDER BY event_nid", (room_nid,))
    return [row[0] for row in rows]


def current_in_slots(
    txn: Transaction, room_nids: Iterable[int], slots: Iterable[StateSlot]
) -> dict[tuple[int, StateSlot], int]:
    """Some slots of the current state of some rooms: event_nid by (room_nid, slot)."""
    numbers = {number: slot for slot in slots if (number := slot_id(txn, slot)) is not None}
    rooms = list(room_nids)
    rows = txn.all(
        "SELECT room_nid, slot_id, event_nid FROM current_state"
        f" WHERE room_nid IN ({placeholders(rooms)}) AND slot_id IN ({placeholders(list(numbers))})",
        (*rooms, *numbers),
    )
    return {(row[0], numbers[row[1]]): row[2] for row in rows}


def current_of_type(txn: Transaction, room_nid: int, event_type: str) -> list[int]:
    """The event numbers of a room's current state of one type, oldest first."""
    rows = txn.all(
        "SELECT c.event_nid FROM current_state c JOIN state_slots s ON s.slot_id = c.slot_id"
        " WHERE c.room_nid = ? AND s.type = ? ORDER BY c.event_nid",
        (room_nid, event_type),
    )
    return [row[0] for row in rows]


def delete_room(txn: Transaction, room_nid: int) -> None:
    """Take all state of a room out."""
    txn.execute("DELETE FROM current_state WHERE room_nid = ?", (room_nid,))
    txn.execute(
        "DELETE FROM state_deltas WHERE snapshot_id IN (SELECT snapshot_id FROM state_snapshots WHERE room_nid = ?)",
        (room_nid,),
    )
    txn.execute("DELETE FROM state_snapshots WHERE room_nid = ?", (room_nid,))
