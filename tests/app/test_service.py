"""The server as a service within this process: how it ends when something goes wrong on the way."""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp
from typing import Any, cast

import pytest
from signedjson.key import generate_signing_key, write_signing_keys
from structlog.testing import capture_logs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.names.client import Resolver
from twisted.trial.unittest import TestCase

from synapse_like.app.health import HEALTH_SECONDS, Health
from synapse_like.app.server import HomeServer
from synapse_like.app.service import HomeServerService
from synapse_like.clock import ReactorClock
from synapse_like.config import parse
from synapse_like.federation.agent import Agent
from synapse_like.protocol.errors import Unavailable
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


class HealthTests(TestCase):
    async def test_server_that_is_about_to_stop_is_not_healthy(self) -> None:
        """A load balancer should send nobody there any more."""
        database: Any = DatabaseThatAnswers()
        health, call = Health(database, ReactorClock(Clock())), cast(Any, None)
        assert await health.look(call) == {"status": "ok"}
        health.is_stopping = True
        with pytest.raises(Unavailable):
            await health.look(call)

    async def test_server_whose_database_does_not_answer_is_not_healthy(self) -> None:
        """It is not waited for longer than a load balancer waits."""
        time, database = Clock(), cast(Any, DatabaseThatAnswers(Deferred()))
        looking = Deferred.fromCoroutine(Health(database, ReactorClock(time)).look(cast(Any, None)))
        time.advance(HEALTH_SECONDS)
        with pytest.raises(Unavailable):
            await looking


class DatabaseThatAnswers:
    def __init__(self, answer: Deferred[int] | None = None) -> None:
        self._answer = answer or succeed(1)

    def read(self, name: str, function: object) -> Deferred[int]:
        return self._answer
