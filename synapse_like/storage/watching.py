"""Sees to connections on which somebody waits for an answer that does not come.

A server that dies ends its connections, and the system gives up those to a machine that is gone. But one that is
stopped, or hangs, keeps them, and who waits for its answer waits for ever. Whether an answer takes long or does not
come cannot be seen on the connection; so the server is asked something else, by a new one. If it does not answer that
either, the connections to it are cut: those who wait are told that they are lost, and connect again, be it elsewhere.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

from synapse_like.logs import get_logger

_log = get_logger(__name__)


class Watch:
    """Looks at connections every so often, on a thread of its own.

    :param waits: whether somebody waits for an answer on a connection, at this moment.
    :param is_there: whether the server that a connection leads to answers to something else; may take some seconds.
    :param cut: ends a connection, so that who waits is told.
    :param every: how many seconds there are between two looks.
    :param patience: in how many looks, one after the other, somebody must be waiting before the server is asked.
    """

    def __init__(
        self,
        waits: Callable[[Any], bool],
        is_there: Callable[[Any], bool],
        cut: Callable[[Any], None],
        *,
        every: float,
        patience: int,
    ) -> None:
        self._waits = waits
        self._is_there = is_there
        self._cut = cut
        self._every = every
        self._patience = patience
        self._lock = threading.Lock()
        #: How often somebody was seen waiting, by connection.
        self._seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, connection: Any) -> None:
        """See to one more connection, as long as there is one."""
        with self._lock:
            self._seen[connection] = 0

    def start(self) -> None:
        """Begin to look."""
        self._ending.clear()
        self._thread = threading.Thread(target=self._run, name="database-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more. Blocks while a server is asked."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(self._every):
            try:
                self.look()
            except Exception:
                _log.exception("connections to the database could not be looked at")

    def look(self) -> None:
        """Look once."""
        with self._lock:
            connections = list(self._seen)
            for connection in connections:
                self._seen[connection] = self._seen[connection] + 1 if self._waits(connection) else 0
            waiting = [connection for connection in connections if self._seen[connection] >= self._patience]
        for connection in waiting:
            is_there = self._is_there(connection)
            if not is_there and self._waits(connection):
                _log.error("the database does not answer, the connection is cut")
                self._cut(connection)
            with self._lock:
                self._seen[connection] = 0
