"""The server as a service within this process: how it ends when something goes wrong on the way."""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from time import monotonic
from typing import Any, cast

import orjson
import pytest
from signedjson.key import generate_signing_key, write_signing_keys
from structlog.testing import capture_logs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock, deferLater
from twisted.names.client import Resolver
from twisted.trial.unittest import TestCase

from synapse_like.app.health import HEALTH_SECONDS, Health
from synapse_like.app.server import HomeServer
from synapse_like.app.service import HomeServerService
from synapse_like.clock import ReactorClock
from synapse_like.config import parse
from synapse_like.federation.agent import Agent
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.handlers.event_checks import EventChecks
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.protocol.canonical_json import decode
from synapse_like.protocol.errors import Forbidden, Unavailable
from synapse_like.protocol.events import EventDraft
from synapse_like.protocol.room_versions import SPEC_2014
from synapse_like.storage import rooms
from synapse_like.storage.transactions import Transaction
from tests.support.processes import free_port

#: How long something may take that has to happen, in seconds.
PATIENCE = 30
HERE, THERE = "localhost:1", "there.example"
ALICE, BOB = f"@alice:{HERE}", f"@bob:{THERE}"


class StoppingTests(TestCase):
    def started(self, *, presence: bool = False) -> tuple[HomeServerService, HomeServer]:
        """A server in good order, and its parts."""
        folder = Path(mkdtemp(prefix="service"))
        self.addCleanup(rmtree, folder)
        with (folder / "signing.key").open("w") as file:
            write_signing_keys(file, [generate_signing_key("test")])
        settings = {
            "server_name": HERE,
            "client": {"port": free_port()},
            "federation": {"port": free_port(), "tls": False},
            "presence": {"enabled": presence},
        }
        # It would look at the settings of DNS every minute, for ever.
        self.patch(Resolver, "maybeParseConfig", lambda _: None)
        service = HomeServerService(parse(settings, source="test", folder=folder, environ={}), reactor, str)
        service.startService()
        self.addCleanup(service.stopService)  # or its threads would keep the tests from ending
        server: Any = service.server
        assert isinstance(server, HomeServer)
        return service, server

    async def test_what_is_being_received_comes_to_its_end_first(self) -> None:
        """A transaction was answered, and the database was closed while its event was still being looked into."""
        service, server = self.started()
        federation = server.federation
        assert federation is not None
        message = await server.database.write("make", a_message_from_elsewhere)
        looking, key = Deferred[None](), Deferred[None]()

        async def wait_for_the_key(*_: object) -> None:
            looking.callback(None)
            await key
            raise Forbidden("The signature is not good.")

        self.patch(EventChecks, "check", wait_for_the_key)
        receiving = Deferred.fromCoroutine(federation.transactions.receive(THERE, "1", {"pdus": [message]}))
        await looking
        with capture_logs() as logged:
            stopping = service.stopService()
            await until("nobody is asked any more", partial(is_off, federation.agent))
            await deferLater(reactor, 0.1)
            assert not stopping.called, "what is still being received was not waited for"
            key.callback(None)
            answer = orjson.loads(await receiving)
            await stopping
        assert [list(result.values()) for result in answer["pdus"].values()] == [["The signature is not good."]]
        assert not [line for line in logged if line["log_level"] == "error"], logged

    async def test_server_that_is_stopped_right_after_its_start_fails_at_nothing(self) -> None:
        """What it was still taking up asked a database that was closed."""
        with capture_logs() as logged:
            service, _ = self.started(presence=True)
            await service.stopService()
            await deferLater(reactor, 0.1)
        assert not [line for line in logged if line["log_level"] == "error"], logged

    async def test_fault_while_stopping_leaves_no_thread_behind(self) -> None:
        """Threads that went on kept the process from ending, and nothing in the log said why."""
        service, server = self.started()

        async def close(_: Agent) -> None:
            raise AttributeError("something that nobody thought of")

        self.patch(Agent, "close", close)
        with capture_logs() as logged:
            await service.stopService()
        assert [pool.joined for pool in server.thread_pools] == [True] * len(server.thread_pools)
        assert server.thread_pools
        assert any(line["log_level"] == "error" and line.get("exc_info") for line in logged), logged


def a_message_from_elsewhere(txn: Transaction) -> object:
    """Make a room here that somebody elsewhere is in; a message of theirs, as their server sends it."""
    key, clock, persistence = generate_signing_key("1"), ReactorClock(Clock()), EventPersistence(HERE)
    here, there = (EventCreation(name, key, clock, persistence) for name in (HERE, THERE))
    room = here.found_room(txn, SPEC_2014, ALICE, is_public=True)
    member = partial(EventDraft, room.room_id, "m.room.member")
    here.say(txn, room, member(ALICE, {"membership": "join"}, ALICE))
    here.say(txn, room, EventDraft(room.room_id, "m.room.join_rules", ALICE, {"join_rule": "public"}, ""))
    here.say(txn, room, EventDraft(room.room_id, "m.room.send_event_level", ALICE, {"level": 0}, ""))
    there.say(txn, room, member(BOB, {"membership": "join"}, BOB))
    head = rooms.head(txn, room.room_id)
    assert head is not None
    said = EventDraft(room.room_id, "m.room.message", BOB, {"msgtype": "m.text", "body": "Hello"})
    return decode(there.make(txn, head, said).pdu)


async def is_off(agent: Agent) -> bool:
    """Whether it asks nobody any more; it would find nobody listening."""
    try:
        await agent.request("GET", "127.0.0.1:1", "/", most_bytes=1)
    except ServerUnreachable as error:
        return "switched off" in (error.reason or "")
    return False


async def until(what: str, is_so: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something, and let the reactor work meanwhile."""
    deadline = monotonic() + PATIENCE
    while not await is_so():
        assert monotonic() < deadline, f"waited in vain until {what}"
        await deferLater(reactor, 0.01)


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
