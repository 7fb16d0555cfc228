"""One thing at a time in each room, for what takes several steps; rooms do not wait for each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from twisted.internet.defer import DeferredLock


class RoomLocks:
    """A lock for each room, as long as somebody wants it."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[DeferredLock, int]] = {}

    def waiting(self, room_id: str) -> int:
        """How many hold the lock of a room or wait for it."""
        return self._locks[room_id][1] if room_id in self._locks else 0

    @asynccontextmanager
    async def hold(self, room_id: str) -> AsyncIterator[None]:
        """Have a room to oneself."""
        lock, users = self._locks.get(room_id, (DeferredLock(), 0))
        self._locks[room_id] = lock, users + 1
        try:
            await lock.acquire()
            try:
                yield
            finally:
                lock.release()
        finally:
            lock, users = self._locks.pop(room_id)
            if users > 1:
                self._locks[room_id] = lock, users - 1
