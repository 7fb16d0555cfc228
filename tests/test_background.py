"""Background tasks: they fail alone and audibly; repeated ones never overlap, and stop when told."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as HandMovedClock

from synapse_like import logs
from synapse_like.background import Repeating, Shared, all_of, every, run_in_background
from synapse_like.clock import ReactorClock
from synapse_like.protocol.errors import Unavailable

Output = pytest.CaptureFixture[str]


@pytest.fixture
def output(capsys: Output) -> Output:
    """What is logged, on standard error."""
    logs.configure(adopt_twisted=False)
    return capsys


class Work:
    """A task whose turns last until they are let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self._wait: Deferred[None] = Deferred()

    async def __call__(self) -> None:
        self.begun += 1
        await self._wait
        self.ended += 1

    def let_go(self) -> None:
        wait, self._wait = self._wait, Deferred()
        wait.callback(None)


# Single tasks.


def test_task_begins_at_once_and_fires_when_it_is_over() -> None:
    work = Work()
    over = run_in_background("work", work)
    assert (work.begun, over.called) == (1, False)
    work.let_go()
    assert (work.ended, over.called) == (1, True)


def test_task_gets_its_arguments() -> None:
    got: list[tuple[int, str]] = []

    async def take(number: int, *, word: str) -> None:
        got.append((number, word))

    run_in_background("take", take, 3, word="three")
    assert got == [(3, "three")]


def test_failure_is_logged_with_the_name_of_the_task_and_goes_no_further(output: Output) -> None:
    async def fail() -> None:
        raise ValueError("broken")

    over = run_in_background("send-mail", fail)
    results: list[object] = []
    over.addBoth(results.append)
    assert results == [None]
    text = output.readouterr().err
    assert "the background task failed" in text
    assert "send-mail" in text
    assert "ValueError: broken" in text


def test_lines_of_a_task_carry_its_name(output: Output) -> None:
    log = logs.get_logger("synapse_like.tests")

    async def say() -> None:
        log.info("said")

    run_in_background("speaker", say)
    log.info("afterwards")
    said, afterwards = output.readouterr().err.splitlines()
    assert said.endswith("said task=speaker")
    assert afterwards.endswith("afterwards")


def test_cancelled_task_ends_without_a_failure(output: Output) -> None:
    work = Work()
    over = run_in_background("work", work)
    results: list[object] = []
    over.addBoth(results.append)
    over.cancel()
    assert results == [None]
    assert work.ended == 0
    assert "failed" not in output.readouterr().err


# Repeated tasks.


def repeating(work: Work) -> tuple[HandMovedClock, Repeating]:
    reactor = HandMovedClock()
    return reactor, every(ReactorClock(reactor), "work", 10, work)


def test_nothing_happens_before_the_start() -> None:
    work = Work()
    reactor, _ = repeating(work)
    reactor.advance(100)
    assert work.begun == 0


def test_turns_come_after_the_pause_and_never_overlap() -> None:
    work = Work()
    reactor, task = repeating(work)
    task.start()
    reactor.advance(9)
    assert work.begun == 0
    reactor.advance(1)
    assert work.begun == 1
    reactor.advance(100)
    assert work.begun == 1
    work.let_go()
    reactor.advance(9)
    assert work.begun == 1
    reactor.advance(1)
    assert work.begun == 2


def test_turn_that_fails_is_followed_by_the_next(output: Output) -> None:
    turns: list[int] = []

    async def fail() -> None:
        turns.append(1)
        raise ValueError("broken")

    reactor = HandMovedClock()
    every(ReactorClock(reactor), "failing", 10, fail).start()
    reactor.pump([10, 10, 10])
    assert len(turns) == 3
    assert output.readouterr().err.count("ValueError: broken") == 3


def test_stop_between_turns_leaves_no_timer_behind() -> None:
    work = Work()
    reactor, task = repeating(work)
    task.start()
    stopped = Deferred.fromCoroutine(task.stop())
    assert stopped.called
    assert reactor.getDelayedCalls() == []


def test_stop_waits_for_the_turn_under_way_and_has_no_more() -> None:
    work = Work()
    reactor, task = repeating(work)
    task.start()
    reactor.advance(10)
    stopped: list[None] = []
    Deferred.fromCoroutine(task.stop()).addCallback(stopped.append)
    assert not stopped
    work.let_go()
    assert stopped
    assert work.ended == 1
    assert reactor.getDelayedCalls() == []


def test_stopped_task_can_be_started_again() -> None:
    work = Work()
    reactor, task = repeating(work)
    task.start()
    Deferred.fromCoroutine(task.stop())
    task.start()
    reactor.advance(10)
    assert work.begun == 1


def test_work_that_several_want_is_done_once() -> None:
    shared: Shared[str, int] = Shared()
    works: list[Deferred[int]] = []

    async def work() -> int:
        works.append(Deferred())
        return await works[-1]

    first, second, other = (Deferred.fromCoroutine(shared.do(key, work)) for key in ("a", "a", "b"))
    assert len(works) == 2
    works[0].callback(5)
    assert (first.result, second.result, other.called) == (5, 5, False)
    again = Deferred.fromCoroutine(shared.do("a", work))
    assert len(works) == 3
    works[2].callback(6)
    assert again.result == 6


def test_all_who_want_it_learn_that_it_failed_and_who_is_cancelled_stops_nothing() -> None:
    shared: Shared[str, int] = Shared()
    work: Deferred[int] = Deferred()

    async def fail() -> int:
        return await work

    failures: list[str] = []
    waiting = [Deferred.fromCoroutine(shared.do("a", fail)) for _ in range(3)]
    for each in waiting:
        each.addErrback(lambda failure: failures.append(failure.type.__name__))
    waiting[1].cancel()
    assert failures == ["CancelledError"]
    assert not work.called
    work.errback(ValueError("no"))
    assert failures == ["CancelledError", "ValueError", "ValueError"]


def test_what_one_of_several_raises_is_raised_and_the_others_go_on() -> None:
    several: list[Deferred[int]] = [Deferred(), Deferred(), Deferred()]
    outcome = Deferred.fromCoroutine(all_of(several))
    several[1].errback(Unavailable("Not now."))
    failure = failure_of(outcome)
    assert failure.check(Unavailable)
    several[0].callback(1)
    several[2].errback(Unavailable("Not now either."))


def test_all_of_several_are_given_in_their_order() -> None:
    several: list[Deferred[int]] = [Deferred(), Deferred()]
    outcome = Deferred.fromCoroutine(all_of(several))
    several[1].callback(2)
    several[0].callback(1)
    assert outcome.result == [1, 2]


def test_who_waits_for_several_and_is_cancelled_ends_as_one_who_is_cancelled(output: Output) -> None:
    several: list[Deferred[int]] = [Deferred(), Deferred()]
    task = run_in_background("wait", all_of, several)
    task.cancel()
    assert [failure_of(one) for one in several] == [None, None], "no failure is left for nobody"
    assert "failed" not in output.readouterr().err


def failure_of(deferred: Deferred[Any]) -> Any:
    """What a Deferred has failed with; None if it has not, or somebody has taken it."""
    found: list[Any] = []
    deferred.addBoth(found.append)
    return found[0]
