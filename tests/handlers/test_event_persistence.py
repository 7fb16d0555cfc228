"""The one door: what an event changes is changed with it, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace
from signedjson.key import generate_signing_key, get_verify_key
from twisted.internet.task import Clock as HandMovedTime

from synapse_like.clock import ReactorClock
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.protocol import canonical_json
from synapse_like.protocol.building import build
from synapse_like.protocol.events import EventDraft
from synapse_like.protocol.hashes import check_content_hash
from synapse_like.protocol.room_versions import SPEC_2014, V1
from synapse_like.protocol.signing import verify_pdu
from synapse_like.protocol.wire_formats import to_pdu
from synapse_like.storage import events, membership, rooms, state
from synapse_like.storage.connections import Connection
from synapse_like.storage.events import StoredEvent
from synapse_like.storage.transactions import Transaction

ALICE = "@alice:here"
ROOM = "!room:here"
OLD_ROOM = "!old:here"


@dataclass
class House:
    """A server without its front: rooms are made and spoken in inside single transactions."""

    connection: Connection
    creation: EventCreation

    def say(self, txn: Transaction, event_type: str, content: dict[str, Any], **more: Any) -> StoredEvent:
        room = rooms.head(txn, ROOM)
        assert room is not None
        return self.creation.say(
            txn, room, EventDraft(room_id=ROOM, type=event_type, sender=ALICE, content=content, **more)
        )

    def make_room(self, txn: Transaction) -> None:
        rooms.create(txn, ROOM, SPEC_2014, is_public=False)
        self.say(txn, "m.room.create", {"creator": ALICE}, state_key="")
        self.say(txn, "m.room.member", {"membership": "join"}, state_key=ALICE)

    def set_topic(self, txn: Transaction, topic: str) -> StoredEvent:
        return self.say(txn, "m.room.topic", {"topic": topic}, state_key="")

    def redact(self, txn: Transaction, target: StoredEvent) -> StoredEvent:
        return self.say(txn, "m.room.redaction", {}, redacts=target.event.event_id)


@pytest.fixture
def house(connection: Connection) -> House:
    key = generate_signing_key("a_test")
    creation = EventCreation("here", key, ReactorClock(HandMovedTime()), EventPersistence("here"))
    house = House(connection, creation)
    connection.transact(house.make_room)
    return house


def read_again(connection: Connection, event_nid: int) -> StoredEvent:
    connection.caches.clear()
    [stored] = connection.transact(events.load, [event_nid])
    return stored


def test_what_is_read_back_is_what_was_said(house: House) -> None:
    first = house.connection.transact(house.set_topic, "one")
    second = house.connection.transact(house.set_topic, "two")
    again = read_again(house.connection, second.event_nid)
    assert (again.event, again.replaced, again.position) == (second.event, first.event, second.position)


def test_numbers_too_large_for_most_are_read_back_as_they_were(house: House) -> None:
    """Room version 1, "Canonical JSON": what other servers say there may hold integers of any size."""
    content = {"creator": ALICE, "org.example.number": 2**70 + 1}

    def hear(txn: Transaction) -> StoredEvent:
        rooms.create(txn, OLD_ROOM, V1, is_public=False)
        room = rooms.head(txn, OLD_ROOM)
        assert room is not None
        event, pdu = build(
            V1,
            EventDraft(room_id=OLD_ROOM, type="m.room.create", sender=ALICE, content=content, state_key=""),
            local_id="1",
            origin="here",
            origin_server_ts=1,
            depth=1,
            prev_events=(),
            auth_events=(),
            replaces=None,
            power_level=0,
            key=house.creation.signing_key,
        )
        return house.creation.persistence.persist(txn, room, event, canonical_json.encode(pdu, strict=False), None)

    heard = house.connection.transact(hear)
    assert read_again(house.connection, heard.event_nid).event.content == content


def test_room_whose_depth_is_at_its_limit_goes_on(house: House) -> None:
    """Room version 6, "Event format": a stranger may have claimed the greatest depth that there is."""

    def speak(txn: Transaction) -> StoredEvent:
        room = rooms.head(txn, ROOM)
        assert room is not None
        room.extremities = tuple(replace(extremity, depth=2**53 - 1) for extremity in room.extremities)
        return house.set_topic(txn, "deep")

    assert house.connection.transact(speak).event.depth == 2**53 - 1


def test_a_state_event_that_replaces_a_redacted_one_does_not_show_what_that_was(house: House) -> None:
    """RED-2: also if both happen in one commit, and the server remembers the one from before."""
    secret = house.connection.transact(house.set_topic, "secret")
    house.connection.transact(events.load, [secret.event_nid])

    def together(txn: Transaction) -> StoredEvent:
        room = rooms.head(txn, ROOM)
        assert room is not None
        rooms.forget_state(room)
        house.redact(txn, secret)
        return house.set_topic(txn, "new")

    new = house.connection.transact(together)
    assert new.replaced is not None
    assert new.replaced.content == {}
    again = read_again(house.connection, new.event_nid)
    assert again.replaced is not None
    assert again.replaced.content == {}


def test_a_redacted_event_is_stripped_in_the_table(house: House) -> None:
    """RED-2."""
    secret = house.connection.transact(house.set_topic, "secret")
    redaction = house.connection.transact(house.redact, secret)
    again = read_again(house.connection, secret.event_nid)
    assert again.event.content == {}
    assert again.redacted_because is not None
    assert again.redacted_because == redaction.event
    rows = house.connection.transact(lambda txn: txn.all("SELECT pdu FROM events"))
    assert not any(b"secret" in bytes(row[0]) for row in rows)


def test_a_rolled_back_event_leaves_neither_rows_nor_a_moved_head(house: House) -> None:
    def fail(txn: Transaction) -> None:
        house.set_topic(txn, "never")
        raise ZeroDivisionError

    before = house.connection.transact(house.set_topic, "before")
    with pytest.raises(ZeroDivisionError):
        house.connection.transact(fail)
    after = house.connection.transact(house.set_topic, "after")
    assert after.event.prev_events == (before.event.event_id,)
    assert after.event.replaces_state == before.event.event_id
    assert after.position == (before.position or 0) + 1


def test_messages_write_no_state(house: House) -> None:
    def count(txn: Transaction) -> Any:
        return txn.one("SELECT (SELECT COUNT(*) FROM state_snapshots), (SELECT COUNT(*) FROM state_deltas)")

    before = house.connection.transact(count)
    for n in range(20):
        house.connection.transact(house.say, "m.room.message", {"msgtype": "m.text", "body": str(n)})
    assert house.connection.transact(count) == before


def test_the_head_is_found_again_after_a_restart(house: House) -> None:
    last = house.connection.transact(house.say, "m.room.message", {"msgtype": "m.text", "body": "x"})
    house.connection.caches.clear()
    following = house.connection.transact(house.say, "m.room.message", {"msgtype": "m.text", "body": "y"})
    assert following.event.prev_events == (last.event.event_id,)
    assert following.event.depth == last.event.depth + 1


def test_present_state_and_the_newest_snapshot_agree(house: House) -> None:
    house.connection.transact(house.set_topic, "one")
    last = house.connection.transact(house.set_topic, "two")

    def look(txn: Transaction) -> tuple[set[int], set[int]]:
        _, snapshot = events.snapshots_of(txn, last.event_nid)
        assert snapshot is not None
        return set(state.at_snapshot(txn, snapshot).values()), set(state.current(txn, last.room_nid))

    at_snapshot, current = house.connection.transact(look)
    assert at_snapshot == current
    assert last.event_nid in current


def test_only_comings_and_goings_are_logged_as_such(house: House) -> None:
    def look(txn: Transaction) -> list[str]:
        return [change.membership for change in membership.changes(txn, ALICE, after=0, up_to=10**6)]

    house.connection.transact(
        house.say, "m.room.member", {"membership": "join", "displayname": "Alice"}, state_key=ALICE
    )
    house.connection.transact(house.say, "m.room.member", {"membership": "leave"}, state_key=ALICE)
    assert house.connection.transact(look) == ["join", "leave"]


def hear_aliases(house: House, txn: Transaction, aliases: object) -> StoredEvent:
    """Another server says something in a room of Matrix room version 1, where JSON is not checked strictly."""
    room = house.creation.found_room(txn, V1, ALICE, is_public=True)
    house.creation.say(txn, room, EventDraft(room.room_id, "m.room.member", ALICE, {"membership": "join"}, ALICE))
    event, pdu = build(
        V1,
        EventDraft(room.room_id, "m.room.aliases", "@bob:there", {"aliases": aliases}, "there"),
        local_id="1",
        origin="there",
        origin_server_ts=1,
        depth=3,
        prev_events=(),
        auth_events=(),
        replaces=None,
        power_level=0,
        key=house.creation.signing_key,
    )
    return house.creation.persistence.persist(txn, room, event, canonical_json.encode_in_any_order(pdu), None)


def test_integers_of_any_size_are_read_back_as_they_were(house: House) -> None:
    """Through a double, 2^70 + 1 would come back as another number, and the event under another hash."""
    numbers = [2**63 - 1, 2**64, 2**70 + 1, -(2**63) - 1, 10**4000]
    heard = house.connection.transact(lambda txn: hear_aliases(house, txn, numbers))
    again = read_again(house.connection, heard.event_nid)
    assert again.event == heard.event
    assert check_content_hash(V1, to_pdu(V1, again.event))


def test_integers_of_any_size_outlive_a_redaction(house: House) -> None:
    """What a redaction keeps, it keeps exactly: the signature is over it."""
    key = house.creation.signing_key

    def hear_and_redact(txn: Transaction) -> StoredEvent:
        heard = hear_aliases(house, txn, 2**70 + 1)
        room = rooms.head(txn, heard.event.room_id)
        assert room is not None
        house.creation.say(
            txn, room, EventDraft(room.room_id, "m.room.redaction", ALICE, {}, redacts=heard.event.event_id)
        )
        return heard

    heard = house.connection.transact(hear_and_redact)
    again = read_again(house.connection, heard.event_nid)
    assert again.redacted_because is not None
    assert again.event.content == {"aliases": 2**70 + 1}
    verify_pdu(V1, to_pdu(V1, again.event), "there", get_verify_key(key))
