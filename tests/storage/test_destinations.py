"""The tables behind the queues."""

from __future__ import annotations

from typing import Any

import pytest

from synapse_like.federation import status
from synapse_like.protocol.room_versions import V1
from synapse_like.storage import destinations, room_servers, rooms
from synapse_like.storage.connections import Connection
from synapse_like.storage.destinations import Destination
from synapse_like.storage.events import GAP
from synapse_like.storage.transactions import Transaction

THERE = "there.example"


def prepare(txn: Transaction, count: int) -> None:
    """A room with another server, and some events for it."""
    room = rooms.create(txn, "!room:here", V1, is_public=False)
    room_servers.change(txn, room, {THERE: 1}, position=0, since=0)
    for position in range(1, count + 1):
        txn.execute(
            "INSERT INTO events (event_id, room_nid, place, is_outgoing, pdu) VALUES (?, ?, ?, 1, ?)",
            (f"${position}", room.room_nid, position * GAP, b"{}"),
        )
    txn.execute("UPDATE stream_positions SET position = ? WHERE stream = 'events'", (count,))


def lasting(txn: Transaction) -> list[tuple[int, bytes]]:
    return destinations.waiting_edus(txn, THERE, after=0, most=100)[0]


def test_lasting_edus_have_a_bound(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destinations, "MOST_LASTING_EDUS", 3)

    def add(txn: Transaction) -> None:
        for n in range(5):
            destinations.add_edu(txn, THERE, "m.test", None, b"%d" % n)
        destinations.add_edu(txn, "other.example", "m.test", None, b"other")

    connection.transact(add)
    assert [edu for _, edu in connection.transact(lasting)] == [b"2", b"3", b"4"]


def test_what_is_saved_comes_back(connection: Connection) -> None:
    for item in (
        Destination(THERE, 7, "7-x", 1, 2, 1000, "nobody is there"),
        Destination(THERE, 8, "8-x", None, None, 0, None),
    ):
        connection.transact(destinations.save, [item], [])
        assert connection.transact(destinations.find, THERE) == item


def test_a_server_that_was_set_back_stays_there_whatever_is_saved_before_that_is_heard(connection: Connection) -> None:
    connection.transact(destinations.save, [Destination(THERE, 7)], [])
    connection.transact(destinations.rewind, THERE, 3)
    assert connection.transact(destinations.save, [Destination(THERE, 8)], [], known={THERE: 7}) == {THERE: 3}
    assert connection.transact(destinations.find, THERE).sent_up_to == 3
    assert connection.transact(destinations.save, [Destination(THERE, 8)], [], known={THERE: 3}) == {THERE: 8}
    assert connection.transact(destinations.find, THERE).sent_up_to == 8


def test_only_servers_for_which_something_waits_need_attention(connection: Connection) -> None:
    connection.transact(prepare, 5)
    assert connection.transact(destinations.needing_attention) == [THERE]
    connection.transact(destinations.save, [Destination(THERE, 4)], [])
    assert connection.transact(destinations.needing_attention) == [THERE]
    connection.transact(destinations.save, [Destination(THERE, 5)], [])
    assert connection.transact(destinations.needing_attention) == []
    connection.transact(destinations.save, [Destination(THERE, 5, failing_since=1)], [])
    assert connection.transact(destinations.needing_attention) == [THERE]
    connection.transact(destinations.add_edu, "other.example", "m.test", None, b"{}")
    assert connection.transact(destinations.needing_attention) == ["other.example", THERE]


def test_asking_again_survives_what_the_server_saves_meanwhile(connection: Connection) -> None:
    failing = Destination(THERE, 0, None, 1, 2, 1000, "nobody is there")
    connection.transact(destinations.save, [failing], [])
    connection.transact(destinations.ask_retry, None)
    connection.transact(destinations.save, [failing], [])
    assert connection.transact(destinations.retries_asked) == [THERE]


def test_a_batch_is_found_without_reading_what_is_behind_it(connection: Connection) -> None:
    """Otherwise catching up would take the square of the time."""
    connection.transact(prepare, 3000)

    def plan(txn: Transaction) -> list[Any]:
        found = destinations.waiting(txn, THERE, after=100, most_pdus=50, edus_after=0, most_edus=100)
        assert [position for position, _ in found.pdus] == list(range(101, 151))
        assert (found.up_to, found.is_all) == (150, False)
        return [txn.statements]

    [statements] = connection.transact(plan)
    assert statements <= 4


def test_the_operator_sees_who_is_behind_and_why(connection: Connection) -> None:
    connection.transact(prepare, 12)
    connection.transact(
        destinations.save,
        [
            Destination(THERE, 2, None, 1_412_600_000_000, 1_412_600_060_000, 60_000, "nobody\nis there"),
            Destination("a.example", 12),
        ],
        [],
    )
    assert connection.transact(status.table, 1_412_600_030_000) == [
        "server         events waiting  other waiting  failing since         next try              last error",
        "there.example  10              0              2014-10-06 12:53:20Z  2014-10-06 12:54:20Z  nobody is there",
        "a.example      0               0              -                     -                     -",
    ]


def test_waiting_events_are_counted_up_to_a_bound(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destinations, "MOST_COUNTED", 10)
    monkeypatch.setattr(status, "MOST_COUNTED", 10)
    connection.transact(prepare, 12)
    assert connection.transact(destinations.overview)[0].waiting == 11
    assert " over 10 " in connection.transact(status.table, 0)[1]
