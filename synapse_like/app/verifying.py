"""What `verify` does for servers of both kinds: asking the database, telling faults, mending streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from msgspec import Struct, field

from synapse_like.app.errors import StartError
from synapse_like.storage import faults, migrations
from synapse_like.storage.connections import Connection
from synapse_like.storage.engines.engine import DatabaseInUse, DatabaseUnavailable, Engine
from synapse_like.storage.faults import Fault
from synapse_like.storage.transactions import Transaction

#: Seconds between two words on how far it is.
TELL_SECONDS = 5.0

Tell = Callable[[str], object]


class Result(Struct):
    """What came of it.

    :ivar looked_at: how many things there were of each kind.
    :ivar unsigned: how many statements or events there are whose signer's key is not known here.
    :ivar faults: how many there were, and are not mended.
    """

    looked_at: dict[str, int] = field(default_factory=dict)
    unsigned: int = 0
    faults: int = 0
    mended: int = 0

    def sentence(self) -> str:
        """For the operator."""
        *others, last = [f"{number} {kind}" for kind, number in self.looked_at.items()]
        text = f"Looked at {', '.join(others)} and {last}: {self.faults} faults"
        text += f", {self.mended} more mended." if self.mended else "."
        if self.unsigned:
            kind = next(iter(self.looked_at))
            text += f" Of {self.unsigned} {kind} the signer's key is not known here, so that nobody can tell."
        return text


@contextmanager
def opened(engine: Engine, package: str, *, command: str, repair: bool) -> Iterator[Connection]:
    """A connection to look through a database of this version.

    :param package: whose it is.
    :param command: what brings it up to date.
    :param repair: whether something is to be mended; only while no server runs.
    :raises StartError: it cannot be opened, or is in use and something was to be mended.
    """
    try:
        connection = Connection(engine, exclusive=repair, outside=True)
    except (DatabaseInUse, DatabaseUnavailable) as error:
        raise StartError(str(error)) from error
    try:
        if migrations.is_of_another_kind(connection, package):
            raise StartError("the database is of another kind of server: see to database.url")
        if migrations.newest_applied(connection) != migrations.steps(package)[-1].number:
            raise StartError(f"the database is of another version of this program: run `{command}` first")
        yield connection
    finally:
        connection.close()


class Run:
    """A look through everything.

    :param repair: mend what is derived.
    :param kinds: of what is looked at.
    :param report: is told each fault.
    :param tell: is told how far it is.
    """

    def __init__(self, connection: Connection, *, repair: bool, kinds: tuple[str, ...], report: Tell, tell: Tell):
        self._connection = connection
        self._repair = repair
        self._report = report
        self._tell = tell
        self._told_at = time.monotonic()
        self.result = Result(dict.fromkeys(kinds, 0))

    def _found(self, fault: Fault) -> None:
        mendable = " (can be mended by --repair)" if fault.is_derived else ""
        self._report(f"{fault.where}: {fault.sentence}{mendable}")
        self.result.faults += 1

    def _mended(self, where: str, number: int = 1) -> None:
        self._report(f"{where}: mended")
        self.result.faults -= number
        self.result.mended += number

    def _progress(self, sentence: str) -> None:
        if time.monotonic() - self._told_at >= TELL_SECONDS:
            self._tell(sentence)
            self._told_at = time.monotonic()

    def _read(self, function: Callable[[Transaction], object]) -> None:
        """Read in a transaction of its own; what it has put into memory may be wrong for the next one."""
        txn = self._connection.begin(writable=False)
        try:
            function(txn)
        finally:
            self._connection.roll_back(txn)
            self._connection.caches.clear()

    def database(self) -> None:
        """What the database itself finds."""
        self._tell("looking at the database's files and indexes")
        engine, raw = self._connection.engine, self._connection.raw
        for left_out in engine.left_out(raw):
            self._tell(left_out)
        found = engine.faults(raw, thorough=True)
        for fault in found:
            self._found(Fault("database", fault, "index" in fault))
        if found and self._repair:
            engine.make_indexes_anew(raw)
            left = len(engine.faults(raw, thorough=True))
            if left < len(found):
                self._mended("database", len(found) - left)

    def streams(self, highest: Mapping[str, str]) -> None:
        """Where every stream stands."""
        found: list[Fault] = []
        self._read(lambda txn: found.extend(faults.check_streams(txn, highest)))
        for fault in found:
            self._found(fault)
        if found and self._repair:
            self._connection.transact(faults.mend_streams, highest)
            self._mended("streams", len(found))
