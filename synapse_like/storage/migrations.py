"""The tables, made and changed step by step.

`schema/NNNN_name.sql` are applied in the order of their numbers, each once and in a transaction of its own. A step that
has been released is never edited; the next change is another file. The home server has one such folder, the identity
server, whose database is its own, another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING

from msgspec import Struct

from synapse_like.storage.connections import Connection
from synapse_like.storage.engines.engine import DatabaseUnavailable
from synapse_like.storage.transactions import Transaction

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

#: The packages in which the folders of steps are.
HOME_SERVER = "synapse_like.storage"
IDENTITY_SERVER = "synapse_like.storage.identity"


class Step(Struct, frozen=True):
    """One migration: its number, its name, and the file of its statements."""

    number: int
    name: str
    file: Traversable

    def statements(self) -> list[str]:
        """What it does, in SQL; read when it is done, so that a server with nothing to do reads nothing."""
        text = re.sub(r"--[^\n]*", "", self.file.read_text(encoding="utf-8"))
        return [part.strip() for part in text.split(";") if part.strip()]


def steps(package: str = HOME_SERVER) -> list[Step]:
    """Every migration this code knows, in order.

    :param package: whose.
    """
    found = []
    for file in files(package).joinpath("schema").iterdir():
        match = re.fullmatch(r"(\d{4})_(\w+)\.sql", file.name)
        if match:
            found.append(Step(int(match[1]), match[2], file))
    return sorted(found, key=lambda step: step.number)


def migrate(connection: Connection, package: str = HOME_SERVER, *, up_to: int | None = None) -> list[Step]:
    """Bring the tables up to date.

    :param package: whose.
    :param up_to: the number of the last step that is wanted; None for all.
    :returns: the steps that were applied; none if there was nothing to do.
    :raises DatabaseUnavailable: the database was made by a newer version of this program, or is not for it.
    """
    applied = _read_applied(connection)
    if not applied:
        connection.transact(_make_record)
    known = steps(package)
    newest = known[-1].number
    if _are_of_another_kind(applied, known):
        raise DatabaseUnavailable("the database is of another kind of server: each needs one of its own")
    if applied and max(applied) > newest:
        raise DatabaseUnavailable(
            f"the database is at schema {max(applied)}, made by a newer version of this program,"
            f" which knows schemas up to {newest}: run the newer version"
        )
    if package == HOME_SERVER and applied and max(applied) == 1:
        connection.transact(_complete_first_step)
    missing = [step for step in known if step.number not in applied and (up_to is None or step.number <= up_to)]
    for step in missing:
        connection.transact(_apply, step)
    return missing


def migrate_among_others(connection: Connection) -> None:
    """Bring the tables of a shared database up to date, if that is to be done; whoever is on it must not notice.

    :param connection: that has claimed it with others.
    :raises DatabaseUnavailable: as `migrate` does.
    :raises DatabaseInUse: something is to be done, and others are on it.
    """
    newest = steps()[-1].number
    if newest_applied(connection) < newest:
        with connection.engine.apart(connection.raw) as be_alone:
            # Another that starts now may have been quicker.
            if newest_applied(connection) < newest:
                be_alone()
                migrate(connection)
    # By now there is nothing to do; it looks whose database it is, and whether it is newer.
    migrate(connection)


def newest_applied(connection: Connection) -> int:
    """The number of the newest step that was applied; 0 for a database that no server has used. Changes nothing."""
    return max(_read_applied(connection), default=0)


def is_of_another_kind(connection: Connection, package: str) -> bool:
    """Whether a database was made by a server of another kind. Changes nothing."""
    return _are_of_another_kind(_read_applied(connection), steps(package))


def _are_of_another_kind(applied: Mapping[int, str], known: Iterable[Step]) -> bool:
    return any(applied.get(step.number, step.name) != step.name for step in known)


def _read_applied(connection: Connection) -> dict[int, str]:
    """The same as `_applied`, also of a database that no server has used."""
    txn = connection.begin(writable=False)
    try:
        return _applied(txn)
    except connection.engine.database_errors:
        return {}
    finally:
        connection.roll_back(txn)


def _make_record(txn: Transaction) -> None:
    txn.execute("CREATE TABLE IF NOT EXISTS schema_migrations (number BIGINT PRIMARY KEY, name TEXT NOT NULL)")
    txn.execute("CREATE TABLE IF NOT EXISTS stream_positions (stream TEXT PRIMARY KEY, position BIGINT NOT NULL)")


def _applied(txn: Transaction) -> dict[int, str]:
    """The names of the steps that were applied, by number."""
    return dict(txn.all("SELECT number, name FROM schema_migrations"))


def _complete_first_step(txn: Transaction) -> None:
    """Add the column that databases of the very first day lack, after which the first step was edited."""
    columns = txn.execute("SELECT * FROM events WHERE event_nid IS NULL").description
    if "replaces" not in [column[0] for column in columns]:
        txn.execute("ALTER TABLE events ADD COLUMN replaces BIGINT")


def _apply(txn: Transaction, step: Step) -> None:
    for statement in step.statements():
        txn.execute(statement)
    txn.execute("INSERT INTO schema_migrations (number, name) VALUES (?, ?)", (step.number, step.name))
