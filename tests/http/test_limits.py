"""Token buckets (RATE-1), with time moved by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from synapse_like.http.limits import Limiter
from synapse_like.protocol.errors import LimitExceeded


def refused_for(limiter: Limiter, key: str = "@alice", rate_class: str = "send") -> int:
    """The milliseconds to wait; 0 if there is nothing to wait for."""
    try:
        limiter.check(rate_class, key)
    except LimitExceeded as error:
        return int(error.extra["retry_after_ms"])
    return 0


def test_burst_is_let_in_at_once_and_no_more() -> None:
    limiter = Limiter({"send": (2, 3)}, Clock().seconds)
    assert [refused_for(limiter) for _ in range(4)] == [0, 0, 0, 500]


def test_in_the_long_run_the_rate_holds() -> None:
    time = Clock()
    limiter = Limiter({"send": (2, 3)}, time.seconds)
    let_in = 0
    for _ in range(1000):
        let_in += refused_for(limiter) == 0
        time.advance(0.01)
    assert let_in == 3 + 2 * 10 - 1


@given(st.floats(0.001, 1000), st.integers(1, 50), st.floats(0, 1e9))
def test_who_waits_as_long_as_told_is_let_in_and_who_waits_less_is_not(rate: float, burst: int, began: float) -> None:
    time = Clock()
    time.advance(began)
    limiter = Limiter({"send": (rate, burst)}, time.seconds)
    for _ in range(burst):
        assert refused_for(limiter) == 0
    wait = refused_for(limiter)
    assert wait > 0
    time.advance(max(0, wait - 2) / 1000)
    assert wait <= 2 or refused_for(limiter) > 0
    time.advance(min(wait, 2) / 1000)
    assert refused_for(limiter) == 0


def test_refused_requests_do_not_count() -> None:
    time = Clock()
    limiter = Limiter({"send": (1, 1)}, time.seconds)
    assert [refused_for(limiter) for _ in range(100)] == [0] + [1000] * 99
    time.advance(1)
    assert refused_for(limiter) == 0


def test_keys_and_classes_are_counted_apart() -> None:
    limiter = Limiter({"send": (1, 1), "read": (1, 1)}, Clock().seconds)
    assert refused_for(limiter) == 0
    assert refused_for(limiter, "@bob") == 0
    assert refused_for(limiter, rate_class="read") == 0
    assert refused_for(limiter) == 1000


def test_nothing_is_refused_when_switched_off() -> None:
    limiter = Limiter({"send": (1, 1)}, Clock().seconds, enabled=False)
    assert [refused_for(limiter) for _ in range(100)] == [0] * 100


def test_class_that_nobody_set_up_is_an_error() -> None:
    with pytest.raises(KeyError):
        Limiter({}, Clock().seconds, enabled=False).check("send", "@alice")


def test_of_too_many_buckets_the_longest_unused_is_forgotten() -> None:
    limiter = Limiter({"send": (1, 1)}, Clock().seconds, max_buckets=2)
    for key in ("@alice", "@bob", "@carol"):
        assert refused_for(limiter, key) == 0
    assert refused_for(limiter, "@bob") > 0
    assert refused_for(limiter, "@carol") > 0
    assert refused_for(limiter, "@alice") == 0


def test_what_is_looked_at_is_not_counted() -> None:
    limiter = Limiter({"send": (1, 1)}, Clock().seconds)
    for _ in range(3):
        limiter.look("send", "@alice")
    limiter.take("send", "@alice")
    with pytest.raises(LimitExceeded):
        limiter.look("send", "@alice")


def test_what_is_refused_by_one_bucket_is_counted_in_none_and_the_longest_wait_is_told() -> None:
    time = Clock()
    limiter = Limiter({"peer": (1, 10), "room": (2, 4)}, time.seconds)
    limiter.check_all([("peer", "a", 4), ("room", "a !r", 4)])
    with pytest.raises(LimitExceeded) as refusal:
        limiter.check_all([("peer", "a", 7), ("room", "a !r", 4)])
    assert refusal.value.extra["retry_after_ms"] == 2000
    time.advance(2)
    limiter.check_all([("peer", "a", 7), ("room", "a !r", 4)])


def test_request_for_many_things_counts_as_many() -> None:
    limiter = Limiter({"lookup": (2, 10)}, Clock().seconds)
    limiter.check("lookup", "@alice", 9)
    with pytest.raises(LimitExceeded) as refusal:
        limiter.check("lookup", "@alice", 3)
    assert refusal.value.extra["retry_after_ms"] == 1000
    limiter.check("lookup", "@alice", 1)


def test_request_for_more_than_a_burst_is_paid_for_afterwards() -> None:
    """Otherwise whoever asks for more at once would get it cheaper."""
    time = Clock()
    limiter = Limiter({"lookup": (2, 10)}, time.seconds)
    limiter.check("lookup", "@alice", 100)
    time.advance(45)
    assert refused_for(limiter, rate_class="lookup") == 500
    time.advance(0.5)
    assert refused_for(limiter, rate_class="lookup") == 0
