"""Events that come after what follows them: they stand where they belong, and everybody is told of them once (FED-6).

A server hears of a room whose events come in whatever order a bad network brings them. Whatever lacks too much is
bridged by the state before it; what was missing comes later, by itself or because it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as HandMovedTime

from synapse_like.clock import ReactorClock
from synapse_like.handlers.backfill import Backfill
from synapse_like.handlers.event_checks import Lacking, Verdict
from synapse_like.handlers.event_reception import admit
from synapse_like.handlers.outliers import store_outliers
from synapse_like.handlers.room_locks import RoomLocks
from synapse_like.handlers.verification import EventVerification, Fault
from synapse_like.protocol.events import Event, Pdu
from synapse_like.protocol.room_versions import SPEC_2014, V6, V12, RoomRules
from synapse_like.protocol.state_resolution import StateIds
from synapse_like.protocol.wire_formats import to_pdu
from synapse_like.storage import events, gaps, rooms, timeline
from synapse_like.storage.bus import Bus
from synapse_like.storage.connections import Connection
from synapse_like.storage.events import Standing
from synapse_like.storage.transactions import Transaction
from tests.support.forking_rooms import CREATOR as ALICE
from tests.support.forking_rooms import Branch, ForkingRoom
from tests.support.generated_rooms import BOB
from tests.support.heard_rooms import SERVER, DirectDatabase, Listener, Trusting, checked

OURS = f"@ours:{SERVER}"

some_versions = pytest.mark.parametrize("rules", [SPEC_2014, V6, V12], ids=lambda rules: rules.name)


class Scene:
    """A room on three servers, of which ours hears badly.

    :ivar begin: its first events, which everybody has.
    :ivar later: what is said then, by two who do not always hear of each other at once; each after what it follows.
    """

    def __init__(self, connection: Connection, rules: RoomRules, random: Random, length: int = 30) -> None:
        self.rules = rules
        self.random = random
        branch = ForkingRoom(rules).begin()
        for user in (OURS, BOB):
            branch.member(user, "join")
        if not rules.creators_above_all:
            branch.levels(ALICE, {ALICE: 100, BOB: 50})
        self.room = branch.room
        self.room_id = branch.room_id
        self.begin = list(self.room.events.values())
        self.before: dict[str, StateIds] = {}
        self._talk(branch, length)
        self.later = list(self.room.events.values())[len(self.begin) :]
        self.server = Listener(connection, rules, self.room_id)
        self.server.hear(self.begin)
        self.connection = connection

    def _talk(self, branch: Branch, length: int) -> None:
        sides = {ALICE: branch.fork(), BOB: branch.fork()}
        for number in range(length):
            speaker = self.random.choice([ALICE, BOB])
            if self.random.random() < 0.3:
                sides[speaker] = sides[ALICE].merge(sides[BOB])
            side = sides[speaker]
            state = dict(side.state)
            said = side.say(speaker, "m.room.message", {"msgtype": "m.text", "body": str(number)}, None)
            self.before[said.event_id] = state

    def hear(self, event: Event, *, bridged: bool = False) -> Verdict | Lacking:
        """Have our server receive an event, with the state before it if too much is missing."""
        return self.connection.transact(self._hear, event, bridged)

    def _hear(self, txn: Transaction, event: Event, bridged: bool) -> Verdict | Lacking:
        room = rooms.head(txn, self.room_id)
        assert room is not None
        bridge = self.before[event.event_id] if bridged else None
        if bridge is not None:
            store_outliers(
                txn, room.room_nid, [checked(self.rules, self.room.events[name]) for name in bridge.values()]
            )
        return admit(txn, self.server.persistence, room, checked(self.rules, event), bridge=bridge)

    def look(self) -> tuple[list[str], list[str]]:
        """The IDs of what was said later: as the timeline has it, and as the stream of events has it."""
        return self.connection.transact(self._look)

    def _look(self, txn: Transaction) -> tuple[list[str], list[str]]:
        said = {event.event_id for event in self.later}
        room = rooms.find(txn, self.room_id)
        assert room is not None
        shown = timeline.page_forward(txn, room.room_nid, after=0, before_or_at=2**63 - 1, limit=1000)
        newest = events.current_position(txn)
        stream = timeline.since(txn, [room.room_nid], after=0, up_to=newest, limit=1000)
        in_timeline, in_stream = (
            [stored.event.event_id for stored in events.load(txn, nids) if stored.event.event_id in said]
            for nids in ([row[1] for row in shown], [row[2] for row in stream])
        )
        return in_timeline, in_stream

    def fetch(self, answers: Callable[[Sequence[str]], list[Pdu]]) -> None:
        """Have our server ask for what it has missed."""

        class Client:
            async def backfill(self, _server: str, _room_id: str, names: Sequence[str], _limit: int) -> list[Pdu]:
                return answers(names)

        database: Any = DirectDatabase(self.connection)
        client: Any = Client()
        checks: Any = Trusting()
        unused: Any = None
        backfill = Backfill(database, client, checks, unused, RoomLocks(), ReactorClock(HandMovedTime()), Bus())
        done: list[object] = []
        Deferred.fromCoroutine(backfill.fill_news()).addCallback(done.append)
        assert done == [None]

    def faults(self) -> list[Fault]:
        """What is wrong with the states of the events, and with the newest of them; they are not signed."""
        checked = self.connection.transact(EventVerification("here", {}).check, 0, 10_000)
        return [fault for fault in checked.faults if "state" in fault.sentence or "newest" in fault.sentence]

    def some_before(self, names: Sequence[str]) -> list[Pdu]:
        """Some events, and a few of those before them."""
        found: list[Event] = []
        waiting = [self.room.events[name] for name in names]
        most = self.random.randrange(1, 8)
        while waiting and len(found) < most:
            waiting.sort(key=lambda event: event.depth)
            event = waiting.pop()
            if event not in found:
                found.append(event)
                waiting += [self.room.events[name] for name in event.prev_events]
        return [to_pdu(self.rules, event) for event in found]

    def is_ready(self, event: Event, heard: set[str]) -> bool:
        return all(prev in heard for prev in event.prev_events)


def assert_in_causal_order(scene: Scene, order: Sequence[str]) -> None:
    places = {event_id: number for number, event_id in enumerate(order)}
    for event_id in order:
        event = scene.room.events[event_id]
        for prev in event.prev_events:
            if prev in places:
                assert places[prev] < places[event.event_id], f"{event.event_id} stands before what it follows"


@some_versions
@pytest.mark.parametrize("seed", range(5))
def test_what_comes_by_itself_stands_before_what_follows_it(
    connection: Connection, rules: RoomRules, seed: int
) -> None:
    scene = Scene(connection, rules, Random(seed))
    heard = {event.event_id for event in scene.begin}
    left = list(scene.later)
    while left:
        ready = [event for event in left if scene.is_ready(event, heard)]
        early = [event for event in left if event not in ready]
        bridged = bool(early) and scene.random.random() < 0.15
        event = scene.random.choice(early) if bridged else ready[0]
        result = scene.hear(event, bridged=bridged)
        assert isinstance(result, Verdict)
        assert result.standing is Standing.ACCEPTED
        heard.add(event.event_id)
        left.remove(event)
        if scene.random.random() < 0.2:
            connection.caches.clear()
    timeline, stream = scene.look()
    assert sorted(timeline) == sorted(stream) == sorted(event.event_id for event in scene.later)
    assert_in_causal_order(scene, timeline)
    assert scene.faults() == []


@some_versions
@pytest.mark.parametrize("seed", range(5))
def test_what_is_asked_for_and_what_comes_by_itself_fit_together(
    connection: Connection, rules: RoomRules, seed: int
) -> None:
    scene = Scene(connection, rules, Random(seed))
    # The newest comes first, and then the rest from its beginning, while our server asks from its end.
    *rest, last = scene.later
    assert isinstance(scene.hear(last, bridged=True), Verdict)
    heard = {event.event_id for event in scene.begin}
    for event in rest[: scene.random.randrange(len(rest))]:
        assert scene.is_ready(event, heard)
        assert isinstance(scene.hear(event), Verdict)
        heard.add(event.event_id)
    scene.fetch(scene.some_before)
    expected = sorted(
        event.event_id for event in scene.later if event.event_id in heard or leads_to(scene, event, last)
    )
    timeline, stream = scene.look()
    assert sorted(timeline) == sorted(stream) == expected
    assert_in_causal_order(scene, timeline)
    assert scene.faults() == []


def test_event_that_came_in_time_and_has_no_state_is_a_fault(connection: Connection) -> None:
    scene = Scene(connection, SPEC_2014, Random(1))
    event = scene.later[0]
    scene.hear(event)
    assert scene.faults() == []
    change = "UPDATE events SET snapshot_before = NULL, snapshot_after = NULL WHERE event_id = ?"
    connection.transact(lambda txn: txn.execute(change, (event.event_id,)).rowcount)
    assert scene.faults() == [Fault(event.event_id, "it is shown, and the state at it is not known")]


def leads_to(scene: Scene, event: Event, last: Event) -> bool:
    """Does an event follow another, be it over several?"""
    waiting = [last]
    while waiting:
        following = waiting.pop()
        if following is event:
            return True
        waiting += [scene.room.events[name] for name in following.prev_events]
    return False


@some_versions
def test_what_nobody_has_is_asked_for_once(connection: Connection, rules: RoomRules) -> None:
    scene = Scene(connection, rules, Random(1))
    scene.hear(scene.later[-1], bridged=True)
    asked: list[Sequence[str]] = []

    def nothing(names: Sequence[str]) -> list[Pdu]:
        asked.append(names)
        return []

    scene.fetch(nothing)
    assert asked
    assert connection.transact(gaps.rooms_with_news) == []


@some_versions
def test_state_that_holds_no_longer_is_read_back_and_not_told(connection: Connection, rules: RoomRules) -> None:
    """Whoever is told of it would take it for the state of the room."""
    scene = Scene(connection, rules, Random(1), length=1)
    branch = scene.room.events[scene.later[-1].event_id]
    side = Branch(scene.room, scene.room_id, (branch.event_id,), dict(scene.before[branch.event_id]), branch.depth)
    scene.hear(branch)
    old = side.say(ALICE, "m.room.topic", {"topic": "old"})
    new = side.say(ALICE, "m.room.topic", {"topic": "new"})
    scene.before[new.event_id] = {**scene.before[branch.event_id], old.state_slot: old.event_id}
    scene.later += [old, new]
    scene.hear(new, bridged=True)
    scene.fetch(scene.some_before)
    timeline, stream = scene.look()
    assert timeline == [branch.event_id, old.event_id, new.event_id]
    assert stream == [branch.event_id, new.event_id]
