"""The connections to one server, and who waits for one (FED-1, SEC-1).

Every request is one that may be made twice without harm. So if a connection that was kept open turns out to have been
closed meanwhile, the request is made once more on a new one.
"""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import Agent as TwistedAgent
from twisted.web.client import HTTPConnectionPool, RequestTransmissionFailed, ResponseNeverReceived
from twisted.web.iweb import UNKNOWN_LENGTH, IAgentEndpointFactory
from zope.interface import implementer

from synapse_like.federation.agent import Answer, Asked, Download
from synapse_like.federation.bodies import BodyPasser, BytesProducer, read_body
from synapse_like.federation.connecting import GuardedReactor, ServerEndpoint
from synapse_like.federation.reasons import NotAnAnswer, timed_out
from synapse_like.federation.resolver import ServerResolver
from synapse_like.federation.tls import ClientTls

#: Connections to one destination at the same time.
MOST_CONNECTIONS = 6
#: Requests to one destination that wait for one.
MOST_WAITING = 1000
#: How long a connection is kept open without use, in seconds: less than servers wait, ours for one.
KEPT_SECONDS = 50
#: How long the other side may take to agree that a connection is over, in seconds.
CLOSING_SECONDS = 2


class Connections:
    """The connections to one server, and who waits for one.

    :param server_name: well-formed.
    :param reactor: Twisted's reactor.
    :param connect_seconds: that TCP and TLS may take for each place where the server may be.
    :param allow_private_addresses: whether addresses that are not on the internet may be reached.
    """

    def __init__(
        self,
        server_name: str,
        reactor: Any,
        resolver: ServerResolver,
        tls: ClientTls,
        connect_seconds: float,
        allow_private_addresses: bool,
    ) -> None:
        guarded = reactor if allow_private_addresses else GuardedReactor(reactor)
        endpoint = ServerEndpoint(server_name, guarded, resolver, tls, connect_seconds)
        self._reactor = reactor
        self._pool: Any = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = MOST_CONNECTIONS
        self._pool.cachedConnectionTimeout = KEPT_SECONDS
        # It would make GET requests anew only, and those only without a body.
        self._pool.retryAutomatically = False
        self._agent = TwistedAgent.usingEndpointFactory(reactor, _Always(endpoint), self._pool)
        self._free = DeferredSemaphore(MOST_CONNECTIONS)
        self._requests = 0

    @property
    def is_busy(self) -> bool:
        return self._requests > 0

    async def ask(self, asked: Asked) -> Answer:
        response = await self._response_in_turn(asked)
        try:
            body = await self._within(asked.timeouts.body, read_body(response, asked.most_bytes))
            return Answer(response.code, body)
        finally:
            self._leave()

    async def begin(self, asked: Asked) -> tuple[Download, Callable[[], None]]:
        """Ask; what is coming, and what is to be called when nobody reads it any more."""
        response = await self._response_in_turn(asked)
        passer = BodyPasser(
            asked.destination, asked.most_bytes, None if response.length is UNKNOWN_LENGTH else response.length
        )
        response.deliverBody(passer)
        too_long = self._reactor.callLater(asked.timeouts.body, passer.give_up, "it took too long")

        def close() -> None:
            if too_long.active():
                too_long.cancel()
            passer.give_up("nobody wants it any more")
            self._leave()

        return Download(response.code, response.headers, passer.body), close

    async def _response_in_turn(self, asked: Asked) -> Any:
        """Ask when a connection is free; it counts as taken until `_leave`, unless this raises."""
        if self._requests >= MOST_CONNECTIONS + MOST_WAITING:
            raise NotAnAnswer("too many requests wait for it")
        self._requests += 1
        try:
            await self._within(asked.timeouts.answer, self._free.acquire())
        except BaseException:
            self._requests -= 1
            raise
        try:
            return await self._ask_or_ask_again(asked)
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        self._free.release()
        self._requests -= 1

    async def _ask_or_ask_again(self, asked: Asked) -> Any:
        try:
            return await self._ask(asked)
        except (ResponseNeverReceived, RequestTransmissionFailed) as error:
            if not _was_closed(error):
                raise
        self._pool.closeCachedConnections()
        return await self._ask(asked)

    async def _ask(self, asked: Asked) -> Any:
        body = None if asked.body is None else BytesProducer(asked.body)
        answering = self._agent.request(asked.method, b"https://server" + asked.uri, asked.headers, body)
        return await self._within(asked.timeouts.answer, answering)

    def _within(self, seconds: float, doing: Deferred[Any]) -> Deferred[Any]:
        return doing.addTimeout(seconds, self._reactor, timed_out)

    async def close(self) -> None:
        with suppress(DeferredTimeoutError):
            await self._within(CLOSING_SECONDS, self._pool.closeCachedConnections())


def _was_closed(error: Any) -> bool:
    """Whether nothing of an answer came because the connection had been closed."""
    return any(reason.check(ConnectionClosed) for reason in error.reasons)


@implementer(IAgentEndpointFactory)
class _Always:
    """Leads every URI to the same endpoint."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: object) -> IStreamClientEndpoint:  # noqa: N802 - Twisted's name
        return self._endpoint
