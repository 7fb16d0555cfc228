"""Room aliases of this server."""

from __future__ import annotations

from msgspec import Struct

from synapse_like.storage.transactions import Transaction


class Alias(Struct, frozen=True):
    """A room alias and who made it."""

    alias: str
    room_id: str
    creator: str


def add(txn: Transaction, alias: str, room_nid: int, *, creator: str) -> bool:
    """Let an alias point to a room; False if it is taken."""
    added = txn.execute(
        "INSERT INTO room_aliases (alias, room_nid, creator) VALUES (?, ?, ?) ON CONFLICT (alias) DO NOTHING",
        (alias, room_nid, creator),
    )
    return added.rowcount == 1


def find(txn: Transaction, alias: str) -> Alias | None:
    """An alias, or None."""
    row = txn.one(
        "SELECT a.alias, r.room_id, a.creator FROM room_aliases a JOIN rooms r ON r.room_nid = a.room_nid"
        " WHERE a.alias = ?",
        (alias,),
    )
    return Alias(*row) if row is not None else None


def of_room(txn: Transaction, room_nid: int) -> list[str]:
    """The aliases that point to a room, in alphabetical order."""
    rows = txn.all("SELECT alias FROM room_aliases WHERE room_nid = ?", (room_nid,))
    return sorted(row[0] for row in rows)


def delete(txn: Transaction, alias: str) -> None:
    """Take an alias away."""
    txn.execute("DELETE FROM room_aliases WHERE alias = ?", (alias,))


def delete_room(txn: Transaction, room_nid: int) -> None:
    """Take all aliases of a room away."""
    txn.execute("DELETE FROM room_aliases WHERE room_nid = ?", (room_nid,))
