"""The words in which the shape of a JSON value is said: what a key holds, and whether it may be absent.

A check takes the name of a value, for the sentence, and the value; it raises `BadJson` if the value is not what it
should be. Checks are put together from smaller ones.
"""

import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn

from synapse_like.protocol.canonical_json import LARGEST_INTEGER
from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.identifiers import canonical_user_id, parse_server_name
from synapse_like.protocol.identifiers import historical_user_id as parse_historical_user_id

Check = Callable[[str, object], object]


def refuse(name: str, expected: str) -> NoReturn:
    """Say that a value is not what it should be.

    :raises BadJson: always.
    """
    raise BadJson(f"'{name}' must be {expected}.")


# Single values.


def anything(name: str, value: object) -> None:
    """Any value: the key must be there, and that is all."""


def string(name: str, value: object) -> str:
    """Text."""
    if not isinstance(value, str):
        refuse(name, "a string")
    return value


def string_or_null(name: str, value: object) -> None:
    """Text, or nothing said."""
    if not isinstance(value, str | None):
        refuse(name, "a string or null")


def string_or_object(name: str, value: object) -> None:
    """Text, or anything with keys."""
    if not isinstance(value, str | dict):
        refuse(name, "a string or an object")


def string_or_integer(name: str, value: object) -> None:
    """Text, or a whole number."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        refuse(name, "a string or an integer")


def integer_or_null(name: str, value: object) -> None:
    """A whole number, or nothing said."""
    if value is not None:
        integer(name, value)


def boolean(name: str, value: object) -> None:
    """True or false."""
    if not isinstance(value, bool):
        refuse(name, "true or false")


def integer(name: str, value: object) -> int:
    """A whole number that every JSON reader keeps exact."""
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > LARGEST_INTEGER:
        refuse(name, "an integer")
    return value


_LARGEST_DOUBLE = int(sys.float_info.max)
_INTEGER_AS_TEXT = re.compile(r"\s*([+-]?)(?=[0-9])0*+([0-9]{0,309})\s*", re.ASCII)


def integer_or_text(name: str, value: object) -> int:
    """A whole number, or one in decimal digits; signs, zeros before it and white space around it do no harm."""
    return integer(name, _from_text(value))


def number_or_text(name: str, value: object) -> int:
    """The same of any size that a double can hold, or a fraction, of which the whole part counts."""
    value = _from_text(value)
    if isinstance(value, float) and math.isfinite(value):
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _LARGEST_DOUBLE:
        refuse(name, "an integer")
    return value


def _from_text(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = _INTEGER_AS_TEXT.fullmatch(value)
    return int(f"{found[1]}{found[2] or 0}") if found is not None else None


def count(name: str, value: object) -> None:
    """A whole number that is not negative."""
    if integer(name, value) < 0:
        refuse(name, "an integer of at least 0")


def user_id(name: str, value: object) -> None:
    """A user ID in the form that we compare."""
    if canonical_user_id(string(name, value)) != value:
        refuse(name, "a user ID in lower case")


def historical_user_id(name: str, value: object) -> None:
    """A user ID as it may be in a room of a Matrix room version."""
    parse_historical_user_id(string(name, value))


def server_name(name: str, value: object) -> None:
    """A server's name in the form that we compare."""
    if parse_server_name(string(name, value)) != value:
        refuse(name, "a server name in lower case")


def text_for(parse: Callable[[str], object]) -> Check:
    """Text that another function accepts; its word for the fault is the sentence."""
    return lambda name, value: parse(string(name, value))


def one_of(*allowed: str) -> Check:
    """One of a few words."""

    def check(name: str, value: object) -> None:
        if not isinstance(value, str) or value not in allowed:
            refuse(name, "one of " + ", ".join(allowed))

    return check


# Lists and objects.


def list_of(item: Check, *, at_most: int | None = None) -> Check:
    """A list of equal things."""

    def check(name: str, value: object) -> None:
        if not isinstance(value, list):
            refuse(name, "a list")
        if at_most is not None and len(value) > at_most:
            refuse(name, f"a list of at most {at_most}")
        for index, found in enumerate(value):
            item(f"{name}[{index}]", found)

    return check


def map_of(item: Check) -> Check:
    """An object whose keys are free, and whose values are equal things."""

    def check(name: str, value: object) -> None:
        if not isinstance(value, Mapping):
            refuse(name, "an object")
        for key, found in value.items():
            item(f"{name}.{key[:64]}", found)

    return check


class Key(NamedTuple):
    """A key of an object, and what it holds."""

    name: str
    check: Check
    optional: bool = False


def optional(name: str, check: Check) -> Key:
    """A key that may be absent."""
    return Key(name, check, optional=True)


def object_with(*keys: Key) -> Check:
    """An object with these keys, and any others."""

    def check(name: str, value: object) -> None:
        if not isinstance(value, Mapping):
            refuse(name, "an object")
        for key in keys:
            if key.name in value:
                key.check(f"{name}.{key.name}", value[key.name])
            elif not key.optional:
                raise BadJson(f"'{name}.{key.name}' is missing.")

    return check
