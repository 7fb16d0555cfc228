"""What servers hold while they live through chaos: memory, databases, queues."""

from __future__ import annotations

import json
import statistics
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from tests.support.databases import query, size
from tests.support.server import HomeServer, resident_bytes

#: How often is looked, in seconds.
EVERY = 5.0
MIB = 2**20


@dataclass(frozen=True)
class Holding:
    """What a server holds at some moment.

    :ivar bytes_resident: memory.
    :ivar bytes_stored: its database.
    :ivar events: in it.
    :ivar newest: events of each room that no other one follows.
    :ivar gaps: places where something is missing in the history of a room.
    :ivar waiting: events that came and lack something.
    """

    bytes_resident: int
    bytes_stored: int
    events: int
    newest: Sequence[int]
    gaps: int
    waiting: int


def holding(server: HomeServer) -> Holding:
    """What a server holds, once it is at rest."""

    def find(statement: str) -> list[tuple[object, ...]]:
        return list(query(server.database, server.data_dir, statement))

    def count(table: str) -> int:
        [[found]] = find(f"SELECT COUNT(*) FROM {table}")
        return int(str(found))

    return Holding(
        _resident_bytes(server),
        size(server.database, server.data_dir),
        count("events"),
        [len(json.loads(str(row[0]))) for row in find("SELECT extremities FROM room_heads ORDER BY room_nid")],
        count("gaps"),
        count("waiting_pdus"),
    )


def _resident_bytes(server: HomeServer) -> int:
    """Memory that a server holds: of one process, or of all that it has started; what they share is counted once more
    for each."""
    _, *children = server.process_ids or [0]
    return sum(map(resident_bytes, children)) if children else server.resident_bytes()


class Memory(threading.Thread):
    """Looks how much memory servers hold, while they run.

    :ivar seen: by server, in bytes, since the beginning.
    """

    def __init__(self, servers: Sequence[HomeServer]) -> None:
        super().__init__(name="memory", daemon=True)
        self._servers = servers
        self.seen: list[list[int]] = [[] for _ in servers]
        self._is_over = threading.Event()

    def run(self) -> None:
        while not self._is_over.wait(EVERY):
            for server, seen in zip(self._servers, self.seen, strict=True):
                # It may have ended.
                with suppress(OSError, IndexError):
                    seen.append(_resident_bytes(server))

    def end(self) -> None:
        """Look no more."""
        self._is_over.set()
        self.join()

    def lines(self) -> list[str]:
        """What was seen, as text. Servers that have just started hold little, so it is the larger ones that tell."""
        lines = []
        for number, seen in enumerate(self.seen):
            if len(seen) > 1:
                fifth = max(2, len(seen) // 5)
                first, last = (statistics.quantiles(part, n=4)[2] / MIB for part in (seen[:fifth], seen[-fifth:]))
                lines.append(
                    f"server {number}: while harmed, {first:.0f} MiB resident (upper quartile) in the first fifth of"
                    f" the time, {last:.0f} in the last, {max(seen) / MIB:.0f} at the most"
                )
        return lines
