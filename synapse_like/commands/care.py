"""Commands that look after a server: whether it is well, backups, whether all it keeps holds together."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from synapse_like.commands.options import needs_config, progress, settings_file, tell_findings

if TYPE_CHECKING:
    from synapse_like.config import Config


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The settings.")
@click.option("--ask", multiple=True, metavar="SERVER", help="Servers to ask for the time, and to come and see ours.")
@click.option("--mail-to", metavar="ADDRESS", help="Send a letter there; without it, none is sent.")
@click.option("--json", "as_json", is_flag=True, help="A list of objects, for programs.")
def doctor(path: Path, ask: tuple[str, ...], mail_to: str | None, as_json: bool) -> None:
    """Check settings, files, database, clock, DNS, certificate, federation, TURN, mail and identity servers.

    Nothing is changed. Each line says ok, warning, fault or skipped, what was found, and what to do. The exit code is 1
    if there is a fault.
    """
    from synapse_like.app.doctor import diagnose
    from synapse_like.config import load
    from synapse_like.protocol.identifiers import parse_server_name

    others = [parse_server_name(name) for name in ask]
    tell_findings(
        lambda: load(path, os.environ), lambda config: diagnose(config, path, ask=others, mail_to=mail_to), as_json
    )


@click.command()
@needs_config
@click.argument("target", type=click.Path(path_type=Path))
@click.pass_context
def backup(ctx: click.Context, config: Config, target: Path) -> None:
    """Make a backup of settings, keys, database and files in TARGET, also while the server runs.

    TARGET is a folder that is not there yet or, if it ends with .tar, such a file. It holds secrets.
    """
    from synapse_like.app import backup as backups

    click.echo(backups.backup(config, settings_file(ctx), target, progress))


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option("--data-dir", type=click.Path(path_type=Path), required=True, help="An empty folder, or none yet.")
def restore(source: Path, data_dir: Path) -> None:
    """Restore the backup SOURCE, after it was compared with its manifest, into an empty place."""
    from synapse_like import logs
    from synapse_like.app import backup as backups

    logs.configure("text", "error")
    click.echo(backups.restore(source, data_dir, os.environ, progress))


@click.command()
@needs_config
@click.argument("target", envvar="SYNAPSE_LIKE_TARGET_DATABASE_URL")
def copy_database(config: Config, target: str) -> None:
    """Copy the database into an empty one, TARGET (postgresql://… or sqlite:PATH); stop the server before.

    Both are compared in the end. If anything goes wrong, the other one is as empty as before. The environment variable
    SYNAPSE_LIKE_TARGET_DATABASE_URL can stand for TARGET, so that no password is seen in the list of processes.
    """
    from synapse_like.app import moving

    click.echo(moving.copy_database(config, target, progress))


@click.command()
@needs_config
@click.option("--repair", is_flag=True, help="Mend what can be derived from something else; stop the server before.")
@click.option("--start", type=int, default=0, metavar="NUMBER", help="Leave out the events up to this one.")
def verify(config: Config, repair: bool, start: int) -> None:
    """Look through everything that is kept: the database, events, rooms, streams, files.

    Hashes, signatures, authorisation and states are computed anew and compared. It reads all of it, which takes long;
    the server may run meanwhile. Interrupt it as you like, and go on with --start. The exit code is 1 if there are
    faults.
    """
    from synapse_like.app import verification

    result = verification.verify(config, repair=repair, start=start, report=click.echo, tell=progress)
    click.echo(result.sentence())
    if result.faults:
        sys.exit(1)
