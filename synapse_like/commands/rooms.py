"""Commands about rooms."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from synapse_like.commands.options import needs_config, progress

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
    from synapse_like.app import user_data

    click.echo(user_data.purge_room(config, room_id, force=force, tell=progress))


@click.command()
@needs_config
@click.argument("room_id")
@click.option("--before", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M"]), help="A day or time, in UTC.")
@click.option("--days", type=click.FloatRange(0), help="What is older than so many days.")
@click.option("--before-event", metavar="EVENT_ID", help="What stands before this event, which stays.")
def purge_history(
    config: Config, room_id: str, before: datetime | None, days: float | None, before_event: str | None
) -> None:
    """Delete the old messages of the room ROOM_ID, which cannot be undone.

    Its state stays, and so do its newest events. Interrupt it as you like, and start it again.
    """
    from synapse_like.app import user_data

    if sum(limit is not None for limit in (before, days, before_event)) != 1:
        raise click.UsageError("Give one of --before, --days and --before-event.")
    before_ms = None
    if before is not None:
        before_ms = int(before.replace(tzinfo=UTC).timestamp() * 1000)
    elif days is not None:
        before_ms = int((datetime.now(UTC).timestamp() - days * 24 * 3600) * 1000)
    click.echo(user_data.purge_history(config, room_id, before_ms=before_ms, before_event=before_event, tell=progress))
