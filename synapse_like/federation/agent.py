"""Requests to other servers, with bounds on everything that another server decides (FED-1, SEC-1).

Each destination has a few connections at the most, kept open between requests; how a new one comes about is in
`connecting.py`. There is a time-out for the connection with its handshake, one for the head of the answer, one for the
whole of it, and a limit for its size. Redirects are not followed. What goes wrong is a `ServerUnreachable`. What is too
large for memory comes as a stream (`Agent.download`), read as fast as its reader takes it.

Every request is one that may be made twice without harm. So if a connection that was kept open turns out to have been
closed meanwhile, the request is made once more on a new one.
"""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import Agent as TwistedAgent
from twisted.web.client import HTTPConnectionPool, RequestTransmissionFailed, ResponseNeverReceived
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgentEndpointFactory
from zope.interface import implementer

from synapse_like.byte_streams import ByteStream
from synapse_like.federation.bodies import BodyPasser, BytesProducer, read_body
from synapse_like.federation.connecting import GuardedReactor, ServerEndpoint
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.federation.reasons import NotAnAnswer, timed_out, why
from synapse_like.federation.resolver import ServerResolver
from synapse_like.federation.tls import ClientTls

#: Connections to one destination at the same time.
MOST_CONNECTIONS = 6
#: Requests to one destination that wait for one.
MOST_WAITING = 1000
#: Destinations whose connections are kept open.
MOST_DESTINATIONS = 1000
#: How long a connection is kept open without use, in seconds: less than servers wait, ours for one.
KEPT_SECONDS = 50
#: How long the other side may take to agree that a connection is over, in seconds.
CLOSING_SECONDS = 2


class Timeouts(Struct, frozen=True):
    """How long another server may take, in seconds.

    :ivar connect: until TCP and TLS are there, for each place that is tried.
    :ivar answer: until the head of the answer is there, connecting included.
    :ivar body: from then until the whole answer is.
    """

    connect: float = 10
    answer: float = 60
    body: float = 120


class Answer(Struct, frozen=True):
    """What another server answered.

    :ivar date: when, by its clock, in the way of HTTP; None if it did not say, or was not asked by its URL.
    """

    status: int
    body: bytes
    date: str | None = None


class Download(Struct, frozen=True):
    """What another server is answering.

    :ivar body: reading it raises ServerUnreachable if it breaks off or takes too long, AnswerTooLarge if it is that.
    """

    status: int
    headers: Headers
    body: ByteStream


