"""From what JSON and YAML hold to objects of given kinds, or all that is wrong with it.

A kind is a `Model`, whose fields say what each must be: a string, a number, true or false, a `Literal`, a list, a
tuple, a dict, another model, or one of these and None; within bounds (`msgspec.Meta`), and, for what `Reader` reads,
with marks for what no type can say. How fields go together is checked in the model's `__post_init__`, which raises
`Unfit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from msgspec import NODEFAULT, Meta, Struct, ValidationError, convert
from msgspec.structs import FieldInfo, fields

Kind = TypeVar("Kind", bound="Model")
Place = tuple[int | str, ...]


class Model(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an object may hold.

    :cvar others: names by which fields go, too. Of several that are given the field's own counts, or else the first.
    :cvar is_strict: whether text is not taken for a number, or for true and false.
    :cvar null_is_empty: whether null is taken for an object without keys.
    """

    others: ClassVar[Mapping[str, str]] = {}
    is_strict: ClassVar[bool] = True
    null_is_empty: ClassVar[bool] = False


class Fault(NamedTuple):
    """Something that is wrong.

    :ivar place: the keys and indices that lead there.
    :ivar reason: what it must be, or what it is not.
    :ivar is_unknown: whether it is a key that nobody knows.
    """

    place: Place
    reason: str
    is_unknown: bool = False


class Unfit(ValueError):
    """The fields of a model do not go together.

    :ivar key: the field that ought to be another one; empty if it is all of them.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}" if key else reason)
        self.key = key
        self.reason = reason


class Faulty(Exception):
    """What was read is not what was wanted."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(fault.reason for fault in faults))
        self.faults = faults


class Given(Struct, frozen=True):
    """A mark: what is given is changed before it is looked at."""

    change: Callable[[object], object]


class Checked(Struct, frozen=True):
    """A mark: what is given, or else the default, is checked, and may be changed.

    :ivar check: raises ValueError with what it must be.
    """

    check: Callable[[Any], Any]


class InFolder(Struct, frozen=True):
    """The same, for what depends on the folder that relative paths are relative to."""

    check: Callable[[Any, Path], Any]


def read_fields(value: Mapping[str, object], kind: type[Kind]) -> Kind:
    """The fields of an object as fast as can be, where there are no marks. Keys that nobody knows are ignored.

    :raises Faulty: says all that is wrong.
    """
    try:
        return convert(_renamed(value, kind), kind, strict=kind.is_strict)
    except ValidationError:
        return Reader(knows_all=False).read(kind, value)


