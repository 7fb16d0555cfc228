"""Lanes: for each room, and for all that is not a room's, one transaction writes at a time, of whatever process.

Every writing transaction holds a lock for each room that it adds to, and one for all the rest; it has them before it
reads what it goes by, and until its commit. So for each room, and for the rest, there is one writer at a time, as there
is in a process that is alone.

A transaction waits for a lane only while it holds nothing; one that it needs later it gets at once or not at all, and
then its job is done again in a transaction that begins with it. So nobody waits in a circle.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

#: The lane of all that is not a room's.
REST = 0x53594E4D


def lane_of(room_id: str) -> int:
    """The lane of a room."""
    return int.from_bytes(blake2b(room_id.encode(), digest_size=8).digest(), "big", signed=True)


def lane_of_name(name: str) -> int:
    """The lane of something that is no room."""
    return lane_of(f"name {name}")


class Where(NamedTuple):
    """Where a job writes: in a room, and to what is no room's and has names."""

    room_id: str
    names: tuple[str, ...]


def lock_of_claim(name: str) -> int:
    """The lock of what only one process may do (`claims.py`); never a lane."""
    return lane_of(f"claim {name}")


class LaneTaken(Exception):
    """Another process writes in a lane; the job is to be done again in a transaction that waits for it first."""

    def __init__(self, lane: int) -> None:
        super().__init__("another process is writing there")
        self.lane = lane
