"""Servers that run: as a command, and under `twistd`."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort

from synapse_like import logs
from synapse_like.app.errors import StartError
from synapse_like.app.reloading import Reloading, on_hangup, reader, take_log
from synapse_like.app.server import HomeServer, build
from synapse_like.app.serving import DRAIN_SECONDS, ServerService
from synapse_like.app.siblings import Siblings, listening
from synapse_like.background import run_in_background
from synapse_like.config import Config, load
from synapse_like.storage.claims import CHORES

if TYPE_CHECKING:
    from synapse_like.app.child import Child
    from synapse_like.identity.settings import IdentityConfig

_log = logs.get_logger(__name__)


class HomeServerService(ServerService[HomeServer]):
    """A home server as a Twisted service; see `ServerService`.

    :param siblings: the processes that are the server together, if this is one of several.
    """

    name = "synapse_like"

    def __init__(
        self, config: Config, reactor: Any, tell: Callable[[str], object], siblings: Siblings | None = None
    ) -> None:
        super().__init__(config.server_name, lambda: build(config, reactor, siblings), config.metrics, reactor, tell)
        self._config = config
        self._siblings = siblings
        self._begun: list[Deferred[None]] = []

    def _listen(self, server: HomeServer) -> None:
        config, federation = self._config, server.federation
        where = self._listen_at(config.client.bind, config.client.port, server.site)
        self._tell(f"{config.server_name} listens for clients at {where}")
        if server.figures is not None and self._siblings is not None:
            place = self._siblings.meeting_place(self._siblings.number)
            # Who had the same number before may have been killed.
            place.unlink(missing_ok=True)
            self._ports.append(self._reactor.listenUNIX(str(place), server.figures, mode=0o600))
        if federation is None:
            return
        addresses, port = config.federation_bind, config.federation.port
        if federation.tls is None:
            where = self._listen_at(addresses, port, federation.site)
        else:
            where = self._listen_at(addresses, port, federation.tls.wrap(federation.site, self._reactor), "https")
        self._tell(f"{config.server_name} listens for other servers at {where}")

    def _open(self, address: str, port: int, factory: Any) -> IListeningPort:
        if self._siblings is None:
            return super()._open(address, port, factory)
        try:
            # The reactor makes itself a copy.
            with listening(address, port, with_others=True) as shared:
                adopted: IListeningPort = self._reactor.adoptStreamPort(shared.fileno(), shared.family, factory)
        except OSError as error:
            raise CannotListenError(address, port, error) from error  # type: ignore[no-untyped-call]  # Twisted's
        return adopted

    def _begin(self, server: HomeServer) -> None:
        tasks: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {"content": server.content.start}
        if server.start_presence is not None:
            tasks["presence"] = server.start_presence
        if server.federation is not None:
            tasks["queues"] = server.federation.queues.start
        self._begun = [run_in_background(name, begin) for name, begin in tasks.items()]
        server.database.claims.want(CHORES, partial(self._begin_chores, server))

    def _begin_chores(self, server: HomeServer) -> None:
        """Do what one process does for all: what is periodic is done by itself from now on."""
        if server.federation is not None and self.server is server:
            self._begun += [
                run_in_background("greetings", server.federation.greetings.greet),
                run_in_background("waiting-events", server.federation.transactions.retry_waiting),
            ]

    def _is_stopping(self, server: HomeServer) -> None:
        server.health.is_stopping = True

    async def _finish(self, server: HomeServer) -> None:
        server.event_stream.close()
        await self._drain(server, server.site, *([server.federation.site] if server.federation is not None else []))
        for task in server.tasks:
            await task.stop()
        for begun in self._begun:
            # Where the server was hardly there yet.
            begun.cancel()
        await server.content.repository.stop()
        await server.files_agent.close()
        if server.federation is not None:
            await server.federation.queues.stop()
            server.federation.agent.switch_off()
            await server.federation.agent.close()
            # With nobody to ask, what is still being received comes to its end; what it lacks is asked for another day.
            received = DeferredList(server.federation.transactions.under_way)
            await received.addTimeout(DRAIN_SECONDS, self._reactor)


class Together(MultiService):
    """Servers that run in one process, started in their order and stopped at the same time.

    :param fails_loudly: whether a server that cannot start ends the program. `twistd` would go on without it.
    """

    def __init__(self, services: Sequence[Service], *, fails_loudly: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted leaves it untyped
        self._fails_loudly = fails_loudly
        for service in services:
            service.setServiceParent(self)  # type: ignore[no-untyped-call]  # Twisted leaves it untyped

    def startService(self) -> None:  # noqa: N802 - Twisted's name
        try:
            super().startService()  # type: ignore[no-untyped-call]  # Twisted leaves it untyped
        except StartError as error:
            if not self._fails_loudly:
                raise
            raise SystemExit(f"Error: {error}") from error


def services(settings: Config | IdentityConfig, reactor: Any, tell: Callable[[str], object]) -> list[Service]:
    """What is to run by some settings: a home server, perhaps with an identity server beside it, or that alone.

    :raises ConfigError: the settings of the one beside cannot be read.
    """
    if not isinstance(settings, Config):
        return [_identity_service(settings, reactor, tell)]
    home, beside = HomeServerService(settings, reactor, tell), settings.identity_servers.beside
    return [home] if beside is None else [_identity_service(beside, reactor, tell), home]


def _identity_service(settings: Path | IdentityConfig, reactor: Any, tell: Callable[[str], object]) -> Service:
    """An identity server, by its settings or their file."""
    # Most home servers have none beside them, and start sooner without.
    from synapse_like.app.identity import IdentityService
    from synapse_like.identity.settings import IDENTITY_SERVER

    config = IDENTITY_SERVER.load(settings, os.environ) if isinstance(settings, Path) else settings
    return IdentityService(config, reactor, tell)


def make_service(settings: Config | IdentityConfig) -> Service:
    """The service for `twistd`, whose log is Twisted's."""
    from twisted.internet import reactor

    logs.configure(settings.log.format, settings.log.level, adopt_twisted=False)
    return Together(services(settings, reactor, _log.info), fails_loudly=True)


