"""Query parameters and bodies: what is read of them, and what is refused with which words."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import field

from synapse_like.http.requests import Query, as_object, decode_json, nests_deeper
from synapse_like.models import Model, Unfit
from synapse_like.protocol.errors import BadJson, BadPagination, BadParam, NotJson

DEPTH = 100


def read_json(content: bytes, kind: type[Model] | None, depth: int) -> Any:
    """What a route gets of a body."""
    return as_object(decode_json(content, depth), kind)


class Invitation(Model, frozen=True):
    user_id: str
    reason: str | None = None
    users: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.user_id.startswith("@"):
            raise Unfit("user_id", "must begin with '@'")


# Query parameters.


def test_parameters_are_decoded_and_the_first_of_a_name_counts() -> None:
    query = Query(b"from=s%3A1&name=a+b%2Bc&from=later&%66lag")
    assert query.text("from") == "s:1"
    assert query.text("name") == "a b+c"
    assert query.text("flag") == ""
    assert query.text("missing") is None
    assert query.text("missing", "usual") == "usual"
    assert query.has("flag")
    assert not query.has("missing")


def test_bad_utf8_is_the_fault_of_its_parameter_alone() -> None:
    query = Query(b"bad=%ff&good=1")
    assert query.text("good") == "1"
    with pytest.raises(BadParam):
        query.text("bad")
    with pytest.raises(BadPagination):
        query.text("bad", error=BadPagination)


def test_whole_numbers_within_their_bounds_are_read() -> None:
    query = Query(b"a=1&b=-5&c=1000")
    assert query.integer("a", 10, 1, 1000) == 1
    assert query.integer("b", 10, -5, 0) == -5
    assert query.integer("c", 10, 1, 1000) == 1000
    assert query.integer("missing", 10, 1, 1000) == 10
    assert query.integer("missing", None, 1, 1000) is None


@pytest.mark.parametrize("value", [b"", b"0", b"1001", b"ten", b"1.0", b"+1", b"1_0", b"%D9%A1", b"1" * 5000, b"%ff"])
def test_other_numbers_are_refused_as_the_caller_wants_it(value: bytes) -> None:
    query = Query(b"limit=" + value)
    with pytest.raises(BadParam):
        query.integer("limit", 10, 1, 1000)
    with pytest.raises(BadPagination):
        query.integer("limit", 10, 1, 1000, error=BadPagination)


# Bodies.


@pytest.mark.parametrize("content", [b"", b" \r\n", b"null", b" null ", b"{}"])
def test_no_body_and_null_are_an_empty_object(content: bytes) -> None:
    assert read_json(content, None, DEPTH) == {}


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"hello",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\\ud800"}',
        b'{"a": "\x00"}',
        b"\xff\xfe{\x00}\x00",
        b"{}{}",
    ],
)
def test_what_is_not_json_in_utf8_is_called_so(content: bytes) -> None:
    with pytest.raises(NotJson):
        read_json(content, None, DEPTH)


@pytest.mark.parametrize("content", [b"[]", b"1", b'"text"', b"true"])
def test_what_is_json_but_no_object_is_called_so(content: bytes) -> None:
    with pytest.raises(BadJson):
        read_json(content, None, DEPTH)


def test_model_is_filled() -> None:
    invitation = read_json(b'{"user_id": "@bob", "unknown": 1}', Invitation, DEPTH)
    assert invitation == Invitation(user_id="@bob")


def test_all_faults_stand_in_one_sentence() -> None:
    with pytest.raises(BadJson) as raised:
        read_json(b'{"reason": 5, "users": ["@a", 7]}', Invitation, DEPTH)
    assert raised.value.message == ("user_id: is required; reason: must be a string; users.1: must be a string")
    with pytest.raises(BadJson) as raised:
        read_json(b'{"user_id": "bob"}', Invitation, DEPTH)
    assert raised.value.message == "user_id: must begin with '@'"


def test_sentence_stays_short_whatever_was_sent() -> None:
    with pytest.raises(BadJson) as raised:
        read_json(b'{"user_id": "@bob", "users": [' + b"1," * 9999 + b"1]}", Invitation, DEPTH)
    assert len(raised.value.message) < 2000
    assert raised.value.message.endswith("and 9980 more")


# Depth.


def nested(depth: int) -> bytes:
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


def test_depth_is_refused_from_the_first_level_too_many() -> None:
    assert read_json(nested(DEPTH), None, DEPTH)
    with pytest.raises(BadJson):
        read_json(nested(DEPTH + 1), None, DEPTH)


@pytest.mark.parametrize("depth", [1000, 2000, 100_000])
def test_depth_that_would_hurt_a_parser_is_refused_as_depth(depth: int) -> None:
    with pytest.raises(BadJson):
        read_json(nested(depth), None, DEPTH)


def test_brackets_in_strings_are_no_depth() -> None:
    brackets = b"[{" * 500
    assert read_json(b'{"a": "' + brackets + b'"}', None, DEPTH)
    assert read_json(b'{"a": "\\\\", "b": "' + brackets + b'"}', None, DEPTH)
    assert read_json(b'{"a": "\\"' + brackets + b'\\\\"}', None, DEPTH)


def test_breadth_is_no_depth() -> None:
    assert read_json(b'{"a": [' + b"{}," * 5000 + b"[]]}", None, DEPTH)


def depth_of(value: Any) -> int:
    """The plain way to tell."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


json_values = st.recursive(
    st.none() | st.integers(-5, 5) | st.text('[]{}"\\a,:', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[]{}"\\', max_size=3), inner, max_size=3),
    max_leaves=30,
)


@given(json_values, st.integers(0, 6))
def test_depth_is_told_as_a_walk_through_the_value_tells_it(value: Any, limit: int) -> None:
    import json

    content = json.dumps(value).encode()
    assert nests_deeper(content, limit) == (depth_of(value) > limit)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 1_000_000,
        b"[" * 500_000 + b"]" * 500_000,
        b"[]" * 500_000,
        b"[[[[]]]]" * 125_000,
        b'"[' * 500_000,
        b"\\" * 1_000_000 + b"[" * 200,
    ],
)
def test_depth_of_hostile_bodies_is_told_quickly(content: bytes) -> None:
    began = time.process_time()
    nests_deeper(content, DEPTH)
    assert time.process_time() - began < 0.5
