"""Events that wait for what they lack: bounded, for one server and in time (SEC-1)."""

from __future__ import annotations

from synapse_like.storage import incoming
from synapse_like.storage.database import Connection
from synapse_like.storage.incoming import MOST_WAITING, WAITING_MS, WaitingPdu


def some(origin: str, first: int, count: int) -> list[WaitingPdu]:
    return [WaitingPdu(origin, "!room:a", f"${number}:{origin}", b"{}") for number in range(first, first + count)]


def test_one_server_can_let_only_so_many_wait(connection: Connection) -> None:
    assert connection.transact(incoming.keep_waiting, some("a", 0, MOST_WAITING - 1), now_ms=1) == set()
    assert connection.transact(incoming.keep_waiting, some("a", 0, 10), now_ms=1) == set()
    refused = connection.transact(incoming.keep_waiting, some("a", MOST_WAITING - 1, 3), now_ms=1)
    assert refused == {f"${MOST_WAITING}:a", f"${MOST_WAITING + 1}:a"}
    assert connection.transact(incoming.keep_waiting, some("b", 0, 1), now_ms=1) == set()
    assert len(connection.transact(incoming.all_waiting)) == MOST_WAITING + 1


def test_nothing_waits_for_ever(connection: Connection) -> None:
    connection.transact(incoming.keep_waiting, some("a", 0, 1), now_ms=1)
    connection.transact(incoming.keep_waiting, some("a", 1, 1), now_ms=2)
    connection.transact(incoming.delete_old, now_ms=2 + WAITING_MS)
    assert [waiting.event_id for waiting in connection.transact(incoming.all_waiting)] == ["$1:a"]
