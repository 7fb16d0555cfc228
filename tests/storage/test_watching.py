"""Who waits for a database that does not answer is told so, and who waits for one that has much to do is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from synapse_like.protocol.errors import Unavailable
from synapse_like.storage.bus import Bus
from synapse_like.storage.connections import Connection
from synapse_like.storage.database import Database
from synapse_like.storage.engines import postgresql
from synapse_like.storage.engines.opening import open_engine
from synapse_like.storage.migrations import migrate
from synapse_like.storage.transactions import Transaction
from tests.support.needed import needed
from tests.support.postgres import HOW_TO_INSTALL, PostgreSQL, find_binaries
from tests.support.processes import wait_until
from tests.support.threads import ThreadBridge


class Watched:
    """A database of a server that may be stopped."""

    def __init__(self, server: PostgreSQL, url: str) -> None:
        self.server = server
        self.bridge = ThreadBridge()
        self.database = Database(open_engine(url, data_dir=Path()), self.bridge, Bus(), readers=1)
        self.database.prepare(migrate)
        self.database.start()

    def result(self, deferred: Deferred[object], seconds: float = 30) -> object:
        results: list[object] = []
        deferred.addBoth(results.append)
        self.bridge.pump(lambda: bool(results), seconds)
        return results[0]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(postgresql, "LOOK_EVERY_SECONDS", 0.1)
    monkeypatch.setattr(postgresql, "PING_SECONDS", 1)
    server = PostgreSQL(needed(find_binaries(), "POSTGRES", HOW_TO_INSTALL))
    try:
        with server.database() as url:
            made = Watched(server, url)
            yield made
            made.database.stop()
    finally:
        server.stop()


def rest(txn: Transaction, seconds: float) -> str:
    txn.one("SELECT pg_sleep(?)", (seconds,))
    return "rested"


def test_who_waits_for_a_server_that_is_stopped_is_told_and_goes_on_when_it_does(watched: Watched) -> None:
    reading = watched.database.read("rest", rest, 0.5)
    writing = watched.database.write("rest", rest, 0.5)
    with Connection(watched.database.engine).raw as looking:
        busy = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' OFFSET 1"
        wait_until("both to rest", lambda: looking.execute(busy).fetchone())
        with watched.server.standing_still():
            for waiting in (reading, writing):
                failure = watched.result(waiting)
                assert failure.check(Unavailable), failure
    assert watched.result(watched.database.write("rest", rest, 0)) == "rested"
    assert watched.result(watched.database.read("rest", rest, 0)) == "rested"


def test_who_waits_for_a_server_that_has_much_to_do_waits(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it lets nobody in: to say so is an answer."""
    pings: list[bool] = []
    is_there = watched.database.engine._watch._is_there
    monkeypatch.setattr(watched.database.engine._watch, "_is_there", lambda it: pings.append(is_there(it)) or pings[-1])
    watched.server.execute("ALTER DATABASE test_1 WITH ALLOW_CONNECTIONS false")
    assert watched.result(watched.database.read("rest", rest, 3)) == "rested"
    assert pings
    assert all(pings)
