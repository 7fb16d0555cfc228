"""Transactions from other servers (FED-2).

The events of a transaction are sorted by room, and each room's are received one after another, apart from the other
rooms'. An event that lacks something keeps only its own room waiting: after `ANSWER_SECONDS` the transaction is
answered all the same, and what is not settled by then is stored and goes on by itself, also after a restart.

A transaction is done once: a repetition is given the same answer, also while the first is still being worked on. The
answer is written down when the events are settled; where they are all of one room, in the transaction of the database
that stores them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import orjson
from cachetools import LRUCache
from msgspec import Struct, field
from twisted.internet.defer import Deferred, DeferredSemaphore

from synapse_like.background import all_of, run_in_background
from synapse_like.clock import Clock
from synapse_like.federation.client import FederationClient
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.federation.sharing import Shared
from synapse_like.handlers.event_checks import CheckedEvent, EventChecks, Lacking, Verdict, read_foreign
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.handlers.event_reception import named_by, receive
from synapse_like.handlers.joins import Joins
from synapse_like.handlers.missing_events import MissingEvents, Silent
from synapse_like.handlers.room_locks import RoomLocks
from synapse_like.logs import get_logger
from synapse_like.protocol.canonical_json import decode, encode_in_any_order
from synapse_like.protocol.errors import BadJson, Forbidden, LimitExceeded, MatrixError, Unavailable
from synapse_like.protocol.events import Event, Pdu
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.wire_formats import read_pdu
from synapse_like.storage import events, incoming, rooms
from synapse_like.storage.database import Database
from synapse_like.storage.incoming import WaitingPdu
from synapse_like.storage.transactions import Transaction

#: PDUs and EDUs of one transaction at the most (FED-3).
MOST_PDUS = 50
MOST_EDUS = 100
#: After how many seconds a transaction is answered, whether all of it is settled or not.
ANSWER_SECONDS = 10.0
#: The same where policy servers are asked: the queue of the other server must not go by their pace.
ANSWER_SECONDS_WITH_POLICY = 0.5
#: How many lots of events may wait for one room.
MOST_WAITING = 100
#: Lots of those that wait that are tried again at the same time.
MOST_RETRIED_AT_ONCE = 20
#: For how long, in ms, an event waits for what comes before it; then the state it saw must do.
PATIENCE_MS = 60_000
#: Servers of whom it is remembered which transaction was the last.
MOST_ORIGINS = 10_000
#: Rooms whose rules are remembered.
MOST_ROOMS = 10_000

#: The classes of rate limits in which what a server sends is counted, in all and for each room.
EVENTS_LIMIT, ROOM_LIMIT = "federation_events", "federation_room"

Limit = Callable[[Iterable[tuple[str, str, int]]], None]
EduHandler = Callable[[str, Mapping[str, Any]], Awaitable[None]]
Json = dict[str, Any]
_log = get_logger(__name__)


class _Lot(Struct):
    """The events of one transaction for one room.

    :ivar rules: of the room.
    :ivar settled: by event ID, why it was refused, or None.
    :ivar waiting: the events that are not settled yet, as `read_foreign` gave them.
    :ivar urgent: the IDs of those that have waited long.
    :ivar transaction_id: of the transaction, if it has no other events than these.
    :ivar answer: what the transaction is answered, once that is written down with the events.
    """

    origin: str
    room_id: str
    rules: RoomRules
    settled: dict[str, str | None] = field(default_factory=dict)
    waiting: dict[str, tuple[Event, Pdu]] = field(default_factory=dict)
    urgent: set[str] = field(default_factory=set)
    transaction_id: str | None = None
    answer: bytes | None = None

    def settle(self, event_id: str, refusal: str | None) -> None:
        """An event has been judged."""
        self.waiting.pop(event_id, None)
        self.settled[event_id] = refusal


class IncomingTransactions:
    """Receives transactions.

    :param edus: what takes EDUs, by their type; others are ignored.
    :param lasting_edus: the types of those that must not be lost. They are taken before the transaction is written down
        as done, so that it comes again if they could not be; taking one twice must do no harm.
    :param limit: counts what a server sends, each (class of rate limits, key, how much), or raises LimitExceeded.
    :param answer_seconds: after which a transaction is answered in any case.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        client: FederationClient,
        checks: EventChecks,
        persistence: EventPersistence,
        missing: MissingEvents,
        locks: RoomLocks,
        joins: Joins,
        *,
        edus: Mapping[str, EduHandler],
        lasting_edus: Collection[str] = (),
        limit: Limit = lambda _: None,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._answer_seconds = answer_seconds
        self._limit = limit
        self._database = database
        self._clock = clock
        self._client = client
        self._checks = checks
        self._persistence = persistence
        self._missing = missing
        self._locks = locks
        self._joins = joins
        self._edus = edus
        self._lasting_edus = frozenset(lasting_edus)
        self._rules: LRUCache[str, RoomRules] = LRUCache(MOST_ROOMS)
        self._newest: LRUCache[str, str] = LRUCache(MOST_ORIGINS)
        self._pulling: set[str] = set()
        #: The events that are stored among the waiting ones.
        self._kept: set[str] = set()
        #: What is being received: transactions, and the rooms into which they bring too much.
        self._bodies: dict[tuple[str, str], tuple[Json, frozenset[str]]] = {}
        self._running = Shared(self._receive)
        self._works: set[Deferred[None]] = set()

    @property
    def under_way(self) -> Sequence[Deferred[None]]:
        """What is being received, be it that the transaction was answered before; each fires when it is done."""
        return list(self._works)

    async def receive(self, origin: str, transaction_id: str, body: Json) -> bytes:
        """Take a transaction; the answer, in JSON.

        :param origin: the server that sent it, by its signature.
        :raises BadJson: it is no transaction.
        :raises Forbidden: it claims to come from another server.
        :raises LimitExceeded: that server sends too much.
        """
        _check_shape(origin, body)
        key = origin, transaction_id
        if key not in self._running:
            self._bodies[key] = body, self._count(origin, body)
        return await self._running.do(key)

    def _count(self, origin: str, body: Json) -> frozenset[str]:
        """Count what a transaction holds; the rooms into which it brings too much.

        Rooms that are not known have no count of their own.

        :raises LimitExceeded: it is too much in all.
        """
        pdus, edus = body.get("pdus", []), body.get("edus", [])
        if pdus or edus:
            self._limit([(EVENTS_LIMIT, origin, len(pdus) + len(edus))])
        counts: dict[str, int] = {}
        for pdu in pdus:
            room_id = _room_of(pdu)
            if room_id is not None and room_id in self._rules:
                counts[room_id] = counts.get(room_id, 0) + 1
        flooded = set()
        for room_id, count in counts.items():
            try:
                self._limit([(ROOM_LIMIT, f"{origin} {room_id}", count)])
            except LimitExceeded:
                _log.info("events of a room wait: there are too many", origin=origin, room=room_id, count=count)
                flooded.add(room_id)
        return frozenset(flooded)

    async def _receive(self, key: tuple[str, str]) -> bytes:
        origin, transaction_id = key
        body, flooded = self._bodies[key]
        try:
            first = await self._first_answer(origin, transaction_id, _names(body.get("prev_ids")))
            if first is not None:
                return first
            await self._let_come_in(body.get("pdus", []))
            edus = body.get("edus", [])
            await self._receive_lasting(origin, [edu for edu in edus if edu["edu_type"] in self._lasting_edus])
            lots, settled = await self._sort(origin, body.get("pdus", []))
            if len(lots) == 1:
                lots[0].transaction_id = transaction_id
                lots[0].settled |= settled
            settled |= await self._receive_lots(lots, flooded)
            answer = lots[0].answer if len(lots) == 1 else None
            if answer is None:
                answer = await self._database.write("transaction", self._record, origin, transaction_id, settled)
            self._newest[origin] = transaction_id
            await self._receive_passing(origin, [edu for edu in edus if edu["edu_type"] not in self._lasting_edus])
            return answer
        finally:
            del self._bodies[key]

    async def _first_answer(self, origin: str, transaction_id: str, previous: Sequence[str]) -> bytes | None:
        """What a transaction was answered, if it is not the first time that it comes.

        If one before it was missed, what that held is fetched in the background. The one that comes right after the
        newest is neither: nothing is looked up for it.
        """
        is_newest = previous == [self._newest.get(origin)] and previous != [transaction_id]
        if is_newest and not self._database.is_shared:
            # Another process may have answered it already.
            return None
        first, missed_after = await self._database.read("transaction", _look, origin, transaction_id, previous)
        if missed_after is not None and origin not in self._pulling:
            self._pulling.add(origin)
            run_in_background("pull", self._pull, origin, missed_after)
        return first

    # PDUs.

    async def _let_come_in(self, pdus: Sequence[Pdu]) -> None:
        """Wait for the rooms into which one of ours has just been let.

        :raises Unavailable: it takes too long; the other server is to send it again.
        """
        entering = {room_id for pdu in pdus if (room_id := _room_of(pdu)) is not None and room_id not in self._rules}
        if not await self._joins.over(entering, ANSWER_SECONDS):
            raise Unavailable("This server is still coming into a room of which there are events. Please try again.")

    async def _sort(self, origin: str, pdus: Sequence[Pdu]) -> tuple[list[_Lot], dict[str, str | None]]:
        """The events of a transaction by their rooms; and what has been said of those that are none."""
        lots: dict[str, _Lot] = {}
        settled: dict[str, str | None] = {}
        for pdu in pdus:
            room_id = _room_of(pdu)
            rules = await self._rules_of(room_id) if room_id is not None else None
            if rules is None or room_id is None:
                _log.info("an event of an unknown room was ignored", origin=origin)
                continue
            try:
                event, kept = read_foreign(rules, pdu)
                if event.room_id != room_id:
                    raise BadJson("The event names two rooms.")
            except MatrixError as error:
                _log.warning("a malformed event was refused", origin=origin, reason=error.message)
                name = _claimed_id(pdu)
                if name is not None:
                    settled[name] = error.message
                continue
            lots.setdefault(room_id, _Lot(origin, room_id, rules)).waiting[event.event_id] = event, kept
        return list(lots.values()), settled

    async def _receive_lots(
        self, lots: Sequence[_Lot], flooded: Collection[str] = frozenset()
    ) -> dict[str, str | None]:
        """Receive what can be received in time, and see to it that the rest is not lost.

        :param flooded: the rooms whose events are not received now, but when those that wait are tried.
        """
        settled: dict[str, str | None] = {}
        await self._all_in_time([self._work_on(lot) for lot in lots if lot.room_id not in flooded])
        left = [waiting for lot in lots for waiting in _waiting_in(lot)]
        if left:
            self._kept.update(waiting.event_id for waiting in left)
            self._kept -= await self._database.write(
                "keep-waiting", incoming.keep_waiting, left, now_ms=self._clock.now_ms()
            )
        for lot in lots:
            settled = dict.fromkeys(lot.waiting) | settled | lot.settled
        return settled

    async def _all_in_time(self, works: Sequence[Deferred[None]]) -> None:
        """Wait until all is done, or the time is up."""
        if all(work.called for work in works):
            return
        done: Deferred[None] = Deferred()
        left = len(works)

        def one_done(_: None) -> None:
            nonlocal left
            left -= 1
            if not left and not done.called:
                done.callback(None)

        timer = self._clock.call_later(self._answer_seconds, lambda: None if done.called else done.callback(None))
        for work in works:
            work.addCallback(one_done)
        await done
        if timer.active():
            timer.cancel()

    def _work_on(self, lot: _Lot) -> Deferred[None]:
        work = run_in_background("receive-events", self._receive_lot, lot)
        if not work.called:
            self._works.add(work)
            work.addCallback(lambda _: self._works.discard(work))
        return work

    async def _receive_lot(self, lot: _Lot) -> None:
        if self._locks.waiting(lot.room_id) >= MOST_WAITING:
            raise LimitExceeded("Too many events wait for this room.", 60_000)
        taken = set(lot.waiting)
        async with self._locks.hold(lot.room_id):
            try:
                await self._receive_in_turn(lot)
            finally:
                # Those that nobody could be asked about stay, to be tried again.
                done = self._kept & (taken - lot.waiting.keys())
                if done:
                    await self._database.write("settled", incoming.settled, done)
                # Whoever tries the others again finds them in the tables.
                self._kept -= taken

    async def _receive_in_turn(self, lot: _Lot) -> None:
        checked = []
        for event_id, (event, pdu) in list(lot.waiting.items()):
            try:
                checked.append(await self._check(lot, event, pdu))
            except ServerUnreachable:
                _log.info("an event waits: the key that signed it cannot be had", event_id=event_id)
            except MatrixError as error:
                _log.warning("an event was refused", event_id=event_id, origin=lot.origin, reason=error.message)
                lot.settle(event_id, error.message)
        left = await self._checks.ask_policy(checked)
        silent: Silent = {}
        while left:
            results, lot.answer = await self._database.write_to_room(lot.room_id, "receive", self._admit_all, lot, left)
            lacking = []
            for item, result in zip(left, results, strict=True):
                if isinstance(result, Verdict):
                    lot.settle(result.event_id, result.refusal)
                else:
                    lacking.append((item, result))
            if not lacking:
                return
            # What one lacks is mostly what those after it lack, too.
            await self._complete(lot, *lacking[0], silent)
            left = [item for item, _ in lacking[1:]]

    async def _check(self, lot: _Lot, event: Event, pdu: Pdu) -> CheckedEvent:
        checked = await self._checks.check(lot.rules, event, pdu)
        if checked.event is not event and lot.origin != event.domain:
            # Whoever passed it on may have altered it; its own server will tell us what it said.
            raise Forbidden("The content of the event was altered on the way.")
        return checked

    def _admit_all(
        self, txn: Transaction, lot: _Lot, checked: Sequence[CheckedEvent]
    ) -> tuple[list[Verdict | Lacking], bytes | None]:
        """Receive events; if that settles their transaction, write down its answer, and give it."""
        # For all of them at once.
        events.known(txn, {event_id for item in checked for event_id in named_by(item.event)})
        results = [receive(txn, self._persistence, item) for item in checked]
        verdicts = {result.event_id: result.refusal for result in results if isinstance(result, Verdict)}
        if lot.transaction_id is None or len(verdicts) < len(lot.waiting):
            return results, None
        return results, self._record(txn, lot.origin, lot.transaction_id, lot.settled | verdicts)

    def _record(self, txn: Transaction, origin: str, transaction_id: str, settled: Mapping[str, str | None]) -> bytes:
        """Write down the answer to a transaction, and give it."""
        answer = orjson.dumps({"pdus": {event_id: _result(refusal) for event_id, refusal in settled.items()}})
        return incoming.record(txn, origin, transaction_id, answer, now_ms=self._clock.now_ms())

    async def _complete(self, lot: _Lot, item: CheckedEvent, lacking: Lacking, silent: Silent) -> None:
        event_id = item.event.event_id
        try:
            verdict = await self._missing.settle(
                lot.origin, item, lacking, is_urgent=event_id in lot.urgent, silent=silent
            )
            lot.settle(event_id, verdict.refusal)
        except ServerUnreachable as error:
            _log.info("an event waits: what it lacks cannot be had", event_id=event_id, reason=error.reason)
        except MatrixError as error:
            _log.warning("an event was refused", event_id=event_id, origin=lot.origin, reason=error.message)
            lot.settle(event_id, error.message)

    async def _rules_of(self, room_id: str) -> RoomRules | None:
        rules = self._rules.get(room_id)
        if rules is None:
            rules, is_certain = await self._database.read("room-rules", _look_up_rules, room_id)
            if rules is not None and is_certain:
                self._rules[room_id] = rules
        return rules

    async def retry_waiting(self) -> None:
        """Try again what could not be settled: after a restart, and every so often."""
        lots: dict[tuple[str, str], _Lot] = {}
        patience_ends = self._clock.now_ms() - PATIENCE_MS
        for waiting in await self._database.read("all-waiting", incoming.all_waiting):
            rules = await self._rules_of(waiting.room_id)
            if rules is None or self._locks.waiting(waiting.room_id):
                continue
            self._kept.add(waiting.event_id)
            pdu = decode(waiting.pdu)
            assert isinstance(pdu, dict)
            event = read_pdu(rules, pdu, waiting.event_id)
            lot = lots.setdefault((waiting.origin, waiting.room_id), _Lot(waiting.origin, waiting.room_id, rules))
            lot.waiting[waiting.event_id] = event, pdu
            if waiting.received_at < patience_ends:
                lot.urgent.add(waiting.event_id)
        free = DeferredSemaphore(MOST_RETRIED_AT_ONCE)
        await all_of([free.run(self._work_on, lot) for lot in lots.values()])

    async def forget_old(self) -> None:
        """Forget what nobody will ask for again."""
        now_ms = self._clock.now_ms()
        await self._database.write("forget-transactions", incoming.delete_old, now_ms=now_ms)

    # Sequence.

    async def _pull(self, origin: str, newest: str) -> None:
        """Fetch what a server has sent since a transaction."""
        try:
            answer = await self._client.pull(origin, [newest])
            lots, _ = await self._sort(origin, answer["pdus"][:MOST_PDUS])
            await self._receive_lots(lots)
        finally:
            self._pulling.discard(origin)

    # EDUs.

    async def _receive_lasting(self, origin: str, edus: Sequence[Json]) -> None:
        for edu in edus:
            try:
                await self._receive_edu(origin, edu)
            except Unavailable:
                raise
            except MatrixError as error:
                _log.info("an EDU was refused", origin=origin, type=edu["edu_type"], reason=error.message)

    async def _receive_passing(self, origin: str, edus: Sequence[Json]) -> None:
        for edu in edus:
            try:
                await self._receive_edu(origin, edu)
            except MatrixError as error:
                _log.info("an EDU was refused", origin=origin, type=edu["edu_type"], reason=error.message)
            except Exception:
                # It is worth nothing in a minute, and must not be in the way of what is.
                _log.exception("an EDU was not taken", origin=origin, type=edu["edu_type"])

    async def _receive_edu(self, origin: str, edu: Json) -> None:
        handler = self._edus.get(edu["edu_type"])
        if handler is not None:
            await handler(origin, edu["content"])


