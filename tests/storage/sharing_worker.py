"""A process that writes to a shared database and hears what others write: for `test_sharing.py`.

    python -m tests.storage.sharing_worker URL NAME JOBS SEED

It writes a line to standard output for each job that is acknowledged (`done POSITION`), and for each news that it hears
(`heard POSITION`), its own and that of others; then `ready`. It lives until its standard input ends.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from synapse_like.storage import positions
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.engines.opening import open_engine
from synapse_like.storage.news import for_others
from synapse_like.storage.transactions import Transaction
from tests.support.threads import ThreadBridge

ROOMS = ("!one:x", "!two:x", "!three:x")


@for_others
@dataclass(frozen=True, slots=True)
class Counted:
    """News: somebody has taken a position."""

    position: int


def count(txn: Transaction, room_id: str, maker: str, pause: float, pause_at_end: float) -> int:
    """Add one to what is counted in a room, by reading it first; and take a position."""
    txn.hold_room(room_id)
    row = txn.one("SELECT position FROM stream_positions WHERE stream = ?", (room_id,))
    assert row is not None
    time.sleep(pause)
    txn.execute("UPDATE stream_positions SET position = ? WHERE stream = ?", (row[0] + 1, room_id))
    position = positions.take(txn, "events")
    txn.execute("INSERT INTO counted (position, maker) VALUES (?, ?)", (position, maker))
    txn.announce(Counted(position))
    txn.before_commit(("pause", position), lambda: time.sleep(pause_at_end))
    return position


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(url: str, name: str, jobs: int, seed: int) -> None:
    chance = random.Random(seed)
    bridge, bus = ThreadBridge(), Bus()
    database = Database(open_engine(url, data_dir=Path()), bridge, bus, readers=1, shared=True)
    bus.subscribe(Counted, lambda news: tell(f"heard {news.position}"))
    database.start()
    left = jobs

    def done(position: int) -> None:
        nonlocal left
        left -= 1
        tell(f"done {position}")

    for _ in range(jobs):
        room_id = chance.choice(ROOMS)
        pauses = (chance.random() * 0.002, chance.random() * 0.002)
        # Some say where they write, others find out in the middle of their work.
        if chance.random() < 0.7:
            job = database.write_to_room(room_id, "count", count, room_id, name, *pauses)
        else:
            job = database.write("count", count, room_id, name, *pauses)
        job.addCallback(done)
    bridge.pump(lambda: left == 0, seconds=60)
    tell("ready")
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()
        bridge.callFromThread(lambda: None)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    bridge.pump(ended.is_set, seconds=60)
    database.stop()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
