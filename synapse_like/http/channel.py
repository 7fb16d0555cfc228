"""A connection: requests are read off it, worked on side by side, and answered in their order (EVS-9).

Twisted's HTTPChannel, whose parser this is, reads a request only when the one before it is answered. Here reading goes
on while fewer than `max_pipelined` requests are unanswered, so that a client may send a message behind a long poll that
is still waiting, and be woken by it. Each request is an `Exchange`; an answer that is ready before its turn waits in
it. At the limit, and while the client does not read its answers, what arrives is held back as Twisted does it: a
little is kept, so that a client's going away is noticed, then the socket is left alone.

What may not be received to its end (`refuse`) is answered in its turn, and the connection closed. What arrives in the
meantime is thrown away: to close a socket with unread data in it would take the answer from the client again.

A body that is to be had as a stream (`Exchange.is_streamed`) is worked on while it arrives; whoever reads it sets the
pace. An answer whose body is a `BodySource` is read and sent piece by piece, as fast as the client takes it.

The site looks at every connection every few seconds (`look_at_the_clock`); that is cheaper than a timer for each
request. Limits of time hold only for what the client has to do: to send a request, and to read its answers.
"""

# mypy: allow-untyped-calls
# (Most of HTTPChannel is not annotated.)

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, _parseRequestLine

from synapse_like.clock import Clock
from synapse_like.logs import get_logger
from synapse_like.prompt import send_now
from synapse_like.protocol.errors import MatrixError, TooLarge

#: How long a client may be silent, in the middle of a request or between two.
IDLE_SECONDS = 60
#: How long a client may take to send one request.
RECEIVE_SECONDS = 120
#: How long a connection that we have closed may take to go away.
ABORT_SECONDS = 15
#: How long a client that was refused in the middle of its request is listened to, unheard, to let it read why.
LINGER_SECONDS = 1
#: How many bytes too many are received and thrown away before a client is refused in the middle, and again how many
#: before a client that was refused is cut off.
SWALLOWED = 8 * 1024 * 1024

_log = get_logger(__name__)

#: Digits of a Content-Length. More are no honest number, and Python refuses to read very many.
_LONGEST_LENGTH = 18


#: Headers that say nothing of where a request ends, as they are mostly written, and as Twisted spells them.
_SPELLED = {
    written: name
    for name in (
        b"Accept",
        b"Accept-Encoding",
        b"Accept-Language",
        b"Authorization",
        b"Cache-Control",
        b"Connection",
        b"Content-Type",
        b"Host",
        b"Origin",
        b"Referer",
        b"User-Agent",
        b"X-Forwarded-For",
    )
    for written in (name, name.lower())
}
#: A head without headers, or a line that goes on.
_UNUSUAL = re.compile(rb"\A\r\n|(?:\A|\r\n)[ \t]")
_CONTROL = re.compile(rb"[\x00\r\n]")


class Headers(dict[bytes, bytes]):
    """The headers of a request. The names are spelled as Twisted spells them: Content-Type, X-Forwarded-For.

    A repeated header is a list with commas, as HTTP has it.
    """

    def addRawHeader(self, name: bytes, value: bytes) -> None:  # noqa: N802 - Twisted's name
        earlier = self.get(name)
        self[name] = value if earlier is None else earlier + b", " + value


#: Of a request whose headers are not kept any more.
NO_HEADERS = Headers()


class BodySource(Protocol):
    """The body of an answer, where it is not there as bytes. Who made the answer closes it."""

    length: int
    """Bytes."""

    async def read(self) -> bytes:
        """The next piece; nothing at the end."""


