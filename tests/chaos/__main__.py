"""`python -m tests.chaos`: chaos of any length, by hand. See README.md beside."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import click

from tests.chaos.harms import let_loose
from tests.chaos.world import Report, World
from tests.support.postgres import HOW_TO_INSTALL, PostgreSQL, find_binaries
from tests.support.talkers import busy

#: How large the disks of the servers are for each minute, in bytes.
DISK_BYTES = 64 * 2**20


def live_through(seconds: float, seed: int, *, on_postgresql: bool) -> Report:
    """Let there be chaos for some seconds, and see that all is well in the end.

    :raises AssertionError: it is not.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="chaos-")))
        postgresql = disk_bytes = None
        if on_postgresql:
            binaries = find_binaries()
            assert binaries is not None, HOW_TO_INSTALL
            postgresql = PostgreSQL(binaries, keeps=True)
            stack.callback(postgresql.stop)
        elif os.geteuid() == 0:
            disk_bytes = int(DISK_BYTES * (1 + seconds / 60))
        world = World(stack, folder, postgresql, disk_bytes)
        with busy(world.listeners):
            with busy(world.talkers):
                happened = let_loose(world, seconds, Random(seed))
            settled_after = world.settle()
        return world.check(happened, settled_after)


@click.command()
@click.option("--minutes", type=float, default=3.0, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="What happens when depends on it, and on luck.")
@click.option("--postgresql", is_flag=True, help="On PostgreSQL instead of SQLite.")
def main(minutes: float, seed: int, postgresql: bool) -> None:
    """Let three servers live through whatever can happen to servers."""
    report = live_through(minutes * 60, seed, on_postgresql=postgresql)
    click.echo("\n".join(report.lines()))
    if not postgresql and os.geteuid() != 0:
        click.echo("No disk was full, since only root can make small ones.")


if __name__ == "__main__":
    sys.exit(main())
