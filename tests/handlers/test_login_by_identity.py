"""Telling identity servers of whom has come in by them (LOGIN-6)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as HandMovedTime

from synapse_like.clock import ReactorClock
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.handlers.login_by_identity import BINDING_SECONDS, IdentityStage
from synapse_like.storage import accounts, identity_sessions
from synapse_like.storage.connections import Connection
from tests.support.heard_rooms import DirectDatabase

URL, ERIN = "https://id.example.org", "@erin:here.example"


def test_server_is_told_once_and_as_soon_as_it_can_be(connection: Connection) -> None:
    time = HandMovedTime()
    is_there = False
    told: list[str] = []

    class Client:
        def url_of(self, id_server: str) -> str:
            return id_server

        async def bind(self, url: str, sid: str, client_secret: str, user_id: str) -> None:
            told.append(user_id)
            if not is_there:
                raise ServerUnreachable(url, "it is away")

    database: Any = DirectDatabase(connection)
    client: Any = Client()
    stage = IdentityStage("here.example", database, ReactorClock(time), client, lambda *_: None)
    connection.transact(accounts.create, ERIN, password_hash=None, now_ms=0)
    connection.transact(identity_sessions.add_binding, URL, "1", "secret", ERIN, now_ms=0)

    def look(seconds: float) -> int:
        """How often it has been told when so much time has passed, and it was looked for what is due."""
        time.advance(seconds)
        done: list[None] = []
        Deferred.fromCoroutine(stage.tell_bindings()).addCallback(done.append)
        assert done == [None]
        return len(told)

    assert look(0) == 1
    assert look(BINDING_SECONDS - 1) == 1, "it was not left in peace"
    is_there = True
    assert look(1) == 2
    assert look(7 * 24 * 3600) == 2, "once is enough"
