"""A site on a real socket, in this process, and a client that speaks in plain bytes.

The site's own time stands still until a test moves `self.time`; only the sockets live in real time.
"""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from msgspec.structs import fields
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from synapse_like.clock import ReactorClock
from synapse_like.http.client.authentication import TokenAuthenticator
from synapse_like.http.limits import Limiter
from synapse_like.http.requests import Call
from synapse_like.http.routing import Mount, Route
from synapse_like.http.site import Bounds, Site, make_site
from synapse_like.protocol.errors import UnknownToken

#: Seconds of real time until something that should have happened has not.
PATIENCE = 10
PREFIX = "/api"

loop: Any = reactor


class Answer:
    """An answer, taken apart.

    :ivar headers: by their names in small letters.
    """

    def __init__(self, head: bytes, body: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = dict(line.split(": ", 1) for line in lines)
        self.headers = {name.lower(): value for name, value in self.headers.items()}
        self.body = body

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    def __repr__(self) -> str:
        return f"{self.status} {self.headers} {self.body!r}"


class Client(Protocol):
    """One connection to the site."""

    def __init__(self) -> None:
        self.received = b""
        self.is_closed = False
        self._changed: Deferred[None] | None = None

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self.received += data
        self._tell()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self.is_closed = True
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.callback(None)

    async def _change(self) -> None:
        self._changed = Deferred()
        await self._changed.addTimeout(PATIENCE, loop)

    def send(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def leave(self) -> None:
        """Close the connection, as a client does that has had enough."""
        assert self.transport is not None
        self.transport.loseConnection()

    async def answer(self, *, has_body: bool = True) -> Answer:
        """The next answer, once it is there.

        :param has_body: False for the answer to a HEAD.
        """
        while b"\r\n\r\n" not in self.received:
            assert not self.is_closed, self.received
            await self._change()
        head, _, rest = self.received.partition(b"\r\n\r\n")
        length = int(Answer(head, b"").headers.get("content-length", "0")) if has_body else 0
        while len(rest) < length:
            assert not self.is_closed, self.received
            await self._change()
            rest = self.received.partition(b"\r\n\r\n")[2]
        self.received = rest[length:]
        return Answer(head, rest[:length])

    async def answers(self, number: int) -> list[Answer]:
        return [await self.answer() for _ in range(number)]

    async def closed(self) -> None:
        """Return when the site has closed the connection."""
        while not self.is_closed:
            await self._change()


def request(method: str, target: str, body: bytes | None = None, **headers: str) -> bytes:
    """A request in bytes; header names are given with underscores."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body is not None and "Transfer_Encoding" not in headers and "Content_Length" not in headers:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8") + (body or b"")


async def authenticate(token: str) -> str:
    """The users of these tests: the token of @alice is "alice", and so on."""
    if token not in ("alice", "bob"):
        raise UnknownToken("No such token.")
    return f"@{token}"


class Waiting:
    """An endpoint that waits until it is told to go on."""

    def __init__(self) -> None:
        self.waits: list[Deferred[object]] = []
        self.cancelled = 0

    async def __call__(self, call: Call[str]) -> object:
        wait: Deferred[object] = Deferred(self._count)
        self.waits.append(wait)
        return await wait

    def _count(self, _: object) -> None:
        self.cancelled += 1


#: What may be said of the bounds of a site.
BOUNDS = frozenset(field.name for field in fields(Bounds))


class SiteCase(TestCase):
    """Tests that begin with `serve`."""

    def serve(self, *routes: Route[str], cors: bool = True, **options: Any) -> Site[str]:
        """Listen, with these routes under `PREFIX`."""
        return self.serve_mounts([Mount(PREFIX, routes, cors=cors)], **options)

    def serve_mounts(self, mounts: Sequence[Mount[str]], **options: Any) -> Site[str]:
        self.time = Clock()
        self.time.advance(1_000_000)
        clock = ReactorClock(self.time)
        usual: dict[str, Any] = {
            "authenticator": TokenAuthenticator(authenticate, str),
            "limiter": Limiter({"send": (1, 2)}, clock.monotonic),
            "clock": clock,
        }
        bounds = Bounds(**{name: value for name, value in options.items() if name in BOUNDS})
        others = {name: value for name, value in options.items() if name not in BOUNDS}
        self.site = make_site(mounts, bounds=bounds, **(usual | others))
        port = loop.listenTCP(0, self.site, interface="127.0.0.1")
        self._address = port.getHost()

        async def close() -> None:
            await port.stopListening()
            # The site notices in the next turns of the reactor that its clients have gone.
            await self.until(lambda: not self.site.connections)

        self.addCleanup(lambda: Deferred.fromCoroutine(close()))
        return self.site

    async def connect(self) -> Client:
        """A new connection, closed when the test is over."""
        endpoint = TCP4ClientEndpoint(loop, "127.0.0.1", self._address.port)
        client: Client = await connectProtocol(endpoint, Client())

        async def close() -> None:
            client.leave()
            await client.closed()

        self.addCleanup(lambda: Deferred.fromCoroutine(close()))
        return client

    async def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Ask on a connection of its own; the path is below `PREFIX`."""
        client = await self.connect()
        client.send(request(method, PREFIX + path, body, **headers))
        return await client.answer()

    async def reactor_turns(self, number: int = 5) -> None:
        """Let what is on its way over the loopback arrive, for tests that nothing happens."""
        for _ in range(number):
            await deferLater(loop, 0.002)

    async def until(self, holds: Any) -> None:
        """Let the reactor turn until something holds."""
        for _ in range(PATIENCE * 200):
            if holds():
                return
            await deferLater(loop, 0.005)
        self.fail("it never came to hold")
