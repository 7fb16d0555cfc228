"""What a server tells Prometheus about itself; of how many processes it is makes no difference."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from synapse_like.config import load
from tests.scenarios.conftest import any_process
from tests.support.client import Client
from tests.support.processes import wait_until
from tests.support.server import HomeServer

pytestmark = any_process

Figures = dict[tuple[str, frozenset[str]], float]
SEND = "/_matrix/client/api/v1/rooms/{room}/send/{type}/{txn_id}"


def page(server: HomeServer) -> str:
    """All that it says."""
    port = load(server.config, {}).metrics.port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def figures(server: HomeServer) -> Figures:
    """What it says, by name and values of labels; that of each process by itself."""
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page(server))
        for sample in family.samples
    }


def all_of(server: HomeServer) -> dict[tuple[str, frozenset[str]], list[float]]:
    """What it says, by name and values of labels: what each process says that says something."""
    found: dict[tuple[str, frozenset[str]], list[float]] = {}
    for family in text_string_to_metric_families(page(server)):
        for sample in family.samples:
            labels = frozenset(value for label, value in sample.labels.items() if label != "process")
            found.setdefault((sample.name, labels), []).append(sample.value)
    return found


def added_up(server: HomeServer) -> Figures:
    """What it says, all processes together: `sum without (process)`."""
    return {key: sum(values) for key, values in all_of(server).items()}


def highest(server: HomeServer) -> Figures:
    """What it says of what is one for all processes: `max without (process)`."""
    return {key: max(values) for key, values in all_of(server).items()}


def grown(before: Figures, after: Figures, name: str, *labels: str) -> float:
    key = (name, frozenset(labels))
    return after[key] - before.get(key, 0)


def test_what_happens_is_counted(server: HomeServer, alice: Client, room: str) -> None:
    before, position = added_up(server), highest(server)
    for number in range(3):
        alice.send(room, f"message {number}")
    after = added_up(server)
    assert grown(before, after, "synapse_like_requests_total", "clients", "PUT", SEND, "2xx") == 3
    assert grown(before, after, "synapse_like_request_seconds_count", "clients", "PUT", SEND) == 3
    assert grown(before, after, "synapse_like_events_total", "message", "ours") == 3
    assert grown(before, after, "synapse_like_commit_jobs_sum") >= 3
    assert grown(before, after, "synapse_like_database_wait_seconds_count", "write") >= 3
    assert grown(before, after, "synapse_like_database_run_seconds_sum", "write") > 0
    assert grown(position, highest(server), "synapse_like_stream_position", "events") == 3


def test_how_things_stand_is_told(server: HomeServer, alice: Client) -> None:
    assert added_up(server)["synapse_like_long_polls", frozenset()] == 0
    poll = alice.poll()
    wait_until("the poll", lambda: added_up(server)["synapse_like_long_polls", frozenset()] == 1)
    poll.abandon()
    wait_until("its end", lambda: added_up(server)["synapse_like_long_polls", frozenset()] == 0)
    told = all_of(server)
    assert min(told["process_resident_memory_bytes", frozenset()]) > 10_000_000
    assert sum(told["process_cpu_seconds_total", frozenset()]) > 0.1
    assert set(told["synapse_like_database_up", frozenset()]) == {1}
    assert min(told["synapse_like_database_bytes", frozenset()]) > 100_000
    assert sum(told["synapse_like_cache_bytes", frozenset({"events"})]) > 0
    assert sum(told["synapse_like_destinations", frozenset({"waiting"})]) == 0


def test_nothing_that_a_stranger_says_becomes_a_label(server: HomeServer, alice: Client, room: str) -> None:
    alice.send_event(room, "org.example.chosen-by-somebody", {})
    alice.request("GET", "/chosen-by-somebody")
    alice.request("FROBNICATE", "/chosen-by-somebody")
    names = " ".join(word for _, labels in figures(server) for word in labels)
    assert "chosen" not in names
    assert "FROBNICATE" not in names
    assert room not in names
    assert server.name not in names


@pytest.mark.parametrize("path", ["/metrics", "/_metrics"])
def test_clients_do_not_see_them(server: HomeServer, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=30)
    assert refused.value.code == 404
