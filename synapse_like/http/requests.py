"""What an endpoint is handed: a `Call`, with everything read, decoded and checked that does not need a database.

Bodies are JSON whatever their Content-Type says (EVS-9), and an absent body or `null` is an empty object (EVS-10).
How deeply a body nests is measured on its bytes before it is parsed, because a parser may be hurt by depth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from itertools import accumulate
from typing import Any, Generic, TypeVar, overload
from urllib.parse import unquote_to_bytes

from synapse_like.models import Fault, Faulty, Model, read_fields
from synapse_like.protocol import canonical_json
from synapse_like.protocol.errors import BadJson, BadParam, MatrixError, NotJson

R = TypeVar("R")

_INTEGER = re.compile(r"-?[0-9]{1,16}", re.ASCII)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
#: Brackets as signed bytes: 1 for an opening one, -1 for a closing one.
_STEPS = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")
#: About how many bytes a small value takes in memory; and how many a body may weigh beyond its length unlooked at.
_VALUE_BYTES = 40
_LIGHT = 1024 * 1024
_MOST_FAULTS_NAMED = 20
#: Characters of the name of a faulty field; such a name may be the client's invention.
_LONGEST_PLACE = 100


class Body(Enum):
    """What a route wants of a request's body, where it is not the fields of a model."""

    NONE = "none"
    """Nothing: a body is read and thrown away."""
    OBJECT = "object"
    """Any JSON object, as a dict."""
    RAW = "raw"
    """Any bytes, whole."""
    FORM = "form"
    """What a form of a web page sends: its fields, as a dict of texts."""
    STREAM = "stream"
    """Any bytes, as they arrive: a `ByteStream`. The endpoint is called as soon as the headers are there; if it does
    not read to the end, the client is not heard to the end."""


class Query:
    """The query parameters of a request. Unknown ones are nobody's concern (EVS-9); of a repeated one the first counts.

    `error` always is the class of the complaint about a value that will not do, BadPagination for instance.
    """

    __slots__ = ("_query", "_values")

    def __init__(self, query: bytes) -> None:
        self._query = query
        self._values: dict[bytes, bytes] = {}
        for pair in query.split(b"&") if query else ():
            name, _, value = pair.partition(b"=")
            self._values.setdefault(unquote_to_bytes(name), value)

    def has(self, name: str) -> bool:
        """Tell whether a parameter is given, be it empty."""
        return name.encode() in self._values

    @overload
    def text(self, name: str, default: None = None, *, error: Callable[[str], MatrixError] = ...) -> str | None: ...

    @overload
    def text(self, name: str, default: str, *, error: Callable[[str], MatrixError] = ...) -> str: ...

    def text(
        self, name: str, default: str | None = None, *, error: Callable[[str], MatrixError] = BadParam
    ) -> str | None:
        """Give a parameter's text, or `default` if it is not there. Raises `error` if it is not UTF-8."""
        value = self._values.get(name.encode())
        if value is None:
            return default
        try:
            return unquote_to_bytes(value.replace(b"+", b" ")).decode("utf-8")
        except UnicodeDecodeError:
            raise error(f"The parameter {name} is not valid UTF-8.") from None

    def required(self, name: str) -> str:
        """Give the text of a parameter that must be there. Raises BadParam if it is not, or is not UTF-8."""
        value = self.text(name)
        if value is None:
            raise BadParam(f"The parameter {name} is missing.")
        return value

    def texts(self, name: str) -> list[str]:
        """Give the texts of a parameter that may be given several times. Raises BadParam if one is not UTF-8."""
        found = []
        for pair in self._query.split(b"&"):
            key, _, value = pair.partition(b"=")
            if unquote_to_bytes(key) == name.encode():
                text = Query(b"one=" + value).text("one")
                found.append(text or "")
        return found

    @overload
    def integer(
        self, name: str, default: None, minimum: int, maximum: int, *, error: Callable[[str], MatrixError] = ...
    ) -> int | None: ...

    @overload
    def integer(
        self, name: str, default: int, minimum: int, maximum: int, *, error: Callable[[str], MatrixError] = ...
    ) -> int: ...

    def integer(
        self,
        name: str,
        default: int | None,
        minimum: int,
        maximum: int,
        *,
        error: Callable[[str], MatrixError] = BadParam,
    ) -> int | None:
        """Give a parameter as a whole number, or `default` if it is not there.

        Raises `error` if it is no number or lies outside `minimum` to `maximum`, both of which are allowed.
        """
        text = self.text(name, error=error)
        if text is None:
            return default
        if not _INTEGER.fullmatch(text) or not minimum <= int(text) <= maximum:
            raise error(f"The parameter {name} must be a whole number from {minimum} to {maximum}.")
        return int(text)


