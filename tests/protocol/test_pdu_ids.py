"""The PDUs of the Matrix room versions: every field in its place, and nothing accepted that is not one."""

from typing import Any

import pytest
from msgspec.structs import replace

from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.events import Event
from synapse_like.protocol.redaction import redact, redact_pdu
from synapse_like.protocol.room_versions import ALL_RULES, SPEC_2014, V1, V2, V3, V4, V10, V11, V12, RoomRules
from synapse_like.protocol.wire_formats import from_pdu, read_pdu, to_pdu

TODAY = [rules for rules in ALL_RULES if rules is not SPEC_2014]

HASH = "CD66HAED5npg6074c6pDtLKalHjVfYb2q4Q3LZgrW6o"
SLASHED = "acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk"
URL_SAFE = "Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"

COMMON: dict[str, Any] = {
    "type": "m.room.message",
    "room_id": "!r:b.example",
    "sender": "@alice:a.example",
    "origin_server_ts": 1404838188000,
    "depth": 7,
    "content": {"msgtype": "m.text", "body": "hello"},
    "hashes": {"sha256": "h"},
    "signatures": {"a.example": {"ed25519:1": "s"}},
}

WITH_HASHES = COMMON | {
    "event_id": "$m1:a.example",
    "prev_events": [["$p1:b.example:8448", {"sha256": "x"}], ["$p2:a.example", {}]],
    "auth_events": [["$p2:a.example", {"sha256": "y"}]],
}


def message_of(rules: RoomRules) -> dict[str, Any]:
    """A message as one of today's versions has it."""
    if rules.pdu_format == "ids-with-hashes":
        return WITH_HASHES
    hash_id = SLASHED if rules.event_id_form == "hash" else URL_SAFE
    room_id = "!r:b.example" if rules.room_id_form == "chosen-by-creator" else f"!{URL_SAFE}"
    return COMMON | {"room_id": room_id, "prev_events": [f"${hash_id}", f"${HASH}"], "auth_events": [f"${HASH}"]}


every_version = pytest.mark.parametrize("rules", TODAY, ids=lambda rules: f"version-{rules.name}")


def test_event_named_by_id_and_hash_maps_field_by_field() -> None:
    assert from_pdu(V1, WITH_HASHES) == Event(
        event_id="$m1:a.example",
        room_id="!r:b.example",
        type="m.room.message",
        sender="@alice:a.example",
        content={"msgtype": "m.text", "body": "hello"},
        origin_server_ts=1404838188000,
        depth=7,
        prev_events=("$p1:b.example:8448", "$p2:a.example"),
        auth_events=("$p2:a.example",),
        # The hashes are the origin's word, which may well contradict itself.
        prev_hashes=({"sha256": "x"}, {}),
        auth_hashes=({"sha256": "y"},),
        seals=("sha256", "h", "a.example", "ed25519:1", "s"),
    )


def test_event_named_by_its_hash_maps_field_by_field() -> None:
    event = from_pdu(V4, message_of(V4) | {"state_key": "", "unsigned": {"age": 1}})
    assert event == Event(
        event_id=event.event_id,
        room_id="!r:b.example",
        type="m.room.message",
        sender="@alice:a.example",
        content={"msgtype": "m.text", "body": "hello"},
        origin_server_ts=1404838188000,
        depth=7,
        prev_events=(f"${URL_SAFE}", f"${HASH}"),
        auth_events=(f"${HASH}",),
        state_key="",
        seals=("sha256", "h", "a.example", "ed25519:1", "s"),
        unsigned={"age": 1},
    )


def test_id_of_an_event_is_its_reference_hash_in_the_spelling_of_its_version() -> None:
    ids = {rules.name: from_pdu(rules, message_of(V4) | {"prev_events": []}).event_id for rules in (V3, V4)}
    # Worked out with sha256sum and base64 from the canonical JSON of the redacted form.
    assert ids == {
        "3": "$WHFx9iGzOkumU/zecmluRrhSHloHzYR2J33AkJC1oBk",
        "4": "$WHFx9iGzOkumU_zecmluRrhSHloHzYR2J33AkJC1oBk",
    }


def test_an_id_that_is_known_is_not_worked_out_again() -> None:
    assert read_pdu(V4, message_of(V4), "$known").event_id == "$known"


