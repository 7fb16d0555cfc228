"""The state of a room where forks of its history meet.

An event that comes after several others sees the state in which theirs are resolved; so does the head of a room with
several newest events. Where all of them have the same state, as nearly always, nothing is read or resolved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from synapse_like.protocol.events import Event
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.state_conflicts import Explain
from synapse_like.protocol.state_resolution import MissingEvents, StateIds, resolve
from synapse_like.storage import events, state
from synapse_like.storage.rooms import RoomHead
from synapse_like.storage.state import Snapshot
from synapse_like.storage.transactions import Transaction

#: How many merged states a room remembers.
MOST_MERGED = 20


def merge(txn: Transaction, room: RoomHead, snapshots: Iterable[Snapshot]) -> Snapshot:
    """The state that several states of a room make together.

    :param snapshots: at least one.
    """
    different = sorted({snapshot.snapshot_id: snapshot for snapshot in snapshots}.values(), key=lambda one: one.height)
    if len(different) == 1:
        return different[0]
    known = tuple(snapshot.snapshot_id for snapshot in different)
    merged = room.merged.get(known)
    if merged is None:
        ends = [state.ids_at(txn, snapshot.snapshot_id) for snapshot in different]
        merged = keep(txn, room, resolve_ids(txn, room.rules, ends), [room.snapshot, *different])
        while len(room.merged) >= MOST_MERGED:
            del room.merged[next(iter(room.merged))]
        room.merged[known] = merged
    return merged


def snapshot_by_id(txn: Transaction, room: RoomHead, snapshot_id: int) -> Snapshot:
    """A snapshot of a room by its number; nothing is read for those at its head."""
    for extremity in room.extremities:
        if extremity.after.snapshot_id == snapshot_id:
            return extremity.after
    return room.snapshot if room.snapshot.snapshot_id == snapshot_id else state.snapshot(txn, snapshot_id)


def keep(txn: Transaction, room: RoomHead, ids: StateIds, near: Sequence[Snapshot]) -> Snapshot:
    """A snapshot of a state, whose events are all here.

    :param near: snapshots that it may resemble; it is kept as the difference to the nearest.
    """
    parent, changed = state.NOTHING, set(ids)
    for snapshot in near:
        differing = {slot for slot, _ in ids.items() ^ state.ids_at(txn, snapshot.snapshot_id).items()}
        if not differing:
            return snapshot
        if len(differing) < len(changed) or parent is state.NOTHING:
            parent, changed = snapshot, differing
    held = {slot: ids.get(slot) for slot in changed}
    found = events.known(txn, [event_id for event_id in held.values() if event_id is not None])
    snapshot = state.derive(
        txn,
        room.room_nid,
        parent,
        {slot: found[event_id].event_nid if event_id is not None else None for slot, event_id in held.items()},
    )
    state.remember_ids(txn, snapshot.snapshot_id, ids)
    return snapshot


def resolve_ids(
    txn: Transaction,
    rules: RoomRules,
    ends: Sequence[StateIds],
    explain: Explain | None = None,
    also: Event | None = None,
) -> StateIds:
    """Resolve several states, all of whose events are here.

    :param also: an event that is not here yet.
    :raises MissingEvents: an event that decides was never stored.
    """
    known = StoredEvents(txn, [] if also is None else [also])
    while True:
        try:
            return resolve(rules, ends, known, explain=explain)
        except MissingEvents as missing:
            if not known.add_with_auth_chains(missing.ids):
                raise


class StoredEvents(Mapping[str, Event]):
    """Events of a room by ID, read in batches with their auth chains."""

    def __init__(self, txn: Transaction, given: Iterable[Event] = ()) -> None:
        self._txn = txn
        self._events = {event.event_id: event for event in given}

    def add_with_auth_chains(self, ids: Iterable[str]) -> bool:
        """Read some events and all that they rest on; False if there was nothing new among them."""
        before = len(self._events)
        wanted = set(ids)
        while wanted:
            found = events.by_ids(self._txn, sorted(wanted), remember=True)
            self._events.update((event_id, stored.event) for event_id, stored in found.items())
            cited = {cited for stored in found.values() for cited in stored.event.auth_events}
            wanted = cited - self._events.keys()
        return len(self._events) > before

    def __getitem__(self, event_id: str) -> Event:
        return self._events[event_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._events)

    def __len__(self) -> int:
        return len(self._events)
