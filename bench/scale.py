"""What a server costs that is several processes, beside one that is one: `python -m bench.scale`.

Servers of 1, 2 and 4 processes, each with a PostgreSQL of its own, do the same work in turn, a repetition by each. What
counts is CPU time: of all processes of a server together, and of its PostgreSQL. In the end each holds thousands of
long polls.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import count
from math import ceil
from pathlib import Path
from statistics import median
from urllib.parse import quote

import twisted
from bench.send import Steps, take_turns
from bench.support.lines import Line, User, ask_side_by_side
from bench.support.place import place
from bench.support.subject import Subject
from bench.support.tables import table
from bench.support.usage import Usage, middle, spread
from tests.support.building import building
from tests.support.server import ROOT

#: Requests on their way at the same time, where it is not one; and connections, which the processes share.
SIDE_BY_SIDE = 16
#: The same where a server has much to do.
MUCH = 64
#: What several processes may cost, as a part of what one does.
TARGET = 1.25

POLLS_WAKE = "send one message, delivered to {:,} waiting polls"
IDLE, WAITING = "nothing at all", "{:,} polls wait"


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    :ivar processes: of the servers that are compared; the first is what the others are compared to.
    :ivar shared: whether also with one process that shares its database, as each of several machines may have it.
    :ivar repetitions: of each measurement.
    :ivar some: operations in a repetition where each takes long, such as joining.
    :ivar many: the same where they do not.
    :ivar fan_out: how many wait for a message.
    :ivar polls: how many wait in the end.
    :ivar idle_seconds: how long nothing happens.
    """

    processes: tuple[int, ...] = (1, 2, 4)
    shared: bool = False
    repetitions: int = 7
    some: int = 100
    many: int = 160
    fan_out: int = 100
    polls: int = 5000
    idle_seconds: float = 30

    @property
    def kinds(self) -> dict[str, dict[str, object]]:
        """The settings of the servers, by what they are called."""
        kinds: dict[str, dict[str, object]] = {str(number): {"processes": number} for number in self.processes}
        if self.shared:
            kinds["1, shared"] = {"processes": 1, "database.shared": True}
        return kinds


QUICK = Scale(repetitions=3, some=20, many=100, fan_out=20, polls=100, idle_seconds=5)


@dataclass(frozen=True)
class Quiet:
    """What goes on while nobody asks for anything, in a minute.

    :ivar server: CPU time of all processes, in seconds.
    :ivar database: that of PostgreSQL.
    :ivar transactions: that PostgreSQL has ended.
    """

    server: float
    database: float
    transactions: float


@dataclass
class Findings:
    """What was measured of one server.

    :ivar usages: what one operation used, one entry for each repetition.
    :ivar memory: of all its processes together, in bytes, by when.
    :ivar quiet: by what waits meanwhile.
    """

    usages: defaultdict[str, list[Usage]] = field(default_factory=lambda: defaultdict(list))
    memory: dict[str, int] = field(default_factory=dict)
    quiet: dict[str, Quiet] = field(default_factory=dict)


