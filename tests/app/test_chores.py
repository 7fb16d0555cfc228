"""The periodic jobs of which one is enough are done by one process, and by another when that one is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.task import Clock as HandMovedTime

from synapse_like.app.chores import share_out
from synapse_like.background import Repeating, every
from synapse_like.clock import ReactorClock
from synapse_like.storage import claims
from synapse_like.storage.bus import Bus
from synapse_like.storage.claims import CHORES
from synapse_like.storage.database import Database
from synapse_like.storage.engines.opening import open_engine
from tests.storage.test_sharing import Process, prepare
from tests.support.postgres import PostgreSQL
from tests.support.threads import ThreadBridge


class Doing:
    """A process with a task that one is enough for, and one that each does."""

    def __init__(self, database: Database) -> None:
        self.time, self.done = HandMovedTime(), list[str]()
        clock = ReactorClock(self.time)
        self.tasks = share_out(
            [self._task(clock, name) for name in ("departures", "drop-idle-watchers")], database, clock
        )
        for task in self.tasks:
            task.start()

    def _task(self, clock: ReactorClock, name: str) -> Repeating:
        async def do() -> None:
            self.done.append(name)

        return every(clock, name, 10, do)

    def turn(self) -> list[str]:
        self.done.clear()
        self.time.advance(10)
        return sorted(self.done)


@pytest.fixture
def processes(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Process]]:
    monkeypatch.setattr(claims, "TRY_EVERY_SECONDS", 0.1)
    with postgresql.database() as url:
        prepare(url)
        made = [Process(url), Process(url)]
        yield made
        for process in made:
            process.database.stop()


def claim(process: Process) -> None:
    process.database.claims.want(CHORES, lambda: None)


def wait_for_claim(process: Process) -> None:
    process.bridge.pump(lambda: process.database.claims.holds(CHORES), 30)


def test_one_does_what_one_is_enough_for(processes: list[Process]) -> None:
    one, two = processes
    claim(one)
    wait_for_claim(one)
    claim(two)
    first, second = Doing(one.database), Doing(two.database)
    assert first.turn() == ["departures", "drop-idle-watchers"]
    assert second.turn() == ["drop-idle-watchers"]
    one.database.stop()
    wait_for_claim(two)
    assert second.turn() == ["departures", "drop-idle-watchers"]
    assert "forget-commits" in {task.name for task in second.tasks}


def test_who_is_alone_does_everything(tmp_path: Path) -> None:
    database = Database(open_engine("sqlite", data_dir=tmp_path), ThreadBridge(), Bus())
    assert Doing(database).turn() == ["departures", "drop-idle-watchers"]
    database.stop()
