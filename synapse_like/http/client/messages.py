"""Saying things in rooms: messages, state, redactions."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.messages import Messages
from synapse_like.handlers.retransmissions import Retransmissions
from synapse_like.http.limits import Limiter
from synapse_like.http.requests import Call
from synapse_like.protocol.canonical_json import LARGEST_INTEGER
from synapse_like.protocol.errors import MatrixError
from synapse_like.protocol.identifiers import parse_room_id

#: The class of rate limits in which events are counted by their room.
ROOM = "room"


class MessageEndpoints:
    """send, state, redact.

    What happens in a room is counted for all its users together, and only once it has happened: who may not speak there
    must not keep those from it who may.
    """

    def __init__(self, messages: Messages, retransmissions: Retransmissions, limits: Limiter) -> None:
        self._limits = limits
        self._messages = messages
        self._retransmissions = retransmissions

    async def send(self, call: Call[Requester]) -> object:
        """Send a non-state event."""
        request = self._retransmissions.request(call.requester, call.retransmit_key)
        return await self._counted(
            call,
            self._messages.send(call.requester, call.params["room"], call.params["type"], call.body, request),
        )

    async def set_state(self, call: Call[Requester]) -> object:
        """Send a state event; without a state key in the path it is the empty one."""
        request = self._retransmissions.request(call.requester, call.retransmit_key)
        required = call.query.integer("required_power_level", None, -LARGEST_INTEGER, LARGEST_INTEGER)
        return await self._counted(
            call,
            self._messages.set_state(
                call.requester,
                call.params["room"],
                call.params["type"],
                call.params.get("state_key", ""),
                call.body,
                required,
                request,
            ),
        )

    async def redact(self, call: Call[Requester]) -> object:
        """Redact an event."""
        request = self._retransmissions.request(call.requester, call.retransmit_key)
        return await self._counted(
            call,
            self._messages.redact(call.requester, call.params["room"], call.params["event_id"], call.body, request),
        )

    async def _counted(self, call: Call[Requester], sending: Coroutine[Any, Any, str]) -> object:
        """Send an event if its room has not had too many."""
        try:
            room_id = parse_room_id(call.params["room"])
            self._limits.look(ROOM, room_id)
        except MatrixError:
            sending.close()
            raise
        event_id = await sending
        self._limits.take(ROOM, room_id)
        return {"event_id": event_id}
