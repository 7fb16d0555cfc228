"""A queue for each server that we send to (FED-3).

Whatever is stored for a server is sent in its order, one transaction after another: at once if nothing is under way,
and what comes meanwhile goes together into the next. Each server is worked on by itself, so that none waits for
another. One that cannot be reached is left alone for longer and longer, until it is heard from or the operator says so,
or another one that failed at the same time can be reached again: then it may have been our own line that was cut.

How far a server is, is written down a moment after it has acknowledged, for all servers together. If we are killed in
between, something is sent twice, which does no harm: the other side knows events by their IDs.

**Several processes.** A server is sent to by one process, which has claimed the lot of servers that it belongs to
(`storage/claims.py`): the first that had something for one of them. The others hear of the same events, and keep
nothing of them in memory; they try to claim the lot now and then. Whoever gets it begins by the tables, as after a
start. What is in memory only, and that a server was heard from, is told to the others for the one that it concerns.
Who has more lots than its share gives some of them up in which nothing waits (`even_out`): whoever is first when
something does has them next. So a process that was started again comes to send, too.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from hashlib import blake2b
from typing import Any, Literal, Protocol

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore

from synapse_like.background import run_in_background
from synapse_like.backoff import FIRST_RETRY_MS, delay, next_interval
from synapse_like.clock import Clock
from synapse_like.federation.errors import RemoteRefusal
from synapse_like.federation.outbox import MOST_ITEMS, Announced, Outbox, Parcel
from synapse_like.federation.transactions import (
    MOST_EDUS,
    MOST_PDUS,
    encode_edu,
    make_transaction_id,
    transaction_body,
)
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import MatrixError, Unavailable
from synapse_like.storage import destinations
from synapse_like.storage.bus import Bus
from synapse_like.storage.claims import sharing_out
from synapse_like.storage.database import Database
from synapse_like.storage.destinations import EduStored, LeftAlone, Rewound, Waiting
from synapse_like.storage.events import EventPersisted
from synapse_like.storage.news import CommitInDoubt, for_others
from synapse_like.storage.transactions import Transaction

#: Transactions under way at the same time: to servers that are well, and to others, which may keep us waiting.
MOST_AT_ONCE = 200
MOST_TO_FAILING = 50
#: How long it may take until it is written down how far a server is, in seconds.
SAVE_SECONDS = 1.0
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
#: How many lots of servers there are. A claim is a lock, of which PostgreSQL has no more than some thousands.
LOTS = 256
#: How often it is looked whether this process has more of them than its share, in seconds.
EVEN_OUT_SECONDS = 30
#: For how long it is remembered that another process has given a lot up, in seconds.
LEFT_SECONDS = 10.0
#: How often the process that sends to a server is told that it was heard from, at the most, in seconds.
HEARD_SECONDS = 1.0
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
class PassingEdu(Struct, frozen=True):
    """News for the process that sends to a server: an EDU that is in memory only.

    :ivar key: as in `DestinationQueues.send_edu`.
    :ivar edu: its wire form.
    """

    server: str
    edu_type: str
    key: str | None
    edu: str


@for_others
class HeardFrom(Struct, frozen=True):
    """News for the process that sends to a server: it has asked another process something."""

    server: str


@for_others
class PassingEdusLost(Struct, frozen=True):
    """News: EDUs that were in memory only are lost to a server, which could not be reached."""

    server: str


@for_others
class LotsLeft(Struct, frozen=True):
    """News for other processes: nothing waits in some lots of servers, and another may have them."""

    lots: list[str]


@for_others
class SenderLost(Struct, frozen=True):
    """News: the process that sent to some lots of servers has died; EDUs that it had in memory only are lost."""

    lots: list[str]


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
        self._unsaved: dict[str, Outbox] = {}
        self._untold: dict[str, LeftAlone] = {}
        self._save_timer: Any = None
        self._claims = database.claims
        #: The lots that we have.
        self._lots: set[str] = set()
        #: Those that others have given up in good order, and when.
        self._left: dict[str, float] = {}
        self._taken_over: list[str] = []
        #: Servers that another process leaves alone: until when, and when they were last heard from.
        self._left_alone: dict[str, tuple[int, float]] = {}
        self._is_about_to_look = False
        self._well = DeferredSemaphore(MOST_AT_ONCE)
        self._failing = DeferredSemaphore(MOST_TO_FAILING)
        self._stopping = False
        bus.subscribe(EventPersisted, self._event_persisted)
        bus.subscribe(EduStored, self._edu_stored)
        bus.subscribe(Rewound, self._rewound)
        bus.subscribe(CommitInDoubt, self._commit_in_doubt)
        if not self._claims.is_alone:
            bus.subscribe(PassingEdu, self._passing_edu)
            bus.subscribe(HeardFrom, self._heard_elsewhere)
            bus.subscribe(LeftAlone, self._is_left_elsewhere)
            bus.subscribe(LotsLeft, self._lots_left)

    # What others want of it.

    async def start(self) -> None:
        """Go on where the last run of the server ended."""
        await self._look_until_answered()

    async def look_again(self) -> None:
        """See in the tables for whom something waits, and whom an operator wants tried again."""
        asked, servers, left_alone = await self._database.read("destinations", _look)
        self._left_alone = {server: (until, float("-inf")) for server, until in left_alone.items()}
        for server in servers:
            if self._is_ours(server):
                self._wake(self._outbox(server))
        ours = [server for server in asked if self._is_ours(server)]
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
        if self._save_timer is not None:
            self._save_timer.cancel()
            self._save_timer = None
        if self._unsaved:
            try:
                await self._save()
            except Unavailable as error:
                # As after a crash: what has been sent since is sent again, and known there.
                _log.warning("how far the queues are was not written down", reason=error.reason)

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
        if self._is_ours(destination) or await self._claims.outcome(lot_of(destination)):
            self._add_passing(destination, edu_type, key, edu)
        else:
            self._database.tell_others(PassingEdu(destination, edu_type, key, edu.decode()))

    def _add_passing(self, server: str, edu_type: str, key: str | None, edu: bytes) -> None:
        outbox = self._outbox(server)
        if self._is_lost(outbox) or not outbox.add_passing(edu_type, key, edu):
            self._lose_edus(server)
        if not self._is_lost(outbox):
            self._wake(outbox)

    def _lose_edus(self, server: str) -> None:
        self._publish_to_all(PassingEdusLost(server))

    def _publish_to_all(self, news: object) -> None:
        """Have other processes know as well."""
        self._bus.publish(news)
        self._database.tell_others(news)

    def heard_from(self, server: str) -> None:
        """A server has asked us something, so it may be reached again: try it now, but not more than once a second."""
        if server in self._left_alone and not self._claims.holds(lot_of(server)):
            until, heard = self._left_alone[server]
            now = self._clock.monotonic()
            if now - heard >= HEARD_SECONDS:
                self._left_alone[server] = until, now
                self._database.tell_others(HeardFrom(server))
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
        if outbox is not None:
            return outbox.timer is not None
        until, _ = self._left_alone.get(server, (0, 0))
        return until > self._clock.now_ms() and not self._claims.holds(lot_of(server))

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
                if self._is_ours(server):
                    outbox = self._outbox(server)
                    outbox.announce(item)
                    self._wake(outbox)

    def _edu_stored(self, news: EduStored) -> None:
        if not self._is_ours(news.server):
            return
        outbox = self._outbox(news.server)
        outbox.has_lasting = True
        self._wake(outbox)

    def _rewound(self, news: Rewound) -> None:
        if not self._is_ours(news.server):
            return
        outbox = self._outbox(news.server)
        outbox.rewind(news.position)
        self._wake(outbox)

    def _passing_edu(self, news: PassingEdu) -> None:
        if self._claims.holds(lot_of(news.server)):
            self._add_passing(news.server, news.edu_type, news.key, news.edu.encode())

    def _heard_elsewhere(self, news: HeardFrom) -> None:
        if self._claims.holds(lot_of(news.server)):
            self.heard_from(news.server)

    def _is_left_elsewhere(self, news: LeftAlone) -> None:
        if news.until is None:
            self._left_alone.pop(news.server, None)
        else:
            self._left_alone[news.server] = news.until, float("-inf")

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

    # Whose servers they are.

    def _is_ours(self, server: str) -> bool:
        """Whether it is this process that sends to a server; if not, it wants to from now on."""
        if self._claims.is_alone:
            return True
        lot = lot_of(server)
        self._claims.want(lot, partial(self._lot_got, lot), partial(self._lot_lost, lot))
        return self._claims.holds(lot)

    def _lot_got(self, lot: str) -> None:
        """Some servers are ours now: go on where the process before us ended."""
        _log.debug("some servers are sent to from here now", claim=lot)
        self._lots.add(lot)
        left_at = self._left.pop(lot, float("-inf"))
        if self._claims.was_anothers(lot) and self._clock.monotonic() - left_at > LEFT_SECONDS:
            self._taken_over.append(lot)
        if not self._is_about_to_look:
            # One look into the tables is for all that are got together.
            self._is_about_to_look = True
            self._clock.call_later(0, self._look_at_got)

    def _look_at_got(self) -> None:
        self._is_about_to_look = False
        lots, self._taken_over = self._taken_over, []
        if lots:
            _log.info("servers are sent to from here that were another process's, which is gone", lots=len(lots))
            self._publish_to_all(SenderLost(lots))
        if not self._stopping:
            run_in_background("destinations-claimed", self._look_until_answered)

    def _lots_left(self, news: LotsLeft) -> None:
        self._left.update(dict.fromkeys(news.lots, self._clock.monotonic()))
        self._claims.try_now()

    def _lot_lost(self, lot: str) -> None:
        """Some servers may be another's now: forget them, and break off what is under way."""
        self._lots.discard(lot)
        for outbox in self._of_lot(lot):
            self._forget(outbox)
            self._untold.pop(outbox.server, None)
            _cancel_timer(outbox)
            if outbox.running is not None:
                outbox.running.cancel()
            if outbox.passing:
                self._lose_edus(outbox.server)

    def _of_lot(self, lot: str) -> list[Outbox]:
        return [outbox for server, outbox in self._outboxes.items() if lot_of(server) == lot]

    def _forget(self, outbox: Outbox) -> None:
        del self._outboxes[outbox.server]
        self._unsaved.pop(outbox.server, None)

    async def even_out(self) -> None:
        """If we have more lots than our share of those that somebody has, give up as many in which nothing waits."""
        processes, had = await self._database.read("sharing-out", sharing_out, _ALL_LOTS)
        surplus = len(self._lots) - -(-had // max(processes, 1))
        if surplus <= 0 or self._stopping:
            return
        if self._unsaved:
            # Else there might always be something that is about to be.
            await self._save()
        given_up: list[str] = []
        # Not those first that were had first: they may always be the same.
        for lot in sorted(self._lots, key=lambda _: random.random()):
            outboxes = self._of_lot(lot)
            if len(given_up) < surplus and self._claims.holds(lot) and not any(map(self._is_needed, outboxes)):
                for outbox in outboxes:
                    self._forget(outbox)
                self._lots.discard(lot)
                self._claims.give_up(lot)
                given_up.append(lot)
        if given_up:
            _log.info(
                "servers are left to other processes", processes=processes, lots=len(given_up), kept=len(self._lots)
            )
            self._database.tell_others(LotsLeft(given_up))

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
        if self._outboxes.get(outbox.server) is not outbox:
            return True
        return not self._claims.is_alone and not self._claims.holds(lot_of(outbox.server))

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
        parcel = await self._pack(outbox)
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

    async def _pack(self, outbox: Outbox) -> Parcel:
        """Take the oldest of what waits."""
        assert outbox.row is not None
        after, known = outbox.row.sent_up_to, outbox.known()
        if known is None:
            found = await self._look(outbox, after)
        elif len(known) == 1 and known[0].pdu is not None and not outbox.has_lasting:
            found = Waiting([(known[0].position, known[0].pdu)], [], known[0].position, True, True)
        elif known or outbox.has_lasting:
            # Also here: what comes while the tables are read is not among what was read.
            had_lasting, outbox.has_lasting = outbox.has_lasting, False
            found = await self._database.read(
                "waiting-for-server", _read_known, outbox.server, known, outbox.edus_sent_up_to, had_lasting
            )
        else:
            found = Waiting([], [], after, True, True)
        return _parcel_of(outbox, found)

    async def _look(self, outbox: Outbox, after: int) -> Waiting:
        """Ask the tables what waits; what is announced meanwhile may be later than the answer, and is kept."""
        doubts = outbox.doubts
        outbox.announced.clear()
        outbox.has_lasting = False
        outbox.is_looking = True
        try:
            found = await self._database.read(
                "waiting-for-server",
                destinations.waiting,
                outbox.server,
                after=after,
                most_pdus=min(outbox.most, MOST_PDUS),
                edus_after=outbox.edus_sent_up_to,
                most_edus=MOST_EDUS,
            )
        finally:
            outbox.is_looking = False
        outbox.is_complete = found.is_all and outbox.doubts == doubts
        if not outbox.is_complete:
            outbox.announced.clear()
        return found

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
        self._save_soon(outbox)
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
        self._save_soon(outbox)

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
        self._save_soon(outbox)
        self._wait(outbox, pause / 1000)

    def _tell_left_alone(self, server: str, until: int | None) -> None:
        """Have other processes know with the next that is written down."""
        if not self._claims.is_alone:
            self._untold[server] = LeftAlone(server, until)

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
            self._save_soon(outbox)
        _cancel_timer(outbox)
        self._wake(outbox)

    # Writing down how far they are.

    def _save_soon(self, outbox: Outbox) -> None:
        if self._is_gone(outbox):
            return
        self._unsaved[outbox.server] = outbox
        if self._save_timer is None and not self._stopping:
            self._save_timer = self._clock.call_later(SAVE_SECONDS, self._save_now)

    def _save_now(self) -> None:
        self._save_timer = None
        run_in_background("save-destinations", self._save)

    async def _save(self) -> None:
        outboxes, self._unsaved = self._unsaved, {}
        untold, self._untold = self._untold, {}
        # Of those that are another's by now, that one knows better.
        outboxes = {server: outbox for server, outbox in outboxes.items() if not self._is_gone(outbox)}
        rows = [replace(outbox.row) for outbox in outboxes.values() if outbox.row is not None]
        edus = [(server, outbox.edus_sent_up_to) for server, outbox in outboxes.items() if outbox.edus_sent_up_to]
        known = {server: outbox.written for server, outbox in outboxes.items()}
        for outbox in outboxes.values():
            outbox.set_back = None
        try:
            found = await self._database.write(
                "save-destinations", destinations.save, rows, edus, untold.values(), known
            )
        except Exception:
            self._untold = untold | self._untold
            for outbox in outboxes.values():
                self._save_soon(outbox)
            raise
        for server, position in found.items():
            outboxes[server].was_written(position)
        if len(self._outboxes) > MOST_REMEMBERED:
            self._forget_idle()

    def _forget_idle(self) -> None:
        for server, outbox in list(self._outboxes.items()):
            if not self._is_needed(outbox):
                del self._outboxes[server]

    def _is_needed(self, outbox: Outbox) -> bool:
        """Whether there is more to it than what stands in the tables."""
        is_busy = outbox.is_running or outbox.timer is not None or outbox.has_work or outbox.server in self._unsaved
        return is_busy or (outbox.row is not None and outbox.row.failing_since is not None)


def lot_of(server: str) -> str:
    """The claim that a server belongs to."""
    return _ALL_LOTS[blake2b(server.encode(), digest_size=8).digest()[0] % LOTS]


_ALL_LOTS = [f"destinations {number}" for number in range(LOTS)]


def _look(txn: Transaction) -> tuple[list[str], list[str], dict[str, int]]:
    return destinations.retries_asked(txn), destinations.needing_attention(txn), destinations.left_alone(txn)


def _read_known(txn: Transaction, server: str, known: list[Announced], edus_after: int, has_lasting: bool) -> Waiting:
    """Read events of which it is known that they wait, and the oldest lasting EDUs."""
    pdus = destinations.events_for(txn, [(item.position, item.event_nid) for item in known])
    edus, are_all = (
        destinations.waiting_edus(txn, server, after=edus_after, most=MOST_EDUS) if has_lasting else ([], True)
    )
    return Waiting(pdus, edus, known[-1].position if known else 0, False, are_all)


def _parcel_of(outbox: Outbox, found: Waiting) -> Parcel:
    """Make a parcel of what waits in the tables and in memory: events first."""
    room = min(MOST_EDUS, outbox.most - len(found.pdus))
    lasting = found.edus[:room]
    if not found.are_all_edus or len(lasting) < len(found.edus):
        outbox.has_lasting = True
    passing = dict(list(outbox.passing.items())[: room - len(lasting)])
    return Parcel(
        [pdu for _, pdu in found.pdus],
        [*(edu for _, edu in lasting), *passing.values()],
        passing,
        found.up_to,
        lasting[-1][0] if lasting else 0,
    )


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
