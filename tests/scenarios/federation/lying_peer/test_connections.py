"""Connections that do nothing, slowly; and what is not said in the clear."""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import ExitStack

import pytest

from tests.scenarios.conftest import Unique
from tests.scenarios.federation.lying_peer.scene import (
    Scene,
    hosted,
)
from tests.support.client import ApiError, Client
from tests.support.federation import Federation
from tests.support.lying_peer import LyingPeer
from tests.support.server import HomeServer

# Connections that do nothing, slowly.


def test_slow_and_silent_connections_keep_nobody_else_waiting(old_scene: Scene) -> None:
    """SEC-1: hundreds that begin a handshake, or a request, and do not go on."""
    scene = old_scene
    host, port = scene.server.name.partition(":")[0], scene.server.federation_port
    context = ssl.create_default_context(cafile=str(scene.peer._authority.file))
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection((host, port), timeout=5)) for _ in range(150)]
        slow = [
            stack.enter_context(
                context.wrap_socket(socket.create_connection((host, port), timeout=5), server_hostname=host)
            )
            for _ in range(50)
        ]
        for number, connection in enumerate(slow):
            begun = [b"P", b"PUT ", b"PUT /_matrix/federation/v1/send/1/ HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nX-A: "]
            connection.sendall(begun[number % len(begun)])
        for connection in silent[:50]:
            connection.sendall(b"\x16\x03\x01")
        begun_at = time.monotonic()
        scene.works_on()
        assert time.monotonic() - begun_at < 2
        for _ in range(3):
            for connection in slow:
                connection.sendall(b"x")
            scene.works_on()


def test_plain_http_on_the_port_for_tls_is_no_request(honest: HomeServer) -> None:
    """SEC-10, FED-1: nothing is said in the clear."""
    host, _, port = honest.name.partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"GET /_matrix/key/v2/server HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            heard = connection.recv(1000)
        except ConnectionError:
            heard = b""
        assert b"HTTP" not in heard
        assert b"verify_keys" not in heard


def test_old_versions_of_tls_are_refused(lone: Federation, honest: HomeServer) -> None:
    """SEC-10, FED-1."""
    host, _, port = honest.name.partition(":")
    context = ssl.create_default_context(cafile=str(lone.authority.file))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLS"):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname=host)


def test_server_with_the_wrong_certificate_is_told_nothing(lone: Federation, alice: Client, unique: Unique) -> None:
    """SEC-10, FED-1: its name is 127.0.0.1, its certificate is for localhost."""
    with LyingPeer(lone.authority, "localhost") as impostor:
        room = hosted(impostor, unique, "spec-2014")
        port = impostor.name.partition(":")[2]
        with pytest.raises(ApiError) as error:
            alice.join(f"#{unique('x')}:127.0.0.1:{port}")
        assert error.value.status in (404, 502, 504)
        assert not impostor.asked, room
