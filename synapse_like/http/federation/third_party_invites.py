"""What identity servers tell of, and what other home servers ask of us then (ID-1)."""

from __future__ import annotations

from typing import Any

from synapse_like.handlers.third_party_invites import ThirdPartyInvites, redemption_in
from synapse_like.http.requests import Body, Call
from synapse_like.http.routing import Auth, Mount, Route
from synapse_like.models import Model
from synapse_like.protocol.errors import BadJson

PREFIX = "/_matrix/federation/v1"


class ExchangeBody(Model, frozen=True):
    """An m.room.member event, as far as the invited user's server knows it."""

    sender: str
    state_key: str
    content: dict[str, Any]


class ThirdPartyInviteEndpoints:
    """How invites to addresses become invites to users."""

    def __init__(self, invites: ThirdPartyInvites) -> None:
        self._invites = invites

    async def bound(self, call: Call[str]) -> object:
        """An identity server tells that a user of ours has an address. It has signed what it tells."""
        await self._invites.told(call.body)
        return {}

    async def exchange(self, call: Call[str]) -> object:
        """Invite a user of the server that asks, whom one of ours has invited by an address."""
        body: ExchangeBody = call.body
        invite = body.content.get("third_party_invite")
        if not isinstance(invite, dict):
            raise BadJson("'content.third_party_invite' must be an object.")
        redemption = redemption_in(invite, call.params["room"], body.sender)
        if redemption.target != body.state_key:
            raise BadJson("The identity server spoke of another user.")
        await self._invites.exchange(call.requester, redemption)
        return {}


def mount_third_party_invites(endpoints: ThirdPartyInviteEndpoints) -> Mount[str]:
    """The routes. An identity server is no home server, and so has no key by which requests of these are checked."""
    told: Any = {"auth": Auth.NONE, "rate": "strangers", "body": Body.OBJECT, "max_body": 256 * 1024}
    routes = [
        Route("POST", "/3pid/onbind", endpoints.bound, **told),
        Route("PUT", "/3pid/onbind", endpoints.bound, **told),
        Route(
            "PUT",
            "/exchange_third_party_invite/{room}",
            endpoints.exchange,
            rate="federation",
            body=ExchangeBody,
        ),
    ]
    return Mount(PREFIX, routes)
