"""What an engine is: how to speak to one kind of database. And what all engines have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

#: A row of what a query gives.
Row = tuple[Any, ...]

#: A statement with what stands for its parameters.
Query = tuple[str, Sequence[object]]

#: How long to wait for a database that somebody else has locked, or for the connection to it.
BUSY_SECONDS = 10
#: Statements that a connection keeps ready.
MOST_STATEMENTS = 256


class DatabaseInUse(Exception):
    """Another server holds this database; the message names it for the operator."""


class DatabaseUnavailable(Exception):
    """The database cannot be opened; the message says where and why."""


class Identity(NamedTuple):
    """Who a server is, to tell those that share a database from others that must not.

    :ivar number: stands for it; of 31 bits.
    :ivar accepted: the numbers of those that are the same server, itself among them.
    """

    number: int
    accepted: frozenset[int]


class RawCursor(Protocol):
    """What we use of a DB-API cursor."""

    @property
    def rowcount(self) -> int: ...

    @property
    def description(self) -> Any: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class RawConnection(Protocol):
    """What we use of a DB-API connection: both drivers let one execute on the connection itself."""

    def execute(self, query: Any, params: Any = (), /) -> RawCursor: ...

    def close(self) -> None: ...


class Engine(Protocol):
    """How to speak to one kind of database."""

    name: str
    #: Errors that mean the connection is gone and another attempt may succeed.
    connection_errors: tuple[type[Exception], ...]
    #: Errors that the driver raises for a statement or a connection.
    database_errors: tuple[type[Exception], ...]
    #: Those after which the same transaction, done once more, may succeed: it stood in another's way.
    passing_errors: tuple[type[Exception], ...]
    #: Whether several statements in one message cost less than one by one.
    gathers: bool
    #: Appended to a SELECT that must lock its rows against other writers.
    for_update: str
    #: A query for the size of the database, in bytes.
    size_query: str

    @property
    def path(self) -> Path | None:
        """The file of the database; None if it is not one file on this machine."""
        ...

    @property
    def can_be_shared(self) -> bool:
        """Whether several processes can write at the same time."""
        ...

    def connect(self, *, exclusive: bool, shared: bool = False) -> RawConnection:
        """Open a connection; with `exclusive`, claim the database for this server first.

        :param shared: with others that claim it so, too.
        :raises DatabaseInUse: another server has claimed it.
        :raises DatabaseUnavailable: it cannot be opened.
        """
        ...

    def apart(self, connection: RawConnection) -> AbstractContextManager[Callable[[], None]]:
        """Step aside from those with whom a database is claimed, one at a time, for the length of a `with` block.

        :returns: what has it for oneself, until the end of the block; it raises DatabaseInUse if others are on it.
        """
        ...

    def adapt(self, sql: str) -> str:
        """Our SQL in this database's spelling."""
        ...

    def forget_deleted(self, connection: RawConnection) -> bool:
        """See that data deleted by committed transactions leaves the files, too, as far as the engine can.

        :returns: whether that is done; if not, somebody is still reading it: try again later.
        """
        ...

    def faults(self, connection: RawConnection, *, thorough: bool = False) -> list[str]:
        """What is wrong with the database below its tables, in sentences.

        :param thorough: whether every row and index is looked at, which takes as long as it takes.
        """
        ...

    def risks(self, connection: RawConnection) -> list[str]:
        """What may be lost of what was committed, by how the database is set up, in sentences."""
        ...

    def left_out(self, connection: RawConnection) -> list[str]:
        """What a thorough look for faults cannot look at here, and why, in sentences."""
        ...

    def try_locks(self, connection: RawConnection, locks: Sequence[int]) -> set[int]:
        """Take locks that are kept until the connection ends; those that could be had at once.

        :param locks: numbers of 64 bits.
        """
        ...

    def release_locks(self, connection: RawConnection, locks: Sequence[int]) -> None:
        """Give locks back that were got by `try_locks`."""
        ...

    def begin(self, connection: RawConnection, *, writable: bool) -> None:
        """Begin a transaction; one that only reads sees what was committed when it read first, and nothing later."""
        ...

    def ask(
        self,
        connection: RawConnection,
        queries: Sequence[Query],
        *,
        begins: bool = False,
        needed: Sequence[int] = (),
        wanted: Sequence[int] = (),
    ) -> tuple[list[list[Row]], set[int]]:
        """Run some statements of a writing transaction: all in one message.

        :param queries: those statements, each one of few: they are kept ready.
        :param begins: whether the transaction begins with that.
        :param needed: locks that are waited for before they are run, one after the other, and held until its end.
        :param wanted: locks that are taken, too, if they can be had at once.
        :returns: what each statement gave, and the locks that are held of those wanted.
        """
        ...

    def write_and_commit(self, connection: RawConnection, statements: Sequence[Query]) -> None:
        """Run some more statements and commit: in one message. They are of the kind that `ask` takes."""
        ...

    def is_refusal(self, error: Exception) -> bool:
        """Whether the database says by an error, be it one of a commit, that nothing stands of the transaction."""
        ...

    def roll_back(self, connection: RawConnection) -> None:
        """End a transaction as if it had not been; a connection that is gone has done so by itself."""
        ...

    def make_indexes_anew(self, connection: RawConnection) -> None:
        """Derive all indexes from their tables again; for a connection that has claimed the database."""
        ...

    def listen(self, connection: RawConnection) -> None:
        """Have the database say so on a connection when another process has committed something."""
        ...

    def notices(self, connection: RawConnection, seconds: float) -> list[str]:
        """What was said to those who listen, empty where it is only that there is something to read.

        :param seconds: how long to wait for the first.
        """
        ...

    def notify(self, connection: RawConnection, text: str = "") -> None:
        """Say something to those who listen, with the next commit or, outside of a transaction, now."""
        ...

    def end_if_silent(self, connection: RawConnection, seconds: float) -> None:
        """Have the database end a connection, with all locks that it holds, over which nothing was asked for a while.

        For one that asks something every few seconds, unless its process hangs. Older databases cannot do it.
        """
        ...

    def watch(self) -> AbstractContextManager[object]:
        """Have those who wait for an answer of a server that does not answer wait no longer, within a `with` block."""
        ...

    def release(self) -> None:
        """Give up the claim made by an exclusive `connect`."""
        ...
