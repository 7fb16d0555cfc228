"""Whole databases, copied from one kind to the other: what goes through, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from synapse_like.storage import copying
from synapse_like.storage.connections import Connection
from synapse_like.storage.copying import CopyFailed
from synapse_like.storage.engines.opening import open_engine
from synapse_like.storage.engines.sqlite import SqliteEngine
from synapse_like.storage.migrations import migrate
from tests.support.postgres import PostgreSQL


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Connection]:
    connection = Connection(SqliteEngine(tmp_path / "one.db", "normal"))
    migrate(connection)
    yield connection
    connection.close()


@pytest.fixture
def postgres(postgresql: PostgreSQL, tmp_path: Path) -> Iterator[Connection]:
    with postgresql.database() as url:
        connection = Connection(open_engine(url, data_dir=tmp_path))
        migrate(connection)
        yield connection
        connection.close()


@pytest.fixture(params=["to PostgreSQL", "to SQLite"])
def both(request: pytest.FixtureRequest, sqlite: Connection, postgres: Connection) -> tuple[Connection, Connection]:
    """A database with something in it, and an empty one of the other kind."""
    source, target = (sqlite, postgres) if request.param == "to PostgreSQL" else (postgres, sqlite)
    fill(source)
    return source, target


def fill(connection: Connection) -> None:
    def rows(txn: Any) -> None:
        txn.execute("INSERT INTO users (user_id, created_at) VALUES ('@ä:x', 1), ('@b:x', 9223372036854775807)")
        for number in range(700):
            txn.insert(
                "INSERT INTO access_tokens (token_hash, user_id, created_at) VALUES (?, '@b:x', 1) RETURNING token_id",
                (bytes([number % 256, number // 256, 0, 255]),),
            )
        # The number of what was deleted must not be given out again.
        txn.execute("DELETE FROM access_tokens WHERE token_id > 600")
        txn.execute("INSERT INTO contacts VALUES ('@ä:x', 'c', '{\"a\": \"back\\\\slash, tab\t, 😀\"}')")
        txn.execute("UPDATE stream_positions SET position = 7 WHERE stream = 'events'")

    connection.transact(rows)


def everything(connection: Connection) -> dict[str, copying.Content]:
    return {table: copying.content_of(connection, table) for table in copying.table_names(connection)}


def test_all_goes_through_and_numbers_go_on(both: tuple[Connection, Connection]) -> None:
    source, target = both
    told: list[str] = []
    contents = copying.copy(source, target, told.append)
    assert contents == everything(source) == everything(target)
    assert contents["access_tokens"].rows == 600
    assert "copied 600 rows of access_tokens" in told
    new = target.transact(
        lambda txn: txn.insert(
            "INSERT INTO access_tokens (token_hash, user_id, created_at) VALUES (?, '@b:x', 1) RETURNING token_id",
            (b"new",),
        )
    )
    assert new == 701
    slot = target.transact(
        lambda txn: txn.insert("INSERT INTO state_slots (type, state_key) VALUES ('a', 'b') RETURNING slot_id")
    )
    assert slot == 1


def test_database_in_use_is_not_written_over(both: tuple[Connection, Connection]) -> None:
    source, target = both
    fill(target)
    before = everything(target)
    with pytest.raises(CopyFailed, match="in use: it has rows in"):
        copying.copy(source, target, print)
    assert everything(target) == before


def test_half_a_copy_leaves_nothing(both: tuple[Connection, Connection]) -> None:
    source, target = both
    before = everything(target)

    def stop(sentence: str) -> None:
        if "access_tokens" in sentence:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copying.copy(source, target, stop)
    assert everything(target) == before
    copying.copy(source, target, str)
    assert everything(target) == everything(source)


def test_what_the_other_kind_cannot_hold_is_said(sqlite: Connection, postgres: Connection) -> None:
    sqlite.transact(lambda txn: txn.execute("INSERT INTO users (user_id, created_at) VALUES (?, 1)", ("@a\0:x",)))
    with pytest.raises(CopyFailed, match="a row of the table users cannot be stored"):
        copying.copy(sqlite, postgres, str)
    assert copying.used_tables(postgres) == []


def test_databases_of_different_age_are_not_copied(sqlite: Connection, postgresql: PostgreSQL, tmp_path: Path) -> None:
    with postgresql.database() as url:
        older = Connection(open_engine(url, data_dir=tmp_path))
        migrate(older, up_to=3)
        with pytest.raises(CopyFailed, match="do not have the same tables"):
            copying.copy(sqlite, older, str)
        older.close()


def test_hash_notices_a_changed_row(sqlite: Connection) -> None:
    fill(sqlite)
    before = copying.content_of(sqlite, "access_tokens")
    sqlite.transact(lambda txn: txn.execute("UPDATE access_tokens SET created_at = 2 WHERE token_id = 5"))
    after = copying.content_of(sqlite, "access_tokens")
    assert before.rows == after.rows
    assert before.digest != after.digest
