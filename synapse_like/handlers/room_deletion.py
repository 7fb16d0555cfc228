"""Taking a room out of every table."""

from __future__ import annotations

from synapse_like.storage import (
    directory,
    events,
    gaps,
    membership,
    outside_memberships,
    room_servers,
    rooms,
    state,
    third_party_ids,
    unwanted,
)
from synapse_like.storage.rooms import Room
from synapse_like.storage.transactions import Transaction


def delete_room(txn: Transaction, room: Room) -> int:
    """Delete a room with everything in it; the number of its events."""
    directory.delete_room(txn, room.room_nid)
    gaps.delete_room(txn, room.room_nid)
    outside_memberships.delete_room(txn, room.room_nid)
    room_servers.delete_room(txn, room.room_nid)
    membership.delete_room(txn, room.room_nid)
    state.delete_room(txn, room.room_nid)
    third_party_ids.delete_invites_of_room(txn, room.room_id)
    unwanted.delete_room(txn, room.room_nid)
    deleted = events.delete_room(txn, room.room_nid)
    rooms.delete(txn, room)
    return deleted