class Call(Generic[R]):
    """One request, ready to be answered.

    :ivar params: the path's parameters by name, percent-decoded.
    :ivar query: the query parameters.
    :ivar body: the model, the dict or the stream that the route asked for; None if it asked for nothing.
    :ivar headers: as they came, the names spelled like Content-Type.
    :ivar client_address: the IP address of the client, seen through trusted proxies, as it is counted: IPv6 by its /64.
    :ivar retransmit_key: for an idempotent route what makes a repetition one: method, path template and parameters
        (API-4). Whose it is has to be added by who keeps the answers. None for all other routes.
    """

    __slots__ = (
        "_is_closed",
        "_requester",
        "accept",
        "body",
        "client_address",
        "headers",
        "params",
        "query",
        "retransmit_key",
    )

    def __init__(
        self,
        *,
        params: Mapping[str, str],
        query: Query,
        body: Any,
        requester: R | None,
        client_address: str,
        headers: Mapping[bytes, bytes],
        retransmit_key: str | None,
        is_closed: Callable[[], bool],
    ) -> None:
        self.params = params
        self.query = query
        self.body = body
        self.client_address = client_address
        self.headers = headers
        self.retransmit_key = retransmit_key
        self._requester = requester
        self._is_closed = is_closed

    def header(self, name: str) -> str | None:
        """A header, by its name as Twisted spells it: Content-Type, Sec-Fetch-Dest. None if it is not there."""
        given = self.headers.get(name.encode("ascii"))
        return None if given is None else given.decode("latin-1")

    @property
    def requester(self) -> R:
        """Who asks. For routes of Auth.USER; elsewhere it is a programmer's error to ask."""
        if self._requester is None:
            raise RuntimeError("the requester of an unauthenticated call was asked for")
        return self._requester

    @property
    def requester_if_any(self) -> R | None:
        """Who asks, or None if nobody said. For routes of Auth.OPTIONAL."""
        return self._requester

    @property
    def closed(self) -> bool:
        """Whether the client has gone away, so that no answer will be read."""
        return self._is_closed()


def decode_json(content: bytes, max_depth: int) -> object:
    """What the JSON of a body says, every integer exact; None if there is nothing in it.

    :param max_depth: how many objects and lists may lie within each other.
    :raises NotJson: it is not JSON in UTF-8.
    :raises BadJson: it nests too deeply, or has what no JSON can be made of again.
    """
    if nests_deeper(content, max_depth):
        raise BadJson(f"The body is nested more than {max_depth} levels deep.")
    if not content or content.isspace():
        return None
    try:
        return canonical_json.decode(content)
    except NotJson as error:
        raise NotJson("The body is not valid JSON in UTF-8.", reason=error.reason) from None


def weight(content: bytes) -> int:
    """About how many bytes of memory the values of a JSON text take beside the text.

    What is text within text is looked at only where it would make a difference.
    """
    count = _count(content)
    if count * _VALUE_BYTES > len(content) + _LIGHT:
        count = _count(_without_strings(content))
    return count * _VALUE_BYTES


def _count(content: bytes) -> int:
    return content.count(b",") + content.count(b"[") + content.count(b"{")


def is_form(content_type: str | None) -> bool:
    """Tell whether a body is what a form of a web page sends."""
    return (content_type or "").partition(";")[0].strip().lower() == "application/x-www-form-urlencoded"


def decode_form(content: bytes) -> dict[str, str]:
    """The fields of a form; of a repeated one the first counts.

    :raises BadJson: it is not UTF-8.
    """
    try:
        pairs = [pair.partition(b"=") for pair in content.replace(b"+", b" ").split(b"&") if pair]
        fields = [(unquote_to_bytes(name).decode(), unquote_to_bytes(value).decode()) for name, _, value in pairs]
    except UnicodeDecodeError:
        raise BadJson("The form is not valid UTF-8.") from None
    return dict(reversed(fields))


def as_object(value: object, kind: type[Model] | None) -> Any:
    """A body as its route wants it; nothing and `null` count as an empty object (EVS-10).

    :param kind: the model its fields have to fit, or None for any object.
    :raises BadJson: it is not such an object; says all that is wrong in one sentence.
    """
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise BadJson("The body must be a JSON object.")
    if kind is None:
        return value
    try:
        return read_fields(value, kind)
    except Faulty as error:
        raise BadJson(_sentence(error.faults)) from None


def nests_deeper(content: bytes, max_depth: int) -> bool:
    """Tell whether JSON nests more than `max_depth` levels deep.

    What is no JSON may get either answer.
    """
    if content.count(b"{") + content.count(b"[") <= max_depth:
        return False
    # Strip the strings, whose brackets mean nothing, then all that is not a bracket; the rest are steps down and up.
    steps = _without_strings(content).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0) > max_depth


def _without_strings(content: bytes) -> bytes:
    """JSON without what stands between quotation marks."""
    unescaped = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(unescaped.split(b'"')[::2])


def _sentence(faults: Sequence[Fault]) -> str:
    """Name every fault: "user_id: is required; reason: must be a string"."""
    named = [f"{'.'.join(map(str, place))[:_LONGEST_PLACE] or 'body'}: {reason}" for place, reason, _ in faults]
    if len(named) > _MOST_FAULTS_NAMED:
        named[_MOST_FAULTS_NAMED:] = [f"and {len(named) - _MOST_FAULTS_NAMED} more"]
    return "; ".join(named)
