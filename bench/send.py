"""What a home server costs, as its users see it: `python -m bench.send`; README.md tells how to read it.

One home server after another is run in a process of its own, on SQLite and on PostgreSQL, and asked by this process
over HTTP. Each figure is the median of some repetitions, for one operation. Everything is gone when the program ends.

`bench.compare` has the same work done by two home servers, a repetition by one and a repetition by the other: so a
measurement is a generator, which stops after each repetition.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from math import ceil
from statistics import median
from urllib.parse import quote

import twisted
from bench.support.counted import Counts
from bench.support.floors import floors
from bench.support.lines import Line, User, ask_side_by_side, user_of
from bench.support.lookers import Lookers
from bench.support.place import place
from bench.support.results import Results, figure_tables, usage_table
from bench.support.subject import INDEXES, Sizes, Subject
from bench.support.tables import table
from bench.support.usage import Usage, middle, spread

DATABASES = ("sqlite", "postgresql")

#: Requests on their way at the same time, where it is not one.
SIDE_BY_SIDE = 16
PASSWORD = "correct horse"

# Tables and rows that `bench.compare` looks for.
AS_A_WHOLE = "the server as a whole"
AT_THE_END = "resident memory after the whole run, MiB"
IDLE = "CPU with {} open long polls and nothing else, ms per second"
STARTED = "from start to the first answer, s"
STARTED_CPU = "CPU until then, s"
BYTES = "bytes on disk for each message"
#: A table is shown for itself from this many bytes for each message on.
WORTH_A_LINE = 5


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    :ivar repetitions: of each measurement.
    :ivar messages: sent to one room, side by side, over all repetitions.
    :ivar rooms: in the initial sync.
    :ivar some: operations in a repetition where each takes long, such as joining.
    :ivar many: the same where they do not.
    :ivar room_sizes: members of the rooms that are joined; the largest is also how many users poll in the end.
    :ivar polls: how many wait for a message.
    :ivar crowd: how many say at once what they want to be seen as, and hear it of each other.
    :ivar idle_seconds: how long nothing happens; longer than the server remembers whose a token is.
    """

    repetitions: int = 3
    messages: int = 10_000
    rooms: int = 50
    some: int = 20
    many: int = 200
    room_sizes: tuple[int, ...] = (10, 100, 1000)
    polls: tuple[int, ...] = (10, 100, 500)
    crowd: int = 50
    idle_seconds: float = 10

    @property
    def users(self) -> int:
        """How many there are, before those who come later."""
        return max(self.room_sizes)


QUICK = Scale(messages=1500, rooms=20, some=5, many=50, room_sizes=(10, 100), polls=(10, 100), crowd=20, idle_seconds=6)


#: Work that stops after each repetition, so that another server may have its turn.
Steps = Iterator[None]