def test_an_event_id_beside_the_hash_is_an_unknown_key() -> None:
    event = from_pdu(V4, message_of(V4) | {"event_id": "$forged:a.example"})
    assert event.event_id != "$forged:a.example"
    assert event.extra == {"event_id": "$forged:a.example"}


def test_room_gets_its_id_from_the_create_event_where_the_rules_say_so() -> None:
    create = message_of(V12) | {"type": "m.room.create", "state_key": ""}
    del create["room_id"]
    event = from_pdu(V12, create)
    assert event.room_id == "!" + event.event_id[1:]
    assert to_pdu(V12, event) == create
    with pytest.raises(BadJson, match="follows from it"):
        from_pdu(V12, create | {"room_id": f"!{URL_SAFE}"})


@every_version
def test_everything_else_names_its_room(rules: RoomRules) -> None:
    with pytest.raises(BadJson, match="room_id"):
        from_pdu(rules, {key: value for key, value in message_of(rules).items() if key != "room_id"})


def test_redaction_names_its_target_at_the_top_until_version_11() -> None:
    redaction = message_of(V10) | {"type": "m.room.redaction", "redacts": f"${HASH}", "content": {"redacts": "$x:y"}}
    event = from_pdu(V10, redaction)
    assert event.redacts == f"${HASH}"
    assert event.extra == {}
    assert to_pdu(V10, event) == redaction


def test_redaction_names_its_target_in_the_content_from_version_11_on() -> None:
    redaction = message_of(V11) | {"type": "m.room.redaction", "redacts": "$x:y", "content": {"redacts": f"${HASH}"}}
    event = from_pdu(V11, redaction)
    assert event.redacts == f"${HASH}"
    assert event.extra == {"redacts": "$x:y"}
    assert to_pdu(V11, event) == redaction
    # What stands at the top is a key like any other.
    assert from_pdu(V11, redaction | {"redacts": 7}).extra == {"redacts": 7}


@pytest.mark.parametrize("target", [None, 1, "", "$", "$a\0b:c.example", ["$x:y"]])
def test_redaction_whose_content_names_no_event_redacts_nothing(target: object) -> None:
    redaction = message_of(V11) | {"type": "m.room.redaction", "content": {"redacts": target}}
    assert from_pdu(V11, redaction).redacts is None


@pytest.mark.parametrize("rules", [V1, V10], ids=lambda rules: rules.name)
def test_redaction_that_was_redacted_itself_is_still_an_event(rules: RoomRules) -> None:
    redaction = message_of(rules) | {"type": "m.room.redaction", "content": {}}
    assert from_pdu(rules, redaction).redacts is None


@every_version
def test_redacts_means_something_in_redactions_only(rules: RoomRules) -> None:
    event = from_pdu(rules, message_of(rules) | {"redacts": 7})
    assert (event.redacts, event.extra) == (None, {"redacts": 7})


@every_version
@pytest.mark.parametrize("sender", ["@Alice:a.example", "@:a.example", "@old name\n:a.example", "@ü:A.example:1"])
def test_users_with_old_names_are_still_users(rules: RoomRules, sender: str) -> None:
    assert from_pdu(rules, message_of(rules) | {"sender": sender}).sender == sender


def test_rooms_with_strange_names_are_still_rooms() -> None:
    strange = "!#test/room\nwith @cat:a.example"
    assert from_pdu(V10, message_of(V10) | {"room_id": strange}).room_id == strange
    with pytest.raises(BadJson, match="hash"):
        from_pdu(V12, message_of(V12) | {"room_id": strange})


