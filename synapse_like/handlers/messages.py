"""Saying things in rooms: messages, state, redactions (EVT, RED)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.event_persistence import REDACTION
from synapse_like.handlers.membership import Membership, Wish
from synapse_like.handlers.policy import LOCAL_SENDS, Policy, about_own
from synapse_like.handlers.room_access import room_to_act_in, room_to_read
from synapse_like.protocol.errors import BadJson, Forbidden, NotFound
from synapse_like.protocol.events import EventDraft
from synapse_like.protocol.identifiers import canonical_state_key, canonical_user_id, parse_event_id, parse_room_id
from synapse_like.protocol.power_levels import PowerLevels
from synapse_like.storage import events, rooms
from synapse_like.storage.database import Database
from synapse_like.storage.retransmissions import Once, Outcome, once
from synapse_like.storage.rooms import RoomHead
from synapse_like.storage.state import MEMBER
from synapse_like.storage.transactions import Transaction

POWER_LEVELS = "m.room.power_levels"

Content = Mapping[str, Any]


class Messages:
    """Sends events into rooms.

    :param policy: None if nobody is asked about what users send.
    """

    def __init__(
        self, database: Database, creation: EventCreation, membership: Membership, policy: Policy | None = None
    ) -> None:
        self._policy = policy
        self._database = database
        self._creation = creation
        self._membership = membership

    async def send(self, requester: Requester, room_id: str, event_type: str, content: Content, request: Once) -> str:
        """Send a non-state event; its ID.

        A redaction is sent by `redact`, with the target in the content's `redacts` if it comes this way.
        """
        if event_type == REDACTION:
            target = content.get("redacts")
            if not isinstance(target, str):
                raise BadJson("'redacts' must name the event to redact.")
            rest = {key: value for key, value in content.items() if key != "redacts"}
            return await self.redact(requester, room_id, target, rest, request)
        draft = EventDraft(room_id=parse_room_id(room_id), type=event_type, sender=requester.user_id, content=content)
        await self._ask_policy(draft, request)
        return await self._write("send", request, self._say, draft)

    async def _ask_policy(self, draft: EventDraft, request: Once) -> None:
        """See that no policy server minds an event."""
        if self._policy is not None:
            about = about_own(draft.sender, draft.room_id, draft.type, draft.content, draft.state_key)
            await self._policy.check(LOCAL_SENDS, request, **about)

    def _say(self, txn: Transaction, draft: EventDraft) -> Outcome:
        room = room_to_act_in(txn, draft.room_id)
        return {"event_id": self._creation.say(txn, room, draft).event.event_id}

    async def set_state(
        self,
        requester: Requester,
        room_id: str,
        event_type: str,
        state_key: str,
        content: Content,
        required_power_level: int | None,
        request: Once,
    ) -> str:
        """Send a state event; its ID.

        :param required_power_level: what replacing it is to need (PERM-3); None: as the one that it replaces.
        """
        if event_type == REDACTION:
            raise BadJson("A redaction is not state.")
        state_key = canonical_state_key(state_key)
        if event_type == POWER_LEVELS:
            content = _with_canonical_users(content)
        room_id = parse_room_id(room_id)
        if event_type == MEMBER:
            wish = Wish(requester.user_id, room_id, state_key, content, required_power_level)
            return await self._membership.put(wish, request)
        draft = EventDraft(
            room_id=room_id,
            type=event_type,
            sender=requester.user_id,
            content=content,
            state_key=state_key,
            required_power_level=required_power_level,
        )
        await self._ask_policy(draft, request)
        return await self._write("set-state", request, self._say, draft)

    async def redact(self, requester: Requester, room_id: str, event_id: str, content: Content, request: Once) -> str:
        """Redact an event of a room (RED-1); the ID of the redaction.

        :raises NotFound: there is no such event in the room.
        :raises Forbidden: it is somebody else's and the requester's power does not suffice.
        """
        draft = EventDraft(
            room_id=parse_room_id(room_id),
            type=REDACTION,
            sender=requester.user_id,
            content=content,
            redacts=parse_event_id(event_id),
        )
        redaction_id = await self._write("redact", request, self._redact, draft)
        # Only now is it gone from the tables; see that it is gone from the files, too.
        await self._database.forget_deleted()
        return redaction_id

    def _redact(self, txn: Transaction, draft: EventDraft) -> Outcome:
        room = room_to_act_in(txn, draft.room_id)
        room_to_read(txn, draft.room_id, draft.sender)
        self._check_may_redact(txn, room, draft)
        return {"event_id": self._creation.say(txn, room, draft).event.event_id}

    def _check_may_redact(self, txn: Transaction, room: RoomHead, draft: EventDraft) -> None:
        assert draft.redacts is not None
        target = events.find(txn, draft.redacts)
        if target is None or target.room_nid != room.room_nid:
            raise NotFound(f"There is no event {draft.redacts} in this room.")
        if target.event.sender == draft.sender:
            return
        levels = PowerLevels.from_state(room.rules, rooms.state_at_head(txn, room, PowerLevels.slots(room.rules)))
        if levels.user(draft.sender) < levels.redact:
            raise Forbidden(f"To redact other people's events one needs power level {levels.redact} here.")

    async def _write(self, name: str, request: Once, function: Any, draft: EventDraft) -> str:
        outcome = await self._database.write_to_room(draft.room_id, name, once, request, function, draft)
        event_id: str = outcome["event_id"]
        return event_id


def _with_canonical_users(content: Content) -> Content:
    """The content of m.room.power_levels with its user IDs in their one spelling (API-7); the rest is checked later.

    The users stand in it by themselves in rooms of 2014, and in an object `users` in later ones.
    """
    canonical = {_canonical_key(key): level for key, level in content.items()}
    if isinstance(users := canonical.get("users"), dict):
        canonical["users"] = {_canonical_key(key): level for key, level in users.items()}
    return canonical


def _canonical_key(key: str) -> str:
    return canonical_user_id(key) if key.startswith("@") else key
