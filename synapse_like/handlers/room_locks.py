"""One thing at a time in each room, for what takes several steps; rooms do not wait for each other."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred


class RoomLocks:
    """A lock for each room, as long as somebody wants it."""

    def __init__(self) -> None:
        #: Who waits, of each room that somebody has to themself.
        self._held: dict[str, deque[Deferred[None]]] = {}

    def waiting(self, room_id: str) -> int:
        """How many hold the lock of a room or wait for it."""
        return 1 + len(self._held[room_id]) if room_id in self._held else 0

    def hold(self, room_id: str) -> _Holding:
        """Have a room to oneself: `async with locks.hold(room_id)`."""
        return _Holding(self._held, room_id)


class _Holding:
    __slots__ = ("_held", "_room_id")

    def __init__(self, held: dict[str, deque[Deferred[None]]], room_id: str) -> None:
        self._held = held
        self._room_id = room_id

    async def __aenter__(self) -> None:
        waiting = self._held.get(self._room_id)
        if waiting is None:
            self._held[self._room_id] = deque()
            return
        turn: Deferred[None] = Deferred(waiting.remove)
        waiting.append(turn)
        await turn

    async def __aexit__(self, *_: object) -> None:
        # The next one has it from the moment that it is told.
        waiting = self._held[self._room_id]
        if waiting:
            waiting.popleft().callback(None)
        else:
            del self._held[self._room_id]
