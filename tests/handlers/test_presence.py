"""When who is told of whom (PRES-2, PRES-4, PRES-5); time is moved by hand."""

from __future__ import annotations

from collections.abc import Callable
from threading import Barrier
from typing import Any

import pytest
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import Clock as HandMovedTime

from synapse_like.clock import ReactorClock
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.notifier import Notifier, Watcher
from synapse_like.handlers.presence import CLOSED_SECONDS, Presence
from synapse_like.handlers.presence_federation import (
    ASK_AGAIN_SECONDS,
    INTEREST_SECONDS,
    MOST_AT_ONCE,
    NO_ANSWER_SECONDS,
    SILENT_SECONDS,
    PresenceFederation,
)
from synapse_like.handlers.streams import NO_ARRIVALS
from synapse_like.storage import presence, presence_lists
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database, Transaction
from synapse_like.storage.presence import PresenceRecorded
from synapse_like.storage.presence_lists import Entry
from tests.handlers.test_notifier import event_in, membership_of
from tests.support.threads import ThreadBridge

ROOM = "!room:here"
ALICE, BOB = "@alice:here", "@bob:here"
THERE = "@zoe:there"


def login(user_id: str, token_id: int = 1) -> Requester:
    return Requester(user_id=user_id, token_id=token_id, is_admin=False)


