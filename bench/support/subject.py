"""What is measured: a home server as its operator runs it, and its database.

The home server is a process of its own, started by its command line with the settings of an operator, but for those
of `tests.support.server.QUICK`. It may also be one of another kind (`bench.support.reference`). PostgreSQL is the
tests' own. It does not sync the disk, which costs time and hardly any CPU; its clients wait for their commits to be
handed to the system, though, as they do in earnest.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Protocol
from urllib.parse import urlsplit

import psycopg

from bench.support.counted import Counts
from bench.support.lines import Line, registration
from bench.support.usage import (
    Usage,
    children,
    cpu_seconds,
    has_work,
    listening_sockets,
    proportional_bytes,
    resident_bytes,
    written_bytes,
)
from tests.support.certificates import Authority
from tests.support.postgres import HOW_TO_INSTALL, PostgreSQL, find_binaries
from tests.support.processes import dying_with_us, wait_until
from tests.support.server import QUICK, ROOT, HomeServer

#: Bytes on disk by table: those of its rows, and those of its indexes.
Sizes = Counter[tuple[str, str]]
ROWS, INDEXES = "rows", "indexes"

#: How long a server may take to start, in seconds.
_START_SECONDS = 180

#: A server that uses less CPU time than this, in seconds, while `settle` looks away, has nothing to do.
_NOTHING = 0.0002


class Server(Protocol):
    """A home server with its data directory; `tests.support.server.HomeServer` tells more."""

    @property
    def data_dir(self) -> Path:
        """Where it keeps everything; with SQLite, its database is `homeserver.db` in there."""

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect."""

    @property
    def name(self) -> str:
        """By which others find it."""

    def recent_log(self) -> str:
        """What it wrote."""

    def launch(self) -> subprocess.Popen[bytes]:
        """Start its process, without waiting for anything."""


@dataclass(frozen=True)
class Kind:
    """A kind of home server.

    :ivar make: makes one, of a data directory, a database and settings.
    :ivar registration: the request to register, of a name and a password.
    """

    make: Callable[[Path, str, Mapping[str, object]], Server]
    registration: Callable[[str, str], bytes]


OWN = Kind(HomeServer, registration)


def installed(python: Path) -> Kind:
    """Ours, run by the Python of a venv that has what it needs and nothing else."""
    return Kind(partial(HomeServer, python=python), registration)


