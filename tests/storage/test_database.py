"""Transactions: group commit, refusals, order of news, snapshots."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from synapse_like.protocol.errors import Forbidden, UnknownToken
from synapse_like.storage import accounts
from synapse_like.storage.bus import Bus
from synapse_like.storage.connections import Connection
from synapse_like.storage.database import Database
from synapse_like.storage.engines.engine import DatabaseInUse, DatabaseUnavailable, Engine, Query, RawConnection
from synapse_like.storage.news import CommitInDoubt
from synapse_like.storage.retransmissions import Once, once
from synapse_like.storage.state import SLOTS
from synapse_like.storage.transactions import Transaction
from tests.support.threads import ThreadBridge


def add(txn: Transaction, stream: str) -> str:
    txn.execute("INSERT INTO stream_positions (stream, position) VALUES (?, 0)", (stream,))
    return stream


def streams(txn: Transaction) -> set[str]:
    there_before = {"commits", "events", "outgoing_edus", "presence"}
    return {row[0] for row in txn.all("SELECT stream FROM stream_positions")} - there_before


def refuse(txn: Transaction) -> None:
    raise Forbidden("no")


def write_then_fail(txn: Transaction) -> None:
    add(txn, "spoilt")
    raise ZeroDivisionError


class Results:
    """Collects what Deferreds give."""

    def __init__(self, bridge: ThreadBridge) -> None:
        self._bridge = bridge
        self.values: dict[str, Any] = {}

    def watch(self, name: str, deferred: Deferred[Any]) -> None:
        deferred.addCallbacks(
            lambda value: self.values.__setitem__(name, value),
            lambda failure: self.values.__setitem__(name, failure.value),
        )

    def of(self, name: str, deferred: Deferred[Any]) -> Any:
        self.watch(name, deferred)
        self.wait(name)
        return self.values[name]

    def wait(self, *names: str) -> None:
        self._bridge.pump(lambda: all(name in self.values for name in names))


@pytest.fixture
def results(bridge: ThreadBridge) -> Results:
    return Results(bridge)


class Gate:
    """A job that keeps the writer busy until it is opened, so that other jobs pile up behind it."""

    def __init__(self, database: Database, results: Results) -> None:
        self._open = threading.Event()
        entered = threading.Event()

        def job(txn: Transaction) -> None:
            entered.set()
            assert self._open.wait(10)

        results.watch("gate", database.write("gate", job))
        assert entered.wait(10)

    def open(self) -> None:
        self._open.set()


def begin_token(txn: Transaction) -> int:
    accounts.create(txn, "@user:x", password_hash=None, now_ms=1)
    return accounts.add_token(txn, "@user:x", b"token", now_ms=1)


def test_what_jobs_ask_first_is_asked_for_all_of_them_at_once(
    database: Database, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    token_id = results.of("begin", database.write("begin", begin_token))
    gate = Gate(database, results)
    asked: list[int] = []

    def ask(connection: RawConnection, queries: Sequence[Query], **others: Any) -> Any:
        asked.append(len(queries))
        return really_ask(connection, queries, **others)

    really_ask = database.engine.ask
    monkeypatch.setattr(database.engine, "ask", ask)
    names = [f"PUT /a/{n}" for n in range(5)]
    for name in names:
        results.watch(name, database.write("say", once, Once(token_id, name, 1), lambda _, said: {"id": said}, name))
    # Each is done once, also of those that come together.
    results.watch("again", database.write("say", once, Once(token_id, names[0], 1), lambda _: {"id": "another"}))
    gate.open()
    results.wait(*names, "again")
    assert [results.values[name] for name in names] == [{"id": name} for name in names]
    assert results.values["again"] == {"id": names[0]}
    assert asked == [5, 1]


def test_a_request_that_waits_behind_the_end_of_its_token_is_not_done(database: Database, results: Results) -> None:
    token_id = results.of("begin", database.write("begin", begin_token))
    gate = Gate(database, results)
    results.watch("log out", database.write("log-out", accounts.delete_token, token_id))
    said = database.write("say", once, Once(token_id, "PUT /a/1", 1), lambda _: {"id": "said"})
    results.watch("said", said)
    gate.open()
    results.wait("log out", "said")
    assert isinstance(results.values["said"], UnknownToken)


def test_jobs_that_wait_share_one_commit(database: Database, results: Results) -> None:
    gate = Gate(database, results)
    names = [f"job{n}" for n in range(10)]
    for name in names:
        results.watch(name, database.write(name, add, name))
    before = database.statistics.commits
    gate.open()
    results.wait(*names)
    assert database.statistics.commits - before == 1
    assert results.of("all", database.read("all", streams)) == set(names)


def test_jobs_that_come_meanwhile_share_the_commit(database: Database, results: Results) -> None:
    def first(txn: Transaction) -> str:
        results.watch("second", database.write("second", add, "b"))
        return add(txn, "a")

    before = database.statistics.commits
    results.watch("first", database.write("first", first))
    results.wait("first", "second")
    assert database.statistics.commits - before == 1
    assert results.of("read", database.read("streams", streams)) == {"a", "b"}


def test_jobs_that_came_meanwhile_are_done_all_the_same_if_one_of_them_spoils_the_commit(
    database: Database, results: Results
) -> None:
    def first(txn: Transaction) -> str:
        if "spoilt" not in seen:
            seen.append("spoilt")
            results.watch("spoilt", database.write("spoilt", write_then_fail))
            results.watch("last", database.write("last", add, "b"))
        return add(txn, "a")

    seen: list[str] = []
    results.watch("first", database.write("first", first))
    results.wait("first", "spoilt", "last")
    assert isinstance(results.values["spoilt"], ZeroDivisionError)
    assert results.of("read", database.read("streams", streams)) == {"a", "b"}


def test_a_refused_job_fails_alone_and_the_others_share_their_commit(database: Database, results: Results) -> None:
    gate = Gate(database, results)
    results.watch("a", database.write("a", add, "a"))
    results.watch("refused", database.write("refused", refuse))
    results.watch("b", database.write("b", add, "b"))
    before = database.statistics.commits
    gate.open()
    results.wait("a", "b", "refused")
    assert isinstance(results.values["refused"], Forbidden)
    assert database.statistics.commits - before == 1
    assert results.of("all", database.read("all", streams)) == {"a", "b"}


def test_a_job_that_fails_after_writing_leaves_nothing_and_spoils_nobody(database: Database, results: Results) -> None:
    gate = Gate(database, results)
    results.watch("a", database.write("a", add, "a"))
    results.watch("spoilt", database.write("spoilt", write_then_fail))
    results.watch("b", database.write("b", add, "b"))
    gate.open()
    results.wait("a", "b", "spoilt")
    assert isinstance(results.values["spoilt"], ZeroDivisionError)
    assert (results.values["a"], results.values["b"]) == ("a", "b")
    assert results.of("all", database.read("all", streams)) == {"a", "b"}


def test_a_statement_that_the_database_refuses_spoils_nobody(database: Database, results: Results) -> None:
    gate = Gate(database, results)
    results.watch("a", database.write("a", add, "same"))
    results.watch("again", database.write("again", add, "same"))
    results.watch("b", database.write("b", add, "other"))
    gate.open()
    results.wait("a", "again", "b")
    assert isinstance(results.values["again"], database.engine.database_errors)
    assert results.of("all", database.read("all", streams)) == {"same", "other"}


def test_a_statement_that_the_database_refuses_with_the_commit_spoils_nobody(
    database: Database, results: Results
) -> None:
    """What came with the commit was refused: that is no doubt whether it stands."""

    def of_nobody(txn: Transaction) -> None:
        txn.execute_later(
            "INSERT INTO retransmissions (token_id, request_hash, result, created_at) VALUES (?, ?, ?, ?)",
            (4711, b"hash", "{}", 1),
        )

    gate = Gate(database, results)
    results.watch("a", database.write("a", add, "a"))
    results.watch("refused", database.write("refused", of_nobody))
    results.watch("b", database.write("b", add, "b"))
    gate.open()
    results.wait("a", "b", "refused")
    assert isinstance(results.values["refused"], database.engine.database_errors)
    assert results.of("all", database.read("all", streams)) == {"a", "b"}


def test_what_is_refused_with_the_commit_is_not_in_doubt_whatever_the_reason(
    database: Database, results: Results, bus: Bus
) -> None:
    if not database.engine.gathers:
        return
    doubts: list[object] = []
    bus.subscribe(CommitInDoubt, doubts.append)

    def take_too_long(txn: Transaction) -> None:
        txn.execute("SET LOCAL statement_timeout = 50")
        txn.execute_later("SELECT pg_sleep(10)")

    gate = Gate(database, results)
    results.watch("a", database.write("a", add, "a"))
    results.watch("late", database.write("late", take_too_long))
    gate.open()
    results.wait("a", "late")
    assert isinstance(results.values["late"], Exception)
    assert doubts == []
    assert results.of("all", database.read("all", streams)) == {"a"}


def test_news_comes_after_the_commit_in_order_and_never_from_a_job_that_failed(
    database: Database, results: Results, bus: Bus
) -> None:
    heard: list[str] = []
    bus.subscribe(str, heard.append)

    def announcing(name: str, *, fail: bool = False) -> Any:
        def job(txn: Transaction) -> None:
            txn.announce(name)
            if fail:
                raise Forbidden("no")
            add(txn, name)
            txn.announce(f"{name} again")

        return job

    gate = Gate(database, results)
    for name in ("one", "two", "three"):
        results.watch(name, database.write(name, announcing(name, fail=name == "two")))
    gate.open()
    results.wait("one", "two", "three")
    assert heard == ["one", "one again", "three", "three again"]


def test_news_is_published_before_the_result_is_known(database: Database, results: Results, bus: Bus) -> None:
    heard: list[str] = []
    bus.subscribe(str, heard.append)

    def job(txn: Transaction) -> None:
        txn.announce("news")

    heard_at_result: list[list[str]] = []
    deferred = database.write("job", job)
    deferred.addCallback(lambda _: heard_at_result.append(list(heard)))
    results.of("job", deferred)
    assert heard_at_result == [["news"]]


def test_a_reading_job_sees_one_snapshot(database: Database, results: Results) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def look_twice(txn: Transaction) -> tuple[set[str], set[str]]:
        first = streams(txn)
        inside.set()
        assert go_on.wait(10)
        return first, streams(txn)

    results.watch("look", database.read("look", look_twice))
    assert inside.wait(10)
    results.of("write", database.write("write", add, "later"))
    go_on.set()
    results.wait("look")
    assert results.values["look"] == (set(), set())
    assert results.of("all", database.read("all", streams)) == {"later"}


def test_stopping_finishes_what_waits(engine: Engine, database: Database, results: Results) -> None:
    gate = Gate(database, results)
    for n in range(5):
        results.watch(f"job{n}", database.write("job", add, f"job{n}"))
    gate.open()
    database.stop()
    connection = Connection(engine)
    try:
        assert connection.transact(streams) == {f"job{n}" for n in range(5)}
    finally:
        connection.close()
    with pytest.raises(DatabaseUnavailable):
        database.write("too late", add, "x")


def test_a_second_server_on_the_same_database_is_refused(engine: Engine, database: Database) -> None:
    with pytest.raises(DatabaseInUse):
        Connection(engine, exclusive=True)


def test_a_database_can_be_claimed_again_after_the_first_server_has_gone(engine: Engine) -> None:
    Connection(engine, exclusive=True).close()
    Connection(engine, exclusive=True).close()


def test_what_a_command_changes_makes_the_server_forget_its_copies(
    engine: Engine, database: Database, results: Results
) -> None:
    results.of("first", database.write("first", add, "first"))
    results.of("keep", database.write("keep", lambda txn: txn.cache(SLOTS).put(txn, ("a", "b"), 1)))
    assert database.caches.of(SLOTS).get(("a", "b")) == 1
    beside = Connection(engine, outside=True)
    beside.transact(add, "from a command")
    beside.close()
    results.of("next", database.write("next", streams))
    assert database.caches.of(SLOTS).get(("a", "b")) is None


def test_copies_made_by_a_rolled_back_transaction_are_never_seen(connection: Connection) -> None:
    txn = connection.begin(writable=True)
    txn.cache(SLOTS).put(txn, ("a", "b"), 1)
    connection.roll_back(txn)
    assert connection.caches.of(SLOTS).get(("a", "b")) is None


def test_a_copy_read_before_something_was_dropped_is_not_kept(connection: Connection) -> None:
    reader = Transaction(connection.raw, connection.engine, connection.caches, writable=False)
    connection.caches.of(SLOTS).clear()
    reader.cache(SLOTS).put(reader, ("a", "b"), 1)
    assert connection.caches.of(SLOTS).get(("a", "b")) is None