class Measurement:
    """Everything that is measured of one server, in this order: what is made first is used by what comes later.

    :param subject: the server, which does not run yet.
    :param results: filled with what comes of it.
    """

    def __init__(self, subject: Subject, scale: Scale, results: Results[Usage]) -> None:
        self._subject = subject
        self._scale = scale
        self._results = results
        self._txn_ids = count(1)
        self._users: list[User] = []
        self._newcomers: list[User] = []
        self._rooms: list[str] = []
        self._talk = ""
        self._open_lines = ExitStack()
        self._lines: list[Line] = []

    @property
    def _line(self) -> Line:
        return self._lines[0]

    def steps(self) -> Steps:
        """Measure, and stop the server in the end."""
        self._start()
        yield from self._register()
        yield from self._create_rooms()
        yield from self._send_one_by_one()
        yield from self._send_side_by_side()
        crowd = yield from self._join()
        for polls in self._scale.polls:
            yield from self._deliver(crowd, polls)
        yield from self._page()
        yield from self._initial_sync()
        yield from self._idle()
        self._tell_memory(AT_THE_END)
        yield from self._restart()
        self._results.version = self._subject.database_version()
        self._stop()

    # Starting and stopping.

    def _start(self) -> None:
        self._subject.start()
        self._connect()
        self._tell_memory("resident memory after the first start, MiB")

    def _stop(self) -> None:
        self._open_lines.close()
        self._subject.stop()

    def _connect(self) -> None:
        self._lines = [self._open_lines.enter_context(Line(self._subject.address)) for _ in range(SIDE_BY_SIDE)]

    def _tell_memory(self, row: str) -> None:
        self._subject.settle()
        self._tell(row, f"{self._subject.resident_bytes() / 2**20:.0f}")

    def _tell(self, row: str, figure: str) -> None:
        self._results.figures[AS_A_WHOLE][row] = figure

    # Measuring.

    def _repeat(self, row: str, measure: Callable[[int], Usage]) -> Steps:
        """Measure something some times.

        :param measure: is given the number of the repetition, and tells what one operation used.
        """
        for number in range(self._scale.repetitions):
            self._results.usages[row].append(measure(number))
            yield

    def _one_by_one(self, requests: Sequence[bytes]) -> Usage:
        watch = self._subject.watch()
        with watch:
            for message in requests:
                self._line.ask(message)
        return watch.per(len(requests))

    def _side_by_side(self, requests: Sequence[bytes]) -> Usage:
        watch = self._subject.watch()
        with watch:
            ask_side_by_side(self._lines, requests)
        return watch.per(len(requests))

    # People and rooms.

    def _register(self) -> Steps:
        share = ceil((self._scale.users + self._scale.some) / self._scale.repetitions)

        def register(repetition: int) -> Usage:
            watch = self._subject.watch()
            requests = [self._subject.registration(f"user-{repetition}-{number}", PASSWORD) for number in range(share)]
            with watch:
                answers = ask_side_by_side(self._lines, requests)
            self._users += map(user_of, answers)
            return watch.per(share)

        yield from self._repeat(f"register, {SIDE_BY_SIDE} at a time, without the hash of the password", register)
        self._newcomers = self._users[self._scale.users :]
        del self._users[self._scale.users :]

    def _create_rooms(self) -> Steps:
        share = ceil(self._scale.rooms / self._scale.repetitions)
        message = self._users[0].request("POST", "/createRoom", {"name": "A room", "visibility": "public"})

        def create(repetition: int) -> Usage:
            watch = self._subject.watch()
            for _ in range(min(share, self._scale.rooms - len(self._rooms))):
                with watch:
                    answer = self._line.ask_json(message)
                self._rooms.append(answer["room_id"])
            return watch.per(share)

        yield from self._repeat("createRoom", create)

    def _make_room(self, members: Sequence[User]) -> str:
        first, *others = members
        message = first.request("POST", "/createRoom", {"visibility": "public"})
        room = str(self._line.ask_json(message)["room_id"])
        ask_side_by_side(self._lines, [_join(user, room) for user in others])
        return room

    def _join(self) -> Generator[None, None, str]:
        """Join rooms of all sizes; the largest of them."""
        room = ""
        for size in self._scale.room_sizes:
            room = self._make_room(self._users[:size])
            yield from self._repeat(f"join into a room of {size}", partial(self._join_and_leave, room))
        return room

    def _join_and_leave(self, room: str, _: int) -> Usage:
        """The cost of joining; they leave again so that the room keeps its size."""
        watch = self._subject.watch()
        for user in self._newcomers[: self._scale.some]:
            with watch:
                self._line.ask(_join(user, room))
            self._line.ask(user.request("POST", f"/rooms/{quote(room)}/leave", {}))
        return watch.per(self._scale.some)

    # Messages.

    def _say(self, user: User, room: str) -> bytes:
        return user.say(room, next(self._txn_ids))

    def _send_one_by_one(self) -> Steps:
        user, room = self._users[0], self._make_room(self._users[:1])

        def send(_: int) -> Usage:
            return self._one_by_one([self._say(user, room) for _ in range(self._scale.many)])

        yield from self._repeat("send, one at a time", send)

    def _send_side_by_side(self) -> Steps:
        """Messages of several users, first in one room, then each in their own."""
        senders = self._users[:SIDE_BY_SIDE]
        self._talk = room = self._make_room(senders)
        share = ceil(self._scale.messages / self._scale.repetitions)
        before = self._subject.sizes()
        yield from self._repeat(
            f"send, {SIDE_BY_SIDE} at a time, one room",
            lambda _: self._side_by_side([self._say(senders[n % len(senders)], room) for n in range(share)]),
        )
        sent = share * self._scale.repetitions
        self._tell_sizes(self._subject.sizes() - before, sent)
        self._tell_memory(f"resident memory after {sent} messages more, MiB")

        own_rooms = [self._make_room([user]) for user in senders]
        yield from self._repeat(
            f"send, {SIDE_BY_SIDE} at a time, {SIDE_BY_SIDE} rooms",
            lambda _: self._side_by_side(
                [self._say(senders[n % len(senders)], own_rooms[n % len(senders)]) for n in range(self._scale.many * 5)]
            ),
        )

    def _tell_sizes(self, grown: Sizes, messages: int) -> None:
        each = {name: size / messages for name, size in grown.items()}
        rows = self._results.figures[BYTES]
        rows["all"] = f"{sum(each.values()):.0f}"
        rows["of these, indexes"] = f"{sum(size for (_, kind), size in each.items() if kind == INDEXES):.0f}"
        for (name, kind), size in sorted(each.items()):
            if size >= WORTH_A_LINE:
                rows[f"{name}, {kind}"] = f"{size:.0f}"

    def _deliver(self, room: str, polls: int) -> Steps:
        """Have messages delivered to a number of users who wait for one, and who wait again when they have it."""
        users = self._users[:polls]
        rounds = max(2, self._scale.many // polls)
        since = self._line.ask_json(users[0].request("GET", "/events", timeout=0))["end"]
        with ExitStack() as closing:
            lines = [closing.enter_context(Line(self._subject.address)) for _ in users]

            def deliver(repetition: int) -> Usage:
                nonlocal since
                polling, delivering = self._subject.watch(), self._subject.watch()
                for _ in range(rounds):
                    requests = [_poll(user, since) for user in users]
                    with polling:
                        self._all_wait(lines, requests)
                    message = self._say(users[0], room)
                    with delivering:
                        self._line.ask(message)
                        answers = [line.receive() for line in lines]
                    since = json.loads(answers[-1])["end"]
                    assert len(json.loads(answers[0])["chunk"]) == 1, "a poll is answered with what was sent"
                # How long it takes until all wait is a matter of how patiently that is looked at.
                waiting = replace(polling.per(rounds * polls), wall=0)
                self._results.usages[f"begin a long poll, as one of {polls}"].append(waiting)
                return delivering.per(rounds)

            self._all_wait(lines, [_poll(user, since) for user in users])
            self._line.ask(self._say(users[0], room))
            since = json.loads([line.receive() for line in lines][-1])["end"]
            yield from self._repeat(f"send one message, delivered to {polls} waiting polls", deliver)

    def _all_wait(self, lines: Sequence[Line], requests: Sequence[bytes]) -> None:
        for line, message in zip(lines, requests, strict=True):
            line.send(message)
        self._subject.settle()

    # Reading.

    def _page(self) -> Steps:
        user, path = self._users[0], f"/rooms/{quote(self._talk)}/messages"
        newest = [user.request("GET", path, dir="b", limit=50)] * self._scale.many
        yield from self._repeat("page of 50 messages, the newest", lambda _: self._one_by_one(newest))

        def page_back(_: int) -> Usage:
            watch = self._subject.watch()
            message, pages, is_last = newest[0], 0, False
            while not is_last:
                with watch:
                    answer = self._line.ask(message)
                page = json.loads(answer)
                pages += 1
                is_last = len(page["chunk"]) < 50
                if not is_last:
                    message = user.request("GET", path, dir="b", limit=50, from_=page["end"])
            return watch.per(pages)

        yield from self._repeat(f"page of 50 messages, going back through {self._scale.messages}", page_back)

    def _sync(self) -> bytes:
        return self._users[0].request("GET", "/initialSync", limit=10)

    def _initial_sync(self) -> Steps:
        """The user is in some rooms more than those that were made for this; they leave them first."""
        user = self._users[0]
        for room in self._line.ask_json(self._sync())["rooms"]:
            if room["room_id"] not in self._rooms:
                self._line.ask(user.request("POST", f"/rooms/{quote(room['room_id'])}/leave", {}))
        for room in self._rooms:
            ask_side_by_side(self._lines, [self._say(user, room) for _ in range(SIDE_BY_SIDE)])
        requests = [self._sync()] * self._scale.some
        yield from self._repeat(f"initialSync of {self._scale.rooms} rooms", lambda _: self._one_by_one(requests))

    # The server as a whole.

    def _idle(self) -> Steps:
        """Have everybody wait for nothing, then ask for it once more and again."""
        since = self._line.ask_json(self._users[0].request("GET", "/events", timeout=0))["end"]
        with ExitStack() as closing:
            lines = [closing.enter_context(Line(self._subject.address)) for _ in self._users]
            self._all_wait(lines, [_poll(user, since) for user in self._users])
            self._tell_memory(f"resident memory with {len(lines)} open long polls, MiB")
            watch = self._subject.watch()
            with watch:
                time.sleep(self._scale.idle_seconds)
        used = watch.per(1)
        self._tell(IDLE.format(len(lines)), f"{(used.server + used.database) / used.wall * 1000:.2f}")
        # That so many have gone away costs something, too.
        self._subject.settle()

        def poll(repetition: int) -> Usage:
            share = min(self._scale.many, len(self._users) // self._scale.repetitions)
            users = self._users[repetition * share : (repetition + 1) * share]
            return self._one_by_one([_poll(user, since, timeout=0) for user in users])

        yield from self._repeat("poll for nothing, after a while of silence", poll)
        yield from self._repeat("poll for nothing, soon again", poll)

    def _restart(self) -> Steps:
        """Start with what is there by now: how long that takes, and what the first request costs."""
        started: list[Usage] = []
        seconds: list[float] = []

        def first_sync(_: int) -> Usage:
            self._stop()
            before = time.perf_counter()
            self._subject.start()
            seconds.append(time.perf_counter() - before)
            started.append(self._subject.usage())
            self._connect()
            return self._one_by_one([self._sync()])

        yield from self._repeat(f"initialSync of {self._scale.rooms} rooms, the first after a start", first_sync)
        self._tell(STARTED, f"{median(seconds):.2f}")
        self._tell(STARTED_CPU, f"{middle(started).server:.2f}")

    def count(self) -> None:
        """Once all is measured: count what a message asks of the database, one at a time and many."""
        with self._subject.counted() as counts:
            self._connect()
            senders = self._users[1 : SIDE_BY_SIDE + 1]
            room = self._make_room(senders)
            requests = [self._say(senders[n % len(senders)], room) for n in range(self._scale.many * 2)]
            alone, together = requests[: self._scale.many], requests[self._scale.many :]
            self._tell_counts("one at a time", alone, self._one_by_one, counts)
            self._tell_counts(f"{SIDE_BY_SIDE} at a time", together, self._side_by_side, counts)
        self._open_lines.close()

    def _tell_counts(
        self, how: str, requests: list[bytes], send: Callable[[Sequence[bytes]], Usage], counts: Callable[[], Counts]
    ) -> None:
        before = asdict(counts())
        send(requests)
        after = asdict(counts())
        each = {name: (after[name] - before[name]) / len(requests) for name in before}
        rows = self._results.figures["for each message"]
        rows[f"statements of SQL, {how}"] = f"{each['statements']:.2f}"
        rows[f"commits, {how}"] = f"{each['commits']:.2f}"
        rows[f"hops to a database thread, {how}"] = f"{each['jobs'] + each['reads']:.2f}"
        rows[f"hops back to the reactor, {how}"] = f"{each['returns']:.2f}"


class Storm:
    """A crowd of users in one room, all of whom say at once what they want to be seen as.

    :param subject: a server that has presence, and does not run yet.
    """

    def __init__(self, subject: Subject, scale: Scale, results: Results[Usage]) -> None:
        self._subject = subject
        self._scale = scale
        self._results = results

    def steps(self) -> Steps:
        """Measure."""
        self._subject.start()
        with ExitStack() as closing:
            lines = [closing.enter_context(Line(self._subject.address)) for _ in range(SIDE_BY_SIDE)]
            names = [f"crowd-{n}" for n in range(self._scale.crowd)]
            users = [user_of(lines[0].ask(self._subject.registration(name, PASSWORD))) for name in names]
            room = str(lines[0].ask_json(users[0].request("POST", "/createRoom", {"visibility": "public"}))["room_id"])
            ask_side_by_side(lines, [_join(user, room) for user in users[1:]])
            lookers = closing.enter_context(Lookers(self._subject, users))
            # The first time, everybody also hears that all the others have come.
            self._storm(lines, users, lookers, 0)
            for number in range(1, self._scale.repetitions + 1):
                used = self._storm(lines, users, lookers, number)
                self._results.usages[f"presence: one of {len(users)} who change at once, told to all"].append(used)
                yield
        self._subject.stop()

    def _storm(self, lines: Sequence[Line], users: Sequence[User], lookers: Lookers, number: int) -> Usage:
        self._subject.settle()
        status = [f"Storm {number}, person {n}." for n in range(len(users))]
        requests = [
            user.request("PUT", f"/presence/{quote(user.user_id)}/status", {"presence": "online", "status_msg": words})
            for user, words in zip(users, status, strict=True)
        ]
        watch = self._subject.watch()
        with watch:
            ask_side_by_side(lines, requests)
            lookers.hear([words.encode() for words in status], seconds=120)
        return watch.per(len(users))


def take_turns(several: Iterable[Steps]) -> None:
    """Have measurements made one step at a time of each."""
    left = list(several)
    while left:
        left = [steps for steps in left if next(steps, left) is not left]


def _join(user: User, room: str) -> bytes:
    return user.request("POST", f"/rooms/{quote(room)}/join", {})


def _poll(user: User, since: str, timeout: int = 120_000) -> bytes:
    return user.request("GET", "/events", from_=since, timeout=timeout)


# Printing.


def columns(database: str) -> Sequence[str]:
    """What the table of usages shows for a kind of database."""
    return ["server", "±", "wall", "disk"] if database == "sqlite" else ["server", "±", "PG", "wall", "disk"]


def cells(database: str, usages: Sequence[Usage]) -> Sequence[str]:
    """What stands below these columns, of one operation."""
    used = middle(usages)
    return [
        f"{used.server * 1000:.2f}",
        f"{spread(usages) / 2:.0%}",
        *([] if database == "sqlite" else [f"{used.database * 1000:.2f}"]),
        f"{used.wall * 1000:.1f}" if used.wall else "",
        f"{used.written / 1024:.1f}",
    ]


def floor_table(floor: Mapping[str, tuple[float, float | None]]) -> str:
    """The table of the floors.

    :param floor: as `floors` gives it.
    """
    return table(
        "the floor: each step alone, in µs",
        [["CPU", "wall"]],
        [
            [name, f"{cpu * 1e6:.0f}", f"{wall * 1e6:.0f}" if wall is not None else ""]
            for name, (cpu, wall) in floor.items()
        ],
    )


def measure(database: str, scale: Scale) -> Results[Usage]:
    """Measure the server on one kind of database."""
    results: Results[Usage] = Results(database)
    with Subject(database) as subject:
        measurement = Measurement(subject, scale, results)
        take_turns([measurement.steps()])
        measurement.count()
    with Subject(database, {"presence.enabled": True}) as subject:
        take_turns([Storm(subject, scale, results).steps()])
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.send", description="Measure what the home server costs.")
    parser.add_argument("--database", choices=[*DATABASES, "both"], default="both")
    parser.add_argument("--messages", type=int, help="how many are sent to one room (10000)")
    parser.add_argument("--quick", action="store_true", help="rough figures in less than a minute")
    options = parser.parse_args()
    scale = QUICK if options.quick else Scale()
    if options.messages is not None:
        scale = replace(scale, messages=options.messages)

    # The processes we start end with us, their directories only if we end in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Here and in the server, which takes over the limit: every long poll is a connection.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    floor = floor_table(floors(scale.many * 20))
    databases = DATABASES if options.database == "both" else (options.database,)
    all_results = [measure(database, scale) for database in databases]
    where = place(f"Twisted {twisted.__version__}", *(results.version for results in all_results))
    usages = usage_table("one operation: CPU and wall time in ms, disk in KiB", all_results, columns, cells)
    print("\n\n".join([where, usages, *figure_tables(all_results), floor]))


if __name__ == "__main__":
    main()
