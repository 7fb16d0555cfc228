"""The doors between servers: what they let through, hold back, and whom they know."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.network import Network

#: Says back what it hears, on the port that it prints.
ECHO = """
import socket
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
while True:
    connection, _ = listening.accept()
    while data := connection.recv(1 << 16):
        connection.sendall(data)
    connection.close()
"""
#: Asks at a port, and says whether the answer was what it said.
ASK = """
import socket, sys
try:
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=3) as connection:
        connection.sendall(b"hello")
        print(connection.recv(5) == b"hello")
except OSError:
    print(False)
"""


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    yield network
    network.close()


@pytest.fixture
def door(network: Network) -> Iterator[int]:
    """The port of the door of a server `echo`; this process is `here`."""
    echo = subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
    assert echo.stdout is not None
    port = int(echo.stdout.readline())
    network.open_door("here", 1, lambda: [os.getpid()])
    yield network.open_door("echo", port, lambda: [echo.pid])
    echo.kill()
    echo.wait()
    echo.stdout.close()


def speak(door: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", door), timeout=5)


def comes_back(connection: socket.socket, said: bytes) -> bool:
    try:
        connection.sendall(said)
        heard = b""
        while len(heard) < len(said):
            piece = connection.recv(1 << 16)
            if not piece:
                return False
            heard += piece
    except ConnectionError:
        return False
    return heard == said


def test_bytes_pass_both_ways(door: int) -> None:
    with speak(door) as connection:
        assert comes_back(connection, b"hello")
        assert comes_back(connection, bytes(range(256)) * 4000)


def test_end_of_one_side_reaches_the_other(door: int) -> None:
    with speak(door) as connection:
        connection.sendall(b"hello")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(5) == b"hello"
        assert connection.recv(5) == b""


def test_line_is_known_by_the_process_at_its_other_end(network: Network, door: int) -> None:
    with speak(door) as connection:
        assert comes_back(connection, b"x")
    assert network.connections("here", "echo") == 1
    subprocess.run([sys.executable, "-c", ASK, str(door)], check=True, stdout=subprocess.DEVNULL)
    # That was a child of this process, so it counts as the same server.
    assert network.connections("here", "echo") == 2
    network.open_door("here", 1, list)
    with speak(door) as connection:
        assert comes_back(connection, b"x")
    assert network.connections(None, "echo") == 1


def test_cut_ends_what_passes_and_lets_nothing_in(network: Network, door: int) -> None:
    with speak(door) as connection:
        assert comes_back(connection, b"before")
        network.cut([("here", "echo")])
        assert not comes_back(connection, b"after")
    with speak(door) as connection:
        assert not comes_back(connection, b"still")
    network.heal()
    with speak(door) as connection:
        assert comes_back(connection, b"healed")


def test_cut_of_one_line_leaves_the_others(network: Network, door: int) -> None:
    network.cut([("here", "here"), ("echo", "here"), (None, "echo")])
    with speak(door) as connection:
        assert comes_back(connection, b"hello")


def test_silent_cut_says_nothing_at_all(network: Network, door: int) -> None:
    network.cut([("here", "echo")], silently=True)
    with speak(door) as connection:
        connection.settimeout(0.3)
        connection.sendall(b"hello")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        network.heal()
        connection.settimeout(5)
        assert not comes_back(connection, b"hello")


def test_slow_line_delays_each_way_and_keeps_the_order(network: Network, door: int) -> None:
    network.slow("echo", 0.2)
    with speak(door) as connection:
        begun = time.monotonic()
        connection.sendall(b"a")
        time.sleep(0.05)
        connection.sendall(b"b")
        assert connection.recv(1) + connection.recv(1) == b"ab"
        assert 0.4 <= time.monotonic() - begun < 1.5


def test_server_that_is_down_closes_the_connection(network: Network) -> None:
    door = network.open_door("down", 1, list)
    with speak(door) as connection:
        assert not comes_back(connection, b"hello")


def test_closing_ends_all_lines(network: Network, door: int) -> None:
    with speak(door) as connection:
        assert comes_back(connection, b"hello")
        network.close()
        assert not comes_back(connection, b"hello")
