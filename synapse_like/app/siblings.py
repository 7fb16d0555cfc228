"""What the processes of one server have in common: given to them by their parent (`parent.py`)."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from synapse_like.config import Config
from synapse_like.http.shared_limits import SharedBuckets

#: Bytes that each process may hold for requests and answers, however many there are.
LEAST_HELD_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens.

    :ivar backlog: how many connections wait to be taken.
    """

    addresses: Sequence[str]
    port: int
    backlog: int = 511


def places(config: Config) -> dict[str, Place]:
    """Where a server listens by its settings: for `clients`, and perhaps for `metrics` and other `servers`."""
    found = {"clients": Place(config.client.bind, config.client.port)}
    if config.metrics.port is not None:
        found["metrics"] = Place(config.metrics.bind, config.metrics.port, 50)
    if config.federation.enabled:
        found["servers"] = Place(config.federation_bind, config.federation.port)
    return found


@dataclass(frozen=True, slots=True)
class Siblings:
    """The processes of a server, as one of them sees them.

    :ivar number: its own, from 1.
    :ivar count: how many there are.
    :ivar sockets: that all of them listen on, by the names of `places`.
    :ivar buckets: by which they keep the rate limits together.
    :ivar folder: where they ask each other for their figures.
    """

    number: int
    count: int
    sockets: Mapping[str, Sequence[socket.socket]]
    buckets: SharedBuckets
    folder: Path

    def share(self, size: int) -> int:
        """The part that one process has of so many bytes."""
        return max(size // self.count, min(size, LEAST_HELD_BYTES))

    def meeting_place(self, number: int) -> Path:
        """The Unix socket at which one of them tells its figures."""
        return self.folder / str(number)

    @property
    def others(self) -> Iterator[int]:
        """The numbers of the others."""
        return (number for number in range(1, self.count + 1) if number != self.number)
