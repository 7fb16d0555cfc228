"""A client that costs little itself: its requests are bytes, made beforehand, and of an answer it reads the length.

A client shares the processors with the server it measures, so it had better be idle.
"""

from __future__ import annotations

import json
import re
import select
import selectors
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

PREFIX = "/_matrix/client/api/v1"

#: A connection that was not used for so long may have been closed by the other side.
_IDLE_SECONDS = 5
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class User:
    """Somebody who is logged in."""

    user_id: str
    token: str

    def request(self, method: str, path: str, body: Mapping[str, object] | None = None, **query: object) -> bytes:
        """A request of theirs.

        :param path: below the API's prefix, percent-encoded.
        :param query: its parameters; `from_` stands for `from`.
        """
        return request(method, path, body, token=self.token, **query)

    def say(self, room: str, txn_id: object) -> bytes:
        """A message of usual length to a room, as a PUT that could be repeated."""
        body = {"msgtype": "m.text", "body": f"This is message {txn_id} of those that were sent to measure."}
        return self.request("PUT", f"/rooms/{quote(room, safe='')}/send/m.room.message/{txn_id}", body)


def request(
    method: str,
    path: str,
    body: Mapping[str, object] | None = None,
    *,
    token: str = "",
    prefix: str = PREFIX,
    **query: object,
) -> bytes:
    """A request as bytes, to API v1 if no other prefix is given."""
    data = b"" if body is None else json.dumps(body).encode()
    parameters = urlencode({name.rstrip("_"): value for name, value in query.items()})
    target = f"{prefix}{path}?{parameters}" if parameters else prefix + path
    head = [f"{method} {target} HTTP/1.1", "Host: localhost", f"Content-Length: {len(data)}"]
    if token:
        head.append(f"Authorization: Bearer {token}")
    return "\r\n".join([*head, "", ""]).encode() + data


def registration(name: str, password: str) -> bytes:
    """Registering at a server that asks for a password only, without more ado."""
    return request("POST", "/register", {"type": "m.login.password", "user": name, "password": password})


def user_of(answer: bytes) -> User:
    """Who was registered."""
    registered = json.loads(answer)
    return User(registered["user_id"], registered["access_token"])


class Line:
    """A connection that is kept, with one request on its way at the most.

    Servers close those over which nothing goes for a while: then it is made anew.

    :param address: where the server listens.
    :raises OSError: nobody listens there.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._used = time.monotonic()
        self._connect()

    def _connect(self) -> None:
        self._socket = socket.create_connection(self._address, timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """What a selector asks for."""
        return self._socket.fileno()

    def send(self, message: bytes) -> None:
        """Send a request."""
        now = time.monotonic()
        if now - self._used > _IDLE_SECONDS and self._is_readable():
            # There is nothing to read between an answer and the next request, but the end.
            self._socket.close()
            self._connect()
        self._used = now
        self._socket.sendall(message)

    def _is_readable(self) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def receive(self) -> bytes:
        """Read the answer to it; its body.

        :raises RuntimeError: it is not 200, or the server closed the connection.
        """
        received = self._receive_some()
        while b"\r\n\r\n" not in received:
            received += self._receive_some()
        head, _, body = received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if length is None and _CHUNKED.search(head):
            body = self._receive_chunks(body)
        missing = int(length[1]) - len(body) if length is not None else 0
        parts = [body]
        while missing > 0:
            parts.append(self._receive_some())
            missing -= len(parts[-1])
        body = b"".join(parts)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"the server answered {head[:80]!r} {body[:500]!r}")
        return body

    def _receive_chunks(self, received: bytes) -> bytes:
        """The rest of a body that comes in chunks; it is JSON, which has no such line ends within."""
        while not (received.endswith(_LAST_CHUNK) or received == _LAST_CHUNK.lstrip()):
            received += self._receive_some()
        body = b""
        while True:
            size, _, rest = received.partition(b"\r\n")
            length = int(size, 16)
            if length == 0:
                return body
            body += rest[:length]
            received = rest[length + 2 :]

    def _receive_some(self) -> bytes:
        received = self._socket.recv(262144)
        if not received:
            raise RuntimeError("the server closed the connection")
        return received

    def ask(self, message: bytes) -> bytes:
        """Send a request and read its answer."""
        self.send(message)
        return self.receive()

    def ask_json(self, message: bytes) -> Any:
        """Send a request; the JSON it is answered with."""
        return json.loads(self.ask(message))


def ask_side_by_side(lines: Sequence[Line], requests: Sequence[bytes]) -> list[bytes]:
    """Work through requests on several connections at the same time; the answers in the order of the requests.

    The requests go to the connections in turn, so that one `n` places on goes over the same one if there are `n`.
    """
    answers = [b""] * len(requests)
    waiting = {line: deque(range(first, len(requests), len(lines))) for first, line in enumerate(lines)}
    with selectors.DefaultSelector() as selector:
        for line, numbers in waiting.items():
            if numbers:
                line.send(requests[numbers[0]])
                selector.register(line, selectors.EVENT_READ, line)
        while selector.get_map():
            for key, _ in selector.select():
                line = key.data
                numbers = waiting[line]
                answers[numbers.popleft()] = line.receive()
                if numbers:
                    line.send(requests[numbers[0]])
                else:
                    selector.unregister(line)
    return answers
