"""Commands about files: those that users have uploaded, and copies of other servers' files."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from synapse_like.commands.options import needs_config

if TYPE_CHECKING:
    from synapse_like.config import Config


@click.group()
def media() -> None:
    """Look after the files that users have uploaded, and the copies of other servers' files."""


@media.command("status")
@needs_config
def media_status(config: Config) -> None:
    """Tell how many files there are, how large they are, and who has uploaded most."""
    from synapse_like.app import content

    click.echo(content.media_status(config))


@media.command("purge")
@needs_config
@click.argument("what", nargs=-1)
@click.option("--user", help="Everything that this user of ours has uploaded.")
@click.option("--copies", is_flag=True, help="The copies of all other servers' files.")
@click.option("--days", type=click.FloatRange(0), help="Only uploads older, and copies unused for longer, than that.")
def media_purge(config: Config, what: tuple[str, ...], user: str | None, copies: bool, days: float | None) -> None:
    """Delete files, with their thumbnails, for ever.

    WHAT are single files (mxc://example.org/id) and servers, of whose files all copies are meant. Copies are fetched
    again when somebody wants them.
    """
    from synapse_like.app import content

    if not (what or user or copies):
        raise click.UsageError("Name files or servers, or give --user or --copies.")
    click.echo(content.media_purge(config, list(what), user=user, copies=copies, days=days))


@media.command("reconcile")
@needs_config
@click.option(
    "--repair", is_flag=True, help="Delete files without a row, and forget copies and thumbnails without a file."
)
def media_reconcile(config: Config, repair: bool) -> None:
    """Compare the tables with the files on the disk, and clear away what crashes have left."""
    from synapse_like.app import content

    report, is_wrong = content.media_reconcile(config, repair=repair)
    click.echo(report)
    if is_wrong:
        sys.exit(1)
