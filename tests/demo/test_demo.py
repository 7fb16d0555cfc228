"""The demo, used as its README says: started, talked on, stopped, started again and removed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.support.processes import free_port

DEMO = Path(__file__).parents[2] / "demo"

Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What keeps this demo apart from one that runs in the checkout."""
    ports: set[int] = set()
    while len(ports) < 6:
        ports.add(free_port())
    words = [str(port) for port in ports]
    return {
        **os.environ,
        "COLUMNS": "120",
        "DEMO_DATA": str(tmp_path / "data"),
        "DEMO_PYTHON": sys.executable,
        "DEMO_CLIENT_PORTS": " ".join(words[:3]),
        "DEMO_SERVER_PORTS": " ".join(words[3:]),
    }


@pytest.fixture
def script(environment: dict[str, str]) -> Iterator[Script]:
    """Runs a script of the demo; nothing of it runs on after the test."""

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [DEMO / name, *arguments], env=environment, capture_output=True, text=True, timeout=110, check=False
        )

    yield run
    run("clean.sh")


def in_order(script: subprocess.CompletedProcess[str]) -> str:
    """What a script said that went well."""
    assert script.returncode == 0, script.stdout + script.stderr
    return script.stdout


def is_listening(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


def test_three_servers_hold_a_conversation_and_one_catches_up(script: Script, environment: dict[str, str]) -> None:
    client_ports = environment["DEMO_CLIENT_PORTS"].split()
    server_ports = environment["DEMO_SERVER_PORTS"].split()
    names = [f"localhost:{port}" for port in server_ports]

    started = in_order(script("start.sh"))
    for name, port in zip(names, client_ports, strict=True):
        assert f"{name} has started" in started
        assert f"http://localhost:{port}" in started
        connection = HTTPConnection("127.0.0.1", int(port), timeout=10)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()

    told = in_order(script("conversation.py"))
    missed = "bob: Then I keep her a scone."
    before, _, after = told.partition("demo/start.sh 3")
    assert before.count(missed) == 1, told
    # In the history that each of the three servers has.
    assert re.search(rf"{re.escape(missed)} +\| {re.escape(missed)} +\| {re.escape(missed)}", after), told
    assert "All three servers have the same 8 messages in the same order" in " ".join(after.split())

    again = in_order(script("start.sh"))
    assert [f"{name} runs already" in again for name in names] == [True] * 3
    assert in_order(script("stop.sh", "2")) == f"{names[1]} has stopped\n"
    assert [is_listening(port) for port in client_ports] == [True, False, True]
    alone = script("conversation.py")
    assert alone.returncode == 1
    assert f"{names[1]} cannot have a conversation" in alone.stderr

    assert f"{names[0]} has stopped" in in_order(script("stop.sh"))
    assert not any(is_listening(port) for port in client_ports + server_ports)
    assert "Removed" in in_order(script("clean.sh"))
    assert not Path(environment["DEMO_DATA"]).exists()


def test_port_that_is_in_use_is_named_and_nothing_is_started(script: Script, environment: dict[str, str]) -> None:
    taken = environment["DEMO_SERVER_PORTS"].split()[1]
    with socket.create_server(("127.0.0.1", int(taken))):
        refused = script("start.sh")
    assert refused.returncode == 1
    assert f"Port {taken} (DEMO_SERVER_PORTS) of server 2 is in use by another program." in refused.stderr
    assert not Path(environment["DEMO_DATA"]).exists()


@pytest.mark.parametrize("ports", ["8081 8082", "8081 8082 8082", "8081 8082 none", "8081 8082 65536"])
def test_ports_that_are_none_are_refused(script: Script, environment: dict[str, str], ports: str) -> None:
    environment["DEMO_CLIENT_PORTS"] = ports
    refused = script("start.sh")
    assert refused.returncode == 1
    assert "DEMO_CLIENT_PORTS must be three different ports" in refused.stderr


def test_server_that_is_none_is_refused(script: Script) -> None:
    refused = script("start.sh", "4")
    assert refused.returncode == 1
    assert "There is no server 4" in refused.stderr
