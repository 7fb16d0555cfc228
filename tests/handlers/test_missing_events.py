"""Fetching what an event lacks: whom we ask, how much for one event, and what is believed (FED-6, SEC-1, SEC-3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from synapse_like.federation.errors import ServerUnreachable
from synapse_like.handlers.disclosure import Disclosure
from synapse_like.handlers.event_checks import Lacking, Verdict
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.handlers.missing_events import MOST_FETCHES, MissingEvents
from synapse_like.protocol.events import Event, EventDraft, Pdu
from synapse_like.protocol.room_versions import SPEC_2014, V1, V6, V12, RoomRules
from synapse_like.protocol.wire_formats import to_pdu
from synapse_like.storage import gaps, rooms
from synapse_like.storage.connections import Connection
from synapse_like.storage.events import Standing
from synapse_like.storage.transactions import Transaction
from tests.support.forking_rooms import CREATOR as ALICE
from tests.support.forking_rooms import Branch, ForkingRoom
from tests.support.generated_rooms import BOB
from tests.support.heard_rooms import SERVER, DirectDatabase, Listener, Trusting, checked

OURS = f"@ours:{SERVER}"
EVE = "@eve:e.example"

some_versions = pytest.mark.parametrize("rules", [SPEC_2014, V1, V6, V12], ids=lambda rules: rules.name)


class Others:
    """The other servers, all of which tell the same, but for those that are silent or have nothing."""

    def __init__(self, branch: Branch) -> None:
        self._branch = branch
        self.before: list[Event] = []
        self.silent: set[str] = set()
        self.ignorant: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.depths: list[int] = []

    def _told(self, server: str, what: str) -> bool:
        self.asked.append((server, what))
        if server in self.silent:
            raise ServerUnreachable(server, "silent")
        return server not in self.ignorant

    def _pdus(self, told: Sequence[Event]) -> list[Pdu]:
        return [to_pdu(self._branch.room.rules, event) for event in told]

    async def missing_events(self, server: str, *_: object, min_depth: int, **_more: object) -> list[Pdu]:
        self.depths.append(min_depth)
        return self._pdus(self.before) if self._told(server, "missing_events") else []

    async def backfill(self, server: str, *_: object) -> list[Pdu]:
        return self._pdus(self.before) if self._told(server, "backfill") else []

    async def state(self, server: str, *_args: object) -> tuple[list[Pdu], list[Pdu]]:
        self._told(server, "state")
        return self._pdus([self._branch.room.events[event_id] for event_id in self._branch.state.values()]), []


class Scene:
    """This server is in a room; Eve, who is in it, too, sends something that lacks what was before it."""

    def __init__(self, connection: Connection, rules: RoomRules) -> None:
        self.branch = ForkingRoom(rules).begin()
        for user in (OURS, BOB, EVE):
            self.branch.member(user, "join")
        if not rules.creators_above_all:
            self.branch.levels(ALICE, {ALICE: 100, EVE: 50, BOB: 50})
        self.server = Listener(connection, rules, self.branch.room_id)
        self.server.hear(self.branch.room.events.values())
        self.others = Others(self.branch)
        database: Any = DirectDatabase(connection)
        client: Any = self.others
        checks: Any = Trusting()
        self.missing = MissingEvents(database, client, checks, EventPersistence(SERVER))

    def message(self, sender: str, *heads: str) -> Event:
        """A message that claims to follow what it likes."""
        content = {"msgtype": "m.text", "body": str(len(self.branch.room.events))}
        draft = EventDraft(self.branch.room_id, "m.room.message", sender, content)
        return self.branch.room.add(draft, self.branch.state, heads=heads, depth=self.branch.depth + 1, ts=1)

    def settle(self, origin: str, event: Event, *, is_urgent: bool = False) -> Verdict:
        item = checked(self.branch.room.rules, event)
        lacking = Lacking(event.prev_events, ())
        settled = Deferred.fromCoroutine(self.missing.settle(origin, item, lacking, is_urgent=is_urgent))
        results: list[Verdict | Failure] = []
        settled.addBoth(results.append)
        [result] = results
        if isinstance(result, Failure):
            result.raiseException()
        assert isinstance(result, Verdict)
        return result


@some_versions
def test_who_made_an_event_is_asked_first(connection: Connection, rules: RoomRules) -> None:
    """Whoever passes it on could tell another past, by which it would be refused here for ever."""
    scene = Scene(connection, rules)
    unknown = scene.message(BOB, *scene.branch.heads)
    scene.others.before = [unknown]
    event = scene.message(BOB, unknown.event_id)
    scene.settle("e.example", event)
    assert scene.others.asked == [("b.example", "missing_events")]


@some_versions
def test_who_has_nothing_is_not_the_last_one_asked(connection: Connection, rules: RoomRules) -> None:
    """FED-6: others may have what is missing, though they do not know yet what comes after it."""
    scene = Scene(connection, rules)
    unknown = scene.message(BOB, *scene.branch.heads)
    scene.others.before = [unknown]
    scene.others.ignorant = {"b.example"}
    event = scene.message(BOB, unknown.event_id)
    assert scene.settle("b.example", event).standing is Standing.ACCEPTED
    assert scene.others.asked == [("b.example", "missing_events"), ("a.example", "backfill")]
    assert scene.server.look().timeline >= {unknown.event_id, event.event_id}


@some_versions
def test_event_waits_for_whoever_may_have_what_is_missing(connection: Connection, rules: RoomRules) -> None:
    """FED-6: to bridge the gap at once would show the later before the earlier. But it does not wait for ever."""
    scene = Scene(connection, rules)
    unknown = scene.message(BOB, *scene.branch.heads)
    event = scene.message(BOB, unknown.event_id)
    scene.others.silent = {"b.example"}
    with pytest.raises(ServerUnreachable):
        scene.settle("b.example", event)
    assert event.event_id not in scene.server.look().standings
    assert scene.settle("b.example", event, is_urgent=True).standing is Standing.ACCEPTED


@some_versions
def test_what_was_before_we_came_is_not_fetched_as_news(connection: Connection, rules: RoomRules) -> None:
    """Nobody may be told of it as if it happened now, and nobody is asked for it."""
    scene = Scene(connection, rules)
    entered = scene.branch.depth

    def enter(txn: Transaction) -> None:
        room = rooms.head(txn, scene.branch.room_id)
        assert room is not None
        room.entered_depth = entered
        rooms.advance(txn, room, room.extremities, room.snapshot)

    connection.transact(enter)
    fork = scene.branch.fork()
    fork.depth = entered - 2
    [oldest, old] = [fork.say(BOB, "m.room.message", {"msgtype": "m.text", "body": body}, None) for body in "ab"]
    scene.others.before = [old, oldest]
    news = fork.say(BOB, "m.room.message", {"msgtype": "m.text", "body": "c"}, None)
    assert scene.settle("b.example", news).standing is Standing.ACCEPTED
    assert [what for _, what in scene.others.asked] == ["state"]
    newer = fork.say(BOB, "m.room.message", {"msgtype": "m.text", "body": "d"}, None)
    last = fork.say(BOB, "m.room.message", {"msgtype": "m.text", "body": "e"}, None)
    scene.others.before = [newer, old, oldest]
    assert scene.settle("b.example", last).standing is Standing.ACCEPTED
    assert scene.others.depths == [entered + 1]
    assert scene.server.look().standings.keys().isdisjoint([old.event_id, oldest.event_id])


@some_versions
def test_one_event_makes_us_fetch_few_states(connection: Connection, rules: RoomRules) -> None:
    """However many ends the past has that is told of it."""
    scene = Scene(connection, rules)
    unknown = scene.message(EVE, *scene.branch.heads)
    before = [scene.message(EVE, unknown.event_id) for _ in range(20)]
    scene.others.before = before
    event = scene.message(EVE, *(item.event_id for item in before))
    assert scene.settle("e.example", event).standing is Standing.ACCEPTED
    states = [what for _, what in scene.others.asked if what == "state"]
    assert len(states) <= MOST_FETCHES + 2


@some_versions
def test_what_was_not_asked_for_is_left_out(connection: Connection, rules: RoomRules) -> None:
    scene = Scene(connection, rules)
    before = scene.message(EVE, *scene.branch.heads)
    elsewhere = scene.message(EVE, *scene.branch.heads)
    scene.others.before = [elsewhere, before]
    event = scene.message(EVE, before.event_id)
    assert scene.settle("e.example", event).standing is Standing.ACCEPTED
    assert elsewhere.event_id not in scene.server.look().standings
    assert before.event_id in scene.server.look().timeline


@some_versions
def test_what_is_known_as_state_alone_is_missing_from_history(connection: Connection, rules: RoomRules) -> None:
    """FED-10: it came with the state by which a gap was bridged, and is fetched when somebody pages back."""
    scene = Scene(connection, rules)
    unknown = scene.branch.say(ALICE, "m.room.topic", {"topic": "missed"})
    event = scene.message(EVE, unknown.event_id)
    assert scene.settle("e.example", event).standing is Standing.ACCEPTED
    assert scene.server.look().standings[unknown.event_id] is Standing.ACCEPTED

    def look(txn: Transaction) -> gaps.Gap | None:
        room = rooms.find(txn, scene.branch.room_id)
        assert room is not None
        return gaps.newest(txn, room.room_nid, after=0, before_or_at=2**62)

    gap = connection.transact(look)
    assert gap is not None
    assert gap.missing == (unknown.event_id,)


@some_versions
def test_what_was_soft_failed_does_not_hide_what_was_before_it(connection: Connection, rules: RoomRules) -> None:
    """Who comes into the room later can get at all of its history; each event leads to those before it."""
    scene = Scene(connection, rules)
    late = scene.message(BOB, *scene.branch.heads)
    ban = scene.branch.member(ALICE, "ban", BOB)
    last = scene.message(EVE, ban.event_id, late.event_id)
    scene.server.hear([ban, late, last])
    assert scene.server.look().standings[late.event_id] is Standing.SOFT_FAILED
    unused: Any = None
    disclosure = Disclosure(unused, unused, unused, SERVER)

    def tell(txn: Transaction) -> int:
        return len(disclosure._backfill(txn, "a.example", scene.branch.room_id, [late.event_id], 100))

    assert connection.transact(tell) > 1
