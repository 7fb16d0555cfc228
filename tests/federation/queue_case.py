"""A house with queues: rooms in a real database, another side that answers when a test says so, time moved by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as HandMovedTime
from twisted.python.failure import Failure

from synapse_like.clock import ReactorClock
from synapse_like.federation.destinations import DestinationQueues
from synapse_like.federation.errors import RemoteRefusal, ServerUnreachable
from synapse_like.federation.lots import HeardFrom, LotsLeft, PassingEdu, SenderLost
from synapse_like.federation.sending import STOP_SECONDS, PassingEdusLost
from synapse_like.protocol.events import Event
from synapse_like.protocol.request_signing import encode_content
from synapse_like.protocol.room_versions import V1
from synapse_like.protocol.wire_formats import encode_pdu, to_pdu
from synapse_like.storage import events, room_servers, rooms
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.destinations import EduStored, LeftAlone, Rewound
from synapse_like.storage.event_news import EventPersisted
from synapse_like.storage.events import GAP
from synapse_like.storage.news import CommitInDoubt
from synapse_like.storage.transactions import Transaction
from tests.support.threads import ThreadBridge

#: What the queues are told.
NEWS = (
    *(EventPersisted, EduStored, Rewound, CommitInDoubt, LeftAlone, PassingEdu, HeardFrom, PassingEdusLost),
    *(LotsLeft, SenderLost),
)
#: Where the clock stands at the beginning, in seconds.
NOON = 1_412_600_000


@dataclass(eq=False)
class Sent:
    """A transaction under way.

    :ivar body: as the other side reads it.
    """

    destination: str
    transaction_id: str
    body: dict[str, Any]
    answer: Deferred[dict[str, Any]]

    @property
    def said(self) -> list[str]:
        """What the events in it say."""
        return [pdu["content"]["body"] for pdu in self.body["pdus"]]

    @property
    def edus(self) -> list[Any]:
        """The contents of the EDUs in it."""
        return [edu["content"] for edu in self.body["edus"]]

    def accept(self, answer: dict[str, Any] | None = None) -> None:
        self.answer.callback({"pdus": {}} if answer is None else answer)

    def fail(self) -> None:
        self.answer.errback(ServerUnreachable(self.destination, "nobody is there"))

    def refuse(self, status: int, *, retry_after_ms: int | None = None) -> None:
        refusal = RemoteRefusal(self.destination, status, "M_UNKNOWN", "No.", retry_after_ms=retry_after_ms)
        self.answer.errback(refusal)


@dataclass
class OtherSide:
    """All other servers.

    :ivar sent: every transaction, in the order in which they were begun.
    """

    sent: list[Sent] = field(default_factory=list)

    async def send_transaction(self, destination: str, transaction_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        answer: Deferred[dict[str, Any]] = Deferred()
        encoded = encode_content(body)
        # Else the signature would be over other bytes than those that the other side makes of it.
        assert encode_content(json.loads(encoded)) == encoded
        self.sent.append(Sent(destination, transaction_id, json.loads(encoded), answer))
        return await answer

    @property
    def under_way(self) -> list[Sent]:
        return [sent for sent in self.sent if not sent.answer.called]


class House:
    """See the head of this file.

    :ivar chance: what the jitter is made of.
    :ivar without_place: to how many servers nothing is sent only because too many others are sent to.
    """

    def __init__(self, database: Database, bus: Bus, bridge: ThreadBridge) -> None:
        self.database = database
        self.news = Bus()
        for kind in NEWS:
            bus.subscribe(kind, self._pass_on)
        self.bridge = bridge
        self.time = HandMovedTime()
        self.time.advance(NOON)
        self.chance = 0.0
        self.without_place = 0
        self.other = OtherSide()
        self.queues = self._make_queues()

    def _pass_on(self, news: object) -> None:
        self.news.publish(news)

    def _make_queues(self) -> DestinationQueues:
        return DestinationQueues(
            self.database, self.news, ReactorClock(self.time), self.other, "here", chance=lambda: self.chance
        )

    # Time and threads.

    def wait_for(self, deferred: Deferred[Any]) -> Any:
        results: list[Any] = []
        deferred.addBoth(results.append)
        self.bridge.pump(lambda: bool(results))
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def settle(self) -> None:
        """Let everything happen that happens without time going by, or an answer."""

        def is_settled() -> bool:
            waiting = {sent.destination for sent in self.other.under_way}
            sending = {server for server, state in self.queues.states().items() if state.doing == "sending"}
            return len(sending - waiting) == self.without_place

        self.bridge.pump(is_settled)

    def advance(self, seconds: float) -> None:
        self.time.advance(seconds)
        self.settle()

    def saved(self) -> None:
        """Have what is to be written down written down."""
        self.advance(1.0)
        self.write(lambda txn: None)

    def restart(self, *, killed: bool) -> None:
        """Another server on the same database; the first one hears nothing any more."""
        if not killed:
            self.wait_for(Deferred.fromCoroutine(self.queues.stop()))
        for call in self.time.getDelayedCalls():
            call.cancel()
        self.other = OtherSide()
        self.news = Bus()
        self.queues = self._make_queues()
        self.start()

    def start(self) -> None:
        self.wait_for(Deferred.fromCoroutine(self.queues.start()))
        self.settle()

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.queues.stop())

    def close(self) -> None:
        """Stop, and wait for nobody."""
        stopped = self.stop()
        self.time.advance(STOP_SECONDS)
        self.wait_for(stopped)

    # Rooms.

    def write(self, function: Any, *args: Any) -> Any:
        return self.wait_for(self.database.write("test", function, *args))

    def make_room(self, room_id: str, *servers: str) -> None:
        def make(txn: Transaction) -> None:
            rooms.create(txn, room_id, V1, is_public=False)

        self.write(make)
        for server in servers:
            self.comes(room_id, server)

    def comes(self, room_id: str, server: str) -> None:
        self._moves(room_id, server, 1)

    def goes(self, room_id: str, server: str) -> None:
        self._moves(room_id, server, -1)

    def _moves(self, room_id: str, server: str, more: int) -> None:
        def move(txn: Transaction) -> None:
            position = events.next_place(txn) // GAP
            room_servers.change(txn, head(txn, room_id), {server: more}, position=position, since=position)

        self.write(move)

    def say(self, room_id: str, *texts: str, quietly: bool = False) -> None:
        """Say something in a room, all in one commit.

        :param quietly: without telling anybody.
        """
        self.write(say_all, room_id, texts, quietly)
        if not quietly:
            self.settle()

    def send_edu(self, server: str, content: dict[str, Any], **options: Any) -> None:
        self.wait_for(Deferred.fromCoroutine(self.queues.send_edu(server, "m.test", content, **options)))
        self.settle()

    # What was sent.

    def last(self, server: str | None = None) -> Sent:
        """The one transaction that is under way."""
        [sent] = [sent for sent in self.other.under_way if server in (None, sent.destination)]
        return sent

    def accept(self, server: str | None = None) -> Sent:
        """Let the one transaction that is under way be taken."""
        sent = self.last(server)
        sent.accept()
        self.settle()
        return sent

    def fail(self, server: str | None = None) -> Sent:
        """Let the one transaction that is under way not arrive."""
        sent = self.last(server)
        sent.fail()
        self.settle()
        return sent

    def refuse(self, status: int, **options: Any) -> Sent:
        """Let the one transaction that is under way be refused as a whole."""
        sent = self.last()
        sent.refuse(status, **options)
        self.settle()
        return sent

    def accept_all(self) -> list[str]:
        """Let everything that is sent be taken, until nothing is; what the events said."""
        said: list[str] = []
        while self.other.under_way:
            said += self.accept(self.other.under_way[0].destination).said
        return said


def head(txn: Transaction, room_id: str) -> rooms.RoomHead:
    # No event moves it, so that another process finds none in the tables.
    return rooms.enter(txn, room_id)


def say_all(txn: Transaction, room_id: str, texts: tuple[str, ...], quietly: bool) -> None:
    room = head(txn, room_id)
    servers = frozenset(room_servers.present(txn, room))
    for text in texts:
        place = events.next_place(txn)
        event = Event(
            event_id=f"${place}:here",
            room_id=room_id,
            type="m.room.message",
            sender="@alice:here",
            content={"body": text},
            origin_server_ts=0,
            depth=1,
            prev_events=(),
            auth_events=(),
        )
        pdu = encode_pdu(to_pdu(V1, event))
        stored, _ = events.insert(
            txn,
            room.room_nid,
            event,
            pdu,
            place=place,
            snapshot_before=None,
            snapshot_after=None,
            is_outgoing=bool(servers),
        )
        if not quietly:
            txn.announce(EventPersisted(room_id, place // GAP, stored, {}, servers, pdu if servers else None))
