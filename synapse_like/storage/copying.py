"""Whole databases, copied: from one kind to the other, and as one file for a backup.

A copy is made in one reading transaction of the source and one writing transaction of the target, which therefore has
all of it or nothing. Then both are compared, table by table, by the number of rows and a hash over them that does not
depend on their order. Rows go through in a stream; memory does not grow with the database.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from msgspec import Struct

from synapse_like.storage import migrations
from synapse_like.storage.connections import Connection
from synapse_like.storage.engines.engine import Engine, Row
from synapse_like.storage.engines.sqlite import SqliteEngine
from synapse_like.storage.values import placeholders

#: Tables that a new database has rows in.
_RECORD, _POSITIONS = "schema_migrations", "stream_positions"
#: Rows that go to SQLite at once.
_BATCH = 500

Tell = Callable[[str], object]


class CopyFailed(Exception):
    """A copy cannot be made, or is not the same as what was copied; says why, for the operator."""


class Content(Struct, frozen=True):
    """What is in a table: the number of its rows, and a hash over them."""

    rows: int
    digest: str


def copy(source: Connection, target: Connection, tell: Tell) -> dict[str, Content]:
    """Copy all rows of a database into one that has the same tables and was never used.

    :param tell: is told what is being copied.
    :returns: what is in each table now, in both.
    :raises CopyFailed: the target is in use, or is not the same afterwards; then it is as it was before.
    """
    reading = source.begin(writable=False)
    try:
        tables = table_names(source)
        if set(tables) != set(table_names(target)):
            raise CopyFailed("the two databases do not have the same tables: bring both up to date first")
        used = used_tables(target)
        if used:
            raise CopyFailed(f"the database that is to be filled is in use: it has rows in {', '.join(used)}")
        _set_foreign_keys(target, on=False)
        writing = target.begin(writable=True)
        try:
            contents = _copy_tables(source, target, tables, tell)
        except BaseException:
            target.roll_back(writing)
            raise
        target.commit(writing)
        _set_foreign_keys(target, on=True)
        return contents
    finally:
        source.roll_back(reading)


def _copy_tables(source: Connection, target: Connection, tables: Sequence[str], tell: Tell) -> dict[str, Content]:
    contents = {}
    for table in (_RECORD, _POSITIONS):
        target.raw.execute(f"DELETE FROM {table}")
    for table in tables:
        columns = column_names(source, table)
        if set(columns) != set(column_names(target, table)):
            raise CopyFailed(f"the table {table} does not have the same columns in both databases")
        counting = _Counting(_rows(source, table, columns))
        try:
            _insert(target, table, columns, counting)
        except target.engine.database_errors as error:
            raise CopyFailed(f"a row of the table {table} cannot be stored: {str(error).strip()}") from error
        contents[table] = counting.content
        _set_last_number(target, table, _last_number(source, table))
        if counting.rows:
            tell(f"copied {counting.rows} rows of {table}")
    for table, content in contents.items():
        there = content_of(target, table)
        if there != content:
            raise CopyFailed(f"the table {table} has {there.rows} rows, and not the {content.rows} that were copied")
    return contents


def snapshot(engine: Engine, path: Path, tell: Tell, package: str = migrations.HOME_SERVER) -> dict[str, Content]:
    """Copy a database into a new SQLite file, as it is at this moment, also while a server runs on it.

    :param package: whose tables they are (`migrations`).
    :returns: what is in each table of the copy.
    :raises CopyFailed: the copy is not what was copied, or is damaged.
    """
    source = Connection(engine)
    try:
        if isinstance(engine, SqliteEngine):
            source.raw.execute("VACUUM INTO ?", (str(path),))
            tell("copied the database")
            contents = None
        else:
            number = migrations.newest_applied(source)
            contents = _fill_new_file(source, path, number, tell, package)
    finally:
        source.close()
    path.chmod(0o600)
    return _checked(path, contents)


def _fill_new_file(source: Connection, path: Path, number: int, tell: Tell, package: str) -> dict[str, Content]:
    target = Connection(SqliteEngine(path, "normal"))
    try:
        migrations.migrate(target, package, up_to=number)
        return copy(source, target, tell)
    finally:
        # One file, with nothing beside it.
        target.raw.execute("PRAGMA journal_mode = DELETE")
        target.close()


def _checked(path: Path, contents: Mapping[str, Content] | None) -> dict[str, Content]:
    """What is in a file that was just written, once it is on the disk and found whole."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    connection = Connection(SqliteEngine(path))
    try:
        faults = connection.engine.faults(connection.raw)
        found = {table: content_of(connection, table) for table in table_names(connection)}
        connection.raw.execute("PRAGMA journal_mode = DELETE")
    finally:
        connection.close()
    if faults:
        raise CopyFailed(f"the copy of the database is damaged: {faults[0]}")
    if contents is not None and contents != found:
        raise CopyFailed("the copy of the database is not what was copied")
    return found


def used_tables(connection: Connection) -> list[str]:
    """The tables that have rows, though a new database has none in them."""
    names = [name for name in table_names(connection) if name not in (_RECORD, _POSITIONS)]
    return [name for name in names if connection.raw.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() is not None]


def content_of(connection: Connection, table: str) -> Content:
    """What is in a table; see `Content`."""
    counting = _Counting(_rows(connection, table, column_names(connection, table)))
    for _ in counting:
        pass
    return counting.content


