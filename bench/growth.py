"""How the costs of a home server grow: `python -m bench.growth`; README.md tells how to read it.

What the server has to do with is made larger along five axes, each by itself: the members of a room, the rooms of a
user, the history of a room, the newest events that its history has forked into, and the long polls that wait for other
rooms. At each size the same is measured over HTTP of a real server: what it costs to send, to join, to have an event
delivered to one poll, to page back and to begin (initialSync), in CPU time as the kernel counts it, and in statements
of SQL.

The database is filled in this process by the server's own layers before the server starts: `tests/support/building.py`.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from urllib.parse import quote

import twisted
from bench.send import floor_table
from bench.support.counted import Counts
from bench.support.floors import floors
from bench.support.lines import Line, User
from bench.support.place import place
from bench.support.results import NAMES
from bench.support.subject import OWN, Subject
from bench.support.tables import table
from bench.support.usage import Usage
from tests.support.building import Building, building
from tests.support.server import HomeServer

#: By which a kept database finds its server again.
SERVER_NAME = "growth.example"
KEPT_FILES = ("homeserver.db", "signing.key")
#: The steps of a message that have a floor.
A_MESSAGE_NEEDS = (
    "an empty answer by twisted.web",
    "one row committed to SQLite, disk synced",
    "an Ed25519 signature by PyNaCl",
)
#: Of the operations in the plots.
COLOURS = {
    "send": "#0072b2",
    "send, and deliver to one": "#56b4e9",
    "send, and deliver to all": "#000000",
    "join": "#d55e00",
    "newest page": "#cc79a7",
    "page from the middle": "#e69f00",
    "initialSync": "#009e73",
}

MEMBERS, ROOMS, HISTORY, FORKS, STATES, POLLS = (
    "members of the room",
    "rooms of the user",
    "events in the room",
    "newest events of the room, messages",
    "newest events of the room, topics",
    "open long polls of others",
)


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    :ivar sizes: along each axis.
    :ivar repetitions: of each measurement; the cheapest counts, since what else runs on the machine only adds.
    :ivar times: how often each operation is done in a repetition.
    :ivar axes: along which of them is measured.
    :ivar seconds: how long that may take; where each takes long, it is done less often, but twice.
    """

    sizes: dict[str, tuple[int, ...]]
    repetitions: int = 2
    times: int = 40
    axes: tuple[str, ...] = (MEMBERS, ROOMS, HISTORY, FORKS, STATES, POLLS)
    seconds: float = 2.0


FULL = Scale(
    {
        MEMBERS: (10, 100, 1000, 10_000),
        ROOMS: (10, 100, 1000, 10_000),
        HISTORY: (1000, 10_000, 100_000, 1_000_000),
        FORKS: (1, 2, 5, 10, 20),
        STATES: (1, 2, 5, 10, 20),
        POLLS: (10, 100, 1000, 5000),
    }
)
QUICK = Scale(
    {
        MEMBERS: (10, 100, 1000),
        ROOMS: (10, 100),
        HISTORY: (1000, 10_000),
        FORKS: (1, 5, 20),
        STATES: (1, 5, 20),
        POLLS: (10, 100, 500),
    },
    times=20,
)


@dataclass
class Cost:
    """What one operation cost: CPU time of the home server and of PostgreSQL in seconds, statements of SQL, commits."""

    server: float
    database: float
    statements: float
    commits: float


@dataclass
class Ground:
    """Where something is measured.

    :ivar user: who does it, and is in the rooms.
    :ivar rooms: each is used once in turn, or over and over if there is but one.
    :ivar polls: users whose long polls wait meanwhile.
    """

    user: User
    rooms: Sequence[str]
    polls: Sequence[User] = ()


@dataclass
class Findings:
    """What was found on one kind of database.

    :ivar costs: by axis, operation and size.
    :ivar bytes: on the disk, for each of what an axis has more of.
    :ivar others: everything else, by row.
    """

    database: str
    version: str = ""
    costs: dict[tuple[str, str, int], list[Cost]] = field(default_factory=lambda: defaultdict(list))
    bytes: dict[tuple[str, int], float] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)

    def cost(self, axis: str, operation: str, size: int) -> Cost:
        """The lowest of each quantity."""
        each = zip(*(astuple(cost) for cost in self.costs[axis, operation, size]), strict=True)
        return Cost(*map(min, each))

    def operations(self, axis: str) -> list[str]:
        """What was measured along an axis, in that order."""
        return list(dict.fromkeys(operation for found, operation, _ in self.costs if found == axis))


