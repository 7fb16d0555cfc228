"""The kinds of news beside the events.

Each is a stream: it has positions that only grow, and can say what is new for a user after one of them. A client's
token holds one position per stream (`stream_tokens.py`); a long poll asks every stream, and is woken by any of them
through the user's watcher (`notifier.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, Protocol

import orjson
from msgspec import Struct, field

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.notifier import Watcher
from synapse_like.storage.event_news import is_arrival
from synapse_like.storage.events import StoredEvent
from synapse_like.storage.state import MEMBER

Json = dict[str, Any]
#: Something new as clients see it, encoded already or not.
News = Json | orjson.Fragment


class Arrivals(Struct, frozen=True):
    """Who has come into the rooms of a user, as the events say that the user is told now.

    :ivar entered: the rooms that the user has come into.
    :ivar newcomers: the others who have, and into which rooms.
    """

    entered: frozenset[str] = frozenset()
    newcomers: Mapping[str, Set[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.entered or self.newcomers)


NO_ARRIVALS = Arrivals()


class Stream(Protocol):
    """A kind of news beside the events."""

    def present(self) -> int:
        """The position at which a client stands that is told everything from now on, and nothing of before."""
        ...

    async def settled(self) -> None:
        """Wait until all that has been announced until now is known here."""
        ...

    def may_have_news(self, watcher: Watcher, after: int) -> bool:
        """Whether it is worth asking for news after a position. Asked at every wake-up, so it must cost nothing."""
        ...

    async def news(self, watcher: Watcher, after: int, arrivals: Arrivals) -> tuple[int, Sequence[News]]:
        """What is new for a user after a position, as clients see it; and the position behind it."""
        ...


class Attendance(Protocol):
    """Who wants to know who has an event stream open."""

    def opened(self, requester: Requester) -> None:
        """A stream was opened with an access token."""
        ...

    def closed(self, requester: Requester) -> None:
        """It was closed, or has ended for the moment."""
        ...


class SilentStream:
    """A stream in which nothing ever happens, in the place of one that is turned off."""

    def present(self) -> int:
        return 0

    async def settled(self) -> None:
        """There is nothing to wait for."""

    def may_have_news(self, watcher: Watcher, after: int) -> bool:
        return False

    async def news(self, watcher: Watcher, after: int, arrivals: Arrivals) -> tuple[int, Sequence[News]]:
        return after, ()

    def opened(self, requester: Requester) -> None:
        """Nobody cares."""

    def closed(self, requester: Requester) -> None:
        """Nobody cares."""


def arrivals(user_id: str, events: Sequence[StoredEvent]) -> Arrivals:
    """Who comes into rooms by some events."""
    joins = [stored.event for stored in events if stored.event.type == MEMBER and is_arrival(stored)]
    if not joins:
        return NO_ARRIVALS
    newcomers: dict[str, set[str]] = {}
    for event in joins:
        newcomers.setdefault(event.state_key or "", set()).add(event.room_id)
    entered = newcomers.pop(user_id, set())
    return Arrivals(frozenset(entered), newcomers)
