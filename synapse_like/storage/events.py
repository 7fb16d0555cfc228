"""Events as rows: putting them in, reading them with what belongs to them, taking redacted data out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from synapse_like.protocol import canonical_json
from synapse_like.protocol.events import Event
from synapse_like.protocol.room_versions import rules_for
from synapse_like.protocol.wire_formats import read_pdu
from synapse_like.storage import positions
from synapse_like.storage.caches import CacheKind
from synapse_like.storage.database import Transaction
from synapse_like.storage.engines import placeholders

STREAM = "events"


@dataclass(slots=True, eq=False)
class StoredEvent:
    """An event with what a reader is shown beside it.

    :ivar position: its place in the stream of events; None if it is not shown to clients.
    :ivar replaced: the state event that this one replaced.
    :ivar redacted_because: the redaction that stripped this event; it stands alone, whatever became of it since.
    :ivar size: of its wire form, in bytes.
    :ivar renderings: what a client dialect has made of it, by dialect, so that it is encoded once for all who read it.
    """

    event_nid: int
    room_nid: int
    position: int | None
    event: Event
    replaced: Event | None = None
    redacted_because: Event | None = None
    size: int = 0
    renderings: dict[str, bytes] = field(default_factory=dict)


#: What an event in memory costs beside its content, for the bounds of what is kept: roughly, in bytes.
OVERHEAD = 1000
EVENTS = CacheKind[int, StoredEvent]("events", 8 * 1024 * 1024, weigh=lambda stored: stored.size + OVERHEAD)


def insert(
    txn: Transaction,
    room_nid: int,
    event: Event,
    pdu: bytes,
    *,
    snapshot_before: int,
    snapshot_after: int,
    replaced: StoredEvent | None,
) -> StoredEvent:
    """Add an event at the end of the stream.

    :param pdu: its wire form.
    :param snapshot_before: the state that it saw; 0 for the first event of a room.
    :param snapshot_after: the state with it; the same for an event that is not state.
    :param replaced: the state event that it replaces.
    """
    position = positions.take(txn, STREAM)
    event_nid = txn.insert(
        "INSERT INTO events (event_id, room_nid, position, snapshot_before, snapshot_after, replaces, pdu)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING event_nid",
        (
            event.event_id,
            room_nid,
            position,
            snapshot_before,
            snapshot_after,
            replaced.event_nid if replaced is not None else None,
            pdu,
        ),
    )
    replaced_event = replaced.event if replaced is not None else None
    stored = StoredEvent(event_nid, room_nid, position, event, replaced_event, size=len(pdu))
    txn.cache(EVENTS).put(txn, event_nid, stored)
    return stored


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


def _load_rows(txn: Transaction, event_nids: Collection[int]) -> list[StoredEvent]:
    rows = txn.all(
        "SELECT e.event_nid, e.room_nid, e.position, e.replaces, e.redacted_by, e.pdu, r.version, e.event_id"
        " FROM events e JOIN rooms r ON r.room_nid = e.room_nid"
        f" WHERE e.event_nid IN ({placeholders(list(event_nids))})",
        list(event_nids),
    )
    replaced = _decoded(txn, {row[3] for row in rows if row[3] is not None})
    because = _decoded(txn, {row[4] for row in rows if row[4] is not None})
    return [
        StoredEvent(
            nid,
            room_nid,
            position,
            _decode(pdu, version, event_id),
            replaced.get(replaces),
            because.get(redacted_by),
            size=len(pdu),
        )
        for nid, room_nid, position, replaces, redacted_by, pdu, version, event_id in rows
    ]


def _decoded(txn: Transaction, event_nids: Collection[int]) -> dict[int, Event]:
    """Events without what belongs to them."""
    if not event_nids:
        return {}
    rows = txn.all(
        "SELECT e.event_nid, e.pdu, r.version, e.event_id FROM events e JOIN rooms r ON r.room_nid = e.room_nid"
        f" WHERE e.event_nid IN ({placeholders(list(event_nids))})",
        list(event_nids),
    )
    return {row[0]: _decode(row[1], row[2], row[3]) for row in rows}


def _decode(pdu: bytes, version: str, event_id: str) -> Event:
    rules = rules_for(version)
    return read_pdu(rules, canonical_json.decode(pdu, strict=rules.strict_canonical_json), event_id)


def find(txn: Transaction, event_id: str) -> StoredEvent | None:
    """An event by its ID, or None."""
    row = txn.one("SELECT event_nid FROM events WHERE event_id = ?", (event_id,))
    if row is None:
        return None
    found = load(txn, [row[0]])
    return found[0] if found else None


def _forget_copies(txn: Transaction) -> None:
    txn.outdated.add(EVENTS)
    txn.cache(EVENTS).drop_all(txn)


def redact(txn: Transaction, target: StoredEvent, stripped_pdu: bytes, *, because: StoredEvent) -> None:
    """Replace an event by its stripped form, for good."""
    txn.execute(
        "UPDATE events SET pdu = ?, redacted_by = ? WHERE event_nid = ?",
        (stripped_pdu, because.event_nid, target.event_nid),
    )
    # Not only its own copy: the event that replaced it shows its content, too.
    _forget_copies(txn)


def since(
    txn: Transaction, room_nids: Collection[int], *, after: int, up_to: int, limit: int
) -> list[tuple[int, int, int]]:
    """What is new in some rooms: (position, room_nid, event_nid) with after < position <= up_to, oldest first."""
    if not room_nids or after >= up_to:
        return []
    rows = txn.all(
        "SELECT position, room_nid, event_nid FROM events"
        f" WHERE room_nid IN ({placeholders(list(room_nids))}) AND position > ? AND position <= ?"
        " ORDER BY position LIMIT ?",
        (*room_nids, after, up_to, limit),
    )
    return [(row[0], row[1], row[2]) for row in rows]


def page_back(txn: Transaction, room_nid: int, *, before_or_at: int, after: int, limit: int) -> list[tuple[int, int]]:
    """(position, event_nid) of a room, newest first: after < position <= before_or_at."""
    rows = txn.all(
        "SELECT position, event_nid FROM events WHERE room_nid = ? AND position <= ? AND position > ?"
        " ORDER BY position DESC LIMIT ?",
        (room_nid, before_or_at, after, limit),
    )
    return [(row[0], row[1]) for row in rows]


def page_forward(
    txn: Transaction, room_nid: int, *, after: int, before_or_at: int, limit: int
) -> list[tuple[int, int]]:
    """(position, event_nid) of a room, oldest first: after < position <= before_or_at."""
    rows = txn.all(
        "SELECT position, event_nid FROM events WHERE room_nid = ? AND position > ? AND position <= ?"
        " ORDER BY position LIMIT ?",
        (room_nid, after, before_or_at, limit),
    )
    return [(row[0], row[1]) for row in rows]


def current_position(txn: Transaction) -> int:
    """The newest position of the stream, as this transaction sees it."""
    return positions.current(txn, STREAM)


def snapshot_at(txn: Transaction, event_nid: int) -> int:
    """The snapshot of the state after an event."""
    row = txn.one("SELECT snapshot_after FROM events WHERE event_nid = ?", (event_nid,))
    assert row is not None
    snapshot: int = row[0]
    return snapshot


def delete_room(txn: Transaction, room_nid: int) -> int:
    """Take every event of a room out; the number of them."""
    _forget_copies(txn)
    return txn.execute("DELETE FROM events WHERE room_nid = ?", (room_nid,)).rowcount
