"""One piece of work for all who wait for its result at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class Shared(Generic[Key, Result]):
    """Does for each key what is wanted of it once, however many ask before it is done.

    :param work: what is done; it goes on when those who asked for it have stopped waiting.
    """

    def __init__(self, work: Callable[[Key], Awaitable[Result]]) -> None:
        self._work = work
        self._waiting: dict[Key, list[Deferred[Result]]] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._waiting

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._waiting

    def get(self, key: Key) -> Deferred[Result]:
        """The result, or the failure, of the work under way; it is begun if there is none."""
        waiter: Deferred[Result] = Deferred(lambda cancelled: self._leave(key, cancelled))
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(waiter)
            return waiter
        self._waiting[key] = [waiter]
        Deferred.fromCoroutine(self._run(key)).addBoth(self._done, key)
        return waiter

    async def do(self, key: Key) -> Result:
        """The same, for who is not cancelled: whoever is first does it, and only the others wait."""
        if key in self._waiting:
            return await self.get(key)
        self._waiting[key] = []
        try:
            result = await self._work(key)
        except BaseException:
            self._done(Failure(), key)  # type: ignore[no-untyped-call]  # Twisted leaves its constructor untyped
            raise
        self._done(result, key)
        return result

    async def _run(self, key: Key) -> Result:
        return await self._work(key)

    def _leave(self, key: Key, waiter: Deferred[Result]) -> None:
        waiting = self._waiting.get(key, [])
        if waiter in waiting:
            waiting.remove(waiter)

    def _done(self, outcome: Any, key: Key) -> None:
        for waiter in self._waiting.pop(key):
            if isinstance(outcome, Failure):
                waiter.errback(outcome)
            else:
                waiter.callback(outcome)
