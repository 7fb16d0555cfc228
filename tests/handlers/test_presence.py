"""When who is told of whom (PRES-2, PRES-4, PRES-5); time is moved by hand."""

from __future__ import annotations

from collections.abc import Callable
from threading import Barrier
from typing import Any

import orjson
import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import Clock as HandMovedTime

from synapse_like.clock import ReactorClock
from synapse_like.federation.lots import SenderLost, lot_of
from synapse_like.federation.sending import PassingEdusLost
from synapse_like.handlers import presence_federation
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.notifier import Notifier, Watcher
from synapse_like.handlers.presence import Presence
from synapse_like.handlers.presence_federation import (
    ASK_AGAIN_SECONDS,
    INTEREST_SECONDS,
    MOST_AT_ONCE,
    MOST_NAMED,
    NO_ANSWER_SECONDS,
    SILENT_SECONDS,
    PresenceFederation,
)
from synapse_like.handlers.presence_keeping import CLOSED_SECONDS, PresenceKeeper
from synapse_like.handlers.presence_persons import Persons
from synapse_like.handlers.presence_states import LONGEST_TEXT
from synapse_like.handlers.streams import NO_ARRIVALS
from synapse_like.storage import accounts, presence, presence_lists, profiles
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.presence import PresenceRecorded
from synapse_like.storage.presence_lists import Entry, ListChanged
from synapse_like.storage.profiles import ProfileField
from synapse_like.storage.transactions import Transaction
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
        self.persons = Persons(self.database, notifier, self.bus, clock, "here", position)
        self.persons.keeps = True
        self.keeper = PresenceKeeper(self.database, self.persons, self.bus, clock, "here")
        self.presence = Presence(self.database, self.persons, notifier, clock)
        queues: Any = self.queues
        self.federation = PresenceFederation(self.database, self.persons, self.keeper, queues, self.bus, clock, "here")
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
            quiet = 0 if self.keeper.is_telling else quiet + 1

    def comes(self, user_id: str, token_id: int = 1) -> None:
        self.keeper.opened(login(user_id, token_id))

    def goes(self, user_id: str, token_id: int = 1) -> None:
        self.keeper.closed(login(user_id, token_id))

    def choose(self, user_id: str, state: str) -> None:
        chosen = Deferred.fromCoroutine(self.keeper.choose(user_id, 1, state, None, idle_ms=None, device_type=None))
        self.passes()
        assert chosen.called

    def sweeps(self) -> None:
        self.result(self.keeper.sweep())

    def joins(self, user_id: str, room_id: str = ROOM) -> None:
        """Have a person of whom something is known come into the room."""
        self.bus.publish(membership_of(user_id, "join", 11, room_id))

    def leaves(self, user_id: str, room_id: str = ROOM) -> None:
        self.bus.publish(membership_of(user_id, "leave", 11, room_id))

    def silently(self, function: Callable[..., Any], *args: Any) -> None:
        """Write something that is not announced yet."""
        bus, self.database._bus = self.database._bus, Bus()
        self.write(function, *args)
        self.database._bus = bus

    def interest(self) -> list[tuple[str, str]]:
        """Who is to be told of whom, as the tables say."""
        return [tuple(row) for row in self.read(lambda txn: txn.all("SELECT server, user_id FROM presence_interest"))]

    def news(self, after: int) -> tuple[int, list[tuple[str, str]]]:
        """What the one who looks is told."""
        position, events = self.events(after)
        return position, [(event["content"]["user_id"], event["content"]["presence"]) for event in events]

    def events(self, after: int) -> tuple[int, list[dict[str, Any]]]:
        """The same as a client sees it."""
        position, events = self.result(self.presence.news(self.watcher, after, NO_ARRIVALS))
        return position, orjson.loads(orjson.dumps(list(events)))


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
    assert scene.persons.person(ALICE).told.state == "offline"


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
    scene.result(scene.keeper.keep())
    scene.passes(CLOSED_SECONDS - 5)
    scene.comes(BOB)
    scene.sweeps()
    scene.passes()
    assert scene.told == []
    scene.passes(10)
    scene.sweeps()
    scene.passes()
    assert scene.told == [[ALICE]]
    assert scene.persons.person(BOB).told.state == "online"
    assert [row.user_id for row in scene.read(presence.there)] == [BOB]


