"""What it costs when rooms live on two servers: `python -m bench.federation`; README.md tells how to read it.

Two home servers, A and B, each in a process of its own, talk to each other on loopback as they do in earnest: over TLS,
with certificates of an authority of ours, every request and event signed. This process is the client of both.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from threading import Condition, Thread
from urllib.parse import quote

import twisted
from bench.send import Steps, take_turns
from bench.support.counted import Counts
from bench.support.lines import Line, User, ask_side_by_side, user_of
from bench.support.place import place
from bench.support.results import Results, figure_tables, usage_table
from bench.support.subject import INDEXES, Subject, federated
from bench.support.usage import Usage, middle, spread
from tests.support.certificates import Authority

DATABASES = ("sqlite", "postgresql")

#: Requests of the senders that are on their way at the same time.
SIDE_BY_SIDE = 16
#: Between two messages when it is quiet, in seconds.
QUIET_SECONDS = 0.05
#: For how long nothing may arrive at the other side until the program gives up, in seconds.
PATIENCE_SECONDS = 120.0
#: After so long without any, those who lose messages are not waited for any more, in seconds.
SILENCE_SECONDS = 15.0

# Tables that `bench.compare` looks for.
DELAYS = "from the sending to B's long poll when it is quiet, ms"
LOST = "of a hundred messages, those that never came to B's long poll"
RATES = "events per second from A to B's long poll"
BYTES = "bytes on B's disk for each event received"
#: More than what comes to a poll at once.
MANY_EVENTS = 1000

#: A table is shown for itself from this many bytes for each event on.
WORTH_A_LINE = 5


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    :ivar repetitions: of each measurement of messages.
    :ivar messages: sent side by side, in each repetition.
    :ivar quiet: messages with pauses between them, in each repetition.
    :ivar joined: how many rooms are joined, by their members.
    :ivar again: joins of other users of B, once B is in the room.
    """

    repetitions: int
    messages: int
    quiet: int
    joined: dict[int, int]
    again: int


FULL = Scale(3, 2000, 200, {10: 30, 1000: 3, 5000: 2}, 10)
QUICK = Scale(3, 400, 60, {10: 9, 100: 3, 1000: 1}, 5)


@dataclass(frozen=True)
class Both:
    """What two servers used for one operation.

    :ivar wall: until it was done, in seconds.
    """

    a: Usage
    b: Usage
    wall: float


