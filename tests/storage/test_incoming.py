"""Events that wait for what they lack: bounded, for one server and in time (SEC-1)."""

from __future__ import annotations

from synapse_like.storage import incoming
from synapse_like.storage.connections import Connection
from synapse_like.storage.incoming import MOST_WAITING, MOST_WAITING_IN_ROOM, WAITING_MS, WaitingPdu


def some(origin: str, first: int, count: int, room_id: str = "!room:a") -> list[WaitingPdu]:
    return [WaitingPdu(origin, room_id, f"${number}:{origin}", b"{}") for number in range(first, first + count)]


def test_one_server_can_let_only_so_many_wait_for_one_room(connection: Connection) -> None:
    """The newest are kept, since they lead to the others."""
    most = MOST_WAITING_IN_ROOM
    assert connection.transact(incoming.keep_waiting, some("a", 0, most - 1), now_ms=1) == set()
    assert connection.transact(incoming.keep_waiting, some("a", 0, 10), now_ms=1) == set()
    assert connection.transact(incoming.keep_waiting, some("b", 0, 1), now_ms=1) == set()
    assert connection.transact(incoming.keep_waiting, some("a", 1000, 1, "!quiet:a"), now_ms=1) == set()
    assert connection.transact(incoming.keep_waiting, some("a", most - 1, 3), now_ms=1) == {"$0:a", "$1:a"}
    waiting = {item.event_id for item in connection.transact(incoming.all_waiting)}
    assert waiting == {f"${number}:a" for number in range(2, most + 2)} | {"$0:b", "$1000:a"}


def test_one_server_can_let_only_so_many_wait_in_all(connection: Connection) -> None:
    for number in range(MOST_WAITING // 100):
        lot = some("a", number * 100, 100, f"!{number}:a")
        assert connection.transact(incoming.keep_waiting, lot, now_ms=1) == set()
    assert connection.transact(incoming.keep_waiting, some("a", 5000, 1, "!one:more"), now_ms=1) == {"$0:a"}


def test_nothing_waits_for_ever(connection: Connection) -> None:
    connection.transact(incoming.keep_waiting, some("a", 0, 1), now_ms=1)
    connection.transact(incoming.keep_waiting, some("a", 1, 1), now_ms=2)
    connection.transact(incoming.delete_old, now_ms=2 + WAITING_MS)
    assert [waiting.event_id for waiting in connection.transact(incoming.all_waiting)] == ["$1:a"]
