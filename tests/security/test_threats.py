"""docs/security.md names the test that tries each threat; here it is held to its word."""

from __future__ import annotations

import re

from tests.test_conformance import ROOT, names_in

DOCUMENT = ROOT / "docs/security.md"
NUMBER_OF_THREATS = 11


def rows() -> list[list[str]]:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if row[0] not in ("threat", "kind", "---")]


def test_every_row_says_what_stands_against_it_and_names_tests_that_exist() -> None:
    assert len(rows()) > 25
    for row in rows():
        assert len(row) == 3, row
        assert row[1], row
        tests = re.findall(r"`([^`]+)`", row[2])
        assert tests, f"nothing tries {row[0]}"
        for test in tests:
            file, _, name = test.partition("::")
            assert name in names_in(file), f"{test} does not exist"


def test_every_threat_of_the_specification_has_a_row() -> None:
    named = {int(number) for row in rows() for number in re.findall(r"SEC-(\d+)", row[0])}
    assert named == set(range(1, NUMBER_OF_THREATS + 1))