class Queues:
    """The queues for other servers, and what was put into them."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.failing: set[str] = set()

    async def send_edu(self, server: str, edu_type: str, content: dict[str, Any], **_: object) -> None:
        assert edu_type == "m.presence"
        self.sent.append((server, content))

    def is_left_alone(self, server: str) -> bool:
        return server in self.failing

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        sent, self.sent = self.sent, []
        return sent


class Scene:
    """Presence over a real database; `told` is each time that somebody was told, and of whom."""

    def __init__(self, database: Database, bus: Bus, bridge: ThreadBridge) -> None:
        self.time = HandMovedTime()
        self.time.advance(1_400_000_000)
        self.database = database
        self.bus = bus
        self.bridge = bridge
        self.queues = Queues()
        self.told: list[list[str]] = []
        self.watcher = Watcher(BOB, 0)
        self.watcher.rooms.add(ROOM)
        self.begin()

    def begin(self) -> None:
        """Begin another run of the server."""
        clock = ReactorClock(self.time)
        self.bus = Bus()
        self.database._bus = self.bus
        position = self.read(presence.current_position)
        notifier = Notifier(self.database, self.bus, clock, 10)
        self.people = Presence(self.database, notifier, self.bus, clock, "here", position)
        queues: Any = self.queues
        self.federation = PresenceFederation(self.database, self.people, queues, self.bus, clock, "here")
        self.bus.subscribe(PresenceRecorded, lambda news: self.told.append(sorted(news.user_ids)))

    # Doing something, and waiting for what comes of it.

    def read(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.result(self.database.read("test", function, *args))

    def write(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.result(self.database.write("test", function, *args, **kwargs))

    def result(self, deferred: Any) -> Any:
        found: list[Any] = []
        Deferred.fromCoroutine(_wait(deferred)).addCallback(found.append)
        self.bridge.pump(lambda: bool(found))
        return found[0]

    def passes(self, seconds: float = 1.01) -> None:
        """Let time pass, and everything come to rest."""
        self.time.advance(seconds)
        quiet = 0
        while quiet < 8:
            self.write(lambda txn: None)
            # Both reading threads at once, so that none of them is still busy with something else.
            barrier = Barrier(2)
            meet = [self.database.read("test", lambda txn, barrier=barrier: barrier.wait(10)) for _ in range(2)]
            self.result(DeferredList(meet))
            self.time.advance(0)
            quiet = 0 if self.people.is_telling else quiet + 1

    def comes(self, user_id: str, token_id: int = 1) -> None:
        self.people.opened(login(user_id, token_id))

    def goes(self, user_id: str, token_id: int = 1) -> None:
        self.people.closed(login(user_id, token_id))

    def choose(self, user_id: str, state: str) -> None:
        chosen = Deferred.fromCoroutine(
            self.people.choose(login(user_id), user_id, state, None, idle_ms=None, device_type=None)
        )
        self.passes()
        assert chosen.called

    def sweeps(self) -> None:
        self.result(self.people.sweep())

    def joins(self, user_id: str) -> None:
        """Have a person of whom something is known come into the room."""
        self.bus.publish(membership_of(user_id, "join", 11, ROOM))

    def news(self, after: int) -> tuple[int, list[tuple[str, str]]]:
        """What the one who looks is told."""
        position, events = self.result(self.people.news(self.watcher, after, NO_ARRIVALS))
        return position, [(event["content"]["user_id"], event["content"]["presence"]) for event in events]


async def _wait(deferred: Any) -> Any:
    return await deferred


@pytest.fixture
def scene(database: Database, bus: Bus, bridge: ThreadBridge) -> Scene:
    return Scene(database, bus, bridge)


# Coming and going.


def test_closed_stream_means_offline_after_a_while(scene: Scene) -> None:
    scene.comes(ALICE)
    scene.passes()
    scene.goes(ALICE)
    scene.passes(CLOSED_SECONDS - 2)
    scene.sweeps()
    scene.passes()
    assert scene.told == [[ALICE]]
    scene.passes(2)
    scene.sweeps()
    scene.passes()
    assert scene.told == [[ALICE], [ALICE]]
    assert scene.people.person(ALICE).told.state == "offline"


def test_who_polls_again_in_time_was_there_all_along(scene: Scene) -> None:
    scene.comes(ALICE)
    for _ in range(20):
        scene.goes(ALICE)
        scene.passes(CLOSED_SECONDS - 5)
        scene.sweeps()
        scene.comes(ALICE)
        scene.passes(5)
        scene.sweeps()
        scene.passes()
    assert scene.told == [[ALICE]]


def test_who_was_there_before_a_restart_has_a_while_to_come_back(scene: Scene) -> None:
    for user_id in (ALICE, BOB):
        scene.comes(user_id)
    scene.passes()
    scene.told.clear()
    scene.begin()
    scene.result(scene.people.start())
    scene.passes(CLOSED_SECONDS - 5)
    scene.comes(BOB)
    scene.sweeps()
    scene.passes()
    assert scene.told == []
    scene.passes(10)
    scene.sweeps()
    scene.passes()
    assert scene.told == [[ALICE]]
    assert scene.people.person(BOB).told.state == "online"
    assert [row.user_id for row in scene.read(presence.there)] == [BOB]


def test_what_one_says_after_a_restart_counts_at_once(scene: Scene) -> None:
    """It counted only half a minute later if one had been more available before."""
    scene.choose(ALICE, "free_for_chat")
    scene.begin()
    scene.result(scene.people.start())
    scene.passes()
    scene.choose(ALICE, "unavailable")
    assert scene.people.person(ALICE).told.state == "unavailable"


def test_changes_are_told_together_and_at_most_once_a_second(scene: Scene) -> None:
    """500 users who come at once are one transaction."""
    users = [f"@user{number:03}:here" for number in range(500)]
    scene.comes(ALICE)
    scene.passes(0)
    assert scene.told == [[ALICE]]
    for user_id in users:
        scene.comes(user_id)
    scene.passes(0.5)
    assert scene.told == [[ALICE]]
    scene.passes(0.6)
    assert scene.told == [[ALICE], users]


def test_change_that_is_undone_at_once_is_not_told(scene: Scene) -> None:
    scene.comes(ALICE)
    scene.passes()
    scene.told.clear()
    person = scene.people.person(ALICE)
    person.choices["1"] = "unavailable"
    scene.people.changed(person)
    person.choices["1"] = "online"
    scene.passes()
    assert scene.told == []


def test_sending_asks_the_database_for_nothing(scene: Scene) -> None:
    scene.comes(ALICE)
    scene.passes()
    before = (scene.database.statistics.jobs, scene.database.statistics.reads)
    for position in range(20, 120):
        scene.bus.publish(event_in(ROOM, position, sender=ALICE))
        scene.bus.publish(event_in(ROOM, position, sender=BOB))
    scene.time.advance(5)
    assert (scene.database.statistics.jobs, scene.database.statistics.reads) == before


# Seeing.


def test_each_change_is_told_once(scene: Scene) -> None:
    scene.comes(ALICE)
    scene.joins(ALICE)
    scene.passes()
    position, told = scene.news(0)
    assert told == [(ALICE, "online")]
    assert scene.news(position) == (position, [])


def test_who_shares_no_room_is_not_told(scene: Scene) -> None:
    scene.comes(ALICE)
    scene.passes()
    assert scene.news(0)[1] == []
    scene.joins(ALICE)
    assert scene.news(0)[1] == [(ALICE, "online")]
    scene.bus.publish(membership_of(ALICE, "leave", 12, ROOM))
    assert scene.news(0)[1] == []


def test_observer_is_told_until_that_is_taken_back(scene: Scene) -> None:
    scene.write(presence_lists.put, Entry(BOB, ALICE, is_accepted=True))
    scene.comes(ALICE)
    scene.passes()
    assert scene.news(0)[1] == [(ALICE, "online")]
    scene.write(presence_lists.delete, BOB, ALICE)
    assert scene.news(0)[1] == []


def test_what_was_before_a_restart_is_told_from_the_tables(scene: Scene) -> None:
    scene.write(presence_lists.put, Entry(BOB, ALICE, is_accepted=True))
    scene.comes(ALICE)
    scene.passes()
    position, _ = scene.news(0)
    scene.goes(ALICE)
    scene.passes(CLOSED_SECONDS + 1)
    scene.sweeps()
    scene.passes()
    scene.begin()
    end, told = scene.news(position)
    assert told == [(ALICE, "offline")]
    assert scene.news(end)[1] == []


# Other servers.


def with_alice_seen_from_there(scene: Scene) -> None:
    scene.write(presence_lists.put, Entry(THERE, ALICE, is_accepted=True))


def with_zoe_seen_by_alice(scene: Scene) -> None:
    scene.write(presence_lists.put, Entry(ALICE, THERE, is_accepted=True))
    scene.comes(ALICE)
    scene.passes()


def push(scene: Scene, origin: str = "there", **item: object) -> None:
    scene.result(scene.federation.receive(origin, {"push": [{"user_id": THERE, "presence": "online", **item}]}))
    scene.passes()


def test_poll_is_answered_at_once_and_changes_follow(scene: Scene) -> None:
    with_alice_seen_from_there(scene)
    scene.result(scene.federation.receive("there", {"poll": [ALICE]}))
    assert scene.queues.take() == [("there", {"push": [{"user_id": ALICE, "presence": "offline"}]})]
    scene.comes(ALICE)
    scene.passes()
    [(server, content)] = scene.queues.take()
    assert (server, content["push"][0]["presence"]) == ("there", "online")


def test_servers_are_told_only_of_whom_their_users_may_see(scene: Scene) -> None:
    with_alice_seen_from_there(scene)
    scene.write(presence_lists.put, Entry(THERE, BOB, is_accepted=False))
    scene.result(scene.federation.receive("there", {"poll": [BOB]}))
    scene.result(scene.federation.receive("elsewhere", {"poll": [ALICE, "@x:elsewhere", 5, ""]}))
    scene.comes(ALICE)
    scene.comes(BOB)
    scene.passes()
    assert [item for _, content in scene.queues.take() for item in content.get("push", [])] == []


def test_interest_lapses(scene: Scene) -> None:
    with_alice_seen_from_there(scene)
    scene.result(scene.federation.receive("there", {"poll": [ALICE]}))
    scene.queues.take()
    scene.passes(INTEREST_SECONDS + 1)
    scene.comes(ALICE)
    scene.passes()
    assert scene.queues.take() == []


def test_unpoll_and_taking_back_end_interest(scene: Scene) -> None:
    with_alice_seen_from_there(scene)
    for end in (
        lambda: scene.result(scene.federation.receive("there", {"unpoll": [ALICE]})),
        lambda: scene.write(presence_lists.delete, THERE, ALICE),
    ):
        scene.result(scene.federation.receive("there", {"poll": [ALICE]}))
        scene.queues.take()
        end()
        scene.comes(ALICE, 2)
        scene.people.person(ALICE).status_msg = f"{end}"
        scene.people.changed(scene.people.person(ALICE))
        scene.passes()
        assert scene.queues.take() == []


def test_what_changes_together_goes_together(scene: Scene) -> None:
    users = [f"@user{number:03}:here" for number in range(MOST_AT_ONCE + 50)]

    def befriend(txn: Transaction) -> None:
        for user_id in users:
            presence_lists.put(txn, Entry(THERE, user_id, is_accepted=True))

    scene.write(befriend)
    scene.result(scene.federation.receive("there", {"poll": users}))
    scene.queues.take()
    for user_id in users:
        scene.comes(user_id)
    scene.passes()
    assert [len(content["push"]) for _, content in scene.queues.take()] == [MOST_AT_ONCE, 50]


def test_we_ask_for_those_whom_our_users_may_see(scene: Scene) -> None:
    with_zoe_seen_by_alice(scene)
    assert scene.queues.take() == [("there", {"poll": [THERE]})]
    push(scene)
    assert scene.people.person(THERE).told.state == "online"


def test_unanswered_poll_is_repeated_less_and_less_often(scene: Scene) -> None:
    with_zoe_seen_by_alice(scene)
    polls = []
    for second in range(0, 300, 10):
        scene.passes(10)
        scene.result(scene.federation.sweep())
        polls += [second for _ in scene.queues.take()]
    assert 2 <= len(polls) - 1 <= 4
    assert polls[1] - polls[0] >= NO_ANSWER_SECONDS - 10


def test_users_of_a_silent_server_do_not_stay_online_for_ever(scene: Scene) -> None:
    with_zoe_seen_by_alice(scene)
    push(scene)
    scene.passes(SILENT_SECONDS - 10)
    scene.result(scene.federation.sweep())
    scene.passes()
    assert scene.people.person(THERE).told.state == "online"
    scene.passes(20)
    scene.result(scene.federation.sweep())
    scene.passes()
    assert scene.people.person(THERE).told.state == "offline"


def test_we_ask_again_before_our_interest_lapses(scene: Scene) -> None:
    with_zoe_seen_by_alice(scene)
    push(scene)
    scene.queues.take()
    scene.passes(ASK_AGAIN_SECONDS + 1)
    scene.result(scene.federation.sweep())
    assert ("there", {"poll": [THERE]}) in scene.queues.take()
    assert min(INTEREST_SECONDS, SILENT_SECONDS) > ASK_AGAIN_SECONDS


def test_whom_nobody_wants_to_see_is_unpolled(scene: Scene) -> None:
    with_zoe_seen_by_alice(scene)
    push(scene)
    scene.queues.take()
    scene.write(presence_lists.delete, ALICE, THERE)
    scene.passes(ASK_AGAIN_SECONDS + 1)
    scene.result(scene.federation.sweep())
    assert scene.queues.take() == [("there", {"unpoll": [THERE]})]


def test_servers_speak_for_their_own_users_and_only_when_asked(scene: Scene) -> None:
    push(scene)
    assert scene.people.known(THERE) is None, "nobody asked"
    with_zoe_seen_by_alice(scene)
    push(scene, "elsewhere")
    push(scene, user_id=ALICE, presence="offline")
    push(scene, presence="asleep")
    push(scene, presence=5)
    scene.result(scene.federation.receive("there", {"push": [5, None, {}], "poll": 7, "unpoll": {}}))
    assert scene.people.person(ALICE).told.state == "online"
    assert scene.people.known(THERE) is None


def test_hidden_of_another_server_is_offline(scene: Scene) -> None:
    with_zoe_seen_by_alice(scene)
    push(scene, presence="hidden")
    assert scene.people.known(THERE) is None or scene.people.person(THERE).told.state == "offline"


def test_server_that_could_not_be_reached_is_told_later_how_it_stands(scene: Scene) -> None:
    with_alice_seen_from_there(scene)
    scene.result(scene.federation.receive("there", {"poll": [ALICE]}))
    scene.queues.take()
    scene.queues.failing.add("there")
    scene.comes(ALICE)
    scene.passes()
    scene.result(scene.federation.sweep())
    assert scene.queues.take() == []
    scene.queues.failing.clear()
    scene.result(scene.federation.sweep())
    [(server, content)] = scene.queues.take()
    assert (server, content["push"][0]["presence"]) == ("there", "online")
