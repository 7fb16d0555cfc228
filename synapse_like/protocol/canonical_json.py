"""The one way to write a value as bytes, so that every server hashes and signs the same ones.

Canonical JSON has no space between its tokens, its keys in the order of their code points, and its text in UTF-8.
It knows neither floats nor integers that a double cannot hold, since languages do not agree on how to write them.

Room versions 1 to 5 came before that rule. What their events hold against it is written as the specification's own
example does it (appendix "Canonical JSON"): by Python's `json`.

JSON that need not be canonical, on its way into a table or to a client, is written and read here as well, so that
integers of any size come back as they were.
"""

import json
import math
import sys
from collections.abc import Callable, Iterable
from itertools import chain
from typing import NoReturn

import orjson

from synapse_like.protocol.errors import CanonicalJsonError, NotJson

LARGEST_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader keeps exact; the smallest is its negative."""

MAX_DEPTH = 100
"""How deep objects and lists may be nested in the content of an event. An empty object has the depth 1."""


def encode(value: object, *, strict: bool = True) -> bytes:
    """The canonical JSON of a value.

    What only `check` refuses (a float, say) is written somehow.

    :param strict: by the room's rules; if not, floats and integers of any size are written as all servers do.
    :raises CanonicalJsonError: there is no JSON for it.
    """
    try:
        return _fitting(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)) if strict else _LENIENT.encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CanonicalJsonError("This value cannot be written as JSON.", reason=str(error)) from error


def check(value: object, *, max_depth: int = MAX_DEPTH, strict: bool = True) -> None:
    """See that a value has a canonical JSON.

    It walks level by level, not by recursion: the depth of a stranger's JSON must not be the depth of our stack.

    :param max_depth: how many objects and lists may lie within each other.
    :param strict: by the room's rules; if not, finite floats and integers of any size pass.
    :raises CanonicalJsonError: it has a float, an integer beyond +-(2^53 - 1), a key that is not a string, text
        with half a surrogate pair, something that is not JSON, or too much depth.
    """
    check_number = _check_number if strict else _check_lenient_number
    level: list[Iterable[object]] = [(value,)]
    for _ in range(max_depth + 1):
        deeper: list[Iterable[object]] = []
        _check_items(chain.from_iterable(level), deeper, check_number)
        if not deeper:
            return
        level = deeper
    raise CanonicalJsonError(f"Objects and lists may not be nested more than {max_depth} deep.")


def encode_in_any_order(value: object) -> bytes:
    """Some JSON of a value, the fastest there is; `decode` makes the same value of it.

    :raises CanonicalJsonError: there is no JSON for it.
    """
    try:
        return _fitting(orjson.dumps(value))
    except TypeError:
        # It may hold an integer of more than 64 bits.
        return encode(value, strict=False)


def _fitting(encoded: bytes) -> bytes:
    """The same bytes in no more memory than they need, for those that are kept: orjson leaves at least 4 KiB behind."""
    return bytes(memoryview(encoded))


def decode(data: bytes) -> object:
    """The value of some JSON, every integer exact.

    :raises NotJson: it is not JSON, it is nested too deeply for any event, or it has an integer of more digits than
        Python reads (4300).
    :raises CanonicalJsonError: no server can keep it exact: a number beyond all floats, half a surrogate pair.
    """
    try:
        if not may_hold_long_integer(data):
            return orjson.loads(data)
        value = _EXACT.decode(data.decode())
    except (ValueError, RecursionError) as error:
        raise NotJson("This is not JSON.", reason=str(error)) from error
    check(value, max_depth=sys.getrecursionlimit(), strict=False)
    return value


def may_hold_long_integer(data: bytes) -> bool:
    """Whether some JSON may hold an integer of more than 64 bits, which the fast encoder cannot write."""
    return _LONG_RUN in data.translate(_DIGITS)


# An integer that orjson would make a float of has 19 digits at least. To look for so many is the cheapest way to know,
# and most JSON has no run of them.
_LONG_RUN = b"0" * 19
_DIGITS = bytes.maketrans(b"123456789", b"000000000")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_EXACT = json.JSONDecoder(parse_constant=_refuse_constant)
_LENIENT = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def _check_items(
    items: Iterable[object], deeper: list[Iterable[object]], check_number: Callable[[int | float], None]
) -> None:
    """Check what lies at one depth, and put aside what lies within it."""
    # Python knows without looking whether a string is all ASCII, and most are.
    for item in items:
        if isinstance(item, str):
            if not item.isascii():
                _check_text(item)
        elif isinstance(item, dict):
            for key in item:
                if not isinstance(key, str):
                    raise CanonicalJsonError("The keys of an object must be strings.")
                if not key.isascii():
                    _check_text(key)
            deeper.append(item.values())
        elif isinstance(item, list):
            deeper.append(item)
        elif isinstance(item, int | float):
            check_number(item)
        elif item is not None:
            raise CanonicalJsonError(f"A value of the type {type(item).__name__} is not JSON.")


def _check_number(number: int | float) -> None:
    if isinstance(number, float):
        raise CanonicalJsonError("Numbers must be integers: events hold no fractions.")
    # True and False are integers to Python, and pass as the small ones that they are.
    if not -LARGEST_INTEGER <= number <= LARGEST_INTEGER:
        raise CanonicalJsonError("Integers must lie between -(2^53 - 1) and 2^53 - 1.")


def _check_lenient_number(number: int | float) -> None:
    if isinstance(number, float) and not math.isfinite(number):
        raise CanonicalJsonError("Numbers must be finite.")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CanonicalJsonError("A string holds half a surrogate pair.", reason=str(error)) from error