class Grounds:
    """Makes everything that is measured, and knows where it is.

    :ivar by_axis: of each axis and size.
    :ivar newcomers: in no room.
    :ivar crowd: as many as there are members at the most; they are together in the largest room.
    :ivar lounge: the room where those wait whose polls concern nobody.
    """

    def __init__(self, scale: Scale) -> None:
        self._scale = scale
        self.by_axis: dict[tuple[str, int], Ground] = {}
        self.newcomers: list[User] = []
        self.crowd: list[User] = []
        self.lounge = ""

    def make(self, subject: Subject, findings: Findings) -> None:
        """Make all of it in an empty database."""
        scale = self._scale
        polls = max(scale.sizes[POLLS])
        with building(subject.server.config) as site:
            self.newcomers = _add(site, "new", scale.times)
            self.crowd = _add(site, "crowd", max(*scale.sizes[MEMBERS], polls))
            [self.lounge] = site.add_rooms(self.crowd[0].user_id, 1)
            site.join(self.lounge, _ids(self.crowd[1:polls]))
        for axis, make in (
            (MEMBERS, self._with_members),
            (ROOMS, self._with_rooms),
            (HISTORY, self._with_history),
            (FORKS, self._with_forks),
            (STATES, self._with_forks),
            (POLLS, self._with_polls),
        ):
            for size in scale.sizes[axis]:
                before, began = subject.bytes_on_disk(), time.monotonic()
                with building(subject.server.config) as site:
                    [user] = _add(site, f"{axis.split()[0]}-{axis.split()[-1]}-{size}", 1)
                    self.by_axis[axis, size] = make(site, user, axis, size)
                grown = subject.bytes_on_disk() - before
                findings.bytes[axis, size] = grown / size
                _say(f"made: {size} {axis}, {grown / 2**20:.1f} MiB, {time.monotonic() - began:.1f} s")
        subject.look_at_the_tables()

    def _with_members(self, site: Building, user: User, axis: str, size: int) -> Ground:
        [room] = site.add_rooms(user.user_id, 1)
        site.join(room, _ids(self.crowd[: size - 1]))
        return Ground(user, [room])

    def _with_rooms(self, site: Building, user: User, axis: str, size: int) -> Ground:
        made = site.add_rooms(user.user_id, size)
        return Ground(user, [made[size // 2]])

    def _with_history(self, site: Building, user: User, axis: str, size: int) -> Ground:
        [room] = site.add_rooms(user.user_id, 1)
        site.talk(room, user.user_id, size)
        return Ground(user, [room])

    def _with_forks(self, site: Building, user: User, axis: str, size: int) -> Ground:
        # What is said joins the forks, so that each repetition of each operation needs rooms of its own.
        made = site.add_rooms(user.user_id, (self._scale.times + 1) * self._scale.repetitions * 3)
        site.fork(made, user.user_id, size, with_state=axis == STATES)
        return Ground(user, made)

    def _with_polls(self, site: Building, user: User, axis: str, size: int) -> Ground:
        [room] = site.add_rooms(user.user_id, 1)
        site.join(room, _ids(self.crowd[-9:]))
        return Ground(user, [room], self.crowd[:size])

    def as_json(self) -> str:
        """Everything, for `from_json`."""
        return json.dumps(
            {
                "grounds": [
                    [axis, size, astuple(ground.user), ground.rooms, [astuple(user) for user in ground.polls]]
                    for (axis, size), ground in self.by_axis.items()
                ],
                "newcomers": [astuple(user) for user in self.newcomers],
                "crowd": [astuple(user) for user in self.crowd],
                "lounge": self.lounge,
            }
        )

    def from_json(self, text: str) -> None:
        """Know what was made before."""
        kept = json.loads(text)
        for axis, size, user, rooms, polls in kept["grounds"]:
            self.by_axis[axis, size] = Ground(User(*user), rooms, [User(*poll) for poll in polls])
        self.newcomers = [User(*user) for user in kept["newcomers"]]
        self.crowd = [User(*user) for user in kept["crowd"]]
        self.lounge = kept["lounge"]


def _add(site: Building, name: str, number: int) -> list[User]:
    return [User(*user) for user in site.add_users(f"{name}-{which}" for which in range(number))]


def _ids(users: Sequence[User]) -> list[str]:
    return [user.user_id for user in users]


class Measurement:
    """Everything that is measured of one server."""

    def __init__(
        self, subject: Subject, grounds: Grounds, scale: Scale, findings: Findings, counts: Callable[[], Counts]
    ) -> None:
        self._subject = subject
        self._grounds = grounds
        self._scale = scale
        self._findings = findings
        self._counts = counts
        self._txn_ids = count(1)
        self._next_room: defaultdict[tuple[str, int], count[int]] = defaultdict(count)
        self._ending = ExitStack()
        self._line = self._ending.enter_context(Line(subject.address))

    def close(self) -> None:
        """Hang up."""
        self._ending.close()

    def run(self) -> None:
        """Measure all axes; all sizes of one axis in turn, so that they have the same of what else goes on."""
        for axis in self._scale.axes:
            for repetition in range(self._scale.repetitions):
                for size in self._scale.sizes[axis]:
                    with ExitStack() as closing:
                        if axis == POLLS:
                            self._open_polls(closing, size, repetition)
                        self._measure(axis, size, self._grounds.by_axis[axis, size])
                    if axis == POLLS:
                        self._subject.settle()
            _say(axis_table([self._findings], axis, self._scale.sizes[axis]))
        for size in self._scale.sizes[POLLS] if POLLS in self._scale.axes else ():
            self._deliver_to_many(size)

    def _measure(self, axis: str, size: int, ground: Ground) -> None:
        user = ground.user
        numbers = self._next_room[axis, size]

        def room() -> str:
            return quote(ground.rooms[next(numbers) % len(ground.rooms)], safe="")

        if axis not in (FORKS, STATES):
            # What is read for the first time is a matter of its own.
            self._line.ask(user.request("GET", "/initialSync", limit=10))
        self._repeat(axis, "send", size, lambda: self._send(user, room()))
        self._join_and_leave(axis, size, room)
        self._deliver(axis, size, user, room)
        if axis in (FORKS, STATES):
            return
        page = user.request("GET", f"/rooms/{room()}/messages", limit=50)
        self._repeat(axis, "newest page", size, lambda: self._line.ask(page))
        if axis == HISTORY:
            old = user.request("GET", f"/rooms/{room()}/messages", from_=self._middle(user, room()), limit=50)
            self._repeat(axis, "page from the middle", size, lambda: self._line.ask(old))
        sync = user.request("GET", "/initialSync", limit=10)
        self._repeat(axis, "initialSync", size, lambda: self._line.ask(sync))

    def _middle(self, user: User, room: str) -> str:
        """A token in the middle of a room's history; tokens are positions (docs/decisions/0004)."""
        ends = [
            self._line.ask_json(user.request("GET", f"/rooms/{room}/messages", dir=way, limit=1))["end"] for way in "fb"
        ]
        first, last = (int(re.findall(r"\d+", end)[0]) for end in ends)
        return f"s{(first + last) // 2}"

    def _send(self, user: User, room: str) -> None:
        body = {"msgtype": "m.text", "body": "This is one of the messages that were sent to measure."}
        self._line.ask(user.request("PUT", f"/rooms/{room}/send/m.room.message/g{next(self._txn_ids)}", body))

    def _repeat(self, axis: str, operation: str, size: int, ask: Callable[[], object]) -> None:
        """Measure an operation that can be done over and over; the first time does not count."""
        began = time.monotonic()
        ask()
        took = time.monotonic() - began
        times = max(2, min(self._scale.times, int(self._scale.seconds / took)))
        used, before = self._subject.watch(), self._counts()
        with used:
            for _ in range(times):
                ask()
        self._note(axis, operation, size, used.per(times), before, times)

    def _join_and_leave(self, axis: str, size: int, room: Callable[[], str]) -> None:
        """The cost of joining; they leave again so that the room keeps its size."""
        used, statements, commits = self._subject.watch(), 0, 0
        for newcomer in self._grounds.newcomers[: self._scale.times]:
            at, before = room(), self._counts()
            with used:
                self._line.ask(newcomer.request("POST", f"/rooms/{at}/join", {}))
            now = self._counts()
            statements += now.statements - before.statements
            commits += now.commits - before.commits
            self._line.ask(newcomer.request("POST", f"/rooms/{at}/leave", {}))
        times = self._scale.times
        each = used.per(times)
        self._findings.costs[axis, "join", size].append(
            Cost(each.server, each.database, statements / times, commits / times)
        )

    def _deliver(self, axis: str, size: int, user: User, room: Callable[[], str]) -> None:
        """The sending of a message and its delivery to a poll that waits for it, which then waits again."""
        since = self._line.ask_json(user.request("GET", "/events", timeout=0))["end"]
        with Line(self._subject.address) as poll:

            def wait() -> None:
                poll.send(user.request("GET", "/events", from_=since, timeout=60_000))

            def deliver() -> None:
                nonlocal since
                self._send(user, room())
                answer = json.loads(poll.receive())
                assert len(answer["chunk"]) == 1, "a poll is answered with what was sent"
                since = answer["end"]
                wait()

            wait()
            self._repeat(axis, "send, and deliver to one", size, deliver)

    def _note(self, axis: str, operation: str, size: int, each: Usage, before: Counts, times: int) -> None:
        now = self._counts()
        statements, commits = now.statements - before.statements, now.commits - before.commits
        self._findings.costs[axis, operation, size].append(
            Cost(each.server, each.database, statements / times, commits / times)
        )

    # Polls.

    def _open_polls(self, closing: ExitStack, polls: int, repetition: int) -> list[Line]:
        """Have many wait for news of the lounge."""
        users = self._grounds.crowd[:polls]
        since = self._line.ask_json(users[0].request("GET", "/events", timeout=0))["end"]
        lines = []
        for user in users:
            line = closing.enter_context(Line(self._subject.address))
            line.send(user.request("GET", "/events", from_=since, timeout=300_000))
            lines.append(line)
        self._subject.settle()
        if repetition == 0:
            row = f"with {polls} open long polls and nothing else: CPU, ms per second"
            self._findings.others[row] = f"{min(self._idle() for _ in range(4)) * 1000:.2f}"
            row = f"with {polls} open long polls: resident memory, MiB"
            self._findings.others[row] = f"{self._subject.resident_bytes() / 2**20:.0f}"
        return lines

    def _idle(self) -> float:
        """CPU time that is used while nothing happens, in seconds per second."""
        watch = self._subject.watch()
        with watch:
            time.sleep(1)
        used = watch.per(1)
        return (used.server + used.database) / used.wall

    def _deliver_to_many(self, polls: int) -> None:
        """A message to the lounge, delivered to all who wait."""
        room = quote(self._grounds.lounge, safe="")
        for _ in range(self._scale.repetitions):
            with ExitStack() as closing:
                lines = self._open_polls(closing, polls, 1)
                before, watch = self._counts(), self._subject.watch()
                with watch:
                    self._send(self._grounds.crowd[0], room)
                    answers = [line.receive() for line in lines]
                assert all(len(json.loads(answer)["chunk"]) == 1 for answer in answers)
                self._note(POLLS, "send, and deliver to all", polls, watch.per(1), before, 1)
            self._subject.settle()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# Printing.


def tables(findings: Sequence[Findings], scale: Scale) -> list[str]:
    """One for each axis, and those of bytes and of everything else."""
    printed = [axis_table(findings, axis, scale.sizes[axis]) for axis in scale.axes]
    for axis, sizes in scale.sizes.items():
        if axis in (MEMBERS, ROOMS, HISTORY):
            rows = [
                [NAMES[found.database], *(f"{found.bytes[axis, size]:,.0f}" for size in sizes)] for found in findings
            ]
            printed.append(table(f"bytes on disk for each of: {axis}", [[f"{size:,}" for size in sizes]], rows))
    others = [[row, *(found.others[row] for found in findings)] for row in findings[0].others]
    if others:
        printed.append(table("long polls", [[NAMES[found.database] for found in findings]], others))
    return printed


def axis_table(findings: Sequence[Findings], axis: str, sizes: Sequence[int]) -> str:
    """What operations cost along an axis."""
    rows = []
    for found in findings:
        for operation in found.operations(axis):
            costs = [found.cost(axis, operation, size) for size in sizes]
            rows.append([f"{NAMES[found.database]}: {operation}", *map(_milliseconds, costs)])
            rows.append(
                [f"{' ' * len(NAMES[found.database])}  statements", *(f"{cost.statements:.1f}" for cost in costs)]
            )
    return table(f"{axis}: CPU in ms, server + database", [[f"{size:,}" for size in sizes]], rows)


def share_table(findings: Sequence[Findings], scale: Scale, floor: Mapping[str, tuple[float, float | None]]) -> str:
    """How much of what a message costs is what cannot be had for less."""
    least = sum(floor[step][0] for step in A_MESSAGE_NEEDS)
    axis, rows = scale.axes[0], []
    for size in scale.sizes[axis]:
        costs = [found.cost(axis, "send", size) for found in findings]
        rows.append([f"{size:,} {axis}", *(f"{least / (cost.server + cost.database):.0%}" for cost in costs)])
    title = f"of what a message costs, the floor is ({least * 1e6:.0f} µs)"
    return table(title, [[NAMES[found.database] for found in findings]], rows)


def _milliseconds(cost: Cost) -> str:
    return f"{(cost.server + cost.database) * 1000:.2f}"


def draw(findings: Sequence[Findings], scale: Scale, folder: Path) -> None:
    """A plot for each axis, as SVG."""
    import matplotlib  # of the extra `bench`; the tables can be had without it

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "synapse_like"
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    for axis in scale.axes:
        figure, plot = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
        highest = 10.0
        for found, style in zip(findings, ("-", "--"), strict=False):
            for operation in found.operations(axis):
                measured = sorted(size for at, what, size in found.costs if (at, what) == (axis, operation))
                costs = [found.cost(axis, operation, size) for size in measured]
                milliseconds = [(cost.server + cost.database) * 1000 for cost in costs]
                highest = max(highest, *milliseconds)
                label = operation if found is findings[0] else None
                plot.plot(
                    measured, milliseconds, style, color=COLOURS[operation], marker="o", markersize=3, label=label
                )
        # The same for all, so that noise does not look like growth.
        plot.set(xscale="log", yscale="log", ylim=(0.1, highest * 1.5), xlabel=axis, ylabel="CPU, ms")
        if len(findings) > 1:
            plot.set_title(" and dashed: ".join(NAMES[found.database] for found in findings), fontsize=10)
        plot.grid(visible=True, color="0.9")
        plot.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(folder / f"{axis.replace(',', '').replace(' ', '-')}.svg", metadata={"Date": None})
        pyplot.close(figure)


def measure(database: str, scale: Scale, keep: Path | None) -> Findings:
    """Measure the server on one kind of database.

    :param keep: a folder that keeps what was made in SQLite, so that it need not be made the next time.
    """
    findings, grounds = Findings(database), Grounds(scale)
    # All polls come from one address here.
    settings = {"limits.max_connections_per_address": 10_000}
    with Subject(database, settings, replace(OWN, make=partial(HomeServer, name=SERVER_NAME))) as subject:
        kept = (
            None if keep is None or database != "sqlite" else keep / "-".join(map(str, sum(scale.sizes.values(), ())))
        )
        if kept is not None and kept.exists():
            for name in KEPT_FILES:
                shutil.copy(kept / name, subject.server.data_dir / name)
            grounds.from_json((kept / "grounds.json").read_text())
            for axis, size, each in json.loads((kept / "bytes.json").read_text()):
                findings.bytes[axis, size] = each
        else:
            grounds.make(subject, findings)
        if kept is not None and not kept.exists():
            kept.mkdir(parents=True)
            for name in KEPT_FILES:
                shutil.copy(subject.server.data_dir / name, kept / name)
            (kept / "bytes.json").write_text(json.dumps([[*at, each] for at, each in findings.bytes.items()]))
            (kept / "grounds.json").write_text(grounds.as_json())
        with subject.counted() as counts:
            measurement = Measurement(subject, grounds, scale, findings, counts)
            try:
                measurement.run()
            finally:
                measurement.close()
        findings.version = subject.database_version()
    return findings


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description="Measure how the server's costs grow.")
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--quick", action="store_true", help="small sizes, rough figures")
    parser.add_argument("--keep", type=Path, help="a folder to keep what was made in, for SQLite")
    parser.add_argument("--plots", type=Path, help="a folder for plots, as SVG; needs the extra `bench`")
    parser.add_argument("--axis", choices=FULL.axes, action="append", help="measure along this one only")
    options = parser.parse_args()
    scale = QUICK if options.quick else FULL
    scale = replace(scale, axes=tuple(options.axis or scale.axes))

    # The processes we start end with us, their directories only if we end in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    floor = floors(2000)
    databases = ["sqlite", "postgresql"] if options.database == "both" else [options.database]
    findings = [measure(database, scale, options.keep) for database in databases]
    where = place(f"Twisted {twisted.__version__}", *(found.version for found in findings))
    print("\n\n".join([where, *tables(findings, scale), floor_table(floor), share_table(findings, scale, floor)]))
    if options.plots is not None:
        draw(findings, scale, options.plots)


if __name__ == "__main__":
    main()
