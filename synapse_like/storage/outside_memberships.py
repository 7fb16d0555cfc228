"""Invites and knocks of our users in rooms that this server is not in."""

from __future__ import annotations

from typing import Any

import orjson
from msgspec import Struct

from synapse_like.storage.transactions import Transaction


class OutsideMembership(Struct, frozen=True):
    """What a user is to a room that nobody here is in.

    :ivar event_nid: the m.room.member event that says so.
    :ivar server: one that is in the room.
    :ivar shown: what the user is shown of the room: stripped state events.
    """

    event_nid: int
    server: str
    shown: list[dict[str, Any]]


def put(
    txn: Transaction, room_nid: int, user_id: str, *, event_nid: int, server: str, shown: list[dict[str, Any]]
) -> None:
    """Remember an invite or a knock."""
    txn.execute(
        "INSERT INTO outside_memberships (room_nid, user_id, event_nid, server, shown) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (room_nid, user_id) DO UPDATE"
        " SET event_nid = excluded.event_nid, server = excluded.server, shown = excluded.shown",
        (room_nid, user_id, event_nid, server, orjson.dumps(shown).decode()),
    )


def find(txn: Transaction, room_nid: int, user_id: str) -> OutsideMembership | None:
    """What a user is to a room from outside, or None."""
    row = txn.one(
        "SELECT event_nid, server, shown FROM outside_memberships WHERE room_nid = ? AND user_id = ?",
        (room_nid, user_id),
    )
    return OutsideMembership(row[0], row[1], orjson.loads(row[2])) if row is not None else None


def delete(txn: Transaction, room_nid: int, user_id: str) -> None:
    """It is over, one way or another."""
    txn.execute("DELETE FROM outside_memberships WHERE room_nid = ? AND user_id = ?", (room_nid, user_id))


def delete_room(txn: Transaction, room_nid: int) -> None:
    """Take out what anybody is to a room from outside."""
    txn.execute("DELETE FROM outside_memberships WHERE room_nid = ?", (room_nid,))
