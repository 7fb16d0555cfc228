"""Requests that a client may send again (API-4): told by their access token and their transaction ID."""

from __future__ import annotations

from synapse_like.clock import Clock
from synapse_like.handlers.authentication import Requester
from synapse_like.storage import retransmissions
from synapse_like.storage.database import Database
from synapse_like.storage.retransmissions import Once


class Retransmissions:
    """Names requests, and forgets old ones."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def request(self, requester: Requester, key: str | None) -> Once:
        """What a handler needs to do a request only once, and only for a token that is still valid.

        :param key: what is asked, with its transaction ID; None if it is not idempotent.
        """
        return Once(requester.token_id, key, self._clock.now_ms())

    async def forget_old(self) -> None:
        """Forget answers that nobody will ask for again."""
        await self._database.write("forget-retransmissions", retransmissions.delete_old, now_ms=self._clock.now_ms())
