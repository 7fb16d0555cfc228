"""Events as rows: putting them in, reading them with what belongs to them, taking redacted data out.

An event that was accepted when it arrived has a *position* in the stream of events and a *place* in the timeline of its
room, `GAP` times the position. What belongs before an event that is here already gets a place between: if it is news,
it has a position all the same, by which everybody is told of it late; history from before this server came has none.
An event without snapshots is an *outlier*: known as part of an auth chain or of a state, but without a place in
history. The timeline shows neither outliers nor what was rejected or soft-failed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple, cast

from msgspec import Struct

from synapse_like.protocol.canonical_json import decode
from synapse_like.protocol.errors import TooLarge
from synapse_like.protocol.events import Event, Pdu
from synapse_like.protocol.room_versions import rules_for
from synapse_like.protocol.wire_formats import read_pdu
from synapse_like.storage import positions
from synapse_like.storage.caches import CacheKind
from synapse_like.storage.shared.lanes import LaneTaken, lane_of
from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import batched, placeholders

STREAM = "events"

#: Bytes of events that are wanted whole at the most: the state of a room with a hundred thousand members, for instance.
MOST_WHOLE_BYTES = 64 * 1024 * 1024
#: Events that are loaded at a time where that is looked at.
LOADED_AT_ONCE = 500

#: Places between two events that follow each other in the stream of events.
GAP = 2**20

_INSERT = (
    "INSERT INTO events"
    " (event_id, room_nid, place, snapshot_before, snapshot_after, replaces, standing, is_outgoing, position, pdu)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    # What it says stays as it was first stored: it may have been redacted since.
    " ON CONFLICT (event_id) DO UPDATE SET place = excluded.place, snapshot_before = excluded.snapshot_before,"
    " snapshot_after = excluded.snapshot_after, replaces = excluded.replaces, standing = excluded.standing,"
    " is_outgoing = excluded.is_outgoing, position = excluded.position"
    " WHERE events.room_nid = excluded.room_nid RETURNING event_nid, redacted_by,"
    " EXISTS (SELECT 1 FROM redactions_ahead WHERE target = event_id)"
)


class Standing(IntEnum):
    """What this server makes of an event.

    `SOFT_FAILED`: allowed by its own past, but not by the room as it is now; kept for those who build on it, and shown
    to nobody. `REJECTED`: not allowed; allows nothing.
    """

    ACCEPTED = 0
    SOFT_FAILED = 1
    REJECTED = 2


class StoredEvent(Struct, eq=False):
    """An event with what a reader is shown beside it.

    :ivar place: where it stands in its room's timeline; None if it is not shown to clients.
    :ivar told_at: its position in the stream of events, if it came late and its place does not say it.
    :ivar replaced: the state event that this one replaced.
    :ivar redacted_because: the redaction that stripped this event; it stands alone, whatever became of it since.
    :ivar size: of its wire form, in bytes.
    :ivar renderings: what a client dialect has made of it, by dialect, so that it is encoded once for all who read it;
        None before the first.
    """

    event_nid: int
    room_nid: int
    place: int | None
    event: Event
    replaced: Event | None = None
    redacted_because: Event | None = None
    size: int = 0
    told_at: int | None = None
    renderings: dict[str, bytes] | None = None

    @property
    def position(self) -> int:
        """Its position in the stream of events.

        :raises ValueError: it has none: nobody was told of it.
        """
        if self.told_at is not None:
            return self.told_at
        if self.place is None or self.place % GAP:
            raise ValueError(f"{self.event.event_id} is not in the stream of events")
        return self.place // GAP


#: What an event in memory costs beyond the size of its wire form, with what clients are shown of it, for the bounds of
#: what is kept: roughly, in bytes.
OVERHEAD = 1200
EVENTS = CacheKind[int, StoredEvent](
    "events", 8 * 1024 * 1024, weigh=lambda stored: stored.size + OVERHEAD, in_bytes=True
)


def next_position(txn: Transaction) -> int:
    """The position of the next event that everybody is told of."""
    return positions.take(txn, STREAM)


def next_place(txn: Transaction) -> int:
    """The place of the next event that everybody is told of, if it comes in time."""
    return next_position(txn) * GAP


class Inserted(NamedTuple):
    """An event that has just been put in.

    :ivar is_awaited: whether redactions have waited for it (`redactions_ahead`).
    """

    stored: StoredEvent
    is_awaited: bool


def insert(
    txn: Transaction,
    room_nid: int,
    event: Event,
    pdu: bytes,
    *,
    place: int | None,
    snapshot_before: int | None,
    snapshot_after: int | None,
    replaced: StoredEvent | None = None,
    standing: Standing = Standing.ACCEPTED,
    is_outgoing: bool = False,
    told_at: int | None = None,
) -> Inserted:
    """Add an event, or give one that was an outlier its place in history; as it is here then, redacted if it was.

    :param pdu: its wire form.
    :param place: in the timeline; None if it is not to be shown.
    :param snapshot_before: the state that it saw; 0 for the first event of a room, None if that is not known.
    :param snapshot_after: the state with it; the same for an event that is not state.
    :param replaced: the state event that it replaces.
    :param is_outgoing: does this server see to it that the other servers in the room get it?
    :param told_at: its position in the stream of events, if its place does not say it.
    """
    values = (
        event.event_id,
        room_nid,
        place,
        snapshot_before,
        snapshot_after,
        replaced.event_nid if replaced is not None else None,
        int(standing),
        int(is_outgoing),
        told_at,
        pdu,
    )
    rows = txn.execute_now(_INSERT, values)
    if not rows:
        # At this moment another process put it into another room: a server may choose the IDs of its events.
        raise LaneTaken(lane_of(event.event_id))
    [(event_nid, redacted_by, is_awaited)] = rows
    replaced_event = replaced.event if replaced is not None else None
    stored = StoredEvent(event_nid, room_nid, place, event, replaced_event, size=len(pdu), told_at=told_at)
    if redacted_by is not None:
        [stored] = _load_rows(txn, [event_nid])
    txn.cache(EVENTS).put(txn, event_nid, stored)
    txn.known_events[event.event_id] = Known(event_nid, room_nid, place, snapshot_after, standing)
    return Inserted(stored, bool(is_awaited))


def tell_late(txn: Transaction, event_nid: int) -> StoredEvent:
    """Give an event that came late its position in the stream of events; and its place by that, if it has none."""
    position = next_position(txn)
    txn.execute(
        "UPDATE events SET position = CASE WHEN place IS NULL THEN NULL ELSE ? END, place = COALESCE(place, ?)"
        " WHERE event_nid = ?",
        (position, position * GAP, event_nid),
    )
    [stored] = _load_rows(txn, [event_nid])
    txn.cache(EVENTS).put(txn, event_nid, stored)
    txn.known_events.pop(stored.event.event_id, None)
    return stored


def insert_outliers(
    txn: Transaction, room_nid: int, outliers: Sequence[tuple[Event, bytes, Standing]]
) -> dict[str, int]:
    """Add many events that are known without a place in history; their numbers, by ID.

    :param outliers: events that are not here yet, their wire forms and standings.
    """
    rows = txn.insert_rows(
        "INSERT INTO events (event_id, room_nid, standing, pdu)",
        [(event.event_id, room_nid, int(standing), pdu) for event, pdu, standing in outliers],
        "RETURNING event_id, event_nid",
    )
    for event, _, _ in outliers:
        txn.known_events.pop(event.event_id, None)
    return {row[0]: row[1] for row in rows}


def load(txn: Transaction, event_nids: Sequence[int], *, remember: bool = True) -> list[StoredEvent]:
    """Events by their numbers, in the order asked for; a number without an event is left out.

    :param remember: keep copies of those that are read; not for old history, which would drive out what is in use.
    """
    cache = txn.cache(EVENTS)
    found: dict[int, StoredEvent] = {}
    if EVENTS not in txn.outdated:
        found = {nid: stored for nid in event_nids if (stored := cache.get(nid)) is not None}
    missing = [nid for nid in event_nids if nid not in found]
    if missing:
        loaded = _load_rows(txn, missing)
        for stored in loaded:
            if remember:
                cache.put(txn, stored.event_nid, stored)
            found[stored.event_nid] = stored
    return [found[nid] for nid in event_nids if nid in found]


def load_within(txn: Transaction, event_nids: Sequence[int], most_bytes: int) -> list[StoredEvent]:
    """The first of some events, as many as have so many bytes together, and perhaps some more."""
    found: list[StoredEvent] = []
    size = 0
    for part in batched(event_nids, LOADED_AT_ONCE):
        if size >= most_bytes:
            break
        loaded = load(txn, part)
        found += loaded
        size += sum(stored.size for stored in loaded)
    return found


def load_whole(txn: Transaction, event_nids: Sequence[int]) -> list[StoredEvent]:
    """Events of which none may be missing, such as the state of a room.

    :raises TooLarge: they are too many, or too large, to be held in memory.
    """
    found = load_within(txn, event_nids, MOST_WHOLE_BYTES)
    if len(found) < len(event_nids):
        raise _too_large()
    return found


def _too_large() -> TooLarge:
    return TooLarge(f"This would be more than {MOST_WHOLE_BYTES} bytes.")


def _load_rows(txn: Transaction, event_nids: Collection[int]) -> list[StoredEvent]:
    rows = []
    for part in batched(event_nids):
        rows += txn.all(
            "SELECT e.event_nid, e.room_nid, e.place, e.replaces, e.redacted_by, e.pdu, r.version,"
            " e.event_id, e.position FROM events e JOIN rooms r ON r.room_nid = e.room_nid"
            f" WHERE e.event_nid IN ({placeholders(part)})",
            part,
        )
    replaced = _decoded(txn, {row[3] for row in rows if row[3] is not None})
    because = _decoded(txn, {row[4] for row in rows if row[4] is not None})
    return [
        StoredEvent(
            nid,
            room_nid,
            place,
            _decode(pdu, version, event_id),
            replaced.get(replaces),
            because.get(redacted_by),
            size=len(pdu),
            told_at=told_at,
        )
        for nid, room_nid, place, replaces, redacted_by, pdu, version, event_id, told_at in rows
    ]


def _decoded(txn: Transaction, event_nids: Collection[int]) -> dict[int, Event]:
    """Events without what belongs to them."""
    rows = []
    for part in batched(event_nids):
        rows += txn.all(
            "SELECT e.event_nid, e.pdu, r.version, e.event_id FROM events e JOIN rooms r ON r.room_nid = e.room_nid"
            f" WHERE e.event_nid IN ({placeholders(part)})",
            part,
        )
    return {row[0]: _decode(row[1], row[2], row[3]) for row in rows}


def _decode(pdu: bytes, version: str, event_id: str) -> Event:
    return read_pdu(rules_for(version), cast(Pdu, decode(pdu)), event_id)


def find(txn: Transaction, event_id: str) -> StoredEvent | None:
    """An event by its ID, or None."""
    row = txn.one("SELECT event_nid FROM events WHERE event_id = ?", (event_id,))
    if row is None:
        return None
    found = load(txn, [row[0]])
    return found[0] if found else None


class Known(Struct, frozen=True):
    """What this server made of an event that it has.

    :ivar snapshot_after: the state with it; None for an outlier.
    """

    event_nid: int
    room_nid: int
    place: int | None
    snapshot_after: int | None
    standing: Standing

    @property
    def is_judged(self) -> bool:
        """Is it settled what it is, so that it is not judged when it comes again?"""
        return self.standing is not Standing.ACCEPTED or self.place is not None or self.snapshot_after is not None

    @property
    def is_history(self) -> bool:
        """Is it a part of its room's history that others may be told of?"""
        if self.standing is Standing.SOFT_FAILED:
            return self.snapshot_after is not None
        return self.standing is Standing.ACCEPTED and self.place is not None


