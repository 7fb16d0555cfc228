"""The site behind TLS: answers arrive whole, and nobody can keep a connection open by saying nothing."""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

import socket
import ssl
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from synapse_like.clock import ReactorClock
from synapse_like.federation.tls import ServerTls
from synapse_like.http.client.authentication import TokenAuthenticator
from synapse_like.http.limits import Limiter
from synapse_like.http.requests import Call
from synapse_like.http.responses import Encoded
from synapse_like.http.routing import Auth, Mount, Route
from synapse_like.http.site import Site, make_site
from tests.federation.other_servers import PATIENCE, FederationCase, loop
from tests.http.site_case import authenticate

LARGE = 20_000_000


async def large(call: Call[str]) -> object:
    return Encoded(b'"%b"' % bytes(b"x" * LARGE))


class TlsSiteTests(FederationCase):
    def serve(self) -> str:
        """Listen; the name of the server."""
        clock = ReactorClock(Clock())
        self.site: Site[str] = make_site(
            [Mount("", [Route("GET", "/large", large, auth=Auth.NONE)])],
            authenticator=TokenAuthenticator(authenticate, str),
            limiter=Limiter({}, clock.monotonic),
            clock=clock,
        )
        files = self.authority.certify("localhost")
        tls = ServerTls(files.certificate, files.private_key)
        port: Any = loop.listenTCP(0, tls.wrap(self.site, loop), interface="127.0.0.1")
        self.addCleanup(lambda: Deferred.fromCoroutine(self.until(lambda: not self.site.connections)))
        self.addCleanup(port.stopListening)
        return f"localhost:{port.getHost().port}"

    async def test_large_answer_arrives_whole_before_the_connection_is_closed(self) -> None:
        name = self.serve()
        agent = self.agent()
        for headers in ({}, {"Connection": "close"}):
            given = await agent.request("GET", name, "/large", headers=headers, most_bytes=LARGE + 100)
            assert (given.status, len(given.body)) == (200, LARGE + 2)
        await self.until(lambda: not self.site.connections)

    async def test_idle_peer_that_says_nothing_does_not_hold_up_the_end(self) -> None:
        port = int(self.serve().rpartition(":")[2])
        peer = await deferToThread(ask_and_fall_asleep, port)
        self.addCleanup(peer.close)
        assert len(self.site.connections) == 1
        # The site's own time stands still, so that nobody is cut off for being late.
        await Deferred.fromCoroutine(self.site.drain(10)).addTimeout(PATIENCE, loop)
        assert not self.site.connections


def ask_and_fall_asleep(port: int) -> ssl.SSLSocket:
    """Be a peer that got an answer, and then does not even hear that the connection is over. Blocks."""
    peer = ssl._create_unverified_context().wrap_socket(socket.create_connection(("127.0.0.1", port)))
    peer.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b" 404 " in peer.recv(4096)
    return peer
