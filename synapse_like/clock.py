"""Time, as something that is handed in.

Nothing in the server reads the time or sets a timer by itself: it is given a `Clock`. In a running server
that is the reactor's, in a test a `twisted.internet.task.Clock` moved by hand, both by way of `ReactorClock`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater

P = ParamSpec("P")


class Clock(Protocol):
    """What the server needs of time."""

    def now_ms(self) -> int:
        """The wall clock: milliseconds since 1970, as in `origin_server_ts`."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back. For measuring how long something took."""

    def call_later(
        self, seconds: float, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs
    ) -> IDelayedCall:
        """Call a function on the reactor's thread, `seconds` from now; the result can be cancelled."""

    async def sleep(self, seconds: float) -> None:
        """Return `seconds` from now."""


class ReactorClock:
    """The clock of a reactor.

    :param reactor: the reactor, or a `twisted.internet.task.Clock`.
    """

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._latest = reactor.seconds()

    def now_ms(self) -> int:
        return int(self._reactor.seconds() * 1000)

    def monotonic(self) -> float:
        # Reactors know only the wall clock. Somebody setting it back must not turn durations negative.
        now = self._reactor.seconds()
        if now > self._latest:
            self._latest = now
        return self._latest

    def call_later(
        self, seconds: float, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs
    ) -> IDelayedCall:
        return self._reactor.callLater(seconds, function, *args, **kwargs)

    async def sleep(self, seconds: float) -> None:
        await deferLater(self._reactor, seconds)