def known(txn: Transaction, event_ids: Iterable[str]) -> dict[str, Known]:
    """Those of some events that this server has, by ID. What a transaction has asked once it knows."""
    event_ids = set(event_ids)
    for part in batched([event_id for event_id in event_ids if event_id not in txn.known_events]):
        txn.known_events.update(dict.fromkeys(part))
        rows = txn.all(
            "SELECT event_id, event_nid, room_nid, place, snapshot_after, standing FROM events"
            f" WHERE event_id IN ({placeholders(part)})",
            part,
        )
        for event_id, event_nid, room_nid, place, snapshot_after, standing in rows:
            txn.known_events[event_id] = Known(event_nid, room_nid, place, snapshot_after, Standing(standing))
    return {event_id: item for event_id in event_ids if (item := txn.known_events[event_id]) is not None}


def unplaced(txn: Transaction, event_ids: Iterable[str]) -> list[str]:
    """Those of some events that are missing from history: not here, or only as a part of some state."""
    event_ids = list(event_ids)
    here = known(txn, event_ids)
    return [event_id for event_id in event_ids if event_id not in here or not here[event_id].is_judged]


def by_ids(txn: Transaction, event_ids: Iterable[str], *, remember: bool = False) -> dict[str, StoredEvent]:
    """Those of some events that this server has, by ID, with what they say."""
    nids = [item.event_nid for item in known(txn, event_ids).values()]
    return {stored.event.event_id: stored for stored in load(txn, nids, remember=remember)}


