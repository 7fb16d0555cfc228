"""What several rooms have in common is right where two processes write to two rooms at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from synapse_like.protocol.errors import UnknownToken
from synapse_like.protocol.room_versions import V1
from synapse_like.storage import accounts, events, rooms, state
from synapse_like.storage.retransmissions import Once, Outcome, once
from synapse_like.storage.transactions import Transaction
from tests.storage.test_events import made
from tests.storage.test_sharing import NAMES, ROOMS, Process, prepare
from tests.support.postgres import PostgreSQL
from tests.support.processes import wait_until

SLOT = ("m.room.member", "@new:x")


@pytest.fixture(scope="module")
def url(postgresql: PostgreSQL) -> Iterator[str]:
    with postgresql.database() as url:
        prepare(url)
        yield url


@pytest.fixture
def processes(url: str) -> Iterator[list[Process]]:
    made = [Process(url), Process(url)]
    yield made
    for process in made:
        process.database.stop()


class Paused:
    """A job of one process for a room that has done something, and is not committed until it is let go on."""

    def __init__(self, process: Process, room_id: str, function: Callable[..., Any], *args: Any) -> None:
        self._process = process
        self._entered, self._let_go = threading.Event(), threading.Event()
        self._job = process.database.write_to_room(room_id, "paused", self._run, function, *args)
        assert self._entered.wait(30)

    def _run(self, txn: Transaction, function: Callable[..., Any], *args: Any) -> Any:
        done = function(txn, *args)
        self._entered.set()
        assert self._let_go.wait(30)
        return done

    def go_on(self) -> Any:
        self._let_go.set()
        return self._process.result(self._job)


def see_waiting(url: str, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Wait until a transaction waits for another one.

    :param meanwhile: what is done for it to come to that.
    """
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(url, autocommit=True) as other:
        wait_until("one to wait for the other", lambda: (meanwhile(), other.execute(waiting).fetchone())[1])


def test_a_slot_that_two_rooms_come_to_have_at_once_has_one_number(processes: list[Process]) -> None:
    one, two = processes
    first = Paused(one, ROOMS[0], state.make_slot_id, SLOT)
    tries: list[int] = []

    def make(txn: Transaction) -> int:
        tries.append(1)
        return state.make_slot_id(txn, SLOT)

    second = two.database.write_to_room(ROOMS[1], "make", make)
    # It does not keep its own room from being written to while it waits.
    third = two.database.write_to_room(ROOMS[2], "other", lambda txn: "done")
    assert two.result(third) == "done"
    number = first.go_on()
    assert two.result(second) == number
    assert len(tries) == 2


def put(txn: Transaction, room_id: str, body: str) -> str:
    """Put an event into a room, unless its ID is another's already; where it is."""
    room = rooms.enter(txn, room_id)
    event, pdu = made("$the-same:liar.example", room_id, body)
    if events.known(txn, [event.event_id]):
        return "elsewhere"
    events.insert(txn, room.room_nid, event, pdu, place=None, snapshot_before=None, snapshot_after=None)
    return "here"


def test_an_event_that_a_server_puts_into_two_rooms_at_once_is_in_one(url: str, processes: list[Process]) -> None:
    one, two = processes
    for room_id in ("!a:x", "!b:x"):
        one.result(one.database.write("make", lambda txn, name: rooms.create(txn, name, V1, is_public=False), room_id))
    first = Paused(one, "!a:x", put, "!a:x", "a")
    second = two.database.write_to_room("!b:x", "put", put, "!b:x", "b")
    see_waiting(url)
    assert first.go_on() == "here"
    assert two.result(second) == "elsewhere"
    stored = one.result(one.database.read("find", events.find, "$the-same:liar.example"))
    assert (stored.event.room_id, stored.event.content) == ("!a:x", {"body": "a"})


def test_what_another_has_put_into_a_room_is_known_once_one_has_its_lane(processes: list[Process]) -> None:
    """Though it was asked for before, in the same transaction."""
    one, two = processes
    one.result(one.database.write("make", lambda txn: rooms.create(txn, "!c:x", V1, is_public=False)))
    event_id = "$the-same:liar.example"

    def look(txn: Transaction) -> tuple[Transaction, set[str]]:
        return txn, {"here" for _ in events.known(txn, [event_id])}

    one.result(one.database.write("forget", lambda txn: txn.execute("DELETE FROM events")))
    looking = Paused(two, "!d:x", look)
    assert one.result(one.database.write_to_room("!c:x", "put", put, "!c:x", "c")) == "here"
    looking_again = two.database.write_to_room("!c:x", "look", look)
    before, nothing = looking.go_on()
    after, something = two.result(looking_again)
    assert before is after
    assert (nothing, something) == (set(), {"here"})


def test_what_was_read_before_another_changed_it_is_not_kept(processes: list[Process]) -> None:
    one, two = processes

    def remember(txn: Transaction) -> None:
        txn.cache(NAMES).put(txn, "a", "as it was")

    def change(txn: Transaction) -> None:
        txn.execute("UPDATE stream_positions SET position = position WHERE stream = ?", (ROOMS[1],))
        txn.cache(NAMES).drop_all(txn)

    reading = Paused(two, ROOMS[0], remember)
    generation = two.database.caches.generation
    one.result(one.database.write_to_room(ROOMS[1], "change", change))
    two.bridge.pump(lambda: two.database.caches.generation != generation, 30)
    reading.go_on()
    assert two.database.caches.of(NAMES).get("a") is None


