"""`python -m tests.chaos`: chaos of any length, by hand. See README.md beside."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from shutil import copytree
from tempfile import TemporaryDirectory

import click

from tests.chaos.harms import let_loose
from tests.chaos.world import Report, World
from tests.support.postgres import HOW_TO_INSTALL, PostgreSQL, find_binaries
from tests.support.talkers import BREATH, busy

#: How large the disks of the servers are for each minute, in bytes.
DISK_BYTES = 64 * 2**20


def live_through(
    seconds: float,
    seed: int,
    *,
    on_postgresql: bool,
    breath: float = BREATH,
    processes: int = 1,
    tell: Callable[[str], None] = lambda _: None,
    keep: Path | None = None,
) -> Report:
    """Let there be chaos for some seconds, and see that all is well in the end.

    :param breath: seconds between two things that somebody says.
    :param processes: of how many each server is, on PostgreSQL.
    :param tell: is told now and then how it goes.
    :param keep: where everything of the servers is copied to if all is not well.
    :raises AssertionError: it is not.
    :raises TimeoutError: it does not become so.
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
        world = World(stack, folder, postgresql, disk_bytes, breath, processes)
        world.memory.start()
        stack.callback(world.memory.end)
        try:
            with busy(world.listeners):
                with busy(world.talkers):
                    happened = let_loose(world, seconds, Random(seed), tell=tell)
                world.memory.end()
                tell(f"no harm any more; {world.acknowledged()} messages acknowledged")
                settled_after = world.settle()
            return world.check(happened, settled_after)
        except BaseException:
            if keep is not None:
                copytree(folder, keep)
            raise


@click.command()
@click.option("--minutes", type=float, default=3.0, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="What happens when depends on it, and on luck.")
@click.option("--postgresql", is_flag=True, help="On PostgreSQL instead of SQLite.")
@click.option("--breath", type=float, default=0.1, show_default=True, help="Seconds between two messages of somebody.")
@click.option("--processes", type=int, default=1, show_default=True, help="Of how many each server is, on PostgreSQL.")
@click.option("--keep", type=click.Path(path_type=Path), help="Where to copy all of the servers to if something fails.")
def main(minutes: float, seed: int, postgresql: bool, breath: float, processes: int, keep: Path | None) -> None:
    """Let three servers live through whatever can happen to servers."""
    if processes > 1 and not postgresql:
        raise click.UsageError("several processes need --postgresql")

    def tell(text: str) -> None:
        click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)

    report = live_through(
        minutes * 60, seed, on_postgresql=postgresql, breath=breath, processes=processes, tell=tell, keep=keep
    )
    click.echo("\n".join(report.lines()))
    if not postgresql and os.geteuid() != 0:
        click.echo("No disk was full, since only root can make small ones.")


if __name__ == "__main__":
    sys.exit(main())
