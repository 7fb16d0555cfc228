"""Who is woken by what, and what can be told from memory (EVS-1, EVS-2)."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as HandMovedTime

from synapse_like.clock import ReactorClock
from synapse_like.handlers.event_stream import sees
from synapse_like.handlers.notifier import IDLE_SECONDS, MOST_RECENT, Notifier, Watcher, visible_from_memory
from synapse_like.protocol.events import Event
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.event_news import EventPersisted, EventRedacted
from synapse_like.storage.events import GAP, StoredEvent
from synapse_like.storage.membership import MembershipChange
from synapse_like.storage.news import CommitInDoubt
from synapse_like.storage.transactions import Transaction
from tests.support.threads import ThreadBridge

ALICE = "@alice:here"
ROOM = "!room:here"


def event_in(room_id: str, position: int, **fields: Any) -> EventPersisted:
    event = Event(
        **{
            "event_id": f"${position}:here",
            "room_id": room_id,
            "type": "m.room.message",
            "sender": "@bob:here",
            "content": {},
            "origin_server_ts": 0,
            "depth": position,
            "prev_events": (),
            "auth_events": (),
            **fields,
        }
    )
    memberships = {event.state_key: event.content["membership"]} if event.state_key else {}
    return EventPersisted(room_id, position, StoredEvent(position, 1, position * GAP, event), memberships)


def membership_of(user_id: str, membership: str, position: int, room_id: str = ROOM) -> EventPersisted:
    return event_in(room_id, position, type="m.room.member", state_key=user_id, content={"membership": membership})


class Scene:
    """A notifier over an empty database, with time and threads moved by hand."""

    def __init__(self, database: Database, bus: Bus, bridge: ThreadBridge) -> None:
        self.time = HandMovedTime()
        self.bus = bus
        self.bridge = bridge
        self.notifier = Notifier(database, bus, ReactorClock(self.time), position=10)

    def watch(self, user_id: str = ALICE) -> Watcher:
        found: list[Watcher] = []
        Deferred.fromCoroutine(self.notifier.watch(user_id)).addCallback(found.append)
        self.bridge.pump(lambda: bool(found))
        return found[0]

    def happens(self, *news: EventPersisted) -> None:
        for item in news:
            self.bus.publish(item)
        self.time.advance(0)


@pytest.fixture
def scene(database: Database, bus: Bus, bridge: ThreadBridge) -> Scene:
    return Scene(database, bus, bridge)


def test_news_of_one_commit_wakes_a_waiting_poll_once(scene: Scene) -> None:
    watcher = scene.watch()
    scene.happens(membership_of(ALICE, "join", 11))
    woken: list[int] = []
    watcher.wait().addCallback(lambda _: woken.append(watcher.newest))
    scene.happens(event_in(ROOM, 12), event_in(ROOM, 13))
    assert woken == [13]


def test_nobody_is_woken_by_rooms_they_are_not_in(scene: Scene) -> None:
    watcher = scene.watch()
    woken: list[None] = []
    watcher.wait().addCallback(woken.append)
    scene.happens(event_in("!other:here", 11), membership_of("@carol:here", "join", 12))
    assert (woken, watcher.newest) == ([], 10)
    scene.happens(membership_of(ALICE, "invite", 13))
    assert woken == [None]


def test_a_poll_that_is_cancelled_is_forgotten(scene: Scene) -> None:
    watcher = scene.watch()
    waiting = watcher.wait()
    waiting.addErrback(lambda failure: None)
    waiting.cancel()
    assert not watcher.is_waiting


def test_memory_tells_what_happened_in_the_rooms_one_is_in(scene: Scene) -> None:
    watcher = scene.watch()
    scene.happens(membership_of(ALICE, "join", 11), event_in(ROOM, 12), event_in("!other:here", 13))
    found = visible_from_memory(watcher, 11, scene.notifier.recent)
    assert found is not None
    assert [stored.position for stored in found] == [12]


def test_memory_alone_does_not_tell_across_a_change_of_ones_own_membership(scene: Scene) -> None:
    watcher = scene.watch()
    scene.happens(membership_of(ALICE, "join", 11), event_in(ROOM, 12))
    assert visible_from_memory(watcher, 10, scene.notifier.recent) is None


def test_memory_is_bounded_and_says_where_it_begins(scene: Scene) -> None:
    watcher = scene.watch()
    scene.happens(membership_of(ALICE, "join", 11))
    scene.happens(*(event_in(ROOM, 12 + n) for n in range(MOST_RECENT + 5)))
    assert visible_from_memory(watcher, 15, scene.notifier.recent) is None
    found = visible_from_memory(watcher, 16 + 10, scene.notifier.recent)
    assert found is not None
    assert found[0].position == 27


def test_a_redaction_empties_the_memory(scene: Scene) -> None:
    watcher = scene.watch()
    scene.happens(membership_of(ALICE, "join", 11), event_in(ROOM, 12), event_in(ROOM, 13))
    scene.bus.publish(EventRedacted(12))
    assert visible_from_memory(watcher, 11, scene.notifier.recent) is None
    assert visible_from_memory(watcher, 13, scene.notifier.recent) == []


def test_a_position_read_before_it_was_announced_is_waited_for(scene: Scene) -> None:
    """Otherwise a client would be given a token that the next request refuses as made up."""
    caught_up: list[None] = []
    Deferred.fromCoroutine(scene.notifier.catch_up(12)).addCallback(caught_up.append)
    scene.happens(event_in(ROOM, 11))
    assert caught_up == []
    scene.happens(event_in(ROOM, 12))
    assert caught_up == [None]


def test_users_who_no_longer_look_cost_nothing(scene: Scene) -> None:
    first = scene.watch()
    scene.happens(membership_of(ALICE, "join", 11))
    scene.time.advance(IDLE_SECONDS / 2)
    scene.notifier.drop_idle()
    assert scene.watch() is first
    scene.time.advance(IDLE_SECONDS + 1)
    scene.notifier.drop_idle()
    second = scene.watch()
    assert second is not first
    assert second.rooms == set(), "as the database has it, which knows of no join"


def test_who_waits_is_never_dropped(scene: Scene) -> None:
    watcher = scene.watch()
    watcher.wait()
    scene.time.advance(IDLE_SECONDS * 2)
    scene.notifier.drop_idle()
    assert scene.watch() is watcher


def test_after_a_commit_in_doubt_the_stream_is_read_again(scene: Scene, database: Database) -> None:
    """What may have been committed without being announced must reach those who wait, and delay nobody."""
    watcher = scene.watch()
    woken: list[None] = []
    watcher.wait().addCallback(woken.append)
    caught_up: list[None] = []
    Deferred.fromCoroutine(scene.notifier.catch_up(12)).addCallback(caught_up.append)

    def commit_unannounced(txn: Transaction) -> None:
        txn.execute("UPDATE stream_positions SET position = 12 WHERE stream = 'events'")

    written: list[None] = []
    database.write("unannounced", commit_unannounced).addCallback(written.append)
    scene.bridge.pump(lambda: bool(written))
    assert (woken, caught_up) == ([], [])
    scene.bus.publish(CommitInDoubt())
    scene.bridge.pump(lambda: bool(woken))
    assert caught_up == [None]
    assert scene.notifier.position == 12
    again = scene.watch()
    assert again is not watcher
    assert visible_from_memory(again, 10, scene.notifier.recent) is None, "the database must be asked"


@pytest.mark.parametrize(
    ("position", "seen"),
    [(1, False), (2, True), (3, False), (4, True), (5, True), (6, True), (7, False), (8, True), (9, True)],
)
def test_the_stream_shows_what_happens_while_one_is_in(position: int, *, seen: bool) -> None:
    """EVS-2: the invite at 2, the join at 4, being kicked at 6, the ban at 8 and unban at 9 are one's own."""
    memberships = {2: "invite", 4: "join", 6: "leave", 8: "ban", 9: "leave"}
    history = [MembershipChange(at, 1, at, now) for at, now in memberships.items()]
    assert sees(history, position) is seen
