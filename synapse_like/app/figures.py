"""Figures for Prometheus of all processes of a server, on one page.

Each process counts for itself, and tells the others when they ask, by a Unix socket: it writes all its figures and
closes. Whichever process Prometheus comes to asks the others, and gives each figure the label `process`. To add
them up is Prometheus's part: it knows that what one process has counted begins at nothing again when it is restarted.
A process that does not answer in time is left out, and told to be down.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError, ConnectionClosed, ConnectionDone
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from synapse_like.background import run_in_background
from synapse_like.logs import get_logger

#: A kind of figure: its name, its text, its type, and its values, each with name and labels.
Family = tuple[str, str, str, list[tuple[str, dict[str, str], float]]]

#: How long another process may take, in seconds; it may itself have to wait for the database.
ASK_SECONDS = 7.0

_log = get_logger(__name__)


def written(registry: CollectorRegistry) -> bytes:
    """All figures of a registry, as they are told to another process."""
    families = [
        (family.name, family.documentation, family.type, [(one.name, one.labels, one.value) for one in family.samples])
        for family in registry.collect()
    ]
    return json.dumps(families).encode()


class Teller(Factory):
    """Tells the figures of this process to whoever connects.

    :param collect: gives them, as `written`.
    """

    noisy = False

    def __init__(self, collect: Callable[[], Awaitable[bytes]]) -> None:
        self._collect = collect

    def buildProtocol(self, addr: object) -> Protocol:  # noqa: N802 - Twisted's name
        return _Told(self._collect)


class _Told(Protocol):
    """Another process, which is told."""

    def __init__(self, collect: Callable[[], Awaitable[bytes]]) -> None:
        self._collect = collect

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        run_in_background("figures", self._tell)

    async def _tell(self) -> None:
        line: Any = self.transport
        try:
            line.write(await self._collect())
        finally:
            line.loseConnection()


class _Listening(Protocol):
    """Hears all that another process says."""

    def __init__(self) -> None:
        self._heard: list[bytes] = []
        self.heard: Deferred[bytes] = Deferred(lambda _: self._line.abortConnection())

    @property
    def _line(self) -> Any:
        return self.transport

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        self._heard.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802 - Twisted's name
        if self.heard.called:
            return
        if isinstance(reason.value, ConnectionDone):
            self.heard.callback(b"".join(self._heard))
        else:
            self.heard.errback(reason)


async def ask(reactor: Any, place: Path) -> bytes | None:
    """The figures of another process; None if it does not tell them."""
    endpoint: Any = UNIXClientEndpoint(reactor, str(place), timeout=ASK_SECONDS)  # type: ignore[no-untyped-call]  # Twisted's
    factory = Factory.forProtocol(_Listening)
    factory.noisy = False
    try:
        listening = await endpoint.connect(factory)
        heard: bytes = await listening.heard.addTimeout(ASK_SECONDS, reactor)
    except (ConnectError, ConnectionClosed, DeferredTimeoutError) as error:
        _log.warning("another process has no figures to give", place=str(place), reason=str(error))
        return None
    return heard or None


async def ask_all(reactor: Any, others: Mapping[int, Path]) -> dict[int, bytes | None]:
    """The figures of some other processes, by their numbers."""
    answers = await DeferredList([Deferred.fromCoroutine(ask(reactor, place)) for place in others.values()])
    return {number: told if done else None for number, (done, told) in zip(others, answers, strict=True)}


def page(told: Mapping[int, bytes | None]) -> bytes:
    """One page of the figures of all processes.

    :param told: what each has `written`, by their numbers.
    """
    up = GaugeMetricFamily("synapse_like_process_up", "Whether a process has told its figures.", labels=["process"])
    merged: dict[str, Metric] = {up.name: up}
    for number, text in sorted(told.items()):
        process = str(number)
        up.add_metric([process], float(text is not None))
        families: Iterable[Family] = json.loads(text) if text is not None else ()
        for name, documentation, kind, samples in families:
            family = merged.setdefault(name, Metric(name, documentation, kind))
            for sample, labels, value in samples:
                family.add_sample(sample, {**labels, "process": process}, value)
    found: Any = _Collected(list(merged.values()))
    return generate_latest(found)


class _Collected:
    """What `generate_latest` wants of a registry."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families
