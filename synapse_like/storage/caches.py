"""What the storage functions remember between transactions.

Facts live in tables; these are copies, bounded, and gone whenever the process is. Two rules keep a copy from being
wrong:

- What a *writing* transaction puts or drops takes effect only when it has committed.
- What a *reading* transaction puts is accepted only if nothing was dropped from that cache since the transaction
  began: its snapshot may be older than the drop.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import TYPE_CHECKING, Generic, TypeVar

from cachetools import LRUCache

if TYPE_CHECKING:
    from synapse_like.storage.database import Transaction
    from synapse_like.storage.events import StoredEvent
    from synapse_like.storage.rooms import RoomHead

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Cache(Generic[Key, Value]):
    """A bounded, thread-safe cache that follows the two rules above.

    :param entries: how many it holds at the most; the least recently used one goes first.
    """

    def __init__(self, entries: int) -> None:
        self._entries: LRUCache[Key, Value] = LRUCache(entries)
        self._lock = threading.Lock()
        self.generation = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """The copy, if there is one."""
        with self._lock:
            return self._entries.get(key)

    def put(self, txn: Transaction, key: Key, value: Value) -> None:
        """Remember `value`, which this transaction has read or written."""
        if txn.writable:
            txn.when_committed(lambda: self._store(key, value))
        else:
            with self._lock:
                if txn.began_at(self) == self.generation:
                    self._entries[key] = value

    def drop(self, txn: Transaction, key: Key) -> None:
        """Forget one copy once this transaction has committed."""
        txn.when_committed(lambda: self._drop(key))

    def drop_all(self, txn: Transaction) -> None:
        """Forget every copy once this transaction has committed."""
        txn.when_committed(self.clear)

    def clear(self) -> None:
        """Forget every copy now."""
        with self._lock:
            self._entries.clear()
            self.generation += 1

    def _store(self, key: Key, value: Value) -> None:
        with self._lock:
            self._entries[key] = value

    def _drop(self, key: Key) -> None:
        with self._lock:
            self._entries.pop(key, None)
            self.generation += 1


class Caches:
    """Every cache of one database.

    `heads` is different from the others: it belongs to the writing transactions alone, which run one at a time; a head
    is changed in place while a transaction runs and thrown away if that is rolled back (`rooms.py`).
    """

    def __init__(self) -> None:
        self.events: Cache[int, StoredEvent] = Cache(4000)
        self.slots: Cache[tuple[str, str], int] = Cache(20000)
        self.heads: LRUCache[str, RoomHead] = LRUCache(500)

    def forget_head(self, room_id: str) -> None:
        """Forget where one room stands."""
        self.heads.pop(room_id, None)

    def clear(self) -> None:
        """Forget everything: another process has changed the tables."""
        self.events.clear()
        self.slots.clear()
        self.heads.clear()
