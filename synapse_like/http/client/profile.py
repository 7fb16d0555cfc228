"""What people tell of themselves (PROF-1, PROF-3)."""

from __future__ import annotations

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.profile import Profiles
from synapse_like.http.requests import Call
from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.profiles import VISIBILITY


class ProfileEndpoints:
    """Reading and changing profiles, as a whole and field by field."""

    def __init__(self, profiles: Profiles) -> None:
        self._profiles = profiles

    async def whole(self, call: Call[Requester]) -> object:
        """All of a profile that the requester may see."""
        return await self._profiles.whole(call.requester_if_any, call.params["user_id"])

    async def field(self, call: Call[Requester]) -> object:
        """One field of it."""
        return await self._profiles.field(call.requester_if_any, call.params["user_id"], call.params["field"])

    async def set(self, call: Call[Requester]) -> object:
        """Set a field: `{field: value, "visibility": …}`."""
        field = call.params["field"]
        if field not in call.body:
            raise BadJson(f"'{field}' is missing.")
        value, visibility = call.body[field], call.body.get(VISIBILITY)
        await self._profiles.set(call.requester, call.params["user_id"], field, value, visibility)
        return {}

    async def delete(self, call: Call[Requester]) -> object:
        """Take a field away."""
        await self._profiles.set(call.requester, call.params["user_id"], call.params["field"], None, None)
        return {}
