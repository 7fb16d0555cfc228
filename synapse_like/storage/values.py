"""Many values in one statement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

#: How many values one statement takes in an ``IN (…)``. Databases have a limit for a statement's parameters; and a
#: statement is kept, for as many values as it was made for, and takes up to 400 bytes for each.
MOST_VALUES = 1000


def batched(values: Iterable[Item], most: int = MOST_VALUES) -> Iterator[list[Item]]:
    """Values in lists that are short enough for one statement."""
    waiting = list(values)
    for start in range(0, len(waiting), most):
        yield waiting[start : start + most]


def placeholders(values: Sequence[object]) -> str:
    """`?, ?, …` for the values of an ``IN (…)``; never empty, since ``IN ()`` is not SQL everywhere."""
    return ", ".join("?" * len(values)) or "NULL"
