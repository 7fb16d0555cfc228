"""Canonical JSON: the same bytes as everybody else's, and nothing that others might write differently."""

import json
from pathlib import Path
from typing import Any

import pytest
from canonicaljson import encode_canonical_json
from hypothesis import assume, given

from synapse_like.protocol.canonical_json import LARGEST_INTEGER, MAX_DEPTH, check, decode, encode
from synapse_like.protocol.errors import CanonicalJsonError
from tests.protocol.refusals import refusal_of
from tests.protocol.strategies import any_values, canonical_values, lenient_values

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


@pytest.mark.parametrize("number", [2**53, 2**64, -(2**70), 10**30])
def test_integers_of_any_size_come_back_exact_where_they_may_be(number: int) -> None:
    """Appendix "Canonical JSON", on room versions 1 to 5: what is hashed must not change by being stored."""
    written = encode({"a": number}, strict=False)
    assert decode(written, strict=False) == {"a": number}
    assert encode(decode(written, strict=False), strict=False) == written


@pytest.mark.parametrize("strict", [True, False])
def test_what_is_no_json_is_not_read(strict: bool) -> None:
    with pytest.raises(ValueError, match=r"end of data|property name"):
        decode(b"{", strict=strict)