class Reader:
    """Somebody who polls all the time, on a thread; notes when each message came.

    :param since: from where on.
    """

    def __init__(self, address: tuple[str, int], user: User, since: str) -> None:
        self._line = Line(address)
        self._user = user
        self._since = since
        self._came: dict[str, float] = {}
        self._news = Condition()
        self._stopping = False
        self._thread = Thread(target=self._poll, daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join()
        self._line.__exit__()

    def _poll(self) -> None:
        while not self._stopping:
            query: dict[str, object] = {"from_": self._since, "timeout": 500, "limit": MANY_EVENTS}
            answer = self._line.ask_json(self._user.request("GET", "/events", **query))
            now = time.perf_counter()
            self._since = answer["end"]
            with self._news:
                for event in answer["chunk"]:
                    if event["type"] == "m.room.message":
                        self._came[event["content"]["body"]] = now
                self._news.notify_all()

    def wait_for(self, bodies: set[str], *, all_come: bool = True) -> dict[str, float]:
        """Wait until some messages have come; when each did.

        :param all_come: if not, those that came are enough once nothing has come for a while.
        :raises RuntimeError: they do not come, and nothing else does.
        """
        patience = PATIENCE_SECONDS if all_come else SILENCE_SECONDS
        with self._news:
            while not bodies <= self._came.keys():
                so_far = len(self._came)
                if not self._news.wait_for(lambda: len(self._came) > so_far, patience):  # noqa: B023
                    if not all_come and so_far:
                        break
                    raise RuntimeError(f"{len(bodies - self._came.keys())} messages did not come")
            return {body: self._came.pop(body) for body in bodies & self._came.keys()}


class Measurement:
    """Everything that is measured of two servers, in this order: what is made first is used by what comes later.

    :param all_come: whether a message that does not come ends the program; if not, it is counted.
    """

    def __init__(self, a: Subject, b: Subject, scale: Scale, results: Results[Both], *, all_come: bool = True) -> None:
        self._all_come = all_come
        self._last_came = 0.0
        self._lost: defaultdict[str, int] = defaultdict(int)
        self._rates: defaultdict[str, list[float]] = defaultdict(list)
        self._a, self._b = a, b
        self._scale = scale
        self._results = results
        self._txn_ids = count(1)
        self._users: list[User] = []
        self._others: list[User] = []
        self._room = ""
        self._open_lines = ExitStack()
        self._lines: list[Line] = []
        self._other_line: Line

    def steps(self) -> Steps:
        """Measure, and stop the servers in the end."""
        self._a.start()
        self._b.start()
        self._connect()
        self._users = _register(self._a, self._lines, max(self._scale.joined) + SIDE_BY_SIDE)
        self._others = _register(self._b, [self._other_line], self._scale.again + 1)
        # The first join of all fetches keys, too.
        self._room = talk = self._make_room(self._users[:SIDE_BY_SIDE])
        self._other_line.ask(self._join_from_b(self._others[0], talk))
        yield
        for size, times in self._scale.joined.items():
            yield from self._join(size, times)
        yield from self._talk(talk)
        self._results.version = self._a.database_version()
        self._open_lines.close()
        self._a.stop()
        self._b.stop()

    def _connect(self) -> None:
        self._open_lines = ExitStack()
        self._lines = [self._open_lines.enter_context(Line(self._a.address)) for _ in range(SIDE_BY_SIDE)]
        self._other_line = self._open_lines.enter_context(Line(self._b.address))

    @contextmanager
    def _watched(self, row: str, operations: int) -> Iterator[None]:
        """Watch both servers at some work, until they have nothing to do any more, or what is late was given up."""
        self._settle()
        a, b = self._a.watch(), self._b.watch()
        started = time.perf_counter()
        self._last_came = 0
        with a, b:
            yield
            wall = (self._last_came or time.perf_counter()) - started
            self._settle()
        self._results.usages[row].append(Both(a.per(operations), b.per(operations), wall / operations))

    def _settle(self) -> None:
        self._a.settle()
        self._b.settle()

    # Joining.

    def _join(self, size: int, times: int) -> Steps:
        rooms = [self._make_room(self._users[:size]) for _ in range(times)]
        user = self._others[0]
        repetitions = min(3, times)
        for repetition in range(repetitions):
            share = rooms[repetition::repetitions]
            with self._watched(f"join a room of {size} members on A, from B", len(share)):
                for room in share:
                    self._other_line.ask(self._join_from_b(user, room))
            yield
        with self._watched(f"another user of B joins the room of {size}", self._scale.again):
            for other in self._others[1:]:
                self._other_line.ask(self._join_from_b(other, rooms[0]))
        yield

    def _join_from_b(self, user: User, room: str) -> bytes:
        """A join by way of A, if B is not in the room."""
        return user.request("POST", f"/join/{quote(room, safe='')}", {}, server_name=self._a.name)

    def _make_room(self, members: Sequence[User]) -> str:
        first, *others = members
        message = first.request("POST", "/createRoom", {"visibility": "public"})
        room = str(self._lines[0].ask_json(message)["room_id"])
        ask_side_by_side(self._lines, [_join(user, room) for user in others])
        return room

    # Messages.

    def _talk(self, room: str) -> Steps:
        senders = self._users[:SIDE_BY_SIDE]
        own_rooms = [self._make_room([user]) for user in senders]
        for own_room in own_rooms:
            self._other_line.ask(self._join_from_b(self._others[0], own_room))
        with self._reader() as reader:
            for _ in range(self._scale.repetitions):
                self._quietly(reader, room)
                yield
            for _ in range(self._scale.repetitions):
                self._without_pause(reader, room)
                yield
            before = self._b.sizes()
            for _ in range(self._scale.repetitions):
                self._side_by_side(reader, "one room", [room] * len(senders))
                yield
            grown = self._b.sizes() - before
            for _ in range(self._scale.repetitions):
                self._side_by_side(reader, f"{SIDE_BY_SIDE} rooms", own_rooms)
                yield
        each = {key: size / (self._scale.messages * self._scale.repetitions) for key, size in grown.items()}
        rows = self._results.figures[BYTES]
        rows["all"] = f"{sum(each.values()):.0f}"
        rows["of these, indexes"] = f"{sum(size for (_, kind), size in each.items() if kind == INDEXES):.0f}"
        for (name, kind), size in sorted(each.items()):
            if size >= WORTH_A_LINE:
                rows[f"{name}, {kind}"] = f"{size:.0f}"

    def _reader(self) -> Reader:
        user = self._others[0]
        since = self._other_line.ask_json(user.request("GET", "/events", timeout=0))["end"]
        return Reader(self._b.address, user, since)

    def _quietly(self, reader: Reader, room: str) -> None:
        """One message after another, each sent when the one before has long arrived."""
        delays = []
        with self._watched("one message, quiet", self._scale.quiet):
            for _ in range(self._scale.quiet):
                number = next(self._txn_ids)
                message = self._users[0].say(room, number)
                started = time.perf_counter()
                self._lines[0].ask(message)
                [came] = reader.wait_for({_body(number)}).values()
                delays.append(came - started)
                time.sleep(max(0, QUIET_SECONDS - (came - started)))
        rows = self._results.figures[DELAYS]
        # Each repetition replaces the one before: they are alike, and the last is the warmest.
        rows["p50"] = f"{median(delays) * 1000:.1f}"
        rows["p99"] = f"{quantiles(delays, n=100)[98] * 1000:.1f}"

    def _without_pause(self, reader: Reader, room: str) -> None:
        """Messages of one user, each sent when the one before was acknowledged."""
        numbers = [next(self._txn_ids) for _ in range(self._scale.messages)]
        row = "one message, one sender without a pause"
        with self._watched(row, len(numbers)):
            for number in numbers:
                self._lines[0].ask(self._users[0].say(room, number))
            came = self._wait_for_all(reader, row, numbers)
        self._tell_rate("one sender without a pause", row, came)

    def _wait_for_all(self, reader: Reader, row: str, numbers: Sequence[int]) -> int:
        """How many of some messages came."""
        came = reader.wait_for({_body(number) for number in numbers}, all_come=self._all_come)
        self._last_came = max(came.values())
        self._lost[row] += len(numbers) - len(came)
        return len(came)

    def _tell_rate(self, name: str, row: str, came: int) -> None:
        usages = self._results.usages[row]
        self._rates[row].append(came / (usages[-1].wall * self._scale.messages))
        self._results.figures[RATES][name] = f"{median(self._rates[row]):.1f}"
        self._results.figures[LOST][name] = f"{self._lost[row] / (len(usages) * self._scale.messages) * 100:.1f}"

    def _side_by_side(self, reader: Reader, where: str, rooms: Sequence[str]) -> None:
        """Messages of several users at the same time."""
        senders = self._users[: len(rooms)]
        numbers = [next(self._txn_ids) for _ in range(self._scale.messages)]
        requests = [senders[n % len(rooms)].say(rooms[n % len(rooms)], number) for n, number in enumerate(numbers)]
        row = f"one message, {SIDE_BY_SIDE} at a time, {where}"
        with self._watched(row, len(numbers)):
            ask_side_by_side(self._lines, requests)
            came = self._wait_for_all(reader, row, numbers)
        self._tell_rate(f"{SIDE_BY_SIDE} at a time, {where}", row, came)

    # Counting.

    def count(self) -> None:
        """Once all is measured: count what a message asks of the databases."""
        room = self._room
        with self._a.counted() as of_a, self._b.counted() as of_b:
            self._connect()
            with self._reader() as reader:
                # The first one makes the connection, and loads what is loaded once.
                self._send_and_wait(reader, room, 1, 1)
                sides = (("A", of_a), ("B", of_b))
                self._count("quiet", sides, lambda: self._send_and_wait(reader, room, 1, self._scale.quiet))
                share = self._scale.messages
                self._count(f"{SIDE_BY_SIDE} at a time", sides, lambda: self._send_and_wait(reader, room, share, 1))
            self._open_lines.close()

    def _send_and_wait(self, reader: Reader, room: str, at_once: int, times: int) -> int:
        for _ in range(times):
            numbers = [next(self._txn_ids) for _ in range(at_once)]
            senders = self._users[:SIDE_BY_SIDE]
            requests = [senders[n % SIDE_BY_SIDE].say(room, number) for n, number in enumerate(numbers)]
            ask_side_by_side(self._lines, requests)
            reader.wait_for({_body(number) for number in numbers})
        return at_once * times

    def _count(self, how: str, sides: Sequence[tuple[str, Callable[[], Counts]]], send: Callable[[], int]) -> None:
        self._settle()
        before = {side: asdict(counts()) for side, counts in sides}
        messages = send()
        self._settle()
        rows = self._results.figures["for each event"]
        for side, counts in sides:
            after = asdict(counts())
            each = {name: (after[name] - before[side][name]) / messages for name in after}
            rows[f"statements of SQL on {side}, {how}"] = f"{each['statements']:.2f}"
            rows[f"commits on {side}, {how}"] = f"{each['commits']:.2f}"
            rows[f"hops to a database thread on {side}, {how}"] = f"{each['jobs'] + each['reads']:.2f}"


def _register(subject: Subject, lines: Sequence[Line], number: int) -> list[User]:
    requests = [subject.registration(f"user-{n}", "correct horse") for n in range(number)]
    return list(map(user_of, ask_side_by_side(lines, requests)))


def _join(user: User, room: str) -> bytes:
    return user.request("POST", f"/rooms/{quote(room, safe='')}/join", {})


def _body(number: int) -> str:
    """What `User.say` says."""
    return f"This is message {number} of those that were sent to measure."


# Printing.


def columns(database: str) -> Sequence[str]:
    """What the table of usages shows for a kind of database."""
    sides = ["A", "A's PG", "B", "B's PG"] if database == "postgresql" else ["A", "B"]
    return [*sides, "both", "±", "wall"]


def cells(database: str, usages: Sequence[Both]) -> Sequence[str]:
    """What stands below these columns, of one operation."""
    a, b = middle([both.a for both in usages]), middle([both.b for both in usages])
    sides = [a.server, b.server]
    if database == "postgresql":
        sides = [a.server, a.database, b.server, b.database]
    together = [both.a + both.b for both in usages]
    total = median(both.server + both.database for both in together)
    wall = median(both.wall for both in usages)
    return [*map(_ms, sides), _ms(total), f"{spread(together) / 2:.0%}", _ms(wall)]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f}"


