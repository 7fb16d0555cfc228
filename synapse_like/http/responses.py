"""What goes back: the forms an answer may take, and the bytes of its head.

An endpoint returns something that JSON can say, or JSON that is encoded already (`Encoded`), or a whole answer with
headers of its own (`Response`), whose body may be a `FileBody`, read while it is sent. What all answers have in common
is encoded once, when the module is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import orjson
from msgspec import Struct, field
from twisted.web.http import NO_BODY_CODES, RESPONSES

from synapse_like.protocol.errors import LimitExceeded, MatrixError

#: After how many seconds to come again where nobody can tell.
SOON_SECONDS = 5


class Encoded(bytes):
    """JSON in UTF-8, answered as it stands, with status 200."""

    __slots__ = ()


class FileBody(Protocol):
    """A body that is read piece by piece while it is sent."""

    length: int
    """Bytes."""

    async def read(self) -> bytes:
        """The next piece; nothing at the end, or once it is closed."""

    def close(self) -> None:
        """It is sent, or nobody wants it any more."""


class Response(Struct, frozen=True):
    """An answer that is not plain JSON with status 200.

    :ivar headers: take the place of the usual ones of the same name, which are Content-Type: application/json,
        Cache-Control: no-store and X-Content-Type-Options: nosniff.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | FileBody = b""


_USUAL = {
    "Content-Type": "application/json",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Origin, X-Requested-With, Content-Type, Accept, Authorization",
}


def _lines(headers: Mapping[str, str]) -> bytes:
    """Encode headers. Raises ValueError if one holds a line break, which would begin another."""
    text = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if text.count("\n") != len(headers) or text.count("\r") != len(headers):
        raise ValueError("a header with a line break")
    return text.encode("latin-1")


_STATUS = {status: b"HTTP/1.1 %d %s\r\n" % (status, phrase) for status, phrase in RESPONSES.items()}
_USUAL_LINES = {False: _lines(_USUAL), True: _lines(_USUAL | _CORS)}
_USUAL_OK = {cors: _STATUS[200] + lines for cors, lines in _USUAL_LINES.items()}

#: What there is to say to a browser that asks with OPTIONS whether it may (API-1).
NOTHING_MORE = Response(200, {}, b"{}")


def render(result: object, *, cors: bool) -> tuple[int, bytes, bytes | FileBody]:
    """Turn what an endpoint returned into status, head and body.

    The head ends before the empty line, so that the connection may add what concerns it alone.

    :param cors: whether pages of other origins may read it.
    :raises TypeError: JSON cannot say it.
    """
    if isinstance(result, Response):
        status = result.status
        body: bytes | FileBody = result.body
        if result.headers:
            own = {name.lower() for name in result.headers}
            kept = {name: value for name, value in _USUAL.items() if name.lower() not in own}
            head = _status_line(status) + _lines({**kept, **(_CORS if cors else {}), **result.headers})
        else:
            head = _status_line(status) + _USUAL_LINES[cors]
    else:
        status, body = 200, result if isinstance(result, Encoded) else orjson.dumps(result)
        head = _USUAL_OK[cors]
    if status in NO_BODY_CODES:
        return status, head, b""
    length = len(body) if isinstance(body, bytes) else body.length
    return status, b"%bContent-Length: %d\r\n" % (head, length), body


def _status_line(status: int) -> bytes:
    return _STATUS.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status


def refusal(error: MatrixError, headers: Mapping[str, str] | None = None) -> Response:
    """Turn an error into an answer (API-3). Only its public part goes into it.

    :param headers: more of them.
    """
    own = dict(headers or {})
    if isinstance(error, LimitExceeded):
        own["Retry-After"] = str(math.ceil(error.extra["retry_after_ms"] / 1000))
    elif error.status == 503:
        own["Retry-After"] = str(SOON_SECONDS)
    return Response(error.status, own, orjson.dumps(error.body()))