def _allow_many_connections() -> None:
    """Take all the open files that the system grants: each long poll is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _reload_on_hangup(settings: Config | IdentityConfig, path: Path, service: Together, reactor: Any) -> Reloading[Any]:
    """Have SIGHUP do what it can."""
    if not isinstance(settings, Config):
        from synapse_like.identity.settings import IDENTITY_SERVER

        of_identity = Reloading(settings, reader(IDENTITY_SERVER.load, path), {"log": take_log})
        on_hangup(reactor, of_identity.reload, None)
        return of_identity
    [server] = [part.server for part in service if isinstance(part, HomeServerService)]
    assert server is not None, "it has been started"
    reloading = Reloading(settings, reader(load, path), server.takes)
    on_hangup(reactor, reloading.reload, server.federation.tls if server.federation is not None else None)
    return reloading


def run(settings: Config | IdentityConfig, path: Path, tell: Callable[[str], object]) -> int:
    """Run a server until it is told to stop; the exit code.

    :param path: of the settings, for when they are to be read again.
    :param tell: is told, in a sentence, where the server listens.
    :raises StartError: it cannot start.
    """
    logs.configure(settings.log.format, settings.log.level)
    _allow_many_connections()
    if isinstance(settings, Config) and settings.processes > 1:
        # Most servers are one process.
        from synapse_like.app.parent import Parent

        return Parent(settings, path, tell).run()
    return run_here(settings, path, tell)


def run_here(
    settings: Config | IdentityConfig,
    path: Path,
    tell: Callable[[str], object],
    child: Child | None = None,
) -> int:
    """Run a server in this process; as `run` does.

    :param child: what it is to its parent, if this is one of several processes.
    """
    from twisted.internet import reactor

    loop: Any = reactor
    if child is not None and isinstance(settings, Config):
        service = Together([HomeServerService(settings, reactor, tell, child.siblings)])
    else:
        service = Together(services(settings, reactor, tell))
    service.startService()
    loop.addSystemEventTrigger("before", "shutdown", service.stopService)
    reloading = _reload_on_hangup(settings, path, service, loop)
    if child is not None:
        child.tie(loop, reloading)
    # What is there by now stays until the end: it is not looked through again for garbage.
    gc.freeze()
    gc.enable()
    loop.run()
    return int(any(part.has_failed for part in service if isinstance(part, ServerService)))