@contextmanager
def trusting() -> Iterator[Callable[[], Mapping[str, object]]]:
    """What makes settings of servers that believe each other's certificates."""
    with TemporaryDirectory(prefix="synapse-like-bench-") as folder:
        authority = Authority(Path(folder))
        yield lambda: federated(authority)


def measure(database: str, scale: Scale) -> Results[Both]:
    """Measure two servers on one kind of database."""
    results: Results[Both] = Results(database)
    with ExitStack() as ending:
        settings = ending.enter_context(trusting())
        a, b = (ending.enter_context(Subject(database, settings())) for _ in range(2))
        measurement = Measurement(a, b, scale, results)
        take_turns([measurement.steps()])
        measurement.count()
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.federation", description="Measure what federation costs.")
    parser.add_argument("--database", choices=[*DATABASES, "both"], default="both")
    parser.add_argument("--quick", action="store_true", help="rough figures, of smaller rooms")
    options = parser.parse_args()

    # The processes we start end with us, their directories only if we end in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    databases = DATABASES if options.database == "both" else (options.database,)
    all_results = [measure(database, QUICK if options.quick else FULL) for database in databases]
    where = place(f"Twisted {twisted.__version__}", *(results.version for results in all_results))
    usages = usage_table("one operation: CPU and wall time in ms", all_results, columns, cells)
    print("\n\n".join([where, usages, *figure_tables(all_results)]))


if __name__ == "__main__":
    main()
