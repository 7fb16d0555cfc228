"""Who is in which room, now and when: read off the current state, and off the log of our own users' changes."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from synapse_like.storage.state import MEMBER, make_slot_id, slot_id
from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import placeholders


class RoomMembership(Struct, frozen=True):
    """A user's present membership of a room."""

    room_nid: int
    room_id: str
    membership: str
    event_nid: int


class MembershipChange(Struct, frozen=True):
    """One change of membership, at a position of the stream of events."""

    position: int
    room_nid: int
    event_nid: int
    membership: str


def of_user(txn: Transaction, user_id: str, memberships: Iterable[str] = ("join",)) -> list[RoomMembership]:
    """The rooms in which a user has one of some memberships."""
    slot = slot_id(txn, (MEMBER, user_id))
    if slot is None:
        return []
    wanted = list(memberships)
    rows = txn.all(
        "SELECT c.room_nid, r.room_id, c.membership, c.event_nid FROM current_state c"
        " JOIN rooms r ON r.room_nid = c.room_nid"
        f" WHERE c.slot_id = ? AND c.membership IS NOT NULL AND c.membership IN ({placeholders(wanted)})"
        " ORDER BY c.room_nid",
        (slot, *wanted),
    )
    return [RoomMembership(*row) for row in rows]


def in_room(txn: Transaction, room_nid: int, user_id: str) -> str | None:
    """A user's present membership of a room; None if there never was one."""
    slot = slot_id(txn, (MEMBER, user_id))
    if slot is None:
        return None
    row = txn.one("SELECT membership FROM current_state WHERE room_nid = ? AND slot_id = ?", (room_nid, slot))
    return row[0] if row is not None else None


def joined_after(txn: Transaction, user_id: str, room_nid: int, limit: int) -> list[tuple[int, str]]:
    """Some of the rooms that a user is joined to, by number and ID: the first ones behind a number."""
    slot = slot_id(txn, (MEMBER, user_id))
    if slot is None:
        return []
    rows = txn.all(
        "SELECT c.room_nid, r.room_id FROM current_state c JOIN rooms r ON r.room_nid = c.room_nid"
        " WHERE c.slot_id = ? AND c.membership IS NOT NULL AND c.membership = 'join' AND c.room_nid > ?"
        " ORDER BY c.room_nid LIMIT ?",
        (slot, room_nid, limit),
    )
    return [(row[0], row[1]) for row in rows]


def share_a_room(txn: Transaction, one: str, other: str) -> bool:
    """Is there a room that two users are joined to?"""
    slots = [slot_id(txn, (MEMBER, user_id)) for user_id in (one, other)]
    if None in slots:
        return False
    row = txn.one(
        "SELECT 1 FROM current_state a JOIN current_state b ON b.room_nid = a.room_nid"
        " WHERE a.slot_id = ? AND a.membership IS NOT NULL AND a.membership = 'join'"
        " AND b.slot_id = ? AND b.membership = 'join' LIMIT 1",
        slots,
    )
    return row is not None


def has_own_users(txn: Transaction, room_nid: int) -> bool:
    """Is any user of this server joined to a room?"""
    row = txn.one(
        "SELECT 1 FROM membership_changes m JOIN current_state c ON c.room_nid = m.room_nid AND c.slot_id = m.slot_id"
        " WHERE m.room_nid = ? AND c.membership = 'join' LIMIT 1",
        (room_nid,),
    )
    return row is not None


def users_in_room(txn: Transaction, room_nid: int, membership: str = "join") -> list[str]:
    """The users with a membership of a room."""
    rows = txn.all(
        "SELECT s.state_key FROM current_state c JOIN state_slots s ON s.slot_id = c.slot_id"
        " WHERE c.room_nid = ? AND c.membership = ?",
        (room_nid, membership),
    )
    return [row[0] for row in rows]


def count_joined(txn: Transaction, room_nids: Iterable[int]) -> dict[int, int]:
    """How many users are joined to each room."""
    wanted = list(room_nids)
    rows = txn.all(
        "SELECT room_nid, COUNT(*) FROM current_state"
        f" WHERE room_nid IN ({placeholders(wanted)}) AND membership = 'join' GROUP BY room_nid",
        wanted,
    )
    return dict.fromkeys(wanted, 0) | {row[0]: row[1] for row in rows}


def record_change(txn: Transaction, user_id: str, change: MembershipChange) -> None:
    """Log that one of our own users came or went."""
    txn.execute_later(
        "INSERT INTO membership_changes (slot_id, position, room_nid, event_nid, membership) VALUES (?, ?, ?, ?, ?)",
        (
            make_slot_id(txn, (MEMBER, user_id)),
            change.position,
            change.room_nid,
            change.event_nid,
            change.membership,
        ),
    )


def changes(txn: Transaction, user_id: str, *, after: int, up_to: int) -> list[MembershipChange]:
    """One of our users' changes with after < position <= up_to, oldest first."""
    slot = slot_id(txn, (MEMBER, user_id))
    if slot is None:
        return []
    rows = txn.all(
        "SELECT position, room_nid, event_nid, membership FROM membership_changes"
        " WHERE slot_id = ? AND position > ? AND position <= ? ORDER BY position",
        (slot, after, up_to),
    )
    return [MembershipChange(*row) for row in rows]


def changes_in_room(txn: Transaction, user_id: str, room_nid: int) -> list[MembershipChange]:
    """One of our users' changes of membership of one room, oldest first."""
    slot = slot_id(txn, (MEMBER, user_id))
    if slot is None:
        return []
    rows = txn.all(
        "SELECT position, room_nid, event_nid, membership FROM membership_changes"
        " WHERE room_nid = ? AND slot_id = ? ORDER BY position",
        (room_nid, slot),
    )
    return [MembershipChange(*row) for row in rows]


def delete_room(txn: Transaction, room_nid: int) -> None:
    """Take all changes of membership of a room out."""
    txn.execute("DELETE FROM membership_changes WHERE room_nid = ?", (room_nid,))
