"""Which engine a setting means."""

from __future__ import annotations

from pathlib import Path

from synapse_like.storage.engines.engine import Engine, Identity
from synapse_like.storage.engines.postgresql import PostgresEngine


def open_engine(
    url: str,
    *,
    data_dir: Path,
    durability: str = "full",
    file: str = "homeserver.db",
    identity: Identity | None = None,
) -> Engine:
    """The engine for a database setting.

    :param url: ``sqlite`` (a file in the data directory), ``sqlite:PATH``, or ``postgresql://…``.
    :param data_dir: what a relative SQLite path is relative to.
    :param durability: ``full`` or ``normal``.
    :param file: the name of the file that is plainly ``sqlite``.
    :param identity: which server shares the database, if it is PostgreSQL and shared.
    :raises DatabaseUnavailable: the driver for it is not installed.
    """
    if url == "sqlite" or url.startswith("sqlite:"):
        # Its driver comes with it, which PostgreSQL does without; that of PostgreSQL comes with the first such engine.
        from synapse_like.storage.engines.sqlite import SqliteEngine

        return SqliteEngine(data_dir / (file if url == "sqlite" else url.removeprefix("sqlite:")), durability)
    return PostgresEngine(url, durability, identity)
