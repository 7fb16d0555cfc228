"""Databases of every earlier version are opened, brought up to date, and go on working.

They lie in `databases/`; `tests/support/old_databases.py` says how the next one gets there.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from synapse_like.storage.connections import Connection
from synapse_like.storage.engines.opening import open_engine
from synapse_like.storage.migrations import Step, _apply, _make_record, migrate, steps
from synapse_like.storage.transactions import Transaction
from tests.support import old_databases
from tests.support.inside import Inside, inside, quoted
from tests.support.old_databases import ALIAS, FOLDER, SAID, USERS

FILES = sorted(FOLDER.glob("*.sql.xz"))
ON_POSTGRESQL = [FILES[3], FILES[-1]]

each_version = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.partition(".")[0])


def restore(file: Path, folder: Path) -> Path:
    """Put the signing key and the SQLite database of an older server into a data directory."""
    key, dump = old_databases.read(file)
    (folder / "signing.key").write_text(key + "\n")
    path = folder / "homeserver.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(dump)
        connection.execute("PRAGMA journal_mode = WAL")
    return path


def lives_on(server: Inside) -> None:
    """See that what was said is there, and that more can be said."""
    for name in USERS:
        server.log_in(name)
    room_id = server.ask("GET", f"/directory/room/{quoted(ALIAS)}")["room_id"]
    place = f"/rooms/{quoted(room_id)}"
    for name in USERS:
        assert said(server, place, name) == list(SAID)
    state = server.ask("GET", f"{place}/state/m.room.topic", None, "bob")
    assert state == {"topic": "here"}
    start = server.ask("GET", "/initialSync?limit=3", None, "bob")
    assert [room["room_id"] for room in start["rooms"]] == [room_id]
    content = {"msgtype": "m.text", "body": "still here"}
    server.ask("POST", f"{place}/send/m.room.message", content, "bob")
    assert said(server, place, "alice") == [*SAID, "still here"]
    news = server.ask("GET", f"/events?from={start['end']}", None, "alice")["chunk"]
    assert "still here" in [event["content"].get("body") for event in news]
    # Somebody of another server comes in: also what others need of it is there.
    eve = "@eve:peer.example"
    assert server.join_as_peer(room_id, eve).state["m.room.member", eve]


def said(server: Inside, place: str, user: str) -> list[str]:
    """What was said in a room, oldest first."""
    page = server.ask("GET", f"{place}/messages?dir=b&limit=100", None, user)
    return [event["content"]["body"] for event in reversed(page["chunk"]) if event["type"] == "m.room.message"]


def test_there_is_one_for_each_migration() -> None:
    """But for those that were added since the newest of them was made."""
    newest = max(step.number for step in steps_of(FILES[-1]))
    known = [step for step in steps() if step.number <= newest]
    assert known == steps_of(FILES[-1])


def steps_of(file: Path) -> list[Step]:
    """The steps that had been taken when a database was made."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(old_databases.read(file)[1])
        numbers = {row[0] for row in connection.execute("SELECT number FROM schema_migrations")}
    return [step for step in steps() if step.number in numbers]


@each_version
def test_database_of_an_older_version_goes_on_working(file: Path, tmp_path: Path) -> None:
    restore(file, tmp_path)
    with inside(tmp_path) as server:
        lives_on(server)


@pytest.mark.parametrize("file", FILES[2:], ids=lambda file: file.name.partition(".")[0])
def test_tables_are_those_of_a_new_database(file: Path, tmp_path: Path) -> None:
    """A step that has been released is never edited: who has taken it must have what those get who take it today.

    The first two are of the day on which the first step was still edited.
    """
    path = restore(file, tmp_path)
    for place in (path, tmp_path / "new.db"):
        engine = open_engine(f"sqlite:{place}", data_dir=tmp_path, durability="normal")
        with closing(Connection(engine)) as connection:
            migrate(connection)
    assert tables_in(path) == tables_in(tmp_path / "new.db")


def tables_in(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    return {name: " ".join(sql.split()) for name, sql in found if not name.startswith("sqlite_")}


@pytest.mark.parametrize("file", ON_POSTGRESQL, ids=lambda file: file.name.partition(".")[0])
def test_the_same_on_postgresql(file: Path, tmp_path: Path, postgresql: Any) -> None:
    """The tables are made by the same steps, and filled with the same rows."""
    path = restore(file, tmp_path)
    with postgresql.database() as url:
        engine = open_engine(url, data_dir=tmp_path, durability="normal")
        with closing(Connection(engine)) as connection, closing(sqlite3.connect(path)) as old:
            connection.transact(fill, old, steps_of(file))
        path.unlink()
        with inside(tmp_path, database={"url": url}) as server:
            lives_on(server)


def fill(txn: Transaction, old: sqlite3.Connection, taken: list[Step]) -> None:
    """Make the tables of an older version, with what is in the database of another kind."""
    _make_record(txn)
    for step in taken:
        _apply(txn, step)
    txn.execute("DELETE FROM schema_migrations")
    txn.execute("DELETE FROM stream_positions")
    # Rows may name each other across tables.
    txn.execute("SET session_replication_role = replica")
    for (table,) in old.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"):
        cursor = old.execute(f'SELECT * FROM "{table}"')
        columns = [column[0] for column in cursor.description]
        places = ", ".join("?" * len(columns))
        for row in cursor.fetchall():
            txn.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", row)
    txn.execute("SET session_replication_role = DEFAULT")
    numbered = txn.all(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE is_identity = 'YES' AND table_schema = current_schema()"
    )
    for table, column in numbered:
        sequence = f"pg_get_serial_sequence('{table}', '{column}')"
        txn.all(f"SELECT setval({sequence}, (SELECT COALESCE(MAX({column}), 0) + 1 FROM {table}))")
