"""A server's database, copied into another one, perhaps of the other kind, while the server is stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from synapse_like.app import identity
from synapse_like.app.errors import StartError
from synapse_like.app.parts import engine_of
from synapse_like.config import Config
from synapse_like.identity.settings import IdentityConfig
from synapse_like.storage import copying
from synapse_like.storage.connections import Connection
from synapse_like.storage.copying import CopyFailed
from synapse_like.storage.engines.engine import DatabaseInUse, DatabaseUnavailable, Engine
from synapse_like.storage.engines.opening import open_engine
from synapse_like.storage.migrations import HOME_SERVER, IDENTITY_SERVER, migrate

Tell = Callable[[str], object]


def copy_database(config: Config | IdentityConfig, url: str, tell: Tell) -> str:
    """Copy the database of a server into an empty one; a sentence about it.

    All of it is there in the end, compared with what it was copied from, or nothing is.

    :param url: of the other one, as in the settings; relative to the data directory.
    :raises StartError: a server is running on one of them, the other one is in use, or they are not the same after all.
    """
    if isinstance(config, IdentityConfig):
        return _copy(identity.engine_of(config), url, config.data_dir, IDENTITY_SERVER, tell)
    return _copy(engine_of(config), url, config.data_dir, HOME_SERVER, tell)


def _copy(engine: Engine, url: str, data_dir: Path, package: str, tell: Tell) -> str:
    if url != "sqlite" and not url.startswith(("sqlite:", "postgresql://", "postgres://")):
        raise StartError("the other database must be sqlite:PATH or postgresql://user:password@host/database")
    try:
        source = Connection(engine, exclusive=True)
        try:
            migrate(source, package)
            target = Connection(open_engine(url, data_dir=data_dir), exclusive=True)
            try:
                migrate(target, package)
                contents = copying.copy(source, target, tell)
            finally:
                target.close()
        finally:
            source.close()
    except (CopyFailed, DatabaseInUse, DatabaseUnavailable) as error:
        raise StartError(str(error)) from error
    rows = sum(there.rows for there in contents.values())
    return f"Copied {len(contents)} tables with {rows} rows; both are the same. Now set database.url to the new one."
