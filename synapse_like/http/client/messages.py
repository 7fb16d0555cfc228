"""Saying things in rooms: messages, state, redactions."""

from __future__ import annotations

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.messages import Messages
from synapse_like.handlers.retransmissions import Retransmissions
from synapse_like.http.requests import Call
from synapse_like.protocol.canonical_json import LARGEST_INTEGER


class MessageEndpoints:
    """send, state, redact."""

    def __init__(self, messages: Messages, retransmissions: Retransmissions) -> None:
        self._messages = messages
        self._retransmissions = retransmissions

    async def send(self, call: Call[Requester]) -> object:
        """Send a non-state event."""
        request = self._retransmissions.request(call.requester, call.retransmit_key)
        event_id = await self._messages.send(
            call.requester, call.params["room"], call.params["type"], call.body, request
        )
        return {"event_id": event_id}

    async def set_state(self, call: Call[Requester]) -> object:
        """Send a state event; without a state key in the path it is the empty one."""
        request = self._retransmissions.request(call.requester, call.retransmit_key)
        required = call.query.integer("required_power_level", None, -LARGEST_INTEGER, LARGEST_INTEGER)
        event_id = await self._messages.set_state(
            call.requester,
            call.params["room"],
            call.params["type"],
            call.params.get("state_key", ""),
            call.body,
            required,
            request,
        )
        return {"event_id": event_id}

    async def redact(self, call: Call[Requester]) -> object:
        """Redact an event."""
        request = self._retransmissions.request(call.requester, call.retransmit_key)
        event_id = await self._messages.redact(
            call.requester, call.params["room"], call.params["event_id"], call.body, request
        )
        return {"event_id": event_id}
