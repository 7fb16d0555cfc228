"""The words in which shapes are said."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.shapes import (
    anything,
    boolean,
    count,
    historical_user_id,
    integer,
    integer_or_text,
    list_of,
    map_of,
    number_or_text,
    one_of,
    server_name,
    string,
    string_or_null,
    string_or_object,
    user_id,
)
from tests.protocol.refusals import refusal_of
from tests.protocol.strategies import any_values

LARGEST = 2**53 - 1
LARGEST_DOUBLE = int(sys.float_info.max)
CHECKS = [
    *(anything, boolean, count, historical_user_id, integer, integer_or_text, number_or_text, server_name, string),
    *(string_or_null, string_or_object, user_id, list_of(string), map_of(integer), one_of("a", "b")),
]


@given(st.sampled_from(CHECKS), any_values)
def test_no_value_is_met_otherwise_than_by_bad_json(check: Callable[[str, object], object], value: Any) -> None:
    error = refusal_of(check, "name", value)
    assert error is None or isinstance(error, BadJson)


@pytest.mark.parametrize("check", [integer, integer_or_text])
@pytest.mark.parametrize(("value", "fits"), [(LARGEST, True), (-LARGEST, True), (2**53, False), (-(2**53), False)])
def test_integer_is_one_that_every_json_reader_keeps_exact(
    check: Callable[[str, object], int], value: int, fits: bool
) -> None:
    if fits:
        assert check("name", value) == value
    else:
        with pytest.raises(BadJson, match="'name' must be an integer"):
            check("name", value)


@pytest.mark.parametrize("number", [2**53, -(2**70), LARGEST_DOUBLE, -LARGEST_DOUBLE])
def test_number_may_be_as_large_as_doubles_are(number: int) -> None:
    """Room version 1, "Canonical JSON" and "m.room.power_levels events accept values as floats"."""
    assert number_or_text("name", number) == number
    assert number_or_text("name", f" {number:+} ") == number
    for too_large in (number * 2**1000, str(number * 2**1000)):
        with pytest.raises(BadJson, match="'name' must be an integer"):
            number_or_text("name", too_large)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("100", 100),
        ("000100", 100),
        ("+100", 100),
        ("-100", -100),
        (" 100 ", 100),
        ("\t-00100\r\n", -100),
        ("0", 0),
        ("-0", 0),
        ("0" * 5000, 0),
        ("0" * 5000 + "7", 7),
        (str(LARGEST), LARGEST),
    ],
)
def test_text_may_stand_for_an_integer(text: str, number: int) -> None:
    assert integer_or_text("name", text) == number
    assert number_or_text("name", text) == number
    with pytest.raises(BadJson, match="must be an integer"):
        integer("name", text)


@pytest.mark.parametrize(
    "text",
    ["", " ", "+", "--1", "+ 1", "1 2", "1.0", "1e3", "0x10", "1_000", "٥", "\u00a01", "9" * 5000, "ten"],
)
def test_other_text_does_not(text: str) -> None:
    for check in (integer_or_text, number_or_text):
        with pytest.raises(BadJson, match="must be an integer"):
            check("name", text)


@pytest.mark.parametrize(
    ("fraction", "number"),
    [
        (50.57, 50),
        (-50.57, -50),
        (5.114698e4, 51146),
        (0.0, 0),
        (-0.9, 0),
        (float(LARGEST), LARGEST),
        (1e300, int(1e300)),
    ],
)
def test_of_a_fraction_the_whole_part_may_count(fraction: float, number: int) -> None:
    assert number_or_text("name", fraction) == number
    with pytest.raises(BadJson, match="must be an integer"):
        integer_or_text("name", fraction)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), True, False, None, [], {}])
def test_what_is_no_number_is_none_in_any_form(value: Any) -> None:
    for check in (integer, integer_or_text, number_or_text):
        with pytest.raises(BadJson, match="must be an integer"):
            check("name", value)


@pytest.mark.parametrize("value", ["@alice:a.example", "@Älice B:a.example", "@:a.example", "@a\x01:a.example"])
def test_old_users_may_have_had_any_name(value: str) -> None:
    historical_user_id("name", value)


@pytest.mark.parametrize("value", [None, "", "alice", "@alice", "@alice:", "@a\0:a.example", "#alice:a.example"])
def test_but_it_must_have_been_one(value: Any) -> None:
    with pytest.raises(BadJson):
        historical_user_id("name", value)


def test_count_is_not_negative() -> None:
    count("name", 0)
    with pytest.raises(BadJson, match="an integer of at least 0"):
        count("name", -1)


def test_list_and_map_say_which_of_their_values_is_wrong() -> None:
    list_of(integer, at_most=2)("name", [1, 2])
    map_of(integer)("name", {"a": 1})
    with pytest.raises(BadJson, match="'name' must be a list of at most 2"):
        list_of(integer, at_most=2)("name", [1, 2, 3])
    with pytest.raises(BadJson, match=r"'name\[1\]' must be an integer"):
        list_of(integer)("name", [1, "2"])
    with pytest.raises(BadJson, match=r"'name\.b' must be an integer"):
        map_of(integer)("name", {"a": 1, "b": "2"})
