"""What a signed request between servers costs, on both sides, before anything of Matrix has been done for it.

    python -m bench.federation_floor [--requests 5000]

starts a server with our site and the check of signatures, and another process with our client, which asks it over one
kept-alive TLS connection on loopback, each time when the request before is answered:

- get: a signed GET;
- send: a signed PUT of a transaction with 50 messages (about 45 kB);
- unsigned: what the same PUT costs without signature and check.

The figures are the CPU times of the client and of the server per request, in microseconds. Then come those of a get on
a new connection: with a whole TLS handshake, and with a session that is resumed.
"""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from signedjson.key import generate_signing_key, get_verify_key, read_signing_keys, write_signing_keys
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from bench.support.usage import cpu_seconds
from synapse_like import logs
from synapse_like.clock import ReactorClock
from tests.support.certificates import Authority
from tests.support.processes import free_port

US = "us.example"
MESSAGES = 50
NEW_CONNECTIONS = 200


def transaction(destination: str) -> dict[str, Any]:
    """A transaction of 50 messages, of about 900 bytes each."""
    pdu = {
        "pdu_id": "abcdefghijklmnop",
        "origin": US,
        "context": "!abcdefghijklmnopqr:us.example",
        "pdu_type": "m.room.message",
        "user_id": "@alice:us.example",
        "ts": 1_800_000_000_000,
        "depth": 1234,
        "prev_pdus": [["abcdefghijklmnoq", US]],
        "auth_pdus": [[f"auth{number}", US] for number in range(4)],
        "content": {"msgtype": "m.text", "body": "Hello, world. " * 20},
        "hashes": {"sha256": "x" * 43},
        "signatures": {US: {"ed25519:1": "y" * 86}},
    }
    return {
        "transaction_id": "1",
        "ts": 1,
        "origin_server_ts": 1,
        "origin": US,
        "destination": destination,
        "prev_ids": [],
        "pdus": [pdu] * MESSAGES,
        "edus": [],
    }


def serve(folder: Path, port: int) -> None:
    """Be a server: say so when it listens, serve until killed."""
    from twisted.internet import reactor
    from twisted.python.threadpool import ThreadPool

    from synapse_like.background import Slices
    from synapse_like.federation.keyring import Keyring
    from synapse_like.federation.own_keys import OwnKeys
    from synapse_like.federation.tls import ServerTls
    from synapse_like.http.federation.authentication import SignatureAuthenticator
    from synapse_like.http.limits import Limiter
    from synapse_like.http.requests import Body, Call
    from synapse_like.http.routing import Auth, Mount, Route
    from synapse_like.http.site import make_site
    from synapse_like.storage.server_keys import StoredKey

    logs.configure("text", "error")
    loop: Any = reactor
    clock = ReactorClock(loop)
    unused: Any = None
    keyring = Keyring(
        OwnKeys(f"localhost:{port}", generate_signing_key("1"), {}),
        unused,
        unused,
        clock,
        Slices(loop, ThreadPool(0, 1)),
    )
    with (folder / "signing.key").open() as file:
        [key] = read_signing_keys(file)
    now = clock.now_ms()
    stored = StoredKey("ed25519:1", get_verify_key(key).encode(), now + 10**8, False, None, now)
    keyring._learn(US, [stored])

    async def null(call: Call[str]) -> object:
        return {}

    limiter = Limiter({"strangers": (1, 1)}, clock.monotonic)
    site = make_site(
        [
            Mount(
                "/_matrix/federation/v1",
                [
                    Route("GET", "/query/{kind}", null),
                    Route("PUT", "/send/{txn_id}/", null, body=Body.OBJECT),
                    Route("PUT", "/unsigned/{txn_id}/", null, body=Body.OBJECT, auth=Auth.NONE),
                ],
            )
        ],
        authenticator=SignatureAuthenticator(keyring, limiter, lambda _: None),
        limiter=limiter,
        clock=clock,
    )
    loop.listenSSL(port, site, ServerTls(folder / "1.crt", folder / "1.key"), interface="127.0.0.1")
    print("listening", flush=True)
    loop.run()


async def ask(reactor: Any, folder: Path, server: int, port: int, requests: int) -> None:
    """Be the client, and print."""
    from synapse_like.federation.agent import Agent
    from synapse_like.federation.client import FederationClient
    from synapse_like.federation.resolver import ServerResolver
    from synapse_like.federation.tls import ClientTls
    from synapse_like.protocol.request_signing import encode_content

    logs.configure("text", "error")
    with (folder / "signing.key").open() as file:
        [key] = read_signing_keys(file)
    unused: Any = None
    tls = ClientTls(ca_file=folder / "authority.crt")
    agent = Agent(reactor, ServerResolver(unused, ReactorClock(reactor)), tls, allow_private_addresses=True)
    destination = f"localhost:{port}"
    client = FederationClient(agent, US, key)
    body = transaction(destination)

    async def get() -> None:
        await client.query(destination, "profile", {"user_id": "@alice:us.example", "field": "displayname"})

    async def send() -> None:
        await client.send_transaction(destination, "1", body)

    async def unsigned() -> None:
        encoded = encode_content(body)
        answer = await agent.request(
            "PUT", destination, "/_matrix/federation/v1/unsigned/1/", body=encoded, most_bytes=1000
        )
        assert answer.status == 200

    for name, function in (("get", get), ("send", send), ("unsigned", unsigned)):
        for _ in range(requests // 10):
            await function()
        await measure(name, function, server, requests)
    for name in ("new", "resumed"):

        async def connect(is_new: bool = name == "new") -> None:
            await agent.close()
            if is_new:
                tls.forget_session(destination)
            await get()

        await measure(name, connect, server, NEW_CONNECTIONS)
    await agent.close()


async def measure(name: str, function: Callable[[], Awaitable[None]], server: int, times: int) -> None:
    """Do something often, and print what it costs each time."""
    server_before, before = cpu_seconds(server), time.process_time()
    for _ in range(times):
        await function()
    ours, theirs = time.process_time() - before, cpu_seconds(server) - server_before
    print(f"{name:<10} client {ours / times * 1e6:6.0f} µs   server {theirs / times * 1e6:6.0f} µs")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(Path(options.serve[0]), int(options.serve[1]))
        return
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="synapse-like-bench-") as name:
        folder = Path(name)
        Authority(folder).certify("localhost")
        with (folder / "signing.key").open("w") as file:
            write_signing_keys(file, [generate_signing_key("1")])
        command = [sys.executable, "-m", "bench.federation_floor", "--serve", name, str(port)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert server.stdout is not None
        try:
            server.stdout.readline()
            react(lambda loop: Deferred.fromCoroutine(ask(loop, folder, server.pid, port, options.requests)))
        finally:
            server.kill()
            server.communicate()


if __name__ == "__main__":
    main()