def _look_up_rules(txn: Transaction, room_id: str) -> tuple[RoomRules | None, bool]:
    """The rules of a room, and whether they are certain: not if all that we know of it is an invite."""
    room = rooms.find(txn, room_id)
    return rooms.rules_of(txn, room_id), room is not None and rooms.is_entered(txn, room.room_nid)


def _check_shape(origin: str, body: Json) -> None:
    """See that a body is a transaction.

    :raises BadJson: it is not.
    :raises Forbidden: it claims to come from another server.
    """
    pdus, edus = body.get("pdus", []), body.get("edus", [])
    if not isinstance(pdus, list) or not all(isinstance(pdu, dict) for pdu in pdus):
        raise BadJson("'pdus' must be a list of objects.")
    if not isinstance(edus, list) or not all(_is_edu(edu) for edu in edus):
        raise BadJson("'edus' must be a list of objects with 'edu_type' and 'content'.")
    if len(pdus) > MOST_PDUS or len(edus) > MOST_EDUS:
        raise BadJson(f"A transaction may have at most {MOST_PDUS} PDUs and {MOST_EDUS} EDUs.")
    if body.get("origin", origin) != origin:
        raise Forbidden(f"The transaction claims to come from another server than {origin}, which sent it.")


def _room_of(pdu: Pdu) -> str | None:
    room_id = pdu.get("context", pdu.get("room_id"))
    return room_id if isinstance(room_id, str) else None


