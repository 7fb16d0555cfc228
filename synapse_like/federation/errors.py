"""What can go wrong when another server is asked."""

from __future__ import annotations

from synapse_like.protocol.errors import MatrixError

_LONGEST_MESSAGE = 500
#: What would make a client of ours throw its own login away, if it got to see it.
_NOT_FOR_CLIENTS = frozenset({"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN"})


class ServerUnreachable(MatrixError):
    """Another server gave no answer: no DNS, no connection, TLS refused, a time-out, or nonsense.

    :param destination: the server.
    :param reason: what was the matter, for the log.
    """

    def __init__(self, destination: str, reason: str) -> None:
        super().__init__(502, "M_UNREACHABLE", f"The server {destination} cannot be reached.", reason=reason)
        self.destination = destination


class AnswerTooLarge(MatrixError):
    """Another server sends more than we take.

    :param most_bytes: how much that is.
    """

    def __init__(self, destination: str, most_bytes: int) -> None:
        super().__init__(
            502, "M_TOO_LARGE", f"What the server {destination} sends has more than the {most_bytes} bytes allowed."
        )


class RemoteRefusal(MatrixError):
    """Another server answered with an error. Code and message are as it told them.

    Where a client of ours asked, it gets the status, too; but not one by which it would take its own login for ended,
    or this server for broken.

    :param status: as it told it.
    :ivar destination: the server.
    :ivar told_status: as it told it.
    :ivar retry_after_ms: when it wants to be asked again, if it said so.
    """

    def __init__(
        self, destination: str, status: int, errcode: str, message: str, *, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(
            502 if status == 401 or status >= 500 else status,
            "M_UNKNOWN" if errcode in _NOT_FOR_CLIENTS else errcode[:_LONGEST_MESSAGE],
            message[:_LONGEST_MESSAGE],
            reason=f"{destination} answered {status}",
        )
        self.destination = destination
        self.told_status = status
        self.retry_after_ms = retry_after_ms

    @property
    def knows_no_such_path(self) -> bool:
        """Whether the other server does not have what was asked for, rather than refusing it to us."""
        return self.status in (404, 405) and self.errcode == "M_UNRECOGNIZED"
