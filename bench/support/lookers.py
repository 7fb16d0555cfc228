"""Users who look all the time."""

from __future__ import annotations

import selectors
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack

from bench.support.lines import Line, User, ask_side_by_side
from bench.support.subject import Subject


class Lookers:
    """Users who poll all the time, each on a connection of their own."""

    def __init__(self, subject: Subject, users: Sequence[User]) -> None:
        self._users = users
        self._ending = ExitStack()
        self._lines = [self._ending.enter_context(Line(subject.address)) for _ in users]
        self._since = [""] * len(users)

    def __enter__(self) -> Lookers:
        polls = [user.request("GET", "/events", timeout=0) for user in self._users]
        for start in range(0, len(polls), 100):
            page = slice(start, start + 100)
            for n, answer in enumerate(ask_side_by_side(self._lines[page], polls[page]), start):
                self._since[n] = _end(answer)
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def begin(self) -> None:
        """Have everybody poll."""
        for line, user, since in zip(self._lines, self._users, self._since, strict=True):
            line.send(user.request("GET", "/events", from_=since, timeout=120_000))

    def hear(self, words: Collection[bytes], seconds: float = 30) -> int:
        """Read what everybody is told, polling again, until each of them has heard all words.

        :returns: how many answers that took.
        """
        left = {n: set(words) for n in range(len(self._lines))}
        answers, deadline = 0, time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            for n, line in enumerate(self._lines):
                selector.register(line, selectors.EVENT_READ, n)
            while left and time.monotonic() < deadline:
                for key, _ in selector.select(1):
                    n = key.data
                    answer = self._lines[n].receive()
                    answers += 1
                    self._since[n] = _end(answer)
                    if n in left:
                        left[n] -= {word for word in left[n] if word in answer}
                        if not left[n]:
                            del left[n]
                    poll = self._users[n].request("GET", "/events", from_=self._since[n], timeout=120_000)
                    self._lines[n].send(poll)
        if left:
            raise RuntimeError(f"{len(left)} users were not told within {seconds} s")
        return answers


def _end(answer: bytes) -> str:
    return answer.rpartition(b'"end":"')[2].partition(b'"')[0].decode()