class Agent:
    """Asks other servers.

    :param reactor: Twisted's reactor.
    :param enabled: False lets nothing out: every server is unreachable.
    :param allow_private_addresses: whether addresses that are not on the internet may be reached.
    :param user_agent: what we call ourselves.
    """

    def __init__(
        self,
        reactor: Any,
        resolver: ServerResolver,
        tls: ClientTls,
        *,
        enabled: bool = True,
        allow_private_addresses: bool = False,
        timeouts: Timeouts | None = None,
        user_agent: str = "synapse_like",
    ) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._tls = tls
        self._enabled = enabled
        self._guarded: Any = reactor if allow_private_addresses else GuardedReactor(reactor)
        self._timeouts = timeouts or Timeouts()
        self._user_agent = [user_agent.encode("ascii")]
        self._destinations: OrderedDict[str, _Destination] = OrderedDict()

    async def request(
        self,
        method: str,
        destination: str,
        uri: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        most_bytes: int,
        timeouts: Timeouts | None = None,
    ) -> Answer:
        """Ask a server and read the whole answer, whatever its status.

        :param destination: the server's name, well-formed.
        :param uri: path and query, percent-encoded.
        :param body: JSON.
        :param most_bytes: how large the answer's body may be.
        :raises ServerUnreachable: there was no answer.
        """
        asked = self._asked(method, destination, uri, headers, body, most_bytes, timeouts)
        try:
            return await self._destination(destination).ask(asked)
        except Exception as error:
            raise self._unreachable(destination, error) from error

    @asynccontextmanager
    async def download(
        self,
        destination: str,
        uri: str,
        *,
        headers: Mapping[str, str] | None = None,
        most_bytes: int,
        timeouts: Timeouts | None = None,
    ) -> AsyncIterator[Download]:
        """Ask a server for something large, which is read within the context.

        :param most_bytes: how large the answer's body may be.
        :raises ServerUnreachable: there was no answer.
        """
        asked = self._asked("GET", destination, uri, headers, None, most_bytes, timeouts)
        asking = self._destination(destination)
        try:
            download, close = await asking.begin(asked)
        except Exception as error:
            raise self._unreachable(destination, error) from error
        try:
            yield download
        finally:
            close()

    def _asked(
        self,
        method: str,
        destination: str,
        uri: str,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        most_bytes: int,
        timeouts: Timeouts | None,
    ) -> _Asked:
        if not self._enabled:
            raise ServerUnreachable(destination, "federation is switched off")
        given = Headers({name: [value] for name, value in (headers or {}).items()})
        given.setRawHeaders(b"Host", [destination.encode("ascii")])
        given.setRawHeaders(b"User-Agent", self._user_agent)
        if body is not None:
            given.setRawHeaders(b"Content-Type", [b"application/json"])
        return _Asked(
            destination,
            method.encode("ascii"),
            uri.encode("ascii"),
            given,
            body,
            most_bytes,
            timeouts or self._timeouts,
        )

    def _unreachable(self, destination: str, error: Exception) -> Exception:
        """An error as who asked is to see it: faults of our own stay what they are."""
        reason = why(error)
        return error if reason is None else ServerUnreachable(destination, reason)

    def switch_off(self) -> None:
        """Ask nobody any more."""
        self._enabled = False

    async def close(self) -> None:
        """Close the connections that are kept open."""
        while self._destinations:
            _, destination = self._destinations.popitem()
            await destination.close()

    def _destination(self, name: str) -> _Destination:
        known = self._destinations.get(name)
        if known is None:
            endpoint = ServerEndpoint(name, self._guarded, self._resolver, self._tls, self._timeouts.connect)
            known = self._destinations[name] = _Destination(self._reactor, endpoint)
            self._forget_some()
        self._destinations.move_to_end(name)
        return known

    def _forget_some(self) -> None:
        """Close the connections to whom nothing was asked for longest, if there are too many."""
        if len(self._destinations) <= MOST_DESTINATIONS:
            return
        for name, destination in self._destinations.items():
            if not destination.is_busy and name != next(reversed(self._destinations)):
                del self._destinations[name]
                Deferred.fromCoroutine(destination.close())
                return


class _Asked(Struct, frozen=True):
    destination: str
    method: bytes
    uri: bytes
    headers: Headers
    body: bytes | None
    most_bytes: int
    timeouts: Timeouts


class _Destination:
    """The connections to one server, and who waits for one."""

    def __init__(self, reactor: Any, endpoint: IStreamClientEndpoint) -> None:
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

    async def ask(self, asked: _Asked) -> Answer:
        response = await self._response_in_turn(asked)
        try:
            body = await self._within(asked.timeouts.body, read_body(response, asked.most_bytes))
            return Answer(response.code, body)
        finally:
            self._leave()

    async def begin(self, asked: _Asked) -> tuple[Download, Callable[[], None]]:
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

    async def _response_in_turn(self, asked: _Asked) -> Any:
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

    async def _ask_or_ask_again(self, asked: _Asked) -> Any:
        try:
            return await self._ask(asked)
        except (ResponseNeverReceived, RequestTransmissionFailed) as error:
            if not _was_closed(error):
                raise
        self._pool.closeCachedConnections()
        return await self._ask(asked)

    async def _ask(self, asked: _Asked) -> Any:
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
