"""Noticing what commands do beside the running server (`reset-password`, `purge-room`, `federation retry`).

A command counts its changes in the database. Who writes looks at that count anyhow; this task looks at it every few
seconds, so that a token which a command has ended does not live on in memory or in a waiting long poll.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from synapse_like.handlers.authentication import Authentication
from synapse_like.handlers.event_stream import EventStream
from synapse_like.handlers.notifier import Notifier
from synapse_like.storage import positions
from synapse_like.storage.database import Database

LOOK_EVERY_SECONDS = 2


class OutsideChanges:
    """Looks for them.

    :param look_again: what else looks at the tables anew then.
    :param seen: how many there were when the server started.
    """

    def __init__(
        self,
        database: Database,
        notifier: Notifier,
        authentication: Authentication,
        event_stream: EventStream,
        look_again: Callable[[], Awaitable[None]],
        *,
        seen: int,
    ) -> None:
        self._database = database
        self._notifier = notifier
        self._authentication = authentication
        self._event_stream = event_stream
        self._look_again = look_again
        self._seen = seen

    async def look(self) -> None:
        """If a command has changed something since the last look, forget what may be wrong now."""
        changes = await self._database.read("outside-changes", positions.current, positions.OUTSIDE)
        if changes != self._seen:
            # Whoever writes looks for changes first; until somebody did, readers would be given old copies.
            await self._database.write("outside-changes", positions.current, positions.OUTSIDE)
            # What a command has deleted may still be in the files, if somebody was reading just then.
            self._database.deleted()
            self._notifier.forget_recent()
            self._authentication.forget_all()
            await self._event_stream.end_revoked()
            await self._look_again()
            self._seen = changes
