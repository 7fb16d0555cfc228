"""The server as a service within this process: how it ends when something goes wrong on the way."""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from signedjson.key import generate_signing_key, write_signing_keys
from structlog.testing import capture_logs
from twisted.internet import reactor
from twisted.names.client import Resolver
from twisted.trial.unittest import TestCase

from synapse_like.app.server import HomeServer
from synapse_like.app.service import HomeServerService
from synapse_like.config import parse
from synapse_like.federation.agent import Agent
from tests.support.processes import free_port


class StoppingTests(TestCase):
    async def test_fault_while_stopping_leaves_no_thread_behind(self) -> None:
        """Threads that went on kept the process from ending, and nothing in the log said why."""
        folder = Path(mkdtemp(prefix="service"))
        with (folder / "signing.key").open("w") as file:
            write_signing_keys(file, [generate_signing_key("test")])
        port = free_port()
        settings = {
            "server_name": "localhost:1",
            "client": {"port": port},
            "federation": {"port": free_port(), "tls": False},
        }
        # It would look at the settings of DNS every minute, for ever.
        self.patch(Resolver, "maybeParseConfig", lambda _: None)
        service = HomeServerService(parse(settings, source="test", folder=folder, environ={}), reactor, str)
        service.startService()
        server: Any = service.server
        assert isinstance(server, HomeServer)

        async def close(_: Agent) -> None:
            raise AttributeError("something that nobody thought of")

        self.patch(Agent, "close", close)
        with capture_logs() as logged:
            await service.stopService()
        assert [pool.joined for pool in server.thread_pools] == [True] * len(server.thread_pools)
        assert server.thread_pools
        assert any(line["log_level"] == "error" and line.get("exc_info") for line in logged), logged
