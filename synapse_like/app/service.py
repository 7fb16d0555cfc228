"""Servers that run: as a command, and under `twistd`."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList

from synapse_like import logs
from synapse_like.app.errors import StartError
from synapse_like.app.reloading import Reloading, on_hangup, reader, take_log
from synapse_like.app.server import HomeServer, build
from synapse_like.app.serving import DRAIN_SECONDS, ServerService
from synapse_like.background import run_in_background
from synapse_like.config import Config, load

if TYPE_CHECKING:
    from synapse_like.identity.settings import IdentityConfig

_log = logs.get_logger(__name__)


class HomeServerService(ServerService[HomeServer]):
    """A home server as a Twisted service; see `ServerService`."""

    name = "synapse_like"

    def __init__(self, config: Config, reactor: Any, tell: Callable[[str], object]) -> None:
        super().__init__(config.server_name, lambda: build(config, reactor), config.metrics, reactor, tell)
        self._config = config
        self._begun: list[Deferred[None]] = []

    def _listen(self, server: HomeServer) -> None:
        config, federation = self._config, server.federation
        where = self._listen_at(config.client.bind, config.client.port, server.site)
        self._tell(f"{config.server_name} listens for clients at {where}")
        if federation is None:
            return
        addresses, port = config.federation_bind, config.federation.port
        if federation.tls is None:
            where = self._listen_at(addresses, port, federation.site)
        else:
            where = self._listen_at(addresses, port, federation.tls.wrap(federation.site, self._reactor), "https")
        self._tell(f"{config.server_name} listens for other servers at {where}")

    def _begin(self, server: HomeServer) -> None:
        tasks: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {"content": server.content.start}
        if server.start_presence is not None:
            tasks["presence"] = server.start_presence
        if server.federation is not None:
            tasks["queues"] = server.federation.queues.start
            tasks["greetings"] = server.federation.greetings.greet
            tasks["waiting-events"] = server.federation.transactions.retry_waiting
        self._begun = [run_in_background(name, begin) for name, begin in tasks.items()]

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


def _reload_on_hangup(settings: Config | IdentityConfig, path: Path, service: Together, reactor: Any) -> None:
    """Have SIGHUP do what it can."""
    if not isinstance(settings, Config):
        from synapse_like.identity.settings import IDENTITY_SERVER

        of_identity = Reloading(settings, reader(IDENTITY_SERVER.load, path), {"log": take_log})
        on_hangup(reactor, of_identity.reload, None)
        return
    [server] = [part.server for part in service if isinstance(part, HomeServerService)]
    assert server is not None, "it has been started"
    reloading = Reloading(settings, reader(load, path), server.takes)
    on_hangup(reactor, reloading.reload, server.federation.tls if server.federation is not None else None)


def run(settings: Config | IdentityConfig, path: Path, tell: Callable[[str], object]) -> int:
    """Run a server until it is told to stop; the exit code.

    :param path: of the settings, for when they are to be read again.
    :param tell: is told, in a sentence, where the server listens.
    :raises StartError: it cannot start.
    """
    from twisted.internet import reactor

    logs.configure(settings.log.format, settings.log.level)
    _allow_many_connections()
    service = Together(services(settings, reactor, tell))
    service.startService()
    loop: Any = reactor
    loop.addSystemEventTrigger("before", "shutdown", service.stopService)
    _reload_on_hangup(settings, path, service, loop)
    # What is there by now stays until the end: it is not looked through again for garbage.
    gc.freeze()
    gc.enable()
    loop.run()
    return 0
