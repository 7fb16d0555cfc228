"""Who asks? What a site hands to whoever knows how to tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, TypeVar

from synapse_like.http.requests import Query

R = TypeVar("R")


class Asking(NamedTuple):
    """A request whose asker is to be found out.

    :ivar target: path and query, exactly as received.
    :ivar address: the IP address of the client, seen through trusted proxies.
    :ivar json: gives the JSON of the body, None if there is none; only if the authenticator `reads_body`. It raises
        MatrixError if it is not JSON.
    """

    method: bytes
    target: bytes
    headers: Mapping[bytes, bytes]
    query: Query
    address: str
    json: Callable[[], object]


class Authenticator(Protocol[R]):
    """Tells who asks."""

    @property
    def reads_body(self) -> bool:
        """Whether the body has a say in it, be it one that the route has no use for."""

    async def authenticate(self, asking: Asking, *, is_optional: bool) -> R | None:
        """Who it is; None if it is optional to say so, and nothing was said.

        :raises MatrixError: it was not said, or is not true.
        """

    def name_of(self, requester: R) -> str:
        """What to call them in the log, and to count their requests under."""
