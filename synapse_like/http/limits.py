"""How often somebody may ask (RATE-1): token buckets, in memory, a bounded number of them.

Each (class of requests, user or address) has a bucket that holds up to `burst` tokens and gains `per_second` of them;
a request takes one, or one for each thing that it asks for. A bucket is kept as a single number: the moment at which it
will be full again. Taking a token moves that moment on by `1 / per_second`; if it would then lie more than the time of
`burst` tokens ahead, there is none left, and the distance says exactly how long to wait. A bucket whose moment has
passed is full, so that it may be forgotten; when there are too many, the ones that were used longest ago are.

Several processes of one server count together: `shared_limits.py`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from synapse_like.protocol.errors import LimitExceeded

#: Seconds; forgives the arithmetic, so that a burst is let in whole, and who waits as long as told.
_ROUNDING = 0.0005


class Limiter:
    """Counts requests in the memory of this process.

    :param rates: per class how many are let in: per second in the long run, and at once after a pause.
    :param monotonic: seconds since some moment.
    :param enabled: False lets everything through.
    :param max_buckets: how many pairs of class and key are remembered.
    """

    def __init__(
        self,
        rates: Mapping[str, tuple[float, int]],
        monotonic: Callable[[], float],
        *,
        enabled: bool = True,
        max_buckets: int = 100_000,
    ) -> None:
        self._rates = rates
        self._monotonic = monotonic
        self._enabled = enabled
        self._max_buckets = max_buckets
        self._full_at: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._full_at_of: Callable[[tuple[str, str], float], float] = self._full_at.get

    def check(self, rate_class: str, key: str, cost: int = 1) -> None:
        """Count a request of a user or from an address.

        :param cost: as how many requests it counts. One that counts as more than a burst is let in when nothing was
            asked for long enough, and is paid for afterwards.
        :raises LimitExceeded: it is one too many; says how many milliseconds to wait.
        :raises KeyError: nobody set up this class.
        """
        self.look(rate_class, key, cost)
        self.take(rate_class, key, cost)

    def check_all(self, requests: Iterable[tuple[str, str, int]]) -> None:
        """Count something in several buckets, each (class, key, cost), or in none.

        :raises LimitExceeded: it is too much for one of them; says how many milliseconds to wait for all.
        """
        requests = list(requests)
        refusals = []
        for request in requests:
            try:
                self.look(*request)
            except LimitExceeded as refusal:
                refusals.append(refusal)
        if refusals:
            raise max(refusals, key=lambda refusal: int(refusal.extra["retry_after_ms"]))
        for request in requests:
            self.take(*request)

    def look(self, rate_class: str, key: str, cost: int = 1) -> None:
        """See that a request would be let in, and do not count it; raises as `check` does."""
        per_second, burst = self._rates[rate_class]
        if not self._enabled:
            return
        now = self._monotonic()
        wait = max(self._full_at_of((rate_class, key), now) - now, 0) + (min(cost, burst) - burst) / per_second
        if wait > _ROUNDING:
            raise LimitExceeded("Too many requests. Try again later.", math.ceil(wait * 1000))

    def take(self, rate_class: str, key: str, cost: int = 1) -> None:
        """Count a request that was let in already."""
        if not self._enabled:
            return
        now = self._monotonic()
        bucket = (rate_class, key)
        self._full_at[bucket] = max(self._full_at_of(bucket, now), now) + cost / self._rates[rate_class][0]
        self._full_at.move_to_end(bucket)
        if len(self._full_at) > self._max_buckets:
            self._full_at.popitem(last=False)

    def interval_ms(self, rate_class: str) -> int:
        """After how many milliseconds one more request of a class is let in, at the latest, if there is no other."""
        return math.ceil(1000 / self._rates[rate_class][0])