def _is_edu(edu: object) -> bool:
    return isinstance(edu, dict) and isinstance(edu.get("edu_type"), str) and isinstance(edu.get("content"), dict)


def _look(
    txn: Transaction, origin: str, transaction_id: str, previous: Sequence[str]
) -> tuple[bytes | None, str | None]:
    """What a transaction was answered, if it was; and if one before it was missed, after which others."""
    answer = incoming.answer_to(txn, origin, transaction_id)
    if answer is not None or all(incoming.answer_to(txn, origin, name) is not None for name in previous):
        return answer, None
    return None, incoming.newest_transaction(txn, origin)


def _names(previous: object) -> list[str]:
    """The transactions before another, as far as it makes sense what is said of them."""
    return [name for name in previous if isinstance(name, str)][:MOST_PDUS] if isinstance(previous, list) else []


def _waiting_in(lot: _Lot) -> list[WaitingPdu]:
    return [
        WaitingPdu(lot.origin, lot.room_id, event_id, encode_in_any_order(pdu))
        for event_id, (_, pdu) in lot.waiting.items()
    ]


def _claimed_id(pdu: Pdu) -> str | None:
    """The ID that a malformed PDU gives itself, to say in the answer which one is meant."""
    match pdu:
        case {"pdu_id": str(pdu_id), "origin": str(origin)}:
            return f"${pdu_id}:{origin}"
        case {"event_id": str(event_id)}:
            return event_id
    return None


def _result(refusal: str | None) -> Json:
    return {} if refusal is None else {"error": refusal}
