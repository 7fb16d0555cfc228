"""Bytes on their way: who receives them pushes, who wants them reads, and what is in between is bounded.

The body of an upload and that of another server's answer come in as a `ByteStream`. Once more bytes wait than
`MOST_WAITING`, the sender is not listened to until they are read.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

#: Bytes that wait to be read before no more are received.
MOST_WAITING = 256 * 1024


class ByteStream:
    """Bytes that arrive piece by piece.

    :param pause: stops the pieces from coming.
    :param resume: lets them come again.
    :param begin: is called when they are first wanted.
    :ivar length: how many bytes the sender has announced; None if it has not.
    :ivar received: how many have arrived.
    """

    def __init__(
        self,
        pause: Callable[[], object],
        resume: Callable[[], object],
        *,
        length: int | None = None,
        begin: Callable[[], object] | None = None,
    ) -> None:
        self.length = length
        self.received = 0
        self._pause = pause
        self._resume = resume
        self._begin = begin
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._is_paused = False
        self._is_over = False
        self._failure: Exception | None = None
        self._reader: Deferred[None] | None = None

    # For who receives them.

    def push(self, piece: bytes) -> None:
        """A piece has arrived."""
        if self._is_over:
            return
        self.received += len(piece)
        self._waiting += len(piece)
        self._pieces.append(piece)
        if self._waiting >= MOST_WAITING:
            self._is_paused = True
            self._pause()
        self._wake()

    def end(self) -> None:
        """That was all."""
        self._is_over = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """The rest will never come; who reads gets the error at once. After the end it changes nothing."""
        if self._is_over:
            return
        self._is_over = True
        self._failure = error
        self._pieces.clear()
        self._wake()

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.callback(None)

    # For who wants them.

    async def read(self) -> bytes:
        """What has arrived since; waits if that is nothing. Nothing at the end.

        Only one may read at a time. Raises the error that `fail` was told.
        """
        begin, self._begin = self._begin, None
        if begin is not None:
            begin()
        while not self._pieces and not self._is_over:
            self._reader = Deferred()
            await self._reader
        if self._failure is not None:
            raise self._failure
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._waiting = 0
        if self._is_paused:
            self._is_paused = False
            self._resume()
        return data