@every_version
@pytest.mark.parametrize(
    "wrong",
    [
        {"type": None},
        {"type": ""},
        {"type": "x" * 256},
        {"type": "a\0b"},
        {"sender": "alice"},
        {"sender": "@alice"},
        {"sender": "@al\0ice:a.example"},
        {"sender": "@alice:no server"},
        {"sender": "@" + "x" * 250 + ":a.example"},
        {"room_id": None},
        {"room_id": "#r:b.example"},
        {"room_id": "!a\0b:b.example"},
        {"room_id": "!" + "x" * 42},
        {"origin_server_ts": "1"},
        {"origin_server_ts": True},
        {"origin_server_ts": 2**63},
        {"origin_server_ts": None},
        {"depth": -1},
        {"depth": 2**63},
        {"depth": 1.5},
        {"depth": None},
        {"prev_events": {}},
        {"prev_events": [None]},
        {"prev_events": ["$x"]},
        {"prev_events": [[]]},
        {"prev_events": [["$p1:b.example"]]},
        {"prev_events": [["$p1:b.example", {}, {}]]},
        {"prev_events": [["$p1:b.example", {"sha256": 1}]]},
        {"prev_events": [["$p1:b.example", "x"]]},
        {"prev_events": [["p1:b.example", {}]]},
        {"prev_events": [[f"${HASH}", {}]]},
        {"auth_events": None},
        {"auth_events": [1]},
        {"content": []},
        {"hashes": {}},
        {"hashes": {"sha256": 1}},
        {"hashes": "h"},
        {"signatures": {"a.example": "s"}},
        {"signatures": {"a.example": {"ed25519:1": 1}}},
        {"signatures": []},
        {"unsigned": 1},
        {"state_key": None},
        {"state_key": "a\0b"},
        {"state_key": "x" * 256},
    ],
)
def test_malformed_pdu_is_refused(rules: RoomRules, wrong: dict[str, Any]) -> None:
    from_pdu(rules, message_of(rules))
    with pytest.raises(BadJson):
        from_pdu(rules, message_of(rules) | wrong)


@pytest.mark.parametrize("redacts", [7, None, ["$x:a.example"]])
def test_redaction_whose_target_is_no_text_is_refused(redacts: object) -> None:
    with pytest.raises(BadJson):
        from_pdu(V2, WITH_HASHES | {"type": "m.room.redaction", "redacts": redacts})


@pytest.mark.parametrize("rules", [V1, V3, V10], ids=lambda rules: rules.name)
@pytest.mark.parametrize("redacts", ["", "x", "$a\0b:c.example"])
def test_redaction_whose_target_is_no_event_id_redacts_nothing(rules: RoomRules, redacts: str) -> None:
    """Section "Event format": `redacts` is a string. Others have the event, so later ones may follow on it."""
    redaction = message_of(rules) | {"type": "m.room.redaction", "redacts": redacts}
    event = from_pdu(rules, redaction)
    assert (event.redacts, event.extra["redacts"]) == (None, redacts)
    assert to_pdu(rules, event) == redaction
    assert to_pdu(rules, redact(rules, event)) == redact_pdu(rules, redaction)


@pytest.mark.parametrize("event_id", [None, "$x", "!m1:a.example", f"${HASH}"])
def test_event_that_tells_its_id_must_tell_one(event_id: object) -> None:
    with pytest.raises(BadJson):
        from_pdu(V1, WITH_HASHES | {"event_id": event_id})


@pytest.mark.parametrize(
    ("rules", "reference"),
    [
        (V3, f"${URL_SAFE}"),
        (V4, f"${SLASHED}"),
        (V4, "$m1:a.example"),
        (V4, f"${HASH}x"),
        (V4, ["$m1:a.example", {}]),
    ],
)
def test_reference_in_the_spelling_of_another_version_is_refused(rules: RoomRules, reference: object) -> None:
    with pytest.raises(BadJson):
        from_pdu(rules, message_of(rules) | {"prev_events": [reference]})


@every_version
def test_counts_at_their_bounds_pass_and_no_more(rules: RoomRules) -> None:
    reference = message_of(rules)["prev_events"][0]
    pdu = message_of(rules) | {"prev_events": [reference] * 20, "auth_events": [reference] * 10}
    event = from_pdu(rules, pdu)
    assert (len(event.prev_events), len(event.auth_events)) == (20, 10)
    for name in ("prev_events", "auth_events"):
        with pytest.raises(BadJson, match="at most"):
            from_pdu(rules, pdu | {name: [*pdu[name], reference]})


@every_version
def test_depth_and_time_are_bounded_by_what_the_version_can_write(rules: RoomRules) -> None:
    greatest = 2**53 - 1 if rules.strict_canonical_json else 2**63 - 1
    event = from_pdu(rules, message_of(rules) | {"depth": greatest, "origin_server_ts": -greatest})
    assert (event.depth, event.origin_server_ts) == (greatest, -greatest)
    with pytest.raises(BadJson):
        from_pdu(rules, message_of(rules) | {"depth": greatest + 1})


def test_levels_of_2014_are_not_told() -> None:
    event = replace(from_pdu(V4, message_of(V4)), required_power_level=50, power_level=100, replaces_state=f"${HASH}")
    assert to_pdu(V4, event) == message_of(V4)
