"""Commands about what is sent to other servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from synapse_like.commands.options import needs_config

if TYPE_CHECKING:
    from synapse_like.config import Config


@click.group()
def federation() -> None:
    """See to what is sent to other servers."""


@federation.command("status")
@needs_config
def federation_status(config: Config) -> None:
    """List the other servers: what waits for each, since when it cannot be reached, and why."""
    from synapse_like.app import administration

    click.echo(administration.federation_status(config))


@federation.command("retry")
@needs_config
@click.argument("server", required=False)
@click.option("--all", "all_servers", is_flag=True, help="All servers that cannot be reached.")
def federation_retry(config: Config, server: str | None, all_servers: bool) -> None:
    """Try SERVER again at once, not when its time has come."""
    from synapse_like.app import administration

    if (server is None) != all_servers:
        raise click.UsageError("Name either a server or --all.")
    click.echo(administration.federation_retry(config, server))
