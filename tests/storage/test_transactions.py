"""Statements that are run later than they are given."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from synapse_like.storage.connections import Connection
from synapse_like.storage.engines.engine import Engine
from synapse_like.storage.transactions import Transaction

KEEP = "INSERT INTO kept (number, text, octets) VALUES (?, ?, ?)"


@pytest.fixture
def kept(connection: Connection) -> Connection:
    """A connection to a database with one more table."""
    text = "CREATE TABLE kept (number BIGINT PRIMARY KEY, text TEXT, octets BYTES)"
    connection.raw.execute(connection.engine.adapt(text))
    return connection


def test_what_is_to_be_run_later_is_there_for_whatever_comes_next(kept: Connection) -> None:
    def look_in_between(txn: Transaction) -> None:
        for number in range(3):
            txn.execute_later(KEEP, (number, "later", b""))
        assert txn.all("SELECT number FROM kept ORDER BY number") == [(0,), (1,), (2,)]
        txn.execute_later("UPDATE kept SET text = 'changed' WHERE number = ?", (1,))
        assert txn.execute_now("UPDATE kept SET number = 7 WHERE text = ? RETURNING number", ("changed",)) == [(7,)]
        txn.execute_later("DELETE FROM kept WHERE number = ?", (7,))
        assert txn.execute("DELETE FROM kept WHERE number = 2").rowcount == 1
        txn.execute_later(KEEP, (8, "last", b""))

    kept.transact(look_in_between)
    assert kept.look("SELECT number FROM kept ORDER BY number") == [(0,), (8,)]


def test_nothing_is_left_of_what_was_to_be_run_later_in_a_transaction_that_is_rolled_back(kept: Connection) -> None:
    def fail(txn: Transaction) -> None:
        txn.execute_later(KEEP, (1, "never", b""))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        kept.transact(fail)
    kept.transact(lambda txn: txn.execute_later(KEEP, (2, "there", b"")))
    assert kept.look("SELECT number FROM kept") == [(2,)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.integers(-(2**63), 2**63 - 1),
    st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.none() | st.binary(),
)
@example(1, "it's; '' \\' $1 ? %s -- /* \n", b"\0'\\x")
def test_values_come_as_they_were_given(kept: Connection, number: int, text: str | None, octets: bytes | None) -> None:
    def write_and_read(txn: Transaction) -> list[Any]:
        txn.execute("DELETE FROM kept")
        txn.execute_later("INSERT INTO kept (number, text, octets) VALUES (0, ?, ?)", (text, octets))
        [row] = txn.execute_now("UPDATE kept SET number = ? RETURNING number, text, octets", (number,))
        return list(row)

    assert kept.transact(write_and_read) == [number, text, octets]


@pytest.mark.parametrize("value", ["cut\0short", 0.5])
def test_a_value_that_would_be_another_one_is_refused(kept: Connection, engine: Engine, value: object) -> None:
    """SQLite takes both as they are."""

    def write(txn: Transaction) -> None:
        txn.execute_later(KEEP, (1, value, b""))

    if not engine.gathers:
        kept.transact(write)
        assert kept.look("SELECT text FROM kept") == [(str(value),)]
        return
    with pytest.raises((TypeError, ValueError)):
        kept.transact(write)
    assert kept.look("SELECT text FROM kept") == []


def test_nothing_goes_on_without_what_was_to_be_run_before(kept: Connection, engine: Engine) -> None:
    """The one who gave it may not be the first to learn that it cannot be run."""
    if not engine.gathers:
        return
    seen = []

    def write(txn: Transaction) -> None:
        txn.execute_later(KEEP, (1, 0.5, b""))
        for _ in range(2):
            with pytest.raises(TypeError):
                txn.one("SELECT 1")
            seen.append(True)

    with pytest.raises(TypeError):
        kept.transact(write)
    assert len(seen) == 2


def test_a_transaction_that_could_not_be_begun_leaves_nothing_open(
    kept: Connection, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("synapse_like.storage.connections._CHANGED_OUTSIDE", ("SELECT nothing_of_the_kind", ()))
        with pytest.raises(engine.database_errors):
            kept.begin_writing()
    kept.commit(kept.begin_writing())


def test_statements_that_the_connection_has_forgotten_are_made_ready_again(kept: Connection, engine: Engine) -> None:
    if not engine.gathers:
        return
    kept.transact(lambda txn: txn.execute_later(KEEP, (1, "one", b"")))
    kept.raw.execute("DEALLOCATE ALL")
    with pytest.raises(engine.database_errors):
        kept.transact(lambda txn: txn.execute_later(KEEP, (2, "two", b"")))
    kept.transact(lambda txn: txn.execute_later(KEEP, (3, "three", b"")))
    assert kept.look("SELECT number FROM kept ORDER BY number") == [(1,), (3,)]


def test_texts_are_what_they_are_whatever_is_usual_there(kept: Connection, engine: Engine) -> None:
    if not engine.gathers:
        return
    name = kept.look("SELECT current_database()")[0][0]
    for setting in ("standard_conforming_strings = off", "client_encoding = 'LATIN1'"):
        kept.raw.execute(f"ALTER DATABASE {name} SET {setting}")
    kept.reconnect()
    text = "\\', NULL); -- ü漢"
    kept.transact(lambda txn: txn.execute_later(KEEP, (1, text, b"\\x00")))
    assert kept.look("SELECT text, octets FROM kept") == [(text, b"\\x00")]