class Exchange(ABC):
    """One request, as far as it has been received, and its answer, until it is its turn.

    :ivar method, target, headers: what the client sent; empty until all headers are there.
    :ivar max_body: how many bytes of a body are let in; set by `begin`.
    :ivar is_too_large: whether the body was larger. Nothing of it has been kept then.
    :ivar is_received: whether the whole request is there.
    :ivar is_lost: whether the client went away.
    """

    is_last = False
    """Whether the connection ends with this answer."""

    is_streamed = False
    """Whether the body is wanted as it comes: `stream` is called when the headers are there, and `serve` at its end."""

    receive_seconds: float = RECEIVE_SECONDS
    """How long the client may take to send the request."""

    is_continued = True
    """Whether the client of a streamed request does not wait to be told that it may send its body."""

    answer: tuple[bytes, bytes | BodySource] | None = None
    """Head, without its empty line, and body."""

    def __init__(self, channel: PipelinedChannel) -> None:
        self.channel = channel
        self.method = b""
        self.target = b""
        self.headers = self.requestHeaders = Headers()
        self.max_body = 0
        self.size = 0
        self.is_too_large = False
        self.is_received = False
        self.is_lost = False

    @abstractmethod
    def begin(self) -> None:
        """All headers are there, the body is to come: settle what of it is let in."""

    @abstractmethod
    def keep(self, data: bytes) -> None:
        """Keep a piece of the body."""

    @abstractmethod
    def stream(self, length: int | None) -> None:
        """The headers are there, `keep` and then `serve` will be called: see that `give` is called, now or later.

        :param length: bytes of the body; None if they are not announced.
        """

    @abstractmethod
    def serve(self) -> None:
        """The whole request is there: see that `give` is called, now or later."""

    @abstractmethod
    def fail(self, error: MatrixError) -> None:
        """The request will never be there: see that `give` is called with an error."""

    @abstractmethod
    def settled(self) -> None:
        """The answer is on its way, or the client has gone; free what is held."""

    @abstractmethod
    def taken(self) -> None:
        """The client has taken the answer, or has gone: it is in memory no more."""

    def give(self, head: bytes, body: bytes | BodySource) -> None:
        """Have an answer sent as soon as it is its turn; it is thrown away if the client has gone."""
        if not self.is_lost:
            self.answer = (head, body)
            if not self.is_received:
                self.channel.hear_no_more()
            self.channel.answered()

    # What HTTPChannel calls; the names are Twisted's.

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802
        if self.answer is not None:
            return
        self.size += len(data)
        self.is_too_large = self.is_too_large or self.size > self.max_body
        if not self.is_too_large:
            self.keep(data)
        elif self.is_streamed or self.size > self.max_body + SWALLOWED:
            self.channel.refuse(too_large(self.max_body))

    def requestReceived(self, method: bytes, target: bytes, version: bytes) -> None:  # noqa: N802
        self.is_received = True
        self.serve()


def too_large(max_body: int) -> TooLarge:
    return TooLarge(f"The body is larger than {max_body} bytes.")


class Front(Protocol):
    """What a connection needs of the site behind it."""

    clock: Clock
    is_draining: bool

    @property
    def max_pipelined(self) -> int:
        """How many requests of one connection are worked on at the same time."""

    def new_exchange(self, channel: PipelinedChannel) -> Exchange:
        """A request begins."""

    def connected(self, channel: PipelinedChannel) -> bool:
        """A connection begins: call its `look_at_the_clock` every now and then. False if there are too many."""

    def disconnected(self, channel: PipelinedChannel) -> None:
        """A connection is over."""


