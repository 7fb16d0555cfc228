"""SQLite: one file, one process that writes to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from synapse_like.storage.engines.engine import (
    BUSY_SECONDS,
    MOST_STATEMENTS,
    DatabaseInUse,
    DatabaseUnavailable,
    Query,
    RawConnection,
    Row,
)

#: What `PRAGMA auto_vacuum` says of a database that is INCREMENTAL.
_INCREMENTAL = 2


class SqliteEngine:
    """SQLite in WAL mode: one writer, many readers, nothing acknowledged is lost by a killed process.

    :param path: the database file; its folder must exist.
    :param durability: ``full`` syncs at every commit (survives a power cut), ``normal`` leaves that to the system
        (survives a killed process, may lose the last moments at a power cut).
    """

    name = "sqlite"
    connection_errors: tuple[type[Exception], ...] = ()
    database_errors: tuple[type[Exception], ...] = (sqlite3.Error,)
    passing_errors: tuple[type[Exception], ...] = ()
    gathers = False
    can_be_shared = False
    for_update = ""
    size_query = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"

    def __init__(self, path: Path, durability: str = "full") -> None:
        self._path = path
        self._synchronous = "FULL" if durability == "full" else "NORMAL"
        self._lock_file: int | None = None

    @property
    def path(self) -> Path | None:
        return self._path

    def connect(self, *, exclusive: bool, shared: bool = False) -> RawConnection:
        assert not shared, "SQLite has one writer"
        try:
            if exclusive:
                self._claim()
            self._make_file()
            connection = sqlite3.connect(
                self._path,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=MOST_STATEMENTS,
            )
            # Must come before the first table: lets a purge give its pages back to the file system. To say it again
            # would be a write, which waits for the disk twice.
            [(vacuum,)] = connection.execute("PRAGMA auto_vacuum").fetchall()
            if vacuum != _INCREMENTAL:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute("PRAGMA foreign_keys = ON")
            # Redacted and purged data must leave the file, not only the tables.
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA journal_size_limit = 16777216")
        except (OSError, sqlite3.Error) as error:
            self.release()
            raise DatabaseUnavailable(f"cannot open the SQLite database {self._path}: {error}") from error
        return connection

    def _make_file(self) -> None:
        """Make the database file for its owner alone, where SQLite would let everybody read it.

        Only if it is not there: to close a file is to lose all locks that the process has on it, and without those
        another process may take the write-ahead log away under a running server.
        """
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))

    def _claim(self) -> None:
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise DatabaseInUse(f"another server is running on the database {self._path}") from error
        self._lock_file = lock

    def apart(self, connection: RawConnection) -> AbstractContextManager[Callable[[], None]]:
        raise NotImplementedError("nobody else writes to SQLite")

    def adapt(self, sql: str) -> str:
        return (
            sql.replace("AUTO_KEY", "INTEGER PRIMARY KEY")
            .replace("LASTING_KEY", "INTEGER PRIMARY KEY AUTOINCREMENT")
            .replace("BYTES", "BLOB")
        )

    def forget_deleted(self, connection: RawConnection) -> bool:
        # Old versions of a page live on in the write-ahead log until it is emptied. Who still reads them, a backup
        # perhaps, is not waited for: nobody could write meanwhile.
        connection.execute("PRAGMA incremental_vacuum").fetchall()
        connection.execute("PRAGMA busy_timeout = 0")
        try:
            [(is_busy, _, _)] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        return not is_busy

    def faults(self, connection: RawConnection, *, thorough: bool = False) -> list[str]:
        check = "integrity_check(20)" if thorough else "quick_check(5)"
        found = [str(row[0]) for row in connection.execute(f"PRAGMA {check}").fetchall()]
        faults = [] if found == ["ok"] else [f"SQLite finds: {line}" for line in found]
        if thorough:
            for table, row_id, parent, _ in connection.execute("PRAGMA foreign_key_check").fetchall()[:20]:
                faults.append(f"The row {row_id} of {table} refers to one of {parent} that is not there.")
        return faults

    def risks(self, connection: RawConnection) -> list[str]:
        if self._synchronous == "FULL":
            return []
        return ["A power cut may take the last moments: database.durability is normal."]

    def left_out(self, connection: RawConnection) -> list[str]:
        return []

    def make_indexes_anew(self, connection: RawConnection) -> None:
        connection.execute("REINDEX")

    def listen(self, connection: RawConnection) -> None:
        raise NotImplementedError("nobody else writes to SQLite")

    def notices(self, connection: RawConnection, seconds: float) -> list[str]:
        raise NotImplementedError("nobody else writes to SQLite")

    def notify(self, connection: RawConnection, text: str = "") -> None:
        raise NotImplementedError("nobody else writes to SQLite")

    def release_locks(self, connection: RawConnection, locks: Sequence[int]) -> None:
        raise NotImplementedError("nobody else writes to SQLite")

    def try_locks(self, connection: RawConnection, locks: Sequence[int]) -> set[int]:
        raise NotImplementedError("nobody else writes to SQLite")

    def end_if_silent(self, connection: RawConnection, seconds: float) -> None:
        raise NotImplementedError("nobody else writes to SQLite")

    def watch(self) -> AbstractContextManager[object]:
        return contextlib.nullcontext()

    def begin(self, connection: RawConnection, *, writable: bool) -> None:
        connection.execute("BEGIN IMMEDIATE" if writable else "BEGIN")

    def ask(
        self,
        connection: RawConnection,
        queries: Sequence[Query],
        *,
        begins: bool = False,
        needed: Sequence[int] = (),
        wanted: Sequence[int] = (),
    ) -> tuple[list[list[Row]], set[int]]:
        if begins:
            self.begin(connection, writable=True)
        return [connection.execute(sql, values).fetchall() for sql, values in queries], set()

    def write_and_commit(self, connection: RawConnection, statements: Sequence[Query]) -> None:
        for sql, values in statements:
            connection.execute(sql, values)
        connection.execute("COMMIT")

    def is_refusal(self, error: Exception) -> bool:
        # A commit may have failed in the middle of writing.
        return False

    def roll_back(self, connection: RawConnection) -> None:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")

    def release(self) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None
