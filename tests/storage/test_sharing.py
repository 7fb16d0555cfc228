"""Several processes on one PostgreSQL: nothing is lost, skipped or told twice, whoever writes, is slow, or dies."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psycopg
import pytest
from twisted.internet.defer import Deferred

from synapse_like.protocol.errors import Unavailable
from synapse_like.storage import positions
from synapse_like.storage.bus import Bus
from synapse_like.storage.caches import CacheKind
from synapse_like.storage.connections import Connection
from synapse_like.storage.database import Database
from synapse_like.storage.engines import postgresql as driver
from synapse_like.storage.engines.engine import DatabaseInUse, DatabaseUnavailable, Identity, Query, RawConnection
from synapse_like.storage.engines.opening import open_engine
from synapse_like.storage.migrations import migrate
from synapse_like.storage.news import CommitInDoubt, for_others, from_log
from synapse_like.storage.shared import commit_log
from synapse_like.storage.shared import holder as holding
from synapse_like.storage.shared import listener as listening
from synapse_like.storage.shared.commit_log import Reading, Told, forget_old, unsay
from synapse_like.storage.shared.holder import Holder
from synapse_like.storage.shared.lanes import LaneTaken
from synapse_like.storage.shared.listener import Listener
from synapse_like.storage.shared.order import Order
from synapse_like.storage.shared.turns import Turn
from synapse_like.storage.transactions import Transaction
from tests.storage.sharing_worker import ROOMS
from tests.support.postgres import PostgreSQL
from tests.support.processes import dying_with_us, wait_until
from tests.support.server import ROOT
from tests.support.threads import ThreadBridge

#: End all connections but one's own.
END_OTHERS = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
NAMES = CacheKind[str, str]("names", 100)


@for_others
@dataclass(frozen=True, slots=True)
class Said:
    """News: a word, and where it stands."""

    position: int
    word: str


class Process:
    """What would be a process of the server, in this one."""

    def __init__(self, url: str, *, is_started: bool = True) -> None:
        self.url = url
        self.bridge, self.bus = ThreadBridge(), Bus()
        self.news: list[object] = []
        self.results: dict[object, Any] = {}
        self.bus.subscribe(Said, self.news.append)
        self.bus.subscribe(CommitInDoubt, self.news.append)
        self.database = Database(open_engine(url, data_dir=Path()), self.bridge, self.bus, readers=1, shared=True)
        if is_started:
            self.database.start()

    @property
    def words(self) -> list[str]:
        return [news.word for news in self.news if isinstance(news, Said)]

    def result(self, deferred: Deferred[Any]) -> Any:
        deferred.addBoth(lambda outcome: self.results.__setitem__(deferred, outcome))
        self.bridge.pump(lambda: deferred in self.results)
        return self.results[deferred]

    def say(self, word: str) -> int:
        position = self.result(self.database.write("say", say, word))
        assert isinstance(position, int), position
        return position

    def hear(self, *words: str) -> None:
        self.bridge.pump(lambda: len(self.words) >= len(words))
        assert self.words == list(words)


def say(txn: Transaction, word: str) -> int:
    position = positions.take(txn, "events")
    txn.announce(Said(position, word))
    return position


def put(txn: Transaction, stream: str, position: int) -> None:
    txn.execute("UPDATE stream_positions SET position = ? WHERE stream = ?", (position, stream))


def prepare(url: str) -> None:
    connection = Connection(open_engine(url, data_dir=Path()), exclusive=True)
    migrate(connection)
    connection.transact(lambda txn: txn.execute("CREATE TABLE counted (position BIGINT PRIMARY KEY, maker TEXT)"))
    for room_id in ROOMS:
        connection.transact(
            lambda txn, name: txn.execute("INSERT INTO stream_positions (stream, position) VALUES (?, 0)", (name,)),
            room_id,
        )
    connection.close()


@pytest.fixture(scope="module")
def url(postgresql: PostgreSQL) -> Iterator[str]:
    with postgresql.database() as url:
        prepare(url)
        yield url


@pytest.fixture
def processes(url: str) -> Iterator[list[Process]]:
    made = [Process(url), Process(url)]
    yield made
    for process in made:
        process.database.stop()


def test_what_one_says_the_other_hears_in_order_and_once(processes: list[Process]) -> None:
    one, two = processes
    assert [one.say("a"), two.say("b"), one.say("c"), two.say("d")] == [1, 2, 3, 4]
    for process in processes:
        process.hear("a", "b", "c", "d")


def test_what_others_say_while_one_begins_is_heard(url: str, processes: list[Process]) -> None:
    """Where a stream stands is read before the threads run, and others go on meanwhile."""
    one = processes[0]
    said = one.say("before")
    beginning = Process(url, is_started=False)
    beginning.database.prepare(lambda connection: None)
    assert beginning.database.prepare(lambda connection: connection.transact(positions.current, "events")) == said
    one.say("meanwhile")
    beginning.database.start()
    try:
        one.say("after")
        beginning.hear("meanwhile", "after")
    finally:
        beginning.database.stop()


def test_nobody_is_alone_on_a_database_that_others_share(url: str, processes: list[Process]) -> None:
    with pytest.raises(DatabaseInUse):
        Connection(open_engine(url, data_dir=Path()), exclusive=True)


def test_what_passes_is_heard_by_the_others_however_long_and_leaves_nothing(processes: list[Process]) -> None:
    one, two = processes
    before = one.result(one.database.read("newest", commit_log.newest))
    long = "é" * 5000 + "x" * 20_000
    one.database.tell_others(Said(0, "short"), Said(0, long))
    two.hear("short", long)
    two.say("last")
    one.hear("last")
    assert one.result(one.database.read("newest", commit_log.newest)) == before + 1


def test_who_says_many_things_wakes_the_others_once_in_a_while_and_they_hear_all(
    url: str, processes: list[Process]
) -> None:
    one, two = processes
    words = [str(number) for number in range(200)]
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("LISTEN synapse_like")
        for word in words:
            one.say(word)
        two.hear(*words)
        said = [notice for notice in other.notifies(timeout=0.1) if notice.payload]
    assert 0 < len(said) < len(words) / 2


def test_who_commits_all_the_time_does_not_look_beside_it(
    processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit has read what was committed before it."""
    looks = []
    look = Connection.look
    monkeypatch.setattr(Connection, "look", lambda *asked: looks.append(time.monotonic()) or look(*asked))
    monkeypatch.setattr(listening, "READ_ON_SECONDS", 60.0)
    for process in processes:
        process.say("first")
    monkeypatch.setattr(listening, "PACE_SECONDS", 0.25)
    time.sleep(0.5)
    began, told = time.monotonic(), 2
    while time.monotonic() < began + 2:
        for process in processes:
            process.say("more")
            told += 1
    # Two that look four times a second would have done so sixteen times.
    assert sum(at > began for at in looks) <= 5
    for process in processes:
        process.bridge.pump(lambda process=process: len(process.words) == told)


