"""The error family: what the client reads and what only the log does (API-3)."""

import pytest

from synapse_like.protocol import errors
from synapse_like.protocol.errors import LimitExceeded, MatrixError


def test_body_holds_code_sentence_and_extra_keys_but_not_the_reason() -> None:
    error = MatrixError(403, "M_FORBIDDEN", "No.", reason="wrong password", extra={"soft": True})
    assert error.body() == {"errcode": "M_FORBIDDEN", "error": "No.", "soft": True}
    assert error.status == 403


def test_reason_is_in_the_text_for_the_log() -> None:
    assert str(MatrixError(403, "M_FORBIDDEN", "No.", reason="wrong password")) == "No. (wrong password)"
    assert str(MatrixError(403, "M_FORBIDDEN", "No.")) == "No."


@pytest.mark.parametrize(
    ("name", "status", "errcode"),
    [
        ("BadJson", 400, "M_BAD_JSON"),
        ("CanonicalJsonError", 400, "M_BAD_JSON"),
        ("NotJson", 400, "M_NOT_JSON"),
        ("BadParam", 400, "M_INVALID_PARAM"),
        ("BadPagination", 400, "M_BAD_PAGINATION"),
        ("UserInUse", 400, "M_USER_IN_USE"),
        ("RoomInUse", 400, "M_ROOM_IN_USE"),
        ("MissingToken", 401, "M_MISSING_TOKEN"),
        ("UnknownToken", 401, "M_UNKNOWN_TOKEN"),
        ("SignatureError", 401, "M_UNAUTHORIZED"),
        ("Forbidden", 403, "M_FORBIDDEN"),
        ("AuthError", 403, "M_FORBIDDEN"),
        ("NotFound", 404, "M_NOT_FOUND"),
        ("Unrecognized", 404, "M_UNRECOGNIZED"),
        ("MethodNotAllowed", 405, "M_UNRECOGNIZED"),
        ("TooLarge", 413, "M_TOO_LARGE"),
    ],
)
def test_each_error_has_the_status_and_code_of_the_specification(name: str, status: int, errcode: str) -> None:
    error = getattr(errors, name)("A sentence.", reason="why")
    assert isinstance(error, MatrixError)
    assert (error.status, error.errcode, error.message, error.reason) == (status, errcode, "A sentence.", "why")


def test_limit_exceeded_tells_when_to_come_back() -> None:
    error = LimitExceeded("Slow down.", 1500, reason="sends")
    assert error.status == 429
    assert error.body() == {"errcode": "M_LIMIT_EXCEEDED", "error": "Slow down.", "retry_after_ms": 1500}
    assert error.reason == "sends"
