"""A database's threads without a reactor: their calls are made when the test says so."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import pytest


class ThreadBridge:
    """The one thing that a `Database` needs of a reactor: calls from its threads."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()

    def callFromThread(self, function: Callable[..., Any], *args: Any) -> None:  # noqa: N802 - Twisted's name
        """Take a call, for `pump` to make."""
        self._calls.put((function, args))

    def pump(self, until: Callable[[], bool], seconds: float = 10) -> None:
        """Make the calls as they come, until something is true.

        :param seconds: how long to wait for the next call until the test fails.
        """
        while not until():
            try:
                function, args = self._calls.get(timeout=seconds)
            except Empty:
                pytest.fail("nothing came from the database's threads")
            function(*args)
