"""docs/conformance.md says what is proven, and by which test; here it is held to its word."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PROVEN = "proven"
STATES = (PROVEN, "in part", "not yet")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

#: How many requirements there are of each kind.
REQUIREMENTS = {
    "API": 7,
    "EVS": 10,
    "LOGIN": 11,
    "ROOM": 8,
    "MEM": 4,
    "PERM": 5,
    "EVT": 4,
    "RED": 2,
    "PRES": 5,
    "TYP": 1,
    "PROF": 3,
    "VOIP": 1,
    "FED": 10,
    "SEC": 11,
    "RATE": 1,
    "E2E": 1,
    "ID": 1,
    "MEDIA": 1,
    "BOOK": 1,
    "POL": 1,
}


class Row(NamedTuple):
    """A row of the table: `| number | what | state | tests |`."""

    number: str
    state: str
    tests: tuple[str, ...]


def rows() -> list[Row]:
    found = []
    for line in (ROOT / "docs/conformance.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and re.fullmatch(r"[A-Z0-9]+-\d+", cells[0]):
            found.append(Row(cells[0], cells[2], tuple(re.findall(r"`([^`]+::[^`]+)`", cells[3]))))
    return found


@cache
def names_in(file: str) -> frozenset[str]:
    """The tests of a file: functions, and methods with their class in front."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{part.name}" for part in node.body if isinstance(part, FUNCTIONS)}
        elif isinstance(node, FUNCTIONS):
            names.add(node.name)
    return frozenset(names)


def test_every_requirement_has_one_row() -> None:
    expected = [f"{kind}-{n}" for kind, count in REQUIREMENTS.items() for n in range(1, count + 1)]
    assert [row.number for row in rows()] == expected


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.number)
def test_a_row_names_tests_that_exist_and_says_proven_only_with_one(row: Row) -> None:
    assert row.state in STATES
    assert bool(row.tests) == (row.state != "not yet")
    for test in row.tests:
        file, _, name = test.partition("::")
        assert name in names_in(file), f"{test} does not exist"
