"""Getting hold of a room, to act in it or to look into it.

A room that does not exist and one that the user may not see give the same answer, so that nobody can find out which
rooms there are.
"""

from __future__ import annotations

from synapse_like.protocol.errors import Forbidden, MatrixError
from synapse_like.storage import membership, rooms
from synapse_like.storage.rooms import Room, RoomHead
from synapse_like.storage.transactions import Transaction


def _not_in_room() -> MatrixError:
    return Forbidden("You are not in this room.")


def room_to_act_in(txn: Transaction, room_id: str) -> RoomHead:
    """The head of a room; whether the user may act in it is up to the rules of the room.

    :raises Forbidden: this server does not know the room.
    """
    room = rooms.head(txn, room_id)
    if room is None:
        raise _not_in_room()
    return room


def is_inhabited(txn: Transaction, room: RoomHead) -> bool:
    """Is this server in a room, by one of its users?"""
    if room.is_inhabited is None:
        room.is_inhabited = membership.has_own_users(txn, room.room_nid)
    return room.is_inhabited


def room_to_read(txn: Transaction, room_id: str, user_id: str) -> Room:
    """A room, for one who is joined to it.

    :raises Forbidden: they are not, or there is no such room.
    """
    room = rooms.find(txn, room_id)
    if room is None or membership.in_room(txn, room.room_nid, user_id) != "join":
        raise _not_in_room()
    return room
