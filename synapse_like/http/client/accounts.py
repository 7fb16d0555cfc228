"""Registration, login, logout (LOGIN)."""

from __future__ import annotations

from typing import Any

from synapse_like.handlers.authentication import Authentication, Requester
from synapse_like.handlers.login import LOGIN, REGISTER, Credentials, Login
from synapse_like.http.requests import Call


class AccountEndpoints:
    """Getting an access token, and giving it back."""

    def __init__(self, login: Login, authentication: Authentication, server_name: str) -> None:
        self._login = login
        self._authentication = authentication
        self._server_name = server_name

    async def register_flows(self, call: Call[Requester]) -> object:
        """The ways to register."""
        return self._flows(REGISTER)

    async def login_flows(self, call: Call[Requester]) -> object:
        """The ways to log in."""
        return self._flows(LOGIN)

    def _flows(self, purpose: str) -> dict[str, Any]:
        return {
            "flows": [
                {"type": flow[0]} | ({"stages": list(flow)} if len(flow) > 1 else {})
                for flow in self._login.flows(purpose)
            ]
        }

    async def register(self, call: Call[Requester]) -> object:
        """One stage of a registration."""
        return await self._submit(REGISTER, call)

    async def login(self, call: Call[Requester]) -> object:
        """One stage of a login."""
        return await self._submit(LOGIN, call)

    async def _submit(self, purpose: str, call: Call[Requester]) -> dict[str, Any]:
        result = await self._login.submit(purpose, call.body)
        if isinstance(result, Credentials):
            return {
                "user_id": result.user_id,
                "access_token": result.access_token,
                "home_server": self._server_name,
            }
        return {"session": result.session, "next": result.next}

    async def log_out(self, call: Call[Requester]) -> object:
        """End this access token."""
        await self._authentication.log_out(call.requester)
        return {}

    async def log_out_everywhere(self, call: Call[Requester]) -> object:
        """End all access tokens of the user."""
        await self._authentication.log_out_everywhere(call.requester)
        return {}
