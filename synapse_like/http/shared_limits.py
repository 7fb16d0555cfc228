"""How often somebody may ask several processes of one server, all together (RATE-1).

The buckets of `limits.py`, in memory that the processes share. It is a table of a fixed size, made before they are:
of each bucket there is a hash of class and key, and the moment at which it will be full again, by the clock of the
machine. A bucket has `WAYS` places where it may be; if others are in all of them, the one that is full, or will be the
soonest, is overwritten. The hash is keyed, so that nobody can choose to be in another's place.

One process at a time counts. The lock is one of the kernel's on the file behind the memory, which frees it when its
holder dies, at whatever point. A moment is written at once or not at all; a place that gets another bucket is empty in
between. A holder that is stopped and does not die is waited for only shortly, and once a second: to count wrongly is
better than that nobody is answered.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from hashlib import blake2b
from typing import Self

from synapse_like.http.limits import Limiter
from synapse_like.logs import get_logger

#: How many buckets there are, and in how many places each may be.
BUCKETS, WAYS = 2**17, 8
#: For how long the lock is waited for, in seconds.
PATIENCE = 0.05
#: For how long it is not waited for at all after that, in seconds.
PAUSE = 1.0

_log = get_logger(__name__)


class SharedBuckets:
    """Buckets in memory that is shared with all processes which are forked from now on.

    Used in a `with` block, by one process at a time, and by one thread of it.

    :param size: how many buckets; a multiple of `WAYS`.
    """

    def __init__(self, size: int = BUCKETS) -> None:
        self._file = os.memfd_create("rate-limits", os.MFD_CLOEXEC)
        os.ftruncate(self._file, size * 16)
        memory = memoryview(mmap.mmap(self._file, size * 16))
        self._names = memory[: size * 8].cast("Q")
        self._full_at = memory[size * 8 :].cast("d")
        self._sets = size // WAYS
        self._secret = secrets.token_bytes(16)
        self._depth = 0
        self._waits_from = 0.0
        #: What was looked up last.
        self._last: tuple[tuple[str, str], tuple[int, int, int | None]] | None = None

    def __enter__(self) -> Self:
        self._depth += 1
        if self._depth > 1:
            return self
        # Others may have changed it.
        self._last = None
        if not self._try_lock():
            began = time.monotonic()
            while began >= self._waits_from and not self._try_lock():
                if time.monotonic() > began + PATIENCE:
                    _log.warning("another process holds the rate limits for too long")
                    self._waits_from = time.monotonic() + PAUSE
                time.sleep(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _try_lock(self) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def get(self, bucket: tuple[str, str], otherwise: float) -> float:
        """When a bucket will be full, in seconds of the machine's clock.

        :param otherwise: what is given if it is not there.
        """
        _, _, place = self._look_up(bucket)
        return otherwise if place is None else self._full_at[place]

    def put(self, bucket: tuple[str, str], full_at: float) -> None:
        """Remember when a bucket will be full."""
        name, first, place = self._look_up(bucket)
        if place is None:
            moments = self._full_at[first : first + WAYS].tolist()
            place = first + moments.index(min(moments))
            # Whoever is killed between these lines has made no bucket fuller than it is, nor emptier.
            self._names[place] = 0
            self._full_at[place] = full_at
            self._names[place] = name
            self._last = None
        else:
            self._full_at[place] = full_at

    def _look_up(self, bucket: tuple[str, str]) -> tuple[int, int, int | None]:
        """The name of a bucket in the table, which is never 0; the first place where it may be; and where it is."""
        if self._last is not None and self._last[0] == bucket:
            return self._last[1]
        text = "\0".join(bucket).encode("utf-8", "surrogatepass")
        name = int.from_bytes(blake2b(text, digest_size=8, key=self._secret).digest(), "big") or 1
        first = name % self._sets * WAYS
        names = self._names[first : first + WAYS].tolist()
        found = name, first, first + names.index(name) if name in names else None
        self._last = bucket, found
        return found


class SharedLimiter(Limiter):
    """A `Limiter` that counts together with those of other processes.

    :param rates: as there.
    :param buckets: what they have in common.
    :param monotonic: seconds since some moment, which is the same for all of them.
    """

    def __init__(
        self,
        rates: Mapping[str, tuple[float, int]],
        buckets: SharedBuckets,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        enabled: bool = True,
    ) -> None:
        super().__init__(rates, monotonic, enabled=enabled)
        self._buckets = buckets
        # Where there are no limits nobody counts, and need not wait for who does.
        self._while_counting: AbstractContextManager[object] = buckets if enabled else nullcontext()
        self._full_at_of = buckets.get

    def check(self, rate_class: str, key: str, cost: int = 1) -> None:
        with self._while_counting:
            super().check(rate_class, key, cost)

    def check_all(self, requests: Iterable[tuple[str, str, int]]) -> None:
        with self._while_counting:
            super().check_all(requests)

    def look(self, rate_class: str, key: str, cost: int = 1) -> None:
        with self._while_counting:
            super().look(rate_class, key, cost)

    def take(self, rate_class: str, key: str, cost: int = 1) -> None:
        if not self._enabled:
            return
        now, bucket = self._monotonic(), (rate_class, key)
        with self._buckets as buckets:
            buckets.put(bucket, max(buckets.get(bucket, now), now) + cost / self._rates[rate_class][0])