def test_what_one_says_after_a_restart_counts_at_once(scene: Scene) -> None:
    """It counted only half a minute later if one had been more available before."""
    scene.choose(ALICE, "free_for_chat")
    scene.begin()
    scene.result(scene.keeper.keep())
    scene.passes()
    scene.choose(ALICE, "unavailable")
    assert scene.persons.person(ALICE).told.state == "unavailable"


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
    person = scene.persons.person(ALICE)
    person.choices["1"] = "unavailable"
    scene.keeper.changed(person)
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
        scene.persons.person(ALICE).status_msg = f"{end}"
        scene.keeper.changed(scene.persons.person(ALICE))
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
    assert scene.persons.person(THERE).told.state == "online"


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
    assert scene.persons.person(THERE).told.state == "online"
    scene.passes(20)
    scene.result(scene.federation.sweep())
    scene.passes()
    assert scene.persons.person(THERE).told.state == "offline"


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
    assert scene.persons.known(THERE) is None, "nobody asked"
    with_zoe_seen_by_alice(scene)
    push(scene, "elsewhere")
    push(scene, user_id=ALICE, presence="offline")
    push(scene, presence="asleep")
    push(scene, presence=5)
    scene.result(scene.federation.receive("there", {"push": [5, None, {}], "poll": 7, "unpoll": {}}))
    assert scene.persons.person(ALICE).told.state == "online"
    assert scene.persons.known(THERE) is None


def test_hidden_of_another_server_is_offline(scene: Scene) -> None:
    with_zoe_seen_by_alice(scene)
    push(scene, presence="hidden")
    assert scene.persons.known(THERE) is None or scene.persons.person(THERE).told.state == "offline"


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


def test_who_may_not_be_seen_any_more_is_not_told_of_late(scene: Scene) -> None:
    """A server that could not be reached was told of what it had missed, whether it still might know it or not."""
    with_alice_seen_from_there(scene)
    scene.result(scene.federation.receive("there", {"poll": [ALICE]}))
    scene.queues.take()
    scene.queues.failing.add("there")
    scene.comes(ALICE)
    scene.passes()
    scene.write(presence_lists.delete, THERE, ALICE)
    scene.queues.failing.clear()
    scene.result(scene.federation.sweep())
    assert scene.queues.take() == []


def test_what_was_lost_on_the_way_is_said_and_asked_again(scene: Scene) -> None:
    """After an outage of more than a minute, each stood to the other as before it, for up to twenty minutes."""
    with_alice_seen_from_there(scene)
    with_zoe_seen_by_alice(scene)
    scene.result(scene.federation.receive("there", {"poll": [ALICE]}))
    push(scene)
    scene.queues.take()
    scene.queues.failing.add("there")
    scene.bus.publish(PassingEdusLost("there"))
    scene.result(scene.federation.sweep())
    assert scene.queues.take() == []
    scene.queues.failing.clear()
    scene.result(scene.federation.sweep())
    (_, told), (_, asked) = scene.queues.take()
    assert [item["user_id"] for item in told["push"]] == [ALICE]
    assert asked == {"poll": [THERE]}
    scene.result(scene.federation.sweep())
    assert scene.queues.take() == [], "once"


def test_what_a_process_that_died_had_to_say_is_said_and_asked_again(scene: Scene) -> None:
    """It was in the memory of the process that sends to some servers, and of no other."""
    with_alice_seen_from_there(scene)
    with_zoe_seen_by_alice(scene)
    scene.result(scene.federation.receive("there", {"poll": [ALICE]}))
    push(scene)
    scene.queues.take()
    scene.bus.publish(SenderLost([lot_of("there")]))
    scene.bridge.pump(lambda: bool(scene.federation._behind))
    scene.result(scene.federation.sweep())
    assert len(scene.queues.take()) == 2
    # That of others concerns nobody here.
    scene.result(scene.federation._note_lost(frozenset({"another lot"})))
    scene.result(scene.federation.sweep())
    assert scene.queues.take() == []


