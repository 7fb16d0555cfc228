"""How long a server that cannot be reached is left alone (FED-3)."""

from __future__ import annotations

import random
from collections.abc import Callable

#: What is waited after the first failure, and at the most, in milliseconds.
FIRST_RETRY_MS = 1000
LONGEST_RETRY_MS = 60 * 60 * 1000
#: How much of that chance may take away, so that not everybody comes back at the same moment.
JITTER = 0.25


def next_interval(interval_ms: int) -> int:
    """What is waited after another failure, before chance has its say; twice as long as before.

    :param interval_ms: what was waited last; 0 if nothing was.
    """
    return min(max(FIRST_RETRY_MS, 2 * interval_ms), LONGEST_RETRY_MS)


def delay(interval_ms: int, *, asked_ms: int | None = None, chance: Callable[[], float] = random.random) -> int:
    """What is waited really.

    :param asked_ms: what the other server asks us to wait; it is believed up to the longest wait there is.
    :param chance: gives a number between 0 and 1.
    """
    wanted = int(interval_ms * (1 - JITTER * chance()))
    return min(max(wanted, asked_ms or 0), LONGEST_RETRY_MS)
