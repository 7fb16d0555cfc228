"""Whether memory stays what it is under load: `python -m bench.soak --minutes 30`; README.md tells how to read it.

A home server on SQLite and one on PostgreSQL get the same mixed load at a steady pace, in turn: messages, pages of
history, initial syncs, new rooms, people who come into rooms and leave them, typing, presence and logins, while some
users hold long polls all the time. What each holds of memory is noted again and again; what counts is the slope.
"""

from __future__ import annotations

import argparse
import selectors
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, pairwise
from random import Random
from statistics import linear_regression
from threading import Thread
from urllib.parse import quote

import twisted
from bench.support.lines import Line, User, ask_side_by_side, registration, request, user_of
from bench.support.place import place
from bench.support.results import NAMES
from bench.support.subject import Subject
from bench.support.tables import table

DATABASES = ("sqlite", "postgresql")

USERS = 60
ROOMS = 12
MEMBERS = 10
POLLING = 20
#: Requests on their way at the same time.
SIDE_BY_SIDE = 8
#: Connections for changes of presence, which are answered once a second, all together: nothing else waits for that.
FOR_PRESENCE = 16
#: The time is shown in so many parts of the same length; in the first ones, caches fill up.
PARTS = 3
PASSWORD = "correct horse"

#: How often each thing is done, of a hundred.
MIX = {
    "messages": 55,
    "pages": 15,
    "typing": 10,
    "presence": 5,
    "joins and leaves": 5,
    "initial syncs": 4,
    "states": 3,
    "new rooms": 2,
    "logins": 1,
}


@dataclass(frozen=True)
class Sample:
    """What was seen at some moment.

    :ivar seconds: since the beginning.
    :ivar operations: done until then.
    :ivar resident: memory that the home server holds, in bytes.
    """

    seconds: float
    operations: int
    resident: int


class Pollers:
    """Users who poll all the time, on one thread.

    :param since: from where on.
    """

    def __init__(self, address: tuple[str, int], users: Sequence[User], since: str) -> None:
        self._users = users
        self._ending = ExitStack()
        self._lines = [self._ending.enter_context(Line(address)) for _ in users]
        self._since = since
        self._stopping = False
        self._thread = Thread(target=self._poll, daemon=True)
        self.answers = 0
        self.failure: Exception | None = None

    def __enter__(self) -> Pollers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join()
        self._ending.close()

    def _poll(self) -> None:
        try:
            self._poll_until_stopped()
        except (OSError, RuntimeError) as error:
            self.failure = error

    def _poll_until_stopped(self) -> None:
        with selectors.DefaultSelector() as selector:
            for line, user in zip(self._lines, self._users, strict=True):
                selector.register(line, selectors.EVENT_READ, (line, user))
                line.send(_poll(user, self._since))
            while not self._stopping:
                for key, _ in selector.select(0.5):
                    line, user = key.data
                    since = line.receive().rpartition(b'"end":"')[2].partition(b'"')[0].decode()
                    self.answers += 1
                    line.send(_poll(user, since))


def _poll(user: User, since: str) -> bytes:
    return user.request("GET", "/events", from_=since, timeout=30_000)