class Reader:
    """Reads objects, and gathers what is wrong with them.

    :param folder: that relative paths are relative to.
    :param knows_all: whether a key that nobody knows is a fault.
    :param object_term: what an object is called where it comes from.
    """

    def __init__(self, folder: Path = Path(), *, knows_all: bool = True, object_term: str = "an object") -> None:
        self._folder = folder
        self._knows_all = knows_all
        self._terms: dict[Any, str] = {**_TERMS, dict: object_term}
        self._faults: list[Fault] = []

    def read(self, kind: type[Kind], value: object) -> Kind:
        """Read an object.

        :raises Faulty: says all that is wrong.
        """
        self._faults.clear()
        made = self._model(kind, value, ())
        if made is None:
            raise Faulty(self._faults)
        return made

    def _fault(self, place: Place, reason: str, *, is_unknown: bool = False) -> None:
        self._faults.append(Fault(place, reason, is_unknown))

    def _model(self, kind: type[Kind], value: object, place: Place) -> Kind | None:
        """An object; None, with faults, if it is none."""
        if value is None and kind.null_is_empty:
            value = {}
        if not isinstance(value, Mapping):
            self._fault(place, f"must be {self._terms[dict]}")
            return None
        before = len(self._faults)
        given = _renamed(value, kind)
        made = {field.name: self._field(kind, field, given, (*place, field.name)) for field in fields_of(kind)}
        if self._knows_all:
            for key in given:
                if key not in made:
                    self._fault((*place, key), "is not known", is_unknown=True)
        if len(self._faults) == before:
            try:
                return kind(**made)
            except Unfit as error:
                self._fault((*place, error.key) if error.key else place, error.reason)
        return None

    def _field(self, kind: type[Model], field: FieldInfo, given: Mapping[str, object], place: Place) -> Any:
        if field.name in given:
            return self._value(field.type, given[field.name], place, is_strict=kind.is_strict)
        if field.required:
            self._fault(place, "is required")
            return None
        default = default_of(field)
        if isinstance(default, Model) and default.null_is_empty:
            return self._model(type(default), {}, place)
        return default if default is None else self._checked(_parts(field.type)[1], default, place)

    def _value(self, kind: Any, value: object, place: Place, *, is_strict: bool) -> Any:
        """A value of any kind; None, perhaps with faults, if it is none."""
        plain, marks = _parts(kind)
        for mark in marks:
            if isinstance(mark, Given):
                value = mark.change(value)
        before = len(self._faults)
        origin = get_origin(plain)
        if origin in (Union, UnionType):
            (other,) = (argument for argument in get_args(plain) if argument is not NoneType)
            return None if value is None else self._value(other, value, place, is_strict=is_strict)
        if isinstance(plain, type) and issubclass(plain, Model):
            made: Any = self._model(plain, value, place)
        elif origin in (list, tuple) and isinstance(value, list | tuple):
            made = self._items(kind, value, place, is_strict=is_strict)
        elif plain is Path and isinstance(value, str):
            made = Path(value)
        else:
            made = self._simple(kind, value, place, is_strict=is_strict)
        return self._checked(marks, made, place) if len(self._faults) == before else None

    def _items(self, kind: Any, value: Sequence[object], place: Place, *, is_strict: bool) -> Sequence[Any] | None:
        plain, marks = _parts(kind)
        kinds = get_args(plain)
        if len(kinds) == 1 or kinds[1] is Ellipsis:
            bounds = [mark for mark in marks if isinstance(mark, Meta)]
            fits = all((bound.min_length or 0) <= len(value) <= (bound.max_length or len(value)) for bound in bounds)
            kinds = kinds[:1] * len(value)
        else:
            fits = len(kinds) == len(value)
        if not fits:
            self._fault(place, f"must be {self._wanted(kind)}")
            return None
        made = [
            self._value(each, item, (*place, index), is_strict=is_strict)
            for index, (each, item) in enumerate(zip(kinds, value, strict=True))
        ]
        return tuple(made) if get_origin(plain) is tuple else made

    def _simple(self, kind: Any, value: object, place: Place, *, is_strict: bool) -> Any:
        try:
            return convert(value, kind, strict=is_strict)
        except ValidationError:
            self._fault(place, f"must be {self._wanted(kind)}")
            return None

    def _wanted(self, kind: Any) -> str:
        plain, marks = _parts(kind)
        if get_origin(plain) is Literal:
            *most, last = map(str, get_args(plain))
            return f"{', '.join(most)} or {last}" if most else last
        term = self._terms[get_origin(plain) or plain]
        if get_origin(plain) is tuple and Ellipsis not in get_args(plain):
            return f"{term} of {len(get_args(plain))}"
        bounds = [bound for mark in marks if isinstance(mark, Meta) for bound in _bounds(mark, is_text=plain is str)]
        return f"{term} {' and '.join(bounds)}".rstrip().replace(" and of ", " and ")

    def _checked(self, marks: Sequence[object], value: Any, place: Place) -> Any:
        try:
            for mark in marks:
                if isinstance(mark, Checked):
                    value = mark.check(value)
                elif isinstance(mark, InFolder):
                    value = mark.check(value, self._folder)
        except ValueError as error:
            self._fault(place, str(error))
            return None
        return value


_TERMS: Mapping[Any, str] = {
    str: "a string",
    Path: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "a list",
    tuple: "a list",
}


@cache
def fields_of(kind: type[Model]) -> tuple[FieldInfo, ...]:
    """The fields of a model, with their types."""
    return fields(kind)


def default_of(field: FieldInfo) -> Any:
    """What a field that may be left out is then, before it is checked."""
    return field.default if field.default is not NODEFAULT else field.default_factory()


def _renamed(value: Mapping[str, object], kind: type[Model]) -> Mapping[str, object]:
    """An object in which fields that go by another name stand under their own."""
    if any(other in value for other in kind.others):
        own = {key: item for key, item in value.items() if key not in kind.others}
        value = {**{name: value[other] for other, name in reversed([*kind.others.items()]) if other in value}, **own}
    return value


@cache
def _parts(kind: Any) -> tuple[Any, tuple[object, ...]]:
    """A type without its marks, and these."""
    if get_origin(kind) is Annotated:
        plain, *marks = get_args(kind)
        return plain, tuple(marks)
    return kind, ()


def _bounds(meta: Meta, *, is_text: bool) -> Iterator[str]:
    """What bounds a value has, in words."""
    words = {
        "ge": "of at least",
        "gt": "above",
        "min_length": "of at least",
        "le": "of at most",
        "lt": "below",
        "max_length": "of at most",
        "pattern": "that matches",
    }
    for name, word in words.items():
        if (bound := getattr(meta, name)) is not None:
            yield f"{word} {bound} characters" if is_text and "length" in name else f"{word} {bound}"
