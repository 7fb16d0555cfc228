"""One thing at a time in each room."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred

from synapse_like.handlers.room_locks import RoomLocks


class Work:
    """Something that takes as long as a test wants.

    :ivar log: names of works, with what became of them.
    """

    def __init__(self, locks: RoomLocks, room_id: str, name: str, log: list[str]) -> None:
        self.done: Deferred[None] = Deferred()
        self._name, self._log = name, log
        self.running = Deferred.fromCoroutine(self._run(locks, room_id))

    async def _run(self, locks: RoomLocks, room_id: str) -> None:
        async with locks.hold(room_id):
            self._log.append(f"{self._name} begins")
            await self.done
        self._log.append(f"{self._name} has ended")


def test_works_of_one_room_follow_each_other_and_those_of_another_do_not_wait() -> None:
    locks = RoomLocks()
    log: list[str] = []
    one, two, three, other = (Work(locks, room, name, log) for room, name in ("a1", "a2", "a3", "b4"))
    assert (locks.waiting("a"), locks.waiting("b"), locks.waiting("c")) == (3, 1, 0)
    assert log == ["1 begins", "4 begins"]
    one.done.callback(None)
    assert log[2:] == ["2 begins", "1 has ended"]
    failed: list[type[BaseException] | None] = []
    two.running.addErrback(lambda failure: failed.append(failure.type))
    two.done.errback(ZeroDivisionError())
    assert failed == [ZeroDivisionError]
    assert log[4:] == ["3 begins"]
    for work in (three, other):
        work.done.callback(None)
    assert log[5:] == ["3 has ended", "4 has ended"]
    assert (locks.waiting("a"), locks.waiting("b")) == (0, 0)


def test_who_is_cancelled_while_waiting_is_passed_over() -> None:
    locks = RoomLocks()
    log: list[str] = []
    one, two, three = (Work(locks, "a", name, log) for name in "123")
    gone: list[type[BaseException] | None] = []
    two.running.addErrback(lambda failure: gone.append(failure.type))
    two.running.cancel()
    assert gone == [CancelledError]
    assert locks.waiting("a") == 2
    one.done.callback(None)
    three.done.callback(None)
    assert log == ["1 begins", "3 begins", "1 has ended", "3 has ended"]
    assert locks.waiting("a") == 0
