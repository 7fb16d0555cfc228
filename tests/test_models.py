"""From what JSON and YAML hold to objects, or all that is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Meta, field

from synapse_like.models import Checked, Faulty, Given, InFolder, Model, Reader, Unfit, read_fields


class Part(Model, frozen=True):
    name: str
    size: Annotated[int, Meta(ge=1, le=10)] = 1


class Whole(Model, frozen=True, kw_only=True):
    others: ClassVar[Mapping[str, str]] = dict.fromkeys(("ownerId", "user"), "owner")

    owner: Annotated[str, Meta(max_length=5)]
    kind: Literal["large", "small"] = "small"
    weight: Annotated[float, Meta(gt=0)] | None = None
    is_open: bool = False
    parts: Annotated[list[Part], Meta(max_length=3)] = field(default_factory=list)
    pairs: list[tuple[str, int]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind == "large" and not self.parts:
            raise Unfit("parts", "must be there, since it is large")


class Lax(Model, frozen=True):
    is_strict: ClassVar[bool] = False

    count: int


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even")
    return value


class Heading(Model, frozen=True):
    null_is_empty: ClassVar[bool] = True

    file: Annotated[Path, InFolder(lambda path, folder: folder / path)] = Path("key")
    words: Annotated[tuple[str, ...], Given(lambda value: value.split() if isinstance(value, str) else value)] = ()
    number: Annotated[int, Checked(_even)] = 2


class Book(Model, frozen=True):
    heading: Heading = Heading()
    rare: Part = Part("rare", 3)


def faults(kind: type[Model], value: object) -> list[str]:
    with pytest.raises(Faulty) as caught:
        Reader(Path("/srv")).read(kind, value)
    return [f"{'.'.join(map(str, fault.place))} {fault.reason}" for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({}, "owner is required"),
        ({"owner": 1}, "owner must be a string of at most 5 characters"),
        ({"owner": "abcdef"}, "owner must be a string of at most 5 characters"),
        ({"kind": "huge"}, "kind must be large or small"),
        ({"kind": ["large"]}, "kind must be large or small"),
        ({"weight": 0}, "weight must be a number above 0"),
        ({"weight": "1"}, "weight must be a number above 0"),
        ({"is_open": 1}, "is_open must be true or false"),
        ({"parts": {}}, "parts must be a list of at most 3"),
        ({"parts": [{"name": "a"}] * 4}, "parts must be a list of at most 3"),
        ({"parts": [3]}, "parts.0 must be an object"),
        (
            {"parts": [{"name": "a"}, {"name": "b", "size": 11}]},
            "parts.1.size must be an integer of at least 1 and at most 10",
        ),
        ({"parts": [{"name": "a", "size": True}]}, "parts.0.size must be an integer of at least 1 and at most 10"),
        ({"pairs": [["a"]]}, "pairs.0 must be a list of 2"),
        ({"pairs": [["a", "b"]]}, "pairs.0.1 must be an integer"),
        ({"more": []}, "more must be an object"),
        ({"kind": "large"}, "parts must be there, since it is large"),
        ({"mroe": {}}, "mroe is not known"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(value: dict[str, object], fault: str) -> None:
    assert faults(Whole, {"owner": "me", **value} if value else value) == [fault]


def test_all_that_is_wrong_is_named() -> None:
    assert faults(Whole, {"kind": "huge", "parts": [{}, {"name": 1}], "is_open": None}) == [
        "owner is required",
        "kind must be large or small",
        "is_open must be true or false",
        "parts.0.name is required",
        "parts.1.name must be a string",
    ]
    assert faults(Whole, []) == [" must be an object"]


def test_field_may_go_by_other_names_and_its_own_counts() -> None:
    assert read_fields({"user": "b", "ownerId": "a"}, Whole).owner == "a"
    assert read_fields({"user": "b", "owner": "c"}, Whole).owner == "c"
    assert faults(Whole, {"user": 1}) == ["owner must be a string of at most 5 characters"]


def test_text_is_a_number_only_where_it_may_be() -> None:
    assert read_fields({"count": "5"}, Lax).count == 5
    assert faults(Lax, {"count": "five"}) == ["count must be an integer"]
    assert faults(Part, {"name": "a", "size": "5"}) == ["size must be an integer of at least 1 and at most 10"]


def test_marks_say_what_types_cannot() -> None:
    book = Reader(Path("/srv")).read(Book, {"heading": {"words": "a b", "number": 4}})
    assert book.heading == Heading(Path("/srv/key"), ("a", "b"), 4)
    assert book.rare == Part("rare", 3)
    assert faults(Book, {"heading": {"number": 3, "file": 3}}) == [
        "heading.file must be a string",
        "heading.number must be even",
    ]


def test_defaults_are_checked_too() -> None:
    for value in ({}, {"heading": None}):
        assert Reader(Path("/srv")).read(Book, value).heading.file == Path("/srv/key")
    assert faults(Book, {"rare": None}) == ["rare must be an object"]


def outcome(read: Callable[..., Model], *arguments: object) -> object:
    try:
        return read(*arguments)
    except Faulty as error:
        return error.faults


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 12)
    | st.floats(-1, 2)
    | st.sampled_from(["", "a", "large", "long word", "7"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["name", "size", "x"]), inner),
    max_leaves=6,
)
_WHOLES = st.fixed_dictionaries(
    {},
    optional={
        "owner": _VALUES,
        "user": _VALUES,
        "kind": st.sampled_from(["large", "small"]) | _VALUES,
        "weight": _VALUES,
        "is_open": _VALUES,
        "parts": st.lists(st.fixed_dictionaries({"name": _VALUES}, optional={"size": _VALUES}), max_size=4) | _VALUES,
        "pairs": st.lists(st.tuples(_VALUES, _VALUES).map(list), max_size=2) | _VALUES,
        "more": _VALUES,
        "unknown": _VALUES,
    },
)


@given(_WHOLES)
@example({"owner": "me", "parts": [{"name": "a", "size": 3}], "pairs": [["a", 1]], "kind": "large", "weight": 1})
@example({"owner": "me", "weight": 0.5, "more": {"x": [1]}, "unknown": 1})
def test_both_ways_to_read_agree(value: dict[str, object]) -> None:
    """The fast one, and the one that names all faults."""
    assert outcome(read_fields, value, Whole) == outcome(Reader(knows_all=False).read, Whole, value)
