"""The tables are made once, and a database from the future is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from synapse_like.storage.connections import Connection
from synapse_like.storage.engines.engine import DatabaseUnavailable, Engine
from synapse_like.storage.migrations import IDENTITY_SERVER, migrate, steps
from synapse_like.storage.transactions import Transaction


def test_each_step_is_applied_once(engine: Engine) -> None:
    connection = Connection(engine)
    try:
        assert [step.number for step in migrate(connection)] == [step.number for step in steps()]
        assert migrate(connection) == []
    finally:
        connection.close()


def test_a_database_of_a_newer_program_is_refused_and_untouched(connection: Connection) -> None:
    newer = steps()[-1].number + 1

    def add(txn: Transaction) -> None:
        txn.execute("INSERT INTO schema_migrations (number, name) VALUES (?, 'future')", (newer,))

    connection.transact(add)
    with pytest.raises(DatabaseUnavailable, match=f"schema {newer}, made by a newer version"):
        migrate(connection)


def test_a_database_of_another_kind_of_server_is_refused_and_untouched(connection: Connection) -> None:
    with pytest.raises(DatabaseUnavailable, match="another kind of server"):
        migrate(connection, IDENTITY_SERVER)
    assert migrate(connection) == []


def test_a_step_that_fails_leaves_nothing_of_itself(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from synapse_like.storage import migrations

    file = tmp_path / "9999_broken.sql"
    file.write_text("CREATE TABLE half (x BIGINT); -- and then\nCREATE TABLE rooms (x BIGINT);")
    broken = migrations.Step(9999, "broken", file)
    monkeypatch.setattr(migrations, "steps", lambda package: [*steps(package), broken])
    with pytest.raises(connection.engine.database_errors):
        migrate(connection)
    with pytest.raises(connection.engine.database_errors):
        connection.transact(lambda txn: txn.all("SELECT * FROM half"))
