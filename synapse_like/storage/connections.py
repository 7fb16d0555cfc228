"""Connections, on which transactions begin and end.

Those of a server belong to its `Database`. Commands, migrations and tests use one by itself, and wait for what it does.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from msgspec import Struct

from synapse_like.logs import get_logger
from synapse_like.storage.caches import Caches
from synapse_like.storage.continuity import Continuity, DatabaseWentBack, leap
from synapse_like.storage.engines.engine import Engine, Query, RawConnection, Row
from synapse_like.storage.positions import OUTSIDE
from synapse_like.storage.shared.holder import Holder
from synapse_like.storage.shared.turns import Turn
from synapse_like.storage.transactions import Transaction

Result = TypeVar("Result")
P = ParamSpec("P")

#: How often commands have changed the tables.
_CHANGED_OUTSIDE: Query = ("SELECT position FROM stream_positions WHERE stream = ?", (OUTSIDE,))

_log = get_logger(__name__)


class Statistics(Struct):
    """What the database was asked for, counted since the start (for the measuring programs and the metrics)."""

    statements: int = 0
    commits: int = 0
    jobs: int = 0
    reads: int = 0
    rollbacks: int = 0


class CommitFailed(Exception):
    """The database failed at the very commit: nobody can tell whether it happened, so nothing may be done again."""


class Connection:
    """One connection, used by one thread at a time; the blocking face for commands, migrations and tests.

    :param exclusive: it claims the database, and is the one that writes.
    :param outside: it belongs to a command that runs beside the server: every transaction of it tells the server that
        its copies may be wrong.
    :param holder: the process that it writes for, among those that share the database.
    :param shared: what it holds is waited for by other processes.
    """

    def __init__(
        self,
        engine: Engine,
        caches: Caches | None = None,
        *,
        exclusive: bool = False,
        outside: bool = False,
        holder: Holder | None = None,
        shared: bool = False,
    ) -> None:
        self.engine = engine
        self.caches = caches if caches is not None else Caches()
        self.statistics = Statistics()
        self._exclusive = exclusive
        self._outside = outside
        self._outside_changes: int | None = None
        self._holder = holder
        self._shared = shared or holder is not None
        self._continuity = holder.continuity if holder is not None else Continuity()
        self._went_back = False
        self.raw: RawConnection = self._connect()

    def begin(self, *, writable: bool) -> Transaction:
        """Start a transaction; it must be ended by `commit` or `roll_back`.

        :raises DatabaseWentBack: what was committed is not there any more.
        """
        if self._went_back:
            raise DatabaseWentBack
        turn = Turn(self._holder) if writable and self._holder is not None else None
        txn = Transaction(self.raw, self.engine, self.caches, writable=writable, turn=turn)
        self.engine.begin(self.raw, writable=writable)
        return txn

    def begin_in_lanes(self, needed: Iterable[int], wanted: Iterable[int], firsts: Sequence[Query] = ()) -> Transaction:
        """Start a writing transaction in a database that is shared.

        :param needed: the lanes that are waited for.
        :param wanted: those that are held if they can be had at once.
        :param firsts: what the jobs ask first.
        :raises DatabaseWentBack: what was committed is not there any more.
        """
        assert self._holder is not None, "else there are no lanes"
        if self._went_back:
            raise DatabaseWentBack
        turn = Turn(self._holder)
        txn = Transaction(self.raw, self.engine, self.caches, writable=True, turn=turn)
        try:
            self._note_outside_changes(turn.begin(txn, needed, wanted, firsts))
        except BaseException:
            self.roll_back(txn)
            raise
        return txn

    def begin_writing(self, firsts: Sequence[Query] = ()) -> Transaction:
        """Start a writing transaction, and forget all copies if a command has changed the tables since the last one.

        :param firsts: what the jobs ask first.
        :raises DatabaseWentBack: what was committed is not there any more.
        """
        if self._went_back:
            raise DatabaseWentBack
        txn = Transaction(self.raw, self.engine, self.caches, writable=True)
        try:
            [rows, *answers], _ = txn.ask([_CHANGED_OUTSIDE, *firsts], begins=True)
        except BaseException:
            self.roll_back(txn)
            raise
        self._note_outside_changes(rows[0][0] if rows else 0)
        txn.has_foreseen(firsts, answers)
        return txn

    def without_begin(self) -> Transaction:
        """Each statement that it reads is a transaction by itself, and sees what was committed before it."""
        return Transaction(self.raw, self.engine, self.caches, writable=False)

    def look(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Every row of a query that is a transaction by itself."""
        self.statistics.statements += 1
        return self.raw.execute(self.engine.adapt(sql), parameters).fetchall()

    def _note_outside_changes(self, changes: int) -> None:
        """Forget all copies if a command has changed the tables since the last look.

        :param changes: how often any has by now.
        """
        if changes != self._outside_changes:
            if self._outside_changes is not None:
                self.caches.clear()
            self._outside_changes = changes

    def commit(self, txn: Transaction) -> list[object]:
        """Commit, and give the news to be published.

        :raises CommitFailed: perhaps committed, perhaps not.
        """
        if self._outside and txn.writes:
            txn.execute(
                "INSERT INTO stream_positions (stream, position) VALUES (?, 1)"
                " ON CONFLICT (stream) DO UPDATE SET position = stream_positions.position + 1",
                (OUTSIDE,),
            )
        for write in txn.last_writes.values():
            write()
        last = txn.turn.last_words(txn, txn.news) if txn.turn is not None else []
        began = time.monotonic()
        try:
            self.engine.write_and_commit(self.raw, [*txn.waiting, *last])
        except self.engine.database_errors as error:
            if isinstance(error, self.engine.passing_errors) or self.engine.is_refusal(error):
                raise
            self.caches.clear()
            raise CommitFailed(f"{type(error).__name__}: {error}") from error
        if txn.turn is not None:
            txn.turn.committed(self.engine, self.without_begin(), began)
        self.statistics.statements += txn.statements
        if txn.writes:
            self.statistics.commits += 1
            self._note(txn)
        for change in txn.on_commit:
            try:
                change()
            except Exception:
                # The commit stands; a job must not be run again for what comes after it.
                _log.exception("something to be done after a commit failed")
        return txn.news

    def roll_back(self, txn: Transaction) -> None:
        """Undo everything the transaction did."""
        self.statistics.rollbacks += 1
        for undo in txn.on_rollback:
            undo()
        self.engine.roll_back(self.raw)

    def transact(
        self, function: Callable[Concatenate[Transaction, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        """Run a storage function in a writing transaction of its own, in this thread. Its news is not published."""
        txn = self.begin(writable=True)
        try:
            result = function(txn, *args, **kwargs)
            self.commit(txn)
        except BaseException:
            self.roll_back(txn)
            raise
        return result

    def reconnect(self) -> None:
        """Open the connection anew after it was lost.

        :raises DatabaseUnavailable: that did not work either.
        :raises DatabaseWentBack: what was committed is not there any more; for one that is exclusive.
        """
        with contextlib.suppress(*self.engine.database_errors):
            self.raw.close()
        if self._exclusive:
            self.caches.clear()
        self.raw = self._connect()
        if self._exclusive:
            try:
                self.see_that_all_is_there(self._continuity)
            except BaseException:
                # Nothing is to be written before that was seen.
                self.raw.close()
                raise

    def see_that_all_is_there(self, continuity: Continuity) -> None:
        """Have all positions leap, and write nothing more, if what was committed is not there any more.

        :raises DatabaseWentBack: so it is.
        """
        txn = self.begin(writable=False)
        try:
            is_broken = continuity.is_broken(txn)
        finally:
            self.roll_back(txn)
        if is_broken:
            self.engine.begin(self.raw, writable=True)
            leap(txn)
            self.raw.execute("COMMIT")
            self.write_no_more()
            raise DatabaseWentBack

    def write_no_more(self) -> None:
        """Refuse to begin any transaction from now on: the database is not the one that was written to."""
        self._went_back = True

    def _note(self, txn: Transaction) -> None:
        """Know what was committed, should the connection be lost."""
        if self._holder is None:
            self._continuity.knows(txn.positions)
        elif txn.turn is not None and txn.turn.number is not None:
            self._continuity.knows_of(txn.turn.number, self._holder.name)

    def _connect(self) -> RawConnection:
        return self.engine.connect(exclusive=self._exclusive, shared=self._shared)

    def close(self) -> None:
        """Close the connection and give up the claim on the database, if it was exclusive."""
        self.raw.close()
        if self._exclusive:
            self.engine.release()
