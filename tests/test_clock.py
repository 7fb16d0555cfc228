"""The clock of a reactor, here one that is moved by hand."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock as HandMovedClock
from twisted.python.failure import Failure

from synapse_like.clock import Clock, ReactorClock


def test_wall_clock_is_the_reactors_in_milliseconds() -> None:
    reactor = HandMovedClock()
    clock: Clock = ReactorClock(reactor)
    reactor.advance(1.2345)
    assert clock.now_ms() == 1234


def test_monotonic_time_does_not_go_back_with_the_wall_clock() -> None:
    reactor = HandMovedClock()
    clock = ReactorClock(reactor)
    reactor.advance(10)
    assert clock.monotonic() == 10
    reactor.rightNow = 4
    assert clock.monotonic() == 10
    reactor.rightNow = 11
    assert clock.monotonic() == 11


def test_call_later_calls_in_time_unless_it_is_cancelled() -> None:
    reactor = HandMovedClock()
    clock = ReactorClock(reactor)
    called: list[str] = []
    clock.call_later(2, called.append, "kept")
    clock.call_later(2, called.append, "cancelled").cancel()
    reactor.advance(1)
    assert called == []
    reactor.advance(1)
    assert called == ["kept"]


def test_sleep_returns_in_time() -> None:
    reactor = HandMovedClock()
    slept = Deferred.fromCoroutine(ReactorClock(reactor).sleep(3))
    reactor.advance(2)
    assert not slept.called
    reactor.advance(1)
    assert slept.called


def test_cancelled_sleep_leaves_no_timer_behind() -> None:
    reactor = HandMovedClock()
    slept = Deferred.fromCoroutine(ReactorClock(reactor).sleep(3))
    failures: list[Failure] = []
    slept.addErrback(failures.append)
    slept.cancel()
    assert [failure.type for failure in failures] == [CancelledError]
    assert reactor.getDelayedCalls() == []