class Subject:
    """See the head of this file. Leave its `with` block and nothing of it remains.

    :param database: `sqlite` or `postgresql`.
    :param settings: beside those of `tests.support.server.QUICK`.
    :param kind: whose the home server is.
    :raises RuntimeError: PostgreSQL is not installed.
    """

    def __init__(self, database: str, settings: Mapping[str, object] | None = None, kind: Kind = OWN) -> None:
        self.registration = kind.registration
        self._process: subprocess.Popen[bytes] | None = None
        self._postmaster: int | None = None
        self._url = "sqlite"
        self._processes = int(str((settings or {}).get("processes", 1)))
        with ExitStack() as ending:
            folder = Path(ending.enter_context(TemporaryDirectory(prefix="synapse-like-bench-")))
            if database == "postgresql":
                self._open_postgresql(ending)
            self._server = kind.make(folder / "data", self._url, {**QUICK, **(settings or {})})
            ending.callback(self.stop)
            self._ending = ending.pop_all()

    def _open_postgresql(self, ending: ExitStack) -> None:
        binaries = find_binaries()
        if binaries is None:
            raise RuntimeError(HOW_TO_INSTALL)
        postgresql = PostgreSQL(binaries)
        ending.callback(postgresql.stop)
        self._postmaster = int((postgresql.log.parent / "data/postmaster.pid").read_text().split()[0])
        self._url = ending.enter_context(postgresql.database())
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute("ALTER ROLE CURRENT_USER SET synchronous_commit = on")

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    # Starting and stopping.

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect."""
        return self._server.address

    @property
    def name(self) -> str:
        """The name of the home server, by which others find it."""
        return self._server.name

    @property
    def server(self) -> HomeServer:
        """The home server, if it is our own, for its commands and clients; `start` and `stop` are the subject's."""
        assert isinstance(self._server, HomeServer)
        return self._server

    def start(self) -> None:
        """Start the home server and wait until it says that it is healthy, and all its processes listen."""
        self._process = self._server.launch()
        self._wait_for_health()
        # Before that, all connections would be those of the first.
        wait_until("all processes to listen", lambda: listening_sockets(self.address[1]) >= self._processes)

    def look_at_the_tables(self) -> None:
        """Have PostgreSQL know what its tables are like, as autovacuum sees to elsewhere."""
        if self._postmaster is not None:
            with psycopg.connect(self._url, autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")

    def stop(self) -> None:
        """Stop the home server in good order, if it runs."""
        if self._process is not None:
            process, self._process = self._process, None
            process.terminate()
            try:
                process.wait(timeout=30)
            finally:
                process.kill()
                process.wait()

    @contextmanager
    def counted(self) -> Iterator[Callable[[], Counts]]:
        """Run the home server so that it tells what it asks of its database (`bench.support.counted`)."""
        with self.server.log.open("ab") as log:
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.support.counted", self.server.config],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                preexec_fn=dying_with_us(signal.SIGKILL),
            )
        assert process.stdout is not None

        def counts() -> Counts:
            assert process.stdout is not None
            process.send_signal(signal.SIGUSR1)
            return Counts(**json.loads(process.stdout.readline()))

        with process.stdout:
            try:
                self._wait_for_health()
                yield counts
            finally:
                self.stop()

    def _wait_for_health(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server does not start:\n{self._server.recent_log()}")
            try:
                with Line(self.address) as line:
                    line.ask(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    return
            except ConnectionRefusedError:
                time.sleep(0.005)

    # What it uses.

    def usage(self) -> Usage:
        """What was used so far, and the time."""
        server, database = self._its_processes(), self._database_processes()
        return Usage(
            sum(map(cpu_seconds, server)),
            sum(map(cpu_seconds, database)),
            time.perf_counter(),
            sum(map(written_bytes, [*server, *database])),
        )

    def watch(self) -> StopWatch:
        """What will tell what it uses for something."""
        return StopWatch(self)

    def settle(self) -> None:
        """Wait until the home server has nothing to do any more."""
        before = self.usage().server
        while True:
            time.sleep(0.02)
            now = self.usage().server
            # On a busy machine it may just not have had its turn.
            if now - before < _NOTHING * len(self._its_processes()) and not any(map(has_work, self._its_processes())):
                return
            before = now

    def resident_bytes(self) -> int:
        """Memory that the home server holds."""
        return resident_bytes(self.process_id)

    def proportional_bytes(self) -> int:
        """Memory of all its processes, what they have in common counted once."""
        return sum(map(proportional_bytes, self._its_processes()))

    @contextmanager
    def transactions(self) -> Iterator[Callable[[], int]]:
        """Ask how many transactions PostgreSQL has ended so far in its database; what is asked is not counted."""
        assert self._postmaster is not None, "SQLite does not count them"
        # By a connection to another database, which is there all the time, so that it does not look like work.
        with psycopg.connect(self._url, dbname="postgres", autocommit=True) as connection:

            def ended() -> int:
                row = connection.execute(
                    "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s",
                    (urlsplit(self._url).path.removeprefix("/"),),
                ).fetchone()
                assert row is not None
                return int(row[0])

            ended()
            yield ended

    @property
    def process_id(self) -> int:
        """The ID of the home server's process."""
        return self._its_process()

    def _its_process(self) -> int:
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def _its_processes(self) -> list[int]:
        """If it is several processes: all of them, their parent first."""
        parent = self._its_process()
        return [parent, *children(parent)]

    def _database_processes(self) -> list[int]:
        return [] if self._postmaster is None else [self._postmaster, *children(self._postmaster)]

    # What its database has on disk.

    def sizes(self) -> Sizes:
        """The size of the tables on disk, once everything has been written there."""
        return self._sqlite_sizes() if self._postmaster is None else self._postgresql_sizes()

    def bytes_on_disk(self) -> int:
        """The size of the whole database, once everything has been written there; cheap however large it is."""
        if self._postmaster is None:
            path = self._server.data_dir / "homeserver.db"
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return path.stat().st_size
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
            row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        assert row is not None
        return int(row[0])

    def _sqlite_sizes(self) -> Sizes:
        with closing(sqlite3.connect(self._server.data_dir / "homeserver.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return _by_table(
                connection.execute(
                    "SELECT s.tbl_name, s.type = 'index', d.pgsize FROM dbstat d"
                    " JOIN sqlite_schema s ON s.name = d.name WHERE d.aggregate = TRUE"
                )
            )

    def _postgresql_sizes(self) -> Sizes:
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
            return _by_table(
                connection.execute(
                    "SELECT relname, false, pg_table_size(oid) FROM pg_class"
                    " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
                    " UNION ALL SELECT t.relname, true, pg_relation_size(i.indexrelid)"
                    " FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid"
                    " WHERE t.relnamespace = 'public'::regnamespace"
                )
            )

    def database_version(self) -> str:
        """The database by its name and version."""
        if self._postmaster is None:
            return f"SQLite {sqlite3.sqlite_version}"
        with psycopg.connect(self._url) as connection:
            version = str(connection.info.server_version)
        return f"PostgreSQL {version[:-4]}.{int(version[-4:])}"


class StopWatch:
    """Adds up what a subject uses within `with` blocks."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._used = Usage()
        self._before = Usage()

    def __enter__(self) -> None:
        self._before = self._subject.usage()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self._used += self._subject.usage() - self._before

    def per(self, operations: int) -> Usage:
        """What was used for each of some operations."""
        return self._used * (1 / operations)


def federated(authority: Authority) -> dict[str, object]:
    """The settings of a home server that speaks to others on this machine.

    :param authority: whose certificates they all believe.
    """
    files = authority.certify("localhost")
    return {
        "federation.ca_file": str(authority.file),
        "federation.tls_certificate": str(files.certificate),
        "federation.tls_private_key": str(files.private_key),
        "federation.allow_private_addresses": True,
    }


def _by_table(rows: Iterator[tuple[str, bool, int]]) -> Sizes:
    sizes: Sizes = Counter()
    for table, is_index, size in rows:
        sizes[table, INDEXES if is_index else ROWS] += size
    return sizes
