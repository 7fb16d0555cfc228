"""What our home server costs beside the reference server of the field: `python -m bench.compare`.

The work is that of `bench.send`, and that of `bench.federation`, done by both kinds of server within one run, in turn:
one repetition by ours, the same by the other. So what else the machine does meanwhile disturbs both alike, and their
ratio holds. README.md tells how to read the tables; `bench.support.reference` how the other server is run.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import twisted
from bench import federation, send
from bench.send import AS_A_WHOLE, AT_THE_END, BYTES, DATABASES, STARTED, Scale, take_turns
from bench.support.installed import install, make, usual_venvs
from bench.support.place import place
from bench.support.reference import ASKED_ELSEWHERE, reference
from bench.support.reference import installed as reference_installed
from bench.support.results import Results
from bench.support.subject import Kind, Subject, installed
from bench.support.tables import table
from bench.support.usage import Usage, middle, spread
from tests.support.server import ROOT

#: What the targets are multiplied by where PostgreSQL works, too.
POSTGRESQL = 1.5

#: The ratio of CPU time that is the aim, by the beginning of a row's name; what comes first, counts.
CPU_TARGETS = {
    "send one message, delivered": 0.2,
    "send, ": 0.08,
    "join into": 0.1,
    "createRoom": 0.1,
    "initialSync": 0.2,
    "page of": 0.2,
}
#: The same for what is not CPU time, by table and row.
FIGURE_TARGETS = {(AS_A_WHOLE, AT_THE_END): 0.35, (AS_A_WHOLE, STARTED): 0.3, (BYTES, "all"): 0.5}

#: The same of two servers that federate, for CPU and for the time that an event takes when there are many; how long
#: one takes when it is quiet is an aim in itself, in milliseconds.
FEDERATION_TARGET = 0.1
P50_MS = 15.0

FULL = Scale(messages=2000, many=100)
SMALL = Scale(messages=300, rooms=6, some=5, many=20, room_sizes=(10, 50), polls=(10, 50), crowd=10, idle_seconds=2)
FEDERATION = federation.Scale(3, 100, 30, {10: 6, 100: 3}, 3)
SMALL_FEDERATION = federation.Scale(2, 100, 10, {10: 3}, 2)

U = TypeVar("U")

#: Ours and the other one.
Kinds = tuple[Kind, Kind]


@dataclass(frozen=True)
class Row:
    """Something of both servers.

    :ivar ours: as a number and as it is shown; so with `theirs`.
    :ivar target: what the ratio of ours to theirs is to be at the most, if something is.
    :ivar remarks: what else stands in the line.
    """

    name: str
    ours: tuple[float, str]
    theirs: tuple[float, str]
    target: float | None
    remarks: Sequence[str] = ()

    @property
    def ratio(self) -> float | None:
        """Ours to theirs; None where theirs is nothing."""
        return self.ours[0] / self.theirs[0] if self.theirs[0] else None

    def cells(self) -> list[str]:
        """The line of the table."""
        ratio, target = self.ratio, self.target
        verdict = "" if ratio is None or target is None else "met" if ratio <= target else "NOT MET"
        return [
            self.name,
            self.ours[1],
            self.theirs[1],
            "" if ratio is None else f"{ratio:.3f}",
            "" if target is None else f"{target:.3g}",
            verdict,
            *self.remarks,
        ]


# One server.


def compare_alone(database: str, scale: Scale, kinds: Kinds) -> str:
    """Have one server of each kind do the work of `bench.send`; the tables."""
    ours, theirs = both = [Results[Usage](database) for _ in kinds]
    for measurement, settings in ((send.Measurement, {}), (send.Storm, {"presence.enabled": True})):
        with ExitStack() as ending:
            subjects = [ending.enter_context(Subject(database, settings, kind)) for kind in kinds]
            pairs = zip(subjects, both, strict=True)
            take_turns([measurement(subject, scale, results).steps() for subject, results in pairs])
    factor = POSTGRESQL if database == "postgresql" else 1
    usages = [_usage_row(name, ours.usages[name], theirs.usages[name], factor) for name in ours.usages]
    figures = [
        Row(_named(title, row), _number(ours, title, row), _number(theirs, title, row), _times(target, factor))
        for title, row, target in _figures(ours)
    ]
    return "\n\n".join(
        [
            _table(f"{ours.version}: CPU in ms", usages, ["±", "±", "wall"]),
            _table(f"{ours.version}: everything else", figures),
        ]
    )


def _usage_row(name: str, ours: list[Usage], theirs: list[Usage], factor: float) -> Row:
    first, second = (middle([_together(usage) for usage in usages]) for usages in (ours, theirs))
    target = next((target for prefix, target in CPU_TARGETS.items() if name.startswith(prefix)), None)
    spreads = [f"{spread([_together(usage) for usage in usages]) / 2:.0%}" for usages in (ours, theirs)]
    wall = f"{first.wall / second.wall:.2f}" if second.wall else ""
    return Row(name, _ms(first.server), _ms(second.server), _times(target, factor), [*spreads, wall])


def _together(usage: Usage) -> Usage:
    """The CPU time of PostgreSQL counted as the server's own."""
    return Usage(usage.server + usage.database, 0, usage.wall, usage.written)


def _figures(ours: Results[Usage]) -> list[tuple[str, str, float | None]]:
    """What is no CPU time: its table, its row, its target."""
    rows = [(AS_A_WHOLE, row) for row in ours.figures[AS_A_WHOLE]] + [(BYTES, "all")]
    return [(title, row, FIGURE_TARGETS.get((title, row))) for title, row in rows]