class Soak:
    """One home server under load.

    :param subject: the home server, which runs.
    :param ending: what closes what this opens.
    """

    def __init__(self, database: str, subject: Subject, ending: ExitStack) -> None:
        self.database = database
        self.samples: list[Sample] = []
        self.done: Counter[str] = Counter()
        self.version = subject.database_version()
        self._subject = subject
        # The same on both kinds of database, and in every run.
        self._dice = Random(2014)
        self._numbers = count()
        self._lines = [ending.enter_context(Line(subject.address)) for _ in range(SIDE_BY_SIDE)]
        #: Whoever has waited longest comes first; those that have been asked nothing yet owe no answer.
        self._for_presence = deque(ending.enter_context(Line(subject.address)) for _ in range(FOR_PRESENCE))
        self._owing: set[Line] = set()
        answers = ask_side_by_side(self._lines, [registration(f"user-{n}", PASSWORD) for n in range(USERS)])
        self._users = list(map(user_of, answers))
        self._rooms = {self._make_room(members): members for members in self._groups()}
        self._pages: dict[str, str] = {}
        polling = self._users[:POLLING]
        since = self._lines[0].ask_json(polling[0].request("GET", "/events", timeout=0))["end"]
        self._pollers = ending.enter_context(Pollers(subject.address, polling, since))

    def _groups(self) -> list[list[User]]:
        return [self._dice.sample(self._users, MEMBERS) for _ in range(ROOMS)]

    def _make_room(self, members: Sequence[User]) -> str:
        first, *others = members
        room = str(self._lines[0].ask_json(first.request("POST", "/createRoom", {"visibility": "public"}))["room_id"])
        ask_side_by_side(self._lines, [user.request("POST", f"/rooms/{quote(room)}/join", {}) for user in others])
        return room

    def work(self) -> None:
        """Do a few things, side by side.

        :raises RuntimeError: one of them, or a poll, was refused.
        """
        kinds = self._dice.choices(list(MIX), list(MIX.values()), k=SIDE_BY_SIDE)
        self.done.update(kinds)
        if "new rooms" in kinds:
            self._create_and_leave()
        if "joins and leaves" in kinds:
            self._join_and_leave()
        if "pages" in kinds:
            self._page_back()
        for _ in range(kinds.count("presence")):
            self._change_presence()
        single = [kind for kind in kinds if kind not in {"new rooms", "joins and leaves", "pages", "presence"}]
        ask_side_by_side(self._lines, [self._request(kind) for kind in single])
        if self._pollers.failure is not None:
            raise self._pollers.failure

    def _request(self, kind: str) -> bytes:
        room = self._dice.choice(list(self._rooms))
        user = self._dice.choice(self._rooms[room])
        path = f"/rooms/{quote(room)}"
        number = next(self._numbers)
        if kind == "messages":
            return user.say(room, number)
        if kind == "typing":
            body: dict[str, object] = {"typing": number % 2 == 0, "timeout": 5000}
            return user.request("PUT", f"{path}/typing/{quote(user.user_id)}", body)
        if kind == "initial syncs":
            return user.request("GET", "/initialSync", limit=10)
        if kind == "states":
            return self._rooms[room][0].request("PUT", f"{path}/state/m.room.topic", {"topic": f"Topic {number}"})
        assert kind == "logins", kind
        name = user.user_id[1:].partition(":")[0]
        return request("POST", "/login", {"type": "m.login.password", "user": name, "password": PASSWORD})

    def _change_presence(self) -> None:
        line = self._for_presence.popleft()
        if line in self._owing:
            line.receive()
        user = self._dice.choice(self._users)
        status = {"presence": "online", "status_msg": f"Doing thing {next(self._numbers)}"}
        line.send(user.request("PUT", f"/presence/{quote(user.user_id)}/status", status))
        self._owing.add(line)
        self._for_presence.append(line)

    def _create_and_leave(self) -> None:
        user = self._dice.choice(self._users)
        room = self._make_room([user])
        self._lines[0].ask(user.request("POST", f"/rooms/{quote(room)}/leave", {}))

    def _join_and_leave(self) -> None:
        room = self._dice.choice(list(self._rooms))
        user = self._dice.choice([user for user in self._users if user not in self._rooms[room]])
        for what in ("join", "leave"):
            self._lines[0].ask(user.request("POST", f"/rooms/{quote(room)}/{what}", {}))

    def _page_back(self) -> None:
        """One page further back than last time, and from the end of the room again after its beginning."""
        room = self._dice.choice(list(self._rooms))
        query: dict[str, object] = {"from_": self._pages[room]} if room in self._pages else {}
        user = self._rooms[room][0]
        path = f"/rooms/{quote(room)}/messages"
        page = self._lines[0].ask_json(user.request("GET", path, dir="b", limit=50, **query))
        if len(page["chunk"]) < 50:
            self._pages.pop(room, None)
        else:
            self._pages[room] = page["end"]

    def look(self, seconds: float) -> None:
        """Note what the home server holds now.

        :param seconds: since the beginning.
        """
        self.samples.append(Sample(seconds, self.done.total(), self._subject.resident_bytes()))

    # What it comes to.

    def table(self) -> str:
        """The memory over the time, at thirty moments at the most, and the slopes."""
        shown = self.samples[:: max(1, len(self.samples) // 30)]
        rows = [
            [f"after {sample.seconds / 60:.1f} minutes", str(sample.operations), _mib(sample.resident)]
            for sample in shown
        ]
        done = ", ".join(f"{number} {kind}" for kind, number in self.done.most_common())
        last = self.samples[-1]
        return "\n".join(
            [
                table(f"a home server on {NAMES[self.database]}", [["operations", "resident, MiB"]], rows),
                "",
                f"done: {done}; {self._pollers.answers} answers to long polls",
                f"at the end: {_mib(last.resident)} MiB after {last.operations} operations"
                f" in {last.seconds / 60:.1f} minutes",
                f"slope over all the time: {slopes(self.samples)}",
                *(f"slope of part {n} of {PARTS}: {slopes(part)}" for n, part in enumerate(self._parts(), 1)),
            ]
        )

    def _parts(self) -> list[list[Sample]]:
        ends = [round(len(self.samples) * n / PARTS) for n in range(PARTS + 1)]
        return [self.samples[start:end] for start, end in pairwise(ends)]


def slopes(samples: Sequence[Sample]) -> str:
    """By how much memory grows with the time and with what is done: by the straight lines that fit best."""
    resident = [sample.resident for sample in samples]
    by_hour = linear_regression([sample.seconds / 3600 for sample in samples], resident).slope
    by_operation = linear_regression([sample.operations for sample in samples], resident).slope
    return f"{by_hour:+.0f} bytes per hour, {by_operation:+.1f} bytes per operation"


def _mib(count_of_bytes: int) -> str:
    return f"{count_of_bytes / 2**20:.1f}"


def soak(soaks: Sequence[Soak], seconds: float, rate: float, interval: float) -> None:
    """Load the home servers in turn.

    :param rate: operations that each gets in a second.
    :param interval: between two looks at the memory, in seconds.
    """
    began = time.monotonic()
    next_look = began
    for batch in count():
        now = time.monotonic()
        if now >= next_look or now - began >= seconds:
            next_look += interval
            for one in soaks:
                one.look(now - began)
        if now - began >= seconds:
            return
        for one in soaks:
            one.work()
        due = began + (batch + 1) * SIDE_BY_SIDE / rate
        time.sleep(max(0, due - time.monotonic()))


def main() -> None:
    """Load, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="See whether memory grows under load.")
    parser.add_argument("--database", choices=[*DATABASES, "both"], default="both")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=100, help="operations per second for each server (100)")
    parser.add_argument("--interval", type=float, default=5, help="seconds between two looks at the memory (5)")
    options = parser.parse_args()
    if options.minutes * 60 < options.interval * 6:
        parser.error("that is too short for a slope")
    # The processes we start end with us, their directories only if we end in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    databases = DATABASES if options.database == "both" else (options.database,)
    with ExitStack() as ending:
        soaks = []
        for database in databases:
            subject = ending.enter_context(Subject(database, {"presence.enabled": True}))
            subject.start()
            soaks.append(Soak(database, subject, ending))
        versions = [one.version for one in soaks]
        soak(soaks, options.minutes * 60, options.rate, options.interval)
        tables = [one.table() for one in soaks]
    print("\n\n".join([place(f"Twisted {twisted.__version__}", *versions), *tables]))


if __name__ == "__main__":
    main()
