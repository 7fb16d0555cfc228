"""Whether the server is well, for whoever balances the load."""

from __future__ import annotations

from twisted.internet.defer import CancelledError

from synapse_like.clock import ReactorClock
from synapse_like.handlers.authentication import Requester
from synapse_like.http.requests import Call
from synapse_like.protocol.errors import Unavailable
from synapse_like.storage import events
from synapse_like.storage.database import Database

#: How long its database may take to answer a server that is well.
HEALTH_SECONDS = 5.0


class Health:
    """Whether the server serves: it answers, so does its database, and it is not about to end.

    :ivar is_stopping: set when it is.
    """

    def __init__(self, database: Database, clock: ReactorClock) -> None:
        self._database = database
        self._clock = clock
        self.is_stopping = False

    async def look(self, call: Call[Requester]) -> object:
        """200 if all is well.

        :raises Unavailable: the server stops, or the database does not answer, or not in time.
        """
        if self.is_stopping:
            raise Unavailable("The server is about to stop.")
        answer = self._database.read("health", events.current_position)
        timer = self._clock.call_later(HEALTH_SECONDS, answer.cancel)
        try:
            await answer
        except CancelledError as error:
            raise Unavailable("The server's database does not answer.") from error
        finally:
            if timer.active():
                timer.cancel()
        return {"status": "ok"}