class Measurement:
    """Everything that is measured of one server.

    :param subject: the server, which does not run yet, and whose database is empty.
    """

    def __init__(self, subject: Subject, scale: Scale, findings: Findings) -> None:
        self._subject = subject
        self._scale = scale
        self._findings = findings
        self._txn_ids = count(1)
        self._all_lines: list[Line] = []
        self._lines: list[Line] = []
        self._users: list[User] = []
        self._newcomers: list[User] = []
        self._crowd: list[User] = []
        #: Where the crowd is.
        self._square = ""

    def steps(self) -> Steps:
        """Measure, and stop the server in the end."""
        self._people()
        self._subject.start()
        with ExitStack() as closing:
            self._all_lines = [closing.enter_context(Line(self._subject.address)) for _ in range(MUCH)]
            self._lines = self._all_lines[:SIDE_BY_SIDE]
            yield from self._measure()
        self._subject.stop()

    def _people(self) -> None:
        """Make everybody, and the room of the crowd, before the server starts."""
        with building(self._subject.server.config) as site:

            def add(name: str, number: int) -> list[User]:
                return [User(*user) for user in site.add_users(f"{name}-{which}" for which in range(number))]

            self._users = add("user", max(MUCH, self._scale.fan_out))
            self._newcomers = add("new", self._scale.some)
            self._crowd = add("crowd", self._scale.polls)
            [self._square] = site.add_rooms(self._crowd[0].user_id, 1)
            site.join(self._square, [user.user_id for user in self._crowd[1:]])

    def _measure(self) -> Steps:
        self._note_memory("after the start")
        senders, many = self._users[:SIDE_BY_SIDE], self._scale.many
        all_rooms = [self._make_room([user]) for user in self._users[:MUCH]]
        own_rooms = all_rooms[:SIDE_BY_SIDE]
        room = self._make_room(senders)
        self._be_quiet(IDLE)
        yield
        yield from self._repeat(
            "send, one at a time, by one connection",
            lambda: self._one_by_one([self._say(senders[0], own_rooms[0]) for _ in range(many)], self._lines[:1]),
        )
        for where, rooms in (("one room", [room]), (f"{SIDE_BY_SIDE} rooms", own_rooms)):

            def messages(number: int, rooms: Sequence[str] = rooms) -> list[bytes]:
                return [self._say(senders[n % SIDE_BY_SIDE], rooms[n % len(rooms)]) for n in range(number)]

            def one_by_one(messages: Callable[[int], list[bytes]] = messages) -> Usage:
                return self._one_by_one(messages(many), self._lines)

            def side_by_side(messages: Callable[[int], list[bytes]] = messages) -> Usage:
                return self._side_by_side(messages(many * 4))

            yield from self._repeat(f"send, one at a time, by {SIDE_BY_SIDE} connections, {where}", one_by_one)
            yield from self._repeat(f"send, {SIDE_BY_SIDE} at a time, {where}", side_by_side)
        yield from self._repeat(
            f"send, {MUCH} at a time, {MUCH} rooms",
            lambda: self._side_by_side(
                [self._say(self._users[n % MUCH], all_rooms[n % MUCH]) for n in range(many * 8)], self._all_lines
            ),
        )
        yield from self._join()
        page = [user.request("GET", f"/rooms/{quote(room)}/messages", dir="b", limit=50) for user in senders]
        yield from self._repeat(
            f"page of 50 messages, {SIDE_BY_SIDE} at a time",
            lambda: self._side_by_side(page * ceil(many / SIDE_BY_SIDE)),
        )
        self._note_memory("after all this")
        yield from self._deliver(self._users[: self._scale.fan_out], self._scale.repetitions, rounds=10)
        yield from self._deliver(self._crowd, ceil(self._scale.repetitions / 3), rounds=1)

    # What is measured, and noted.

    def _repeat(self, row: str, measure: Callable[[], Usage]) -> Steps:
        """Measure something some times; the first time does not count.

        :param measure: tells what one operation used.
        """
        measure()
        for _ in range(self._scale.repetitions):
            self._findings.usages[row].append(measure())
            yield

    def _one_by_one(self, requests: Sequence[bytes], lines: Sequence[Line]) -> Usage:
        """One after the other, by connections in turn."""
        watch = self._subject.watch()
        with watch:
            for number, message in enumerate(requests):
                lines[number % len(lines)].ask(message)
            # What other processes hear of it belongs to it.
            self._subject.settle()
        return watch.per(len(requests))

    def _side_by_side(self, requests: Sequence[bytes], lines: Sequence[Line] | None = None) -> Usage:
        watch = self._subject.watch()
        with watch:
            ask_side_by_side(lines or self._lines, requests)
            self._subject.settle()
        return watch.per(len(requests))

    def _note_memory(self, when: str) -> None:
        self._subject.settle()
        self._findings.memory[when] = self._subject.proportional_bytes()

    def _be_quiet(self, meanwhile: str) -> None:
        self._subject.settle()
        watch = self._subject.watch()
        with self._subject.transactions() as ended:
            # PostgreSQL counts what a connection has done at most a second later.
            time.sleep(min(1, self._scale.idle_seconds))
            before = ended()
            with watch:
                time.sleep(self._scale.idle_seconds)
            transactions = ended() - before
        used = watch.per(1)
        minute = 60 / used.wall
        self._findings.quiet[meanwhile] = Quiet(used.server * minute, used.database * minute, transactions * minute)

    # What is done.

    def _say(self, user: User, room: str) -> bytes:
        return user.say(room, next(self._txn_ids))

    def _make_room(self, members: Sequence[User]) -> str:
        first, *others = members
        room = str(self._lines[0].ask_json(first.request("POST", "/createRoom", {"visibility": "public"}))["room_id"])
        ask_side_by_side(self._lines, [_join(user, room) for user in others])
        return room

    def _join(self) -> Steps:
        room = self._make_room(self._users)
        for how, lines in (("one at a time", self._lines[:1]), (f"{SIDE_BY_SIDE} at a time", self._lines)):

            def join(lines: Sequence[Line] = lines) -> Usage:
                watch = self._subject.watch()
                with watch:
                    ask_side_by_side(lines, [_join(user, room) for user in self._newcomers])
                    self._subject.settle()
                # So that the room keeps its size.
                leave = f"/rooms/{quote(room)}/leave"
                ask_side_by_side(self._lines, [user.request("POST", leave, {}) for user in self._newcomers])
                return watch.per(len(self._newcomers))

            yield from self._repeat(f"join into a room of {len(self._users)}, {how}", join)

    def _deliver(self, users: Sequence[User], repetitions: int, rounds: int) -> Steps:
        """Have messages delivered to users who wait for one, and who wait again when they have it."""
        is_crowd = users is self._crowd
        room = self._square if is_crowd else self._make_room(users)
        row = POLLS_WAKE.format(len(users))
        since = self._lines[0].ask_json(users[0].request("GET", "/events", timeout=0))["end"]
        with ExitStack() as closing:
            lines = [closing.enter_context(Line(self._subject.address)) for _ in users]

            def all_wait() -> None:
                for line, user in zip(lines, users, strict=True):
                    line.send(user.request("GET", "/events", from_=since, timeout=300_000))
                self._subject.settle()

            def deliver() -> Usage:
                nonlocal since
                watch = self._subject.watch()
                for _ in range(rounds):
                    all_wait()
                    message = self._say(users[0], room)
                    with watch:
                        self._lines[0].ask(message)
                        answers = [line.receive() for line in lines]
                        self._subject.settle()
                    since = json.loads(answers[-1])["end"]
                    for answer in answers[0], answers[-1]:
                        assert len(json.loads(answer)["chunk"]) == 1, "a poll is answered with what was sent"
                return watch.per(rounds)

            deliver()
            if is_crowd:
                all_wait()
                self._note_memory(WAITING.format(len(users)))
                self._be_quiet(WAITING.format(len(users)))
                self._lines[0].ask(self._say(users[0], room))
                since = json.loads([line.receive() for line in lines][-1])["end"]
            for _ in range(repetitions):
                self._findings.usages[row].append(deliver())
                yield


