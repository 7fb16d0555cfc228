"""Building: the finished event is what any other server will accept."""

from typing import Any

import pytest
from signedjson.key import generate_signing_key, get_verify_key

from synapse_like.protocol import canonical_json
from synapse_like.protocol.building import build
from synapse_like.protocol.errors import CanonicalJsonError, TooLarge
from synapse_like.protocol.events import Event, EventDraft
from synapse_like.protocol.hashes import check_content_hash
from synapse_like.protocol.redaction import redact
from synapse_like.protocol.room_versions import SPEC_2014
from synapse_like.protocol.signing import verify_pdu
from synapse_like.protocol.wire_formats import MAX_PDU_BYTES, Pdu, from_pdu, to_pdu

KEY = generate_signing_key("a_b")

MESSAGE = EventDraft("!r:a.example", "m.room.message", "@alice:a.example", {"msgtype": "m.text", "body": "hello"})
TOPIC = EventDraft(
    "!r:a.example", "m.room.topic", "@alice:a.example", {"topic": "Welcome"}, "", required_power_level=50
)


def built(draft: EventDraft, replaces: Event | None = None) -> tuple[Event, Pdu]:
    return build(
        SPEC_2014,
        draft,
        local_id="x1",
        origin="a.example",
        origin_server_ts=1404838188000,
        depth=4,
        prev_events=["$p:b.example"],
        auth_events=["$c:a.example", "$l:a.example"],
        replaces=replaces,
        power_level=100,
        key=KEY,
    )


def test_message_gets_its_place_in_the_graph() -> None:
    event, _ = built(MESSAGE)
    assert event.event_id == "$x1:a.example"
    assert (event.origin_server_ts, event.depth) == (1404838188000, 4)
    assert event.prev_events == ("$p:b.example",)
    assert event.auth_events == ("$c:a.example", "$l:a.example")
    assert (event.room_id, event.type, event.sender, event.content) == (
        MESSAGE.room_id,
        MESSAGE.type,
        MESSAGE.sender,
        MESSAGE.content,
    )


def test_message_tells_no_power_level() -> None:
    event, pdu = built(MESSAGE.with_required_power_level(50))
    assert (event.power_level, event.required_power_level) == (None, None)
    assert not {"power_level", "required_power_level"} & pdu.keys()


def test_state_tells_power_levels_and_what_it_replaces() -> None:
    first, _ = built(TOPIC)
    second, pdu = built(TOPIC, replaces=first)
    assert (second.power_level, second.required_power_level) == (100, 50)
    assert first.replaces_state is None
    assert second.replaces_state == first.event_id
    assert (pdu["prev_state_id"], pdu["prev_state_origin"]) == ("x1", "a.example")


@pytest.mark.parametrize("draft", [MESSAGE, TOPIC])
def test_pdu_is_well_formed_hashed_and_signed(draft: EventDraft) -> None:
    event, pdu = built(draft)
    assert from_pdu(SPEC_2014, pdu) == event
    assert check_content_hash(pdu)
    verify_pdu(SPEC_2014, pdu, "a.example", get_verify_key(KEY))


def test_signature_survives_redaction() -> None:
    event, _ = built(MESSAGE)
    stripped = to_pdu(SPEC_2014, redact(SPEC_2014, event))
    assert "hello" not in str(stripped)
    verify_pdu(SPEC_2014, stripped, "a.example", get_verify_key(KEY))


def test_redaction_carries_its_target() -> None:
    draft = EventDraft("!r:a.example", "m.room.redaction", "@alice:a.example", {}, redacts="$m:a.example")
    event, pdu = built(draft)
    assert event.redacts == pdu["redacts"] == "$m:a.example"


def of_body(size: int) -> EventDraft:
    return EventDraft("!r:a.example", "m.room.message", "@alice:a.example", {"body": "x" * size})


def test_size_is_bounded_to_the_byte_as_every_receiver_counts_it() -> None:
    room_for_body = MAX_PDU_BYTES - len(canonical_json.encode(built(of_body(0))[1]))
    _, largest = built(of_body(room_for_body))
    assert len(canonical_json.encode(largest)) == MAX_PDU_BYTES
    from_pdu(SPEC_2014, largest)
    with pytest.raises(TooLarge, match="65537 bytes"):
        built(of_body(room_for_body + 1))


def test_huge_content_is_refused_before_it_is_signed() -> None:
    with pytest.raises(TooLarge):
        built(of_body(2 * MAX_PDU_BYTES))


@pytest.mark.parametrize("value", ["\ud800", 2**70])
def test_content_without_json_is_refused(value: Any) -> None:
    with pytest.raises(CanonicalJsonError):
        built(EventDraft("!r:a.example", "x", "@alice:a.example", {"key": value}))
