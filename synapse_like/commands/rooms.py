"""Commands about rooms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from synapse_like.commands.options import needs_config

if TYPE_CHECKING:
    from synapse_like.config import Config


@click.command()
@needs_config
@click.argument("room_id")
@click.argument("event_type", required=False)
@click.argument("state_key", default="")
def explain_state(config: Config, room_id: str, event_type: str | None, state_key: str) -> None:
    """Tell why the state of ROOM_ID is what it is: all of it, or the one with EVENT_TYPE and STATE_KEY."""
    from synapse_like.app import administration

    click.echo(administration.explain_state(config, room_id, None if event_type is None else (event_type, state_key)))


@click.command()
@needs_config
@click.argument("room_id")
@click.option("--force", is_flag=True, help="Even if users of this server are still in it.")
def purge_room(config: Config, room_id: str, force: bool) -> None:
    """Delete the room ROOM_ID and all that was said in it, which cannot be undone."""
    from synapse_like.app import administration

    click.echo(administration.purge_room(config, room_id, force))