def auth_events(txn: Transaction, event_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The IDs of the events that some events rest on, by the ID of the event."""
    found: dict[str, tuple[str, ...]] = {}
    for part in batched(event_ids):
        rows = txn.all(
            "SELECT e.pdu, r.version, e.event_id FROM events e JOIN rooms r ON r.room_nid = e.room_nid"
            f" WHERE e.event_id IN ({placeholders(part)})",
            part,
        )
        found.update((row[2], _decode(*row).auth_events) for row in rows)
    return found


def pdus(txn: Transaction, event_ids: Iterable[str]) -> dict[str, bytes]:
    """The wire forms of those of some events that are here and were not rejected, by ID.

    :raises TooLarge: they are too many, or too large, to be held in memory.
    """
    found: dict[str, bytes] = {}
    size = 0
    for part in batched(event_ids):
        rows = txn.all(
            f"SELECT event_id, pdu FROM events WHERE event_id IN ({placeholders(part)}) AND standing != ?",
            (*part, int(Standing.REJECTED)),
        )
        found.update((row[0], bytes(row[1])) for row in rows)
        size += sum(len(row[1]) for row in rows)
        if size > MOST_WHOLE_BYTES:
            raise _too_large()
    return found


def ids_of(txn: Transaction, event_nids: Collection[int]) -> dict[int, str]:
    """The IDs of some events, by number."""
    found: dict[int, str] = {}
    for part in batched(event_nids):
        rows = txn.all(f"SELECT event_nid, event_id FROM events WHERE event_nid IN ({placeholders(part)})", part)
        found.update((row[0], row[1]) for row in rows)
    return found


def forget_copies(txn: Transaction) -> None:
    """Events have changed that may be in memory, by themselves or within others."""
    txn.known_events.clear()
    txn.outdated.add(EVENTS)
    txn.cache(EVENTS).drop_all(txn)


def redact(txn: Transaction, target: StoredEvent, stripped_pdu: bytes, *, because: StoredEvent) -> None:
    """Replace an event by its stripped form, for good."""
    txn.execute(
        "UPDATE events SET pdu = ?, redacted_by = ? WHERE event_nid = ?",
        (stripped_pdu, because.event_nid, target.event_nid),
    )
    # Not only its own copy: the event that replaced it shows its content, too.
    forget_copies(txn)


def wait_for_target(txn: Transaction, redaction: StoredEvent, target: str) -> None:
    """Remember a redaction whose target is not here yet."""
    txn.execute(
        "INSERT INTO redactions_ahead (target, event_nid) VALUES (?, ?) ON CONFLICT DO NOTHING",
        (target, redaction.event_nid),
    )


def redactions_ahead(txn: Transaction, target: str) -> list[StoredEvent]:
    """The redactions that waited for an event; they do not any more."""
    rows = txn.all("SELECT event_nid FROM redactions_ahead WHERE target = ? ORDER BY event_nid", (target,))
    if rows:
        txn.execute("DELETE FROM redactions_ahead WHERE target = ?", (target,))
    return load(txn, [row[0] for row in rows])


def current_position(txn: Transaction) -> int:
    """The newest position of the stream, as this transaction sees it."""
    return positions.current(txn, STREAM)


def snapshots_of(txn: Transaction, event_nid: int) -> tuple[int | None, int | None]:
    """The snapshots of the state before an event and after it; None where they are not known."""
    row = txn.one("SELECT snapshot_before, snapshot_after FROM events WHERE event_nid = ?", (event_nid,))
    assert row is not None
    return row[0], row[1]


def delete_room(txn: Transaction, room_nid: int) -> int:
    """Take every event of a room out; the number of them."""
    forget_copies(txn)
    of_room = "(SELECT event_nid FROM events WHERE room_nid = ?)"
    txn.execute(f"DELETE FROM redactions_ahead WHERE event_nid IN {of_room}", (room_nid,))
    return txn.execute("DELETE FROM events WHERE room_nid = ?", (room_nid,)).rowcount
