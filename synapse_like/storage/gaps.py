"""Where the history of a room has gaps: events that name one before them which is not here.

A gap is *news* if this server missed something of what happened while it was in the room: what fills it is told to
clients. Else it leads to the history from before this server came.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from synapse_like.storage.transactions import Transaction


class Gap(Struct, frozen=True):
    """An event before which something is missing.

    :ivar place: of the event, in the timeline of its room.
    :ivar missing: the IDs of what comes right before it.
    :ivar is_news: see the head of this file.
    """

    event_id: str
    place: int
    missing: tuple[str, ...]
    is_news: bool = False


class Missing(Struct, frozen=True):
    """One thing that is missing.

    :ivar event_id: its ID.
    :ivar event_nid: the number of an event that it comes right before.
    :ivar place: of that event.
    """

    event_id: str
    event_nid: int
    place: int


def add(txn: Transaction, room_nid: int, event_nid: int, missing: Iterable[str], *, is_news: bool) -> None:
    """Note what is missing before an event."""
    for event_id in missing:
        txn.execute(
            "INSERT INTO gaps (room_nid, event_nid, missing, is_news) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (room_nid, event_nid, event_id, int(is_news)),
        )


def missing(txn: Transaction, room_nid: int, limit: int) -> dict[str, bool]:
    """The IDs of what is missing of a room, and whether it is news; news first, if not all is wanted."""
    rows = txn.all(
        "SELECT missing, MAX(is_news) FROM gaps WHERE room_nid = ? GROUP BY missing ORDER BY 2 DESC LIMIT ?",
        (room_nid, limit),
    )
    return {row[0]: bool(row[1]) for row in rows}


def close(txn: Transaction, room_nid: int, event_id: str) -> None:
    """An event has come that was missing."""
    txn.execute("DELETE FROM gaps WHERE room_nid = ? AND missing = ?", (room_nid, event_id))


def give_up(txn: Transaction, room_nid: int, event_id: str) -> None:
    """Ask no more for what comes before an event: nobody has it."""
    txn.execute(
        "DELETE FROM gaps WHERE room_nid = ? AND event_nid = (SELECT event_nid FROM events WHERE event_id = ?)",
        (room_nid, event_id),
    )


def newest(txn: Transaction, room_nid: int, *, after: int, before_or_at: int, only_news: bool = False) -> Gap | None:
    """The newest gap in a stretch of a room's timeline: after < place <= before_or_at."""
    rows = txn.all(
        "SELECT e.event_id, e.place, g.missing, g.is_news FROM gaps g JOIN events e ON e.event_nid = g.event_nid"
        " WHERE g.room_nid = ? AND e.place > ? AND e.place <= ? AND g.is_news >= ? ORDER BY e.place DESC LIMIT 20",
        (room_nid, after, before_or_at, int(only_news)),
    )
    if not rows:
        return None
    event_id, place, _, is_news = rows[0]
    return Gap(event_id, place, tuple(row[2] for row in rows if row[0] == event_id), bool(is_news))


def news(txn: Transaction, room_nid: int) -> list[Missing]:
    """What is missing of a room's news, in the order of the timeline."""
    rows = txn.all(
        "SELECT g.missing, g.event_nid, e.place FROM gaps g JOIN events e ON e.event_nid = g.event_nid"
        " WHERE g.room_nid = ? AND g.is_news = 1 ORDER BY e.place LIMIT 100",
        (room_nid,),
    )
    return [Missing(*row) for row in rows]


def first_place_after(txn: Transaction, room_nid: int, event_id: str) -> int | None:
    """The place of the first event in a room's timeline that something is missing right before; None if it is not."""
    row = txn.one(
        "SELECT MIN(e.place) FROM gaps g JOIN events e ON e.event_nid = g.event_nid"
        " WHERE g.room_nid = ? AND g.missing = ?",
        (room_nid, event_id),
    )
    return row[0] if row is not None else None


def rooms_with_news(txn: Transaction) -> list[str]:
    """The IDs of the rooms of which some news is missing."""
    rows = txn.all(
        "SELECT DISTINCT r.room_id FROM gaps g JOIN rooms r ON r.room_nid = g.room_nid WHERE g.is_news = 1 ORDER BY 1"
    )
    return [row[0] for row in rows]


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
