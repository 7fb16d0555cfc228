"""What is in memory only, known by all processes of a server: who is there, who types, and whose tokens are valid.

PRES-2, TYP-1, LOGIN-10.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import orjson
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as HandMovedTime

from synapse_like.clock import ReactorClock
from synapse_like.handlers.authentication import PATIENCE, Authentication, Requester
from synapse_like.handlers.event_stream import EventStream
from synapse_like.handlers.notifier import Notifier, Watcher
from synapse_like.handlers.presence import Presence
from synapse_like.handlers.presence_input import REPEAT_SECONDS, TRIES, TRY_SECONDS, PresenceInput
from synapse_like.handlers.presence_keeping import CLOSED_SECONDS, PresenceKeeper
from synapse_like.handlers.presence_persons import Persons
from synapse_like.handlers.profile_changes import ProfileChanges
from synapse_like.handlers.streams import NO_ARRIVALS, SilentStream, Stream
from synapse_like.handlers.typing import FRESH_MS, LONGEST_MS, REMOTE_SECONDS, Typing, TypingHeard
from synapse_like.protocol.errors import Forbidden, Unavailable, UnknownToken
from synapse_like.storage import accounts, events, presence, presence_lists
from synapse_like.storage.bus import Bus
from synapse_like.storage.connections import Connection
from synapse_like.storage.database import Database
from synapse_like.storage.engines.opening import open_engine
from synapse_like.storage.migrations import migrate
from synapse_like.storage.news import CommitInDoubt, for_others
from synapse_like.storage.presence_lists import Entry
from synapse_like.storage.shared.machine import Machine
from synapse_like.storage.transactions import Transaction
from tests.support.postgres import PostgreSQL
from tests.support.threads import ThreadBridge

ROOM = "!room:here"
ALICE, BOB = "@alice:here", "@bob:here"
#: How long something is waited for, in seconds.
PATIENCE_SECONDS = 30


@for_others
@dataclass(frozen=True, slots=True)
class Uttered:
    """News: a process has said all that it had to say up to here."""

    number: int


class Process:
    """One of the processes, whose time is moved by hand."""

    said = 0

    def __init__(self, url: str, machine: Machine) -> None:
        self.time = HandMovedTime()
        self.time.advance(1_400_000_000)
        clock = ReactorClock(self.time)
        self.bridge, bus = ThreadBridge(), Bus()
        engine = open_engine(url, data_dir=Path())
        self.database = Database(engine, self.bridge, bus, readers=1, shared=True, machine=machine)
        self.heard: set[int] = set()
        bus.subscribe(Uttered, lambda news: self.heard.add(news.number))
        self.database.start()
        event_position, position = self.result(
            self.database.read("start", lambda txn: (events.current_position(txn), presence.current_position(txn)))
        )
        notifier = Notifier(self.database, bus, clock, event_position)
        self.persons = Persons(self.database, notifier, bus, clock, "here", position)
        self.keeper = PresenceKeeper(self.database, self.persons, bus, clock, "here")
        self.presence = Presence(self.database, self.persons, notifier, clock)
        self.input = PresenceInput(self.database, self.persons, self.keeper, None, bus, clock)
        self.typing = Typing(self.database, notifier, bus, clock, None, "here")
        self.authentication = Authentication(self.database, bus, clock)
        silent = SilentStream()
        self.event_stream = EventStream(
            self.database, notifier, bus, clock, presence=silent, attendance=silent, typing=silent
        )
        self.profile_changes = ProfileChanges(self.database, bus, Mock())
        self.result(self.persons.start())

    def keep(self) -> None:
        self.result(self.keeper.keep())
        self.input.keep()

    def result(self, awaitable: Any) -> Any:
        found: list[Any] = []
        Deferred.fromCoroutine(_wait(awaitable)).addBoth(found.append)
        self.bridge.pump(lambda: bool(found), seconds=PATIENCE_SECONDS)
        return found[0]

    def passes(self, seconds: float) -> None:
        """Let time pass, and what is due be done."""
        self.time.advance(seconds)
        self.result(self.input.sweep())
        self.result(self.keeper.sweep())

    def sees(self, user_id: str) -> str:
        """What this process says that a user is."""
        row = self.result(self.database.read("row", presence.of_users, [user_id])).get(user_id)
        return self.persons.told(user_id, row).state

    def news(self, stream: Stream, after: int, *rooms: str) -> tuple[int, list[Any]]:
        watcher = Watcher(BOB, 0)
        watcher.ignored = frozenset()
        watcher.rooms.update(rooms)
        position, found = self.result(stream.news(watcher, after, NO_ARRIVALS))
        return position, orjson.loads(orjson.dumps(list(found)))


def say(txn: Transaction, number: int) -> None:
    txn.take_number()
    txn.announce(Uttered(number))


async def _wait(awaitable: Any) -> Any:
    return await awaitable


def login(user_id: str, token_id: int = 1) -> Requester:
    return Requester(user_id, token_id, is_admin=False)


@pytest.fixture
def processes(postgresql: PostgreSQL) -> Iterator[tuple[Process, Process]]:
    """Two of them; the first keeps presence."""
    with postgresql.database() as url:
        connection = Connection(open_engine(url, data_dir=Path()), exclusive=True)
        migrate(connection)
        connection.close()
        one, two = (Process(url, machine) for machine in Machine.of_several(2))
        one.keep()
        yield one, two
        for process in (one, two):
            process.database.stop()


def until(processes: tuple[Process, ...], holds: Callable[[], bool], seconds: float = 1.01) -> None:
    """Let time pass in all processes, until something holds; what one says, the others hear before it goes on."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never does"
        for process in processes:
            process.passes(seconds)
            process.said += 1
            process.result(process.database.write("said", say, process.said))
            for other in processes:
                other.bridge.pump(lambda other=other, at=process.said: at in other.heard, seconds=PATIENCE_SECONDS)
                other.heard.clear()


