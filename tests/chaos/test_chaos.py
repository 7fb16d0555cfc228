"""A while of chaos, on both kinds of databases; `python -m tests.chaos` is for longer ones."""

from __future__ import annotations

import pytest

from tests.chaos.__main__ import live_through
from tests.support.needed import needed
from tests.support.postgres import HOW_TO_INSTALL, find_binaries

SECONDS = {"sqlite": 60, "postgresql": 45}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", SECONDS)
def test_nothing_is_lost_and_nothing_stands_still_whatever_happens(kind: str) -> None:
    """FED-3, FED-6, SEC-4, API-4: servers killed, stopped, cut off, slow, without disk and without database."""
    if kind == "postgresql":
        needed(find_binaries(), "POSTGRES", HOW_TO_INSTALL)
    report = live_through(SECONDS[kind], 1, on_postgresql=kind == "postgresql")
    assert report.messages > SECONDS[kind], "there was hardly anything to lose"
    assert sum(report.happened.values()) > SECONDS[kind] / 4, "hardly anything has happened"
