"""How news comes up: whoever stored something says so, whoever cares has subscribed.

News is published on the reactor's thread after the transaction that made it true has been committed, in the order of
the commits. A subscriber must not block and must not fail the publisher: what it raises is logged and forgotten.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar

from synapse_like.logs import get_logger

News = TypeVar("News")
_log = get_logger(__name__)


class Bus:
    """In-process publish and subscribe, by the type of the news."""

    def __init__(self) -> None:
        self._subscribers: defaultdict[type[Any], list[Callable[[Any], object]]] = defaultdict(list)

    def subscribe(self, kind: type[News], subscriber: Callable[[News], object]) -> None:
        """Have `subscriber` called with every news of exactly this kind."""
        self._subscribers[kind].append(subscriber)

    def publish(self, news: object) -> None:
        """Tell everyone who subscribed to `type(news)`, in the order of their subscription."""
        for subscriber in self._subscribers[type(news)]:
            try:
                subscriber(news)
            except Exception:
                _log.exception("a subscriber failed", news=type(news).__name__)
