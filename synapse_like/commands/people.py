"""Commands about people: their accounts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from synapse_like.commands.options import needs_config, progress

if TYPE_CHECKING:
    from synapse_like.config import Config


@click.command()
@needs_config
@click.argument("user")
@click.option("--password", help="Asked for if it is not given; read from standard input by scripts.")
@click.option("--admin", is_flag=True, help="Make the user an administrator of this server.")
def register_user(config: Config, user: str, password: str | None, admin: bool) -> None:
    """Make an account for USER (alice, or @alice:example.org)."""
    from synapse_like.app import administration

    user_id = administration.register_user(config, user, password or _ask_for_password(), admin)
    click.echo(f"Registered {user_id}")


@click.command()
@needs_config
@click.argument("user")
@click.option("--password", help="Asked for if it is not given; read from standard input by scripts.")
def reset_password(config: Config, user: str, password: str | None) -> None:
    """Give USER another password."""
    from synapse_like.app import administration

    administration.reset_password(config, user, password or _ask_for_password())
    click.echo(f"The password of {user} has been changed")


@click.command()
@needs_config
@click.argument("user")
@click.option("--off", is_flag=True, help="Take it away instead.")
def set_admin(config: Config, user: str, off: bool) -> None:
    """Make USER an administrator of this server."""
    from synapse_like.app import administration

    user_id = administration.set_admin(config, user, not off)
    click.echo(f"{user_id} is {'not ' if off else ''}an administrator")


@click.command()
@needs_config
@click.argument("user")
@click.option("--erase", is_flag=True, help="Forget USER, too: their data, uploads, and what they said in rooms.")
def deactivate_user(config: Config, user: str, erase: bool) -> None:
    """Close the account of USER for good: nobody can log in to it, or get its name, any more."""
    from synapse_like.app import administration, user_data

    if erase:
        click.echo(user_data.erase_user(config, user, progress))
        return
    click.echo(f"The account of {administration.deactivate_user(config, user)} is closed")


@click.command()
@needs_config
@click.argument("user")
@click.argument("target", type=click.Path(path_type=Path))
def export_user(config: Config, user: str, target: Path) -> None:
    """Write all that is known of USER into the tar file TARGET: data, what they said, and their files."""
    from synapse_like.app import user_data

    click.echo(user_data.export_user(config, user, target, progress))


def _ask_for_password() -> str:
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise click.ClickException("there is no password: give one on standard input or by --password")
    return password
