"""The order in which a process publishes news: that of the commits, whoever made them.

Each process publishes the news of all commits in the order of their numbers, its own among them, and gives the results
of its own jobs with their news: who learns of a position knows that everything up to it can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from synapse_like.storage.shared.commit_log import Told


class Order:
    """Publishes the commits of all processes in the order of their numbers; on the reactor's thread.

    :param name: of this process.
    :param last: the last number that is known.
    :param deliver: is given the news of one commit after the other, and the results of our own.
    :param hurry: is called when somebody waits for what was not read yet.
    """

    def __init__(
        self,
        name: str,
        last: int,
        deliver: Callable[[Sequence[object], Any], None],
        hurry: Callable[[], object] = lambda: None,
    ) -> None:
        self._name = name
        self._last = last
        self._deliver = deliver
        self._hurry = hurry
        self._ours: dict[int, tuple[Sequence[object], Any]] = {}
        self._theirs: dict[int, list[object]] = {}
        self._doubtful: dict[int, Sequence[object]] = {}
        self._found: set[int] = set()
        self._waiting: list[tuple[int, Deferred[None]]] = []

    @property
    def last(self) -> int:
        """The number up to which the news of all commits has been published."""
        return self._last

    def reach(self, number: int) -> Deferred[None]:
        """Wait until the news of all commits up to a number has been published."""
        reached: Deferred[None] = Deferred()
        self._waiting.append((number, reached))
        self._let_go_on()
        if self._waiting:
            self._hurry()
        return reached

    def _let_go_on(self) -> None:
        ready = [reached for number, reached in self._waiting if number <= self._last]
        self._waiting = [waiting for waiting in self._waiting if waiting[0] > self._last]
        for reached in ready:
            if not reached.called:
                reached.callback(None)

    def ours(self, number: int | None, news: Sequence[object], outcomes: Any, heard: Iterable[Told] = ()) -> None:
        """One of our own commits stands.

        :param number: None if others need not know of it.
        :param heard: commits that were read in the log on the way to it.
        """
        self._note(heard)
        if number is None:
            self._go_on()
            self._deliver(news, outcomes)
            return
        self._doubtful.pop(number, None)
        if number <= self._last:
            # Everybody has looked again, instead of being told.
            self._deliver((), outcomes)
            return
        self._ours[number] = (news, outcomes)
        self._go_on()

    def heard(self, commits: Iterable[Told]) -> None:
        """Some commits were read in the log."""
        self._note(commits)
        self._go_on()

    def _note(self, commits: Iterable[Told]) -> None:
        for number, maker, news in commits:
            if number > self._last:
                if maker == self._name:
                    self._found.add(number)
                else:
                    self._theirs[number] = news

    def in_doubt(self, number: int, news: Sequence[object]) -> None:
        """A commit of ours failed, and may stand or not, perhaps only later: if it does, it is in the log.

        :param news: what is published when a commit of that number is there, be it another one of ours.
        """
        self._doubtful[number] = news
        self._go_on()

    def missed(self, number: int) -> None:
        """What was up to a number can be read no more. Everybody looks again anyhow."""
        self._last = max(self._last, number)
        for known in sorted(known for known in self._ours if known <= number):
            _, outcomes = self._ours.pop(known)
            self._deliver((), outcomes)
        self._theirs = {known: news for known, news in self._theirs.items() if known > number}
        self._go_on()

    def _go_on(self) -> None:
        while True:
            following = self._last + 1
            if following in self._ours:
                news, outcomes = self._ours.pop(following)
            elif following in self._theirs:
                news, outcomes = self._theirs.pop(following), ()
            elif following in self._doubtful and following in self._found:
                news, outcomes = self._doubtful[following], ()
            else:
                break
            self._found.discard(following)
            self._doubtful.pop(following, None)
            self._last = following
            self._deliver(news, outcomes)
        if self._waiting:
            self._let_go_on()
        if self._ours or self._waiting:
            self._hurry()
