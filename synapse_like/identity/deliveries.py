"""Telling somebody what waits for them, though they may be away: one thing after another, and in its order.

What waits is in the tables, and so is how it stands with whoever is told. Who cannot be reached is left alone for
longer and longer, also across restarts, until they are heard from.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred

from synapse_like.background import run_in_background
from synapse_like.backoff import FIRST_RETRY_MS, delay, next_interval
from synapse_like.clock import Clock
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import MatrixError
from synapse_like.storage.database import Database
from synapse_like.storage.identity import destinations
from synapse_like.storage.identity.destinations import Destination

#: How long to wait when our own database fails, in seconds.
DATABASE_PAUSE_SECONDS = 5.0
_LONGEST_ERROR = 500

_log = get_logger(__name__)


class Delivery:
    """Tells one of them.

    :param kind: `destinations.HOME` or `SIBLING`.
    :param send: tells some of what waits; gives whether more does. It may change `sent_up_to` of the destination,
        which is then written down. It raises a MatrixError if that did not work.
    :param longest_ms: the longest pause between two attempts.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        kind: str,
        server: str,
        send: Callable[[Destination], Awaitable[bool]],
        *,
        longest_ms: int,
    ) -> None:
        self._database = database
        self._clock = clock
        self._kind = kind
        self._server = server
        self._send = send
        self._longest_ms = longest_ms
        self._row: Destination | None = None
        self._timer: Any = None
        self._running: Deferred[None] | None = None
        self._rewind_to: int | None = None
        self._has_more = False
        self._is_stopping = False
        self._last_attempt = float("-inf")

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way or waits to be tried again."""
        return self._running is None and self._timer is None

    def wake(self) -> None:
        """There is, or may be, something to tell."""
        self._has_more = True
        if self._is_stopping or self._timer is not None or self._running is not None:
            return
        running = run_in_background(f"tell-{self._kind}", self._work)
        if not running.called:
            self._running = running
            running.addCallback(self._ended)
        else:
            self._ended(None)

    def heard_from(self) -> None:
        """It has told us something, so it may be reached again: now, but not more than once a second."""
        if self._timer is None or self._clock.monotonic() - self._last_attempt < FIRST_RETRY_MS / 1000:
            return
        self._timer.cancel()
        self._timer = None
        if self._row is not None:
            self._row.retry_at = None
        self.wake()

    def rewind(self, position: int) -> None:
        """What lies behind a position is to be told, though it may have been told before."""
        self._rewind_to = position if self._rewind_to is None else min(self._rewind_to, position)
        self.wake()

    async def stop(self) -> None:
        """Begin nothing new; call off what is under way, which will be done again."""
        self._is_stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running is not None:
            running = self._running
            running.cancel()
            await running

    def _ended(self, _: None) -> None:
        self._running = None
        if self._has_more and self._timer is None and not self._is_stopping:
            self.wake()

    async def _work(self) -> None:
        try:
            row = self._row
            if row is None:
                row = self._row = await self._database.read("destination", destinations.find, self._kind, self._server)
            wait_ms = (row.retry_at or 0) - self._clock.now_ms()
            if wait_ms > 0:
                self._wait(min(wait_ms, self._longest_ms) / 1000)
                return
            await self._tell(row)
        except MatrixError as error:
            # Our own database, which is not the other side's fault.
            self._wait(DATABASE_PAUSE_SECONDS)
            _log.warning("nobody can be told anything at the moment", reason=error.reason or error.message)
        except Exception:
            # Not to be tried again in a tight loop.
            self._wait(DATABASE_PAUSE_SECONDS)
            raise

    async def _tell(self, row: Destination) -> None:
        while self._has_more and not self._is_stopping:
            self._has_more = False
            before = row.sent_up_to
            if self._rewind_to is not None:
                # Not sooner: what was under way has just said how far it came.
                row.sent_up_to, self._rewind_to = min(row.sent_up_to, self._rewind_to), None
            self._last_attempt = self._clock.monotonic()
            try:
                more = await self._send(row)
            except MatrixError as error:
                await self._failed(row, error)
                return
            self._has_more = self._has_more or more
            if row.failing_since is not None:
                _log.info("it can be reached again", server=self._server)
            if row.failing_since is not None or row.sent_up_to != before:
                row.failing_since = row.retry_at = row.last_error = None
                row.retry_interval = 0
                await self._database.write("save-destination", destinations.save, row)

    async def _failed(self, row: Destination, error: MatrixError) -> None:
        self._has_more = True
        now = self._clock.now_ms()
        row.failing_since = row.failing_since or now
        row.retry_interval = min(next_interval(row.retry_interval), self._longest_ms)
        pause = delay(row.retry_interval)
        row.retry_at = now + pause
        row.last_error = (error.reason or error.message)[:_LONGEST_ERROR]
        self._wait(pause / 1000)
        _log.info("it cannot be told anything", server=self._server, seconds=pause // 1000, reason=row.last_error)
        await self._database.write("save-destination", destinations.save, row)

    def _wait(self, seconds: float) -> None:
        if self._is_stopping:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.call_later(seconds, self._waited)

    def _waited(self) -> None:
        self._timer = None
        if self._row is not None:
            self._row.retry_at = None
        self.wake()
