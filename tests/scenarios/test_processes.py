"""One server that is several processes: any of them answers, and what becomes of those that die.

The processes share a PostgreSQL; on SQLite there is one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import pytest
import yaml

from tests.scenarios.conftest import known, must_not_have_failed
from tests.scenarios.test_metrics import SEND, Figures, figures
from tests.support.client import ApiError, Client
from tests.support.postgres import PostgreSQL
from tests.support.processes import free_port, is_alive, wait_until
from tests.support.server import QUICK, ROOT, HomeServer

COUNT = 3
#: Rooms that a user may make at once, and after how many seconds one more.
ROOMS, ROOM_SECONDS = 7, 1000
CREATE = "/_matrix/client/api/v1/createRoom/{txn_id}"


@pytest.fixture(scope="module")
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgresql: PostgreSQL
) -> Iterator[HomeServer]:
    """A server of three processes."""
    settings = {
        **QUICK,
        "processes": COUNT,
        "metrics.port": free_port(),
        "rate_limits.enabled": True,
        # All tests together come from one address.
        "rate_limits.classes": {
            "registration": {"per_second": 1000, "burst": 1000},
            "creations": {"per_second": 1 / ROOM_SECONDS, "burst": ROOMS},
        },
    }
    with postgresql.database() as url:
        made = HomeServer(tmp_path_factory.mktemp("home") / "data", url, settings)
        with known(request, made) as server:
            yield server


@pytest.fixture
def server(shared: HomeServer) -> Iterator[HomeServer]:
    """The server of three processes, all of which run."""
    if not shared.is_running:
        shared.start()
    wait_until("all processes", lambda: len(processes(shared)) == COUNT and all_told(shared))
    shared.forget_log()
    yield shared
    must_not_have_failed(shared)


def processes(server: HomeServer) -> list[int]:
    """The IDs of those that serve."""
    return server.process_ids[1:]


def run(server: HomeServer) -> subprocess.CompletedProcess[str]:
    """Run a server that cannot start, in a process of its own: in that of the tests there is a reactor already."""
    words = [sys.executable, "-m", "synapse_like", "run", "--config", str(server.config)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def all_told(server: HomeServer) -> Figures | None:
    """The figures of all processes, if all of them have told theirs."""
    try:
        told = figures(server)
    except URLError:
        # On a busy machine all of them may have been killed before the first has come again.
        return None
    up = [value for (name, _), value in told.items() if name == "synapse_like_process_up"]
    return told if up == [1.0] * COUNT else None


def counts(told: Figures, route: str, status: str) -> list[float]:
    """How many requests each process has answered so."""
    return [
        told.get(("synapse_like_requests_total", frozenset({str(number), "clients", "PUT", route, status})), 0)
        for number in range(1, COUNT + 1)
    ]


def sends(told: Figures) -> list[float]:
    """How many messages each process has taken."""
    return counts(told, SEND, "2xx")


def test_all_processes_answer_and_each_counts_for_itself(server: HomeServer) -> None:
    alice = Client(server).register("alice")
    room = alice.create_room()
    before, sent = wait_until("figures", lambda: all_told(server)), 0

    def everyone_has_answered() -> Figures | None:
        nonlocal sent
        for _ in range(10):
            alice.another_connection().send(room, f"message {sent}")
            sent += 1
        told = all_told(server)
        return told if told is not None and min(sends(told)) > min(sends(before)) else None

    after = wait_until("an answer of each", everyone_has_answered)
    assert sum(sends(after)) - sum(sends(before)) == sent
    resident = [value for (name, _), value in after.items() if name == "process_resident_memory_bytes"]
    assert len(resident) == COUNT


def test_a_limit_holds_for_all_processes_together(server: HomeServer) -> None:
    """RATE-1: whoever answers, so many rooms are made and no more."""
    bob = Client(server).register("bob")
    before, made, waits = wait_until("figures", lambda: all_told(server)), 0, []

    def everyone_has_refused() -> bool:
        nonlocal made
        for _ in range(ROOMS):
            answer = bob.another_connection().request("PUT", f"/createRoom/{bob.new_txn()}", {})
            if answer.status == 200:
                made += 1
            else:
                assert answer.json["errcode"] == "M_LIMIT_EXCEEDED"
                waits.append(answer.json["retry_after_ms"])
        told = all_told(server)
        if told is None:
            return False
        new = zip(counts(told, CREATE, "4xx"), counts(before, CREATE, "4xx"), strict=True)
        return min(after - then for after, then in new) > 0

    wait_until("a refusal by each", everyone_has_refused)
    assert made == ROOMS
    assert all(0 < wait <= 1000 * ROOM_SECONDS for wait in waits)


class Sender:
    """Sends messages, over a new connection each time; one that was not answered is sent again as it was."""

    def __init__(self, client: Client, room: str, name: str) -> None:
        self._client, self._room, self._name = client, room, name
        self.acknowledged: dict[str, str] = {}
        self.is_ending = False

    def go_on(self) -> None:
        while not self.is_ending:
            text = f"{self._name} {len(self.acknowledged)}"
            content = {"msgtype": "m.text", "body": text}
            connection = self._client.another_connection()
            try:
                self.acknowledged[text] = connection.send_event(self._room, "m.room.message", content, text)
            except ApiError as error:
                if error.errcode != "M_LIMIT_EXCEEDED":
                    raise
                time.sleep(error.answer.json["retry_after_ms"] / 1000)
            except (OSError, HTTPException):
                continue


def test_one_that_is_killed_comes_again_and_nothing_acknowledged_is_lost(server: HomeServer) -> None:
    """API-4."""
    alice = Client(server).register("carol")
    room = alice.create_room(visibility="public")
    senders = []
    for number in range(3):
        client = Client(server).register(f"sender-{number}")
        client.join(room)
        senders.append(Sender(client, room, f"sender {number}"))

    def have_sent(more: int) -> bool:
        return sum(len(sender.acknowledged) for sender in senders) >= more

    with ThreadPoolExecutor(len(senders)) as threads:
        sending = [threads.submit(sender.go_on) for sender in senders]
        try:
            for round_ in range(1, 4):
                wait_until("messages", lambda: have_sent(20 * round_))  # noqa: B023 - called at once
                victim = processes(server)[0]
                os.kill(victim, signal.SIGKILL)
                wait_until(
                    "another process",
                    lambda: len(now := processes(server)) == COUNT and victim not in now,  # noqa: B023
                )
        finally:
            for sender in senders:
                sender.is_ending = True
        for sent in sending:
            sent.result(timeout=30)
    wait_until("all processes", lambda: all_told(server))

    acknowledged = {text: event_id for sender in senders for text, event_id in sender.acknowledged.items()}
    history = [event for event in alice.another_connection().history(room) if event["type"] == "m.room.message"]
    stored = {event["content"]["body"]: event["event_id"] for event in history}
    assert acknowledged.items() <= stored.items(), "an acknowledged message is lost"
    assert Counter(event["content"]["body"] for event in history).most_common(1)[0][1] == 1, "one was stored twice"


def test_sigterm_ends_all_of_them_in_good_order(server: HomeServer) -> None:
    alive = processes(server)
    assert server.terminate() == 0
    assert not any(is_alive(process) for process in alive)
    assert server.recent_log().count("the server has stopped") == COUNT


def test_if_the_parent_is_killed_all_end_in_good_order_and_the_port_is_free(server: HomeServer) -> None:
    alive = processes(server)
    assert server.process_id is not None
    os.kill(server.process_id, signal.SIGKILL)
    server.wait_for_exit()
    wait_until("their end", lambda: not any(is_alive(process) for process in alive))
    assert server.recent_log().count("the server has stopped") == COUNT
    server.start()


def test_one_machine_more_shares_the_database_or_is_refused(
    request: pytest.FixtureRequest, server: HomeServer, tmp_path: Path
) -> None:
    """Another parent, on other ports: any of the two answers. One that shares nothing is not let in."""
    settings = {**QUICK, "processes": 1, "database.shared": True}
    other = HomeServer(tmp_path / "data", server.database, settings, server.name)
    other.data_dir.joinpath("signing.key").write_bytes(server.data_dir.joinpath("signing.key").read_bytes())
    alone = yaml.safe_load(other.config.read_text())
    with known(request, other):
        other.start()
        dave = Client(server).register("dave")
        room = dave.create_room()
        there = Client(other).login("dave")
        event_id = there.send(room, "from the other machine")
        assert dave.event(event_id)["content"]["body"] == "from the other machine"
        assert other.terminate() == 0
        del alone["database"]["shared"]
        other.config.write_text(yaml.safe_dump(alone))
        refused = run(other)
        assert refused.returncode == 1
        assert "servers that share the database" in refused.stderr
        assert "are running on it" in refused.stderr
    must_not_have_failed(other)


def test_nothing_starts_without_a_key_or_a_database(server: HomeServer) -> None:
    assert server.terminate() == 0
    key = server.data_dir / "signing.key"
    kept = key.read_bytes()
    key.write_text("no key")
    refused = run(server)
    key.write_bytes(kept)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Error: cannot read the signing key {key}")
    assert refused.stdout == ""
    settings = server.config.read_text()
    server.config.write_text(settings.replace(server.database, "postgresql://postgres@localhost:1/none"))
    refused = run(server)
    server.config.write_text(settings)
    assert refused.returncode == 1
    assert refused.stderr.count("Error: cannot connect to PostgreSQL") == 1
    server.start()
