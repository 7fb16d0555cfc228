"""What a request costs before anything of Matrix has been done for it.

    python bench/http_floor.py [--requests 20000]

compares three servers, each in a process of its own, asked over one kept-alive connection by this one:

- resource: a `twisted.web.resource.Resource` that answers `{}`, on a `twisted.web.server.Site` without a log;
- site: an endpoint of ours that answers `{}`, with a token that is checked and a JSON body that is read;
- site-logging: the same with the line of log that each request gets, written to nowhere.

The figure is the CPU time of the server per request, in microseconds. The kernel counts it in steps of 10 ms, so ask
often.
"""

# mypy: allow-untyped-calls
# (twisted.web is not all annotated.)

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IProtocolFactory

from synapse_like.logs import Level

REQUEST = (
    b"PUT /_matrix/client/api/v1/rooms/%21abcdefghijkl%3Alocalhost/send/m.room.message/17 HTTP/1.1\r\n"
    b"Host: localhost:8008\r\n"
    b"User-Agent: http_floor\r\n"
    b"Accept: */*\r\n"
    b"Authorization: Bearer 0123456789012345678901234567890123456789012\r\n"
    b"Content-Type: application/json\r\n"
    b"Content-Length: 43\r\n"
    b"\r\n"
    b'{"msgtype":"m.text","body":"Hello, world."}'
)


def resource() -> IProtocolFactory:
    """Twisted's own way."""
    from twisted.web.resource import Resource
    from twisted.web.server import Request, Site

    class Null(Resource):
        isLeaf = True  # noqa: N815 - Twisted's name

        def render_PUT(self, request: Request) -> bytes:  # noqa: N802 - Twisted's name
            request.setHeader(b"Content-Type", b"application/json")
            return b"{}"

    return Site(Null())


def site() -> IProtocolFactory:
    """Ours."""
    from twisted.internet import reactor

    from synapse_like.clock import ReactorClock
    from synapse_like.http.client.authentication import TokenAuthenticator
    from synapse_like.http.limits import Limiter
    from synapse_like.http.requests import Body, Call
    from synapse_like.http.routing import Mount, Route
    from synapse_like.http.site import make_site

    async def null(call: Call[str]) -> object:
        return {}

    async def authenticate(token: str) -> str:
        return "@alice:localhost"

    clock = ReactorClock(reactor)
    path = "/rooms/{room}/send/{type}/{txn_id}"
    route = Route("PUT", path, null, rate="send", body=Body.OBJECT, idempotent=True)
    return make_site(
        [Mount("/_matrix/client/api/v1", [route], cors=True)],
        authenticator=TokenAuthenticator(authenticate, str),
        limiter=Limiter({"send": (1e6, 1000)}, clock.monotonic),
        clock=clock,
    )


def serve(name: str) -> None:
    """Be a server: print the port, serve until killed."""
    from twisted.internet import reactor

    from synapse_like import logs

    factory, level = SERVERS[name]
    logs.configure("text", level)
    loop: Any = reactor
    port = loop.listenTCP(0, factory(), interface="127.0.0.1")
    print(port.getHost().port, flush=True)
    loop.run()


SERVERS: dict[str, tuple[Callable[[], IProtocolFactory], Level]] = {
    "resource": (resource, "error"),
    "site": (site, "error"),
    "site-logging": (site, "info"),
}


def microseconds(name: str, requests: int) -> float:
    """Start a server, ask it, and tell its CPU time per request."""
    command = [sys.executable, __file__, "--serve", name]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert server.stdout is not None
    try:
        with socket.create_connection(("127.0.0.1", int(server.stdout.readline()))) as connection:
            ask(connection, requests // 10)
            before = cpu_seconds(server.pid)
            ask(connection, requests)
            return (cpu_seconds(server.pid) - before) / requests * 1e6
    finally:
        server.kill()
        server.communicate()


def ask(connection: socket.socket, requests: int) -> None:
    """Send requests, each when the one before it is answered."""
    for _ in range(requests):
        connection.sendall(REQUEST)
        answer = b""
        while not answer.endswith(b"{}"):
            received = connection.recv(65536)
            if not received or b" 200 " not in (answer + received)[:20]:
                raise SystemExit(f"not the answer that was expected: {answer + received!r}")
            answer += received


def cpu_seconds(process: int) -> float:
    """The CPU time of a process."""
    with open(f"/proc/{process}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    for name in SERVERS:
        print(f"{name:<14} {microseconds(name, options.requests):6.0f} µs")


if __name__ == "__main__":
    main()
