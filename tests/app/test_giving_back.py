"""A server that is quiet again gives memory back that is free."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
from twisted.internet.defer import Deferred

from synapse_like.app.giving_back import QUIET, WORTH_WHILE, GivingBack

#: Some large things among which a few stay; what is resident before and after, in MiB.
PROGRAM = """
import os
from synapse_like.app.giving_back import trim

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

things = [bytes(100_000) for _ in range(500)]
things = things[::10]
before = resident()
trim()
print(before, resident())
"""


class Process:
    """One whose CPU time a test says."""

    def __init__(self) -> None:
        self.used = 7.0
        self.times = 0
        self._giving_back = GivingBack(lambda: self.used, self._count)

    def _count(self) -> None:
        self.times += 1
        self.used += 2 * QUIET

    def work(self, seconds: float) -> int:
        """Use some CPU time until the next look; how often memory was given back by then."""
        self.used += seconds
        Deferred.fromCoroutine(self._giving_back.look())
        return self.times


def test_once_when_it_is_quiet_after_work() -> None:
    process = Process()
    assert process.work(WORTH_WHILE) == 0
    assert process.work(WORTH_WHILE) == 0
    # What it costs itself is no work.
    assert [process.work(QUIET / 2) for _ in range(3)] == [1, 1, 1]
    assert process.work(WORTH_WHILE) == 1
    assert process.work(0) == 2


def test_not_where_little_was_done() -> None:
    process = Process()
    assert process.work(WORTH_WHILE / 4) == 0
    assert process.work(0) == 0


def test_what_was_free_is_not_resident_any_more() -> None:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("only glibc can do it")
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    before, after = map(float, done.stdout.split())
    assert after < before - 20
