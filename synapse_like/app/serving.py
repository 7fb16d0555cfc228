"""How a server begins, listens and ends, of whatever kind it is: as a Twisted service."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.python.threadpool import ThreadPool

from synapse_like import logs
from synapse_like.app.errors import StartError
from synapse_like.app.parts import stop_listening
from synapse_like.app.siblings import BACKLOG
from synapse_like.background import Repeating
from synapse_like.config.shared import Metrics, url_of
from synapse_like.http.site import Site
from synapse_like.storage.database import Database
from synapse_like.storage.engines.engine import DatabaseUnavailable

#: How long a stopping server waits for requests under way to be answered, in seconds.
DRAIN_SECONDS = 10.0

_log = logs.get_logger(__name__)


class Parts(Protocol):
    """What every kind of server has that must be started and stopped."""

    database: Database
    thread_pools: list[ThreadPool]
    tasks: list[Repeating]
    metrics: Site[None] | None


P = TypeVar("P", bound=Parts)


class ServerService(Service, Generic[P]):
    """A server as a Twisted service.

    :param name: of the server, as it is told.
    :param build: puts its parts together.
    :param metrics: where figures for Prometheus are, by the settings.
    :param reactor: Twisted's reactor.
    :param tell: is told, in a sentence, where the server listens once it does.
    :cvar kind: what the log calls it.
    :ivar server: its parts, while it runs.
    :ivar has_failed: whether it has ended since it could not go on; a new process can.
    """

    kind = "server"

    def __init__(
        self, name: str, build: Callable[[], P], metrics: Metrics, reactor: Any, tell: Callable[[str], object]
    ) -> None:
        self._server_name = name
        self._build = build
        self._metrics = metrics
        self._reactor = reactor
        self._tell = tell
        self.server: P | None = None
        self.has_failed = False
        self._ports: list[IListeningPort] = []

    def startService(self) -> None:  # noqa: N802 - Twisted's name
        """Open everything and listen.

        :raises StartError: something stands in the way.
        """
        try:
            server = self.server = self._build()
            server.database.when_gone_back = self._begin_anew
            server.database.start()
        except DatabaseUnavailable as error:
            # It was there a moment ago.
            raise StartError(str(error)) from error
        for pool in server.thread_pools:
            pool.start()
        for task in server.tasks:
            task.start()
        try:
            self._listen(server)
            if server.metrics is not None and self._metrics.port is not None:
                where = self._listen_at(self._metrics.bind, self._metrics.port, server.metrics)
                self._tell(f"{self._server_name} has figures for Prometheus at {where}/metrics")
        except CannotListenError as error:
            server.database.stop()
            raise StartError(f"cannot listen on {error.interface} port {error.port}: {error.socketError}") from error
        self._begin(server)
        super().startService()  # type: ignore[no-untyped-call]  # Twisted leaves it untyped

    def _listen_at(self, addresses: Sequence[str], port: int, factory: Any, scheme: str = "http") -> str:
        """Listen at some addresses; where that is, for people."""
        for address in addresses:
            self._ports.append(self._open(address, port, factory))
        return " and ".join(url_of(address, port, scheme) for address in addresses)

    def _open(self, address: str, port: int, factory: Any) -> IListeningPort:
        """Listen at an address.

        :raises CannotListenError: somebody else does.
        """
        opened: IListeningPort = self._reactor.listenTCP(port, factory, backlog=BACKLOG, interface=address)
        return opened

    def stopService(self) -> Deferred[None]:  # noqa: N802 - Twisted's name
        """Take no new requests, answer the waiting ones, finish what is under way, close everything."""
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted leaves it untyped
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        server, self.server = self.server, None
        if server is None:
            return
        try:
            self._is_stopping(server)
            await DeferredList([stop_listening(port) for port in self._ports])
            await self._finish(server)
        except Exception:
            # Threads that go on would keep the process from ending.
            _log.exception(f"the {self.kind} could not finish in good order")
        for pool in server.thread_pools:
            pool.stop()
        server.database.stop()
        _log.info(f"the {self.kind} has stopped")

    def _begin_anew(self) -> None:
        """What is kept in memory is not what the tables say any more: end, for another process to begin."""
        _log.error("the database lacks what was committed: another one with fewer commits has taken its place, ending")
        self.has_failed = True
        # As if somebody had asked for it, whatever it is that runs here.
        signal.raise_signal(signal.SIGTERM)

    async def _drain(self, server: P, *sites: Site[Any]) -> None:
        """Have all that was asked answered, Prometheus included, for as long as that may take."""
        all_of_them = [*sites, *([server.metrics] if server.metrics is not None else [])]
        await DeferredList([Deferred.fromCoroutine(site.drain(DRAIN_SECONDS)) for site in all_of_them])

    # What each kind does in its own way.

    def _listen(self, server: P) -> None:
        """Listen, and tell where."""
        raise NotImplementedError

    def _begin(self, server: P) -> None:
        """Go on where the last run ended; everybody can come in already."""
        raise NotImplementedError

    def _is_stopping(self, server: P) -> None:
        """It is about to take no new connections."""

    async def _finish(self, server: P) -> None:
        """Let what is under way come to its end, when nothing new comes in."""
        raise NotImplementedError
