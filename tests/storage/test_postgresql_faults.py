"""What PostgreSQL finds wrong with itself when it is looked at thoroughly, and what of it can be mended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from synapse_like.storage.connections import Connection
from synapse_like.storage.engines.postgresql import PostgresEngine
from synapse_like.storage.migrations import migrate
from tests.support.postgres import PostgreSQL


@pytest.fixture
def looked_at(postgresql: PostgreSQL) -> Iterator[Connection]:
    """A database with all tables, in which a room is known."""
    with postgresql.database() as url:
        connection = Connection(PostgresEngine(url))
        migrate(connection)
        connection.raw.execute("INSERT INTO rooms (room_id, version, is_public) VALUES ('!a:here', '1', 0)")
        yield connection
        connection.close()


@pytest.mark.parametrize(
    ("usual", "durability", "holds"),
    [("off", "full", "on"), ("off", "normal", "off"), ("remote_apply", "full", "remote_apply")],
)
def test_a_commit_waits_for_the_disk_whatever_is_usual_for_the_role(
    postgresql: PostgreSQL, usual: str, durability: str, holds: str
) -> None:
    """Acknowledged messages were lost when PostgreSQL crashed whose role had said so for another program."""
    with postgresql.database() as url:
        engine = PostgresEngine(f"{url}{'&' if '?' in url else '?'}options=-csynchronous_commit%3D{usual}", durability)
        connection = Connection(engine)
        try:
            assert connection.raw.execute("SHOW synchronous_commit").fetchall() == [(holds,)]
            told = [risk.split(": ")[1] for risk in engine.risks(connection.raw)]
        finally:
            connection.close()
    # The tests' PostgreSQL does not wait for the disk.
    may_be_lost = ["synchronous_commit is off."] if holds == "off" else []
    assert told == ["fsync is off.", "full_page_writes is off.", *may_be_lost]


@contextmanager
def behind_the_back_of(connection: Connection, index: str) -> Iterator[None]:
    """What is written meanwhile does not come into an index, as if a disk had lost it."""
    change = "UPDATE pg_index SET indisready = %s WHERE indexrelid = %s::regclass"
    connection.raw.execute(change, (False, index))
    yield
    connection.raw.execute(change, (True, index))


def faults(connection: Connection) -> list[str]:
    return connection.engine.faults(connection.raw, thorough=True)


def test_database_in_good_order_has_no_fault_and_is_left_as_it_was(looked_at: Connection) -> None:
    """The extension that looks is there only while it does."""
    assert (faults(looked_at), looked_at.engine.left_out(looked_at.raw)) == ([], [])
    assert looked_at.raw.execute("SELECT 1 FROM pg_extension WHERE extname = 'amcheck'").fetchone() is None


def test_row_that_an_index_does_not_have_is_found_and_mended(looked_at: Connection) -> None:
    with behind_the_back_of(looked_at, "rooms_room_id_key"):
        looked_at.raw.execute("INSERT INTO rooms (room_id, version, is_public) VALUES ('!b:here', '1', 0)")
    [fault] = faults(looked_at)
    assert fault.startswith("The index rooms_room_id_key is damaged: ")
    looked_at.engine.make_indexes_anew(looked_at.raw)
    assert faults(looked_at) == []


def test_rows_that_are_there_twice_are_found(looked_at: Connection) -> None:
    with behind_the_back_of(looked_at, "rooms_room_id_key"):
        looked_at.raw.execute("INSERT INTO rooms (room_id, version, is_public) VALUES ('!a:here', '1', 0)")
    assert "Rows of rooms are there twice that rooms_room_id_key should have kept out." in faults(looked_at)


def test_rows_that_refer_to_nothing_are_found(looked_at: Connection) -> None:
    looked_at.raw.execute("SET session_replication_role = replica")
    looked_at.raw.execute("INSERT INTO room_heads (room_nid, extremities, snapshot_id) VALUES (77, '[]', 0)")
    assert any("rows refer to rows of rooms that are not there" in fault for fault in faults(looked_at))


def test_it_is_told_what_may_not_be_looked_at(looked_at: Connection) -> None:
    """A usual user may not have the extension; the rest is looked at all the same."""
    looked_at.raw.execute("CREATE ROLE usual")
    try:
        looked_at.raw.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO usual")
        looked_at.raw.execute("SET ROLE usual")
        [sentence] = looked_at.engine.left_out(looked_at.raw)
        assert "CREATE EXTENSION amcheck" in sentence
        assert faults(looked_at) == []
    finally:
        looked_at.raw.execute("RESET ROLE")
        looked_at.raw.execute("DROP OWNED BY usual")
        looked_at.raw.execute("DROP ROLE usual")
