"""Telling others that we are back.

Whoever could not reach us waits longer and longer before trying again. So a server that starts sends everybody with
whom it shares a room an empty transaction (section "Transactions": an empty one is a push to go on). Who hears from us
sends what has waited.
"""

from __future__ import annotations

from twisted.internet.defer import DeferredSemaphore

from synapse_like.background import all_of, run_in_background
from synapse_like.clock import Clock
from synapse_like.federation.client import FederationClient
from synapse_like.federation.transactions import make_transaction_id, transaction_body
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import MatrixError
from synapse_like.storage import events, room_servers
from synapse_like.storage.database import Database
from synapse_like.storage.transactions import Transaction

#: How many servers are greeted, and how many at the same time.
MOST_SERVERS = 2000
MOST_AT_ONCE = 20

_log = get_logger(__name__)


class Greetings:
    """Greets, once."""

    def __init__(self, database: Database, clock: Clock, client: FederationClient, server_name: str) -> None:
        self._database = database
        self._clock = clock
        self._client = client
        self._server_name = server_name
        self._free = DeferredSemaphore(MOST_AT_ONCE)

    async def greet(self) -> None:
        """Tell all servers with which we share a room that we are here."""
        position, servers = await self._database.read("whom-to-greet", _look)
        await all_of([self._free.run(run_in_background, "greet", self._greet, server, position) for server in servers])

    async def _greet(self, server: str, position: int) -> None:
        transaction_id = make_transaction_id(position)
        body = transaction_body(
            transaction_id,
            origin=self._server_name,
            destination=server,
            now_ms=self._clock.now_ms(),
            previous=None,
            pdus=[],
            edus=[],
        )
        try:
            await self._client.send_transaction(server, transaction_id, body)
        except MatrixError as error:
            _log.info("a server was not greeted", server=server, reason=error.reason or error.message)


def _look(txn: Transaction) -> tuple[int, list[str]]:
    return events.current_position(txn), room_servers.everywhere(txn, most=MOST_SERVERS)
