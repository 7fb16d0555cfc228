"""What it costs that somebody comes, goes, or says what they want to be seen as.

    python -m bench.presence [--database sqlite|postgresql]

runs a home server with a room in which 10, 100 and 1000 users look, each with a long poll, and has one of them change
their presence until all have been told. Then everybody in a room of 500 comes, and goes, at once.
"""

from __future__ import annotations

import argparse
import selectors
import time
from collections.abc import Sequence
from contextlib import ExitStack
from urllib.parse import quote

from bench.support.lines import Line, User, ask_side_by_side, request
from bench.support.subject import Subject
from bench.support.tables import table

OBSERVERS = (10, 100, 1000)
CHANGES = 10
CROWD = 500
#: Longer than a device is there without a stream, and than it takes to see that.
GONE_SECONDS = 40


def register(subject: Subject, prefix: str, count: int) -> list[User]:
    """Make users."""
    bodies = [{"type": "m.login.password", "user": f"{prefix}{n}", "password": "correct horse"} for n in range(count)]
    users = []
    with Line(subject.address) as line:
        for body in bodies:
            answer = line.ask_json(request("POST", "/register", body))
            users.append(User(answer["user_id"], answer["access_token"]))
    return users


def room_of(subject: Subject, users: Sequence[User]) -> str:
    """A room in which some users are."""
    with Line(subject.address) as line:
        room = line.ask_json(users[0].request("POST", "/createRoom", {"visibility": "public"}))["room_id"]
        for user in users[1:]:
            line.ask(user.request("POST", f"/join/{quote(room, safe='')}", {}))
    return str(room)


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

    def hear(self, word: bytes, seconds: float = 30) -> int:
        """Read what everybody is told, polling again, until all of them have heard a word.

        :returns: how many answers that took.
        """
        left, answers, deadline = set(range(len(self._lines))), 0, time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            for n, line in enumerate(self._lines):
                selector.register(line, selectors.EVENT_READ, n)
            while left and time.monotonic() < deadline:
                for key, _ in selector.select(1):
                    n = key.data
                    answer = self._lines[n].receive()
                    answers += 1
                    self._since[n] = _end(answer)
                    if word in answer:
                        left.discard(n)
                    poll = self._users[n].request("GET", "/events", from_=self._since[n], timeout=120_000)
                    self._lines[n].send(poll)
        if left:
            raise RuntimeError(f"{len(left)} users were not told within {seconds} s")
        return answers


def _end(answer: bytes) -> str:
    return answer.rpartition(b'"end":"')[2].partition(b'"')[0].decode()


def one_change(subject: Subject, count: int) -> list[str]:
    """What it costs that one of many who look changes."""
    users = register(subject, f"one{count}x", count + 1)
    room_of(subject, users)
    path = f"/presence/{quote(users[0].user_id)}/status"
    with Line(subject.address) as line, Lookers(subject, users[1:]) as lookers:
        time.sleep(3)
        watch = subject.watch()
        answers = 0
        with watch:
            for n in range(CHANGES):
                body = {"presence": ("unavailable", "online")[n % 2], "status_msg": f"change {n}."}
                line.send(users[0].request("PUT", path, body))
                answers += lookers.hear(f"change {n}.".encode())
                line.receive()
        used = watch.per(CHANGES)
    per_observer = used.server / count * 1e6
    return [f"{count} observers", f"{used.server * 1000:.2f}", f"{per_observer:.0f}", f"{answers / CHANGES:.0f}"]


def crowd(subject: Subject) -> list[list[str]]:
    """What it costs that everybody in a room comes, and goes, at once."""
    users = register(subject, "crowd", CROWD + 1)
    room_of(subject, users)
    rows = []
    with Lookers(subject, users[:1]) as witness:
        last = users[-1].user_id.encode()
        come = subject.watch()
        with come, Lookers(subject, users[1:]):
            witness.hear(last)
            subject.settle()
        used = come.per(1)
        rows.append([f"{CROWD} come", f"{used.server * 1000:.0f}", f"{used.server / CROWD * 1e6:.0f}", ""])
        go = subject.watch()
        with go:
            time.sleep(GONE_SECONDS)
            subject.settle()
        used = go.per(1)
        rows.append([f"{CROWD} go", f"{used.server * 1000:.0f}", f"{used.server / CROWD * 1e6:.0f}", ""])
    return rows


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.presence", description="Measure what presence costs.")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    options = parser.parse_args()
    with Subject(options.database, {"presence.enabled": True}) as subject:
        subject.start()
        rows = [one_change(subject, count) for count in OBSERVERS]
        rows += crowd(subject)
    print(table(f"presence, {options.database}", [["CPU ms", "µs each", "answers"]], rows))


if __name__ == "__main__":
    main()
