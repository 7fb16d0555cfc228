"""What hypothesis needs to make JSON, identifiers and PDUs of every room version."""

from typing import Any

from hypothesis import strategies as st

from synapse_like.protocol.canonical_json import LARGEST_INTEGER
from synapse_like.protocol.pdu_ids import LARGEST_STORED
from synapse_like.protocol.room_versions import ALL_RULES, RoomRules

texts = st.text(max_size=12)
"""Text that has a UTF-8 form."""

broken_texts = st.text(st.characters(), max_size=12)
"""Text that may hold half a surrogate pair."""

integers = st.integers(-LARGEST_INTEGER, LARGEST_INTEGER)


def _nested(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=12,
    )


canonical_values = _nested(st.none() | st.booleans() | integers | texts, texts)
"""JSON that has a canonical form."""

any_values = _nested(
    st.none() | st.booleans() | st.integers() | st.floats() | broken_texts | st.binary(max_size=3), broken_texts
)
"""JSON, and what only looks like it."""

lenient_values = _nested(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts, texts
)
"""JSON as room versions without strict rules allow it."""

json_texts = st.lists(
    st.sampled_from(
        ["[", "]", "{", "}", ",", ":", '"', "a", "\\u", "d800", "dc00", "-", ".", "e", "0", "9" * 18, "1" * 19]
    )
    | st.sampled_from(["true", "null", "NaN", " ", "\ufeff", '"":', "1" * 20, '"é"', "Infinity"]),
    max_size=12,
).map(lambda tokens: "".join(tokens).encode())
"""Bytes that are JSON, or almost."""

contents = st.dictionaries(texts, canonical_values, max_size=4)

opaque = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", min_size=1, max_size=12)
servers = st.sampled_from(["a.example", "b.example:8448", "127.0.0.1", "[::1]:8448", "localhost"])
pairs = st.tuples(servers, opaque).map(list)
event_ids = st.tuples(opaque, servers).map(lambda parts: f"${parts[0]}:{parts[1]}")
room_ids = st.tuples(opaque, servers).map(lambda parts: f"!{parts[0]}:{parts[1]}")
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@st.composite
def pdus(draw: st.DrawFn) -> dict[str, Any]:
    """PDUs of the 2014 format, valid in every field."""
    origin = draw(servers)
    is_state = draw(st.booleans())
    pdu: dict[str, Any] = draw(st.dictionaries(st.sampled_from(["x", "age", "event_id"]), canonical_values))
    pdu |= {
        "pdu_id": draw(opaque),
        "origin": origin,
        "context": draw(room_ids),
        "pdu_type": draw(names),
        "user_id": f"@{draw(opaque).lower()}:{origin}",
        "ts": draw(st.integers(0, LARGEST_INTEGER)),
        "depth": draw(st.integers(0, LARGEST_INTEGER)),
        "prev_pdus": draw(st.lists(pairs, max_size=20)),
        "auth_pdus": draw(st.lists(pairs, max_size=20)),
        "content": draw(contents),
        "is_state": is_state,
        "hashes": draw(st.dictionaries(texts, texts, max_size=2)),
        "signatures": draw(st.dictionaries(servers, st.dictionaries(texts, texts, max_size=2), max_size=2)),
    }
    optional: dict[str, st.SearchStrategy[Any]] = {
        "redacts": event_ids,
        "unsigned": st.dictionaries(texts, canonical_values, min_size=1, max_size=2),
    }
    if is_state:
        pdu["state_key"] = draw(st.just("") | names)
        optional |= {"power_level": integers, "required_power_level": integers}
        if draw(st.booleans()):
            pdu["prev_state_origin"], pdu["prev_state_id"] = draw(pairs)
    for key, strategy in optional.items():
        if draw(st.booleans()):
            pdu[key] = draw(strategy)
    return pdu


