"""What a transaction knows of events is what stands in their rows, whatever it has done to them meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from synapse_like.protocol.events import Event
from synapse_like.protocol.room_versions import V1
from synapse_like.protocol.wire_formats import encode_pdu, to_pdu
from synapse_like.storage import events, purging, rooms, timeline
from synapse_like.storage.connections import Connection
from synapse_like.storage.events import GAP, Standing
from synapse_like.storage.transactions import Transaction

IDS = ("$a:x", "$b:x", "$c:x")


def made(event_id: str, room_id: str = "!room:x", body: str = "Hello.") -> tuple[Event, bytes]:
    """A message, and its wire form."""
    event = Event(
        event_id=event_id,
        room_id=room_id,
        type="m.room.message",
        sender="@alice:x",
        content={"body": body},
        origin_server_ts=0,
        depth=1,
        prev_events=(),
        auth_events=(),
    )
    return event, encode_pdu(to_pdu(V1, event))


def put(txn: Transaction, room_nid: int, event_id: str, *, place: int | None, standing: Standing) -> int:
    stored, is_awaited = events.insert(
        txn, room_nid, *made(event_id), place=place, snapshot_before=None, snapshot_after=None, standing=standing
    )
    assert not is_awaited
    return stored.event_nid


Step = Callable[[Transaction, int, int], object]

#: What can happen to the second of three events, of which the first is shown and the last is not here.
STEPS: dict[str, Step] = {
    "it is put in as an outlier": lambda txn, room_nid, _: events.insert_outliers(
        txn, room_nid, [(*made(IDS[2]), Standing.REJECTED)]
    ),
    "it is put in": lambda txn, room_nid, _: put(txn, room_nid, IDS[2], place=3 * GAP, standing=Standing.ACCEPTED),
    "it gets a place": lambda txn, room_nid, _: put(txn, room_nid, IDS[1], place=GAP + 5, standing=Standing.ACCEPTED),
    "it is told late": lambda txn, _, event_nid: events.tell_late(txn, event_nid),
    "it is moved": lambda txn, room_nid, _: (
        put(txn, room_nid, IDS[1], place=GAP + 5, standing=Standing.ACCEPTED),
        events.known(txn, IDS),
        timeline.spread(txn, room_nid, above=GAP, below=2 * GAP),
    ),
    "it is purged": lambda txn, _, event_nid: purging.delete(txn, [event_nid]),
    "its room is deleted": lambda txn, room_nid, _: events.delete_room(txn, room_nid),
}


@pytest.mark.parametrize("step", STEPS)
def test_what_is_known_of_an_event_follows_what_happens_to_it(connection: Connection, step: str) -> None:
    def look(txn: Transaction) -> None:
        room = rooms.create(txn, "!room:x", V1, is_public=False)
        put(txn, room.room_nid, IDS[0], place=GAP, standing=Standing.ACCEPTED)
        events.insert_outliers(txn, room.room_nid, [(*made(IDS[1]), Standing.ACCEPTED)])
        before = events.known(txn, IDS)
        assert before.keys() == set(IDS[:2])
        STEPS[step](txn, room.room_nid, before[IDS[1]].event_nid)
        remembered = events.known(txn, IDS)
        txn.known_events.clear()
        assert remembered == events.known(txn, IDS) != before

    connection.transact(look)


def test_what_is_known_is_asked_once(connection: Connection) -> None:
    def look(txn: Transaction) -> int:
        events.known(txn, IDS)
        asked = txn.statements
        assert events.known(txn, IDS[:2]) == {}
        return txn.statements - asked

    assert connection.transact(look) == 0


def test_an_event_that_redactions_wait_for_is_told_so(connection: Connection) -> None:
    def look(txn: Transaction) -> None:
        room = rooms.create(txn, "!room:x", V1, is_public=False)
        redaction, _ = events.insert(
            txn, room.room_nid, *made(IDS[0]), place=None, snapshot_before=None, snapshot_after=None
        )
        events.wait_for_target(txn, redaction, IDS[1])
        awaited = [
            events.insert(
                txn, room.room_nid, *made(event_id), place=None, snapshot_before=None, snapshot_after=None
            ).is_awaited
            for event_id in IDS[1:]
        ]
        assert awaited == [True, False]

    connection.transact(look)
