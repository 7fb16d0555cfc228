"""Connections to PostgreSQL over which several statements go in one message.

A cursor of the driver has one statement in mind, and costs more than what is asked with it. These statements are ready
on the connection (PREPARE), and are run by EXECUTE, with their values in the text: that is how one message can have
several. What they give is read by the driver's own loaders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.generators import execute
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.rows import tuple_row

from synapse_like.storage.engines.engine import Row


class MessageConnection(psycopg.Connection[Row]):
    """A connection as the driver makes it, which can do that, too."""

    def __init__(self, pgconn: PGconn, row_factory: Any = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self._names: dict[str, str] = {}
        self._loading = Transformer(self)

    def ready(self, statement: str, values: Sequence[object] = ()) -> str:
        """How a message has a statement, which is made ready first if it is not.

        :param statement: PostgreSQL must be able to find out of what type each parameter is.
        :param values: one for each `?` in it.
        :raises TypeError: a value is of a kind that is not used there.
        :raises ValueError: a text would end in the middle for PostgreSQL.
        """
        name = self._names.get(statement)
        if name is None:
            name = f"synapse_like_{len(self._names)}"
            self.execute(f"PREPARE {name} AS {_numbered(statement)}", prepare=False)
            self._names[statement] = name
        given = ", ".join(map(_literal, values))
        return f"EXECUTE {name} ({given})" if given else f"EXECUTE {name}"

    def together(self, statements: Sequence[str]) -> list[list[Row]]:
        """Send some statements, and give the rows of each.

        :raises psycopg.Error: one was refused, and none after it was run; or the connection is lost.
        """
        return [self._rows(result) if result.ntuples else [] for result in self._exchange(statements)]

    def commit_with(self, statements: Sequence[str]) -> None:
        """Send the last statements of a transaction, and commit it.

        :raises psycopg.Error: one of them or the commit was refused; or the connection is lost.
        """
        *_, committed = self._exchange([*statements, "COMMIT"])
        if committed.command_status != b"COMMIT":
            raise psycopg.errors.InFailedSqlTransaction("the transaction had failed before, and was rolled back")

    def _exchange(self, statements: Sequence[str]) -> Sequence[PGresult]:
        with self.lock:
            self.pgconn.send_query("; ".join(statements).encode())
            results: Sequence[PGresult] = self.wait(execute(self.pgconn))
        if results and results[-1].status == ExecStatus.FATAL_ERROR:
            error = error_from_result(results[-1])
            if isinstance(error, psycopg.errors.InvalidSqlStatementName):
                # Something has made the connection forget them.
                self._names.clear()
            raise error
        if len(results) != len(statements):
            raise psycopg.OperationalError("PostgreSQL has not answered every statement")
        return results

    def _rows(self, result: PGresult) -> list[Row]:
        self._loading.set_pgresult(result)
        return self._loading.load_rows(0, result.ntuples, tuple)


def _numbered(sql: str) -> str:
    """A statement in which `?` stands for each parameter, as PostgreSQL has it: `$1`, `$2` and so on."""
    first, *rest = sql.split("?")
    return first + "".join([f"${number}{part}" for number, part in enumerate(rest, 1)])


def _literal(value: object) -> str:
    """A value as it stands in SQL."""
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("PostgreSQL has no texts with NUL in them")
        # A backslash means itself (`standard_conforming_strings`).
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'"
    if value is None:
        return "NULL"
    raise TypeError(f"{type(value).__name__} cannot be written in SQL")
