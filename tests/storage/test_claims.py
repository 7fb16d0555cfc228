"""What only one process may do at a time: it is held by one, and taken over when that one is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event

import psycopg
import pytest

from synapse_like.storage import claims
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.engines.opening import open_engine
from tests.storage.test_sharing import Process, prepare
from tests.support.postgres import PostgreSQL
from tests.support.threads import ThreadBridge

#: End the connections by which processes claim.
END_CLAIMS = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
    " AND query LIKE '%pg_try_advisory_lock(number)%' AND pid <> pg_backend_pid()"
)


@pytest.fixture(scope="module")
def url(postgresql: PostgreSQL) -> Iterator[str]:
    with postgresql.database() as url:
        prepare(url)
        yield url


@pytest.fixture
def processes(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Process]]:
    monkeypatch.setattr(claims, "TRY_EVERY_SECONDS", 0.1)
    made = [Process(url), Process(url)]
    yield made
    for process in made:
        process.database.stop()


class Wanting:
    """A process that wants a claim, and what it was told."""

    def __init__(self, process: Process, name: str) -> None:
        self.process, self.name, self.told = process, name, list[str]()
        process.database.claims.want(name, lambda: self.told.append("got"), lambda: self.told.append("lost"))

    @property
    def holds(self) -> bool:
        return self.process.database.claims.holds(self.name)

    def hear(self, *told: str) -> None:
        self.process.bridge.pump(lambda: len(self.told) >= len(told), 30)
        assert self.told == list(told)


def test_one_has_it_and_the_next_when_that_one_is_gone(processes: list[Process]) -> None:
    one, two = processes
    first = Wanting(one, "a")
    first.hear("got")
    second, other = Wanting(two, "a"), Wanting(two, "b")
    other.hear("got")
    assert (first.holds, second.holds, other.holds) == (True, False, True)
    one.database.stop()
    second.hear("got")
    assert second.holds
    assert first.told == ["got"]


def test_who_loses_the_connection_is_told_and_has_it_again(url: str, processes: list[Process]) -> None:
    one, _ = processes
    wanting = Wanting(one, "c")
    wanting.hear("got")
    with psycopg.connect(url, autocommit=True) as other:
        ended = other.execute(END_CLAIMS).fetchall()
        assert ended
    wanting.hear("got", "lost", "got")
    assert wanting.holds


def test_who_asks_nothing_any_more_has_lost_what_it_held(
    processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process that is stopped: its connection stands, and nothing comes over it."""
    one, two = processes
    first = Wanting(one, "d")
    first.hear("got")
    monkeypatch.setattr(claims, "GIVEN_UP_SECONDS", 0.5)
    goes_on = Event()
    with psycopg.connect(two.url, autocommit=True) as other:
        other.execute(END_CLAIMS)
    first.hear("got", "lost", "got")
    go_on = one.database.claims._try
    monkeypatch.setattr(one.database.claims, "_try", lambda *what: goes_on.wait(60) and go_on(*what))
    second = Wanting(two, "d")
    second.hear("got")
    goes_on.set()
    first.hear("got", "lost", "got", "lost")


def test_who_is_alone_holds_everything_and_asks_for_nothing(tmp_path: Path) -> None:
    database = Database(open_engine("sqlite", data_dir=tmp_path), ThreadBridge(), Bus())
    told: list[str] = []
    assert database.claims.holds("a")
    database.claims.want("a", lambda: told.append("got"))
    assert told == ["got"]
    database.stop()