def _join(user: User, room: str) -> bytes:
    return user.request("POST", f"/rooms/{quote(room)}/join", {})


def measure(scale: Scale) -> tuple[dict[str, Findings], str]:
    """Measure all kinds of server; the version of their database, too."""
    # Also in the server, which takes over the limit: every long poll is a connection.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    all_findings: dict[str, Findings] = {}
    with ExitStack() as ending:
        several: list[Iterator[None]] = []
        for kind, settings in scale.kinds.items():
            limits = {"limits.max_connections_per_address": 2 * max(scale.polls, 2000)}
            subject = ending.enter_context(Subject("postgresql", {**settings, **limits}))
            all_findings[kind] = Findings()
            several.append(Measurement(subject, scale, all_findings[kind]).steps())
        take_turns(several)
        version = subject.database_version()
    return all_findings, version


# Printing.


def _ratio(usages: Sequence[Usage], base: Sequence[Usage]) -> float:
    """CPU time beside that of another server: the median over the repetitions, which were made one after the other."""
    pairs = zip(usages, base, strict=True)
    return median((used.server + used.database) / (first.server + first.database) for used, first in pairs)


def usages_table(found: Mapping[str, Findings]) -> str:
    """The table of what operations use; the ratio is of the CPU time of server and PostgreSQL together."""
    first = next(iter(found.values()))
    headings: list[list[str]] = [[], []]
    for kind in found:
        columns = ["server", "PG", "±", "ratio", "a second"]
        headings[0] += [f"{kind}:", *[""] * (len(columns) - 1)]
        headings[1] += columns
    rows = []
    for row, base in first.usages.items():
        cells = [row]
        for findings in found.values():
            usages = findings.usages[row]
            used = middle(usages)
            cells += [
                f"{used.server * 1000:.2f}",
                f"{used.database * 1000:.2f}",
                f"{spread(usages) / 2:.0%}",
                f"{_ratio(usages, base):.2f}",
                f"{1 / used.wall:.0f}" if used.wall < 1 else f"{1 / used.wall:.1f}",
            ]
        rows.append(cells)
    return table("one operation: CPU in ms, by number of processes", headings, rows)


