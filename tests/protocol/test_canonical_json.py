"""Canonical JSON: the same bytes as everybody else's, and nothing that others might write differently."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from canonicaljson import encode_canonical_json
from hypothesis import assume, given
from hypothesis import strategies as st

from synapse_like.protocol.canonical_json import (
    LARGEST_INTEGER,
    MAX_DEPTH,
    check,
    decode,
    encode,
    encode_in_any_order,
)
from synapse_like.protocol.errors import CanonicalJsonError, MatrixError, NotJson
from tests.protocol.refusals import refusal_of
from tests.protocol.strategies import any_values, canonical_values, json_texts, lenient_values

EXAMPLES = json.loads((Path(__file__).parent.parent / "vectors" / "canonical_json.json").read_text())["examples"]


@pytest.mark.parametrize(("text", "canonical"), EXAMPLES)
def test_examples_of_the_specification(text: str, canonical: str) -> None:
    assert encode(json.loads(text)) == canonical.encode()


@given(canonical_values)
def test_bytes_are_those_of_the_reference_library(value: object) -> None:
    check(value)
    assert encode(value) == encode_canonical_json(value)


def test_control_characters_and_keys_beyond_the_basic_plane_are_written_as_the_reference_library_does() -> None:
    value = {"\uffff": 1, "\U00010000": 2, "": "".join(map(chr, range(0x100)))}
    assert encode(value) == encode_canonical_json(value)


@given(any_values)
def test_what_passes_the_check_comes_back_from_its_bytes_unchanged(value: object) -> None:
    assume(refusal_of(check, value) is None)
    assert json.loads(encode(value)) == value


@pytest.mark.parametrize(
    "value",
    [1.0, 0.5, float("nan"), float("inf"), LARGEST_INTEGER + 1, -LARGEST_INTEGER - 1, 2**70, "\ud800", b"x", (1,), {1}],
)
def test_value_without_a_canonical_form_is_refused_wherever_it_is(value: Any) -> None:
    for whole in (value, [value], {"key": value}, {"a": [{"b": value}]}):
        with pytest.raises(CanonicalJsonError):
            check(whole)


@pytest.mark.parametrize("key", [1, None, "half \udfff"])
def test_key_that_is_no_text_is_refused(key: object) -> None:
    with pytest.raises(CanonicalJsonError):
        check([{key: 1}])


@pytest.mark.parametrize("value", [LARGEST_INTEGER, -LARGEST_INTEGER, 0, True, False, None, "", "ü\0", [], {}])
def test_value_at_the_edge_passes(value: object) -> None:
    check([value])


def nested(depth: int, innermost: object, *, as_lists: bool) -> object:
    value = innermost
    for _ in range(depth):
        value = [value] if as_lists else {"": value}
    return value


@pytest.mark.parametrize("as_lists", [True, False])
def test_depth_is_bounded(as_lists: bool) -> None:
    check(nested(MAX_DEPTH, "innermost", as_lists=as_lists))
    check(nested(MAX_DEPTH - 1, {}, as_lists=as_lists))
    containers: list[object] = [{}, [], [1]]
    for innermost in containers:
        with pytest.raises(CanonicalJsonError, match="100 deep"):
            check(nested(MAX_DEPTH, innermost, as_lists=as_lists))


def test_depth_bound_can_be_chosen() -> None:
    check([[1]], max_depth=2)
    check(1, max_depth=0)
    with pytest.raises(CanonicalJsonError, match="1 deep"):
        check([[1]], max_depth=1)


def test_depth_that_would_break_a_recursion_is_refused_like_any_other() -> None:
    with pytest.raises(CanonicalJsonError):
        check(nested(100_000, 1, as_lists=True))


@pytest.mark.parametrize("value", [object(), "\ud800", 2**70, nested(300, 1, as_lists=True)])
def test_encoding_fails_by_a_matrix_error_only(value: object) -> None:
    with pytest.raises(CanonicalJsonError):
        encode(value)


# Room versions 1 to 5 allow more.


@given(lenient_values)
def test_lenient_bytes_are_those_of_the_reference_library(value: object) -> None:
    check(value, strict=False)
    assert encode(value, strict=False) == encode_canonical_json(value)


@given(canonical_values)
def test_what_is_canonical_is_written_alike_by_strict_and_lenient_rules(value: object) -> None:
    assert encode(value, strict=False) == encode(value)


@pytest.mark.parametrize("number", [0.5, 1e16, 1e-7, -0.0, 2**53, 2**64, -(2**70)])
def test_lenient_rules_take_numbers_that_strict_ones_refuse(number: float) -> None:
    check([number], strict=False)
    assert json.loads(encode([number], strict=False)) == [number]
    with pytest.raises(CanonicalJsonError):
        check([number])


def test_lenient_numbers_are_written_as_the_example_of_the_specification_would() -> None:
    assert encode([1e16, 1e-7, 10.0], strict=False) == b"[1e+16,1e-07,10.0]"


@given(any_values)
def test_what_passes_the_lenient_check_comes_back_from_its_bytes_unchanged(value: object) -> None:
    assume(refusal_of(lambda: check(value, strict=False)) is None)
    assert json.loads(encode(value, strict=False)) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {"\ud800": 1}, b"x", (1,), {1: 2}])
def test_lenient_rules_refuse_what_is_not_json(value: object) -> None:
    with pytest.raises(CanonicalJsonError):
        check([value], strict=False)


@pytest.mark.parametrize(
    "value", [object(), "\ud800", float("nan"), [10**5000], {1: 1, "a": 2}, nested(100_000, 1, as_lists=True)]
)
def test_lenient_encoding_fails_by_a_matrix_error_only(value: object) -> None:
    with pytest.raises(CanonicalJsonError):
        encode(value, strict=False)


# JSON in any form, read and written.


@given(lenient_values)
def test_every_value_comes_back_from_storage_as_it_was(value: object) -> None:
    assert decode(encode_in_any_order(value)) == value
    assert decode(encode(value, strict=False)) == value


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("digits", [1, 18, 19, 20, 21, 40, 400, 4300])
def test_integers_of_any_size_are_read_exactly(digits: int, sign: str) -> None:
    """orjson makes floats of those beyond 64 bits, and refuses those beyond all floats."""
    for digit in "19":
        number = decode(f'{{"deep": [{sign}{digit * digits}]}}'.encode())
        assert number == {"deep": [int(sign + digit * digits)]}
        assert isinstance(number["deep"][0], int)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64, 10**4299])
def test_integers_of_any_size_are_written_exactly(number: int) -> None:
    assert encode_in_any_order([number]) == b"[%d]" % number


@pytest.mark.parametrize("beside", ["0", "1234567890123456789", "12345678901234567890123"])
@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[1,]", "01", "+1", "1.", ".5", "'x'", "nul", "NaN", "Infinity", "-Infinity", "1e999", "-1e999"),
        *('{"a" 1}', "{1: 2}", '"\\ud800"', '{"\\udfff": 1}', '"\n"', '"\\x"', "\ufeff1", "\u00a01", "1 2"),
        *("[" * 5000, "[" * 5000 + "]" * 5000, '{"":' * 5000 + "1" + "}" * 5000),
    ],
    ids=lambda text: text[:12],
)
def test_what_is_not_json_is_refused_the_fast_way_and_the_exact_one(text: str, beside: str) -> None:
    with pytest.raises((NotJson, CanonicalJsonError)):
        decode(f"[{beside}, {text}]".encode())


@pytest.mark.parametrize("text", [b"\xff", b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', "[1]".encode("utf-16")])
@pytest.mark.parametrize("beside", [b"0", b"1234567890123456789"])
def test_what_is_not_utf_8_is_refused(text: bytes, beside: bytes) -> None:
    with pytest.raises(NotJson):
        decode(b"[%s, %s]" % (beside, text))


def test_integer_of_more_digits_than_python_reads_is_refused() -> None:
    """Python raises a plain ValueError for it, since reading it takes time that grows with the square."""
    with pytest.raises(NotJson):
        decode(b"1" * 4301)


@given(st.binary(max_size=40) | json_texts)
def test_decoding_agrees_with_python_and_fails_by_a_matrix_error_only(data: bytes) -> None:
    try:
        value = decode(data)
    except MatrixError:
        return
    assert value == json.loads(data.decode())
    check(value, max_depth=1024, strict=False)


@pytest.mark.parametrize("value", [object(), "\ud800", [10**5000], {1: 10**20, "a": 2}])
def test_writing_fails_by_a_matrix_error_only(value: object) -> None:
    with pytest.raises(CanonicalJsonError):
        encode_in_any_order(value)


@pytest.mark.parametrize("encoder", [encode, encode_in_any_order])
def test_what_is_kept_takes_no_more_memory_than_it_needs(encoder: Callable[[object], bytes]) -> None:
    """SEC-1: each event in memory took four kibibytes more than was counted for it."""
    tracemalloc.start()
    try:
        kept = [encoder({"body": "x" * 300, "n": number}) for number in range(200)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 2 * sum(map(len, kept))
