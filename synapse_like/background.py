"""What happens with nobody waiting for it: single tasks, and tasks done every so often; long calculations; and work
that several wait for.

A failure in the background has no caller to reach. It is logged with the name of the task, and that is all:
`run_in_background` gives a Deferred that never fails, and a repeated task simply has its next turn.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from synapse_like.clock import Clock
from synapse_like.logs import bind, get_logger
from synapse_like.protocol.errors import MatrixError

P = ParamSpec("P")
Item = TypeVar("Item")
Key = TypeVar("Key")
Result = TypeVar("Result")

#: Things that are worked on at one go, on a thread; up to so many others are worked on at once, on none.
SLICE, FEW = 64, 20

_log = get_logger(__name__)


def run_in_background(
    name: str, function: Callable[P, Coroutine[Any, Any, object]], *args: P.args, **kwargs: P.kwargs
) -> Deferred[None]:
    """Start a coroutine that nobody waits for. It runs at once, up to its first wait.

    :param name: what it is, for the log; every line that it logs carries it as `task`.
    :returns: fires when the task is over, whether it went well or not; cancel it to cancel the task.
    """

    async def logged() -> None:
        with bind(task=name):
            try:
                await function(*args, **kwargs)
            except CancelledError:
                _log.debug("the background task was cancelled")
            except MatrixError as error:
                _log.warning("the background task failed", reason=error.reason or error.message)
            except Exception:
                _log.exception("the background task failed")

    return Deferred.fromCoroutine(logged())


async def all_of(deferreds: Iterable[Deferred[Result]]) -> list[Result]:
    """What all of them come to, in their order.

    :raises Exception: what the first that fails has raised, as it was raised; the others go on. If who waits for them
        is cancelled, so are all of them.
    """
    try:
        return await gatherResults(deferreds, consumeErrors=True)
    except FirstError as error:
        failure = error.subFailure
    failure.raiseException()
    raise AssertionError("it has raised")


def _always() -> bool:
    return True


class Repeating:
    """A task done every so often. See `every`.

    :ivar name: what it is.
    """

    def __init__(
        self, clock: Clock, name: str, seconds: float, function: Callable[[], Coroutine[Any, Any, object]]
    ) -> None:
        self._clock = clock
        self.name = name
        self._is_ours: Callable[[], bool] = _always
        self._seconds = seconds
        self._function = function
        self._next: IDelayedCall | None = None
        self._running: Deferred[None] | None = None
        self._stopping = False

    def only_if(self, is_ours: Callable[[], bool]) -> None:
        """Pass over those turns at which something does not hold."""
        self._is_ours = is_ours

    def start(self) -> None:
        """Have the first turn `seconds` from now."""
        self._stopping = False
        self._wait()

    async def stop(self) -> None:
        """Have no more turns; returns when the one that is under way has ended."""
        self._stopping = True
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._running is not None:
            ended: Deferred[None] = Deferred()
            self._running.addCallback(ended.callback)
            await ended

    def _wait(self) -> None:
        self._next = self._clock.call_later(self._seconds, self._turn)

    def _turn(self) -> None:
        self._next = None
        if not self._is_ours():
            self._wait()
            return
        self._running = run_in_background(self.name, self._function)
        self._running.addCallback(self._turn_ended)

    def _turn_ended(self, _: None) -> None:
        self._running = None
        if not self._stopping:
            self._wait()


def every(clock: Clock, name: str, seconds: float, function: Callable[[], Coroutine[Any, Any, object]]) -> Repeating:
    """A task to be done every so often, once it is started.

    The next turn begins `seconds` after the last one ended, so that turns never overlap.

    :param name: what it is, for the log.
    :param seconds: the pause before each turn, the first one too.
    """
    return Repeating(clock, name, seconds, function)


class Slices:
    """Does calculations for many things on a thread, in slices: whoever else wants it gets a turn in between.

    :param reactor: Twisted's reactor, to whose thread results come back.
    :param threads: a pool of its own, with few of them.
    """

    def __init__(self, reactor: Any, threads: ThreadPool) -> None:
        self._reactor = reactor
        self._threads = threads

    async def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """What a function gives for each of some things; it must not raise, nor look at what others may change."""
        if len(items) <= FEW:
            return _each(function, items)
        results: list[Result] = []
        for start in range(0, len(items), SLICE):
            part = items[start : start + SLICE]
            results += await deferToThreadPool(self._reactor, self._threads, _each, function, part)
        return results


def _each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]


class Shared(Generic[Key, Result]):
    """Does once what several want at the same time."""

    def __init__(self) -> None:
        self._waiting: dict[Key, list[Deferred[Result]]] = {}

    async def do(self, key: Key, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """What `work` gives, or raises; if it is being done already under this key, what that gives.

        Who is cancelled stops waiting; the work goes on.
        """
        mine: Deferred[Result] = Deferred()
        if key in self._waiting:
            self._waiting[key].append(mine)
        else:
            self._waiting[key] = [mine]
            Deferred.fromCoroutine(work()).addBoth(self._done, key)
        return await mine

    def _done(self, outcome: Result | Failure, key: Key) -> None:
        for waiting in self._waiting.pop(key):
            if not waiting.called:
                waiting.callback(outcome)  # a Failure is passed on as one
