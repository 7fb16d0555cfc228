"""What cannot be had for less: the single steps of a message, each alone and as bare as it can be."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from argon2 import PasswordHasher, Type
from nacl.signing import SigningKey

from bench.http_floor import microseconds
from synapse_like.config import PasswordHashing

#: About the size of a message as it is stored.
EVENT = bytes(range(256)) * 3


def floors(times: int) -> dict[str, tuple[float, float | None]]:
    """CPU and, where it was measured, wall time of each step, in seconds.

    :param times: how often each is done.
    """
    return {
        "an empty answer by twisted.web": (microseconds("resource", times) / 1e6, None),
        "an empty answer by the server's own site": (microseconds("site", times) / 1e6, None),
        "the same with its line of log": (microseconds("site-logging", times) / 1e6, None),
        "one row committed to SQLite, disk synced": committed_insert(times // 10),
        "an Ed25519 signature by PyNaCl": signature(times),
        "the same, verified": verification(times),
        "an Argon2id hash, as configured by default": password_hash(max(3, times // 1000)),
    }


def committed_insert(times: int) -> tuple[float, float]:
    """One row in a transaction of its own, into a table with an index."""
    with TemporaryDirectory() as folder, closing(sqlite3.connect(Path(folder) / "floor.db")) as connection:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE events (event_nid INTEGER PRIMARY KEY, event_id TEXT UNIQUE, pdu BLOB)")
        ids = map(str, range(times))
        return _each(
            times,
            lambda: connection.execute("INSERT INTO events (event_id, pdu) VALUES (?, ?)", (next(ids), EVENT)),
        )


def signature(times: int) -> tuple[float, float]:
    """Sign an event."""
    key = SigningKey.generate()
    return _each(times, lambda: key.sign(EVENT))


def verification(times: int) -> tuple[float, float]:
    """Verify the signature of an event."""
    key = SigningKey.generate()
    signed = key.sign(EVENT)
    return _each(times, lambda: key.verify_key.verify(signed))


def password_hash(times: int) -> tuple[float, float]:
    """Hash a password."""
    cost = PasswordHashing()
    hasher = PasswordHasher(cost.iterations, cost.memory_kib, cost.parallelism, type=Type.ID)
    return _each(times, lambda: hasher.hash("correct horse"))


def _each(times: int, step: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(times):
        step()
    return (time.process_time() - cpu) / times, (time.perf_counter() - wall) / times
