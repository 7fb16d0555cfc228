"""What another server answers, read off a connection (HTTP/1.1, RFC 9112) and taken in whole or passed on.

`twisted.web.client` would do it, too, with six times as many calls, and it lets a server send a head without end
(docs/decisions/0005). What is hard in it is used: the chunks.

An answer ends where it says, by its length or by chunks; one that says nothing ends with its connection, if the other
server has closed that properly. TLS tells that from a connection that was cut off.
"""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.web.http import _ChunkedTransferDecoder, _MalformedChunkedDataError

from synapse_like.byte_streams import ByteStream
from synapse_like.federation.errors import AnswerTooLarge, ServerUnreachable
from synapse_like.federation.reasons import NotAnAnswer, why

#: Bytes that the head of an answer may have, with those that say that it will come.
MOST_HEAD_BYTES = 64 * 1024

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: .*)?")
_FOLD = re.compile(rb"\r\n[ \t]+")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: More digits are no honest number.
_LENGTH = re.compile(rb"[0-9]{1,18}")

#: Of an answer, by their names in lower case; what is said twice stands there with a comma.
Headers = Mapping[bytes, bytes]


class Taker(Protocol):
    """Who is told what comes. After `fail`, and after its own `Answering.abort`, nothing counts any more."""

    def begin(self, status: int, headers: Headers, length: int | None) -> None:
        """The head is there.

        :param length: of the body; None if it is not announced.
        """

    def take(self, piece: bytes) -> None:
        """A piece of the body."""

    def end(self) -> None:
        """That was all. The connection is free."""

    def fail(self, error: Exception) -> None:
        """There will be no more."""


class Answering(Protocol):
    """What a taker may ask of its connection."""

    def abort(self) -> None:
        """Close it."""

    def pause(self) -> None:
        """Receive no more for the moment."""

    def resume(self) -> None:
        """Receive again."""


class AnswerReader:
    """Reads one answer.

    :ivar taker: is told what is read.
    :ivar has_begun: whether a byte of it is there.
    :ivar has_head: whether its head is.
    :ivar is_last: whether the connection ends with it.
    """

    def __init__(self, taker: Taker) -> None:
        self.taker = taker
        self.has_begun = self.has_head = self.is_last = False
        self._buffer = bytearray()
        self._head_bytes = 0
        self._left: int | None = None
        self._chunks: Any = None
        self._rest = b""
        self._is_over = False

    @property
    def ends_with_connection(self) -> bool:
        """Whether the end of the connection is the end of the answer, which does not say where that is."""
        return self.has_head and self._chunks is None and self._left is None

    def feed(self, data: bytes) -> bool:
        """Read what has come; whether that was all.

        :raises NotAnAnswer: it is none.
        """
        self.has_begun = True
        if not self.has_head:
            data = self._find_head(data)
        if self.has_head and not self._is_over:
            self._read_body(data)
        # Nothing may follow: nothing else was asked.
        self.is_last = self.is_last or bool(self._rest)
        return self._is_over

    def _find_head(self, data: bytes) -> bytes:
        """Read the head, if it is there; what follows it."""
        buffer = self._buffer
        seen = max(0, len(buffer) - 3)
        buffer += data
        while not self.has_head:
            end = buffer.find(b"\r\n\r\n", seen)
            self._head_bytes += max(end, 0)
            if self._head_bytes + (len(buffer) if end < 0 else 0) > MOST_HEAD_BYTES:
                raise NotAnAnswer("the head of its answer is too large")
            if end < 0:
                return b""
            head = bytes(buffer[:end])
            del buffer[: end + 4]
            seen = 0
            self._read_head(head)
        return bytes(buffer)

    def _read_head(self, head: bytes) -> None:
        first, *lines = _FOLD.sub(b" ", head).split(b"\r\n")
        match = _STATUS.fullmatch(first)
        if match is None:
            raise NotAnAnswer("its answer is not HTTP")
        status = int(match[2])
        if status < 200:
            if status == 101:
                raise NotAnAnswer("it wants to speak another protocol")
            # The answer is still to come.
            return
        headers: dict[bytes, bytes] = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or _NAME.fullmatch(name) is None:
                raise NotAnAnswer("a header of its answer cannot be read")
            name, value = name.lower(), value.strip(b" \t")
            headers[name] = value if name not in headers else b"%b, %b" % (headers[name], value)
        self.has_head = True
        self.is_last = match[1] == b"0" or b"close" in headers.get(b"connection", b"").lower()
        self._settle_length(status, headers)
        self.is_last |= self.ends_with_connection
        self.taker.begin(status, headers, self._left)

    def _settle_length(self, status: int, headers: Headers) -> None:
        """Find out where the body ends (RFC 9112, 6.3)."""
        coding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
        if status in (204, 304):
            self._left = 0
        elif coding is not None:
            if coding.lower() != b"chunked":
                raise NotAnAnswer("its answer is encoded in a way that nobody asked for")
            self._chunks = _ChunkedTransferDecoder(self.taker.take, self._chunks_ended)
        elif length is not None:
            if _LENGTH.fullmatch(length) is None:
                raise NotAnAnswer("its answer has no length that can be read")
            self._left = int(length)

    def _read_body(self, data: bytes) -> None:
        if self._chunks is not None:
            if data:
                try:
                    self._chunks.dataReceived(data)
                except _MalformedChunkedDataError as error:
                    raise NotAnAnswer("its answer is not in chunks, as it says") from error
            return
        if self._left is not None:
            data, self._rest = data[: self._left], data[self._left :]
            self._left -= len(data)
            self._is_over = self._left == 0
        if data:
            self.taker.take(data)

    def _chunks_ended(self, rest: bytes) -> None:
        self._is_over, self._rest = True, rest