def test_what_may_not_have_gone_out_before_a_restart_is_said_again(scene: Scene) -> None:
    with_alice_seen_from_there(scene)
    scene.result(scene.federation.receive("there", {"poll": [ALICE]}))
    scene.choose(ALICE, "unavailable")
    scene.queues.take()
    scene.begin()
    scene.result(scene.keeper.keep())
    scene.result(scene.federation.start())
    [(server, content)] = scene.queues.take()
    assert (server, content["push"][0]["presence"]) == ("there", "unavailable")


def test_somebody_hidden_sees_others_all_the_same(scene: Scene) -> None:
    """Nothing of another server was seen by who was hidden from the beginning."""
    scene.write(presence_lists.put, Entry(ALICE, THERE, is_accepted=True))
    scene.choose(ALICE, "hidden")
    assert scene.told == [[]]
    assert scene.queues.take() == [("there", {"poll": [THERE]})]


def test_who_comes_back_into_a_room_asks_again_what_was_missed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """In between, their server told us nothing."""
    monkeypatch.setattr(presence, "strangers_in", lambda *_: {THERE})
    scene.comes(ALICE)
    scene.passes()
    for _ in range(2):
        scene.joins(ALICE)
        scene.passes()
        assert scene.queues.take() == [("there", {"poll": [THERE]})]
        scene.leaves(ALICE)
    scene.joins(ALICE)
    scene.passes()
    scene.queues.take()
    scene.comes(BOB)
    scene.passes()
    scene.joins(BOB)
    scene.passes()
    assert scene.queues.take() == [], "somebody of ours has looked into the room all the time"


def test_who_comes_back_from_elsewhere_is_asked_for_again(scene: Scene) -> None:
    scene.comes(ALICE)
    scene.joins(ALICE)
    scene.passes()
    for _ in range(2):
        scene.joins(THERE)
        scene.passes()
        assert scene.queues.take() == [("there", {"poll": [THERE]})]
        scene.leaves(THERE)


def test_another_name_in_a_room_is_no_coming(scene: Scene) -> None:
    """Each change of a name made the server ask for everybody in each room of the user, and read who is in it."""
    scene.comes(ALICE)
    scene.joins(ALICE)
    scene.joins(THERE)
    scene.passes()
    scene.queues.take()
    before = scene.database.statistics.reads
    for user_id in (ALICE, THERE):
        news = membership_of(user_id, "join", 12, ROOM)
        renamed = replace(news, stored=replace(news.stored, replaced=news.stored.event))
        scene.bus.publish(renamed)
    scene.time.advance(5)
    assert scene.database.statistics.reads == before
    scene.passes()
    assert scene.queues.take() == []


def test_room_is_read_once_however_many_of_ours_come(scene: Scene) -> None:
    scene.joins(ALICE)
    scene.passes()
    before = scene.database.statistics.reads
    for number in range(50):
        scene.joins(f"@user{number}:here")
    scene.time.advance(5)
    assert scene.database.statistics.reads == before
    scene.leaves(ALICE)
    scene.joins(ALICE)
    scene.passes()
    assert scene.database.statistics.reads > before, "nothing was heard of it while nobody of ours was in it"


def test_server_that_asks_for_thousands_has_nothing_written(scene: Scene) -> None:
    """And is told of those of whom it may know, whatever else it names."""
    with_alice_seen_from_there(scene)
    nonsense: list[object] = [5, None, "", "@", ":here", "@a\0:here", "@" + "x" * 300 + ":here", "alice:here", ["x"]]
    asked = [*nonsense, ALICE, *(f"@user{number}:here" for number in range(MOST_NAMED))][:MOST_NAMED]
    jobs = scene.database.statistics.jobs
    scene.result(scene.federation.receive("elsewhere", {"poll": asked}))
    assert scene.database.statistics.jobs == jobs
    scene.result(scene.federation.receive("there", {"poll": asked}))
    assert scene.interest() == [("there", ALICE)]
    assert scene.queues.take() == [("there", {"push": [{"user_id": ALICE, "presence": "offline"}]})]


