"""Having users leave their rooms who have asked to be forgotten (`deactivate-user --erase`).

The command closes the account and takes out what they said; to leave is an event, which only the running server makes.
"""

from __future__ import annotations

from synapse_like.handlers.membership import Membership
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import MatrixError
from synapse_like.storage import membership, own_data
from synapse_like.storage.database import Database
from synapse_like.storage.membership import RoomMembership
from synapse_like.storage.transactions import Transaction

#: How often it is looked for them, in seconds.
LOOK_SECONDS = 5
#: Rooms that are left at one look.
MOST_AT_ONCE = 50
_log = get_logger(__name__)


class Departures:
    """Has them leave."""

    def __init__(self, database: Database, members: Membership) -> None:
        self._database = database
        self._members = members

    async def go_on(self) -> None:
        """Have them leave some more rooms, if there are any; to be called every so often."""
        for user_id, room in await self._database.read("departures", _still_in, MOST_AT_ONCE):
            try:
                await self._members.take_out(user_id, room.room_id)
            except MatrixError as error:
                reason = error.reason or error.message
                _log.warning("a forgotten user cannot leave a room", room=room.room_id, reason=reason)


def _still_in(txn: Transaction, most: int) -> list[tuple[str, RoomMembership]]:
    found = []
    for user_id in own_data.erased(txn):
        found += [(user_id, room) for room in membership.of_user(txn, user_id, ("join", "invite", "knock"))]
        if len(found) >= most:
            break
    return found[:most]
