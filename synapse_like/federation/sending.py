"""Sending to a server what waits for it, until nothing does or the server fails (FED-3).

One transaction goes after another: at once if nothing is under way, and what comes meanwhile goes together into the
next. A server that cannot be reached is left alone for longer and longer, until it is heard from or the operator says
so, or another one that failed at the same time can be reached again: then it may have been our own line that was cut.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore

from synapse_like.background import run_in_background
from synapse_like.backoff import FIRST_RETRY_MS, delay, next_interval
from synapse_like.clock import Clock
from synapse_like.federation.errors import RemoteRefusal
from synapse_like.federation.outbox import MOST_ITEMS, Outbox, Parcel
from synapse_like.federation.packing import pack
from synapse_like.federation.progress import Progress
from synapse_like.federation.transactions import make_transaction_id, transaction_body
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import MatrixError
from synapse_like.storage import destinations
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.news import for_others

#: Transactions under way at the same time: to servers that are well, and to others, which may keep us waiting.
MOST_AT_ONCE = 200
MOST_TO_FAILING = 50
#: How long a stopping server waits for transactions under way, in seconds.
STOP_SECONDS = 5.0
#: How long to wait when our own database fails, in seconds.
DATABASE_PAUSE_SECONDS = 5.0
#: How long a server may be failing until EDUs for it that are in memory only are dropped, in milliseconds.
PASSING_EDU_MS = 60_000
#: Answers to a whole transaction that may be due to one thing in it.
REFUSALS = frozenset({400, 403, 413, 422})
_LONGEST_ERROR = 500

_log = get_logger(__name__)


class SendsTransactions(Protocol):
    """What a queue needs of the federation client."""

    def send_transaction(
        self, destination: str, transaction_id: str, body: Mapping[str, Any]
    ) -> Awaitable[Mapping[str, Any]]:
        """Send it; the answer is what became of it. It must end, be it by a time-out.

        :raises RemoteRefusal: the other server refused it.
        :raises MatrixError: there was no answer.
        """
        ...


@for_others
class PassingEdusLost(Struct, frozen=True):
    """News: EDUs that were in memory only are lost to a server: it could not be reached, or there were too many."""

    server: str


class Sender:
    """Sends to servers, to each by itself.

    :param client: sends transactions.
    :param server_name: ours.
    :param is_gone: whether a server is another process's by now, or was forgotten: then nothing more is done for it.
    :param reached: is called when a server can be reached again, with the time since which it could not.
    :param chance: gives numbers between 0 and 1, for the jitter.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        clock: Clock,
        client: SendsTransactions,
        server_name: str,
        progress: Progress,
        *,
        is_gone: Callable[[Outbox], bool],
        reached: Callable[[int], object],
        chance: Callable[[], float],
    ) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._client = client
        self._server_name = server_name
        self._progress = progress
        self._is_gone = is_gone
        self._reached = reached
        self._chance = chance
        self._well = DeferredSemaphore(MOST_AT_ONCE)
        self._failing = DeferredSemaphore(MOST_TO_FAILING)
        self._stopping = False

    # What the queues want of it.

    def wake(self, outbox: Outbox) -> None:
        """Begin, if something waits and nothing speaks against it."""
        if outbox.behind_since is None and outbox.has_work:
            outbox.behind_since = self._clock.monotonic()
        is_busy = outbox.is_running or outbox.timer is not None
        if self._stopping or is_busy or not outbox.has_work or self._is_gone(outbox):
            return
        outbox.is_running = True
        work = run_in_background("send-to-server", self._work, outbox)
        work.addCallback(self._work_ended, outbox)
        if not work.called:
            outbox.running = work

    def add_passing(self, outbox: Outbox, edu_type: str, key: str | None, edu: bytes) -> None:
        """Send an EDU that is in memory only."""
        if self._is_lost(outbox) or not outbox.add_passing(edu_type, key, edu):
            self._lose_edus(outbox.server)
        if not self._is_lost(outbox):
            self.wake(outbox)

    def heard_from(self, outbox: Outbox) -> None:
        """A server has asked us something, so it may be reached again: try it now, but not more than once a second."""
        if outbox.timer is None or outbox.row is None or outbox.row.failing_since is None:
            return
        if self._pause_before(outbox) <= 0:
            self.end_backoff(outbox)
        else:
            self.try_soon(outbox)

    def try_soon(self, outbox: Outbox) -> None:
        """Try a server that is left alone earlier than was meant. If it fails, it is left alone for longer still."""
        pause = max(self._pause_before(outbox), 0)
        if outbox.timer is not None and outbox.timer.getTime() - self._clock.now_ms() / 1000 > pause:
            self._wait(outbox, pause)

    def end_backoff(self, outbox: Outbox) -> None:
        """Try a server that is left alone now, and if it fails, soon again."""
        if outbox.row is not None:
            outbox.row.retry_at = None
            outbox.row.retry_interval = 0
            self._progress.changed(outbox)
        _cancel_timer(outbox)
        self.wake(outbox)

    def break_off(self, outbox: Outbox) -> None:
        """Stop what is under way to a server that is another process's now."""
        _cancel_timer(outbox)
        if outbox.running is not None:
            outbox.running.cancel()
        if outbox.passing:
            self._lose_edus(outbox.server)

    async def stop(self, outboxes: Sequence[Outbox]) -> None:
        """Begin nothing new, and wait a moment for what is under way."""
        self._stopping = True
        for outbox in outboxes:
            _cancel_timer(outbox)
        running = [outbox.running for outbox in outboxes if outbox.running is not None]
        if running:
            timer = self._clock.call_later(STOP_SECONDS, _cancel_all, running)
            await DeferredList(running)
            if timer.active():
                timer.cancel()

    # The work on one queue.

    def _work_ended(self, _: None, outbox: Outbox) -> None:
        outbox.is_running = False
        outbox.running = None
        if not outbox.has_work:
            outbox.behind_since = None

    async def _work(self, outbox: Outbox) -> None:
        """Send until nothing waits, or the server fails."""
        try:
            if outbox.row is None:
                outbox.set_back = None
                outbox.row = await self._database.read("destination", destinations.find, outbox.server)
                outbox.was_written(outbox.row.sent_up_to)
                outbox.row.sent_up_to = outbox.written
                if outbox.row.retry_at is not None and outbox.row.retry_at > self._clock.now_ms():
                    self._wait(outbox, (outbox.row.retry_at - self._clock.now_ms()) / 1000)
            while outbox.has_work and outbox.timer is None and not self._stopping and not self._is_gone(outbox):
                lane = self._well if outbox.row.failing_since is None else self._failing
                await lane.acquire()
                try:
                    await self._send_some(outbox)
                finally:
                    lane.release()
        except CancelledError:
            raise
        except Exception:
            # Not the other server's fault, and not to be tried again in a tight loop.
            outbox.doubt()
            self._wait(outbox, DATABASE_PAUSE_SECONDS)
            raise

    async def _send_some(self, outbox: Outbox) -> None:
        if self._is_lost(outbox) and outbox.passing:
            outbox.passing.clear()
            self._lose_edus(outbox.server)
        parcel = await pack(self._database, outbox)
        if self._stopping or self._is_gone(outbox):
            return
        if not parcel:
            outbox.delivered(parcel)
            return
        outbox.last_attempt = self._clock.monotonic()
        try:
            transaction_id, answer = await self._transmit(outbox, parcel)
        except RemoteRefusal as refusal:
            if refusal.told_status in REFUSALS:
                await self._refused(outbox, parcel, refusal)
            else:
                self._failed(outbox, refusal)
        except MatrixError as error:
            self._failed(outbox, error)
        else:
            self._acknowledged(outbox, parcel, transaction_id, answer)

    async def _transmit(self, outbox: Outbox, parcel: Parcel) -> tuple[str, Mapping[str, Any]]:
        assert outbox.row is not None
        transaction_id = make_transaction_id(parcel.up_to)
        body = transaction_body(
            transaction_id,
            origin=self._server_name,
            destination=outbox.server,
            now_ms=self._clock.now_ms(),
            previous=outbox.row.last_transaction,
            pdus=parcel.pdus,
            edus=parcel.edus,
        )
        return transaction_id, await self._client.send_transaction(outbox.server, transaction_id, body)

    # What comes of it.

    def _acknowledged(self, outbox: Outbox, parcel: Parcel, transaction_id: str, answer: Mapping[str, Any]) -> None:
        row = outbox.row
        assert row is not None
        outbox.delivered(parcel)
        row.last_transaction = transaction_id
        if row.failing_since is not None:
            _log.info("a server can be reached again", server=outbox.server)
            self._reached(row.failing_since)
            row.failing_since = row.retry_at = row.last_error = None
            row.retry_interval = 0
            self._progress.tell_left_alone(outbox.server, None)
        outbox.most = min(2 * outbox.most, MOST_ITEMS)
        outbox.is_searching = outbox.is_searching and outbox.most < MOST_ITEMS
        self._progress.changed(outbox)
        for event_id, error in _refused_pdus(answer):
            _log.warning("a server refused an event", server=outbox.server, event_id=event_id, error=error)

    async def _refused(self, outbox: Outbox, parcel: Parcel, refusal: RemoteRefusal) -> None:
        """A whole transaction was refused: find what is the matter with it by sending less and less.

        If even an empty transaction is refused, it is us whom the server does not want.
        """
        if not outbox.is_searching:
            nothing = Parcel([], [], {}, 0, 0)
            try:
                await self._transmit(outbox, nothing)
            except MatrixError:
                self._failed(outbox, refusal)
                return
            outbox.is_searching = True
        if len(parcel) > 1:
            outbox.most = len(parcel) // 2
            outbox.doubt()
            return
        _log.error(
            "something was left out that a server refuses",
            server=outbox.server,
            position=parcel.up_to,
            is_event=bool(parcel.pdus),
            reason=str(refusal),
        )
        outbox.delivered(parcel)
        self._progress.changed(outbox)

    def _failed(self, outbox: Outbox, error: MatrixError) -> None:
        """Leave a server alone for a while."""
        row = outbox.row
        assert row is not None
        now = self._clock.now_ms()
        if row.failing_since is None:
            row.failing_since = now
        row.retry_interval = next_interval(row.retry_interval)
        asked = error.retry_after_ms if isinstance(error, RemoteRefusal) else None
        pause = delay(row.retry_interval, asked_ms=asked, chance=self._chance)
        row.retry_at = now + pause
        row.last_error = str(error)[:_LONGEST_ERROR]
        _log.info("a server cannot be reached", server=outbox.server, retry_ms=pause, reason=row.last_error)
        outbox.doubt()
        self._progress.tell_left_alone(outbox.server, row.retry_at)
        self._progress.changed(outbox)
        self._wait(outbox, pause / 1000)

    def _lose_edus(self, server: str) -> None:
        news = PassingEdusLost(server)
        self._bus.publish(news)
        self._database.tell_others(news)

    def _is_lost(self, outbox: Outbox) -> bool:
        """Whether a server has been failing for so long that EDUs in memory are not kept for it."""
        since = outbox.row.failing_since if outbox.row is not None else None
        return since is not None and self._clock.now_ms() - since >= PASSING_EDU_MS

    def _wait(self, outbox: Outbox, seconds: float) -> None:
        _cancel_timer(outbox)
        if not self._stopping and not self._is_gone(outbox):
            outbox.timer = self._clock.call_later(seconds, self._waited, outbox)

    def _waited(self, outbox: Outbox) -> None:
        outbox.timer = None
        self.wake(outbox)

    def _pause_before(self, outbox: Outbox) -> float:
        """In how many seconds a server may be tried again, whatever speaks for it."""
        return outbox.last_attempt + FIRST_RETRY_MS / 1000 - self._clock.monotonic()


def _refused_pdus(answer: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """The events that the other server did not take, and why; whatever shape its answer has."""
    results = answer.get("pdus")
    if isinstance(results, dict):
        for event_id, result in results.items():
            if isinstance(result, dict) and "error" in result:
                yield str(event_id), str(result["error"])[:_LONGEST_ERROR]


def _cancel_timer(outbox: Outbox) -> None:
    if outbox.timer is not None:
        outbox.timer.cancel()
        outbox.timer = None


def _cancel_all(running: Iterable[Deferred[None]]) -> None:
    for work in running:
        work.cancel()
