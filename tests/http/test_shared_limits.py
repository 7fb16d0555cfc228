"""Token buckets that several processes have in common (RATE-1)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from twisted.internet.task import Clock

from synapse_like.http import shared_limits
from synapse_like.http.limits import Limiter
from synapse_like.http.shared_limits import WAYS, SharedBuckets, SharedLimiter
from synapse_like.protocol.errors import LimitExceeded

Children = Callable[[Callable[[], object]], int]


def refused_for(limiter: Limiter, key: str = "@alice", cost: int = 1) -> int:
    """The milliseconds to wait; 0 if there is nothing to wait for."""
    try:
        limiter.check("send", key, cost)
    except LimitExceeded as error:
        return int(error.extra["retry_after_ms"])
    return 0


@pytest.fixture
def child() -> Iterator[Children]:
    """Runs a function in another process, which lives until the end of the test; gives its ID."""
    children = []

    def fork(function: Callable[[], object]) -> int:
        process = os.fork()
        if process == 0:
            try:
                function()
            finally:
                os._exit(0)
        children.append(process)
        return process

    yield fork
    for process in children:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def holding(child: Children, buckets: SharedBuckets) -> int:
    """Have another process hold the lock, for ever."""
    there, held = os.pipe()

    def hold() -> None:
        with buckets:
            os.write(held, b".")
            time.sleep(600)

    process = child(hold)
    assert os.read(there, 1)
    return process


@given(
    st.floats(0.01, 1000),
    st.integers(1, 20),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 25), st.floats(0, 5)), max_size=60),
)
def test_processes_together_let_in_what_one_alone_would(
    rate: float, burst: int, requests: list[tuple[str, int, float]]
) -> None:
    clock, rates, buckets = Clock(), {"send": (rate, burst)}, SharedBuckets(64)
    alone = Limiter(rates, clock.seconds)
    together = [SharedLimiter(rates, buckets, clock.seconds) for _ in range(3)]
    for number, (key, cost, pause) in enumerate(requests):
        assert refused_for(together[number % 3], key, cost) == refused_for(alone, key, cost)
        clock.advance(pause)


def test_what_is_refused_by_one_bucket_is_counted_in_none() -> None:
    clock = Clock()
    limiter = SharedLimiter({"peer": (1, 10), "room": (2, 4)}, SharedBuckets(64), clock.seconds)
    limiter.check_all([("peer", "a", 4), ("room", "a !r", 4)])
    with pytest.raises(LimitExceeded) as refusal:
        limiter.check_all([("peer", "a", 7), ("room", "a !r", 4)])
    assert refusal.value.extra["retry_after_ms"] == 2000
    clock.advance(2)
    limiter.check_all([("peer", "a", 7), ("room", "a !r", 4)])


def test_nothing_is_refused_and_nobody_waited_for_when_switched_off(child: Children) -> None:
    buckets = SharedBuckets(64)
    holding(child, buckets)
    limiter = SharedLimiter({"send": (1, 1)}, buckets, enabled=False)
    with capture_logs() as logged:
        assert [refused_for(limiter) for _ in range(10)] == [0] * 10
    assert logged == []


def test_of_too_many_buckets_those_are_overwritten_that_are_full_the_soonest() -> None:
    limiter = SharedLimiter({"send": (1, 100)}, SharedBuckets(WAYS), Clock().seconds)
    assert refused_for(limiter, "@flood", 100) == 0
    for number in range(10 * WAYS):
        assert refused_for(limiter, f"@user{number}") == 0
    assert refused_for(limiter, "@flood") == 1000


def test_processes_that_count_at_the_same_time_forget_nothing(child: Children) -> None:
    """Each of four takes 100 tokens, one by one; all of them are missed afterwards."""
    buckets = SharedBuckets(64)

    def slow_clock() -> float:
        # The others have time to come between what is looked at and what is counted.
        time.sleep(0.0002)
        return time.monotonic()

    limiter = SharedLimiter({"send": (0.001, 401)}, buckets, slow_clock)
    ready, done = os.pipe()

    def take() -> None:
        for _ in range(100):
            limiter.check("send", "@alice")
        os.write(done, b".")

    # One that is slow to be woken is waited for, and not taken for stopped.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_limits, "PATIENCE", 60)
        for _ in range(4):
            child(take)
        assert sum(len(os.read(ready, 1)) for _ in range(4)) == 4
    limiter.check("send", "@alice")
    assert refused_for(limiter) > 0


def test_a_holder_that_is_killed_holds_nobody_up(child: Children) -> None:
    buckets = SharedBuckets(64)
    limiter = SharedLimiter({"send": (1, 3)}, buckets)
    process = holding(child, buckets)
    os.kill(process, signal.SIGKILL)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    with capture_logs() as logged:
        assert refused_for(limiter, cost=3) == 0
        assert refused_for(limiter) > 0
    assert logged == []


def test_a_holder_that_is_stopped_is_waited_for_only_shortly_and_not_each_time(
    child: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_limits, "PAUSE", 3600)
    buckets = SharedBuckets(64)
    limiter = SharedLimiter({"send": (1, 3)}, buckets)
    holding(child, buckets)
    with capture_logs() as logged:
        assert refused_for(limiter, cost=3) == 0
        for _ in range(10):
            assert refused_for(limiter) > 0
    assert [line["log_level"] for line in logged] == ["warning"]