def test_who_listens_hears_what_took_too_long_to_be_committed_without_a_notice(
    processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as the one who commits knows, the others read on; they do no longer when it is committed."""
    one, two = processes
    monkeypatch.setattr(listening, "LOOK_EVERY_SECONDS", 3600.0)
    holder = one.database._holder
    assert holder is not None
    monkeypatch.setattr(holder, "notice", lambda: "")
    two.say("first")
    one.hear("first")
    # The last look that began before this was changed.
    monkeypatch.setattr(listening, "READ_ON_SECONDS", 0.0)
    for word in "abc":
        one.say(word)
        two.hear("first", *"abc"[: "abc".index(word) + 1])


class Holding:
    """A job that holds a room in one process until it is let go."""

    def __init__(self, process: Process, room_id: str) -> None:
        self._entered, self._let_go = threading.Event(), threading.Event()
        self.ended = process.database.write_to_room(room_id, "hold", self._hold, room_id)
        self._process = process
        assert self._entered.wait(10)

    def _hold(self, txn: Transaction, room_id: str) -> None:
        txn.hold_room(room_id)
        self._entered.set()
        assert self._let_go.wait(10)

    def let_go(self) -> None:
        self._let_go.set()
        self._process.result(self.ended)


def test_one_room_waits_for_its_writer_and_another_does_not(processes: list[Process]) -> None:
    one, two = processes
    holding = Holding(one, ROOMS[0])
    order: list[str] = []

    def enter(txn: Transaction, room_id: str) -> None:
        txn.hold_room(room_id)
        order.append(room_id)

    jobs = [two.database.write_to_room(room_id, "enter", enter, room_id) for room_id in (ROOMS[1], ROOMS[0], ROOMS[2])]
    two.result(jobs[0])
    assert ROOMS[0] not in order
    holding.let_go()
    for job in jobs:
        two.result(job)
    assert sorted(order) == sorted(ROOMS)


def test_a_job_that_finds_out_late_where_it_writes_begins_again_there(processes: list[Process]) -> None:
    one, two = processes
    holding = Holding(one, ROOMS[0])
    tries: list[int] = []
    refused: list[LaneTaken] = []

    def change(txn: Transaction) -> str:
        tries.append(1)
        put(txn, ROOMS[1], 7)
        try:
            txn.hold_room(ROOMS[0])
        except LaneTaken as error:
            refused.append(error)
            raise
        return "done"

    def refuse(txn: Transaction) -> None:
        raise ZeroDivisionError

    jobs = [two.database.write("change", change), two.database.write("refuse", refuse)]
    wait_until("the first try", lambda: bool(refused))
    holding.let_go()
    assert two.result(jobs[0]) == "done"
    assert len(tries) == 2
    assert two.result(jobs[1]).check(ZeroDivisionError)


def test_copies_that_another_made_wrong_are_forgotten_before_anything_is_written(processes: list[Process]) -> None:
    one, two = processes

    def remember(txn: Transaction) -> None:
        txn.cache(NAMES).keep("a", "as it was")

    def change(txn: Transaction) -> None:
        txn.execute("UPDATE stream_positions SET position = position WHERE stream = ?", (ROOMS[0],))
        txn.cache(NAMES).drop_all(txn)

    two.result(two.database.write("remember", remember))
    one.result(one.database.write("change", change))
    assert two.result(two.database.write("look", lambda txn: txn.cache(NAMES).get("a"))) is None


def test_who_lost_the_connection_hears_what_was_said_meanwhile(url: str, processes: list[Process]) -> None:
    one, two = processes
    one.say("before")
    with psycopg.connect(url, autocommit=True) as other:
        # All but the writers, who end with a commit.
        ended = other.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND query NOT LIKE '%COMMIT'"
        ).fetchall()
        assert len(ended) >= 2
    one.say("after")
    two.say("more")
    for process in processes:
        process.hear("before", "after", "more")


def test_who_missed_too_much_looks_at_everything_again(
    url: str, processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = processes
    monkeypatch.setattr(commit_log, "KEPT_SECONDS", -10)
    for word in "abc":
        one.say(word)
    one.result(one.database.write("forget", forget_old, now_ms=1 << 45))
    heard: list[Any] = []
    gaps: list[int] = []
    engine = open_engine(url, data_dir=Path())
    reading = Reading("asleep", 0)
    listener = Listener(lambda: Connection(engine), reading, heard.extend, gaps.append, Mock(), Mock())
    listener.start()
    wait_until("what is left to be heard", lambda: bool(heard))
    listener.stop()
    # What is left is the commit that forgot the others, or the last one before it.
    assert gaps == [heard[0][0] - 1]
    assert gaps[0] >= 2


def test_who_reads_on_over_a_leap_hears_what_is_before_and_after_it(url: str, processes: list[Process]) -> None:
    one, _ = processes
    before = one.say("first") and one.result(one.database.read("newest", commit_log.newest))
    one.say("before")
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("UPDATE stream_positions SET position = position + 1000 WHERE stream = 'commits'")
    late = Process(url)
    late.say("after")
    late.database.stop()
    heard: list[Told] = []
    gaps: list[int] = []
    engine = open_engine(url, data_dir=Path())
    reading = Reading("late", before)
    listener = Listener(lambda: Connection(engine), reading, heard.extend, gaps.append, Mock(), Mock())
    listener.start()
    wait_until("all of it", lambda: len(heard) >= 2)
    listener.stop()
    assert [number - before for number, _, _ in heard] == [1, 1002]
    assert gaps == [before + 1001]


def both_have_said_something(one: Process, two: Process) -> None:
    """So that the second knows where the log stands, and has copies that follow it."""
    one.say("first")
    two.say("second")
    two.hear("first", "second")


def test_who_has_read_past_a_hole_leaves_it_to_the_listener(
    processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a long transaction reads at its beginning and at its end need not follow on each other."""
    one, two = processes
    both_have_said_something(one, two)
    monkeypatch.setattr(holding, "MOST_CAUGHT_UP", 3)
    listens = threading.Event()
    really_read = Listener._read

    def read(listener: Listener, connection: Connection) -> int:
        if listener is two.database._listener and not listens.is_set():
            return 0
        return really_read(listener, connection)

    monkeypatch.setattr(Listener, "_read", read)
    one.say("before")
    has_begun, goes_on = threading.Event(), threading.Event()

    def take_long(txn: Transaction) -> int:
        has_begun.set()
        assert goes_on.wait(30)
        return say(txn, "long")

    long = two.database.write_to_room(ROOMS[0], "long", take_long)
    assert has_begun.wait(30)
    for word in "abcdef":
        one.say(word)
    newest = one.result(one.database.read("newest", commit_log.newest))
    goes_on.set()
    wait_until("it to be committed", lambda: one.result(one.database.read("newest", commit_log.newest)) > newest)
    listens.set()
    assert isinstance(two.result(long), int)
    two.hear("first", "second", "before", *"abcdef", "long")


def test_a_process_knows_what_its_copies_know_should_the_database_go_back(
    processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what it has read in a transaction that came to nothing."""
    one, two = processes
    both_have_said_something(one, two)
    maker, holder = one.database._holder, two.database._holder
    assert maker is not None
    assert holder is not None
    monkeypatch.setattr(Listener, "_read", lambda *_: 0)
    one.say("third")

    def fail(txn: Transaction) -> None:
        txn.take_number()
        raise ZeroDivisionError

    two.result(two.database.write("fail", fail))
    assert holder.continuity._commit == (holder._seen, maker.name)


def test_what_is_taken_back_is_heard_no_more_and_who_had_not_heard_it_looks_again(
    url: str, processes: list[Process]
) -> None:
    one, _ = processes
    before = one.result(one.database.read("newest", commit_log.newest))
    for word in ("kept", "unsaid", "kept, too"):
        one.say(word)
    one.result(one.database.write("unsay", unsay, '"unsaid"'))
    heard: list[Told] = []
    engine = open_engine(url, data_dir=Path())
    listener = Listener(lambda: Connection(engine), Reading("late", before), heard.extend, print, print, print)
    listener.start()
    wait_until("all of it", lambda: len(heard) >= 3)
    listener.stop()
    news = [item for _, _, told in heard[:3] for item in told]
    assert [item.word if isinstance(item, Said) else item for item in news] == ["kept", CommitInDoubt(), "kept, too"]


def test_a_commit_in_doubt_holds_nobody_up(url: str, processes: list[Process], monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = processes

    def lose(txn: Transaction) -> None:
        say(txn, "lost")
        pid = txn.one("SELECT pg_backend_pid()")
        assert pid is not None

        def end(*_: Any) -> Any:
            with psycopg.connect(url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", pid)
            return last_words(*_)

        last_words = Turn.last_words
        monkeypatch.setattr(Turn, "last_words", end)
        txn.when_rolled_back(monkeypatch.undo)

    failure = one.result(one.database.write("lose", lose))
    assert "try again" in failure.getErrorMessage()
    assert any(isinstance(news, CommitInDoubt) for news in one.news)
    two.say("next")
    one.say("own")
    for process in processes:
        process.hear("next", "own")


def test_who_thinks_too_long_in_a_transaction_holds_nobody_up(
    processes: list[Process], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process that is stopped while it holds a room and the number of its commit."""
    monkeypatch.setattr(driver, "LONGEST_THOUGHT", 1)
    one, two = Process(url), processes[0]
    entered, goes_on = threading.Event(), threading.Event()
    tries: list[int] = []

    def stop(txn: Transaction) -> int:
        txn.hold_room(ROOMS[0])
        position = say(txn, "stopped")
        tries.append(position)
        entered.set()
        assert goes_on.wait(60)
        return position

    stopped = one.database.write_to_room(ROOMS[0], "stop", stop)
    assert entered.wait(30)
    two.say("other")
    two.result(two.database.write_to_room(ROOMS[0], "enter", Transaction.hold_room, ROOMS[0]))
    goes_on.set()
    assert one.result(stopped) == tries[1] == tries[0] + 1, "it was done again, after the other"
    for process in (one, two):
        process.hear("other", "stopped")
    one.database.stop()


def take_back(url: str, number: int) -> None:
    """Have the database be one that lacks the last commits, and all have to connect to it again."""
    with psycopg.connect(url) as connection:
        connection.execute("DELETE FROM commits WHERE number > (SELECT MAX(number) FROM commits) - %s", (number,))
        for stream in ("commits", "events"):
            connection.execute(
                "UPDATE stream_positions SET position = position - %s WHERE stream = %s", (number, stream)
            )
        connection.commit()
        connection.execute(END_OTHERS)


def test_if_what_was_committed_is_no_more_nothing_is_given_out_again_and_nothing_written(
    url: str, processes: list[Process]
) -> None:
    """One of them has committed the last, and the other has only heard of it."""
    ended: list[Process] = []
    for process in processes:
        process.database.when_gone_back = partial(ended.append, process)
    said = [processes[0].say("kept"), processes[0].say("lost"), processes[0].say("lost, too")]
    for process in processes:
        process.hear("kept", "lost", "lost, too")
    take_back(url, 2)
    for process in processes:
        process.bridge.pump(lambda process=process: process in ended)
        failure = process.result(process.database.write("say", say, "never"))
        assert failure.check(Unavailable)
    assert sorted(map(id, ended)) == sorted(map(id, processes)), "each was told once"
    anew = Process(url)
    assert anew.say("new") > said[-1]
    anew.hear("new")
    anew.database.stop()


@pytest.mark.parametrize("moment", ["before", "at the commit"])
def test_a_database_that_is_lost_while_a_process_begins_is_named(url: str, moment: str) -> None:
    database = Database(open_engine(url, data_dir=Path()), ThreadBridge(), Bus(), shared=True)

    def lose(_: Transaction | None = None) -> None:
        with psycopg.connect(url, autocommit=True) as other:
            other.execute(END_OTHERS)

    def begin(connection: Connection) -> None:
        if moment == "before":
            lose()
        connection.transact(lose)

    with pytest.raises(DatabaseUnavailable, match="terminat"):
        database.prepare(begin)
    database.stop()


def test_who_missed_what_is_kept_no_more_goes_on(
    url: str, processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What everybody has had time to read is forgotten, the last that somebody knows included: that is no loss."""
    one, two = processes
    one.say("before")
    two.hear("before")
    monkeypatch.setattr(commit_log, "KEPT_SECONDS", -10)
    one.result(one.database.write("forget", say_and_forget, "after"))
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(END_OTHERS)
    assert isinstance(two.say("more"), int)
    assert one.say("last") > 0


def say_and_forget(txn: Transaction, word: str) -> None:
    say(txn, word)
    forget_old(txn, now_ms=1 << 45)


def test_a_commit_in_doubt_that_stands_is_found_without_anybody_saying_so(
    url: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(listening, "LOOK_EVERY_SECONDS", 600)
    process = Process(url)
    request.addfinalizer(process.database.stop)
    engine = process.database.engine
    commit = engine.write_and_commit

    def commit_and_be_lost(connection: RawConnection, statements: Sequence[Query]) -> None:
        commit(connection, statements)
        if statements:
            monkeypatch.setattr(engine, "write_and_commit", commit)
            raise psycopg.OperationalError("lost")

    # By then it has stopped looking by itself.
    time.sleep(4 * listening.READ_ON_SECONDS)
    monkeypatch.setattr(engine, "write_and_commit", commit_and_be_lost)
    process.result(process.database.write("say", say, "there all the same"))
    process.result(Deferred.fromCoroutine(process.database.come_up_to_date()))
    assert [type(news) for news in process.news] == [CommitInDoubt, CommitInDoubt]


def test_a_commit_in_doubt_is_looked_for_again_when_its_number_is_there() -> None:
    """It stood only after everybody had looked; or it never did, and a later one of ours has its number."""
    told: list[tuple[list[object], Any]] = []
    order = Order("one", 4, lambda news, outcomes: told.append((list(news), outcomes)))
    order.in_doubt(5, [CommitInDoubt()])
    order.heard([(6, "two", [Said(6, "next")])])
    assert told == []
    order.heard([(5, "one", [])])
    assert told == [([CommitInDoubt()], ()), ([Said(6, "next")], ())]
    order.ours(5, [Said(5, "later")], "done")
    assert told[2:] == [([], "done")], "who has looked has seen it"


def test_what_is_forgotten_leaves_no_hole_whatever_the_clocks_say(url: str, processes: list[Process]) -> None:
    """One of several machines is behind by more than commits are kept; or a clock was set back."""
    one, _ = processes
    for word in "abc":
        one.say(word)
    numbers = "SELECT number FROM commits ORDER BY number"
    with psycopg.connect(url, autocommit=True) as other:
        newest = one.result(one.database.read("newest", commit_log.newest))
        there = [row[0] for row in other.execute(numbers).fetchall()]
        other.execute("UPDATE commits SET made_at = 0 WHERE number = %s", (newest - 1,))
        one.result(one.database.write("forget", forget_old, now_ms=int(time.time() * 1000)))
        left = [row[0] for row in other.execute(numbers).fetchall()]
        assert left == there[-len(left) :]
        assert newest - 1 in left
        other.execute("UPDATE commits SET made_at = 0 WHERE number < %s", (newest,))
        one.result(one.database.write("forget", forget_old, now_ms=int(time.time() * 1000)))
        assert other.execute(numbers).fetchall() == [(newest,)]


def test_how_far_one_has_read_never_goes_back_whichever_thread_is_slow(
    url: str, processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the writing thread has read is not asked for again, nor is what it did not ask for taken as read."""
    one, _ = processes
    first = one.result(one.database.read("newest", commit_log.newest))
    for word in "abc":
        one.say(word)
    reading = Reading("other", first)

    def overtaken(*arguments: Any) -> Iterator[object]:
        # The listeners of the processes read, too.
        if threading.current_thread() is threading.main_thread():
            reading.has_read(first + 3)
        return from_log(*arguments)

    monkeypatch.setattr(commit_log, "from_log", overtaken)
    connection = Connection(open_engine(url, data_dir=Path()))
    asked = "SELECT number, maker, rooms, kinds, news FROM commits WHERE number > ? ORDER BY number"
    rows = connection.look(asked, (first,))
    txn = connection.without_begin()
    told = reading.read(txn, rows[:1])
    assert reading.last == first + 3
    told += reading.read(txn, rows)
    reading.ours(first + 2)
    connection.close()
    assert [number for number, _, _ in told] == [first + 1]
    assert reading.last == first + 3


def test_who_was_cut_short_spoils_nothing_of_what_is_said_later(url: str, processes: list[Process]) -> None:
    """What passes may be long, and the connection be lost in the middle of it."""
    one, two = processes
    listener = two.database._listener
    assert listener is not None
    holder = one.database._holder
    assert holder is not None
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("SELECT pg_notify('synapse_like', %s)", (f'{holder.name} 1 [["Said",',))
        wait_until("it to be heard", lambda: bool(listener._parts))
        other.execute(END_OTHERS)
    wait_until("it to listen again", lambda: not listener._parts)
    one.say("meanwhile")
    two.hear("meanwhile")
    one.result(one.database.tell_others(Said(0, "whole")))
    two.hear("meanwhile", "whole")


def test_one_who_cannot_begin_fails_and_the_next_is_done(
    processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = processes

    def stumble(*_: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(Holder, "begin", stumble)
        assert one.result(one.database.write("say", say, "never")).check(ZeroDivisionError)
    assert isinstance(one.say("next"), int)


def test_servers_that_share_a_database_are_one_server(url: str) -> None:
    """Each of them takes it for its own: its users, its rooms, and what it signs."""

    def connect(number: int, *before: int) -> Connection:
        engine = open_engine(url, data_dir=Path(), identity=Identity(number, frozenset([number, *before])))
        return Connection(engine, exclusive=True, holder=Holder())

    first, same = connect(1), connect(1)
    refused = "its name or its signing key is not the same.*server_name.*signing.key"
    with pytest.raises(DatabaseInUse, match=refused):
        connect(2)
    same.close()
    first.reconnect()
    with pytest.raises(DatabaseInUse, match=refused):
        connect(2)
    changed = connect(2, 1)
    with pytest.raises(DatabaseInUse, match=refused):
        connect(1)
    first.close()
    changed.close()
    connect(3).close()


class Worker:
    """A process that counts: `sharing_worker.py`."""

    def __init__(self, url: str, name: str, jobs: int, seed: int, folder: Path) -> None:
        self.output = folder / name
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.storage.sharing_worker", url, name, str(jobs), str(seed)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=output,
                preexec_fn=dying_with_us(9),
            )

    def told(self, what: str) -> list[int]:
        lines = [line.split() for line in self.output.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [int(line[1]) for line in lines if line[0] == what]

    def has_said(self, word: str) -> bool:
        return word in self.output.read_text().splitlines()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(30) == 0


def sum_of_rooms(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        [(found,)] = connection.execute(
            "SELECT SUM(position) FROM stream_positions WHERE stream = ANY(%s)", (list(ROOMS),)
        ).fetchall()
    return int(found)


def test_with_hundreds_of_writers_and_some_that_die_no_position_is_skipped_or_told_twice(
    url: str, tmp_path: Path
) -> None:
    before = sum_of_rooms(url)
    lasting = [Worker(url, f"worker{n}", 60, n, tmp_path) for n in range(4)]
    dying = [Worker(url, f"dying{n}", 400, 100 + n, tmp_path) for n in range(2)]
    everybody = [*lasting, *dying]
    for n, worker in enumerate(dying):
        wait_until("it to write", lambda worker=worker, n=n: len(worker.told("done")) > 10 + 20 * n)
        worker.process.kill()
        worker.process.wait()
    for worker in lasting:
        wait_until("all to be written", lambda worker=worker: worker.has_said("ready"))
    with psycopg.connect(url, autocommit=True) as connection:
        stored = [row[0] for row in connection.execute("SELECT position FROM counted ORDER BY position").fetchall()]
    assert stored == list(range(stored[0], stored[0] + len(stored)))
    assert sum_of_rooms(url) == before + len(stored), "each count saw the one before it"
    for worker in everybody:
        assert set(worker.told("done")) <= set(stored), "nothing acknowledged is lost"
    for worker in lasting:
        wait_until("it to hear the last", lambda worker=worker: worker.told("heard")[-1:] == stored[-1:])
        heard = worker.told("heard")
        assert heard == list(range(heard[0], stored[-1] + 1))
        assert heard[0] <= min(worker.told("done"))
        worker.end()
