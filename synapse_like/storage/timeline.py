"""The timeline of a room in its order, and what is new in the stream of events (`events.py` has both)."""

from __future__ import annotations

from collections.abc import Collection

from synapse_like.storage.events import GAP, forget_copies
from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import placeholders


def since(
    txn: Transaction, room_nids: Collection[int], *, after: int, up_to: int, limit: int
) -> list[tuple[int, int, int]]:
    """What is new in some rooms: (position, room_nid, event_nid) with after < position <= up_to, oldest first."""
    if not room_nids or after >= up_to:
        return []
    rooms = placeholders(list(room_nids))
    rows = txn.all(
        f"SELECT place / {GAP}, room_nid, event_nid FROM events"
        f" WHERE room_nid IN ({rooms}) AND place > ? AND place <= ? AND place % {GAP} = 0"
        " UNION ALL SELECT position, room_nid, event_nid FROM events"
        f" WHERE room_nid IN ({rooms}) AND position > ? AND position <= ? ORDER BY 1 LIMIT ?",
        (*room_nids, after * GAP, up_to * GAP, *room_nids, after, up_to, limit),
    )
    return [(row[0], row[1], row[2]) for row in rows]


def page_back(txn: Transaction, room_nid: int, *, before_or_at: int, after: int, limit: int) -> list[tuple[int, int]]:
    """(place, event_nid) of a room's timeline, newest first: after < place <= before_or_at."""
    rows = txn.all(
        "SELECT place, event_nid FROM events WHERE room_nid = ? AND place <= ? AND place > ?"
        " ORDER BY place DESC LIMIT ?",
        (room_nid, before_or_at, after, limit),
    )
    return [(row[0], row[1]) for row in rows]


def page_forward(
    txn: Transaction, room_nid: int, *, after: int, before_or_at: int, limit: int
) -> list[tuple[int, int]]:
    """(place, event_nid) of a room's timeline, oldest first: after < place <= before_or_at."""
    rows = txn.all(
        "SELECT place, event_nid FROM events WHERE room_nid = ? AND place > ? AND place <= ? ORDER BY place LIMIT ?",
        (room_nid, after, before_or_at, limit),
    )
    return [(row[0], row[1]) for row in rows]


def highest_place(txn: Transaction, room_nid: int, *, above: int, below: int) -> int:
    """The highest place between two others that is taken in a room's timeline; the lower of these if none is."""
    row = txn.one(
        "SELECT MAX(place) FROM events WHERE room_nid = ? AND place > ? AND place < ?", (room_nid, above, below)
    )
    return row[0] if row is not None and row[0] is not None else above


def spread(txn: Transaction, room_nid: int, *, above: int, below: int) -> dict[int, int]:
    """Move what stands between two places of a room's timeline apart, in its order.

    :return: the new places by the old ones; none if there is nothing to be won.
    """
    rows = txn.all(
        "SELECT event_nid, place FROM events WHERE room_nid = ? AND place > ? AND place < ? ORDER BY place",
        (room_nid, above, below),
    )
    distance = (below - above) // (len(rows) + 1)
    if distance < 2:
        return {}
    moved: dict[int, int] = {}
    for number, (event_nid, place) in enumerate(rows, start=1):
        moved[place] = above + number * distance
        txn.execute("UPDATE events SET place = ? WHERE event_nid = ?", (moved[place], event_nid))
    forget_copies(txn)
    return moved
