"""Profiles: what a field may be called, and what it may hold (PROF-1, PROF-3)."""

from __future__ import annotations

import pytest

from synapse_like.protocol.errors import BadJson, TooLarge
from synapse_like.protocol.profiles import (
    AVATAR_URL,
    DISPLAYNAME,
    LONGEST_DISPLAYNAME,
    LONGEST_NAME,
    MOST_BYTES,
    MOST_BYTES_OF_OTHERS,
    MOST_FIELDS,
    PRIVATE,
    PUBLIC,
    SHARED_ROOMS,
    check_field,
    check_value,
    check_visibility,
    is_nothing,
    read_profile,
)


@pytest.mark.parametrize("field", ["displayname", "age", "com.example.pet", "web site", "ä", "x" * LONGEST_NAME])
def test_field_may_have_any_name(field: str) -> None:
    check_field(field)


@pytest.mark.parametrize("field", ["", "visibility", "a\x00b", "a\nb", "x" * (LONGEST_NAME + 1), "ä" * LONGEST_NAME])
def test_not_everything_is_a_name(field: str) -> None:
    with pytest.raises(BadJson):
        check_field(field)


def test_name_and_avatar_are_open_to_everybody_and_the_rest_to_nobody() -> None:
    assert [check_visibility(field, None) for field in (DISPLAYNAME, AVATAR_URL, "age")] == [PUBLIC, PUBLIC, PRIVATE]
    assert check_visibility("age", SHARED_ROOMS) == SHARED_ROOMS
    assert check_visibility(DISPLAYNAME, PUBLIC) == PUBLIC


@pytest.mark.parametrize(("field", "visibility"), [("age", "friends"), ("age", 1), (DISPLAYNAME, PRIVATE)])
def test_visibility_must_fit(field: str, visibility: object) -> None:
    with pytest.raises(BadJson):
        check_visibility(field, visibility)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (DISPLAYNAME, "Ada ♥"),
        (DISPLAYNAME, "x" * LONGEST_DISPLAYNAME),
        (AVATAR_URL, "x" * MOST_BYTES[AVATAR_URL]),
        ("age", 36),
        ("age", None),
        ("pets", [{"name": "Tom", "weight": 4.5}]),
        ("text", "x" * (MOST_BYTES_OF_OTHERS - 2)),
    ],
)
def test_value_that_fits(field: str, value: object) -> None:
    check_value(field, value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (DISPLAYNAME, "x" * (LONGEST_DISPLAYNAME + 1)),
        (DISPLAYNAME, "♥" * (MOST_BYTES[DISPLAYNAME] // 3 + 1)),
        (AVATAR_URL, "x" * (MOST_BYTES[AVATAR_URL] + 1)),
        ("text", "x" * (MOST_BYTES_OF_OTHERS - 1)),
    ],
)
def test_value_that_is_too_long(field: str, value: object) -> None:
    with pytest.raises(TooLarge):
        check_value(field, value)


@pytest.mark.parametrize(
    ("field", "value"), [(DISPLAYNAME, 1), (AVATAR_URL, ["x"]), ("text", "\ud800"), ("text", float("nan"))]
)
def test_value_of_the_wrong_kind(field: str, value: object) -> None:
    with pytest.raises(BadJson):
        check_value(field, value)


def test_nothing_is_null_or_an_empty_name() -> None:
    assert is_nothing(DISPLAYNAME, "")
    assert is_nothing("age", None)
    assert not is_nothing("motto", "")


def test_profile_that_another_server_tells() -> None:
    told = {DISPLAYNAME: "Ada", AVATAR_URL: None, "age": 36}
    assert read_profile(told) == {DISPLAYNAME: "Ada", "age": 36}
    with pytest.raises(BadJson):
        read_profile({DISPLAYNAME: 5})
    with pytest.raises(TooLarge):
        read_profile({f"field{n}": n for n in range(MOST_FIELDS + 3)})
