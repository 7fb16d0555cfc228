"""What every test may ask for: databases of both kinds.

`database_kind` runs a test, and everything it asks for, once on SQLite and once on PostgreSQL; scenarios that have much
to do with it also on a PostgreSQL that several processes share.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from synapse_like import logs
from synapse_like.storage.bus import Bus
from synapse_like.storage.connections import Connection
from synapse_like.storage.database import Database
from synapse_like.storage.engines.engine import Engine
from synapse_like.storage.engines.opening import open_engine
from synapse_like.storage.migrations import migrate
from tests.support.needed import needed
from tests.support.postgres import HOW_TO_INSTALL, PostgreSQL, find_binaries
from tests.support.threads import ThreadBridge

#: Makes an empty database that lives as long as its context, and gives its URL. The one of SQLite is plainly
#: `sqlite`: there it is the data directory that must be new.
NewDatabase = Callable[[], AbstractContextManager[str]]

DATABASE_KINDS = ("sqlite", "postgresql")
#: PostgreSQL, for servers of several processes.
SHARED = "shared"

# Whole servers are started by the hundred: what they are made of shall be compiled once.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: more than there are cores, since tests of whole servers spend much of their time waiting."""
    return 3 * (os.cpu_count() or 1) // 2


class ByFileAndDatabase(LoadFileScheduling):
    """Hands out the tests of a file on one kind of database together.

    By files alone each would be followed by the next on the other kind, and with the kind change all servers that the
    tests share: they would be started twice for every file instead of twice in all.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        parameters = re.split(r"[\[\]-]", test)
        kind = next((kind for kind in (*DATABASE_KINDS, SHARED) if kind in parameters), "")
        return f"{file} {kind}"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFileAndDatabase | None:
    """For `--dist loadfile`."""
    return ByFileAndDatabase(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """Whatever a test makes of the log of the process, the next one finds it untouched, and can capture all of it.

    So do fixtures that are made for many tests, which come before this one.
    """
    logs.unconfigure()
    yield
    logs.unconfigure()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server of our own, for as long as the tests run."""
    server = PostgreSQL(needed(find_binaries(), "POSTGRES", HOW_TO_INSTALL))
    yield server
    server.stop()


@pytest.fixture(scope="session", params=DATABASE_KINDS)
def database_kind(request: pytest.FixtureRequest) -> str:
    """One kind of database after the other."""
    return str(request.param)


@pytest.fixture(scope="session")
def new_database(request: pytest.FixtureRequest, database_kind: str) -> NewDatabase:
    """How to make databases of this kind."""
    if database_kind == "sqlite":
        return lambda: nullcontext("sqlite")
    postgresql: PostgreSQL = request.getfixturevalue("postgresql")
    return postgresql.database


@pytest.fixture
def database_url(new_database: NewDatabase) -> Iterator[str]:
    """An empty database for one test, as the setting `database.url` names it."""
    with new_database() as url:
        yield url


@pytest.fixture
def engine(database_url: str, tmp_path: Path) -> Engine:
    """The engine of an empty database."""
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
    """Makes the calls of `database`'s threads when it is pumped."""
    return ThreadBridge()


@pytest.fixture
def bus() -> Bus:
    """Where `database` publishes its news."""
    return Bus()


@pytest.fixture
def database(engine: Engine, bridge: ThreadBridge, bus: Bus) -> Iterator[Database]:
    """A database with all tables, its threads running."""
    database = Database(engine, bridge, bus, readers=2)
    database.prepare(migrate)
    database.start()
    yield database
    database.stop()
