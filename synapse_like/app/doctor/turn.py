"""As much of a TURN client as it takes to see that a TURN server relays for us (RFC 8489, RFC 8656)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import ssl
import struct
from collections.abc import Mapping

_BINDING, _ALLOCATE, _REFRESH = 0x0001, 0x0003, 0x0004
_SUCCESS, _REFUSAL = 0x0100, 0x0110
_USERNAME, _INTEGRITY, _ERROR, _LIFETIME, _REALM, _NONCE = 0x0006, 0x0008, 0x0009, 0x000D, 0x0014, 0x0015
_RELAYED, _TRANSPORT = 0x0016, 0x0019
_COOKIE = 0x2112A442
_HEADER = struct.Struct("!HHI12s")
_UDP = b"\x11\0\0\0"
#: How often a question is asked by UDP, which may lose it, and how long each answer is waited for, in seconds.
_TRIES, _SECONDS = 3, 2.0

Attributes = Mapping[int, bytes]


class TurnFault(Exception):
    """The server does not do what it should; says what."""


def probe(uri: str, username: str, password: str) -> None:
    """Have a TURN server relay for us, for a moment; or a STUN server tell our address.

    :param uri: such as ``turn:turn.example.org?transport=udp``.
    :raises TurnFault: it refuses, or speaks nonsense.
    :raises OSError: it cannot be reached.
    """
    scheme, _, rest = uri.partition(":")
    address, _, query = rest.partition("?")
    is_secure = scheme in ("turns", "stuns")
    host, port = _place(address, 5349 if is_secure else 3478)
    is_stream = is_secure or query == "transport=tcp"
    with _connect(host, port, is_stream=is_stream, is_secure=is_secure) as connection:
        if scheme in ("stun", "stuns"):
            kind, _ = _ask(connection, _BINDING, {}, is_stream=is_stream)
            if kind != _BINDING | _SUCCESS:
                raise TurnFault("it does not tell our address")
            return
        _allocate(connection, username, password, is_stream=is_stream)


def _allocate(connection: socket.socket, username: str, password: str, *, is_stream: bool) -> None:
    kind, challenge = _ask(connection, _ALLOCATE, {_TRANSPORT: _UDP}, is_stream=is_stream)
    if kind == _ALLOCATE | _SUCCESS:
        raise TurnFault("it relays for just anybody, without credentials")
    if _code(challenge) != 401 or _REALM not in challenge or _NONCE not in challenge:
        raise TurnFault(f"it refuses to ask who we are, with {_code(challenge)}")
    said = {_USERNAME: username.encode(), _REALM: challenge[_REALM], _NONCE: challenge[_NONCE]}
    key = hashlib.md5(b":".join([username.encode(), challenge[_REALM], password.encode()])).digest()
    kind, answer = _ask(connection, _ALLOCATE, {_TRANSPORT: _UDP, **said}, key, is_stream=is_stream)
    if kind != _ALLOCATE | _SUCCESS or _RELAYED not in answer:
        code = _code(answer)
        raise TurnFault("it does not take our credentials" if code == 401 else f"it refuses to relay, with {code}")
    # Give it back.
    _ask(connection, _REFRESH, {_LIFETIME: bytes(4), **said}, key, is_stream=is_stream)


def _place(address: str, usual_port: int) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, port = address, str(usual_port)
    if not port.isdigit():
        raise TurnFault(f"its port is {port!r}, which is no number")
    return host.strip("[]"), int(port)


def _connect(host: str, port: int, *, is_stream: bool, is_secure: bool) -> socket.socket:
    kind = socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM
    [(family, _, _, _, address), *_] = socket.getaddrinfo(host, port, type=kind)
    connection = socket.socket(family, kind)
    connection.settimeout(_SECONDS * _TRIES if is_stream else _SECONDS)
    try:
        connection.connect(address)
        return ssl.create_default_context().wrap_socket(connection, server_hostname=host) if is_secure else connection
    except BaseException:
        connection.close()
        raise


def _ask(
    connection: socket.socket, kind: int, attributes: Attributes, key: bytes | None = None, *, is_stream: bool
) -> tuple[int, dict[int, bytes]]:
    number = secrets.token_bytes(12)
    body = b"".join(_attribute(name, value) for name, value in attributes.items())
    if key is not None:
        # The length counts the attribute that holds the code, too.
        head = _HEADER.pack(kind, len(body) + 24, _COOKIE, number)
        body += _attribute(_INTEGRITY, hmac.digest(key, head + body, "sha1"))
    question = _HEADER.pack(kind, len(body), _COOKIE, number) + body
    for attempt in range(1 if is_stream else _TRIES):
        connection.sendall(question)
        try:
            answer = _read_stream(connection) if is_stream else connection.recv(2048)
        except TimeoutError:
            if is_stream or attempt == _TRIES - 1:
                raise
            continue
        return _parse(answer, number)
    raise TurnFault("it does not answer")


def _read_stream(connection: socket.socket) -> bytes:
    head = _exactly(connection, _HEADER.size)
    return head + _exactly(connection, int.from_bytes(head[2:4], "big"))


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise TurnFault("it ended the connection")
        data += part
    return data


def _parse(answer: bytes, number: bytes) -> tuple[int, dict[int, bytes]]:
    if len(answer) < _HEADER.size:
        raise TurnFault("its answer makes no sense")
    kind, length, cookie, answered = _HEADER.unpack_from(answer)
    if cookie != _COOKIE or answered != number or length != len(answer) - _HEADER.size:
        raise TurnFault("its answer makes no sense")
    attributes, place = {}, _HEADER.size
    while place + 4 <= len(answer):
        name, size = struct.unpack_from("!HH", answer, place)
        attributes[name] = answer[place + 4 : place + 4 + size]
        place += 4 + (size + 3) // 4 * 4
    return kind, attributes


def _attribute(name: int, value: bytes) -> bytes:
    return struct.pack("!HH", name, len(value)) + value + bytes(-len(value) % 4)


def _code(attributes: Attributes) -> int:
    """The code of a refusal; 0 if it has none."""
    error = attributes.get(_ERROR, b"")
    return error[2] * 100 + error[3] if len(error) >= 4 else 0
