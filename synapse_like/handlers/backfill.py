"""Fetching the history from before we came when somebody pages back to it, and what we missed since (EVS-6, FED-10).

What is fetched stands in the timeline right before the event that it was missing from. It is judged by what it rests
on; the state that it saw is not known here and not needed, since nothing that happens now depends on it.

What we missed while we were in the room is news: it is fetched without anybody asking for it, and clients are told of
it, all but of state that holds no longer. Of several processes one does that; the others tell it when they are asked
something by a server that may have it and could not be reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from twisted.internet.defer import Deferred, DeferredSemaphore

from synapse_like.background import all_of, run_in_background
from synapse_like.clock import Clock
from synapse_like.federation.client import FederationClient
from synapse_like.federation.errors import RemoteRefusal, ServerUnreachable
from synapse_like.handlers import late_events
from synapse_like.handlers.event_checks import CheckedEvent, EventChecks
from synapse_like.handlers.event_persistence import REDACTION, arrived, carry_out_redaction
from synapse_like.handlers.missing_events import MissingEvents, in_causal_order, leading_to
from synapse_like.handlers.outliers import as_stored, check_claim
from synapse_like.handlers.room_access import is_inhabited
from synapse_like.handlers.room_locks import RoomLocks
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import AuthError, MatrixError
from synapse_like.protocol.events import Event
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.storage import events, gaps, room_servers, rooms
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.event_news import EventPersisted
from synapse_like.storage.events import Known, Standing
from synapse_like.storage.gaps import Gap
from synapse_like.storage.news import for_others
from synapse_like.storage.rooms import RoomHead
from synapse_like.storage.transactions import Transaction

#: Events that are asked for at least, and at the most.
FEWEST, MOST = 30, 100
#: How many servers are asked, and how often in a row for what events rest on.
MOST_SERVERS = 5
MOST_AUTH_QUESTIONS = 20
#: How often in a row one room's news is asked for; of how many rooms at the same time; and after how many seconds
#: again, if that was in vain: at first, and at the most.
MOST_NEWS_QUESTIONS = 50
MOST_ROOMS_AT_ONCE = 10
FIRST_PAUSE, LONGEST_PAUSE = 20.0, 1800.0

#: Servers for which another process waits that are remembered.
MOST_AWAITED = 10_000

_log = get_logger(__name__)


@for_others
class NewsAwaited(Struct, frozen=True):
    """News: these servers could not be reached by the process that wants news of them."""

    servers: list[str]


@for_others
class AwaitedHeard(Struct, frozen=True):
    """News for that process: such a server has asked another one something."""

    server: str


class _Wanted(Struct, frozen=True):
    """What a gap lacks, and who may have it."""

    rules: RoomRules
    missing: tuple[str, ...]
    servers: list[str]


class Backfill:
    """Fills gaps."""

    def __init__(
        self,
        database: Database,
        client: FederationClient,
        checks: EventChecks,
        missing: MissingEvents,
        locks: RoomLocks,
        clock: Clock,
        bus: Bus,
    ) -> None:
        self._database = database
        self._client = client
        self._checks = checks
        self._missing = missing
        self._locks = locks
        self._clock = clock
        #: Rooms whose news could not be had: how long is paused, and until when.
        self._pauses: dict[str, tuple[float, float]] = {}
        #: By server that could not be reached, the rooms that are paused for that.
        self._paused_for: dict[str, set[str]] = {}
        #: The servers that another process waits for.
        self._awaited: set[str] = set()
        if database.is_shared:
            bus.subscribe(NewsAwaited, self._is_awaited)
            bus.subscribe(AwaitedHeard, lambda news: self._end_pauses(news.server))

    async def fill_news(self) -> None:
        """Fetch what we missed of what happened while we were in our rooms, as far as others tell."""
        lacking = await self._database.read("rooms-with-news", gaps.rooms_with_news)
        now = self._clock.monotonic()
        self._pauses = {room_id: pause for room_id, pause in self._pauses.items() if room_id in lacking}
        if not self._pauses:
            self._paused_for.clear()
        free = DeferredSemaphore(MOST_ROOMS_AT_ONCE)
        due = [room_id for room_id in lacking if room_id not in self._pauses or self._pauses[room_id][1] <= now]
        await all_of([free.run(run_in_background, "news-of-room", self._try_news_of, room_id) for room_id in due])

    def heard_from(self, server: str) -> None:
        """A server has asked us something, so it may be reached again: ask for the news that it may have, soon."""
        if server in self._awaited:
            self._awaited.discard(server)
            self._database.tell_others(AwaitedHeard(server))
        self._end_pauses(server)

    def _is_awaited(self, news: NewsAwaited) -> None:
        if len(self._awaited) + len(news.servers) > MOST_AWAITED:
            # They are said again with each attempt.
            self._awaited.clear()
        self._awaited.update(news.servers[:MOST_AWAITED])

    def _end_pauses(self, server: str) -> None:
        for room_id in self._paused_for.pop(server, ()):
            if room_id in self._pauses:
                seconds, _ = self._pauses[room_id]
                self._pauses[room_id] = seconds, 0.0

    async def _try_news_of(self, room_id: str) -> None:
        silent: set[str] = set()
        if await self._fill_news_of(room_id, silent):
            self._pauses.pop(room_id, None)
            return
        seconds, _ = self._pauses.get(room_id, (FIRST_PAUSE / 2, 0.0))
        seconds = min(2 * seconds, LONGEST_PAUSE)
        self._pauses[room_id] = seconds, self._clock.monotonic() + seconds
        for server in silent:
            self._paused_for.setdefault(server, set()).add(room_id)
        if silent and self._database.is_shared:
            self._database.tell_others(NewsAwaited(sorted(silent)))

    async def _fill_news_of(self, room_id: str, silent: set[str]) -> bool:
        """Fetch the news of a room; whether that got on. Servers that could not be reached are added to those."""
        for _ in range(MOST_NEWS_QUESTIONS):
            gap = await self._database.write_to_room(room_id, "news-gap", self._newest_news, room_id)
            if gap is None:
                return True
            if not await self._fill(room_id, gap, MOST, silent):
                return False
        return True

    def _newest_news(self, txn: Transaction, room_id: str) -> Gap | None:
        room = rooms.head(txn, room_id)
        if room is None or not is_inhabited(txn, room):
            return None
        return gaps.newest(txn, room.room_nid, after=0, before_or_at=2**63 - 1, only_news=True)

    async def fill(self, room_id: str, gap: Gap, limit: int, *, within: float) -> bool:
        """Fetch some of what is missing before an event.

        :param limit: how many events are wanted.
        :param within: how long to wait for it, in seconds; it is fetched all the same, for whoever asks next.
        :return: whether anything was won: if not, there is no use in trying again at once.
        """
        outcome: Deferred[bool] = Deferred()

        async def fill() -> None:
            won = False
            try:
                won = await self._fill(room_id, gap, limit, set())
            finally:
                if not outcome.called:
                    outcome.callback(won)

        timer = self._clock.call_later(within, lambda: None if outcome.called else outcome.callback(False))
        run_in_background("backfill", fill)
        won = await outcome
        if timer.active():
            timer.cancel()
        return won

    async def _fill(self, room_id: str, gap: Gap, limit: int, silent: set[str]) -> bool:
        # Not the lock of the room itself, under which events are received: reading must not wait for that.
        async with self._locks.hold(f"history of {room_id}"):
            wanted = await self._database.read("gap", self._look, room_id, gap)
            if wanted is None:
                return True
            has_answered = False
            for server in wanted.servers:
                try:
                    pdus = await self._client.backfill(server, room_id, wanted.missing, max(FEWEST, min(limit, MOST)))
                except (ServerUnreachable, RemoteRefusal) as error:
                    _log.info("a server did not tell what was", room=room_id, server=server, reason=error.reason)
                    if isinstance(error, ServerUnreachable):
                        silent.add(server)
                    continue
                has_answered = True
                if await self._take(server, room_id, gap, wanted, pdus[: MOST + len(wanted.missing)]):
                    return True
                left = await self._database.read("gap", self._look, room_id, gap)
                if left is None or left.missing != wanted.missing:
                    # It has come by another way, such as another process.
                    return True
            if has_answered:
                _log.info("nobody has what is missing", room=room_id, event_id=gap.event_id)
                await self._database.write_to_room(room_id, "give-up", self._give_up, room_id, gap)
            return False

    def _look(self, txn: Transaction, room_id: str, gap: Gap) -> _Wanted | None:
        """What is missing around a gap; None if nothing is any more."""
        room, rules = rooms.find(txn, room_id), rooms.rules_of(txn, room_id)
        if room is None or rules is None:
            return None
        missing = gaps.missing_near(
            txn, room.room_nid, floor=late_events.floor_below(gap.place), before_or_at=gap.place
        )
        if not missing:
            return None
        return _Wanted(rules, missing, room_servers.in_room(txn, room.room_nid)[:MOST_SERVERS])

    def _give_up(self, txn: Transaction, room_id: str, gap: Gap) -> None:
        room = rooms.find(txn, room_id)
        if room is not None:
            gaps.give_up(txn, room.room_nid, gap.event_id)

    async def _take(self, server: str, room_id: str, gap: Gap, wanted: _Wanted, pdus: Sequence[object]) -> bool:
        """Check and store what a server has told; whether there was anything new."""
        read = await self._checks.read_many(wanted.rules, room_id, pdus)
        placed = await self._database.read("placed", self._placed, list(read))
        new = [pair for event_id, pair in read.items() if event_id not in placed]
        signed = await self._checks.check_many(wanted.rules, new, relayed_by=server)
        checked = {item.event.event_id: item for item in await self._checks.ask_policy(signed)}
        await self._fetch_auth(server, checked)
        return await self._database.write_to_room(
            room_id, "backfill", self._store, room_id, gap, wanted.missing, checked
        )

    def _placed(self, txn: Transaction, event_ids: Sequence[str]) -> set[str]:
        known = events.known(txn, event_ids)
        return {event_id for event_id, item in known.items() if item.is_judged}

    async def _fetch_auth(self, server: str, checked: Mapping[str, CheckedEvent]) -> None:
        """Get what the events rest on that is neither here nor among them."""
        asked = 0
        for event_id, item in checked.items():
            named = set(item.event.auth_events) - checked.keys()
            known = await self._database.read("known-events", events.known, named)
            if named <= known.keys() or asked >= MOST_AUTH_QUESTIONS:
                continue
            asked += 1
            try:
                chain = await self._client.event_auth(server, item.event.room_id, event_id)
                await self._missing.store(item.rules, item.event.room_id, chain, server)
            except MatrixError as error:
                _log.info("what an event rests on is not told", event_id=event_id, reason=error.message)

    def _store(
        self,
        txn: Transaction,
        room_id: str,
        gap: Gap,
        missing: Sequence[str],
        checked: Mapping[str, CheckedEvent],
    ) -> bool:
        """Give events their places before a gap: those that lead to it, the latest first."""
        room = rooms.head(txn, room_id)
        if room is None:
            return False
        reached = leading_to(missing, checked)
        outliers = events.known(txn, reached)
        reached |= {
            event_id: as_stored(txn, reached[event_id], item)
            for event_id, item in outliers.items()
            if item.room_nid == room.room_nid and not item.is_judged
        }
        named = {auth for item in reached.values() for auth in item.event.auth_events}
        known = events.known(txn, named | reached.keys())
        oldest_first = [item for item in in_causal_order(reached) if not _is_judged(known, item)]
        for item in oldest_first:
            self._judge(txn, room.room_nid, item, known)
        shown = [item for item in oldest_first if known[item.event.event_id].standing is Standing.ACCEPTED]
        self._place(txn, room, gap, shown)
        for event_id in missing:
            if event_id in reached:
                rooms.close_gaps(txn, room, event_id)
        return bool(shown)

    def _place(self, txn: Transaction, room: RoomHead, gap: Gap, shown: Sequence[CheckedEvent]) -> None:
        """Put events into the timeline, each right before what names it, and tell of those that are news.

        :param shown: the oldest first.
        """
        told: list[int] = []
        for item in reversed(shown):
            event = item.event
            place = late_events.place_before_gap(txn, room.room_nid, event.event_id, is_news=gap.is_news)
            stored, is_awaited = events.insert(
                txn, room.room_nid, event, item.pdu, place=place, snapshot_before=None, snapshot_after=None
            )
            here = self._placed(txn, event.prev_events)
            lacking = [prev for prev in event.prev_events if prev not in here]
            is_news = gap.is_news and late_events.lacks_news(room, event)
            rooms.add_gaps(txn, room, stored.event_nid, lacking, is_news=is_news)
            arrived(txn, room, stored, is_awaited=is_awaited)
            if event.type == REDACTION and event.redacts is not None:
                carry_out_redaction(txn, room, stored, event.redacts, None)
            if gap.is_news and late_events.is_news(room, event) and not _is_past(txn, room, event):
                told.append(stored.event_nid)
        for event_nid in reversed(told):
            stored = events.tell_late(txn, event_nid)
            txn.announce(EventPersisted(room.room_id, stored.position, stored, {}))

    def _judge(self, txn: Transaction, room_nid: int, item: CheckedEvent, known: dict[str, Known]) -> None:
        """See whether what an event rests on allows it, and remember what came of that."""
        event, standing = item.event, Standing.ACCEPTED if item.is_welcome else Standing.SOFT_FAILED
        try:
            if any(auth not in known or known[auth].room_nid != room_nid for auth in event.auth_events):
                raise AuthError("The event rests on events that are not here.")
            check_claim(txn, item.rules, event, known)
        except AuthError as error:
            _log.warning("an event of the past was rejected", event_id=event.event_id, reason=error.message)
            standing = Standing.REJECTED
        stored, _ = events.insert(
            txn, room_nid, event, item.pdu, place=None, snapshot_before=None, snapshot_after=None, standing=standing
        )
        known[event.event_id] = Known(stored.event_nid, room_nid, None, None, standing)


def _is_past(txn: Transaction, room: RoomHead, event: Event) -> bool:
    """Is an event a piece of state in whose place another one holds?"""
    if not event.is_state:
        return False
    current = rooms.stored_state_at_head(txn, room, [event.state_slot]).get(event.state_slot)
    return current is not None and current.event.event_id != event.event_id


def _is_judged(known: Mapping[str, Known], item: CheckedEvent) -> bool:
    found = known.get(item.event.event_id)
    return found is not None and found.is_judged
