"""Connections to other servers: from place to place until a TLS handshake has succeeded and the certificate fits. Only
then something is asked.
"""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectingCancelledError, ConnectionClosed, ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IReactorPluggableNameResolver
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from synapse_like.federation.addresses import is_public
from synapse_like.federation.answers import AnswerReader, Taker
from synapse_like.federation.reasons import AddressRefused, NotAnAnswer, Unanswered, timed_out, why
from synapse_like.federation.resolver import Place, ServerResolver
from synapse_like.federation.tls import ClientTls
from synapse_like.logs import get_logger
from synapse_like.prompt import send_now

#: Places that are tried for one destination.
MOST_PLACES = 4

_log = get_logger(__name__)


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

    async def connect(self) -> Connection:
        """A connection over which one can ask."""
        *others, last = (await self._resolver.places(self._server_name))[:MOST_PLACES]
        for place in others:
            try:
                return await self._connect_to(place)
            except (CancelledError, ConnectingCancelledError):
                raise
            except Exception as error:
                if why(error) is None:
                    raise
                _log.debug("one place of a server does not answer", place=str(place), reason=why(error))
        return await self._connect_to(last)

    async def _connect_to(self, place: Place) -> Connection:
        endpoint: Any = HostnameEndpoint(self._reactor, place.host, place.port, timeout=self._seconds)
        inner = Factory.forProtocol(partial(Connection, self._server_name, self._tls, self._reactor))
        inner.noisy = False
        factory = TLSMemoryBIOFactory(self._tls.towards(self._server_name), True, inner, self._reactor)
        # Requests are written with one call each: there is nothing to wait for, and to put together.
        factory.protocol = TLSMemoryBIOProtocol
        connecting: Deferred[Any] = endpoint.connect(factory)
        tls = await connecting.addTimeout(self._seconds, self._reactor, timed_out)
        connection: Connection = tls.wrappedProtocol
        ready = connection.ready()
        if not ready.called:
            ready.addTimeout(self._seconds, self._reactor, timed_out)
        await ready
        return connection


@implementer(IHandshakeListener)
class Connection(Protocol):
    """A connection to a server: once we know who is there, requests go over it, one when the one before is answered.

    There is one timer. It runs for the earliest moment that it was ever needed for, and is set anew only then: nearly
    everything that it would be set for is over long before.

    :ivar is_open: whether something can be asked, now or when what was asked before is answered.
    """

    def __init__(self, server_name: str, tls: ClientTls, reactor: Any) -> None:
        self.is_open = False
        self._outcome: Any = None
        self._waiter: Deferred[None] | None = None
        self._server_name = server_name
        self._tls = tls
        self._reactor = reactor
        self._has_session = self._is_paused = self._is_lost = False
        self._reader: AnswerReader | None = None
        self._body_seconds = 0.0
        self._deadline = self._looked_at = float("inf")
        self._timer: IDelayedCall | None = None
        self._closing: Deferred[None] | None = None

    # Until it is there.

    def ready(self) -> Deferred[None]:
        """Fires when the handshake is done. To cancel it is to close the connection."""
        waiter: Deferred[None] = Deferred(lambda _: self.abort())
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
            self.abort()
            return
        self.is_open = True
        self._settle(True)

    # Asking.

    def ask(self, request: bytes, taker: Taker, *, answer: float, body: float) -> None:
        """Send a request; the taker is told what comes of it.

        :param answer: seconds until the head of the answer is there.
        :param body: seconds from then until the whole answer is.
        """
        assert self._reader is None, "one after another"
        transport: Any = self.transport
        self._reader = AnswerReader(taker)
        self._body_seconds = body
        self._end_within(answer)
        transport.write(request)
        send_now(transport)

    def keep(self, seconds: float) -> None:
        """Stay open so long if nothing is asked."""
        self._end_within(seconds)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        if not self._has_session:
            # The tickets of TLS 1.3 come behind the handshake.
            self._has_session = True
            transport: Any = self.transport
            self._tls.keep_session(self._server_name, transport.getHandle())
        reader = self._reader
        if reader is None:
            # Nothing was asked.
            self.abort()
            return
        had_head = reader.has_head
        try:
            is_over = reader.feed(data)
        except NotAnAnswer as error:
            self._fail(error)
            return
        if is_over:
            self._reader = None
            if reader.is_last:
                self.abort()
            else:
                self.resume()
            reader.taker.end()
        elif reader.has_head and not had_head:
            self._end_within(self._body_seconds)

    def _fail(self, error: Exception) -> None:
        reader, self._reader = self._reader, None
        self.abort()
        if reader is not None:
            reader.taker.fail(error)

    # Its ends.

    def _end_within(self, seconds: float) -> None:
        now = self._reactor.seconds()
        self._deadline = now + seconds
        if self._timer is None or self._deadline < self._looked_at:
            if self._timer is not None:
                self._timer.cancel()
            self._looked_at = self._deadline
            self._timer = self._reactor.callLater(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        left = self._deadline - self._reactor.seconds()
        if left > 0:
            self._end_within(left)
        else:
            self._fail(DeferredTimeoutError())

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802 - Twisted's name
        if self._outcome is None:
            self._tls.forget_session(self._server_name)
            self._settle(reason)
        self.is_open = False
        self._is_lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        reader, self._reader = self._reader, None
        if reader is not None and reader.ends_with_connection and reason.check(ConnectionDone):
            reader.taker.end()
        elif reader is not None:
            reader.taker.fail(_why_unanswered(reader, reason))
        if self._closing is not None:
            self._closing.callback(None)

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self.is_open = False
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def close(self) -> Deferred[None]:
        """Close a connection over which nothing is asked; fires when it is over."""
        closing = self._closing = Deferred()
        if self._is_lost:
            closing.callback(None)
        else:
            self.abort()
        return closing

    def pause(self) -> None:
        """Receive no more for the moment."""
        transport: Any = self.transport
        self._is_paused = True
        transport.pauseProducing()

    def resume(self) -> None:
        """Receive again, if that was stopped."""
        if self._is_paused:
            transport: Any = self.transport
            self._is_paused = False
            transport.resumeProducing()


def _why_unanswered(reader: AnswerReader, reason: Failure) -> Exception:
    """What is told of a connection that is over before its answer is."""
    if reader.has_begun:
        return NotAnAnswer("its answer broke off")
    if reason.check(ConnectionClosed):
        return Unanswered(str(reason.value))
    return reason.value if isinstance(reason.value, Exception) else NotAnAnswer(repr(reason.value))


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
