"""The operator's command line.

Every command but `init` reads the settings file and then calls one function of `app`. What a person can mend
(wrong settings, a taken name, a database in use) ends as a sentence on standard error, with exit code 1; a
traceback always means a fault of the program.
"""

from __future__ import annotations

import os
import secrets
import string
import sys
from collections.abc import Callable
from io import StringIO
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml
from signedjson.key import generate_signing_key, write_signing_keys

from synapse_like import __version__, app, logs
from synapse_like.app.parts import public_url
from synapse_like.config import Config, ConfigError, load, parse, sample
from synapse_like.federation.own_keys import KeysUnusable, replace_file, rotate
from synapse_like.federation.tls import make_key, make_self_signed
from synapse_like.identity.settings import CONFIG_FILE as IDENTITY_CONFIG_FILE
from synapse_like.identity.settings import TITLE as IDENTITY_TITLE
from synapse_like.identity.settings import IdentityConfig, load_identity, parse_identity
from synapse_like.protocol.errors import MatrixError
from synapse_like.protocol.identifiers import parse_server_name

CONFIG_FILE = "homeserver.yaml"

Command = TypeVar("Command", bound=Callable[..., Any])


class _Commands(click.Group):
    """Turns the errors that a person can mend into sentences."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MatrixError as error:
            raise click.ClickException(error.message) from error
        except (ConfigError, app.StartError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands)
@click.version_option(__version__, prog_name="synapse_like")
def main() -> None:
    """A Matrix home server."""


def _read_config(_: click.Context, __: click.Parameter, path: Path) -> Config:
    config = load(path, os.environ)
    logs.configure(config.log.format, config.log.level, adopt_twisted=False)
    return config


def _read_identity_config(_: click.Context, __: click.Parameter, path: Path) -> IdentityConfig:
    config = load_identity(path, os.environ)
    logs.configure(config.log.format, config.log.level, adopt_twisted=False)
    return config


def _needs_config(command: Command) -> Command:
    """Give a command the option `--config` and the settings that it names."""
    return _config_option(_read_config)(command)


def _needs_identity_config(command: Command) -> Command:
    """The same for the settings of an identity server."""
    return _config_option(_read_identity_config)(command)


def _config_option(callback: Callable[..., object]) -> Callable[[Command], Command]:
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        callback=callback,
        required=True,
        metavar="FILE",
        help="The settings file.",
    )


# Making and checking settings.


@main.command()
@click.option("--data-dir", type=click.Path(path_type=Path), required=True, help="Where everything is kept.")
@click.option("--server-name", required=True, help="Its name: example.org, or localhost:8448 to try it out.")
@click.option("--client-port", type=int, default=8008, show_default=True, help="Port for clients (HTTP).")
@click.option("--federation-port", type=int, default=8448, show_default=True, help="Port for servers (HTTPS).")
@click.option("--bind", default="127.0.0.1", show_default=True, help="IP address on which clients come in.")
@click.option("--database", default="sqlite", show_default=True, help="sqlite, sqlite:PATH or postgresql://…")
@click.option("--set", "more", multiple=True, metavar="KEY=VALUE", help="Any setting, such as log.level=debug.")
def init(
    data_dir: Path,
    server_name: str,
    client_port: int,
    federation_port: int,
    bind: str,
    database: str,
    more: tuple[str, ...],
) -> None:
    """Make a data directory with settings, a signing key and a certificate.

    What is there already is kept, so that this may be repeated. Anyone can register if only this machine
    reaches the server; otherwise registration is closed until the settings say something else.
    """
    settings: dict[str, Any] = {
        "server_name": server_name,
        "database": {"url": database},
        "client": {"bind": bind, "port": client_port},
        "federation": {"port": federation_port},
        "registration": {"mode": "open" if _is_loopback(bind) else "closed"},
    }
    for assignment in more:
        _set(settings, assignment)
    path = data_dir.absolute() / CONFIG_FILE
    try:
        config = _keep_or_write_config(path, settings)
        _keep_or_write(config.signing_key_file, _new_signing_key)
        if config.federation.enabled and config.federation.tls:
            _keep_or_make_certificate(config)
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error
    click.echo(f"To start the server: synapse_like run --config {path}")
    if config.webclient.enabled:
        click.echo(f"To chat, open {public_url(config)}/ in a browser")


def _keep_or_write_config(path: Path, settings: dict[str, Any]) -> Config:
    if path.exists():
        config = load(path, os.environ)
        if config.server_name != parse_server_name(str(settings["server_name"])):
            raise click.ClickException(f"{path} is for another server, {config.server_name}")
    else:
        registration = settings["registration"]
        if isinstance(registration, dict) and registration.get("mode") == "token":
            registration.setdefault("tokens", [secrets.token_urlsafe(12)])
        config = parse(settings, source="init", folder=path.parent, environ={})
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _keep_or_write(path, lambda: sample(config))
    return config


def _keep_or_write(path: Path, make_text: Callable[[], str]) -> None:
    """Write a file that only its owner may read, wholly or not at all; keep it if it is there."""
    if path.exists():
        click.echo(f"Kept {path}")
        return
    replace_file(path, make_text())
    click.echo(f"Wrote {path}")


def _keep_or_make_certificate(config: Config) -> None:
    """Make a self-signed certificate, unless there is one or the settings name one."""
    named = {"tls_certificate", "tls_private_key"} & config.federation.model_fields_set
    certificate, key = config.tls_certificate, config.tls_private_key
    if named or certificate.exists():
        return
    _keep_or_write(key, make_key)
    try:
        text = make_self_signed(config.server_name, key.read_text(encoding="ascii"))
    except ValueError as error:
        raise click.ClickException(f"{key}: cannot be used: {error}") from error
    _keep_or_write(certificate, lambda: text)


def _new_signing_key() -> str:
    text = StringIO()
    write_signing_keys(text, [_generate_key()])
    return text.getvalue()


def _generate_key() -> Any:
    return generate_signing_key("a_" + "".join(secrets.choice(string.ascii_letters) for _ in range(4)))


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False  # reported with all other faults of the settings


def _set(settings: dict[str, Any], assignment: str) -> None:
    """Do as `--set key.path=value` says; the value is YAML."""
    key, equals, text = assignment.partition("=")
    *headings, last = key.split(".")
    if not equals or not all([*headings, last]):
        raise click.BadParameter(f"{assignment!r} is not KEY=VALUE", param_hint="--set")
    section = settings
    for heading in headings:
        section = section.setdefault(heading, {})
        if not isinstance(section, dict):
            raise click.BadParameter(f"{assignment!r}: {heading} is not a heading", param_hint="--set")
    try:
        section[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise click.BadParameter(f"{assignment!r}: the value is not YAML", param_hint="--set") from error


@main.command()
@_needs_config
def check_config(config: Config) -> None:
    """Say OK, or all that is wrong with the settings."""
    click.echo("OK")


# Running.


@main.command()
@_needs_config
def run(config: Config) -> None:
    """Run the server until SIGINT or SIGTERM."""
    sys.exit(app.run(config, click.echo))


@main.command()
@_needs_config
def migrate(config: Config) -> None:
    """Bring the database up to date, as `run` does when it starts."""
    click.echo(app.migrate(config))


# Administering.


@main.command()
@_needs_config
@click.argument("user")
@click.option("--password", help="Asked for if it is not given; read from standard input by scripts.")
@click.option("--admin", is_flag=True, help="Make the user an administrator of this server.")
def register_user(config: Config, user: str, password: str | None, admin: bool) -> None:
    """Make an account for USER (alice, or @alice:example.org)."""
    user_id = app.register_user(config, user, password or _ask_for_password(), admin)
    click.echo(f"Registered {user_id}")


@main.command()
@_needs_config
@click.argument("user")
@click.option("--password", help="Asked for if it is not given; read from standard input by scripts.")
def reset_password(config: Config, user: str, password: str | None) -> None:
    """Give USER another password."""
    app.reset_password(config, user, password or _ask_for_password())
    click.echo(f"The password of {user} has been changed")


@main.command()
@_needs_config
@click.argument("user")
@click.option("--off", is_flag=True, help="Take it away instead.")
def set_admin(config: Config, user: str, off: bool) -> None:
    """Make USER an administrator of this server."""
    user_id = app.set_admin(config, user, not off)
    click.echo(f"{user_id} is {'not ' if off else ''}an administrator")


@main.command()
@_needs_config
@click.argument("user")
def deactivate_user(config: Config, user: str) -> None:
    """Close the account of USER for good: nobody can log in to it, or get its name, any more."""
    click.echo(f"The account of {app.deactivate_user(config, user)} is closed")


def _ask_for_password() -> str:
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise click.ClickException("there is no password: give one on standard input or by --password")
    return password


@main.command()
@_needs_config
def rotate_key(config: Config) -> None:
    """Make a new signing key, to be used from the next start on.

    The old one stays published as such, so that what it signed stays good.
    """
    key = _generate_key()
    try:
        rotate(config.signing_key_file, key)
    except KeysUnusable as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"The new key is {key.alg}:{key.version}. Restart the server to use it.")


@main.command()
@_needs_config
@click.argument("room_id")
@click.argument("event_type", required=False)
@click.argument("state_key", default="")
def explain_state(config: Config, room_id: str, event_type: str | None, state_key: str) -> None:
    """Tell why the state of ROOM_ID is what it is: all of it, or the one with EVENT_TYPE and STATE_KEY."""
    click.echo(app.explain_state(config, room_id, None if event_type is None else (event_type, state_key)))


@main.command()
@_needs_config
@click.argument("room_id")
@click.option("--force", is_flag=True, help="Even if users of this server are still in it.")
def purge_room(config: Config, room_id: str, force: bool) -> None:
    """Delete the room ROOM_ID and all that was said in it, which cannot be undone."""
    click.echo(app.purge_room(config, room_id, force))


@main.group()
def federation() -> None:
    """See to what is sent to other servers."""


@federation.command("status")
@_needs_config
def federation_status(config: Config) -> None:
    """List the other servers: what waits for each, since when it cannot be reached, and why."""
    click.echo(app.federation_status(config))


@federation.command("retry")
@_needs_config
@click.argument("server", required=False)
@click.option("--all", "all_servers", is_flag=True, help="All servers that cannot be reached.")
def federation_retry(config: Config, server: str | None, all_servers: bool) -> None:
    """Try SERVER again at once, not when its time has come."""
    if (server is None) != all_servers:
        raise click.UsageError("Name either a server or --all.")
    click.echo(app.federation_retry(config, server))


@main.group()
def media() -> None:
    """Look after the files that users have uploaded, and the copies of other servers' files."""


