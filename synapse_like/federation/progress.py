"""How far each server is, written down a moment after that has changed, for all of them together.

If we are killed in between, something is sent twice, which does no harm: the other side knows events by their IDs.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace
from twisted.internet.interfaces import IDelayedCall

from synapse_like.background import run_in_background
from synapse_like.clock import Clock
from synapse_like.federation.outbox import Outbox
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import Unavailable
from synapse_like.storage import destinations
from synapse_like.storage.database import Database
from synapse_like.storage.destinations import LeftAlone

#: How long it may take until it is written down how far a server is, in seconds.
SAVE_SECONDS = 1.0

_log = get_logger(__name__)


class Progress:
    """What is to be written down.

    :param is_gone: whether a server is another process's by now, or was forgotten: then nothing is written of it.
    :param saved: is called each time that something was.
    """

    def __init__(
        self, database: Database, clock: Clock, *, is_gone: Callable[[Outbox], bool], saved: Callable[[], object]
    ) -> None:
        self._database = database
        self._clock = clock
        self._is_gone = is_gone
        self._saved = saved
        self._unsaved: dict[str, Outbox] = {}
        self._untold: dict[str, LeftAlone] = {}
        self._timer: IDelayedCall | None = None
        self._stopped = False

    def __contains__(self, server: str) -> bool:
        return server in self._unsaved

    @property
    def is_written_down(self) -> bool:
        """Whether all of it is."""
        return not self._unsaved

    def changed(self, outbox: Outbox) -> None:
        """Write down soon what stands in the row of a server."""
        if self._is_gone(outbox):
            return
        self._unsaved[outbox.server] = outbox
        if self._timer is None and not self._stopped:
            self._timer = self._clock.call_later(SAVE_SECONDS, self._save_now)

    def tell_left_alone(self, server: str, until: int | None) -> None:
        """Have other processes know with the next that is written down: see `LeftAlone`."""
        if self._database.is_shared:
            self._untold[server] = LeftAlone(server, until)

    def forget(self, server: str) -> None:
        """Write down nothing more of a server."""
        self._unsaved.pop(server, None)
        self._untold.pop(server, None)

    def _save_now(self) -> None:
        self._timer = None
        run_in_background("save-destinations", self.save)

    async def save(self) -> None:
        """Write it down now."""
        outboxes, self._unsaved = self._unsaved, {}
        untold, self._untold = self._untold, {}
        # Of those that are another's by now, that one knows better.
        outboxes = {server: outbox for server, outbox in outboxes.items() if not self._is_gone(outbox)}
        rows = [replace(outbox.row) for outbox in outboxes.values() if outbox.row is not None]
        edus = [(server, outbox.edus_sent_up_to) for server, outbox in outboxes.items() if outbox.edus_sent_up_to]
        known = {server: outbox.written for server, outbox in outboxes.items()}
        for outbox in outboxes.values():
            outbox.set_back = None
        try:
            found = await self._database.write(
                "save-destinations", destinations.save, rows, edus, untold.values(), known
            )
        except Exception:
            self._untold = untold | self._untold
            for outbox in outboxes.values():
                self.changed(outbox)
            raise
        for server, position in found.items():
            outboxes[server].was_written(position)
        self._saved()

    async def stop(self) -> None:
        """Write down what is not yet, and nothing more from now on."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._unsaved:
            try:
                await self.save()
            except Unavailable as error:
                # As after a crash: what has been sent since is sent again, and known there.
                _log.warning("how far the queues are was not written down", reason=error.reason)