class Whole:
    """Takes in a whole answer, up to a number of bytes.

    :ivar outcome: its status and its body. To cancel it is to close the connection.
    """

    def __init__(self, connection: Answering, most_bytes: int) -> None:
        self.outcome: Deferred[tuple[int, bytes]] = Deferred(lambda _: connection.abort())
        self._connection = connection
        self._left = most_bytes
        self._status = 0
        self._pieces: list[bytes] = []

    def begin(self, status: int, headers: Headers, length: int | None) -> None:
        self._status = status

    def take(self, piece: bytes) -> None:
        if self.outcome.called:
            return
        self._left -= len(piece)
        if self._left < 0:
            self._pieces.clear()
            self._connection.abort()
            self.outcome.errback(NotAnAnswer("its answer is too large"))
        else:
            self._pieces.append(piece)

    def end(self) -> None:
        if not self.outcome.called:
            self.outcome.callback((self._status, b"".join(self._pieces)))

    def fail(self, error: Exception) -> None:
        if not self.outcome.called:
            self.outcome.errback(error)


class PassedOn:
    """Passes the body of an answer on as it comes, up to a number of bytes.

    :param server: its name, for the errors.
    :ivar outcome: status, headers and body, once the head is there. To cancel it is to close the connection.
    """

    def __init__(self, connection: Answering, server: str, most_bytes: int) -> None:
        self.outcome: Deferred[tuple[int, Headers, ByteStream]] = Deferred(lambda _: connection.abort())
        self._connection = connection
        self._server = server
        self._most_bytes = most_bytes
        self._is_over = False
        self._body: ByteStream | None = None

    def begin(self, status: int, headers: Headers, length: int | None) -> None:
        self._body = ByteStream(self._connection.pause, self._resume, length=length)
        if length is not None and length > self._most_bytes:
            self._give_up(AnswerTooLarge(self._server, self._most_bytes))
        if not self.outcome.called:
            self.outcome.callback((status, headers, self._body))

    def take(self, piece: bytes) -> None:
        if self._is_over or self._body is None:
            return
        self._body.push(piece)
        if self._body.received > self._most_bytes:
            self._give_up(AnswerTooLarge(self._server, self._most_bytes))

    def end(self) -> None:
        if not self._is_over and self._body is not None:
            self._is_over = True
            self._body.end()

    def fail(self, error: Exception) -> None:
        if self._body is None:
            if not self.outcome.called:
                self.outcome.errback(error)
        elif not self._is_over:
            self._is_over = True
            reason = why(error)
            self._body.fail(error if reason is None else ServerUnreachable(self._server, reason))

    def leave(self) -> None:
        """Nobody wants it any more."""
        if not self._is_over:
            self._give_up(ServerUnreachable(self._server, "nobody wants it any more"))

    def _give_up(self, error: Exception) -> None:
        self._connection.abort()
        self.fail(error)

    def _resume(self) -> None:
        if not self._is_over:
            self._connection.resume()