@media.command("status")
@_needs_config
def media_status(config: Config) -> None:
    """Tell how many files there are, how large they are, and who has uploaded most."""
    click.echo(app.media_status(config))


@media.command("purge")
@_needs_config
@click.argument("what", nargs=-1)
@click.option("--user", help="Everything that this user of ours has uploaded.")
@click.option("--copies", is_flag=True, help="The copies of all other servers' files.")
@click.option("--days", type=click.FloatRange(0), help="Only uploads older, and copies unused for longer, than that.")
def media_purge(config: Config, what: tuple[str, ...], user: str | None, copies: bool, days: float | None) -> None:
    """Delete files, with their thumbnails, for ever.

    WHAT are single files (mxc://example.org/id) and servers, of whose files all copies are meant. Copies are fetched
    again when somebody wants them.
    """
    if not (what or user or copies):
        raise click.UsageError("Name files or servers, or give --user or --copies.")
    click.echo(app.media_purge(config, list(what), user=user, copies=copies, days=days))


@media.command("reconcile")
@_needs_config
@click.option(
    "--repair", is_flag=True, help="Delete files without a row, and forget copies and thumbnails without a file."
)
def media_reconcile(config: Config, repair: bool) -> None:
    """Compare the tables with the files on the disk, and clear away what crashes have left."""
    report, is_wrong = app.media_reconcile(config, repair=repair)
    click.echo(report)
    if is_wrong:
        sys.exit(1)


