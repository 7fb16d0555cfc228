"""What tells news, to our users and to other servers, put together."""

from __future__ import annotations

from msgspec import Struct

from synapse_like.app.foundation import Foundation
from synapse_like.app.presence import People, make_people
from synapse_like.app.speaking import Speaking
from synapse_like.background import Repeating, every
from synapse_like.federation.destinations import DestinationQueues
from synapse_like.federation.lots import EVEN_OUT_SECONDS
from synapse_like.handlers.authentication import Authentication
from synapse_like.handlers.event_stream import EventStream
from synapse_like.handlers.notifier import Notifier
from synapse_like.handlers.outside_changes import LOOK_EVERY_SECONDS, OutsideChanges
from synapse_like.handlers.streams import SilentStream
from synapse_like.handlers.typing import Typing
from synapse_like.storage import events, positions, presence
from synapse_like.storage.connections import Connection
from synapse_like.storage.event_news import EventRedacted


class Streams(Struct, frozen=True):
    """The streams, and who is told of them.

    :ivar people: None if presence is turned off.
    :ivar tasks: what is to be done every so often.
    """

    notifier: Notifier
    queues: DestinationQueues
    typing: Typing
    people: People | None
    event_stream: EventStream
    tasks: list[Repeating]


def make_streams(on: Foundation, speaking: Speaking, authentication: Authentication) -> Streams:
    """Put it together."""
    config, database, bus, clock = on.config, on.database, on.bus, on.clock
    # Also what others have redacted must leave the files, and not only the tables.
    bus.subscribe(EventRedacted, database.deleted)
    position, presence_position, outside = database.prepare(_where_they_stand)
    notifier = Notifier(database, bus, clock, position)
    queues = DestinationQueues(database, bus, clock, speaking.client, on.name)
    typing = Typing(database, notifier, bus, clock, queues if config.federation.enabled else None, on.name)
    people = make_people(on, notifier, queues, presence_position)
    event_stream = EventStream(
        database,
        notifier,
        bus,
        clock,
        presence=people.presence if people else SilentStream(),
        attendance=people.input if people else SilentStream(),
        typing=typing,
        most_polls=config.limits.max_polls_per_user,
    )
    outside_changes = OutsideChanges(database, notifier, authentication, event_stream, queues.look_again, seen=outside)

    async def drop_idle_watchers() -> None:
        notifier.drop_idle()

    tasks = [
        every(clock, "outside-changes", LOOK_EVERY_SECONDS, outside_changes.look),
        every(clock, "forget-deleted", 5, database.forget_what_is_left),
        every(clock, "drop-idle-watchers", 60, drop_idle_watchers),
        *(people.tasks if people else ()),
    ]
    if database.is_shared:
        tasks.append(every(clock, "even-out-servers", EVEN_OUT_SECONDS, queues.even_out))
    return Streams(notifier, queues, typing, people, event_stream, tasks)


def _where_they_stand(connection: Connection) -> tuple[int, int, int]:
    """The newest positions of the streams of events and of presence, and the count of changes by commands."""
    return (
        connection.transact(events.current_position),
        connection.transact(presence.current_position),
        connection.transact(positions.current, positions.OUTSIDE),
    )
