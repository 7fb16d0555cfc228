"""Coming and going (ROOM-6, ROOM-7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.membership import Membership
from synapse_like.handlers.retransmissions import Retransmissions
from synapse_like.http.requests import Call
from synapse_like.models import Model


class TargetBody(Model, frozen=True):
    """Whose membership is to change, and why; other keys are ignored."""

    user_id: str
    reason: str | None = None


class MembershipEndpoints:
    """join, leave, invite, kick, ban, unban."""

    def __init__(self, membership: Membership, retransmissions: Retransmissions) -> None:
        self._membership = membership
        self._retransmissions = retransmissions
        self.invite = self._on_another(membership.invite)
        self.kick = self._on_another(membership.kick)
        self.ban = self._on_another(membership.ban)
        self.unban = self._on_another(membership.unban)

    async def join(self, call: Call[Requester]) -> object:
        """Join a room, named by ID or alias."""
        request = self._retransmissions.request(call.requester, call.retransmit_key)
        servers = call.query.texts("server_name")
        return {"room_id": await self._membership.join(call.requester, call.params["room"], request, servers)}

    async def leave(self, call: Call[Requester]) -> object:
        """Leave a room."""
        request = self._retransmissions.request(call.requester, call.retransmit_key)
        await self._membership.leave(call.requester, call.params["room"], request)
        return {}

    def _on_another(self, change: Callable[..., Awaitable[None]]) -> Callable[[Call[Any]], Awaitable[object]]:
        """The endpoint for something that is done to another user."""

        async def endpoint(call: Call[Requester]) -> object:
            body: TargetBody = call.body
            request = self._retransmissions.request(call.requester, call.retransmit_key)
            await change(call.requester, call.params["room"], body.user_id, body.reason, request)
            return {}

        return endpoint
