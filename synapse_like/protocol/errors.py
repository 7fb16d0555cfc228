"""The one family of errors that a person, a client or another server gets to see.

An error has two faces. Its `message` is public: a sentence for the person in front of the client. Its
`reason` is private: what the operator wants to read in the log. Both are rendered in one place, at the HTTP
edge; every other part of the program raises and lets pass.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class MatrixError(Exception):
    """A refusal as the specification words it (API-3).

    :param status: the HTTP status code.
    :param errcode: the machine-readable code, `M_…`.
    :param message: the public sentence.
    :param reason: what only the log should know.
    :param extra: more keys for the JSON body, beside `errcode` and `error`.
    """

    def __init__(
        self,
        status: int,
        errcode: str,
        message: str,
        *,
        reason: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message if reason is None else f"{message} ({reason})")
        self.status = status
        self.errcode = errcode
        self.message = message
        self.reason = reason
        self.extra = dict(extra or {})

    def body(self) -> dict[str, Any]:
        """The JSON object that the client receives."""
        return {"errcode": self.errcode, "error": self.message, **self.extra}


class _FixedError(MatrixError):
    """An error whose status and code are known from its class."""

    STATUS: ClassVar[int]
    ERRCODE: ClassVar[str]

    def __init__(self, message: str, *, reason: str | None = None, extra: Mapping[str, Any] | None = None) -> None:
        super().__init__(self.STATUS, self.ERRCODE, message, reason=reason, extra=extra)


class BadJson(_FixedError):
    """Valid JSON, but not what was asked for; malformed identifiers too."""

    STATUS, ERRCODE = 400, "M_BAD_JSON"


class CanonicalJsonError(BadJson):
    """A value that has no canonical JSON: a float, a huge integer, half a surrogate pair …"""


class NotJson(_FixedError):
    """The body is not JSON at all."""

    STATUS, ERRCODE = 400, "M_NOT_JSON"


class BadParam(_FixedError):
    """A parameter of the path or the query has a value it cannot have."""

    STATUS, ERRCODE = 400, "M_INVALID_PARAM"


class BadPagination(_FixedError):
    """A made-up token, a wrong direction or a limit out of bounds."""

    STATUS, ERRCODE = 400, "M_BAD_PAGINATION"


class UserInUse(_FixedError):
    """The wanted user name is taken."""

    STATUS, ERRCODE = 400, "M_USER_IN_USE"


class RoomInUse(_FixedError):
    """The wanted room alias is taken."""

    STATUS, ERRCODE = 400, "M_ROOM_IN_USE"


class MissingToken(_FixedError):
    """A call that needs an access token came without one."""

    STATUS, ERRCODE = 401, "M_MISSING_TOKEN"


class UnknownToken(_FixedError):
    """An access token that was never given out, or is no longer good."""

    STATUS, ERRCODE = 401, "M_UNKNOWN_TOKEN"


class SignatureError(_FixedError):
    """A signature is missing, unreadable or false."""

    STATUS, ERRCODE = 401, "M_UNAUTHORIZED"


class LoginEmailUrlNotYet(_FixedError):
    """The link in a mail was not opened yet (LOGIN-5)."""

    STATUS, ERRCODE = 401, "M_LOGIN_EMAIL_URL_NOT_YET"


class Forbidden(_FixedError):
    """Not for this user."""

    STATUS, ERRCODE = 403, "M_FORBIDDEN"


class AuthError(Forbidden):
    """Refused by the rules of a room."""


class NotFound(_FixedError):
    """There is no such thing, or none that this user may know of."""

    STATUS, ERRCODE = 404, "M_NOT_FOUND"


class Unrecognized(_FixedError):
    """A path that this server does not have."""

    STATUS, ERRCODE = 404, "M_UNRECOGNIZED"


class MethodNotAllowed(_FixedError):
    """A path that this server has, with a method that it has not."""

    STATUS, ERRCODE = 405, "M_UNRECOGNIZED"


class TooLarge(_FixedError):
    """More bytes than an event or a body may have."""

    STATUS, ERRCODE = 413, "M_TOO_LARGE"


class LimitExceeded(_FixedError):
    """Too much in too short a time.

    :param retry_after_ms: when the same call would pass, in milliseconds from now.
    """

    STATUS, ERRCODE = 429, "M_LIMIT_EXCEEDED"

    def __init__(self, message: str, retry_after_ms: int, *, reason: str | None = None) -> None:
        super().__init__(message, reason=reason, extra={"retry_after_ms": retry_after_ms})

    def wait_at_least(self, milliseconds: int) -> None:
        """Say so much, if less was said: another limit would be in the way before."""
        self.extra["retry_after_ms"] = max(milliseconds, self.extra["retry_after_ms"])


class Unavailable(_FixedError):
    """Something that the server needs is not there at the moment."""

    STATUS, ERRCODE = 503, "M_UNAVAILABLE"
