"""Commands that make and check settings and keys, and the one that runs the server."""

from __future__ import annotations

import os
import secrets
import string
import sys
from collections.abc import Callable
from io import StringIO
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from synapse_like.commands.options import Serving, needs_config, settings_file

if TYPE_CHECKING:
    from synapse_like.config import Config
    from synapse_like.identity.settings import IdentityConfig

CONFIG_FILE = "homeserver.yaml"


@click.command()
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
        assign(settings, assignment)
    path = data_dir.absolute() / CONFIG_FILE
    try:
        config = _keep_or_write_config(path, settings)
        keep_or_write(config.signing_key_file, new_signing_key)
        if config.federation.enabled and config.federation.tls:
            _keep_or_make_certificate(config)
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error
    click.echo(f"To start the server: synapse_like run --config {path}")
    if config.webclient.enabled:
        click.echo(f"To chat, open {config.client.url(config.server_name)}/ in a browser")


def _keep_or_write_config(path: Path, settings: dict[str, Any]) -> Config:
    from synapse_like.config import load, parse, sample
    from synapse_like.protocol.identifiers import parse_server_name

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
    keep_or_write(path, lambda: sample(config, settings))
    return config


def keep_or_write(path: Path, make_text: Callable[[], str]) -> None:
    """Write a file that only its owner may read, wholly or not at all; keep it if it is there."""
    from synapse_like.federation.own_keys import replace_file

    if path.exists():
        click.echo(f"Kept {path}")
        return
    replace_file(path, make_text())
    click.echo(f"Wrote {path}")


def _keep_or_make_certificate(config: Config) -> None:
    """Make a self-signed certificate, unless there is one or the settings name one."""
    from synapse_like.federation.certificates import make_key, make_self_signed

    is_named = config.federation.tls_certificate or config.federation.tls_private_key
    certificate, key = config.tls_certificate, config.tls_private_key
    if is_named or certificate.exists():
        return
    keep_or_write(key, make_key)
    try:
        text = make_self_signed(config.server_name, key.read_text(encoding="ascii"))
    except ValueError as error:
        raise click.ClickException(f"{key}: cannot be used: {error}") from error
    keep_or_write(certificate, lambda: text)


def new_signing_key() -> str:
    """The text of a file with a key."""
    from signedjson.key import write_signing_keys

    text = StringIO()
    write_signing_keys(text, [generate_key()])
    return text.getvalue()


def generate_key() -> Any:
    """A key by which a server signs."""
    from signedjson.key import generate_signing_key

    return generate_signing_key("a_" + "".join(secrets.choice(string.ascii_letters) for _ in range(4)))


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False  # reported with all other faults of the settings


def assign(settings: dict[str, Any], assignment: str) -> None:
    """Do as `--set key.path=value` says; the value is YAML."""
    import yaml

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


@click.command()
@needs_config
def check_config(config: Config) -> None:
    """Say OK, or all that is wrong with the settings."""
    click.echo("OK")


@click.command(cls=Serving)
@needs_config
@click.pass_context
def run(ctx: click.Context, config: Config) -> None:
    """Run the server until SIGINT or SIGTERM; at SIGHUP it reads the settings again."""
    run_server(config, settings_file(ctx))


@click.command()
@needs_config
def migrate(config: Config) -> None:
    """Bring the database up to date, as `run` does when it starts."""
    from synapse_like.app import administration

    click.echo(administration.migrate(config))


def run_server(config: Config | IdentityConfig, path: Path) -> NoReturn:
    """Run a server, and end with the process."""
    from synapse_like.app import service

    sys.exit(service.run(config, path, click.echo))


def new_key_in(path: Path) -> Any:
    """Make a new signing key in the file of a server's keys."""
    from synapse_like.federation.own_keys import KeysUnusable, rotate

    key = generate_key()
    try:
        rotate(path, key)
    except KeysUnusable as error:
        raise click.ClickException(str(error)) from error
    return key


@click.command()
@needs_config
def rotate_key(config: Config) -> None:
    """Make a new signing key, to be used from the next start on.

    The old one stays published as such, so that what it signed stays good.
    """
    key = new_key_in(config.signing_key_file)
    click.echo(f"The new key is {key.alg}:{key.version}. Restart the server to use it.")
