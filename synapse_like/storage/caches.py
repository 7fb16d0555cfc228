"""What the storage functions remember between transactions.

Facts live in tables; these are copies, bounded, and gone whenever the process is. A module that keeps copies names
their kind (`SLOTS = CacheKind[…]("slots", 20_000)`) and finds them by it: `txn.cache(SLOTS)`. Two rules keep a copy
from being wrong:

- What a *writing* transaction puts or drops takes effect only when it has committed.
- What a *reading* transaction puts is accepted only if nothing was dropped since the transaction began: its snapshot
  may be older than the drop.

`keep` and `forget` go past both, for copies that belong to the writing transactions alone.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, Protocol, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Scope(Protocol):
    """What a cache needs of a transaction."""

    @property
    def writable(self) -> bool: ...

    @property
    def generation(self) -> int:
        """The generation of the caches when it began."""

    def when_committed(self, change: Callable[[], None], /) -> None: ...

    def outdates(self, kind: str, /) -> None: ...

    @property
    def is_shared(self) -> bool:
        """Whether others may make copies wrong while it goes on."""


class CacheKind(Generic[Key, Value]):
    """A kind of copies.

    :param most: how many are held at the most, or how much they weigh; the least recently used one goes first.
    :param weigh: what a copy weighs, always the same of the same; each 1 if left out.
    :param in_bytes: whether they are weighed in bytes.
    """

    def __init__(
        self, name: str, most: int, weigh: Callable[[Value], int] | None = None, *, in_bytes: bool = False
    ) -> None:
        self.name = name
        self.most = most
        self.weigh = weigh
        self.in_bytes = in_bytes


def _one(_: object) -> int:
    return 1


class Cache(Generic[Key, Value]):
    """The copies of one kind: bounded, thread-safe, following the two rules above."""

    def __init__(self, owner: Caches, kind: CacheKind[Key, Value]) -> None:
        self._owner = owner
        self._name = kind.name
        self._most = kind.most
        self._weigh = kind.weigh or _one
        # The least recently used one comes first. (An LRUCache of cachetools is three dictionaries, in Python.)
        self._entries: OrderedDict[Key, Value] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """The copy, if there is one."""
        with self._lock:
            value = self._entries.get(key)
            if value is not None:
                self._entries.move_to_end(key)
            return value

    def put(self, txn: Scope, key: Key, value: Value) -> None:
        """Remember `value`, which this transaction has read or written."""
        if txn.writable:
            txn.when_committed(lambda: self._keep_if_right(txn, key, value))
            return
        with self._lock:
            if txn.generation == self._owner.generation:
                self._hold(key, value)

    def _keep_if_right(self, txn: Scope, key: Key, value: Value) -> None:
        with self._lock:
            if not txn.is_shared or txn.generation == self._owner.generation:
                self._hold(key, value)

    def _hold(self, key: Key, value: Value) -> None:
        self._let_go(key)
        weight = self._weigh(value)
        if weight > self._most:
            return
        self._entries[key] = value
        self._weight += weight
        while self._weight > self._most:
            _, oldest = self._entries.popitem(last=False)
            self._weight -= self._weigh(oldest)

    def _let_go(self, key: Key) -> None:
        value = self._entries.pop(key, None)
        if value is not None:
            self._weight -= self._weigh(value)

    def drop_all(self, txn: Scope) -> None:
        """Forget every copy once this transaction has committed, here and in other processes."""
        txn.outdates(self._name)
        txn.when_committed(self.clear)

    def keep(self, key: Key, value: Value) -> None:
        """Remember `value` now."""
        with self._lock:
            self._hold(key, value)

    def forget(self, key: Key) -> None:
        """Forget one copy now."""
        with self._lock:
            self._let_go(key)

    def fill(self) -> tuple[int, float]:
        """How many copies there are, and what they weigh."""
        with self._lock:
            return len(self._entries), self._weight

    def clear(self) -> None:
        """Forget every copy now."""
        with self._lock:
            self._entries.clear()
            self._weight = 0
            self._owner.generation += 1


class Caches:
    """Every cache of one database.

    :ivar generation: grows whenever something is dropped.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._caches: dict[CacheKind[Any, Any], Cache[Any, Any]] = {}

    def of(self, kind: CacheKind[Key, Value]) -> Cache[Key, Value]:
        """The copies of one kind."""
        cache = self._caches.get(kind)
        if cache is None:
            # Of two threads that come here at once, both get the one that was put first.
            cache = self._caches.setdefault(kind, Cache(self, kind))
        return cache

    def fills(self) -> dict[CacheKind[Any, Any], tuple[int, float]]:
        """How full each cache is: see `Cache.fill`."""
        return {kind: cache.fill() for kind, cache in list(self._caches.items())}

    def find(self, name: str, key: Any) -> Any:
        """A copy of the kind of a name, or None."""
        for kind, cache in list(self._caches.items()):
            if kind.name == name:
                return cache.get(key)
        return None

    def drop(self, name: str, keys: Iterable[Any]) -> None:
        """Forget some copies of the kind of a name."""
        for kind, cache in list(self._caches.items()):
            if kind.name == name:
                for key in keys:
                    cache.forget(key)

    def drop_kind(self, name: str) -> None:
        """Forget all copies of the kind of a name."""
        # Also where there are none yet: who reads them at the moment must not keep them.
        self.generation += 1
        for kind, cache in list(self._caches.items()):
            if kind.name == name:
                cache.clear()

    def clear(self) -> None:
        """Forget everything: another process has changed the tables. For the writing thread."""
        for cache in list(self._caches.values()):
            cache.clear()
