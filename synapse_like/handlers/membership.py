"""Coming and going: join, invite, leave, kick, ban, unban, knock (ROOM-6, ROOM-7, MEM).

Whatever way it comes in, a change of membership is one m.room.member event, and the rules of the room decide on it.
What the names add is only which change is meant: a "kick" is not to lift a ban, although both set membership
`leave`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.directory import Directory
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.room_access import room_to_act_in
from synapse_like.protocol.contents import check_content
from synapse_like.protocol.errors import Forbidden, NotFound
from synapse_like.protocol.events import EventDraft
from synapse_like.protocol.identifiers import canonical_alias, canonical_user_id, parse_room_id
from synapse_like.storage import rooms
from synapse_like.storage.database import Database, Transaction
from synapse_like.storage.retransmissions import Once, Outcome, once
from synapse_like.storage.rooms import RoomHead
from synapse_like.storage.state import MEMBER

_STANDING = {
    None: "not in this room",
    "leave": "not in this room",
    "ban": "banned from this room; lift the ban instead",
    "join": "not banned from this room",
    "invite": "not banned from this room",
    "knock": "not banned from this room",
}
"""What is told of somebody to whom a thing cannot be done as they are."""


class Membership:
    """Changes memberships of rooms."""

    def __init__(self, database: Database, creation: EventCreation, directory: Directory) -> None:
        self._database = database
        self._creation = creation
        self._directory = directory

    async def join(self, requester: Requester, room: str, request: Once) -> str:
        """Join a room by its ID or an alias; the ID of the room.

        :raises NotFound: there is no such room or alias.
        """
        room = canonical_alias(room) if room.startswith("#") else parse_room_id(room)
        outcome = await self._database.write("join", once, request, self._join, requester.user_id, room)
        joined: str = outcome["room_id"]
        return joined

    def _join(self, txn: Transaction, user_id: str, name: str) -> Outcome:
        room_id = self._directory.find(txn, name).room_id if name.startswith("#") else name
        room = rooms.head(txn, room_id)
        if room is None:
            raise NotFound(f"This server does not know the room {room_id}.")
        if self._present(txn, room, user_id) != "join":
            self.change(txn, room, user_id, user_id, {"membership": "join"})
        return {"room_id": room_id}

    async def invite(self, requester: Requester, room_id: str, user_id: str, reason: str | None, request: Once) -> None:
        """Invite a user."""
        await self._set(requester, room_id, user_id, "invite", reason, request)

    async def leave(self, requester: Requester, room_id: str, request: Once) -> None:
        """Leave a room, turn an invite down, or take a knock back."""
        await self._set(requester, room_id, requester.user_id, "leave", None, request)

    async def kick(self, requester: Requester, room_id: str, user_id: str, reason: str | None, request: Once) -> None:
        """Make somebody leave, or take back their invite, or turn down their knock."""
        await self._set(requester, room_id, user_id, "leave", reason, request, only_from=("join", "invite", "knock"))

    async def ban(self, requester: Requester, room_id: str, user_id: str, reason: str | None, request: Once) -> None:
        """Ban somebody."""
        await self._set(requester, room_id, user_id, "ban", reason, request)

    async def unban(self, requester: Requester, room_id: str, user_id: str, reason: str | None, request: Once) -> None:
        """Lift a ban."""
        await self._set(requester, room_id, user_id, "leave", reason, request, only_from=("ban",))

    async def _set(
        self,
        requester: Requester,
        room_id: str,
        user_id: str,
        membership: str,
        reason: str | None,
        request: Once,
        *,
        only_from: Collection[str] | None = None,
    ) -> None:
        target = canonical_user_id(user_id)
        content = {"membership": membership} | ({} if reason is None else {"reason": reason})

        def work(txn: Transaction) -> Outcome:
            room = room_to_act_in(txn, parse_room_id(room_id))
            # Who is not in the room is told by its rules, and learns nothing of the target.
            if only_from is not None and self._present(txn, room, requester.user_id) == "join":
                present = self._present(txn, room, target)
                if present not in only_from:
                    raise Forbidden(f"{target} is {_STANDING[present]}.")
            self.change(txn, room, requester.user_id, target, content)
            return {}

        await self._database.write(membership, once, request, work)

    def change(
        self,
        txn: Transaction,
        room: RoomHead,
        sender: str,
        target: str,
        content: Mapping[str, Any],
        required_power_level: int | None = None,
    ) -> str:
        """Send the m.room.member event of a change; its ID. Every way in ends here."""
        check_content(room.rules, MEMBER, content, state_key=target)
        draft = EventDraft(
            room_id=room.room_id,
            type=MEMBER,
            sender=sender,
            content=content,
            state_key=target,
            required_power_level=required_power_level,
        )
        return self._creation.say(txn, room, draft).event.event_id

    def _present(self, txn: Transaction, room: RoomHead, user_id: str) -> str | None:
        event = rooms.state_at_head(txn, room, [(MEMBER, user_id)]).get((MEMBER, user_id))
        present: str | None = event.content["membership"] if event is not None else None
        return present
