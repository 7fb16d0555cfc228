"""Paging back while other servers keep us waiting (EVS-6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as HandMovedTime

from synapse_like.clock import ReactorClock
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.handlers.backfill import FIRST_PAUSE, Backfill
from synapse_like.handlers.event_reception import admit
from synapse_like.handlers.outliers import store_outliers
from synapse_like.handlers.room_locks import RoomLocks
from synapse_like.protocol.events import Event, Pdu
from synapse_like.protocol.room_versions import V6
from synapse_like.protocol.wire_formats import to_pdu
from synapse_like.storage import gaps, rooms
from synapse_like.storage.bus import Bus
from synapse_like.storage.connections import Connection
from synapse_like.storage.gaps import Gap
from synapse_like.storage.transactions import Transaction
from tests.support.forking_rooms import Branch, ForkingRoom
from tests.support.heard_rooms import SERVER, DirectDatabase, Listener, Trusting, checked


def with_gap(connection: Connection, *, is_news: bool) -> Branch:
    """A room of `a.example`, before whose newest event something is missing."""
    branch = ForkingRoom(V6).begin()
    branch.member("@bob:b.example", "join")
    branch.member(f"@ours:{SERVER}", "join")
    Listener(connection, V6, branch.room_id).hear(branch.room.events.values())

    def lose(txn: Transaction) -> None:
        room = rooms.head(txn, branch.room_id)
        assert room is not None
        gaps.add(txn, room.room_nid, room.extremities[0].event_nid, ["$lost"], is_news=is_news)

    connection.transact(lose)
    return branch


def test_news_is_asked_for_again_when_one_is_heard_from_who_may_have_it(connection: Connection) -> None:
    """FED-6: after a long outage it came half an hour late."""
    with_gap(connection, is_news=True)
    asked: list[str] = []

    class Away:
        async def backfill(self, server: str, *_: object) -> object:
            asked.append(server)
            raise ServerUnreachable(server, "it took too long")

    time = HandMovedTime()
    database: Any = DirectDatabase(connection)
    client: Any = Away()
    unused: Any = None
    backfill = Backfill(database, client, unused, unused, RoomLocks(), ReactorClock(time), Bus())

    def ask() -> list[str]:
        asked.clear()
        done: list[object] = []
        Deferred.fromCoroutine(backfill.fill_news()).addBoth(done.append)
        assert done == [None]
        return asked

    assert ask() == ["a.example", "b.example"]
    assert ask() == []
    time.advance(FIRST_PAUSE)
    assert ask() == ["a.example", "b.example"]
    time.advance(FIRST_PAUSE)
    backfill.heard_from("elsewhere.example")
    assert ask() == []
    backfill.heard_from("b.example")
    assert ask() == ["a.example", "b.example"]


class Sharing(DirectDatabase):
    """A database on which there are other processes.

    :ivar others: the buses of those.
    """

    is_shared = True

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.others: list[Bus] = []

    def tell_others(self, *news: object) -> None:
        for bus in self.others:
            for one in news:
                bus.publish(one)


def test_news_is_asked_for_again_when_another_process_is_asked_something(connection: Connection) -> None:
    """FED-6: of several processes one fetches news, and any hears from the servers that have it."""
    with_gap(connection, is_news=True)
    asked: list[str] = []

    class Away:
        async def backfill(self, server: str, *_: object) -> object:
            asked.append(server)
            raise ServerUnreachable(server, "it took too long")

    time, buses, databases = HandMovedTime(), [Bus(), Bus()], [Sharing(connection), Sharing(connection)]
    for database, other in zip(databases, reversed(buses), strict=True):
        database.others.append(other)
    unused: Any = None

    def process(number: int) -> Backfill:
        database: Any = databases[number]
        client: Any = Away()
        return Backfill(database, client, unused, unused, RoomLocks(), ReactorClock(time), buses[number])

    fetching, other_process = process(0), process(1)

    def ask() -> list[str]:
        asked.clear()
        Deferred.fromCoroutine(fetching.fill_news())
        return asked

    assert ask() == ["a.example", "b.example"]
    other_process.heard_from("elsewhere.example")
    assert ask() == []
    other_process.heard_from("b.example")
    assert ask() == ["a.example", "b.example"]


def test_nobody_is_waited_for_longer_than_a_client_would(connection: Connection) -> None:
    branch = with_gap(connection, is_news=False)
    asked: list[str] = []

    class Silent:
        async def backfill(self, server: str, *_: object) -> object:
            asked.append(server)
            return await Deferred()

    time = HandMovedTime()
    database: Any = DirectDatabase(connection)
    client: Any = Silent()
    unused: Any = None
    backfill = Backfill(database, client, unused, unused, RoomLocks(), ReactorClock(time), Bus())

    def look(txn: Transaction) -> Gap | None:
        room = rooms.find(txn, branch.room_id)
        return None if room is None else gaps.newest(txn, room.room_nid, after=0, before_or_at=2**62)

    gap = connection.transact(look)
    assert gap is not None
    results: list[bool] = []
    Deferred.fromCoroutine(backfill.fill(branch.room_id, gap, 10, within=15)).addCallback(results.append)
    time.advance(14)
    assert asked == ["a.example"]
    assert results == []
    time.advance(2)
    assert results == [False]


class Telling:
    """Other servers that all tell the same, after something else has happened."""

    def __init__(self, told: Sequence[Event], first: Callable[[], object] = lambda: None) -> None:
        self._told, self._first, self.asked = told, first, 0

    async def backfill(self, *_: object) -> list[Pdu]:
        self.asked += 1
        self._first()
        return [to_pdu(V6, event) for event in self._told]


def test_what_another_process_has_fetched_meanwhile_is_not_given_up(connection: Connection) -> None:
    """EVS-6: what it has left is fetched next; nor are more servers asked for what is here."""
    branch = ForkingRoom(V6).begin()
    bob = "@bob:b.example"
    branch.member(bob, "join")
    branch.member(f"@ours:{SERVER}", "join")
    Listener(connection, V6, branch.room_id).hear(branch.room.events.values())
    persistence, state = Listener(connection, V6, branch.room_id).persistence, dict(branch.state)
    sides = branch.fork(), branch.fork()
    lost = [side.say(bob, "m.room.message", {"body": f"{n}"}, None) for n, side in enumerate(sides)]
    last = sides[0].merge(sides[1]).say(bob, "m.room.message", {"body": "last"}, None)

    def hear(txn: Transaction) -> Gap | None:
        room = rooms.head(txn, branch.room_id)
        assert room is not None
        store_outliers(txn, room.room_nid, [checked(V6, branch.room.events[name]) for name in state.values()])
        admit(txn, persistence, room, checked(V6, last), bridge=state)
        return gaps.newest(txn, room.room_nid, after=0, before_or_at=2**62)

    gap = connection.transact(hear)
    assert gap is not None
    assert set(gap.missing) == {event.event_id for event in lost}

    def fill(telling: Telling) -> bool:
        database: Any = DirectDatabase(connection)
        client: Any = telling
        checks: Any = Trusting()
        unused: Any = None
        process = Backfill(database, client, checks, unused, RoomLocks(), ReactorClock(HandMovedTime()), Bus())
        results: list[bool] = []
        filled = process.fill(branch.room_id, gap, 10, within=15)
        Deferred.fromCoroutine(filled).addCallback(results.append)
        return results[0]

    other = Telling(lost[:1])
    telling = Telling(lost[:1], lambda: fill(other))
    assert fill(telling)
    assert (other.asked, telling.asked) == (1, 1)
    room = connection.transact(rooms.find, branch.room_id)
    assert room is not None
    assert set(connection.transact(gaps.missing, room.room_nid, 10)) - {lost[0].prev_events[0]} == {lost[1].event_id}
