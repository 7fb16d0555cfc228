"""A whole home server in this process, without a network: bytes go into its sites, and bytes come out.

Everything in it is real but for the reactor, which is moved by hand: its threads, its database in SQLite, its keys. It
reaches nobody: what it would ask of other servers fails at once. Where nothing is left to be done, time passes, so that
what waits for minutes is there at once.
"""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import orjson
from signedjson.key import generate_signing_key, get_verify_key, write_signing_keys
from twisted.internet.testing import MemoryReactorClock, StringTransport

from synapse_like.app import identity as identity_composition
from synapse_like.app import server as composition
from synapse_like.background import run_in_background
from synapse_like.config import parse
from synapse_like.http.site import Site
from synapse_like.identity.settings import IDENTITY_SERVER
from synapse_like.protocol.canonical_json import decode
from synapse_like.protocol.request_signing import authorization, encode_content
from synapse_like.protocol.room_versions import ALL_RULES, rules_for
from synapse_like.storage import server_keys
from synapse_like.storage.server_keys import StoredKey
from tests.http.site_case import Answer
from tests.support.peer_rooms import PeerRoom

US, PEER = "us.example", "peer.example"
CLIENT_V1 = "/_matrix/client/api/v1"
FEDERATION_V1, FEDERATION_V2 = "/_matrix/federation/v1", "/_matrix/federation/v2"
PASSWORD = "correct horse"
#: Seconds of real time until something hangs.
PATIENCE = 30.0
#: Seconds that pass whenever nothing is left to be done.
STEP = 0.5

SETTINGS: Mapping[str, Any] = {
    "server_name": US,
    "registration": {"mode": "open"},
    "rate_limits": {"enabled": False},
    "password_hashing": {"memory_kib": 64, "iterations": 1},
    "federation": {"tls": False},
    "limits": {"long_poll_max_ms": 2000},
    "database": {"durability": "normal"},
    "log": {"level": "warning"},
}


class Loop(MemoryReactorClock):
    """A reactor whose time is moved by hand, and which takes calls from threads.

    :ivar step: seconds that pass whenever nothing is left to be done.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = STEP
        self.from_threads: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = SimpleQueue()
        self.advance(time.time())

    def callFromThread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:  # noqa: N802
        self.from_threads.put((function, args, kwargs))

    def until(self, holds: Callable[[], bool]) -> None:
        """Live until something holds.

        :raises TimeoutError: it never does.
        """
        deadline = time.monotonic() + PATIENCE
        # What is due now, and nothing that is not.
        self.advance(0)
        while not holds():
            try:
                function, args, kwargs = self.from_threads.get(timeout=0.02)
            except Empty:
                if time.monotonic() > deadline:
                    raise TimeoutError("the server hangs") from None
                self.advance(self.step)
            else:
                function(*args, **kwargs)
                self.advance(0)


class Wire(StringTransport):
    """A connection whose client reads at once."""

    is_closed = False

    def loseConnection(self) -> None:  # noqa: N802
        self.is_closed = True

    def abortConnection(self) -> None:  # noqa: N802
        self.is_closed = True


class Inside:
    """The server, and another one of which it has the key.

    :ivar tokens: of its users, by their names.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.loop = Loop()
        if not (folder / "signing.key").exists():
            with (folder / "signing.key").open("w") as file:
                write_signing_keys(file, [generate_signing_key("1")])
        config = parse({**SETTINGS, **settings}, source="inside", folder=folder, environ={})
        self.server = composition.build(config, self.loop)
        assert self.server.federation is not None
        for agent in (self.server.federation.agent, self.server.files_agent):
            agent.switch_off()
        assert self.server.federation is not None
        self.client_site: Site[Any] = self.server.site
        self.federation_site: Site[Any] = self.server.federation.site
        self.peer_key = generate_signing_key("lie")
        self._numbers = count(1)
        self.tokens: dict[str, str] = {}

    def start(self, *, with_tasks: bool = True) -> None:
        """Begin to serve.

        :param with_tasks: do also what is to be done every so often.
        """
        self.server.database.start()
        for pool in self.server.thread_pools:
            pool.start()
        for task in self.server.tasks if with_tasks else ():
            task.start()
        run_in_background("content", self.server.content.start)
        if self.server.start_presence is not None:
            run_in_background("presence", self.server.start_presence)
        self.introduce(PEER)

    def introduce(self, peer: str) -> None:
        """Have the server know the key of another one, which is the same for all of them."""
        now_ms = int(self.loop.seconds() * 1000)
        forever = now_ms + 10**11
        key = StoredKey("ed25519:lie", bytes(get_verify_key(self.peer_key)), forever, False, None, now_ms)
        stored: list[object] = []
        self.server.database.write(
            "key", server_keys.replace, peer, [key], "{}", valid_until=forever, now_ms=now_ms
        ).addCallback(stored.append)
        self.loop.until(lambda: bool(stored))

    def stop(self) -> None:
        for pool in self.server.thread_pools:
            pool.stop()
        self.server.database.stop()

    # Asking.

    def send(self, site: Site[Any], data: bytes) -> Answer:
        """Send bytes on a connection of their own, and give the answer to the first request in them; see `exchange`."""
        return exchange(self.loop, site, data)

    def ask(self, method: str, path: str, body: object = None, user: str | None = None) -> Any:
        """Ask as a client does for what must be answered with 200."""
        headers = {"Authorization": f"Bearer {self.tokens[user]}"} if user is not None else {}
        content = None if body is None else orjson.dumps(body)
        answer = self.send(self.client_site, request(method, CLIENT_V1 + path, content, headers))
        assert answer.status == 200, answer
        return answer.json

    def sign(self, method: str, target: str, content: bytes | None, peer: str = PEER) -> str:
        """The header by which the other server signs."""
        return authorization(method=method, uri=target, origin=peer, destination=US, content=content, key=self.peer_key)

    def ask_as_peer(self, method: str, target: str, body: object = None, peer: str = PEER) -> Any:
        """Ask as the other server does for what must be answered with 200."""
        content = None if body is None else encode_content(body)
        headers = {"Authorization": self.sign(method, target, content, peer)}
        answer = self.send(self.federation_site, request(method, target, content, headers))
        assert answer.status == 200, answer
        return decode(answer.body)

    def register(self, name: str) -> str:
        """A new user; its ID."""
        stage = {"type": "m.login.password", "user": name, "password": PASSWORD}
        answer = self.ask("POST", "/register", stage)
        self.tokens[name] = answer["access_token"]
        user_id: str = answer["user_id"]
        return user_id

    def log_in(self, name: str) -> None:
        """Another token for a user."""
        stage = {"type": "m.login.password", "user": name, "password": PASSWORD}
        self.tokens[name] = self.ask("POST", "/login", stage)["access_token"]

    def join_as_peer(self, room_id: str, user_id: str) -> PeerRoom:
        """Have a user of the other server join a room."""
        place = f"/{quoted(room_id)}/{quoted(user_id)}"
        versions = "&".join(f"ver={rules.name}" for rules in ALL_RULES)
        begun = self.ask_as_peer("GET", f"{FEDERATION_V1}/make_join{place}?{versions}")
        room = PeerRoom(rules_for(begun["room_version"]), room_id, PEER, self.peer_key)
        join = room.complete(begun["event"])
        target = f"{FEDERATION_V2}/send_join/{quoted(room_id)}/{quoted(room.id_of(join))}"
        answer = self.ask_as_peer("PUT", target, join)
        room.enter(answer.get("event", join), answer["state"], answer["auth_chain"])
        return room


