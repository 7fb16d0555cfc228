"""How the identity server asks others; it is handed what does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from synapse_like.protocol import canonical_json
from synapse_like.protocol.errors import MatrixError, Unavailable


class Answer(Protocol):
    """What is answered."""

    @property
    def status(self) -> int:
        """The status of HTTP."""

    @property
    def body(self) -> bytes:
        """All of it."""


class AsksHomeServers(Protocol):
    """What reaches home servers by their names; strangers choose these, so that it must look where it goes."""

    async def request(
        self,
        method: str,
        destination: str,
        uri: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        most_bytes: int,
    ) -> Answer:
        """Ask, and read the whole answer, whatever its status. Raises a MatrixError if there is none."""


class AsksByUrl(Protocol):
    """What reaches siblings and the gateway for text messages, which the settings name by their URLs."""

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Ask, and read the whole answer, whatever its status. Raises a MatrixError if there is none."""


def object_in(answer: Answer) -> dict[str, Any]:
    """The JSON object that is an answer.

    :raises Unavailable: it is none.
    """
    try:
        value = canonical_json.decode(answer.body)
    except MatrixError as error:
        raise Unavailable("The other side does not answer in JSON.", reason=error.reason) from error
    if not isinstance(value, dict):
        raise Unavailable("The other side does not answer with an object.")
    return value
