"""What the operator's `verify` reads of the tables that nobody else reads in this way."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from msgspec import Struct

from synapse_like.storage.events import GAP, STREAM, Standing
from synapse_like.storage.transactions import Transaction


class EventRow(Struct, frozen=True):
    """An event as it stands in its table."""

    event_nid: int
    event_id: str
    room_nid: int
    room_id: str
    version: str
    place: int | None
    snapshot_before: int | None
    snapshot_after: int | None
    is_redacted: bool
    standing: Standing
    pdu: bytes


def events_after(txn: Transaction, event_nid: int, limit: int) -> list[EventRow]:
    """The first events behind a number."""
    rows = txn.all(
        "SELECT e.event_nid, e.event_id, e.room_nid, r.room_id, r.version, e.place, e.snapshot_before,"
        " e.snapshot_after, e.redacted_by, e.standing, e.pdu FROM events e JOIN rooms r ON r.room_nid = e.room_nid"
        " WHERE e.event_nid > ? ORDER BY e.event_nid LIMIT ?",
        (event_nid, limit),
    )
    return [
        EventRow(
            nid, event_id, room, room_id, version, place, before, after, by is not None, Standing(rank), bytes(pdu)
        )
        for nid, event_id, room, room_id, version, place, before, after, by, rank, pdu in rows
    ]


def newest_event(txn: Transaction) -> int:
    """The highest number of an event."""
    row = txn.one("SELECT MAX(event_nid) FROM events")
    return 0 if row is None or row[0] is None else int(row[0])


class HeadRow(Struct, frozen=True):
    """Where a room stands, as its table has it."""

    room_nid: int
    room_id: str
    extremities: tuple[int, ...]
    snapshot_id: int


def heads_after(txn: Transaction, room_nid: int, limit: int) -> list[HeadRow]:
    """The first rooms behind a number that somebody here was ever in."""
    rows = txn.all(
        "SELECT r.room_nid, r.room_id, h.extremities, h.snapshot_id FROM rooms r JOIN room_heads h"
        " ON h.room_nid = r.room_nid WHERE r.room_nid > ? AND h.snapshot_id != 0 ORDER BY r.room_nid LIMIT ?",
        (room_nid, limit),
    )
    return [HeadRow(row[0], row[1], tuple(orjson.loads(row[2])), row[3]) for row in rows]


def head_of(txn: Transaction, room_nid: int) -> HeadRow | None:
    """Where one room stands."""
    found = heads_after(txn, room_nid - 1, 1)
    return found[0] if found and found[0].room_nid == room_nid else None


def missing_snapshot(txn: Transaction, snapshot_id: int) -> int | None:
    """The number of a snapshot that is missing in a chain, or stands there at the wrong height; None if all is well."""
    row = txn.one(
        "WITH RECURSIVE chain (snapshot_id, parent_id, height) AS ("
        " SELECT snapshot_id, parent_id, height FROM state_snapshots WHERE snapshot_id = ?"
        " UNION ALL SELECT s.snapshot_id, s.parent_id, s.height FROM state_snapshots s"
        " JOIN chain c ON s.snapshot_id = c.parent_id WHERE s.height < c.height)"
        " SELECT COUNT(*), MIN(height), MAX(CASE WHEN parent_id IS NULL THEN 1 ELSE 0 END) FROM chain",
        (snapshot_id,),
    )
    assert row is not None, "a count is always there"
    count, _, has_root = row
    return None if count and has_root else snapshot_id


def current_rows(txn: Transaction, room_nid: int) -> dict[int, tuple[int, str | None]]:
    """The current state of a room: event and membership by the number of the slot."""
    rows = txn.all("SELECT slot_id, event_nid, membership FROM current_state WHERE room_nid = ?", (room_nid,))
    return {row[0]: (row[1], row[2]) for row in rows}


def replace_current(txn: Transaction, room_nid: int, held: Mapping[int, tuple[int, str | None]]) -> None:
    """Write the current state of a room anew."""
    txn.execute("DELETE FROM current_state WHERE room_nid = ?", (room_nid,))
    txn.insert_rows(
        "INSERT INTO current_state (room_nid, slot_id, event_nid, membership)",
        [(room_nid, slot, event_nid, membership) for slot, (event_nid, membership) in held.items()],
    )


def stays(txn: Transaction, room_nid: int) -> dict[str, int]:
    """The other servers that are said to be in a room, and how many of their users."""
    rows = txn.all("SELECT server, joined FROM room_servers WHERE room_nid = ? AND until IS NULL", (room_nid,))
    return {row[0]: row[1] for row in rows}


def set_stay(txn: Transaction, room_nid: int, server: str, joined: int, *, is_new: bool, position: int) -> None:
    """Correct how many users of another server are in a room.

    :param position: at which it has come, or gone.
    """
    if is_new:
        txn.execute(
            "INSERT INTO room_servers (room_nid, server, since, until, joined) VALUES (?, ?, ?, NULL, ?)"
            " ON CONFLICT (room_nid, server, since) DO UPDATE SET until = NULL, joined = excluded.joined",
            (room_nid, server, position, joined),
        )
    else:
        txn.execute(
            "UPDATE room_servers SET joined = ?, until = ? WHERE room_nid = ? AND server = ? AND until IS NULL",
            (joined, None if joined else position, room_nid, server),
        )


#: For each stream: where its highest position stands.
HIGHEST = {
    STREAM: f"SELECT MAX(place) / {GAP} FROM events UNION ALL SELECT MAX(position) FROM events",
    "presence": "SELECT MAX(position) FROM presence",
    "outgoing_edus": "SELECT MAX(position) FROM outgoing_edus",
}
