"""A transaction from another server is done once, and costs the database little."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from msgspec.structs import asdict
from signedjson.key import generate_signing_key
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as HandMovedTime
from twisted.python.threadpool import ThreadPool

from synapse_like.background import Slices
from synapse_like.clock import ReactorClock
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.handlers.event_checks import EventChecks
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.handlers.incoming_transactions import IncomingTransactions
from synapse_like.handlers.joins import BELIEVED_SECONDS, Joins
from synapse_like.handlers.missing_events import MissingEvents
from synapse_like.handlers.room_locks import RoomLocks
from synapse_like.http.limits import Limiter
from synapse_like.protocol.canonical_json import decode
from synapse_like.protocol.errors import BadJson, LimitExceeded, Unavailable
from synapse_like.protocol.events import EventDraft
from synapse_like.protocol.hashes import content_hash
from synapse_like.protocol.room_versions import SPEC_2014
from synapse_like.storage import events, incoming, rooms
from synapse_like.storage.bus import Bus
from synapse_like.storage.connections import Connection
from synapse_like.storage.database import Database
from synapse_like.storage.engines.opening import open_engine
from synapse_like.storage.migrations import migrate
from synapse_like.storage.transactions import Transaction
from tests.support.postgres import PostgreSQL
from tests.support.threads import ThreadBridge

ALICE, BOB = "@alice:here", "@bob:there"


class TrustingKeyring:
    """Takes every signature for good."""

    async def check_pdu(self, *_: Any, **__: Any) -> None:
        pass

    async def check_pdus(self, _: Any, pairs: Sequence[Any], **__: Any) -> list[None]:
        return [None] * len(pairs)


class OtherServers:
    """What other servers tell of what is missing.

    :ivar missing: these events; None if nobody answers.
    :ivar asked: how often they were asked.
    """

    def __init__(self) -> None:
        self.missing: list[dict[str, Any]] | None = None
        self.asked = 0

    async def missing_events(self, server: str, *_: Any, **__: Any) -> list[dict[str, Any]]:
        self.asked += 1
        if self.missing is None:
            raise ServerUnreachable(server, "it took too long")
        return self.missing


class Receiver:
    """The server `here`, with public rooms that a user of `there` is in.

    :param beside: another process of it, which has made the room.
    """

    def __init__(
        self, database: Database, bridge: ThreadBridge, beside: Receiver | None = None, bus: Bus | None = None
    ) -> None:
        bus = bus or Bus()
        self.database = database
        self.bridge = bridge
        self.time = HandMovedTime()
        clock = ReactorClock(self.time)
        self.joins = Joins(database, bus, clock)
        key = generate_signing_key("1") if beside is None else beside.here.signing_key
        persistence = EventPersistence("here")
        self.here = EventCreation("here", key, clock, persistence)
        self.there = EventCreation("there", key, clock, persistence)
        unused: Any = None
        self.others = OtherServers()
        client: Any = self.others
        keyring: Any = TrustingKeyring()
        checks = EventChecks(keyring, Slices(unused, ThreadPool(0, 1)))
        self.edus: list[Any] = []
        self.fault: Exception | None = None
        self.transactions = IncomingTransactions(
            database,
            clock,
            unused,
            checks,
            persistence,
            MissingEvents(database, client, checks, persistence),
            RoomLocks(),
            self.joins,
            edus={"m.test": self._hear, "m.lasting": self._hear},
            lasting_edus=["m.lasting"],
            limit=self._count,
        )
        self.limiter: Limiter | None = None
        if beside is not None:
            self.room, self.other_room = beside.room, beside.other_room
        else:
            self.room, self.other_room = (self.result(database.write("make", self._make_room)) for _ in range(2))

    async def _hear(self, _: str, content: Any) -> None:
        if self.fault is not None:
            raise self.fault
        self.edus.append(content)

    def _count(self, requests: Iterable[tuple[str, str, int]]) -> None:
        if self.limiter is not None:
            self.limiter.check_all(requests)

    def _make_room(self, txn: Transaction) -> str:
        room = self.here.found_room(txn, SPEC_2014, ALICE, is_public=True)
        drafts = [
            (self.here, EventDraft(room.room_id, "m.room.member", ALICE, {"membership": "join"}, ALICE)),
            (self.here, EventDraft(room.room_id, "m.room.join_rules", ALICE, {"join_rule": "public"}, "")),
            (self.here, EventDraft(room.room_id, "m.room.send_event_level", ALICE, {"level": 0}, "")),
            (self.there, EventDraft(room.room_id, "m.room.member", BOB, {"membership": "join"}, BOB)),
        ]
        for creation, draft in drafts:
            creation.say(txn, room, draft)
        return room.room_id

    def message(self, text: str, room_id: str | None = None, *, after: dict[str, Any] | None = None) -> dict[str, Any]:
        """A message of Bob's, as his server sends it.

        :param after: another one that it follows, instead of what is here.
        """
        room_id = room_id or self.room

        def make(txn: Transaction) -> bytes:
            room = rooms.head(txn, room_id)
            assert room is not None
            content = {"msgtype": "m.text", "body": text}
            return self.there.make(txn, room, EventDraft(room_id, "m.room.message", BOB, content)).pdu

        pdu = decode(self.result(self.database.write("make", make)))
        assert isinstance(pdu, dict)
        if after is not None:
            pdu["prev_pdus"] = [["there", after["pdu_id"]]]
            pdu["depth"] = after["depth"] + 1
            pdu["hashes"] = {"sha256": content_hash(SPEC_2014, pdu)}
        return pdu

    def retry_waiting(self) -> None:
        """Have tried again what waits."""
        self.result(Deferred.fromCoroutine(self.transactions.retry_waiting()))

    def waiting(self) -> list[str]:
        """The IDs of the events that wait."""
        return [item.event_id for item in self.result(self.database.read("waiting", incoming.all_waiting))]

    def has(self, *pdus: dict[str, Any]) -> bool:
        """Are these events in their rooms?"""
        known = self.result(self.database.read("known", events.known, [_id_of(pdu) for pdu in pdus]))
        return len(known) == len(pdus)

    def receive(
        self, transaction_id: str, previous: list[str], *pdus: dict[str, Any], edus: int = 0, kind: str = "m.test"
    ) -> bytes:
        """Have a transaction received; the answer."""
        return self.result(self.begin(transaction_id, previous, *pdus, edus=edus, kind=kind))

    def begin(
        self, transaction_id: str, previous: list[str], *pdus: dict[str, Any], edus: int = 0, kind: str = "m.test"
    ) -> Deferred[bytes]:
        """Begin to receive a transaction."""
        edu = {"edu_type": kind, "content": {}}
        body = {"prev_ids": previous, "pdus": list(pdus), "edus": [edu] * edus}
        return Deferred.fromCoroutine(self.transactions.receive("there", transaction_id, body))

    def costs(self, transaction_id: str, previous: list[str], *pdus: dict[str, Any]) -> tuple[int, int, int]:
        """The commits, and the functions handed to the writing and reading threads, that a transaction takes."""
        before = asdict(self.database.statistics)
        self.receive(transaction_id, previous, *pdus)
        after = asdict(self.database.statistics)
        commits, jobs, reads = (after[name] - before[name] for name in ("commits", "jobs", "reads"))
        return commits, jobs, reads

    def recorded(self, transaction_id: str) -> bytes | None:
        return self.result(self.database.read("recorded", incoming.answer_to, "there", transaction_id))

    def result(self, deferred: Deferred[Any]) -> Any:
        results: list[Any] = []
        deferred.addCallbacks(results.append, lambda failure: results.append(failure))
        self.bridge.pump(lambda: bool(results))
        if hasattr(results[0], "raiseException"):
            results[0].raiseException()
        return results[0]


def _id_of(pdu: dict[str, Any]) -> str:
    return f"${pdu['pdu_id']}:there"


@pytest.fixture
def receiver(database: Database, bridge: ThreadBridge) -> Iterator[Receiver]:
    return Receiver(database, bridge)


def test_events_and_the_answer_are_one_job_and_one_commit(receiver: Receiver) -> None:
    receiver.receive("1", [], receiver.message("the first loads what is remembered then"))
    message = receiver.message("hello")
    assert receiver.costs("2", ["1"], message) == (1, 1, 0)
    [event_id] = orjson.loads(receiver.recorded("2") or b"")["pdus"]
    assert event_id == f"${message['pdu_id']}:there"


def test_what_does_not_follow_the_newest_transaction_is_looked_up_in_one_read(receiver: Receiver) -> None:
    receiver.receive("1", [], receiver.message("one"))
    assert receiver.costs("2", [], receiver.message("two")) == (1, 1, 1)


def test_repetition_is_given_the_first_answer_and_does_nothing(receiver: Receiver) -> None:
    receiver.receive("1", [])
    message = receiver.message("hello")
    first = receiver.receive("2", ["1"], message, edus=1)
    # What it holds now does not matter.
    assert receiver.receive("2", ["1"], edus=1) == first
    assert len(receiver.edus) == 1


def test_refusals_are_written_down_with_the_rest(receiver: Receiver) -> None:
    receiver.receive("1", [])
    good, bad = receiver.message("good"), receiver.message("bad")
    del bad["content"]
    answer = receiver.receive("2", ["1"], good, bad)
    results = orjson.loads(answer)["pdus"]
    assert results[f"${good['pdu_id']}:there"] == {}
    assert "content" in results[f"${bad['pdu_id']}:there"]["error"]
    assert receiver.recorded("2") == answer


def test_one_who_repeats_a_transaction_as_if_it_were_new_is_given_the_answer_that_stands(receiver: Receiver) -> None:
    message = receiver.message("hello")
    first = receiver.receive("1", [], message)
    receiver.receive("2", ["1"])
    altered = {**message, "depth": -1}
    assert receiver.receive("1", ["2"], altered) == first


def test_lasting_edu_that_cannot_be_taken_comes_again(receiver: Receiver) -> None:
    """A request to see somebody was lost if it came in a moment in which it could not be stored (PRES-3)."""
    receiver.receive("1", [])
    receiver.fault = Unavailable("The database is away.")
    with pytest.raises(Unavailable):
        receiver.receive("2", ["1"], edus=1, kind="m.lasting")
    assert receiver.recorded("2") is None
    receiver.fault = None
    receiver.receive("2", ["1"], edus=1, kind="m.lasting")
    assert len(receiver.edus) == 1


@pytest.mark.parametrize("kind", ["m.test", "m.lasting"])
def test_edu_that_is_refused_is_in_nobodys_way(receiver: Receiver, kind: str) -> None:
    receiver.fault = BadJson("No.")
    message = receiver.message("hello")
    assert b"error" not in receiver.receive("1", [], message, edus=2, kind=kind)
    assert receiver.recorded("1") is not None


def test_edu_that_we_fail_at_is_in_nobodys_way(receiver: Receiver) -> None:
    """Its server sent it again and again, and nothing else."""
    receiver.fault = RuntimeError("not foreseen")
    assert b"error" not in receiver.receive("1", [], receiver.message("hello"), edus=2)


def test_room_that_a_server_floods_holds_back_that_room_only(receiver: Receiver) -> None:
    """RATE-1, SEC-5: the server is not told to wait, since all of its rooms would; nothing is lost."""
    receiver.receive("1", [], receiver.message("the first"), receiver.message("loads the rules", receiver.other_room))
    receiver.limiter = Limiter({"federation_events": (10, 100), "federation_room": (1, 3)}, lambda: 0.0)
    receiver.receive("2", ["1"], *(receiver.message(f"{n}") for n in range(3)))
    flood = [receiver.message("more"), receiver.message("and more")]
    quiet = receiver.message("hello", receiver.other_room)
    answer = receiver.receive("3", ["2"], *flood, quiet)
    assert b"error" not in answer
    assert receiver.recorded("3") == answer
    assert receiver.has(quiet)
    assert not receiver.has(flood[0])
    assert receiver.waiting() == [_id_of(pdu) for pdu in flood]
    receiver.retry_waiting()
    assert receiver.has(*flood)
    assert not receiver.waiting()


def test_server_that_gives_no_answer_is_waited_for_once_for_all_events_of_a_lot(receiver: Receiver) -> None:
    """FED-3, FED-6: fifty of them held up their room for fifty times as long."""
    receiver.receive("1", [], receiver.message("loads the rules"))
    last = receiver.message("never sent")
    lot = [last := receiver.message(f"{n}", after=last) for n in range(10)]
    receiver.receive("2", ["1"], *lot)
    assert receiver.others.asked == 1


def test_what_was_fetched_for_one_event_serves_all_that_follow_it_in_few_commits(receiver: Receiver) -> None:
    """FED-6: after an outage it is much that comes, and each commit waits for the disk."""
    receiver.receive("1", [], receiver.message("loads the rules"))
    last = receiver.message("missing")
    missing = [last]
    missing += [last := receiver.message(f"missing {n}", after=last) for n in range(10)]
    lot = [last := receiver.message(f"{n}", after=last) for n in range(10)]
    receiver.others.missing = missing
    commits, _, _ = receiver.costs("2", ["1"], *lot)
    assert receiver.others.asked == 1
    assert receiver.has(*missing, *lot)
    # One that finds what is missing, one for that, one for the first event, one for those that follow it, with room
    # for the answer.
    assert commits <= 5


def test_all_that_a_server_sends_is_limited_whatever_it_is(receiver: Receiver) -> None:
    """RATE-1, SEC-1: EDUs, and events of rooms that nobody knows, count as well, but fill no memory."""
    time = HandMovedTime()
    receiver.limiter = Limiter({"federation_events": (1, 100), "federation_room": (1, 3)}, time.seconds)
    receiver.receive("1", [], edus=60)
    unknown = [{"context": f"!{n}:there"} for n in range(50)]
    with pytest.raises(LimitExceeded):
        receiver.receive("2", ["1"], *unknown)
    time.advance(10)
    receiver.receive("2", ["1"], *unknown)
    assert len(receiver.limiter._full_at) == 1


def test_transaction_that_is_under_way_is_counted_once(receiver: Receiver) -> None:
    receiver.limiter = Limiter({"federation_events": (1, 100), "federation_room": (1, 3)}, lambda: 0.0)
    body = {"prev_ids": [], "pdus": [], "edus": [{"edu_type": "m.test", "content": {}}] * 60}
    both = [Deferred.fromCoroutine(receiver.transactions.receive("there", "1", body)) for _ in range(2)]
    assert [receiver.result(one) for one in both] == [b'{"pdus":{}}'] * 2


@pytest.fixture
def receivers(postgresql: PostgreSQL) -> Iterator[tuple[Receiver, Receiver]]:
    """Two processes of the same server."""
    with postgresql.database() as url:
        connection = Connection(open_engine(url, data_dir=Path()), exclusive=True)
        migrate(connection)
        connection.close()
        bridges = [ThreadBridge(), ThreadBridge()]
        buses = [Bus(), Bus()]
        databases = [
            Database(open_engine(url, data_dir=Path()), bridge, bus, shared=True)
            for bridge, bus in zip(bridges, buses, strict=True)
        ]
        for database in databases:
            database.start()
        one = Receiver(databases[0], bridges[0], bus=buses[0])
        yield one, Receiver(databases[1], bridges[1], beside=one, bus=buses[1])
        for database in databases:
            database.stop()


def test_repetition_that_comes_to_another_process_does_nothing(receivers: tuple[Receiver, Receiver]) -> None:
    one, two = receivers
    one.receive("1", [])
    first = two.receive("2", ["1"], two.message("hello"), edus=1)
    # For this process the transaction before it was the newest.
    assert one.receive("2", ["1"], edus=1) == first
    assert one.edus == []


def test_a_transaction_that_comes_to_two_processes_at_once_is_answered_the_same(
    receivers: tuple[Receiver, Receiver],
) -> None:
    one, two = receivers
    for number in range(5):
        messages = [one.message(f"{number} {n}") for n in range(3)]
        del messages[2]["content"]
        begun = [(receiver, receiver.begin(f"{number}", [], *messages)) for receiver in receivers]
        first, second = (receiver.result(answer) for receiver, answer in begun)
        assert first == second == one.recorded(f"{number}")
        results = orjson.loads(first)["pdus"]
        assert [results[f"${message['pdu_id']}:there"] for message in messages[:2]] == [{}, {}]
    said = "SELECT COUNT(*) FROM events WHERE place IS NOT NULL AND position(?::bytea in pdu) > 0"
    assert two.result(two.database.read("said", lambda txn: txn.one(said, (b"m.text",)))) == (10,)


def test_an_event_and_what_it_follows_may_come_to_different_processes(
    receivers: tuple[Receiver, Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """FED-6: what is missing at one comes to the other while it is asked for; nobody who is asked has to have it."""
    one, two = receivers
    before = one.message("before")
    after = [one.message("after", after=before)]
    after.append(one.message("after that", after=after[0]))

    async def told(*_: Any, **__: Any) -> list[dict[str, Any]]:
        two.receive("2", [], before)
        return []

    monkeypatch.setattr(one.others, "missing_events", told)
    assert b"error" not in one.receive("1", [], *after)
    assert two.has(before, *after)
    assert one.waiting() == []


async def _come_in(joins: Joins, room_id: str, has_come: Deferred[None]) -> None:
    async with joins.under_way(room_id):
        await has_come


def test_what_comes_while_another_process_is_let_into_the_room_waits_for_that(
    receivers: tuple[Receiver, Receiver],
) -> None:
    """FED-7: it was refused as of a room that we are not in, and nobody sent it again."""
    one, two = receivers
    message, has_come = two.message("hello"), Deferred[None]()
    coming = Deferred.fromCoroutine(_come_in(one.joins, two.room, has_come))
    two.bridge.pump(lambda: two.joins.are_under_way([two.room]))
    answers: list[bytes] = []
    answer = two.begin("1", [], message).addCallback(answers.append)
    # What is of other rooms does not wait.
    two.receive("2", [], two.message("elsewhere", two.other_room))
    assert not answers
    one.bridge.pump(lambda: not one.database._writer.jobs.qsize())
    has_come.callback(None)
    one.result(coming)
    two.result(answer)
    assert b"error" not in answers[0]
    assert two.has(message)


def test_what_waits_for_a_process_that_died_is_sent_again_and_taken_then(receivers: tuple[Receiver, Receiver]) -> None:
    """FED-7."""
    one, two = receivers
    message = two.message("hello")
    Deferred.fromCoroutine(_come_in(one.joins, two.room, Deferred()))
    two.bridge.pump(lambda: two.joins.are_under_way([two.room]))
    answer = two.begin("1", [], message)
    refused: list[Any] = []
    answer.addErrback(refused.append)
    for _ in range(int(BELIEVED_SECONDS)):
        if not refused:
            two.result(two.database.read("nothing", lambda _: None))
            two.time.advance(1)
    assert refused[0].check(Unavailable)
    assert two.recorded("1") is None
    two.time.advance(BELIEVED_SECONDS)
    two.receive("1", [], message)
    assert two.has(message)
