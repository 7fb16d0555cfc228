"""What calls need beside their events (VOIP-1)."""

from __future__ import annotations

from msgspec.structs import asdict

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.voip import Voip
from synapse_like.http.requests import Call


class VoipEndpoints:
    """The TURN server."""

    def __init__(self, voip: Voip) -> None:
        self._voip = voip

    async def turn_server(self, call: Call[Requester]) -> object:
        """Credentials for it; empty if there is none."""
        credentials = self._voip.credentials(call.requester)
        return asdict(credentials) if credentials is not None else {}