def test_no_server_takes_all_the_places_of_those_asked_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_federation, "MOST_ASKED_OF_ONE_SERVER", 3)
    monkeypatch.setattr(presence_federation, "MOST_ASKED", 5)
    scene.comes(ALICE)
    scene.joins(ALICE)
    scene.passes()
    for number in range(10):
        scene.joins(f"@user{number}:evil")
    for number in range(10):
        scene.joins(f"@user{number}:there")
    scene.passes()
    polled = [(server, name) for server, content in scene.queues.take() for name in content["poll"]]
    assert [server for server, _ in polled] == ["evil"] * 3 + ["there"] * 2


def test_long_and_odd_words_of_another_server_are_cut(scene: Scene) -> None:
    with_zoe_seen_by_alice(scene)
    push(scene, status_msg="a\0b" + "x" * 100_000, displayname="y" * 100_000, last_active_ago=10**30, device_type=["x"])
    told = scene.persons.person(THERE).told
    assert told.status_msg == "ab" + "x" * (LONGEST_TEXT - 2)
    assert told.profile == (("displayname", "y" * LONGEST_TEXT),)
    assert (told.last_active, told.kind) == (0, None)
    push(scene, last_active_ago=-1, status_msg=5, avatar_url={})
    told = scene.persons.person(THERE).told
    assert (told.status_msg, told.profile, told.last_active) == (None, (), 0)


def test_what_a_server_says_of_somebody_hidden_is_not_seen(scene: Scene) -> None:
    with_zoe_seen_by_alice(scene)
    push(scene, status_msg="here")
    push(scene, presence="hidden", status_msg="secret", device_type="mobile", last_active_ago=0, displayname="Zoe")
    told = scene.persons.person(THERE).told
    assert (told.state, told.kind, told.profile) == ("offline", None, (("displayname", "Zoe"),))
    assert "secret" not in str(told)


# What is told once.


def test_name_is_not_told_again_after_a_restart(scene: Scene) -> None:
    """Everybody who had a name was told anew to all who see them."""
    scene.write(accounts.create, ALICE, password_hash=None, now_ms=1)
    scene.write(profiles.put, ALICE, ProfileField("displayname", "Alice", "public"))
    scene.write(presence_lists.put, Entry(BOB, ALICE, is_accepted=True))
    with_zoe_seen_by_alice(scene)
    push(scene, displayname="Zoe", device_type="mobile")
    scene.told.clear()
    scene.begin()
    scene.result(scene.keeper.keep())
    scene.result(scene.federation.start())
    scene.comes(ALICE)
    scene.passes()
    push(scene, displayname="Zoe", device_type="mobile")
    assert scene.told == []
    push(scene, displayname="Zoë", device_type="mobile")
    assert scene.told == [[THERE]]
    scene.keeper.profile_changed(ALICE, "Alice L.", None)
    scene.passes()
    assert scene.told == [[THERE], [ALICE]]


def test_name_that_is_taken_away_is_told_though_nobody_is_there(scene: Scene) -> None:
    scene.keeper.profile_changed(ALICE, None, None)
    scene.passes()
    assert scene.told == [[ALICE]]


def test_poll_right_after_a_restart_misses_nothing(scene: Scene) -> None:
    """Those who were there were known again by name, but not yet what had been told of them."""
    scene.write(presence_lists.put, Entry(BOB, ALICE, is_accepted=True))
    scene.comes(ALICE)
    scene.passes()
    position, _ = scene.news(0)
    scene.choose(ALICE, "unavailable")
    scene.begin()
    scene.result(scene.keeper.keep())
    end, told = scene.news(position)
    assert told == [(ALICE, "unavailable")]
    scene.passes()
    assert scene.news(end)[1] == []


def test_request_that_is_not_announced_yet_is_told_once(scene: Scene) -> None:
    """It can be read a moment before, and was told then, and again."""
    scene.comes(ALICE)
    scene.passes()
    position, _ = scene.news(0)
    scene.silently(presence_lists.put, Entry(ALICE, BOB, is_accepted=False))
    scene.persons._lists_since = 10**6
    position, events = scene.events(position)
    assert events == []
    scene.bus.publish(ListChanged(position + 1, ALICE, BOB, False))
    position, events = scene.events(position)
    assert [event["type"] for event in events] == ["m.presence_invite"]
    assert scene.events(position) == (position, [])
