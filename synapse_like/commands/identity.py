"""Commands of an identity server."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from synapse_like.commands.options import Serving, needs_identity_config, progress, settings_file, tell_findings
from synapse_like.commands.setup import assign, keep_or_write, new_key_in, new_signing_key, run_server

if TYPE_CHECKING:
    from synapse_like.identity.settings import IdentityConfig


@click.group()
def identity() -> None:
    """Run an identity server, alone or beside a home server: whose e-mail addresses and phone numbers are."""


@identity.command("init")
@click.option("--data-dir", type=click.Path(path_type=Path), required=True, help="Where everything is kept.")
@click.option("--server-name", required=True, help="Its name: id.example.org, or localhost:8090 to try it out.")
@click.option("--port", type=int, default=8090, show_default=True, help="Port to listen on (HTTP).")
@click.option("--bind", default="127.0.0.1", show_default=True, help="IP address to listen on.")
@click.option("--database", default="sqlite", show_default=True, help="sqlite, sqlite:PATH or postgresql://…")
@click.option("--set", "more", multiple=True, metavar="KEY=VALUE", help="Any setting, such as mail.host=localhost.")
def identity_init(data_dir: Path, server_name: str, port: int, bind: str, database: str, more: tuple[str, ...]) -> None:
    """Make a data directory with settings and a signing key.

    What is there already is kept, so that this may be repeated.
    """
    from synapse_like.app import administration
    from synapse_like.identity.settings import CONFIG_FILE, IDENTITY_SERVER
    from synapse_like.protocol.identifiers import parse_server_name

    settings: dict[str, Any] = {
        "server_name": server_name,
        "database": {"url": database},
        "http": {"bind": bind, "port": port},
    }
    for assignment in more:
        assign(settings, assignment)
    path = data_dir.absolute() / CONFIG_FILE
    try:
        if path.exists():
            config = IDENTITY_SERVER.load(path, os.environ)
            if config.server_name != parse_server_name(server_name):
                raise click.ClickException(f"{path} is for another server, {config.server_name}")
        else:
            config = IDENTITY_SERVER.parse(settings, source="init", folder=path.parent, environ={})
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        keep_or_write(path, lambda: IDENTITY_SERVER.sample(config, settings))
        keep_or_write(config.signing_key_file, new_signing_key)
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error
    click.echo(f"Its public key: {administration.identity_key(config)}")
    click.echo(f"To start the server: synapse_like identity run --config {path}")


@identity.command("check-config")
@needs_identity_config
def identity_check_config(config: IdentityConfig) -> None:
    """Say OK, or all that is wrong with the settings."""
    click.echo("OK")


@identity.command("run", cls=Serving)
@needs_identity_config
@click.pass_context
def identity_run(ctx: click.Context, config: IdentityConfig) -> None:
    """Run the server until SIGINT or SIGTERM; at SIGHUP it reads the settings again."""
    run_server(config, settings_file(ctx))


@identity.command("migrate")
@needs_identity_config
def identity_migrate(config: IdentityConfig) -> None:
    """Bring the database up to date, as `run` does when it starts."""
    from synapse_like.app import administration

    click.echo(administration.identity_migrate(config))


@identity.command("key")
@needs_identity_config
def identity_key(config: IdentityConfig) -> None:
    """Tell the public key, for the settings of siblings."""
    from synapse_like.app import administration

    click.echo(administration.identity_key(config))


@identity.command("rotate-key")
@needs_identity_config
def identity_rotate_key(config: IdentityConfig) -> None:
    """Make a new signing key, to be used from the next start on; tell the siblings before."""
    from synapse_like.app import administration

    new_key_in(config.signing_key_file)
    click.echo(f"The new key is {administration.identity_key(config)}. Restart the server to use it.")


@identity.command("status")
@needs_identity_config
def identity_status(config: IdentityConfig) -> None:
    """List the siblings, and home servers that wait to be told of invites: what waits for each, and why."""
    from synapse_like.app import administration

    click.echo(administration.identity_status(config))


@identity.command("copy-database")
@needs_identity_config
@click.argument("target", envvar="SYNAPSE_LIKE_TARGET_DATABASE_URL")
def identity_copy_database(config: IdentityConfig, target: str) -> None:
    """Copy the database into an empty one, TARGET (postgresql://… or sqlite:PATH); stop the server before."""
    from synapse_like.app import moving

    click.echo(moving.copy_database(config, target, progress))


@identity.command("backup")
@needs_identity_config
@click.argument("target", type=click.Path(path_type=Path))
@click.pass_context
def identity_backup(ctx: click.Context, config: IdentityConfig, target: Path) -> None:
    """Make a backup of settings, keys and database in TARGET, a new folder or .tar file; `restore` restores it."""
    from synapse_like.app import backup

    click.echo(backup.backup(config, settings_file(ctx), target, progress))


@identity.command("doctor")
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The settings.")
@click.option("--ask", multiple=True, metavar="SERVER", help="Home servers to ask for the time.")
@click.option("--mail-to", metavar="ADDRESS", help="Send a letter there; without it, none is sent.")
@click.option("--text-to", metavar="NUMBER", help="Send a text message there; without it, none is sent.")
@click.option("--json", "as_json", is_flag=True, help="A list of objects, for programs.")
def identity_doctor(path: Path, ask: tuple[str, ...], mail_to: str | None, text_to: str | None, as_json: bool) -> None:
    """Check settings, files, database, clock, mail, text messages, public URL and siblings.

    Nothing is changed. Each line says ok, warning, fault or skipped, what was found, and what to do. The exit code is 1
    if there is a fault.
    """
    from synapse_like.app.doctor.identity import diagnose
    from synapse_like.identity.settings import IDENTITY_SERVER
    from synapse_like.protocol.identifiers import parse_server_name

    others = [parse_server_name(name) for name in ask]
    tell_findings(
        lambda: IDENTITY_SERVER.load(path, os.environ),
        lambda config: diagnose(config, path, ask=others, mail_to=mail_to, text_to=text_to),
        as_json,
    )


@identity.command("verify")
@needs_identity_config
@click.option("--repair", is_flag=True, help="Mend what can be derived from something else; stop the server before.")
def identity_verify(config: IdentityConfig, repair: bool) -> None:
    """Look through everything that is kept: the database, statements and their signatures, hashes, invites, streams.

    It reads all of it; the server may run meanwhile. The exit code is 1 if there are faults.
    """
    from synapse_like.app import identity_verification

    result = identity_verification.verify(config, repair=repair, report=click.echo, tell=progress)
    click.echo(result.sentence())
    if result.faults:
        sys.exit(1)
