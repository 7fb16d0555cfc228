"""Looking into a server's database from outside, whichever kind it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql


def contains(database: str, data_dir: Path, text: str) -> bool:
    """Whether a text stands in any field of any table.

    :param database: the database's URL; `sqlite` for the file in the data directory.
    """
    return any(text in _readable(field) for row in _rows(database, data_dir) for field in row)


def files_contain(data_dir: Path, text: str) -> bool:
    """Whether a text stands in the bytes of SQLite's files, deleted or not."""
    return any(text.encode() in file.read_bytes() for file in data_dir.glob("*.db*"))


def query(database: str, data_dir: Path, statement: str) -> list[tuple[Any, ...]]:
    """The rows that a statement finds, in SQL that both kinds know.

    :param database: the database's URL; `sqlite` for the file in the data directory.
    """
    if database == "sqlite":
        with closing(sqlite3.connect(f"file:{data_dir / 'homeserver.db'}?mode=ro", uri=True)) as lite:
            return lite.execute(statement).fetchall()
    with psycopg.connect(database) as postgres:
        return postgres.execute(statement.encode()).fetchall()


def size(database: str, data_dir: Path) -> int:
    """How large a database is, in bytes."""
    if database == "sqlite":
        return sum(file.stat().st_size for file in data_dir.glob("homeserver.db*"))
    [[found]] = query(database, data_dir, "SELECT pg_database_size(current_database())")
    return int(found)


def _rows(database: str, data_dir: Path) -> Iterator[tuple[Any, ...]]:
    return _sqlite_rows(data_dir / "homeserver.db") if database == "sqlite" else _postgresql_rows(database)


def _sqlite_rows(path: Path) -> Iterator[tuple[Any, ...]]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            yield from connection.execute(f'SELECT * FROM "{table}"')
    finally:
        connection.close()


def _postgresql_rows(url: str) -> Iterator[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            yield from connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))


def _readable(field: object) -> str:
    return field.decode("utf-8", "replace") if isinstance(field, bytes) else str(field)
