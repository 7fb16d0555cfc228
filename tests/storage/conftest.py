"""A fresh database of each kind for every storage test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Connection, Database
from synapse_like.storage.engines import Engine, open_engine
from synapse_like.storage.migrations import migrate


class ThreadBridge:
    """The one thing that a `Database` needs of a reactor: calls from its threads, made when the test says so."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()

    def callFromThread(self, function: Callable[..., Any], *args: Any) -> None:  # noqa: N802 - Twisted's name
        self._calls.put((function, args))

    def pump(self, until: Callable[[], bool], seconds: float = 10) -> None:
        """Make the calls as they come, until something is true."""
        while not until():
            try:
                function, args = self._calls.get(timeout=seconds)
            except Empty:
                pytest.fail("nothing came from the database's threads")
            function(*args)


@pytest.fixture
def engine(database_url: str, tmp_path: Path) -> Engine:
    """One engine after the other, on an empty database."""
    return open_engine(database_url, data_dir=tmp_path, durability="normal")


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """A connection to a database with all tables."""
    connection = Connection(engine)
    migrate(connection)
    yield connection
    connection.close()


@pytest.fixture
def bridge() -> ThreadBridge:
    return ThreadBridge()


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def database(engine: Engine, bridge: ThreadBridge, bus: Bus) -> Iterator[Database]:
    """A database with its threads running."""
    database = Database(engine, bridge, bus, readers=2)
    database.prepare(migrate)
    database.start()
    yield database
    database.stop()
