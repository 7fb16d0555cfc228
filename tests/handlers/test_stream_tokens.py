"""Tokens are what this server gave out, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse_like.handlers.stream_tokens import StreamToken
from synapse_like.protocol.errors import BadPagination
from synapse_like.storage.events import GAP


@given(st.integers(0, 2**43 - 1))
def test_a_token_comes_back_as_it_was(place: int) -> None:
    token = StreamToken.at(place)
    assert token.place == place
    assert StreamToken.parse(str(token), newest=token.events) == token


@given(st.integers(0, 10**12), st.integers(0, 10**17), st.integers(0, 10**17))
def test_a_token_holds_a_position_of_each_stream(events: int, presence: int, typing: int) -> None:
    token = StreamToken(events, presence=presence, typing=typing)
    assert StreamToken.parse(str(token), newest=events) == token


def test_a_token_from_before_there_were_other_streams_is_understood() -> None:
    assert StreamToken.parse("s12", newest=12) == StreamToken(12, presence=0, typing=0)


def test_a_token_of_a_position_is_that_position() -> None:
    assert StreamToken.at(3 * GAP) == StreamToken(3)
    assert str(StreamToken.at(3 * GAP - 1)) == "s3-1"


@given(st.text())
def test_anything_else_is_refused_and_never_fails_otherwise(text: str) -> None:
    try:
        token = StreamToken.parse(text, newest=100)
    except BadPagination:
        return
    assert str(token) == text
    assert token.events <= 100


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "s-1",
        "s01",
        "s1 ",
        " s1",
        "S1",
        "1",
        "s1_2",
        "s1_2_",
        "s1_0_0",
        "s1_02_3",
        "s1-1_2_3",
        "s1_2_3_4",
        "s٣",
        "s" + "9" * 30,
        "s3-0",
        "s3-",
        "s0-1",
        f"s3-{GAP}",
    ],
)
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(BadPagination):
        StreamToken.parse(text, newest=10**18)


def test_a_token_from_the_future_is_refused() -> None:
    with pytest.raises(BadPagination):
        StreamToken.parse("s11", newest=10)
