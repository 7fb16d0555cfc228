"""Whom one ignores, and whose invites one takes (SEC-9)."""

from __future__ import annotations

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.unwanted import Policy, Unwanted
from synapse_like.http.requests import Call
from synapse_like.models import Model


class IgnoredBody(Model, frozen=True):
    """All whom one ignores."""

    ignored_users: list[str]


class PolicyBody(Model, frozen=True):
    """Whose invites one takes."""

    policy: Policy


class UnwantedEndpoints:
    """Settings of the user who asks. To set them a second time does no harm, so they have no transaction IDs."""

    def __init__(self, unwanted: Unwanted) -> None:
        self._unwanted = unwanted

    async def ignored(self, call: Call[Requester]) -> object:
        """Whom one ignores."""
        return {"ignored_users": await self._unwanted.ignored(call.requester)}

    async def ignore(self, call: Call[Requester]) -> object:
        """Ignore these users, and nobody else."""
        body: IgnoredBody = call.body
        await self._unwanted.ignore(call.requester, body.ignored_users)
        return {}

    async def policy(self, call: Call[Requester]) -> object:
        """Whose invites one takes."""
        return {"policy": await self._unwanted.policy(call.requester)}

    async def set_policy(self, call: Call[Requester]) -> object:
        """Say whose invites one takes."""
        body: PolicyBody = call.body
        await self._unwanted.set_policy(call.requester, body.policy)
        return {}
