"""Memory that is free is given back to the system when the server has worked and is quiet again.

What a large answer took is free when it is sent, but lies between things that stay. The C library of most Linux systems
(glibc) keeps such memory, unless it is told not to; that takes a millisecond or two. Other C libraries do it by
themselves, or cannot.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: How often it is looked whether it is quiet, in seconds.
LOOK_SECONDS = 10
#: CPU time that a quiet server takes from one look to the next, at the most; and that must have been taken since memory
#: was given back, for it to be worth while. In seconds.
QUIET = 0.1
WORTH_WHILE = 0.5


def trim() -> None:
    """Give back what is free, as far as the C library can."""
    # Servers that do nothing do without it.
    import ctypes

    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


class GivingBack:
    """See the head of this file.

    :param used: tells the CPU time that this process has taken so far, in seconds.
    :param give_back: does it.
    """

    def __init__(self, used: Callable[[], float] = time.process_time, give_back: Callable[[], object] = trim) -> None:
        self._used = used
        self._give_back = give_back
        self._seen = self._given_back = used()

    async def look(self) -> None:
        """Give back what is free, if it is quiet and there may be some."""
        now = self._used()
        is_quiet = now - self._seen <= QUIET
        self._seen = now
        if is_quiet and now - self._given_back >= WORTH_WHILE:
            self._give_back()
            self._seen = self._given_back = self._used()
