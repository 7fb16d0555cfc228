"""What waits in the server is bounded (SEC-1): long polls of one user, passwords that are to be hashed."""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as HandMovedTime

from synapse_like.clock import ReactorClock
from synapse_like.handlers import passwords
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.event_stream import EventStream, StreamChunk
from synapse_like.handlers.notifier import Notifier
from synapse_like.handlers.passwords import Hasher, Passwords
from synapse_like.handlers.streams import SilentStream
from synapse_like.protocol.errors import Unavailable
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from tests.support.threads import ThreadBridge

ALICE, BOB = Requester("@alice:here", 1, False), Requester("@bob:here", 2, False)


class Polls:
    """An event stream over an empty database, of which each user may have two polls that wait."""

    def __init__(self, database: Database, bus: Bus, bridge: ThreadBridge) -> None:
        clock = ReactorClock(HandMovedTime())
        self._bridge = bridge
        notifier = Notifier(database, bus, clock, position=10)
        silent: Any = SilentStream()
        self.stream = EventStream(
            database, notifier, bus, clock, presence=silent, attendance=silent, typing=silent, most_polls=2
        )
        self.answers: list[StreamChunk | None] = []

    def poll(self, requester: Requester) -> int:
        """Begin a poll that would wait for long; its number."""
        number = len(self.answers)
        self.answers.append(None)

        def answered(chunk: StreamChunk) -> None:
            self.answers[number] = chunk

        polling = Deferred.fromCoroutine(self.stream.next_chunk(requester, None, 300_000)).addCallback(answered)
        polling.addErrback(lambda failure: failure.raiseException())
        self._bridge.pump(lambda: all(poll.waiting for poll in self.stream._polls))
        return number


def test_of_too_many_polls_of_a_user_the_oldest_is_answered(database: Database, bus: Bus, bridge: ThreadBridge) -> None:
    """It is answered as if its time was up, and the polls of others go on."""
    polls = Polls(database, bus, bridge)
    for requester in (BOB, ALICE, ALICE, ALICE, ALICE):
        polls.poll(requester)
    answered = [answer is not None for answer in polls.answers]
    assert answered == [False, True, True, False, False]
    first = polls.answers[1]
    assert first is not None
    assert (list(first.events), str(first.start)) == ([], str(first.end))
    assert {user: len(found) for user, found in polls.stream._by_user.items()} == {"@bob:here": 1, "@alice:here": 2}
    polls.stream.close()
    assert None not in polls.answers
    assert not polls.stream._by_user


def test_too_many_passwords_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Deferred[Any]] = []

    def hand_over(_reactor: object, _pool: object, _work: Callable[..., object], *_: object) -> Deferred[Any]:
        begun.append(Deferred())
        return begun[-1]

    monkeypatch.setattr(passwords, "deferToThreadPool", hand_over)
    unused: Any = None
    checker = Passwords(Hasher(memory_kib=64, iterations=1, parallelism=1), unused)
    room = passwords.MOST_AT_ONCE + passwords.MOST_WAITING
    waiting = [Deferred.fromCoroutine(checker.verify(None, "x")) for _ in range(room)]
    with pytest.raises(Unavailable):
        checker.hash("x").send(None)
    assert len(begun) == room
    begun[0].callback(False)
    Deferred.fromCoroutine(checker.hash("x"))
    assert len(begun) == room + 1
    assert waiting[0].called
