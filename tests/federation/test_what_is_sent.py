"""What the storing of an event puts into whose queue, and in which form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from signedjson.key import generate_signing_key

from synapse_like.clock import ReactorClock
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.protocol.building import build
from synapse_like.protocol.events import EventDraft
from synapse_like.protocol.request_signing import encode_content
from synapse_like.protocol.room_versions import SPEC_2014
from synapse_like.protocol.wire_formats import encode_pdu
from synapse_like.storage import rooms
from synapse_like.storage.events import StoredEvent
from synapse_like.storage.transactions import Transaction
from tests.federation.queue_case import House, Sent

ALICE = "@alice:here"
BOB = "@bob:there.example"
CAROL = "@carol:third.example"


class RealRoom:
    """A room whose events are made and stored as the server does it."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.creation = EventCreation(
            "here", generate_signing_key("a_test"), ReactorClock(house.time), EventPersistence("here")
        )
        self.room_id = house.write(self._found)
        self.say("m.room.member", {"membership": "join"}, state_key=ALICE)

    def _found(self, txn: Transaction) -> str:
        return self.creation.found_room(txn, SPEC_2014, ALICE, is_public=True).room_id

    def say(self, event_type: str, content: dict[str, Any], **more: Any) -> StoredEvent:
        def say(txn: Transaction) -> StoredEvent:
            room = rooms.head(txn, self.room_id)
            assert room is not None
            return self.creation.say(txn, room, EventDraft(self.room_id, event_type, ALICE, content, **more))

        stored: StoredEvent = self.house.write(say)
        self.house.settle()
        return stored

    def speak(self, body: str, **more: Any) -> StoredEvent:
        return self.say("m.room.message", {"msgtype": "m.text", "body": body, **more})

    def comes(self, user_id: str) -> None:
        """Another server's user joins, through us."""

        def come(txn: Transaction) -> None:
            room = rooms.head(txn, self.room_id)
            assert room is not None
            event, pdu = build(
                SPEC_2014,
                EventDraft(self.room_id, "m.room.member", user_id, {"membership": "join"}, user_id),
                local_id=f"join-{user_id[1:4]}",
                origin=user_id.partition(":")[2],
                origin_server_ts=1,
                depth=3,
                prev_events=[extremity.event_id for extremity in room.extremities],
                auth_events=(),
                replaces=None,
                power_level=0,
                key=self.creation.signing_key,
            )
            self.creation.persistence.persist(txn, room, event, encode_pdu(pdu), None)

        self.house.write(come)
        self.house.settle()


@pytest.fixture
def room(house: House) -> RealRoom:
    return RealRoom(house)


def ids(sent: Sent) -> list[str]:
    return [f"${pdu['pdu_id']}:{pdu['origin']}" for pdu in sent.body["pdus"]]


def test_who_joins_gets_what_comes_after_and_the_others_get_the_join(house: House, room: RealRoom) -> None:
    room.comes(BOB)
    assert house.other.sent == [], "who joined through us has their own join"
    room.comes(CAROL)
    assert ids(house.accept("there.example")) == ["$join-car:third.example"]
    assert house.other.under_way == []
    message = room.speak("hello")
    assert ids(house.accept("there.example")) == ids(house.accept("third.example")) == [message.event.event_id]


@pytest.mark.parametrize("is_announced", [True, False])
def test_who_is_kicked_gets_the_kick_once_and_nothing_after_it(
    house: House, room: RealRoom, *, is_announced: bool
) -> None:
    room.comes(BOB)
    message = room.speak("hello")
    kick = room.say("m.room.member", {"membership": "leave"}, state_key=BOB)
    room.speak("he is gone")
    if not is_announced:
        house.restart(killed=True)
    sent = []
    while house.other.under_way:
        sent += ids(house.accept())
    assert sent == [message.event.event_id, kick.event.event_id]


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_server_in_no_room_hears_that_its_user_was_turned_away(
    house: House, room: RealRoom, *, is_announced: bool
) -> None:
    room.say("m.room.member", {"membership": "invite"}, state_key=BOB)
    assert house.other.sent == [], "invites are brought by another way"
    room.speak("shall we?")
    turned_away = room.say("m.room.member", {"membership": "leave"}, state_key=BOB)
    room.speak("rather not")
    if not is_announced:
        house.restart(killed=True)
    assert ids(house.accept()) == [turned_away.event.event_id]
    assert house.other.under_way == []


def test_what_is_stored_can_be_sent_as_it_is(house: House, room: RealRoom) -> None:
    """The signature of a request is over the canonical JSON of what is in it."""
    secret = room.speak("secret", z=1, a={"y": "ü", "b": 2})
    room.say("m.room.redaction", {}, redacts=secret.event.event_id)
    rows = house.write(lambda txn: txn.all("SELECT pdu FROM events"))
    assert len(rows) == 4
    for (pdu,) in rows:
        assert encode_content(json.loads(bytes(pdu))) == bytes(pdu)


def test_a_redacted_event_that_still_waits_is_sent_without_its_content(house: House, room: RealRoom) -> None:
    room.comes(BOB)
    room.speak("on the way")
    secret = room.speak("secret")
    room.say("m.room.redaction", {}, redacts=secret.event.event_id)
    house.accept()
    sent = house.accept()
    assert [pdu["pdu_type"] for pdu in sent.body["pdus"]] == ["m.room.message", "m.room.redaction"]
    assert sent.body["pdus"][0]["content"] == {}
