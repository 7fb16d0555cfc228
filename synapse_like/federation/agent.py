"""Requests to other servers, with bounds on everything that another server decides (FED-1, SEC-1).

Each destination has a few connections at the most, kept open between requests. A new one goes to the places that the
resolver names, one after another, until a TLS handshake has succeeded and the certificate fits. There is a time-out for
the connection with its handshake, one for the head of the answer, one for the whole of it, and a limit for its size.
Redirects are not followed. What goes wrong is a `ServerUnreachable`. What is too large for memory comes as a stream
(`Agent.download`), read as fast as its reader takes it.

Every request is one that may be made twice without harm. So if a connection that was kept open turns out to have been
closed meanwhile, the request is made once more on a new one.
"""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import (
    IHandshakeListener,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent as TwistedAgent
from twisted.web.client import (
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import directlyProvides, implementer, providedBy

from synapse_like.authorities import tls_reason
from synapse_like.byte_streams import ByteStream
from synapse_like.federation.addresses import is_public
from synapse_like.federation.errors import AnswerTooLarge, ServerUnreachable
from synapse_like.federation.resolver import Place, ServerResolver
from synapse_like.federation.tls import NAME_ERRORS, ClientTls
from synapse_like.logs import get_logger

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
#: Places that are tried for one destination.
MOST_PLACES = 4
#: Bytes that the head of an answer may have.
MOST_HEAD_BYTES = 64 * 1024

_log = get_logger(__name__)


class AddressRefused(ConnectError):
    """Federation may not reach this address."""


class NotAnAnswer(Exception):
    """What another server sent is no answer to take; says why."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long another server may take, in seconds.

    :ivar connect: until TCP and TLS are there, for each place that is tried.
    :ivar answer: until the head of the answer is there, connecting included.
    :ivar body: from then until the whole answer is.
    """

    connect: float = 10
    answer: float = 60
    body: float = 120


@dataclass(frozen=True, slots=True)
class Answer:
    """What another server answered.

    :ivar date: when, by its clock, in the way of HTTP; None if it did not say, or was not asked by its URL.
    """

    status: int
    body: bytes
    date: str | None = None


@dataclass(frozen=True, slots=True)
class Download:
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
        self._guarded: Any = reactor if allow_private_addresses else _GuardedReactor(reactor)
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
            endpoint = _ServerEndpoint(name, self._guarded, self._resolver, self._tls, self._timeouts)
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


@dataclass(frozen=True, slots=True)
class _Asked:
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
        passer = _BodyPasser(asked, None if response.length is UNKNOWN_LENGTH else response.length)
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


def timed_out(_outcome: object, _seconds: float) -> NoReturn:
    """For `addTimeout`, which knows only one of the many exceptions by which Twisted says that it was cancelled."""
    raise DeferredTimeoutError


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


# Connecting.


@implementer(IStreamClientEndpoint)
class _ServerEndpoint:
    """Where a server is: whichever of its places answers first, tried in their order."""

    def __init__(
        self, server_name: str, reactor: Any, resolver: ServerResolver, tls: ClientTls, timeouts: Timeouts
    ) -> None:
        self._server_name = server_name
        self._reactor = reactor
        self._resolver = resolver
        self._tls = tls
        self._seconds = timeouts.connect

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:  # noqa: N803 - Twisted's name
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> Any:
        *others, last = (await self._resolver.places(self._server_name))[:MOST_PLACES]
        for place in others:
            try:
                return await self._connect_to(place, factory)
            except (CancelledError, ConnectingCancelledError):
                raise
            except Exception as error:
                if why(error) is None:
                    raise
                _log.debug("one place of a server does not answer", place=str(place), reason=why(error))
        return await self._connect_to(last, factory)

    async def _connect_to(self, place: Place, factory: IProtocolFactory) -> Any:
        plain = HostnameEndpoint(self._reactor, place.host, place.port, timeout=self._seconds)
        endpoint = wrapClientTLS(self._tls.towards(self._server_name), plain, self._reactor)
        outer = _ConnectionFactory(self._server_name, self._tls, factory)
        connecting: Deferred[Any] = endpoint.connect(outer)
        connection = await connecting.addTimeout(self._seconds, self._reactor, timed_out)
        return await connection.ready().addTimeout(self._seconds, self._reactor, timed_out)


class _ConnectionFactory(Factory):
    noisy = False

    def __init__(self, server_name: str, tls: ClientTls, inner: IProtocolFactory) -> None:
        self._server_name = server_name
        self._tls = tls
        self._inner = inner

    def buildProtocol(self, addr: Any) -> _Connection:  # noqa: N802 - Twisted's name
        return _Connection(self._server_name, self._tls, self._inner.buildProtocol(addr))


@implementer(IHandshakeListener)
class _Connection(Protocol):
    """Stands between TLS and Twisted's HTTP: lets it begin once we know who is there, and counts the bytes of heads."""

    def __init__(self, server_name: str, tls: ClientTls, http: Any) -> None:
        self._outcome: Any = None
        self._waiter: Deferred[Any] | None = None
        self._server_name = server_name
        self._tls = tls
        self._http = http
        self._is_open = False
        self._head_bytes = 0
        self._has_session = False

    def ready(self) -> Deferred[Any]:
        """The protocol of HTTP, when the handshake is done. To cancel it is to close the connection."""
        waiter: Deferred[Any] = Deferred(lambda _: self._abort())
        if self._outcome is None:
            self._waiter = waiter
        else:
            waiter.callback(self._outcome)
        return waiter

    def _settle(self, outcome: Any) -> None:
        """Tell who waits, if anybody does: of several connections that are tried, only one is waited for."""
        if self._outcome is None:
            self._outcome = outcome
            if self._waiter is not None and not self._waiter.called:
                self._waiter.callback(outcome)

    def handshakeCompleted(self) -> None:  # noqa: N802 - Twisted's name
        transport: Any = self.transport
        try:
            self._tls.check(self._server_name, transport.getHandle())
        except Exception:
            self._settle(Failure())
            transport.abortConnection()
            return
        self._is_open = True
        self._http.makeConnection(_AbruptTransport(transport))
        self._settle(self._http)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        if not self._has_session:
            # The tickets of TLS 1.3 come behind the handshake.
            self._has_session = True
            transport: Any = self.transport
            self._tls.keep_session(self._server_name, transport.getHandle())
        parser = self._http._parser
        if parser is None:
            # Nothing was asked.
            self._abort()
            return
        if parser.state in ("STATUS", "HEADER"):
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES + len(data):
                self._abort()
                return
        self._http.dataReceived(data)
        if self._http._parser is None or self._http._parser.state not in ("STATUS", "HEADER"):
            self._head_bytes = 0

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802 - Twisted's name
        if self._is_open:
            self._http.connectionLost(reason)
        else:
            self._tls.forget_session(self._server_name)
            self._settle(reason)

    def _abort(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()


class _AbruptTransport:
    """A TLS transport that does not wait, when it is closed, for the other side to agree."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.write = transport.write
        directlyProvides(self, providedBy(transport))

    def loseConnection(self) -> None:  # noqa: N802 - Twisted's name
        # Twisted's pool closes also those that the other side has closed before, and TLS does not bear that.
        if self._transport.connected:
            self._transport.abortConnection()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@implementer(IReactorPluggableNameResolver)
class _GuardedReactor:
    """A reactor that connects only to addresses on the internet."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def connectTCP(self, host: str, port: int, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - Twisted's name
        if not is_public(host):
            raise AddressRefused(string=f"federation may not reach the address {host}")
        return self._reactor.connectTCP(host, port, *args, **kwargs)


# Sending and reading bodies.


@implementer(IBodyProducer)
class BytesProducer:
    """A body that is there already, written at once."""

    def __init__(self, body: bytes) -> None:
        self.length: Final = len(body)
        self._body = body

    def startProducing(self, consumer: Any) -> Deferred[None]:  # noqa: N802 - Twisted's name
        consumer.write(self._body)
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's name
        pass

    def resumeProducing(self) -> None:  # noqa: N802 - Twisted's name
        pass

    def stopProducing(self) -> None:  # noqa: N802 - Twisted's name
        pass


def read_body(response: IResponse, most_bytes: int) -> Deferred[bytes]:
    """The body of a response. To cancel it is to close the connection."""
    reader = _BodyReader(most_bytes)
    response.deliverBody(reader)
    return reader.body


class _BodyReader(Protocol):
    """Takes a body in, up to a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self.body: Deferred[bytes] = Deferred(lambda _: self._abort())
        self._left = most_bytes
        self._chunks: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        if self.body.called:
            return
        self._left -= len(data)
        if self._left < 0:
            self._chunks.clear()
            self.body.errback(NotAnAnswer("its answer is too large"))
            self._abort()
        else:
            self._chunks.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802 - Twisted's name
        if self.body.called:
            return
        if reason.check(ResponseDone):
            self.body.callback(b"".join(self._chunks))
        else:
            # `PotentialDataLoss` among them: a body that ends with the connection may have been cut off.
            self.body.errback(NotAnAnswer("its answer broke off"))

    def _abort(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.loseConnection()


class _BodyPasser(Protocol):
    """Passes a body on as it comes, up to a number of bytes."""

    def __init__(self, asked: _Asked, length: int | None) -> None:
        self.body = ByteStream(self._pause, self._resume, length=length)
        self._asked = asked
        self._is_over = False
        if length is not None and length > asked.most_bytes:
            self._fail(AnswerTooLarge(asked.destination, asked.most_bytes))

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        if self._is_over:
            self._abort()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        self.body.push(data)
        if self.body.received > self._asked.most_bytes:
            self._fail(AnswerTooLarge(self._asked.destination, self._asked.most_bytes))
            self._abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802 - Twisted's name
        if not self._is_over and reason.check(ResponseDone):
            self._is_over = True
            self.body.end()
        else:
            self._fail(ServerUnreachable(self._asked.destination, "its answer broke off"))

    def give_up(self, reason: str) -> None:
        """Receive no more."""
        if not self._is_over:
            self._fail(ServerUnreachable(self._asked.destination, reason))
            self._abort()

    def _fail(self, error: Exception) -> None:
        if not self._is_over:
            self._is_over = True
            self.body.fail(error)

    def _pause(self) -> None:
        self._do("pauseProducing")

    def _resume(self) -> None:
        if not self._is_over:
            self._do("resumeProducing")

    def _abort(self) -> None:
        self._do("loseConnection")

    def _do(self, what: str) -> None:
        transport: Any = self.transport
        if transport is not None:
            getattr(transport, what)()


def why(error: BaseException) -> str | None:
    """Why a server could not be reached, for the log; None if the fault is ours."""
    if isinstance(error, ServerUnreachable):
        return error.reason
    if isinstance(error, ResponseFailed | RequestTransmissionFailed):
        return "; ".join(why(failure.value) or repr(failure.value) for failure in error.reasons)
    if isinstance(error, DeferredTimeoutError):
        return "it took too long"
    if isinstance(error, NAME_ERRORS):
        return f"its certificate is not that of this server: {error!r}"
    if isinstance(error, SSL.Error):
        return tls_reason(error)
    if isinstance(error, NotAnAnswer | ConnectError | ConnectionClosed | DNSLookupError | OSError | ValueError):
        return str(error) or type(error).__name__
    return None
