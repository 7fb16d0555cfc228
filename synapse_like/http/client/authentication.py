"""Whose request it is: clients show an access token, in a header or in the query (API-2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from synapse_like.http.authentication import Asking
from synapse_like.protocol.errors import MissingToken, UnknownToken

R = TypeVar("R")


class TokenAuthenticator(Generic[R]):
    """Recognises access tokens.

    :param authenticate: tells who a token belongs to, or raises UnknownToken.
    :param name_of: what to call them in the log, and to count their requests under.
    """

    reads_body = False

    def __init__(self, authenticate: Callable[[str], Awaitable[R]], name_of: Callable[[R], str]) -> None:
        self._authenticate = authenticate
        self.name_of = name_of

    async def authenticate(self, asking: Asking, *, is_optional: bool) -> R | None:
        """The header counts for more than the query (API-2), an empty token for none (EVS-10)."""
        scheme, _, token = asking.headers.get(b"Authorization", b"").partition(b" ")
        given = token.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""
        given = given or asking.query.text("access_token", "", error=UnknownToken)
        if given:
            return await self._authenticate(given)
        if is_optional:
            return None
        raise MissingToken("An access token is needed for this. Please log in.")
