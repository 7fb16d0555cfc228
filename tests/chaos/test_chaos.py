"""A while of chaos, on both kinds of databases; `python -m tests.chaos` is for longer ones.

This is where servers in a federation are killed at whatever point they are. What `kill -9` does to one alone is tried
in tests/scenarios/test_durability.py.
"""

from __future__ import annotations

import pytest

from tests.chaos.__main__ import live_through
from tests.support.needed import needed
from tests.support.postgres import HOW_TO_INSTALL, find_binaries

#: For how long: where servers are one process each, and where they are several, which cost as much more.
SECONDS, SECONDS_OF_SEVERAL = 45, 20
#: How many of the things that happen are kills, at the least; they are what comes most often.
KILLS, KILLS_OF_SEVERAL = 5, 3


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


@pytest.mark.timeout(600)
def test_nothing_is_lost_and_nothing_stands_still_where_servers_are_several_processes() -> None:
    """FED-3, FED-6, SEC-4, API-4: also single processes of theirs are killed and stopped."""
    needed(find_binaries(), "POSTGRES", HOW_TO_INSTALL)
    report = live_through(SECONDS_OF_SEVERAL, 2, on_postgresql=True, processes=3)
    assert report.messages > SECONDS_OF_SEVERAL, "there was hardly anything to lose"
    assert sum(report.happened.values()) > SECONDS_OF_SEVERAL / 4, "hardly anything has happened"
    killed = report.happened["kill -9"] + report.happened["kill -9 of one process"]
    assert killed >= KILLS_OF_SEVERAL, "hardly anybody was killed"
