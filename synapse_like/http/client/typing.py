"""Who is typing (TYP-1)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.typing import USUAL_MS, Typing
from synapse_like.http.requests import Call
from synapse_like.models import Model


class TypingBody(Model, frozen=True):
    """Whether somebody types, and for how many milliseconds if nothing else is heard; other keys are ignored."""

    typing: bool
    timeout: Annotated[int, Meta(ge=0)] = USUAL_MS


class TypingEndpoints:
    """Saying that one types."""

    def __init__(self, typing: Typing) -> None:
        self._typing = typing

    async def set(self, call: Call[Requester]) -> object:
        """Say that one types, or that one does no longer."""
        body: TypingBody = call.body
        await self._typing.update(
            call.requester, call.params["room"], call.params["user"], typing=body.typing, timeout_ms=body.timeout
        )
        return {}
