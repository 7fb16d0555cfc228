"""What hypothesis needs to make JSON, identifiers and PDUs."""

from typing import Any

from hypothesis import strategies as st

from synapse_like.protocol.canonical_json import LARGEST_INTEGER

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
