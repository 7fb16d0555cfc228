"""The state of rooms: shared snapshots for every point in history, and one table for the present.

A snapshot is kept as the difference to its parent. Snapshots of a room form chains; the snapshot at height `n` has as
its parent the one at height `n - 16^k`, where `16^k` is the largest power of 16 that divides `n`, and holds what
changed between them. So a change is written once for each power of 16 below the number of changes (about four times
after ten thousand), and reading a state walks at most 15 snapshots for each: the tables neither explode nor grow slow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from synapse_like.protocol.events import StateSlot
from synapse_like.storage.caches import CacheKind
from synapse_like.storage.engines.engine import Row
from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import MOST_VALUES, batched, placeholders

BASE = 16
#: New slots that are remembered at one go; those of somebody who comes into a large room are not.
MOST_REMEMBERED = 500
SLOTS = CacheKind[StateSlot, int]("slots", 20_000)
MEMBER = "m.room.member"


def slot_id(txn: Transaction, slot: StateSlot) -> int | None:
    """The number of a (type, state key), or None if it was never used."""
    known = _known_slot_id(txn, slot)
    if known is not None:
        return known
    row = txn.one("SELECT slot_id FROM state_slots WHERE type = ? AND state_key = ?", slot)
    if row is None:
        return None
    txn.cache(SLOTS).put(txn, slot, row[0])
    number: int = row[0]
    return number


def _known_slot_id(txn: Transaction, slot: StateSlot) -> int | None:
    """The number of a slot, if it is in memory; what this transaction has given out is not yet among the copies."""
    known = txn.slots.get(slot)
    return known if known is not None else txn.cache(SLOTS).get(slot)


def name_of_slot(slot: StateSlot) -> str:
    """By which name it is held who gives a slot its number (`Transaction.hold_names`)."""
    return f"slot {slot}"


def make_slot_id(txn: Transaction, slot: StateSlot) -> int:
    """The number of a (type, state key), given to it now if it has none."""
    held = txn.holds_name(name_of_slot(slot))
    known = slot_id(txn, slot)
    if known is None and not held:
        # Two rooms may come to have it at once, and neither must wait for the other's commit.
        txn.hold_names(name_of_slot(slot))
        known = slot_id(txn, slot)
    if known is None:
        known = txn.insert("INSERT INTO state_slots (type, state_key) VALUES (?, ?) RETURNING slot_id", slot)
        txn.slots[slot] = known
        txn.cache(SLOTS).put(txn, slot, known)
    return known


def make_slot_ids(txn: Transaction, slots: Collection[StateSlot]) -> dict[StateSlot, int]:
    """The numbers of many slots, given to those now that have none."""
    numbers = {slot: number for slot in slots if (number := _known_slot_id(txn, slot)) is not None}
    new = [slot for slot in slots if slot not in numbers]
    if not new:
        return numbers
    txn.insert_rows("INSERT INTO state_slots (type, state_key)", new, "ON CONFLICT (type, state_key) DO NOTHING")
    for part in batched(new, MOST_VALUES // 2):
        pairs = ", ".join(["(?, ?)"] * len(part))
        rows = txn.all(
            f"SELECT type, state_key, slot_id FROM state_slots WHERE (type, state_key) IN (VALUES {pairs})",
            [text for slot in part for text in slot],
        )
        numbers.update(((row[0], row[1]), row[2]) for row in rows)
    if len(new) <= MOST_REMEMBERED:
        for slot in new:
            txn.cache(SLOTS).put(txn, slot, numbers[slot])
    return numbers


def reach(height: int) -> int:
    """How far below it the parent of the snapshot at this height is: the largest power of 16 that divides it."""
    step = 1
    while height and height % (step * BASE) == 0:
        step *= BASE
    return step


class Snapshot(Struct, frozen=True):
    """A state of a room, and how many snapshots lie below it."""

    snapshot_id: int
    height: int


#: The state of a room without events.
NOTHING = Snapshot(0, -1)


def snapshot(txn: Transaction, snapshot_id: int) -> Snapshot:
    """A snapshot by its number; 0 is `NOTHING`."""
    if snapshot_id == NOTHING.snapshot_id:
        return NOTHING
    row = txn.one("SELECT height FROM state_snapshots WHERE snapshot_id = ?", (snapshot_id,))
    assert row is not None, "a snapshot that an event names is there"
    return Snapshot(snapshot_id, row[0])


def snapshots_after(txn: Transaction, event_nids: Collection[int]) -> dict[int, Snapshot]:
    """The states after some events that have one, by the number of the event."""
    found: dict[int, Snapshot] = {}
    for part in batched(event_nids):
        rows = txn.all(
            "SELECT e.event_nid, s.snapshot_id, s.height FROM events e"
            f" JOIN state_snapshots s ON s.snapshot_id = e.snapshot_after WHERE e.event_nid IN ({placeholders(part)})",
            part,
        )
        found.update((row[0], Snapshot(row[1], row[2])) for row in rows)
    return found


class NewSnapshot(Struct, frozen=True):
    """A snapshot that has its place in the chain, but not yet its changes.

    :ivar inherited: what changed before it, since its parent: event_nid by slot_id.
    """

    snapshot: Snapshot
    inherited: Mapping[int, int | None]


def place_snapshot(txn: Transaction, room_nid: int, *, after: Snapshot) -> NewSnapshot:
    """Make the snapshot that follows another; `fill_snapshot` must come next."""
    height = after.height + 1
    step = reach(height)
    inherited: dict[int, int | None] = {}
    base_id: int | None = after.snapshot_id or None
    if step > 1:
        base_id, inherited = _gather(txn, after.snapshot_id, height - step)
    snapshot_id: int = txn.insert(
        "INSERT INTO state_snapshots (room_nid, parent_id, height) VALUES (?, ?, ?) RETURNING snapshot_id",
        (room_nid, base_id, height),
    )
    return NewSnapshot(Snapshot(snapshot_id, height), inherited)


def fill_snapshot(txn: Transaction, new: NewSnapshot, changes: Mapping[int, int | None]) -> None:
    """Say by what a snapshot differs from the one it follows.

    :param changes: event_nid by slot_id; None takes a slot away.
    """
    rows = [(new.snapshot.snapshot_id, slot, event_nid) for slot, event_nid in {**new.inherited, **changes}.items()]
    txn.insert_rows("INSERT INTO state_deltas (snapshot_id, slot_id, event_nid)", rows)


#: Whole states in memory, for rooms that have forked; the entries of all of them together.
STATES = CacheKind[int, Mapping[StateSlot, str]]("states", 50_000, weigh=lambda ids: len(ids) + 10)


def ids_at(txn: Transaction, snapshot_id: int) -> Mapping[StateSlot, str]:
    """The whole state of a snapshot: event ID by slot. It must not be changed.

    The forks of a room differ by little, so of its chain only what lies above a state in memory is read.
    """
    cache = txn.cache(STATES)
    kept = cache.get(snapshot_id)
    if kept is not None:
        return kept
    below: Mapping[StateSlot, str] = {}
    above: list[int] = []
    for (number,) in txn.all(f"{_CHAIN} SELECT snapshot_id FROM chain ORDER BY height DESC", (snapshot_id, -1)):
        kept = cache.get(number)
        if kept is not None:
            below = kept
            break
        above.append(number)
    ids: dict[StateSlot, str] = dict(below)
    for slot, event_id in _deltas(txn, above):
        if event_id is None:
            ids.pop(slot, None)
        else:
            ids[slot] = event_id
    remember_ids(txn, snapshot_id, ids)
    return ids


def remember_ids(txn: Transaction, snapshot_id: int, ids: Mapping[StateSlot, str]) -> None:
    """Keep the whole state of a snapshot in memory, for the rest of this transaction, too."""
    cache = txn.cache(STATES)
    if not txn.writable:
        cache.put(txn, snapshot_id, ids)
        return
    # Nobody else asks for a snapshot that is not committed; if it never is, its number will be another one's.
    cache.keep(snapshot_id, ids)
    txn.when_rolled_back(lambda: cache.forget(snapshot_id))


def _deltas(txn: Transaction, snapshot_ids: Sequence[int]) -> Iterator[tuple[StateSlot, str | None]]:
    """What some snapshots of one chain changed, the oldest change first: slot and event ID."""
    rows: list[Row] = []
    for part in batched(snapshot_ids):
        rows += txn.all(
            "SELECT p.height, s.type, s.state_key, e.event_id FROM state_snapshots p"
            " JOIN state_deltas d ON d.snapshot_id = p.snapshot_id JOIN state_slots s ON s.slot_id = d.slot_id"
            f" LEFT JOIN events e ON e.event_nid = d.event_nid WHERE p.snapshot_id IN ({placeholders(part)})",
            part,
        )
    for _, event_type, state_key, event_id in sorted(rows, key=lambda row: row[0]):
        yield (event_type, state_key), event_id


def derive(txn: Transaction, room_nid: int, parent: Snapshot, changes: Mapping[StateSlot, int | None]) -> Snapshot:
    """A snapshot that differs from another in some slots.

    :param changes: event_nid by slot; None where nothing holds any more.
    """
    new = place_snapshot(txn, room_nid, after=parent)
    numbers = make_slot_ids(txn, changes.keys())
    fill_snapshot(txn, new, {numbers[slot]: event_nid for slot, event_nid in changes.items()})
    return new.snapshot


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


def set_current(txn: Transaction, room_nid: int, held: Iterable[tuple[int, int, str | None]]) -> None:
    """Put events into the current state of their room.

    :param held: of each the number of its slot, its own, and what it says if it is an m.room.member.
    """
    txn.insert_rows(
        "INSERT INTO current_state (room_nid, slot_id, event_nid, membership)",
        [(room_nid, *item) for item in held],
        "ON CONFLICT (room_nid, slot_id) DO UPDATE"
        " SET event_nid = excluded.event_nid, membership = excluded.membership",
    )


def unset_current(txn: Transaction, room_nid: int, slot: int) -> None:
    """Take a slot out of the current state of its room."""
    txn.execute_later("DELETE FROM current_state WHERE room_nid = ? AND slot_id = ?", (room_nid, slot))


def current(txn: Transaction, room_nid: int) -> list[int]:
    """The event numbers of a room's whole current state, oldest first."""
    rows = txn.all("SELECT event_nid FROM current_state WHERE room_nid = ? ORDER BY event_nid", (room_nid,))
    return [row[0] for row in rows]


def current_of_rooms(txn: Transaction, room_nids: Collection[int]) -> dict[int, list[int]]:
    """The same of some rooms, by their numbers."""
    found: dict[int, list[int]] = {room_nid: [] for room_nid in room_nids}
    for part in batched(list(found)):
        rows = txn.all(
            "SELECT room_nid, event_nid FROM current_state"
            f" WHERE room_nid IN ({placeholders(part)}) ORDER BY event_nid",
            part,
        )
        for room_nid, event_nid in rows:
            found[room_nid].append(event_nid)
    return found


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
    txn.execute_later("DELETE FROM current_state WHERE room_nid = ?", (room_nid,))
    txn.execute(
        "DELETE FROM state_deltas WHERE snapshot_id IN (SELECT snapshot_id FROM state_snapshots WHERE room_nid = ?)",
        (room_nid,),
    )
    txn.execute("DELETE FROM state_snapshots WHERE room_nid = ?", (room_nid,))
