"""Connecting to other servers: from place to place until a TLS handshake has succeeded and the certificate fits.

What stands between TLS and Twisted's HTTP lets HTTP begin only then, and counts the bytes of the heads of answers.
"""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import (
    IHandshakeListener,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer, providedBy

from synapse_like.federation.addresses import is_public
from synapse_like.federation.reasons import AddressRefused, timed_out, why
from synapse_like.federation.resolver import Place, ServerResolver
from synapse_like.federation.tls import ClientTls
from synapse_like.logs import get_logger

#: Places that are tried for one destination.
MOST_PLACES = 4
#: Bytes that the head of an answer may have.
MOST_HEAD_BYTES = 64 * 1024

_log = get_logger(__name__)


@implementer(IStreamClientEndpoint)
class ServerEndpoint:
    """Where a server is: whichever of its places answers first, tried in their order.

    :param seconds: that TCP and TLS may take for each place.
    """

    def __init__(
        self, server_name: str, reactor: Any, resolver: ServerResolver, tls: ClientTls, seconds: float
    ) -> None:
        self._server_name = server_name
        self._reactor = reactor
        self._resolver = resolver
        self._tls = tls
        self._seconds = seconds

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
class GuardedReactor:
    """A reactor that connects only to addresses on the internet."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def connectTCP(self, host: str, port: int, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - Twisted's name
        if not is_public(host):
            raise AddressRefused(string=f"federation may not reach the address {host}")
        return self._reactor.connectTCP(host, port, *args, **kwargs)
