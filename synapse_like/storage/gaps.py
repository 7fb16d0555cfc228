"""Where the history of a room has gaps: events that name one before them which is not here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from synapse_like.storage.database import Transaction


@dataclass(frozen=True, slots=True)
class Gap:
    """An event before which something is missing.

    :ivar place: of the event, in the timeline of its room.
    :ivar missing: the IDs of what comes right before it.
    """

    event_id: str
    place: int
    missing: tuple[str, ...]


def add(txn: Transaction, room_nid: int, event_nid: int, missing: Iterable[str]) -> None:
    """Note what is missing before an event."""
    for event_id in missing:
        txn.execute(
            "INSERT INTO gaps (room_nid, event_nid, missing) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (room_nid, event_nid, event_id),
        )


def close(txn: Transaction, room_nid: int, event_id: str) -> None:
    """An event has come that was missing."""
    txn.execute("DELETE FROM gaps WHERE room_nid = ? AND missing = ?", (room_nid, event_id))


def give_up(txn: Transaction, room_nid: int, event_id: str) -> None:
    """Ask no more for what comes before an event: nobody has it."""
    txn.execute(
        "DELETE FROM gaps WHERE room_nid = ? AND event_nid = (SELECT event_nid FROM events WHERE event_id = ?)",
        (room_nid, event_id),
    )


def newest(txn: Transaction, room_nid: int, *, after: int, before_or_at: int) -> Gap | None:
    """The newest gap in a stretch of a room's timeline: after < place <= before_or_at."""
    rows = txn.all(
        "SELECT e.event_id, e.place, g.missing FROM gaps g JOIN events e ON e.event_nid = g.event_nid"
        " WHERE g.room_nid = ? AND e.place > ? AND e.place <= ? ORDER BY e.place DESC LIMIT 20",
        (room_nid, after, before_or_at),
    )
    if not rows:
        return None
    event_id, place, _ = rows[0]
    return Gap(event_id, place, tuple(row[2] for row in rows if row[0] == event_id))


def missing_near(txn: Transaction, room_nid: int, *, floor: int, before_or_at: int) -> tuple[str, ...]:
    """All that is missing before the events with floor < place <= before_or_at."""
    rows = txn.all(
        "SELECT DISTINCT g.missing FROM gaps g JOIN events e ON e.event_nid = g.event_nid"
        " WHERE g.room_nid = ? AND e.place > ? AND e.place <= ? ORDER BY g.missing LIMIT 20",
        (room_nid, floor, before_or_at),
    )
    return tuple(row[0] for row in rows)


def delete_room(txn: Transaction, room_nid: int) -> None:
    """Take all gaps of a room out."""
    txn.execute("DELETE FROM gaps WHERE room_nid = ?", (room_nid,))
