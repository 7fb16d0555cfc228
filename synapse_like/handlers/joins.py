"""Which rooms elsewhere this server is just coming into, by whatever process (FED-7).

From the moment at which another server lets one of our users in, it sends us what happens in the room. Until the room
is stored here, that comes before its time: it is kept waiting (`over`), not refused as of a room that we are not in.
Each process tells the others of what it begins, before it asks to be let in.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from synapse_like.clock import Clock
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.news import for_others

#: For how long another process is believed to be coming into a room of which it has not said that it is over: it may
#: have died; in seconds.
BELIEVED_SECONDS = 60.0


@for_others
class JoinBegun(Struct, frozen=True):
    """News: another process is coming into a room.

    :ivar mark: by which this attempt is known.
    """

    room_id: str
    mark: str


@for_others
class JoinOver(Struct, frozen=True):
    """News: it has come in, and the room is stored, or it could not."""

    room_id: str
    mark: str


class Joins:
    """See the head of this file."""

    def __init__(self, database: Database, bus: Bus, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        #: What ends the belief in each attempt of another process, by room and mark; None of our own.
        self._under_way: dict[str, dict[str, IDelayedCall | None]] = {}
        self._waiting: list[Deferred[None]] = []
        if database.is_shared:
            bus.subscribe(JoinBegun, self._begun_elsewhere)
            bus.subscribe(JoinOver, self._over)

    @asynccontextmanager
    async def under_way(self, room_id: str) -> AsyncIterator[None]:
        """Come into a room, for the length of a `with` block; all processes know of it when that begins."""
        mark = secrets.token_hex(4)
        self._under_way.setdefault(room_id, {})[mark] = None
        try:
            await self._database.tell_others(JoinBegun(room_id, mark))
            yield
        finally:
            self._over(JoinOver(room_id, mark))
            self._database.tell_others(JoinOver(room_id, mark))

    def _begun_elsewhere(self, news: JoinBegun) -> None:
        timer = self._clock.call_later(BELIEVED_SECONDS, self._over, JoinOver(news.room_id, news.mark))
        self._under_way.setdefault(news.room_id, {})[news.mark] = timer

    def _over(self, news: JoinOver) -> None:
        marks = self._under_way.get(news.room_id, {})
        timer = marks.pop(news.mark, None)
        if timer is not None and timer.active():
            timer.cancel()
        if not marks:
            self._under_way.pop(news.room_id, None)
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                one.callback(None)

    def are_under_way(self, room_ids: Iterable[str]) -> bool:
        """Whether somebody is coming into one of some rooms."""
        return bool(self._under_way) and any(room_id in self._under_way for room_id in room_ids)

    async def over(self, room_ids: Iterable[str], within: float) -> bool:
        """Wait until nobody is coming into any of some rooms; whether that was so in time.

        :param within: for how long to wait, in seconds.
        """
        ids = list(room_ids)
        patience_ends = self._clock.monotonic() + within
        while self.are_under_way(ids):
            left = patience_ends - self._clock.monotonic()
            if left <= 0:
                return False
            one: Deferred[None] = Deferred()
            self._waiting.append(one)
            timer = self._clock.call_later(left, self._give_up, one)
            await one
            if timer.active():
                timer.cancel()
        return True

    def _give_up(self, one: Deferred[None]) -> None:
        self._waiting.remove(one)
        one.callback(None)
