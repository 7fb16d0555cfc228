"""What processes use up, as the kernel counts it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Usage:
    """What was used, since some moment or by one operation.

    :ivar server: CPU time of the home server with all its processes, in seconds.
    :ivar database: CPU time of PostgreSQL with all its processes, in seconds; SQLite works in the home server.
    :ivar wall: time that went by, in seconds.
    :ivar written: bytes that both handed to the disk, the home server's log included.
    """

    server: float = 0
    database: float = 0
    wall: float = 0
    written: float = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.server + other.server,
            self.database + other.database,
            self.wall + other.wall,
            self.written + other.written,
        )

    def __mul__(self, factor: float) -> Usage:
        return Usage(self.server * factor, self.database * factor, self.wall * factor, self.written * factor)

    def __sub__(self, other: Usage) -> Usage:
        return self + other * -1


def middle(usages: list[Usage]) -> Usage:
    """The median of each quantity."""
    return Usage(
        median(usage.server for usage in usages),
        median(usage.database for usage in usages),
        median(usage.wall for usage in usages),
        median(usage.written for usage in usages),
    )


def spread(usages: list[Usage]) -> float:
    """How far the highest and the lowest of the home server's CPU times lie apart, as a part of the median."""
    seconds = [usage.server for usage in usages]
    return (max(seconds) - min(seconds)) / median(seconds) if any(seconds) else 0.0


def cpu_seconds(process: int) -> float:
    """CPU time of a process with all the threads that it has and had, in seconds, exact to a microsecond or so.

    `/proc/PID/stat` has the same in steps of 10 ms. The number of the clock is what `clock_getcpuclockid` computes.
    """
    return time.clock_gettime((~process << 3) | 2)


def written_bytes(process: int) -> int:
    """Bytes that a process handed to the disk, whole pages of 4096 bytes each."""
    for line in Path(f"/proc/{process}/io").read_text().splitlines():
        name, _, count = line.partition(": ")
        if name == "write_bytes":
            return int(count)
    raise RuntimeError(f"the kernel does not count what the process {process} writes")


def resident_bytes(process: int) -> int:
    """Memory that a process holds, in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        name, _, amount = line.partition(":")
        if name == "VmRSS":
            return int(amount.split()[0]) * 1024
    raise RuntimeError(f"the process {process} has ended")


def proportional_bytes(process: int) -> int:
    """Memory that a process holds, in bytes; of what it has in common with others, its share (PSS in proc(5))."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        name, _, amount = line.partition(":")
        if name == "Pss":
            return int(amount.split()[0]) * 1024
    raise RuntimeError(f"the process {process} has ended")


def forget_peak(process: int) -> None:
    """Let `peak_bytes` begin anew."""
    Path(f"/proc/{process}/clear_refs").write_text("5")


def peak_bytes(process: int) -> int:
    """The most memory that a process has held, in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        name, _, amount = line.partition(":")
        if name == "VmHWM":
            return int(amount.split()[0]) * 1024
    raise RuntimeError(f"the process {process} has ended")


def has_work(process: int) -> bool:
    """Whether one of a process's threads runs, or waits for a processor or for the disk."""
    states = (stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{process}/task").glob("*/stat"))
    return any(state in "RD" for state in states)


def ended_children_cpu_seconds(process: int) -> float:
    """CPU time of those processes that a process has started and that have ended, in seconds, in steps of 10 ms."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def children(process: int) -> list[int]:
    """The processes that a process has started and that still run."""
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def listening_sockets(port: int) -> int:
    """How many sockets of this machine listen on a TCP port: one of each process that shares it."""
    return sum(
        state == "0A" and int(address.rpartition(":")[2], 16) == port
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for _, address, _, state, *_ in (line.split() for line in Path(table).read_text().splitlines()[1:])
    )
