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
from psycopg.pq.abc import PGconn
from psycopg.rows import tuple_row

from synapse_like.storage.engines.engine import Row


class MessageConnection(psycopg.Connection[Row]):
    """A connection as the driver makes it, which can do that, too."""

    def __init__(self, pgconn: PGconn, row_factory: Any = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self._names: dict[str, str] = {}
        self._loading = Transformer(self)

    def ready(self, statement: str, values: Sequence[object], kinds: str = "") -> str:
        """How a message has a statement, which is made ready first if it is not.

        :param values: one for each `?` in the statement.
        :param kinds: the types of its parameters, if PostgreSQL cannot find them out.
        :raises TypeError: a value is of a kind that is not used there.
        :raises psycopg.DataError: a text would end in the middle for PostgreSQL.
        """
        name = self._names.get(statement)
        if name is None:
            name = f"synapse_like_{len(self._names)}"
            self.execute(f"PREPARE {name} {kinds} AS {_numbered(statement)}", prepare=False)
            self._names[statement] = name
        given = ", ".join(map(_literal, values))
        return f"EXECUTE {name} ({given})" if given else f"EXECUTE {name}"

    def together(self, statements: Sequence[str]) -> list[list[Row]]:
        """Send some statements, and give the rows of each.

        :raises psycopg.Error: one was refused, and none after it was run; or the connection is lost.
        """
        with self.lock:
            self.pgconn.send_query("; ".join(statements).encode())
            results = self.wait(execute(self.pgconn))
        found: list[list[Row]] = []
        for result in results:
            if result.status == ExecStatus.FATAL_ERROR:
                raise error_from_result(result)
            if result.ntuples:
                self._loading.set_pgresult(result)
                found.append(self._loading.load_rows(0, result.ntuples, tuple))
            else:
                found.append([])
        return found


def _numbered(sql: str) -> str:
    """A statement in which `?` stands for each parameter, as PostgreSQL has it: `$1`, `$2` and so on."""
    first, *rest = sql.split("?")
    return first + "".join([f"${number}{part}" for number, part in enumerate(rest, 1)])


def _literal(value: object) -> str:
    """A value as it stands in SQL."""
    if isinstance(value, str):
        if "\0" in value:
            raise psycopg.DataError("PostgreSQL has no texts with NUL (0x00) in them")
        # A backslash means itself (`standard_conforming_strings`).
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'"
    if value is None:
        return "NULL"
    raise TypeError(f"{type(value).__name__} cannot be written in SQL")
