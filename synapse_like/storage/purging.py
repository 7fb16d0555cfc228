"""Events that are taken out of their rooms, or stripped of what they say, though nobody has redacted them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import Struct

from synapse_like.storage import events
from synapse_like.storage.events import Standing
from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import batched, placeholders

_COLUMNS = "event_nid, event_id, place, standing, pdu"


class Row(Struct, frozen=True):
    """An event as it stands in its table."""

    event_nid: int
    event_id: str
    place: int | None
    standing: Standing
    pdu: bytes


def shown(txn: Transaction, room_nid: int, *, after: int, before: int, limit: int) -> list[Row]:
    """The first events of a room's timeline behind a place, and before another one."""
    rows = txn.all(
        f"SELECT {_COLUMNS} FROM events WHERE room_nid = ? AND place > ? AND place < ? ORDER BY place LIMIT ?",
        (room_nid, after, before, limit),
    )
    return [Row(row[0], row[1], row[2], Standing(row[3]), bytes(row[4])) for row in rows]


def of_room(txn: Transaction, room_nid: int, *, after: int, limit: int) -> list[Row]:
    """The first events of a room behind a number, shown or not."""
    rows = txn.all(
        f"SELECT {_COLUMNS} FROM events WHERE room_nid = ? AND event_nid > ? ORDER BY event_nid LIMIT ?",
        (room_nid, after, limit),
    )
    return [Row(row[0], row[1], row[2], Standing(row[3]), bytes(row[4])) for row in rows]


def place_of(txn: Transaction, room_nid: int, event_id: str) -> tuple[int, int] | None:
    """The number of an event, and where it stands in the timeline of a room; None if it does not."""
    row = txn.one("SELECT event_nid, place FROM events WHERE room_nid = ? AND event_id = ?", (room_nid, event_id))
    return None if row is None or row[1] is None else (row[0], row[1])


def newest_number(txn: Transaction) -> int:
    """The highest number of an event; if it went, the number would be given out again."""
    row = txn.one("SELECT MAX(event_nid) FROM events")
    return 0 if row is None or row[0] is None else int(row[0])


def size_of_room(txn: Transaction, room_nid: int) -> int:
    """The bytes of all events of a room."""
    row = txn.one("SELECT SUM(LENGTH(pdu)) FROM events WHERE room_nid = ?", (room_nid,))
    return 0 if row is None or row[0] is None else int(row[0])


def delete(txn: Transaction, event_nids: Collection[int]) -> None:
    """Take events out for good. They must be no state, and nothing may come right after them any more."""
    for part in batched(event_nids):
        numbers = placeholders(part)
        for table in ("gaps", "redactions_ahead", "outside_memberships", "events"):
            txn.execute(f"DELETE FROM {table} WHERE event_nid IN ({numbers})", part)
    events.forget_copies(txn)


def delete_gaps(txn: Transaction, room_nid: int, *, before: int) -> None:
    """Forget what is missing before a place, so that nobody fetches it again."""
    txn.execute(
        "DELETE FROM gaps WHERE room_nid = ? AND event_nid IN"
        " (SELECT event_nid FROM events WHERE room_nid = ? AND place < ?)",
        (room_nid, room_nid, before),
    )


def strip(txn: Transaction, stripped: Sequence[tuple[int, bytes]]) -> None:
    """Replace events by what a redaction leaves of them, for good.

    :param stripped: their numbers, and what is left, as it is stored.
    """
    for event_nid, pdu in stripped:
        txn.execute("UPDATE events SET pdu = ? WHERE event_nid = ?", (pdu, event_nid))
    events.forget_copies(txn)
