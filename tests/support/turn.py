"""A real TURN server, Debian's coturn, and as much of a TURN client as it takes to be let in (RFC 8489, RFC 8656)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.processes import dying_with_us, free_port, wait_until

HOW_TO_INSTALL = "coturn is needed to try TURN credentials (Debian: apt-get install coturn)"

ALLOCATE, ALLOCATED, REFUSED = 0x0003, 0x0103, 0x0113
USERNAME, INTEGRITY, ERROR, REALM, NONCE, RELAYED, TRANSPORT = 0x0006, 0x0008, 0x0009, 0x0014, 0x0015, 0x0016, 0x0019
_COOKIE = 0x2112A442
_UDP = b"\x11\0\0\0"

Attributes = Mapping[int, bytes]


def find_coturn() -> str | None:
    """Its program, if it is installed."""
    return shutil.which("turnserver")


class Coturn:
    """A TURN server of our own on a free port of this machine; for UDP alone.

    :param program: as found by `find_coturn`.
    :param folder: where it keeps its files; must exist.
    :param secret: by which it tells who was given credentials.
    """

    def __init__(self, program: str, folder: Path, secret: str) -> None:
        self.port = free_port()
        words = {
            "listening-ip": "127.0.0.1",
            "relay-ip": "127.0.0.1",
            "listening-port": self.port,
            "static-auth-secret": secret,
            "realm": "example.org",
            "userdb": folder / "db",
            "pidfile": folder / "pid",
            "log-file": "stdout",
        }
        options = [f"--{name}={value}" for name, value in words.items()]
        switches = ["-n", "--use-auth-secret", "--no-tls", "--no-dtls", "--no-cli", "--no-tcp-relay"]
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, *switches, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=dying_with_us(signal.SIGKILL),
            )
        try:
            wait_until("coturn to answer", self._answers)
        except BaseException as error:
            self.stop()
            error.add_note(f"Its log:\n{self._log.read_text(errors='replace')}")
            raise

    @property
    def uri(self) -> str:
        """How clients are told of it."""
        return f"turn:127.0.0.1:{self.port}?transport=udp"

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError("coturn ended before it served")
        try:
            with _connect(self.uri, timeout=0.5) as connection:
                return _ask(connection, {TRANSPORT: _UDP})[0] == REFUSED
        except OSError:
            return False


def allocate(uri: str, username: str, password: str) -> int:
    """Ask a TURN server to relay for us.

    :param uri: such as `turn:127.0.0.1:3478?transport=udp`.
    :returns: 0 if it does, else the code of its refusal.
    """
    with _connect(uri, timeout=5) as connection:
        kind, challenge = _ask(connection, {TRANSPORT: _UDP})
        assert (kind, _code(challenge)) == (REFUSED, 401), "it relays for just anybody"
        key = hashlib.md5(b":".join([username.encode(), challenge[REALM], password.encode()])).digest()
        said = {
            TRANSPORT: _UDP,
            USERNAME: username.encode(),
            REALM: challenge[REALM],
            NONCE: challenge[NONCE],
        }
        kind, answer = _ask(connection, said, key)
    if kind == ALLOCATED:
        assert RELAYED in answer
        return 0
    assert kind == REFUSED
    return _code(answer)


def _connect(uri: str, *, timeout: float) -> socket.socket:
    """A place to ask from: a server gives each a challenge of its own."""
    host, port = uri.removeprefix("turn:").partition("?")[0].rsplit(":", 1)
    connection = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    connection.settimeout(timeout)
    connection.connect((host, int(port)))
    return connection


def _code(answer: Attributes) -> int:
    return answer[ERROR][2] * 100 + answer[ERROR][3]


def _ask(connection: socket.socket, said: Attributes, key: bytes | None = None) -> tuple[int, dict[int, bytes]]:
    """Ask for an allocation; the kind of the answer, and what it says."""
    transaction = secrets.token_bytes(12)
    body = b"".join(_attribute(kind, value) for kind, value in said.items())
    if key is not None:
        # What is signed says a length that includes the signature.
        signed = _head(len(body) + 24, transaction) + body
        body += _attribute(INTEGRITY, hmac.digest(key, signed, "sha1"))
    connection.send(_head(len(body), transaction) + body)
    answer = connection.recv(2048)
    assert answer[8:20] == transaction
    return struct.unpack(">H", answer[:2])[0], _attributes(answer[20:])


def _head(length: int, transaction: bytes) -> bytes:
    return struct.pack(">HHI", ALLOCATE, length, _COOKIE) + transaction


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack(">HH", kind, len(value)) + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while data:
        kind, length = struct.unpack(">HH", data[:4])
        found[kind] = data[4 : 4 + length]
        data = data[4 + length + (-length % 4) :]
    return found
