"""What it takes to make one state out of those of several forks.

    python -m bench.state_resolution [--version spec-2014 --version 12 …] [--quick]

builds rooms of 10 to 10,000 members, lets them fork 2 to 20 times, and resolves. In each fork something happens:

- topics: it gets another topic;
- power: somebody is given power, somebody else is banned, and it gets another topic;
- names: its share of the members takes a new name, so that everything is in conflict that can be.

**in question** is the number of events that resolution decides on, and **loaded** how many it asks for in all,
beginning with none. **comparing** is the time to find where the states differ: it cannot but look at all of each, so
it grows with members times forks. **deciding** is all the rest, which must grow no faster than what is in question:
see **µs each**. Each time is the lowest of some repetitions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

from bench.support.place import place
from bench.support.tables import table
from synapse_like.protocol.room_versions import RoomRules, rules_for
from synapse_like.protocol.state_conflicts import compare
from synapse_like.protocol.state_resolution import MissingEvents, StateIds, Step, resolve
from tests.support.forking_rooms import CREATOR, Branch, ForkingRoom

MEMBERS = (10, 100, 1_000, 10_000)
FORKS = (2, 5, 20)
BOB = "@user0:b.example"

Happening = Callable[[Branch, int, Sequence[str]], None]
"""What happens in a fork, given its number and its share of the members."""


def topics(branch: Branch, number: int, share: Sequence[str]) -> None:
    """Another topic."""
    branch.say(BOB, "m.room.topic", {"topic": f"Topic {number}"})


def power(branch: Branch, number: int, share: Sequence[str]) -> None:
    """Somebody is promoted, somebody else banned."""
    branch.levels(CREATOR, {CREATOR: 100, BOB: 75, **dict.fromkeys(share[:1], 50)})
    for banned in share[1:2]:
        branch.member(BOB, "ban", banned)
    topics(branch, number, share)


def names(branch: Branch, number: int, share: Sequence[str]) -> None:
    """New names for many."""
    for user in share:
        branch.member(user, "join", content={"displayname": f"Name {number}"})


HAPPENINGS: dict[str, Happening] = {"topics": topics, "power": power, "names": names}


def room_of(rules: RoomRules, members: int) -> Branch:
    """A room with this many members beside its creator."""
    branch = ForkingRoom(rules).begin()
    for number in range(members):
        branch.member(f"@user{number}:b.example", "join")
    branch.levels(CREATOR, {CREATOR: 100, BOB: 75})
    return branch


def measure(room: Branch, members: int, forks: int, happening: Happening, repetitions: int) -> list[str]:
    """A row of the table, without what it is about."""
    users = [f"@user{number}:b.example" for number in range(1, members)]
    branches = [room.fork() for _ in range(forks)]
    for number, branch in enumerate(branches):
        happening(branch, number, users[number::forks])
    rules, events = room.room.rules, room.room.events
    states: list[StateIds] = [branch.state for branch in branches]
    absence_counts = rules.state_resolution != "v1"
    comparing = _seconds(lambda: compare(states, absence_counts=absence_counts), repetitions)
    deciding = _seconds(lambda: resolve(rules, states, events), repetitions) - comparing
    in_question = _in_question(room.room, states)
    return [
        f"{in_question:,}",
        f"{_loaded(room.room, states):,}",
        f"{comparing * 1e3:.2f}",
        f"{deciding * 1e3:.2f}",
        f"{deciding * 1e6 / in_question:.0f}",
    ]


def _seconds(deed: Callable[[], object], repetitions: int) -> float:
    times = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        deed()
        times.append(time.perf_counter() - begin)
    return min(times)


def _in_question(room: ForkingRoom, states: Sequence[StateIds]) -> int:
    steps: list[Step] = []
    resolve(room.rules, states, room.events, explain=steps.append)
    return sum(len(step.considered) for step in steps if step.name in ("in conflict", "also in question"))


def _loaded(room: ForkingRoom, states: Sequence[StateIds]) -> int:
    held: set[str] = set()
    while True:
        try:
            resolve(room.rules, states, {event_id: room.events[event_id] for event_id in held})
            return len(held)
        except MissingEvents as missing:
            held.update(missing.ids)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--version", action="append", help="of the rooms; may be repeated")
    parser.add_argument("--quick", action="store_true", help="leave out the largest room")
    options = parser.parse_args()
    print(place(), end="\n\n")
    headings = ["members", "forks", "in question", "loaded", "comparing ms", "deciding ms", "µs each"]
    for version in options.version or ["spec-2014", "12"]:
        rooms = {members: room_of(rules_for(version), members) for members in MEMBERS[: 3 if options.quick else None]}
        for name, happening in HAPPENINGS.items():
            rows = [
                ["", f"{members:,}", str(forks), *measure(room, members, forks, happening, 5)]
                for members, room in rooms.items()
                for forks in FORKS
            ]
            print(table(f"room version {version}: {name}", [headings], rows), end="\n\n")


if __name__ == "__main__":
    main()
