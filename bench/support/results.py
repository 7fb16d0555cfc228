"""What was measured on several kinds of database, and its tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, TypeVar

from bench.support.tables import table

NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
U = TypeVar("U")


@dataclass
class Results(Generic[U]):
    """What was measured on one kind of database.

    :ivar version: of the database.
    :ivar usages: what one operation used, one entry for each repetition.
    :ivar figures: everything else, by table and row.
    """

    database: str
    version: str = ""
    usages: defaultdict[str, list[U]] = field(default_factory=lambda: defaultdict(list))
    figures: defaultdict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))


def usage_table(
    title: str,
    all_results: Sequence[Results[U]],
    columns: Callable[[str], Sequence[str]],
    cells: Callable[[str, Sequence[U]], Sequence[str]],
) -> str:
    """The table of what operations use.

    :param columns: the headings for a kind of database.
    :param cells: what stands below them, of the usages of one operation.
    """
    own = [list(columns(results.database)) for results in all_results]
    headings = [
        [NAMES[results.database], *[""] * (len(part) - 1)] for results, part in zip(all_results, own, strict=True)
    ]
    rows = [
        [row, *(cell for results in all_results for cell in cells(results.database, results.usages[row]))]
        for row in all_results[0].usages
    ]
    return table(title, [list(chain(*headings)), list(chain(*own))], rows)


def figure_tables(all_results: Sequence[Results[U]]) -> list[str]:
    """The tables of everything else."""
    headings = [[NAMES[results.database] for results in all_results]]
    tables = []
    for title in all_results[0].figures:
        rows = list(dict.fromkeys(row for results in all_results for row in results.figures[title]))
        cells = [[row, *(results.figures[title].get(row, "") for results in all_results)] for row in rows]
        tables.append(table(title, headings, cells))
    return tables