def test_who_knows_everything_asks_nothing(processes: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the others of a machine have committed is seen in memory that they share."""
    one, two = processes
    one.result(one.database.write("said", say, 7))
    two.result(two.database.come_up_to_date())
    assert 7 in two.heard
    monkeypatch.setattr(two.database, "_look", lambda: pytest.fail("the database is asked"))
    two.result(two.database.come_up_to_date())
    one.result(one.database.write("said", say, 8))
    with pytest.raises(pytest.fail.Exception):
        two.result(two.database.come_up_to_date()).raiseException()


def choose(process: Process, user_id: str, state: str) -> Deferred[None]:
    return Deferred.fromCoroutine(
        process.input.choose(login(user_id), user_id, state, None, idle_ms=None, device_type=None)
    )


def test_who_is_there_with_one_process_is_there_for_all_and_goes_when_the_stream_ends(
    processes: tuple[Process, Process],
) -> None:
    one, two = processes
    two.input.opened(login(ALICE))
    until(processes, lambda: one.sees(ALICE) == two.sees(ALICE) == "online")
    # The tables may tell of it before it is learned.
    until(processes, lambda: two.persons.person(ALICE).position == one.persons.person(ALICE).position > 0, 0)
    for _ in range(10):
        # Longer than a device is there of which nothing is heard.
        turns = iter([False, False, True])
        until(processes, lambda turns=turns: next(turns), CLOSED_SECONDS / 5)
    assert one.sees(ALICE) == two.sees(ALICE) == "online"
    two.input.closed(login(ALICE))
    until(processes, lambda: one.sees(ALICE) == two.sees(ALICE) == "offline", REPEAT_SECONDS)


def test_what_one_chooses_is_written_down_wherever_one_says_it(processes: tuple[Process, Process]) -> None:
    one, two = processes
    two.input.opened(login(ALICE))
    chosen = choose(two, ALICE, "free_for_chat")
    until(processes, lambda: chosen.called)
    until(processes, lambda: one.sees(ALICE) == two.sees(ALICE) == "free_for_chat")
    chosen = choose(two, ALICE, "hidden")
    until(processes, lambda: chosen.called)
    until(processes, lambda: one.sees(ALICE) == two.sees(ALICE) == "offline")
    requester = login(ALICE)
    assert two.result(two.presence.status(requester, ALICE))["presence"] == "hidden"
    with pytest.raises(Forbidden):
        two.result(two.input.choose(requester, BOB, "online", None, idle_ms=None, device_type=None)).raiseException()


def test_what_was_chosen_is_seen_as_soon_as_that_is_answered(
    processes: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, two = processes
    load, slow = two.persons.load, Deferred[None]()

    async def load_slowly(persons: Any) -> None:
        await slow
        await load(persons)

    monkeypatch.setattr(two.persons, "load", load_slowly)
    chosen = choose(two, ALICE, "unavailable")
    until(processes, lambda: bool(two.persons._unknown), 0)
    turns = iter([False, False, False, True])
    until(processes, lambda: next(turns), 0)
    assert not chosen.called
    slow.callback(None)
    until(processes, lambda: chosen.called, 0)
    assert two.persons.person(ALICE).told.state == "unavailable"


def test_what_the_tables_say_counts_until_it_is_learned(processes: tuple[Process, Process]) -> None:
    one, two = processes
    chosen = choose(two, ALICE, "unavailable")
    until(processes, lambda: chosen.called)
    newer = presence.StoredPresence(ALICE, two.persons.person(ALICE).position + 1, "free_for_chat")
    assert two.persons.told(ALICE, newer).state == "free_for_chat"
    assert one.persons.told(ALICE, newer).state == "unavailable", "the keeper knows most"


def test_when_the_keeper_dies_another_goes_on_with_what_was(processes: tuple[Process, Process]) -> None:
    one, two = processes
    one.input.opened(login(BOB))
    two.input.opened(login(ALICE))
    until(processes, lambda: two.sees(ALICE) == two.sees(BOB) == "online")
    one.keeper.let_go()
    chosen = choose(two, ALICE, "unavailable")
    two.keep()
    until((two,), lambda: chosen.called, TRY_SECONDS / 4)
    until((two,), lambda: two.sees(ALICE) == "unavailable")
    assert two.sees(BOB) == "online", "who was there with the other has a while to come back"
    until((two,), lambda: two.sees(BOB) == "offline", CLOSED_SECONDS / 2)
    assert two.sees(ALICE) == "unavailable"


def test_who_lets_go_before_it_has_begun_to_keep_takes_nobody_up(processes: tuple[Process, Process]) -> None:
    one, two = processes
    one.input.opened(login(BOB))
    until(processes, lambda: two.sees(BOB) == "online")
    begun: list[Any] = []
    Deferred.fromCoroutine(two.keeper.keep()).addBoth(begun.append)
    two.keeper.let_go()
    two.bridge.pump(lambda: bool(begun), seconds=PATIENCE_SECONDS)
    assert begun == [None]
    assert not two.persons.person(BOB).devices


def test_without_a_keeper_one_is_told_to_try_again(processes: tuple[Process, Process]) -> None:
    one, two = processes
    one.keeper.let_go()
    chosen = choose(two, ALICE, "unavailable")
    failed: list[Any] = []
    chosen.addErrback(failed.append)
    for _ in range(TRIES):
        two.passes(TRY_SECONDS)
    assert failed[0].check(Unavailable)


def test_who_types_with_one_process_is_seen_by_those_who_look_with_another(
    processes: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = processes

    async def joined(room_id: str, users: set[str]) -> frozenset[str]:
        return frozenset(users)

    for process in processes:
        monkeypatch.setattr(process.typing, "_joined", joined)

    def typists(process: Process, after: int) -> tuple[int, list[list[str]]]:
        position, found = process.news(process.typing, after, ROOM)
        return position, [event["content"]["user_ids"] for event in found]

    def hears(process: Process, **content: Any) -> None:
        process.result(process.typing.receive("there", {"room_id": ROOM, "user_id": "@carol:there", **content}))

    hears(one, typing=True, timeout=20_000)
    until(processes, lambda: typists(two, 0)[1] == [["@carol:there"]], 0)
    with_one, with_two = typists(one, 0)[0], typists(two, 0)[0]
    assert typists(one, with_one) == (with_one, [])
    assert typists(two, with_one) == (with_one, []), "it is so there, too"
    hears(two, typing=False)
    until(processes, lambda: typists(one, with_one)[1] == [[]], 0)
    assert typists(two, with_one) == typists(two, with_two) == (0, [[]])


def test_who_types_with_a_process_that_dies_is_forgotten_by_the_others(
    processes: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TYP-1: that they stopped, or that their server said so, was lost with it."""
    one, two = processes

    async def joined(room_id: str, users: set[str]) -> frozenset[str]:
        return frozenset(users)

    def typists() -> list[list[str]]:
        return [event["content"]["user_ids"] for event in two.news(two.typing, 0, ROOM)[1]]

    monkeypatch.setattr(one.typing, "_joined", joined)
    monkeypatch.setattr(one.typing, "_servers", lambda *_: [])
    one.result(one.typing.update(login(ALICE), ROOM, ALICE, typing=True, timeout_ms=LONGEST_MS))
    one.result(one.typing.receive("there", {"room_id": ROOM, "user_ids": ["@carol:there"]}))
    until(processes, lambda: [sorted(users) for users in typists()] == [[ALICE, "@carol:there"]], 0)
    one.database.stop()
    two.time.advance(LONGEST_MS / 1000 + 0.1)
    assert typists() == [["@carol:there"]]
    two.time.advance(REMOTE_SECONDS - LONGEST_MS / 1000)
    assert typists() == []


def test_who_was_told_more_of_who_types_than_is_known_here_is_told_nothing_yet(
    processes: tuple[Process, Process],
) -> None:
    one, two = processes

    def typists(process: Process, after: int, *rooms: str) -> tuple[int, list[tuple[str, list[str]]]]:
        position, found = process.news(process.typing, after, ROOM, *rooms)
        return position, [(event["room_id"], event["content"]["user_ids"]) for event in found]

    def passes(seconds: float) -> None:
        for process in processes:
            process.time.advance(seconds)

    passes(1)
    # Another room, that has been silent.
    other = "!other:here"
    one.typing._on_heard(TypingHeard(ROOM, ALICE, 20))
    position, told = typists(one, 0)
    assert told == [(ROOM, [ALICE])]
    assert typists(two, position, other) == (position, []), "it is to come"
    two.typing._on_heard(TypingHeard(ROOM, ALICE, 20))
    assert typists(two, position, other) == (position, []), "it has come"
    two.typing._on_heard(TypingHeard(ROOM, ALICE, None))
    assert typists(two, position, other) == (0, [(ROOM, [])]), "and what has changed since is told at once"
    passes(1)
    one.typing._on_heard(TypingHeard(other, ALICE, 20))
    position, told = typists(one, position, other)
    assert told == [(other, [ALICE])]
    assert typists(two, position, other) == (position, [])
    passes(FRESH_MS / 1000)
    assert typists(two, position, other) == (0, [(other, []), (ROOM, [])]), "it has never come"


def logged_in(process: Process) -> str:
    """An access token of somebody."""

    def make(txn: Transaction) -> str:
        accounts.create(txn, ALICE, password_hash=None, now_ms=0)
        return process.authentication.issue(txn, ALICE)

    token = process.result(process.database.write("log-in", make))
    assert isinstance(token, str)
    return token


def test_a_token_that_one_process_has_ended_is_nobodys_with_another_from_then_on(
    processes: tuple[Process, Process],
) -> None:
    """LOGIN-10."""
    one, two = processes
    token = logged_in(one)
    requester = two.result(two.authentication.authenticate(token))
    assert requester.user_id == ALICE
    one.result(one.authentication.log_out(requester))
    with pytest.raises(UnknownToken):
        two.result(two.authentication.authenticate(token)).raiseException()


def test_who_does_not_hear_of_ended_tokens_looks_every_token_up(
    processes: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LOGIN-10: also if what others say does not come."""
    one, two = processes
    token = logged_in(one)
    requester = two.result(two.authentication.authenticate(token))
    lost: list[Any] = []
    monkeypatch.setattr(two.database._order, "heard", lost.append)
    one.result(one.authentication.log_out(requester))
    for seconds in (PATIENCE, 0):
        found: list[Any] = []
        Deferred.fromCoroutine(two.authentication.authenticate(token)).addErrback(found.append)
        two.time.advance(seconds)
        two.bridge.pump(lambda found=found: bool(found), seconds=PATIENCE_SECONDS)
        assert found[0].check(UnknownToken)


def test_a_token_that_nobody_can_be_told_has_ended_is_nobodys_all_the_same(processes: tuple[Process, Process]) -> None:
    """LOGIN-10: what tells so was taken back with all that is said of a user who is forgotten, or is kept no more."""
    one, two = processes
    token = logged_in(one)
    requester = two.result(two.authentication.authenticate(token))
    poll: list[Any] = []
    Deferred.fromCoroutine(two.event_stream.next_chunk(requester, None, 3_600_000)).addBoth(poll.append)

    def end(txn: Transaction) -> None:
        accounts.delete_tokens(txn, ALICE)
        txn.announce(CommitInDoubt())

    one.result(one.database.write("end", end))
    until(processes, lambda: bool(poll), 0)
    assert poll[0].check(UnknownToken)
    with pytest.raises(UnknownToken):
        two.result(two.authentication.authenticate(token)).raiseException()


def test_rooms_that_are_to_be_told_are_looked_for_when_nobody_can_be_told_so(
    processes: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PROF-2."""
    one, two = processes
    looked: list[int] = []
    monkeypatch.setattr(two.profile_changes, "_tell_some", lambda txn: bool(looked.append(1)))
    for _ in range(2):
        two.result(two.profile_changes.go_on())
    assert len(looked) == 1, "nobody said that there is more"
    one.result(one.database.write("doubt", lambda txn: txn.announce(CommitInDoubt()) or txn.take_number()))

    def goes_on() -> bool:
        two.result(two.profile_changes.go_on())
        return len(looked) == 2

    until(processes, goes_on, 0)


def test_who_may_see_whom_is_looked_up_when_nobody_can_be_told_that_it_has_changed(
    processes: tuple[Process, Process],
) -> None:
    """PRES-4."""
    one, two = processes
    one.result(one.database.write("allow", presence_lists.put, Entry(BOB, ALICE, is_accepted=True)))
    two.input.opened(login(ALICE))
    until(processes, lambda: one.sees(ALICE) == two.sees(ALICE) == "online")
    person = two.persons.person(ALICE)
    until(processes, lambda: person.observers == {BOB}, 0)
    # That she left was not heard.
    two.persons._moved(person, ROOM, is_in=True)

    def forbid(txn: Transaction) -> None:
        txn.execute("DELETE FROM presence_lists")
        txn.announce(CommitInDoubt())

    one.result(one.database.write("forbid", forbid))
    until(processes, lambda: not person.observers and not person.rooms, 0)
    assert not two.persons.has_lookers(ROOM)
