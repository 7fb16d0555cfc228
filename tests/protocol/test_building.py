"""Building: the finished event is what any other server will accept."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signedjson.key import generate_signing_key, get_verify_key

from synapse_like.protocol import canonical_json
from synapse_like.protocol.building import build, depth_after
from synapse_like.protocol.errors import CanonicalJsonError, TooLarge
from synapse_like.protocol.events import Event, EventDraft, Pdu
from synapse_like.protocol.hashes import check_content_hash, reference_hash
from synapse_like.protocol.redaction import redact
from synapse_like.protocol.room_versions import ALL_RULES, SPEC_2014, V1, V4, V10, V11, V12, RoomRules
from synapse_like.protocol.signing import verify_pdu
from synapse_like.protocol.wire_formats import MAX_PDU_BYTES, from_pdu, to_pdu
from tests.protocol.strategies import contents, event_ids_of, names, room_ids_of

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
        replaces=replaces.event_id if replaces is not None else None,
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
    assert check_content_hash(SPEC_2014, pdu)
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


# The Matrix room versions.

P, C = "$" + "p" * 43, "$" + "c" * 43


def built_in(
    rules: RoomRules, draft: EventDraft, *, prev_events: tuple[str, ...] = (), hashes: Mapping[str, str] | None = None
) -> tuple[Event, Pdu]:
    return build(
        rules,
        draft,
        local_id="x1",
        origin="a.example",
        origin_server_ts=1404838188000,
        depth=4,
        prev_events=prev_events,
        auth_events=prev_events,
        replaces=None,
        power_level=100,
        key=KEY,
        reference_hashes=hashes or {},
    )


@given(st.data())
def test_every_other_server_accepts_what_is_built_in_any_version(data: st.DataObject) -> None:
    rules = data.draw(st.sampled_from(ALL_RULES))
    ids = data.draw(st.lists(event_ids_of(rules), max_size=3))
    draft = EventDraft(
        room_id=data.draw(room_ids_of(rules)),
        type=data.draw(names | st.sampled_from(["m.room.create", "m.room.member"])),
        sender="@alice:a.example",
        content=data.draw(contents),
        state_key=data.draw(st.none() | names),
        required_power_level=50,
    )
    event, pdu = built_in(rules, draft, prev_events=tuple(ids), hashes=dict.fromkeys(ids, "h"))
    assert from_pdu(rules, pdu) == event
    assert to_pdu(rules, event) == pdu
    assert check_content_hash(rules, pdu)
    verify_pdu(rules, pdu, "a.example", get_verify_key(KEY))


def test_id_is_chosen_or_follows_from_the_event() -> None:
    assert built_in(V1, MESSAGE)[0].event_id == "$x1:a.example"
    event, pdu = built_in(V4, MESSAGE)
    hash_of_it = reference_hash(V4, pdu).replace("+", "-").replace("/", "_")
    assert event.event_id == "$" + hash_of_it
    assert "event_id" not in pdu


def test_references_carry_their_hashes_where_the_format_tells_them() -> None:
    _, pdu = built_in(V1, MESSAGE, prev_events=("$p:b.example",), hashes={"$p:b.example": "h", "$q:b.example": "i"})
    assert pdu["prev_events"] == pdu["auth_events"] == [["$p:b.example", {"sha256": "h"}]]
    _, pdu = built_in(V4, MESSAGE, prev_events=(P, C))
    assert pdu["prev_events"] == pdu["auth_events"] == [P, C]


def test_room_id_follows_from_the_create_event_where_the_rules_say_so() -> None:
    draft = EventDraft("", "m.room.create", "@alice:a.example", {"room_version": "12"}, "")
    event, pdu = built_in(V12, draft)
    assert event.room_id == "!" + event.event_id[1:]
    assert "room_id" not in pdu
    join = EventDraft(event.room_id, "m.room.member", "@alice:a.example", {"membership": "join"}, "@alice:a.example")
    assert built_in(V12, join)[1]["room_id"] == event.room_id


@pytest.mark.parametrize(
    ("rules", "at_the_top", "content"),
    [(V10, P, {"reason": "rude"}), (V11, None, {"reason": "rude", "redacts": P})],
)
def test_redaction_names_its_target_where_the_version_wants_it(
    rules: RoomRules, at_the_top: str | None, content: dict[str, Any]
) -> None:
    draft = EventDraft("!r:a.example", "m.room.redaction", "@alice:a.example", {"reason": "rude"}, redacts=P)
    event, pdu = built_in(rules, draft)
    assert event.redacts == P
    assert (pdu.get("redacts"), pdu["content"]) == (at_the_top, content)


def test_levels_of_2014_are_told_in_no_other_version() -> None:
    event, pdu = built_in(V4, TOPIC)
    assert (event.power_level, event.required_power_level, event.replaces_state) == (None, None, None)
    assert not {"power_level", "required_power_level", "prev_state_id"} & pdu.keys()


def test_size_counts_everything_in_every_version() -> None:
    for rules in (V1, V4, V12):
        empty = EventDraft("!" + "r" * 43 if rules is V12 else "!r:a.example", "x", "@alice:a.example", {"body": ""})
        room_for_body = MAX_PDU_BYTES - len(canonical_json.encode(built_in(rules, empty)[1]))
        fitting = EventDraft(empty.room_id, "x", empty.sender, {"body": "x" * room_for_body})
        from_pdu(rules, built_in(rules, fitting)[1])
        with pytest.raises(TooLarge):
            built_in(rules, EventDraft(empty.room_id, "x", empty.sender, {"body": "x" * (room_for_body + 1)}))


@pytest.mark.parametrize(
    ("rules", "depths", "depth"),
    [
        (V1, [], 1),
        (V1, [3, 7], 8),
        (V1, [2**53 - 1], 2**53),
        (V1, [2**63 - 2], 2**63 - 1),
        (V1, [2**63 - 1], 2**63 - 1),
        (V10, [2**53 - 2], 2**53 - 1),
        (V12, [1, 2**53 - 1], 2**53 - 1),
        (SPEC_2014, [2**53 - 1], 2**53 - 1),
    ],
)
def test_depth_grows_as_far_as_it_can_be_told(rules: RoomRules, depths: list[int], depth: int) -> None:
    """Sections "Event format" of room versions 1 and 6: a room whose depth is at the limit stays there."""
    assert depth_after(rules, depths) == depth
