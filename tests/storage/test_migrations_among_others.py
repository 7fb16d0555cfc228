"""The tables of a database that several processes share: the first who comes brings them up to date."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from synapse_like.storage.connections import Connection
from synapse_like.storage.engines import postgresql as driver
from synapse_like.storage.engines.engine import DatabaseInUse, DatabaseUnavailable, Engine
from synapse_like.storage.engines.opening import open_engine
from synapse_like.storage.migrations import migrate, migrate_among_others, newest_applied, steps
from synapse_like.storage.shared.holder import Holder
from tests.support.postgres import PostgreSQL

OLDER, NEWEST = (step.number for step in steps()[-2:])


@pytest.fixture
def engine(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An empty database, whose claim is waited for as long as it takes."""
    monkeypatch.setattr(driver, "CLAIM_SECONDS", 30)
    with postgresql.database() as url:
        yield open_engine(url, data_dir=Path())


@contextmanager
def refused(sentence: str) -> Iterator[None]:
    """Not for long is waited for what is not to be had."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "CLAIM_SECONDS", 0.2)
        with pytest.raises(DatabaseInUse, match=sentence):
            yield


def sharing(engine: Engine) -> Connection:
    return Connection(engine, exclusive=True, holder=Holder())


def test_the_first_makes_the_tables_and_lets_others_in(engine: Engine) -> None:
    first = sharing(engine)
    migrate_among_others(first)
    second = sharing(engine)
    migrate_among_others(second)
    assert newest_applied(second) == NEWEST


def test_whoever_is_on_it_keeps_the_tables_as_they_are(engine: Engine) -> None:
    first = sharing(engine)
    migrate(first, up_to=OLDER)
    second = sharing(engine)
    with refused(r"servers that share the database .* stop all of them first"):
        migrate_among_others(second)
    assert newest_applied(second) == OLDER
    first.close()
    migrate_among_others(second)
    assert newest_applied(second) == NEWEST


def test_of_many_that_come_at_once_none_is_turned_away(engine: Engine) -> None:
    failures: list[Exception] = []
    connections = [sharing(engine) for _ in range(4)]
    # Not one of them may find the tables before all hold a share.
    assert [newest_applied(connection) for connection in connections] == [0] * 4

    def come(connection: Connection) -> None:
        try:
            migrate_among_others(connection)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=come, args=(connection,)) for connection in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert newest_applied(connections[0]) == NEWEST


def test_who_does_not_share_is_told_who_is_there(engine: Engine) -> None:
    there = sharing(engine)
    with refused(r"servers that share the database .* stop all of them first"):
        Connection(engine, exclusive=True)
    there.close()


def test_who_shares_is_told_of_one_that_does_not(engine: Engine) -> None:
    alone = Connection(engine, exclusive=True)
    with refused(r"another server is running .* and does not share it"):
        sharing(engine)
    with refused(r"another server is running on the database local socket/[a-z0-9_]*$"):
        Connection(engine, exclusive=True)
    alone.close()
    sharing(engine)


def test_a_newer_database_is_refused(engine: Engine) -> None:
    first = sharing(engine)
    migrate_among_others(first)
    first.transact(
        lambda txn: txn.execute("INSERT INTO schema_migrations (number, name) VALUES (?, 'future')", (NEWEST + 1,))
    )
    with pytest.raises(DatabaseUnavailable, match="made by a newer version"):
        migrate_among_others(first)
