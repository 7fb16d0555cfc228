"""A while of chaos, on both kinds of databases; `python -m tests.chaos` is for longer ones.

This is where servers in a federation are killed at whatever point they are. What `kill -9` does to one alone is tried
in tests/scenarios/test_durability.py.
"""

from __future__ import annotations

import pytest

from tests.chaos.__main__ import live_through
from tests.support.needed import needed
from tests.support.postgres import HOW_TO_INSTALL, find_binaries

SECONDS = 45
#: How many of the things that happen are kills, at the least; they are what comes most often.
KILLS = 5


@pytest.mark.timeout(600)
@pytest.mark.parametrize("on_postgresql", [False, True], ids=["SQLite", "PostgreSQL"])
def test_nothing_is_lost_and_nothing_stands_still_whatever_happens(*, on_postgresql: bool) -> None:
    """FED-3, FED-6, SEC-4, API-4: servers killed, stopped, cut off, slow, without disk and without database."""
    if on_postgresql:
        needed(find_binaries(), "POSTGRES", HOW_TO_INSTALL)
    report = live_through(SECONDS, 1, on_postgresql=on_postgresql)
    assert report.messages > SECONDS, "there was hardly anything to lose"
    assert sum(report.happened.values()) > SECONDS / 4, "hardly anything has happened"
    assert report.happened["kill -9"] >= KILLS, "hardly any server was killed"