@main.group()
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
    settings: dict[str, Any] = {
        "server_name": server_name,
        "database": {"url": database},
        "http": {"bind": bind, "port": port},
    }
    for assignment in more:
        _set(settings, assignment)
    path = data_dir.absolute() / IDENTITY_CONFIG_FILE
    try:
        if path.exists():
            config = load_identity(path, os.environ)
            if config.server_name != parse_server_name(server_name):
                raise click.ClickException(f"{path} is for another server, {config.server_name}")
        else:
            config = parse_identity(settings, source="init", folder=path.parent, environ={})
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _keep_or_write(path, lambda: sample(config, IDENTITY_TITLE, "identity check-config"))
        _keep_or_write(config.signing_key_file, _new_signing_key)
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error
    click.echo(f"Its public key: {app.identity_key(config)}")
    click.echo(f"To start the server: synapse_like identity run --config {path}")


@identity.command("check-config")
@_needs_identity_config
def identity_check_config(config: IdentityConfig) -> None:
    """Say OK, or all that is wrong with the settings."""
    click.echo("OK")


@identity.command("run")
@_needs_identity_config
def identity_run(config: IdentityConfig) -> None:
    """Run the server until SIGINT or SIGTERM."""
    sys.exit(app.run(config, click.echo))


@identity.command("migrate")
@_needs_identity_config
def identity_migrate(config: IdentityConfig) -> None:
    """Bring the database up to date, as `run` does when it starts."""
    click.echo(app.identity_migrate(config))


@identity.command("key")
@_needs_identity_config
def identity_key(config: IdentityConfig) -> None:
    """Tell the public key, for the settings of siblings."""
    click.echo(app.identity_key(config))


@identity.command("rotate-key")
@_needs_identity_config
def identity_rotate_key(config: IdentityConfig) -> None:
    """Make a new signing key, to be used from the next start on; tell the siblings before."""
    key = _generate_key()
    try:
        rotate(config.signing_key_file, key)
    except KeysUnusable as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"The new key is {app.identity_key(config)}. Restart the server to use it.")


@identity.command("status")
@_needs_identity_config
def identity_status(config: IdentityConfig) -> None:
    """List the siblings, and home servers that wait to be told of invites: what waits for each, and why."""
    click.echo(app.identity_status(config))