def memory_table(found: Mapping[str, Findings]) -> str:
    """The table of what all processes of a server hold."""
    first = next(iter(found.values()))
    rows = [[when, *(f"{each.memory[when] / 2**20:.0f}" for each in found.values())] for when in first.memory]
    return table("memory of all processes, MiB (PSS)", [list(found)], rows)


def quiet_table(found: Mapping[str, Findings]) -> str:
    """The table of what goes on while nothing happens."""
    first = next(iter(found.values()))
    rows = []
    for meanwhile in first.quiet:
        each = [findings.quiet[meanwhile] for findings in found.values()]
        rows += [
            [f"{meanwhile}: CPU of the server, ms", *(f"{quiet.server * 1000:.0f}" for quiet in each)],
            [f"{meanwhile}: CPU of PostgreSQL, ms", *(f"{quiet.database * 1000:.0f}" for quiet in each)],
            [f"{meanwhile}: transactions", *(f"{quiet.transactions:.0f}" for quiet in each)],
        ]
    return table("a minute in which nobody asks for anything", [list(found)], rows)


def report(found: Mapping[str, Findings], version: str) -> str:
    """Everything that was found."""
    where = place(f"Twisted {twisted.__version__}", version)
    return "\n\n".join([where, usages_table(found), quiet_table(found), memory_table(found)]) + "\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description="Measure what several processes cost.")
    parser.add_argument("--quick", action="store_true", help="rough figures in two minutes")
    parser.add_argument("--processes", type=int, nargs="+", help="of the servers that are compared (1 2 4)")
    parser.add_argument("--shared", action="store_true", help="also one process that shares its database")
    parser.add_argument("--polls", type=int, help="how many wait in the end (5000)")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "bench/results/scale.txt", help="where what is printed goes, too"
    )
    options = parser.parse_args()
    scale = QUICK if options.quick else Scale()
    if options.processes:
        scale = replace(scale, processes=tuple(options.processes))
    if options.polls:
        scale = replace(scale, polls=options.polls)
    scale = replace(scale, shared=options.shared)

    # The processes we start end with us, their directories only if we end in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    text = report(*measure(scale))
    print(text, end="")
    options.output.write_text(text)


if __name__ == "__main__":
    main()
