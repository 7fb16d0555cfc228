"""A queue for each server that we send to (FED-3).

Whatever is stored for a server is sent in its order, one transaction after another: at once if nothing is under way,
and what comes meanwhile goes together into the next. Each server is worked on by itself, so that none waits for
another. One that cannot be reached is left alone for longer and longer, until it is heard from or the operator says so,
or another one that failed at the same time can be reached again: then it may have been our own line that was cut.

How far a server is, is written down a moment after it has acknowledged (`progress.py`). Of several processes, one
sends to a server (`lots.py`); the others hear of the same events, and keep nothing of them in memory.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal, Protocol

from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore

from synapse_like.background import run_in_background
from synapse_like.backoff import FIRST_RETRY_MS, delay, next_interval
from synapse_like.clock import Clock
from synapse_like.federation.errors import RemoteRefusal
from synapse_like.federation.lots import HeardFrom, Lots, PassingEdu, lot_of
from synapse_like.federation.outbox import MOST_ITEMS, Announced, Outbox, Parcel
from synapse_like.federation.packing import pack
from synapse_like.federation.progress import Progress
from synapse_like.federation.transactions import encode_edu, make_transaction_id, transaction_body
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import MatrixError, Unavailable
from synapse_like.storage import destinations
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import CommitInDoubt, Database, Transaction
from synapse_like.storage.destinations import EduStored, LeftAlone, Rewound
from synapse_like.storage.events import EventPersisted
from synapse_like.storage.news import for_others

#: Transactions under way at the same time: to servers that are well, and to others, which may keep us waiting.
MOST_AT_ONCE = 200
MOST_TO_FAILING = 50
#: How long a stopping server waits for transactions under way, in seconds.
STOP_SECONDS = 5.0
#: How long to wait when our own database fails, in seconds.
DATABASE_PAUSE_SECONDS = 5.0
#: Servers that began to fail so much earlier than another one may have failed for the same reason, in milliseconds.
SAME_OUTAGE_MS = 60_000
#: How long a server may be failing until EDUs for it that are in memory only are dropped, in milliseconds.
PASSING_EDU_MS = 60_000
#: Servers that are remembered while nothing waits for them.
MOST_REMEMBERED = 5000
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


class QueueState(Struct, frozen=True):
    """How it stands with the queue for a server.

    :ivar doing: `waiting` is for the time to try again.
    :ivar behind_seconds: for how long something has been waiting that waits now; 0 if nothing does.
    :ivar events: how many events wait that are in memory; those for a server that is away are in the tables only.
    :ivar passing_edus: how many EDUs wait that are in memory only.
    """

    doing: Literal["idle", "sending", "waiting"]
    behind_seconds: float
    events: int
    passing_edus: int


@for_others
class PassingEdusLost(Struct, frozen=True):
    """News: EDUs that were in memory only are lost to a server, which could not be reached."""

    server: str


class DestinationQueues:
    """All the queues. `start` before the first request is served, `stop` before the database.

    :param client: sends transactions.
    :param server_name: ours.
    :param chance: gives numbers between 0 and 1, for the jitter.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        clock: Clock,
        client: SendsTransactions,
        server_name: str,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._client = client
        self._server_name = server_name
        self._chance = chance
        self._outboxes: dict[str, Outbox] = {}
        self._lots = Lots(database, bus, clock, got=self._got_some, lost=self._lost)
        self._progress = Progress(database, clock, is_gone=self._is_gone, saved=self._saved)
        self._well = DeferredSemaphore(MOST_AT_ONCE)
        self._failing = DeferredSemaphore(MOST_TO_FAILING)
        self._stopping = False
        bus.subscribe(EventPersisted, self._event_persisted)
        bus.subscribe(EduStored, self._edu_stored)
        bus.subscribe(Rewound, self._rewound)
        bus.subscribe(CommitInDoubt, self._commit_in_doubt)
        if self._lots.are_shared:
            bus.subscribe(PassingEdu, self._passing_edu)
            bus.subscribe(HeardFrom, self._heard_elsewhere)

    # What others want of it.

    async def start(self) -> None:
        """Go on where the last run of the server ended."""
        await self._look_until_answered()

    async def look_again(self) -> None:
        """See in the tables for whom something waits, and whom an operator wants tried again."""
        asked, servers, left_alone = await self._database.read("destinations", _look)
        self._lots.know_left_alone(left_alone)
        for server in servers:
            if self._lots.claim(server):
                self._wake(self._outbox(server))
        ours = [server for server in asked if self._lots.claim(server)]
        if ours:
            await self._database.write("forget-retries-asked", destinations.forget_retries_asked, ours)
            for server in ours:
                self._end_backoff(self._outbox(server))

    async def stop(self) -> None:
        """Begin nothing new, wait a moment for what is under way, write down how far everybody is."""
        self._stopping = True
        for outbox in self._outboxes.values():
            _cancel_timer(outbox)
        running = [outbox.running for outbox in self._outboxes.values() if outbox.running is not None]
        if running:
            timer = self._clock.call_later(STOP_SECONDS, _cancel_all, running)
            await DeferredList(running)
            if timer.active():
                timer.cancel()
        await self._progress.stop()

    async def send_edu(
        self,
        destination: str,
        edu_type: str,
        content: dict[str, Any],
        *,
        key: str | None = None,
        lasting: bool = False,
    ) -> None:
        """Send something that is not an event.

        :param key: a newer EDU of the same type and key takes the place of one that waits.
        :param lasting: whether it must arrive. If not, it is lost when we stop or the destination cannot be reached.
        :raises CanonicalJsonError: there is no JSON for the content.
        """
        edu = encode_edu(self._server_name, destination, edu_type, content)
        if lasting:
            await self._database.write("outgoing-edu", destinations.add_edu, destination, edu_type, key, edu)
            return
        if await self._lots.claimed(destination):
            self._add_passing(destination, edu_type, key, edu)
        else:
            self._lots.pass_on(destination, edu_type, key, edu)

    def _add_passing(self, server: str, edu_type: str, key: str | None, edu: bytes) -> None:
        outbox = self._outbox(server)
        if self._is_lost(outbox) or not outbox.add_passing(edu_type, key, edu):
            self._lose_edus(server)
        if not self._is_lost(outbox):
            self._wake(outbox)

    def _lose_edus(self, server: str) -> None:
        news = PassingEdusLost(server)
        self._bus.publish(news)
        self._database.tell_others(news)

    def heard_from(self, server: str) -> None:
        """A server has asked us something, so it may be reached again: try it now, but not more than once a second."""
        if self._lots.heard_from(server):
            return
        outbox = self._outboxes.get(server)
        if outbox is None or outbox.timer is None or outbox.row is None or outbox.row.failing_since is None:
            return
        if self._pause_before(outbox) <= 0:
            self._end_backoff(outbox)
        else:
            self._try_soon(outbox)

    def is_left_alone(self, server: str) -> bool:
        """Whether nothing is sent to a server at the moment, since it could not be reached."""
        outbox = self._outboxes.get(server)
        return outbox.timer is not None if outbox is not None else self._lots.is_left_alone(server)

    def states(self) -> dict[str, QueueState]:
        """How it stands with each server that is in memory."""
        return {server: self._state(outbox) for server, outbox in self._outboxes.items()}

    def _state(self, outbox: Outbox) -> QueueState:
        since = outbox.announced[0].at if outbox.is_complete and outbox.announced else outbox.behind_since
        doing: Literal["idle", "sending", "waiting"] = "idle"
        if outbox.is_running or outbox.timer is not None:
            doing = "sending" if outbox.is_running else "waiting"
        behind = 0 if since is None else self._clock.monotonic() - since
        return QueueState(doing, behind, len(outbox.announced), len(outbox.passing))

    # What is heard on the bus.

    def _event_persisted(self, news: EventPersisted) -> None:
        if news.destinations:
            item = Announced(news.position, news.about.event_nid, self._clock.monotonic(), news.pdu)
            for server in news.destinations:
                if self._lots.claim(server):
                    outbox = self._outbox(server)
                    outbox.announce(item)
                    self._wake(outbox)

    def _edu_stored(self, news: EduStored) -> None:
        if not self._lots.claim(news.server):
            return
        outbox = self._outbox(news.server)
        outbox.has_lasting = True
        self._wake(outbox)

    def _rewound(self, news: Rewound) -> None:
        if not self._lots.claim(news.server):
            return
        outbox = self._outbox(news.server)
        outbox.rewind(news.position)
        self._wake(outbox)

    def _passing_edu(self, news: PassingEdu) -> None:
        if self._lots.have(news.server):
            self._add_passing(news.server, news.edu_type, news.key, news.edu.encode())

    def _heard_elsewhere(self, news: HeardFrom) -> None:
        if self._lots.have(news.server):
            self.heard_from(news.server)

    def _commit_in_doubt(self, _: CommitInDoubt) -> None:
        for outbox in self._outboxes.values():
            outbox.doubt()
        if not self._stopping:
            run_in_background("destinations-in-doubt", self._look_until_answered)

    async def _look_until_answered(self) -> None:
        while not self._stopping:
            try:
                await self.look_again()
                return
            except Unavailable:
                await self._clock.sleep(DATABASE_PAUSE_SECONDS)

    # Servers that become ours, or another process's.

    def _got_some(self) -> None:
        if not self._stopping:
            run_in_background("destinations-claimed", self._look_until_answered)

    def _lost(self, lot: str) -> None:
        """Some servers may be another's now: forget them, and break off what is under way."""
        for outbox in self._of_lot(lot):
            self._forget(outbox)
            _cancel_timer(outbox)
            if outbox.running is not None:
                outbox.running.cancel()
            if outbox.passing:
                self._lose_edus(outbox.server)

    async def even_out(self) -> None:
        """If we have more lots than our share, give up as many in which nothing waits."""
        surplus = await self._lots.surplus()
        if surplus <= 0 or self._stopping:
            return
        if not self._progress.is_written_down:
            # Else there might always be something that is about to be.
            await self._progress.save()
        self._lots.give_up(surplus, self._leave)

    def _leave(self, lot: str) -> bool:
        """Forget the servers of a lot, unless something waits for one of them; whether they were forgotten."""
        outboxes = self._of_lot(lot)
        if any(map(self._is_needed, outboxes)):
            return False
        for outbox in outboxes:
            self._forget(outbox)
        return True

    def _of_lot(self, lot: str) -> list[Outbox]:
        return [outbox for server, outbox in self._outboxes.items() if lot_of(server) == lot]

    def _forget(self, outbox: Outbox) -> None:
        del self._outboxes[outbox.server]
        self._progress.forget(outbox.server)

    def _saved(self) -> None:
        if len(self._outboxes) > MOST_REMEMBERED:
            for outbox in [outbox for outbox in self._outboxes.values() if not self._is_needed(outbox)]:
                self._forget(outbox)

    def _is_needed(self, outbox: Outbox) -> bool:
        """Whether more is known of a server than the tables say."""
        is_busy = outbox.is_running or outbox.timer is not None or outbox.has_work or outbox.server in self._progress
        return is_busy or (outbox.row is not None and outbox.row.failing_since is not None)

    # The work on one queue.

    def _outbox(self, server: str) -> Outbox:
        outbox = self._outboxes.get(server)
        if outbox is None:
            outbox = self._outboxes[server] = Outbox(server)
        return outbox

    def _wake(self, outbox: Outbox) -> None:
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

    def _is_gone(self, outbox: Outbox) -> bool:
        """Whether what it is for is another process's by now, or was forgotten."""
        return self._outboxes.get(outbox.server) is not outbox or not self._lots.have(outbox.server)

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
            self._try_fellows(row.failing_since)
            row.failing_since = row.retry_at = row.last_error = None
            row.retry_interval = 0
            self._tell_left_alone(outbox.server, None)
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
        self._tell_left_alone(outbox.server, row.retry_at)
        self._progress.changed(outbox)
        self._wait(outbox, pause / 1000)

    def _tell_left_alone(self, server: str, until: int | None) -> None:
        if self._lots.are_shared:
            self._progress.tell(LeftAlone(server, until))

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
        self._wake(outbox)

    def _pause_before(self, outbox: Outbox) -> float:
        """In how many seconds a server may be tried again, whatever speaks for it."""
        return outbox.last_attempt + FIRST_RETRY_MS / 1000 - self._clock.monotonic()

    def _try_soon(self, outbox: Outbox) -> None:
        """Try a server that is left alone earlier than was meant. If it fails, it is left alone for longer still."""
        pause = max(self._pause_before(outbox), 0)
        if outbox.timer is not None and outbox.timer.getTime() - self._clock.now_ms() / 1000 > pause:
            self._wait(outbox, pause)

    def _try_fellows(self, since: int) -> None:
        """A server that was failing can be reached: try those that began to fail when it did, or later."""
        for outbox in self._outboxes.values():
            failing_since = outbox.row.failing_since if outbox.row is not None else None
            if failing_since is not None and failing_since >= since - SAME_OUTAGE_MS:
                self._try_soon(outbox)

    def _end_backoff(self, outbox: Outbox) -> None:
        if outbox.row is not None:
            outbox.row.retry_at = None
            outbox.row.retry_interval = 0
            self._progress.changed(outbox)
        _cancel_timer(outbox)
        self._wake(outbox)


def _look(txn: Transaction) -> tuple[list[str], list[str], dict[str, int]]:
    return destinations.retries_asked(txn), destinations.needing_attention(txn), destinations.left_alone(txn)


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