MEANINGFUL_KEYS = {
    "m.room.aliases": ["aliases"],
    "m.room.create": ["creator", "room_version"],
    "m.room.history_visibility": ["history_visibility"],
    "m.room.join_rules": ["join_rule", "allow"],
    "m.room.member": ["membership", "join_authorised_via_users_server", "third_party_invite"],
    "m.room.power_levels": ["users", "invite", "notifications"],
    "m.room.redaction": ["redacts", "reason"],
}
"""Types that some room version treats in its own way, and keys of their contents."""

_old_local_parts = st.text(st.characters(exclude_characters="\0:", exclude_categories=["Cs"]), max_size=20)
_BASE64 = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_HASHES = {"hash": st.text(_BASE64 + "+/", min_size=43, max_size=43)}
_HASHES["url-safe-hash"] = st.text(_BASE64 + "-_", min_size=43, max_size=43)


def event_ids_of(rules: RoomRules) -> st.SearchStrategy[str]:
    """The IDs of events in a room with these rules."""
    if rules.event_id_form == "chosen-by-origin":
        return event_ids
    return _HASHES[rules.event_id_form].map(lambda text: f"${text}")


def room_ids_of(rules: RoomRules) -> st.SearchStrategy[str]:
    """The IDs of rooms with these rules."""
    if rules.room_id_form == "chosen-by-creator":
        return room_ids
    return _HASHES["url-safe-hash"].map(lambda text: f"!{text}")


@st.composite
def _contents_of(draw: st.DrawFn, rules: RoomRules, event_type: str) -> dict[str, Any]:
    values = canonical_values if rules.strict_canonical_json else lenient_values
    content = draw(st.dictionaries(texts, values, max_size=3))
    for key in MEANINGFUL_KEYS.get(event_type, []):
        choices = values | event_ids_of(rules) | st.fixed_dictionaries({"signed": values}, optional={"x": values})
        if draw(st.booleans()):
            content[key] = draw(choices)
    return content


@st.composite
def pdus_of(draw: st.DrawFn, rules: RoomRules) -> dict[str, Any]:
    """PDUs for a room with these rules, valid in every field."""
    if rules.pdu_format == "id-pairs":
        return draw(pdus())
    reference: st.SearchStrategy[Any] = event_ids_of(rules)
    if rules.pdu_format == "ids-with-hashes":
        reference = st.tuples(reference, st.dictionaries(texts, texts, max_size=2)).map(list)
    greatest = LARGEST_INTEGER if rules.strict_canonical_json else LARGEST_STORED
    event_type = draw(names | st.sampled_from(sorted(MEANINGFUL_KEYS)))
    extra = st.sampled_from(["x", "origin", "membership", "prev_state", "user_id"])
    pdu: dict[str, Any] = draw(st.dictionaries(extra, canonical_values))
    pdu |= {
        "type": event_type,
        "sender": f"@{draw(_old_local_parts)}:{draw(servers)}",
        "origin_server_ts": draw(st.integers(-greatest, greatest)),
        "depth": draw(st.integers(0, greatest)),
        "prev_events": draw(st.lists(reference, max_size=3)),
        "auth_events": draw(st.lists(reference, max_size=3)),
        "content": draw(_contents_of(rules, event_type)),
        "hashes": {"sha256": draw(texts)},
        "signatures": draw(st.dictionaries(servers, st.dictionaries(texts, texts, max_size=2), max_size=2)),
    }
    if rules.pdu_format == "ids-with-hashes":
        pdu["event_id"] = draw(event_ids)
    if rules.room_id_form == "chosen-by-creator" or event_type != "m.room.create":
        pdu["room_id"] = draw(room_ids_of(rules))
    optional: dict[str, st.SearchStrategy[Any]] = {
        "state_key": st.just("") | names,
        "redacts": event_ids_of(rules),
        "unsigned": st.dictionaries(texts, canonical_values, min_size=1, max_size=2),
    }
    for key, strategy in optional.items():
        if draw(st.booleans()):
            pdu[key] = draw(strategy)
    return pdu


rules_and_pdus = st.sampled_from(ALL_RULES).flatmap(lambda rules: st.tuples(st.just(rules), pdus_of(rules)))
"""A room version, and a valid PDU of it."""