def test_a_token_that_another_process_ends_at_this_moment_does_nothing_more(url: str, processes: list[Process]) -> None:
    """API-4: it is told so, and not that the server failed."""
    one, two = processes

    def begin(txn: Transaction) -> int:
        accounts.create(txn, "@user:x", password_hash=None, now_ms=1)
        return accounts.add_token(txn, "@user:x", b"token", now_ms=1)

    token_id = one.result(one.database.write("begin", begin))

    def end(txn: Transaction) -> None:
        txn.execute("DELETE FROM access_tokens WHERE token_id = ?", (token_id,))

    ending = Paused(one, ROOMS[0], end)
    request = Once(token_id, "say it", 1)
    said = two.database.write_to_room(ROOMS[1], "say", once, request, lambda txn: {"event_id": "$x"})
    see_waiting(url)
    ending.go_on()
    assert two.result(said).check(UnknownToken)


def add_tokens(txn: Transaction, *names: bytes) -> list[int]:
    user_id = f"@{names[0].hex()}:x"
    accounts.create(txn, user_id, password_hash=None, now_ms=1)
    return [accounts.add_token(txn, user_id, name, now_ms=1) for name in names]


def hold_up(process: Process, room_id: str) -> Callable[[], None]:
    """Have the writing thread wait after a commit, so that what is asked of it meanwhile begins together.

    :returns: what lets it go on.
    """
    entered, let_go = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        assert let_go.wait(30)

    process.database.write_to_room(room_id, "hold-up", lambda txn: txn.when_committed(wait))
    assert entered.wait(30)
    return let_go.set


def test_a_request_that_another_process_does_meanwhile_is_not_done_again(processes: list[Process]) -> None:
    """API-4: whether it was done is asked anew when its room is had, even if another job had it first."""
    one, two = processes
    [token_id] = one.result(one.database.write("begin", add_tokens, b"meanwhile"))
    request = Once(token_id, "say it", 1)
    times: list[Transaction] = []

    def do(txn: Transaction) -> Outcome:
        times.append(txn)
        return {"event_id": "$x"}

    first = Paused(one, ROOMS[0], once, request, do)
    go_on = hold_up(two, ROOMS[1])
    has_begun, goes_on = threading.Event(), threading.Event()

    def have_room(txn: Transaction) -> None:
        has_begun.set()
        assert goes_on.wait(30)
        txn.hold_room(ROOMS[0])

    before = two.database.write_to_room(ROOMS[1], "have-room", have_room)
    second = two.database.write_to_room(ROOMS[0], "say", once, request, do)
    go_on()
    assert has_begun.wait(30)
    outcome = first.go_on()
    goes_on.set()
    assert two.result(before) is None
    assert two.result(second) == outcome
    assert len(times) == 1


def test_requests_and_the_end_of_their_tokens_that_wait_for_each_other_are_all_done(
    url: str, processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no connection is made anew for that."""
    one, two = processes
    tokens = one.result(one.database.write("begin", add_tokens, b"first", b"second"))
    go_on = hold_up(two, ROOMS[1])
    monkeypatch.setattr(two.database._writer.connection, "reconnect", lambda: pytest.fail("the connection is there"))
    has_first, goes_on = threading.Event(), threading.Event()

    def end_both(txn: Transaction) -> None:
        accounts.delete_token(txn, tokens[0])
        has_first.set()
        assert goes_on.wait(30)
        accounts.delete_token(txn, tokens[1])

    ending = one.database.write("log-out", end_both)
    assert has_first.wait(30)
    said = [
        two.database.write_to_room(ROOMS[1], "say", once, Once(token_id, "say it", 1), lambda _: {"event_id": "$x"})
        for token_id in reversed(tokens)
    ]
    go_on()
    see_waiting(url)
    goes_on.set()
    assert one.result(ending) is None
    for one_said in said:
        outcome = two.result(one_said)
        assert outcome == {"event_id": "$x"} or outcome.check(UnknownToken)


def test_two_who_wait_for_each_other_are_both_done(url: str, processes: list[Process]) -> None:
    """One has a row that the other needs, and needs the number of the commit, which the other has."""
    one, two = processes
    has_row, goes_on = threading.Event(), threading.Event()
    add = "UPDATE stream_positions SET position = position + 1 WHERE stream = ? RETURNING position"
    tries: list[str] = []

    def row_first(txn: Transaction) -> int:
        tries.append("row")
        position: int = txn.insert(add, (ROOMS[2],))
        has_row.set()
        assert goes_on.wait(30)
        txn.take_number()
        return position

    def number_first(txn: Transaction) -> int:
        tries.append("number")
        txn.take_number()
        return int(txn.insert(add, (ROOMS[2],)))

    first = one.database.write_to_room(ROOMS[0], "row-first", row_first)
    assert has_row.wait(30)
    second = two.database.write_to_room(ROOMS[1], "number-first", number_first)
    see_waiting(url)
    goes_on.set()
    found = [one.result(first), two.result(second)]
    assert abs(found[0] - found[1]) == 1, "each is done once"
    assert len(tries) >= 3, "one of them was begun again, or more than once"