@contextmanager
def inside(folder: Path, **settings: Any) -> Iterator[Inside]:
    """The server, running; it reaches nobody else."""
    server = Inside(folder, **settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def exchange(loop: Loop, site: Site[Any], data: bytes) -> Answer:
    """Send bytes to a site on a connection of their own, and give the answer to the first request in them.

    :raises TimeoutError: there is none, and the connection is not closed.
    """
    wire = Wire()
    channel = site.buildProtocol(None)
    channel.makeConnection(wire)
    channel.dataReceived(data)
    # The answer to HEAD says how long its body would be, and has none.
    is_whole = _has_head if data.startswith(b"HEAD ") else _is_whole
    loop.until(lambda: wire.is_closed or is_whole(wire.value()))
    head, _, body = wire.value().partition(b"\r\n\r\n")
    channel.connectionLost()
    return Answer(head, body)


@contextmanager
def identity_inside(folder: Path) -> Iterator[tuple[Loop, Site[Any]]]:
    """The site of an identity server, in the same way; it reaches nobody, and sends no mail."""
    loop = Loop()
    with (folder / "signing.key").open("w") as file:
        write_signing_keys(file, [generate_signing_key("1")])
    settings = {"server_name": "id.example", "rate_limits": {"enabled": False}}
    server = identity_composition.build(
        IDENTITY_SERVER.parse(settings, source="inside", folder=folder, environ={}), loop
    )
    server.agent.switch_off()
    server.database.start()
    run_in_background("start", server.start)
    try:
        yield loop, server.site
    finally:
        server.database.stop()


def request(method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
    """A request in bytes."""
    lines = [f"{method} {target} HTTP/1.1", "Host: us.example"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + (body or b"")


def quoted(text: str) -> str:
    """One segment of a path."""
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


def _has_head(answer: bytes) -> bool:
    return b"\r\n\r\n" in answer


def _is_whole(received: bytes) -> bool:
    head, end, body = received.partition(b"\r\n\r\n")
    return bool(end) and len(body) >= int(Answer(head, b"").headers.get("content-length", "0"))
