"""What the processes of one server have in common: given to them by their parent (`parent.py`)."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from msgspec import Struct

from synapse_like.config import Config
from synapse_like.http.shared_limits import SharedBuckets
from synapse_like.storage.shared.machine import Machine

#: Connections that wait to be accepted.
BACKLOG = 511
#: Bytes that each process may hold for requests and answers, however many there are.
LEAST_HELD_BYTES = 16 * 1024 * 1024


@contextlib.contextmanager
def listening(address: str, port: int, *, with_others: bool) -> Iterator[socket.socket]:
    """Listen at an address, for the length of a `with` block, as Twisted would.

    :param with_others: of our processes; the system gives each an equal share of the connections.
    :raises OSError: it cannot be had.
    """
    with socket.socket(socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET) as opened:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if with_others:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind((address, port))
        opened.listen(BACKLOG)
        yield opened


def places(config: Config) -> list[tuple[str, int]]:
    """The addresses and ports at which a server listens by its settings."""
    found = [(address, config.client.port) for address in config.client.bind]
    if config.metrics.port is not None:
        found += [(address, config.metrics.port) for address in config.metrics.bind]
    if config.federation.enabled:
        found += [(address, config.federation.port) for address in config.federation_bind]
    return found


class Siblings(Struct, frozen=True):
    """The processes of a server, as one of them sees them.

    :ivar number: its own, from 1.
    :ivar count: how many there are.
    :ivar buckets: by which they keep the rate limits together.
    :ivar machine: by which they know at once of each other's commits.
    :ivar folder: where they ask each other for their figures.
    """

    number: int
    count: int
    buckets: SharedBuckets
    machine: Machine
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