class PipelinedChannel(HTTPChannel):
    """One connection. See the top of this file."""

    # HTTPChannel's own are in a dictionary. Python has instances share its keys if they are 30 at the most; if they are
    # more, each connection takes a kilobyte more.
    __slots__ = (
        "_active_at",
        "_is_deaf",
        "_is_sending",
        "_linger",
        "_receiving_since",
        "_sent_at",
        "_unheard",
        "_untaken",
        "_writable",
        "is_ending",
        "peer",
        "site",
    )

    requests: list[Exchange]
    transport: ITCPTransport
    # Twisted's own timers are not used.
    timeOut = None  # noqa: N815 - Twisted's name

    def __init__(self, site: Front) -> None:
        super().__init__()
        self.site = site
        self.is_ending = False
        self._is_deaf = False
        self._is_sending = False
        self._writable: Deferred[None] | None = None
        self._unheard = 0
        self._linger: IDelayedCall | None = None
        self._untaken: list[Exchange] = []
        self._active_at = self._receiving_since = self._sent_at = site.clock.monotonic()

    # HTTPChannel is content with less of a request than its annotation says.
    def requestFactory(self, *_: object) -> Exchange:  # type: ignore[override]  # noqa: N802 - Twisted's name
        return self.site.new_exchange(self)

    def connectionMade(self) -> None:  # noqa: N802
        super().connectionMade()
        self.peer: str = getattr(self.getPeer(), "host", "")
        if not self.site.connected(self):
            self.is_ending = True
            self.abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        lost, self.requests = self.requests, []
        for exchange in lost:
            exchange.is_lost = True
            exchange.settled()
            exchange.taken()
        self._have_been_taken()
        self._may_write()
        self.site.disconnected(self)

    # Receiving

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if self._is_deaf:
            self._unheard += len(data)
            if self._unheard > SWALLOWED:
                self.abort()
        if self._is_deaf or self.is_ending:
            return
        self._active_at = self.site.clock.monotonic()
        if not self._is_receiving():
            self._receiving_since = self._active_at
        super().dataReceived(data)

    def _is_receiving(self) -> bool:
        """Tell whether a part of a request has arrived and the rest has not."""
        return bool(self._buffer) or (bool(self.requests) and not self.requests[-1].is_received)

    def lineReceived(self, line: bytes) -> None:  # noqa: N802
        """A line of a head. With the first all the others are read if they are there, as they mostly are.

        What is out of the ordinary, be it a whole head or one header, is left to Twisted, line by line.
        """
        end = self._buffer.find(b"\r\n\r\n") if line and not self._receivedHeaderSize and self.persistent else -1
        if end < 0 or len(line) + end > self.totalHeadersSize or _UNUSUAL.search(self._buffer, 0, end + 2):
            super().lineReceived(line)
            return
        lines = self._buffer[:end].split(b"\r\n")
        if len(lines) > self.maxHeaders:
            super().lineReceived(line)
            return
        self._buffer = self._buffer[end + 4 :]
        exchange = self.requestFactory()
        self.requests.append(exchange)
        try:
            self._command, self._path, self._version = _parseRequestLine(line)
        except ValueError:
            self._respondToBadRequestAndDisconnect()
            return
        for other in lines:
            name, colon, value = other.partition(b":")
            spelled = _SPELLED.get(name)
            if spelled is not None and colon and _CONTROL.search(value) is None:
                exchange.headers.addRawHeader(spelled, value.strip(b" \t"))
            elif not self.headerReceived(other):
                return
        self.allHeadersReceived()
        if self.length == 0:
            self.allContentReceived()
        else:
            self.setRawMode()

    def rawDataReceived(self, data: bytes) -> None:  # noqa: N802
        if self._is_deaf:
            return
        if not self._handlingRequest:
            super().rawDataReceived(data)
            return
        self._dataBuffer.append(data)
        if sum(map(len, self._dataBuffer)) > self._optimisticEagerReadSize:
            self._networkProducer.pauseProducing()

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:  # noqa: N802
        if header == b"Content-Length" and len(data) > _LONGEST_LENGTH:
            return self._failChooseTransferDecoder()
        return bool(super()._maybeChooseTransferDecoder(header, data))

    def allHeadersReceived(self) -> None:  # noqa: N802
        exchange = self.requests[-1]
        exchange.method, exchange.target = self._command, self._path
        connection = exchange.headers.get(b"Connection", b"").lower()
        self.persistent = self._version == b"HTTP/1.1" and b"close" not in map(bytes.strip, connection.split(b","))
        exchange.is_last = not self.persistent
        exchange.begin()
        length = self.length or 0
        exchange.is_too_large = length > exchange.max_body
        expects = exchange.headers.get(b"Expect", b"").lower() == b"100-continue" and self._version == b"HTTP/1.1"
        if length > exchange.max_body + SWALLOWED or (exchange.is_too_large and (expects or exchange.is_streamed)):
            self.refuse(too_large(exchange.max_body))
        elif exchange.is_streamed:
            exchange.is_continued = not expects
            exchange.stream(self.length)
        elif expects:
            self._send100Continue()

    def pause(self) -> None:
        """Leave the body that is being received in the socket."""
        self._networkProducer.pauseProducing()

    def go_on(self) -> None:
        """Receive more of it."""
        self._networkProducer.resumeProducing()

    def want_body(self, exchange: Exchange) -> None:
        """Tell the client of a streamed request to send its body, if it waits for that."""
        if not exchange.is_continued and not self._is_deaf:
            exchange.is_continued = True
            self._send100Continue()

    def allContentReceived(self) -> None:  # noqa: N802
        if self._is_deaf:
            return
        super().allContentReceived()
        self._read_on()

    def _read_on(self) -> None:
        """Parse what is held back, and what follows, unless there is a reason to wait."""
        if (
            not self._handlingRequest
            or not self.persistent
            or self._is_deaf
            or self.is_ending
            or self._waitingForTransport
            or len(self.requests) >= self.site.max_pipelined
        ):
            return
        self._handlingRequest = False
        held, self._dataBuffer = b"".join(self._dataBuffer), []
        self._networkProducer.resumeProducing()
        self.setLineMode(held)

    # Refusing

    def refuse(self, error: MatrixError) -> None:
        """Answer the request that is being received with an error, in its turn; hear no more and close."""
        if self._is_deaf or self.is_ending:
            return
        if not self.requests or self.requests[-1].is_received:
            self.requests.append(self.requestFactory())
        self.hear_no_more()
        self.requests[-1].fail(error)

    def hear_no_more(self) -> None:
        """Throw away what still comes, the rest of the request that is being received too; its answer is the last."""
        self._is_deaf = True
        self.setRawMode()
        self.requests[-1].is_last = True
        self.go_on()

    def _respondToBadRequestAndDisconnect(self) -> None:  # noqa: N802
        self.refuse(MatrixError(400, "M_UNRECOGNIZED", "This is not HTTP, or its headers are too long."))

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: N802
        self._respondToBadRequestAndDisconnect()

    # Answering

    def answered(self) -> None:
        """Send the answers whose turn it is; there is a new one."""
        if self.is_ending or self._is_sending:
            return
        self._active_at = self.site.clock.monotonic()
        while self.requests and (answer := self.requests[0].answer) is not None:
            exchange = self.requests[0]
            exchange.is_last = exchange.is_last or (self.site.is_draining and len(self.requests) == 1)
            head, body = answer
            head = b"%b%b\r\n" % (head, b"Connection: close\r\n" if exchange.is_last else b"")
            if not isinstance(body, bytes):
                self.transport.write(head)
                self._is_sending = True
                Deferred.fromCoroutine(self._send(body))
                return
            self.transport.write(head + body)
            if self._settle_first():
                return
        send_now(self.transport)
        self._read_on()

    def _settle_first(self) -> bool:
        """The first answer is sent; whether it was the last."""
        exchange = self.requests.pop(0)
        exchange.settled()
        if self._waitingForTransport:
            self._untaken.append(exchange)
        else:
            exchange.taken()
        is_last = exchange.is_last or (self.site.is_draining and not self.requests)
        if is_last:
            self.end()
        return is_last

    async def _send(self, body: BodySource) -> None:
        """Send a body piece by piece, as the client takes it; then the answers after it."""
        self._sent_at = self.site.clock.monotonic()
        try:
            while (piece := await body.read()) and not self._is_gone():
                self.transport.write(piece)
                self._sent_at = self.site.clock.monotonic()
                if self._waitingForTransport:
                    self._writable = Deferred()
                    await self._writable
        except Exception:
            # The head with its length is on its way: there is no other way to say that it was not to be.
            _log.exception("an answer broke off")
            self.abort()
            return
        if not self._is_gone():
            self._is_sending = False
            self._settle_first()
            self.answered()

    def _is_gone(self) -> bool:
        """Whether the client has gone in the middle of an answer."""
        return not self.requests

    def _may_write(self) -> None:
        """The client has taken what was sent, or has gone."""
        waiting, self._writable = self._writable, None
        if waiting is not None:
            waiting.callback(None)

    def _have_been_taken(self) -> None:
        taken, self._untaken = self._untaken, []
        for exchange in taken:
            exchange.taken()

    def resumeProducing(self) -> None:  # noqa: N802
        super().resumeProducing()
        self._active_at = self.site.clock.monotonic()
        self._have_been_taken()
        self._may_write()
        self._read_on()

    # Ending

    def end(self) -> None:
        """Close, once what was answered is sent."""
        self.is_ending = True
        self._active_at = self.site.clock.monotonic()
        if self._is_deaf:
            self._linger = self.site.clock.call_later(LINGER_SECONDS, self.loseConnection)
        else:
            self.loseConnection()

    def abort(self) -> None:
        """Close at once, whatever has not been sent yet."""
        self.transport.abortConnection()

    def look_at_the_clock(self) -> None:
        """Close if the client has had its time."""
        now = self.site.clock.monotonic()
        silent = now - self._active_at
        if self.is_ending:
            if silent >= ABORT_SECONDS:
                self.abort()
            return
        if self._is_sending and now - self._sent_at >= IDLE_SECONDS:
            self.abort()
            return
        receiving = self._is_receiving() and not self._is_deaf
        if self.requests and not receiving:
            return
        seconds = self.requests[-1].receive_seconds if self.requests else RECEIVE_SECONDS
        if silent >= IDLE_SECONDS or (receiving and now - self._receiving_since >= seconds):
            self.end()
