"""Fetching what an event lacks before it can be judged (FED-6): what it rests on, and what comes before it.

Gaps are filled with the events themselves, so that clients see everything in its order. Where too much is missing, the
state before the first event that we have is fetched instead; the gap stays, and is filled later (`backfill`). Servers
are asked one after another, until one has what is missing: the one that made the event, the one that told us of it, and
some others in the room. If one of them cannot be reached that may have it, the event waits a while. All of it is
bounded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeAlias, TypeVar

from msgspec import Struct

from synapse_like.federation.client import FederationClient
from synapse_like.federation.errors import RemoteRefusal, ServerUnreachable
from synapse_like.handlers.event_checks import CheckedEvent, EventChecks, Lacking, Verdict
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.handlers.event_reception import receive
from synapse_like.handlers.outliers import store_outliers
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import Forbidden
from synapse_like.protocol.events import Event, Pdu
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.state_resolution import StateIds
from synapse_like.storage import events, room_servers, rooms
from synapse_like.storage.database import Database
from synapse_like.storage.events import Standing
from synapse_like.storage.transactions import Transaction

#: How many events before one are fetched, of how many bytes; how often we ask for them, and for how many each time.
MOST_EVENTS = 500
MOST_BYTES = 16 * 1024 * 1024
MOST_ROUNDS = 15
EVENTS_A_ROUND = 50
#: How many states and auth chains are fetched for what is missing before one event: a state for each end of its forks.
MOST_FETCHES = 10
#: How many servers are asked for the same thing.
MOST_SERVERS = 4

#: How many events are judged in one transaction of the database.
EVENTS_A_COMMIT = 50

Answer = TypeVar("Answer")
#: Servers that could not be reached a moment ago, and why.
Silent: TypeAlias = dict[str, ServerUnreachable]
_log = get_logger(__name__)


class _Budget(Struct):
    """How many states and auth chains may still be fetched."""

    left: int

    def spend(self) -> None:
        """Take one.

        :raises Forbidden: there is none left.
        """
        if not self.left:
            raise Forbidden("Too much is missing before the event.")
        self.left -= 1


class _Others(Struct, frozen=True):
    """Who may be asked.

    :ivar servers: in this order.
    :ivar silent: those that are not asked again, since they gave no answer; who else gives none is added.
    """

    servers: Sequence[str]
    silent: Silent


class _Before(Struct, frozen=True):
    """Where something is missing.

    :ivar earliest: the IDs of the newest events that are here.
    :ivar latest: of those before which something is missing.
    :ivar missing: of what comes right before those.
    :ivar depth: the least that is asked for.
    """

    earliest: Sequence[str]
    latest: Sequence[str]
    missing: Sequence[str]
    depth: int


class MissingEvents:
    """Completes events, and then has them judged."""

    def __init__(
        self, database: Database, client: FederationClient, checks: EventChecks, persistence: EventPersistence
    ) -> None:
        self._database = database
        self._client = client
        self._checks = checks
        self._persistence = persistence

    async def settle(
        self,
        origin: str,
        checked: CheckedEvent,
        lacking: Lacking,
        *,
        is_urgent: bool = False,
        silent: Silent | None = None,
    ) -> Verdict:
        """Judge an event as soon as what it lacks is here.

        :param origin: the server that told us of it.
        :param is_urgent: do without what comes before it, if that cannot be had now.
        :param silent: the servers that could not be reached when others of its lot were settled; they are not waited
            for again, and more are added.
        :raises Forbidden: it cannot be completed, and so was not judged.
        :raises ServerUnreachable: somebody could not be asked who may have what it lacks.
        """
        servers = await self._database.read("servers-to-ask", self._servers, origin, checked.event)
        others = _Others(servers, {} if silent is None else silent)
        if lacking.before:
            await self._receive_all(others, await self._events_before(others, origin, checked, is_urgent))
        return await self._complete(others, checked, _Budget(2))

    async def _receive_all(self, others: _Others, before: Sequence[CheckedEvent]) -> None:
        """Judge what was missing before an event, many at a time."""
        budget = _Budget(MOST_FETCHES)
        left = before
        while left:
            count = await self._database.write("receive", self._receive_some, left[:EVENTS_A_COMMIT])
            left = left[count:]
            if left and count < EVENTS_A_COMMIT:
                try:
                    await self._complete(others, left[0], budget)
                except (Forbidden, RemoteRefusal) as error:
                    # What comes after it has a state all the same, if somebody tells it.
                    event_id = left[0].event.event_id
                    _log.info("a missing event was left out", event_id=event_id, reason=error.message)
                left = left[1:]

    def _receive_some(self, txn: Transaction, items: Sequence[CheckedEvent]) -> int:
        """Judge events, up to the first one that lacks something; how many they are."""
        for count, item in enumerate(items):
            if not isinstance(receive(txn, self._persistence, item), Verdict):
                return count
        return len(items)

    def _servers(self, txn: Transaction, origin: str, event: Event) -> list[str]:
        room = rooms.find(txn, event.room_id)
        others = room_servers.in_room(txn, room.room_nid) if room is not None else []
        # First whoever made it: nobody else could have it refused here by telling another past than it had.
        return self._candidates([event.domain, origin, *others])

    def _candidates(self, servers: Sequence[str]) -> list[str]:
        return [name for name in dict.fromkeys(servers) if name != self._persistence.server_name][:MOST_SERVERS]

    async def _complete(self, others: _Others, item: CheckedEvent, budget: _Budget) -> Verdict:
        """Judge an event, with the state before it as others tell it if there is no other way."""
        bridge: StateIds | None = None
        has_asked = False
        while True:
            result = await self._database.write_to_room(
                item.event.room_id, "receive", receive, self._persistence, item, bridge=bridge
            )
            if isinstance(result, Verdict):
                return result
            if result.auth and has_asked:
                raise Forbidden("What the event rests on cannot be had.")
            budget.spend()
            if result.auth:
                has_asked = True
                await self._fetch_auth(others, item)
            else:
                bridge = await self._fetch_state(others, item)

    async def _fetch_auth(self, others: _Others, item: CheckedEvent) -> None:
        event = item.event

        async def ask(server: str) -> None:
            pdus = await self._client.event_auth(server, event.room_id, event.event_id)
            await self.store(item.rules, event.room_id, pdus, server)

        await self._ask(others, ask)

    async def _fetch_state(self, others: _Others, item: CheckedEvent) -> StateIds:
        event = item.event

        async def ask(server: str) -> StateIds:
            state, auth_chain = await self._client.state(server, event.room_id, event.event_id)
            return await self.store(item.rules, event.room_id, auth_chain, server, state=state)

        return await self._ask(others, ask)

    async def store(
        self,
        rules: RoomRules,
        room_id: str,
        pdus: Sequence[Pdu],
        server: str,
        *,
        state: Sequence[Pdu] = (),
    ) -> StateIds:
        """Check and store events without a place in history; those of them that are state, by slot.

        :param server: that they come from.
        :param state: likewise, those that make the state.
        """
        held = await self._checks.read_many(rules, room_id, state)
        read = await self._checks.read_many(rules, room_id, pdus) | held
        known = await self._database.read("known-events", events.known, list(read))
        unknown = [pair for event_id, pair in read.items() if event_id not in known]
        checked = await self._checks.check_many(rules, unknown, relayed_by=server)
        stored = await self._database.write_to_room(
            room_id, "store-outliers", self._store, room_id, checked, list(read)
        )
        return {
            event.state_slot: event_id
            for event_id, (event, _) in held.items()
            if event.is_state and stored.get(event_id) is Standing.ACCEPTED
        }

    def _store(
        self, txn: Transaction, room_id: str, checked: Sequence[CheckedEvent], all_ids: Sequence[str]
    ) -> Mapping[str, Standing]:
        room = rooms.find(txn, room_id)
        if room is None:
            raise Forbidden("This server is not in the room.")
        store_outliers(txn, room.room_nid, checked)
        return {event_id: item.standing for event_id, item in events.known(txn, all_ids).items()}

    async def _events_before(
        self, others: _Others, origin: str, checked: CheckedEvent, is_urgent: bool
    ) -> list[CheckedEvent]:
        """What is missing before an event, oldest first, as far back as we ask; nothing if nobody has it.

        :raises ServerUnreachable: nobody who answers has it, and it is not urgent.
        """
        room_id, maker = checked.event.room_id, checked.event.domain
        found = {checked.event.event_id: checked}
        size = 0
        for _ in range(MOST_ROUNDS):
            if len(found) > MOST_EVENTS or size > MOST_BYTES:
                break
            place = await self._database.read("before", self._look, room_id, found)
            if not place.latest:
                break

            async def ask(server: str, place: _Before = place) -> list[CheckedEvent]:
                if server in (maker, origin):
                    pdus = await self._client.missing_events(
                        server,
                        room_id,
                        earliest=place.earliest,
                        latest=place.latest,
                        limit=EVENTS_A_ROUND,
                        min_depth=place.depth,
                    )
                else:
                    # It may have what is missing, and not know yet what comes after that.
                    pdus = await self._client.backfill(server, room_id, place.missing, EVENTS_A_ROUND)
                return await self._new(checked.rules, room_id, pdus[:EVENTS_A_ROUND], place, found)

            try:
                more = await self._ask_whoever_has(others, ask)
            except ServerUnreachable as error:
                if not is_urgent:
                    raise
                _log.info("what is missing is done without", room=room_id, reason=error.reason)
                break
            if not more:
                _log.info("nobody has what is missing", room=room_id, event_id=checked.event.event_id)
                break
            found.update((item.event.event_id, item) for item in more)
            size += sum(len(item.pdu) for item in more)
        del found[checked.event.event_id]
        # What does not lead to the event was not asked for.
        return in_causal_order(leading_to(checked.event.prev_events, found))

    def _look(self, txn: Transaction, room_id: str, found: Mapping[str, CheckedEvent]) -> _Before:
        """What there is, and what is missing before some events."""
        earliest, entered_depth = rooms.what_is_here(txn, room_id)
        named = {prev for item in found.values() for prev in item.event.prev_events} - found.keys()
        missing = named - self._here(txn, named)
        latest = {
            event_id: item.event
            for event_id, item in found.items()
            # What was before we came is not asked for.
            if item.event.depth > entered_depth + 1 and not missing.isdisjoint(item.event.prev_events)
        }
        wanted = missing & {prev for event in latest.values() for prev in event.prev_events}
        most = EVENTS_A_ROUND
        return _Before(earliest[:most], list(latest)[:most], sorted(wanted)[:most], entered_depth + 1)

    async def _new(
        self,
        rules: RoomRules,
        room_id: str,
        pdus: Sequence[Pdu],
        place: _Before,
        found: Mapping[str, CheckedEvent],
    ) -> list[CheckedEvent]:
        """Those of some events that are neither here nor found yet, and that happened since we came."""
        read = await self._checks.read_many(rules, room_id, pdus)
        here = await self._database.read("here", self._here, list(read))
        new = [
            pair
            for event_id, pair in read.items()
            if event_id not in found and event_id not in here and pair[0].depth >= place.depth
        ]
        return await self._checks.ask_policy(await self._checks.check_many(rules, new))

    def _here(self, txn: Transaction, event_ids: Collection[str]) -> set[str]:
        """Those of some events that are here with a state."""
        known = events.known(txn, event_ids)
        return {event_id for event_id, item in known.items() if item.snapshot_after is not None}

    async def _ask_whoever_has(
        self, others: _Others, ask: Callable[[str], Awaitable[list[CheckedEvent]]]
    ) -> list[CheckedEvent]:
        """Ask one server after another, until one has something; nothing if none has.

        :raises ServerUnreachable: none has, and one could not be reached.
        """
        failure: ServerUnreachable | None = None
        for server in others.servers:
            try:
                answer = await _ask_one(others, server, ask)
            except (ServerUnreachable, RemoteRefusal) as error:
                if isinstance(error, ServerUnreachable):
                    failure = error
                continue
            if answer:
                return answer
        if failure is not None:
            raise failure
        return []

    async def _ask(self, others: _Others, ask: Callable[[str], Awaitable[Answer]]) -> Answer:
        """Ask one server after another, until one answers.

        :raises ServerUnreachable: none did, and one could not be reached: it may have what the others do not.
        :raises RemoteRefusal: all refused.
        """
        failure: ServerUnreachable | RemoteRefusal | None = None
        for server in others.servers:
            try:
                return await _ask_one(others, server, ask)
            except (ServerUnreachable, RemoteRefusal) as error:
                if failure is None or isinstance(error, ServerUnreachable):
                    failure = error
        raise failure or Forbidden("There is nobody to ask.")


async def _ask_one(others: _Others, server: str, ask: Callable[[str], Awaitable[Answer]]) -> Answer:
    """Ask a server, unless it gave no answer a moment ago.

    :raises ServerUnreachable: it gives none.
    :raises RemoteRefusal: it refuses.
    """
    if server in others.silent:
        raise others.silent[server]
    try:
        return await ask(server)
    except (ServerUnreachable, RemoteRefusal) as error:
        _log.info("a server did not tell", server=server, reason=error.reason)
        if isinstance(error, ServerUnreachable):
            others.silent[server] = error
        raise


def in_causal_order(found: Mapping[str, CheckedEvent]) -> list[CheckedEvent]:
    """Events in an order in which none comes before one that it follows; those in a circle are left out."""
    waits_for = {
        event_id: {prev for prev in item.event.prev_events if prev in found} for event_id, item in found.items()
    }
    ordered = []
    while waits_for:
        free = sorted(
            (event_id for event_id, prevs in waits_for.items() if not prevs),
            key=lambda event_id: (found[event_id].event.depth, event_id),
        )
        if not free:
            break
        ordered += [found[event_id] for event_id in free]
        for event_id in free:
            del waits_for[event_id]
        for prevs in waits_for.values():
            prevs.difference_update(free)
    return ordered


def leading_to(event_ids: Collection[str], checked: Mapping[str, CheckedEvent]) -> dict[str, CheckedEvent]:
    """Those of some events that are named, or come before one that is."""
    found: dict[str, CheckedEvent] = {}
    waiting = list(event_ids)
    while waiting:
        event_id = waiting.pop()
        item = checked.get(event_id)
        if item is not None and event_id not in found:
            found[event_id] = item
            waiting.extend(item.event.prev_events)
    return found