def _named(title: str, row: str) -> str:
    return row if title == AS_A_WHOLE else title


def _number(results: Results[U], title: str, row: str) -> tuple[float, str]:
    shown = results.figures[title][row]
    return float(shown), shown


# Two servers that federate.


def compare_federation(database: str, scale: federation.Scale, kinds: Kinds) -> str:
    """Have two servers of each kind do the work of `bench.federation`; the tables."""
    ours, theirs = both = [Results[federation.Both](database) for _ in kinds]
    with ExitStack() as ending:
        settings = ending.enter_context(federation.trusting())
        measurements = []
        for kind, results in zip(kinds, both, strict=True):
            a, b = (ending.enter_context(Subject(database, settings(), kind)) for _ in range(2))
            # Where many are sent at a time, some of the other server's may not come.
            all_come = kind is kinds[0]
            measurements.append(federation.Measurement(a, b, scale, results, all_come=all_come).steps())
        take_turns(measurements)
    factor = POSTGRESQL if database == "postgresql" else 1
    usages = []
    for name in ours.usages:
        for side, of in SIDES.items():
            first, second = (median(of(both) for both in results.usages[name]) for results in (ours, theirs))
            target = FEDERATION_TARGET * factor
            usages.append(Row(f"{name}: {side}", _ms(first), _ms(second), target))
    figures = []
    for row in ours.figures[federation.RATES]:
        # What is compared is the time for each event.
        our_rate, their_rate = (_number(each, federation.RATES, row) for each in both)
        our_time, their_time = (1 / our_rate[0], our_rate[1]), (1 / their_rate[0], their_rate[1])
        figures.append(Row(f"{federation.RATES}, {row}", our_time, their_time, FEDERATION_TARGET * factor))
    lost = [(federation.LOST, row) for row in ours.figures[federation.LOST]]
    for title, row in ((federation.DELAYS, "p50"), (federation.DELAYS, "p99"), (federation.BYTES, "all"), *lost):
        figures.append(Row(f"{title}: {row}", _number(ours, title, row), _number(theirs, title, row), None))
    p50 = float(ours.figures[federation.DELAYS]["p50"])
    return "\n\n".join(
        [
            _table(f"federation on {ours.version}: CPU in ms", usages),
            _table(f"federation on {ours.version}: everything else", figures),
            f"p50 when it is quiet is to be {P50_MS:g} ms at the most: {'met' if p50 <= P50_MS else 'NOT MET'}",
        ]
    )


#: Whose CPU time of a row is shown.
SIDES: dict[str, Callable[[federation.Both], float]] = {
    "A": lambda both: both.a.server + both.a.database,
    "B": lambda both: both.b.server + both.b.database,
    "both": lambda both: both.a.server + both.a.database + both.b.server + both.b.database,
}


# Printing.


def _times(target: float | None, factor: float) -> float | None:
    return None if target is None else target * factor


def _ms(seconds: float) -> tuple[float, str]:
    return seconds, f"{seconds * 1000:.2f}"


def _table(title: str, rows: Sequence[Row], remarks: Sequence[str] = ()) -> str:
    return table(title, [["ours", "theirs", "ratio", "target", "", *remarks]], [row.cells() for row in rows])


def main() -> None:
    """Measure, print, and write it to `bench/results`."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description="Measure what the home server costs beside Synapse."
    )
    parser.add_argument("--database", choices=[*DATABASES, "both"], default="sqlite")
    parser.add_argument("--venvs", type=Path, default=usual_venvs(), help="where both are, or are installed")
    parser.add_argument("--federation", choices=["no", "too", "only"], default="too")
    parser.add_argument("--quick", action="store_true", help="rough figures, of little")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "bench/results/compare.txt", help="where what is printed goes, too"
    )
    options = parser.parse_args()
    # The processes we start end with us, their directories only if we end in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Here and in the servers, which take over the limit: every long poll is a connection.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    venvs = options.venvs.absolute()
    install(own := make(venvs / "own"), f"{ROOT}[postgres]")
    theirs, version = reference_installed(venvs / "synapse")
    kinds = (installed(own), reference(theirs))
    parts = [place(f"Twisted {twisted.__version__}", f"Synapse {version}"), _load(), REMARKS]
    print("\n\n".join(parts), flush=True)
    for database in DATABASES if options.database == "both" else (options.database,):
        if options.federation != "only":
            parts.append(compare_alone(database, SMALL if options.quick else FULL, kinds))
            print("\n" + parts[-1], flush=True)
        if options.federation != "no":
            scale = SMALL_FEDERATION if options.quick else FEDERATION
            parts.append(compare_federation(database, scale, kinds))
            print("\n" + parts[-1], flush=True)
    options.output.write_text("\n\n".join(parts) + "\n")


REMARKS = f"""CPU is that of the server and, with PostgreSQL, of all its processes; medians of the repetitions of
both, which were done in turn. "wall" is the ratio of the times on the wall. Both are asked by API v1, but for
{", ".join(f"{what} ({path} at Synapse)" for what, path in ASKED_ELSEWHERE.items())}."""


def _load() -> str:
    return f"load of the machine at the beginning: {', '.join(f'{load:.1f}' for load in os.getloadavg())}"


if __name__ == "__main__":
    main()
