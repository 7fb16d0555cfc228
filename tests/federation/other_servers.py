"""Servers to speak to: on real TLS sockets, in this process, saying whatever a test wants; and a DNS server."""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.names import authority, client, dns, server
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from synapse_like.clock import ReactorClock
from synapse_like.federation.agent import Agent, Timeouts
from synapse_like.federation.resolver import ServerResolver
from synapse_like.federation.tls import ClientTls, ServerTls
from tests.support.certificates import Authority, CertificateFiles

loop: Any = reactor
#: Seconds of real time until something that should have happened has not.
PATIENCE = 10

Handler = Callable[["Visitor"], object]


def answer(body: bytes, status: int = 200, **headers: str) -> bytes:
    """An HTTP answer in bytes; header names are given with underscores."""
    given = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Visitor(Protocol):
    """One connection to a server of these tests.

    :ivar requests: what was asked on it, in bytes.
    """

    def __init__(self, other: Other) -> None:
        self.other = other
        self.requests: list[bytes] = []
        self.is_over = False
        self._buffer = b""

    def connectionMade(self) -> None:  # noqa: N802
        self.other.visitors.append(self)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, rest = self._buffer.partition(b"\r\n\r\n")
            length = 0
            for line in head.split(b"\r\n"):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if len(rest) < length:
                return
            self.requests.append(head + b"\r\n\r\n" + rest[:length])
            self._buffer = rest[length:]
            self.other.handler(self)

    def say(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def leave(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()

    def abort(self) -> None:
        transport: Any = self.transport
        if not self.is_over:
            transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self.is_over = True
        self.other.left += 1


class Other(Factory):
    """A server of these tests.

    :ivar visitors: all connections that were made to it.
    :ivar left: how many of them are over.
    """

    noisy = False

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.visitors: list[Visitor] = []
        self.left = 0
        self.port = 0

    def buildProtocol(self, addr: object) -> Visitor:  # noqa: N802
        return Visitor(self)

    @property
    def requests(self) -> list[bytes]:
        return [request for visitor in self.visitors for request in visitor.requests]

    @property
    def is_deserted(self) -> bool:
        return self.left == len(self.visitors)


class FederationCase(TestCase):
    """Tests that speak to other servers."""

    def setUp(self) -> None:
        self.folder = Path(mkdtemp(prefix="federation"))
        self.authority = Authority(self.folder)
        self.clock = ReactorClock(loop)

    def listen(
        self,
        handler: Handler,
        *hosts: str,
        files: CertificateFiles | None = None,
        interface: str = "127.0.0.1",
        port: int = 0,
        plain: bool = False,
    ) -> Other:
        """Start a server with a certificate for some hosts (localhost and 127.0.0.1 if none are named)."""
        other = Other(handler)
        if plain:
            listening = loop.listenTCP(port, other, interface=interface)
        else:
            files = files or self.authority.certify(*(hosts or ("localhost", "127.0.0.1")))
            tls = ServerTls(files.certificate, files.private_key)
            listening = loop.listenSSL(port, other, tls, interface=interface)
        other.port = listening.getHost().port

        async def close() -> None:
            await listening.stopListening()
            for visitor in other.visitors:
                visitor.abort()
            await self.until_deserted(other)

        self.addCleanup(lambda: Deferred.fromCoroutine(close()))
        return other

    async def until_deserted(self, other: Other) -> None:
        """Wait until nobody visits a server any more."""
        await self.until(lambda: other.is_deserted)

    def agent(self, *, lookup: Any = None, using: Any = None, **options: Any) -> Agent:
        """An agent that trusts our authority and reaches loopback."""
        tls = ClientTls(
            ca_file=options.pop("ca_file", self.authority.file),
            verify=options.pop("verify", True),
            unverified_servers=options.pop("unverified_servers", ()),
        )
        usual: dict[str, Any] = {"allow_private_addresses": True, "timeouts": Timeouts(5, 5, 5)}
        resolver = ServerResolver(lookup or no_service(), self.clock)
        agent = Agent(using or loop, resolver, tls, **(usual | options))
        self.addCleanup(lambda: Deferred.fromCoroutine(agent.close()))
        return agent

    async def get(self, agent: Agent, name: str, uri: str = "/x", **options: Any) -> Any:
        return await agent.request("GET", name, uri, **({"most_bytes": 1_000_000} | options))

    def dns_server(self, records: Mapping[str, list[Any]]) -> client.Resolver:
        """Start a DNS server, and give who asks it."""
        zone = MemoryAuthority(records)
        factory = server.DNSServerFactory(authorities=[zone], clients=[])
        factory.noisy = False
        protocol = dns.DNSDatagramProtocol(factory)
        protocol.noisy = False
        port = loop.listenUDP(0, protocol, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.zone = zone
        return client.Resolver(servers=[("127.0.0.1", port.getHost().port)], timeout=(1,), reactor=loop)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Let the reactor turn until something holds."""
        for _ in range(PATIENCE * 200):
            if holds():
                return
            await deferLater(loop, 0.005)
        self.fail("it never came to hold")


class MemoryAuthority(authority.FileAuthority):
    """The records of a zone that is in no file.

    :ivar asked: how often it was.
    """

    def __init__(self, records: Mapping[str, list[Any]]) -> None:
        self.asked = 0
        super().__init__("")
        self.records = {name.encode(): list(of_name) for name, of_name in records.items()}

    def loadFile(self, filename: object) -> None:  # noqa: N802
        self.soa = (
            b"example",
            dns.Record_SOA(mname=b"example", rname=b"x.example", serial=1, refresh=1, minimum=1, expire=1, retry=1),
        )

    def _lookup(self, name: bytes, *args: Any, **kwargs: Any) -> Any:
        self.asked += 1
        return super()._lookup(name, *args, **kwargs)


def no_service() -> Any:
    """A DNS that knows of no services."""

    class NoService:
        def lookupService(self, name: str, timeout: object = None) -> Deferred[Any]:  # noqa: N802
            nothing: Deferred[Any] = Deferred()
            nothing.callback(([], [], []))
            return nothing

    return NoService()