class _Counting:
    """Passes rows on, and counts and hashes them on the way. What is the same in both databases gives the same hash."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._source = rows
        self._sum = 0
        self.rows = 0

    def __iter__(self) -> Iterator[Row]:
        for row in self._source:
            row = tuple(bytes(value) if isinstance(value, memoryview) else value for value in row)
            digest = hashlib.sha256(repr(row).encode("utf-8", "surrogatepass")).digest()
            # A sum does not depend on the order, which databases are free in.
            self._sum = (self._sum + int.from_bytes(digest)) % 2**256
            self.rows += 1
            yield row

    @property
    def content(self) -> Content:
        return Content(self.rows, f"{self._sum:064x}")


# What the two databases spell differently.


def table_names(connection: Connection) -> list[str]:
    """All tables, each behind those that it refers to."""
    raw = connection.raw
    if isinstance(connection.engine, SqliteEngine):
        found = raw.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        names = sorted(row[0] for row in found)
        needs = {
            name: {row[0] for row in raw.execute('SELECT "table" FROM pragma_foreign_key_list(?)', (name,)).fetchall()}
            for name in names
        }
    else:
        found = raw.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()").fetchall()
        names = sorted(row[0] for row in found)
        needs = {name: set() for name in names}
        for name, other in raw.execute(
            "SELECT conrelid::regclass::text, confrelid::regclass::text FROM pg_constraint WHERE contype = 'f'"
        ).fetchall():
            needs.setdefault(name, set()).add(other)
    ordered: list[str] = []
    while len(ordered) < len(names):
        free = [name for name in names if name not in ordered and needs[name] - {name} <= set(ordered)]
        if not free:
            raise CopyFailed("the tables refer to each other in a circle")
        ordered += free
    return ordered


def column_names(connection: Connection, table: str) -> list[str]:
    """The columns of a table, sorted: the order in which they were added may differ."""
    if isinstance(connection.engine, SqliteEngine):
        found = connection.raw.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
    else:
        found = connection.raw.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema()"
            " AND table_name = %s",
            (table,),
        ).fetchall()
    return sorted(row[0] for row in found)


def _rows(connection: Connection, table: str, columns: Sequence[str]) -> Iterator[Row]:
    raw: Any = connection.raw
    query = f"SELECT {', '.join(columns)} FROM {table}"
    if isinstance(connection.engine, SqliteEngine):
        yield from raw.execute(query)
        return
    with raw.cursor() as cursor:
        yield from cursor.stream(query)


def _insert(connection: Connection, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
    raw: Any = connection.raw
    names = ", ".join(columns)
    if isinstance(connection.engine, SqliteEngine):
        statement = f"INSERT INTO {table} ({names}) VALUES ({placeholders(columns)})"
        iterator = iter(rows)
        while batch := list(islice(iterator, _BATCH)):
            raw.executemany(statement, batch)
        return
    with raw.cursor() as cursor, cursor.copy(f"COPY {table} ({names}) FROM STDIN") as stream:
        for row in rows:
            stream.write_row(row)


def _set_foreign_keys(connection: Connection, *, on: bool) -> None:
    """SQLite checks references row by row, PostgreSQL has the tables in their order."""
    if isinstance(connection.engine, SqliteEngine):
        connection.raw.execute(f"PRAGMA foreign_keys = {'ON' if on else 'OFF'}")


def _numbered(connection: Connection, table: str) -> str | None:
    """The column of a table of PostgreSQL that gets its numbers from the database."""
    row = connection.raw.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema()"
        " AND table_name = %s AND is_identity = 'YES'",
        (table,),
    ).fetchone()
    return None if row is None else str(row[0])


def _last_number(connection: Connection, table: str) -> int | None:
    """The last number that the database has given to a row of a table, be that row deleted since; None if unknown."""
    raw = connection.raw
    if isinstance(connection.engine, SqliteEngine):
        row = raw.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
        return None if row is None else int(row[0])
    column = _numbered(connection, table)
    if column is None:
        return None
    [(sequence,)] = raw.execute("SELECT pg_get_serial_sequence(%s, %s)", (table, column)).fetchall()
    [(last, is_called)] = raw.execute(f"SELECT last_value, is_called FROM {sequence}").fetchall()
    return int(last) if is_called else None


def _set_last_number(connection: Connection, table: str, last: int | None) -> None:
    """Have the database go on behind a number, and behind those that rows have."""
    raw = connection.raw
    if isinstance(connection.engine, SqliteEngine):
        if last is not None:
            # Only tables whose numbers last have a row there; the others go on behind the largest number anyhow.
            raw.execute("UPDATE sqlite_sequence SET seq = MAX(seq, ?) WHERE name = ?", (last, table))
            if _last_number(connection, table) is None and _is_lasting(connection, table):
                raw.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, last))
        return
    column = _numbered(connection, table)
    if column is None:
        return
    [(largest,)] = raw.execute(f"SELECT MAX({column}) FROM {table}").fetchall()
    number = max(largest or 0, last or 0)
    if number:
        raw.execute("SELECT setval(pg_get_serial_sequence(%s, %s), %s)", (table, column, number))


def _is_lasting(connection: Connection, table: str) -> bool:
    [(sql,)] = connection.raw.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).fetchall()
    return "AUTOINCREMENT" in sql
