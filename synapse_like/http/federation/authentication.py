"""Whose request it is: servers sign theirs (FED-9, SEC-8). The requester is the name of the server."""

from __future__ import annotations

from collections.abc import Callable

from synapse_like.federation.keyring import Keyring
from synapse_like.http.authentication import Asking
from synapse_like.http.limits import Limiter
from synapse_like.protocol.request_signing import parse_authorization


class SignatureAuthenticator:
    """Checks the signatures of requests.

    :param heard_from: is told who has asked something.
    :param limiter: counts, under `strangers` and by address, the requests whose key is not at hand.
    """

    reads_body = True

    def __init__(self, keyring: Keyring, limiter: Limiter, heard_from: Callable[[str], None]) -> None:
        self._keyring = keyring
        self._limiter = limiter
        self._heard_from = heard_from

    async def authenticate(self, asking: Asking, *, is_optional: bool) -> str | None:
        """The server that has signed the request.

        :raises SignatureError: none has, or it is not true.
        :raises LimitExceeded: too many requests with keys that are not at hand come from one address.
        """
        header = asking.headers.get(b"Authorization")
        if header is None and is_optional:
            return None
        credentials = parse_authorization((header or b"").decode("latin-1"))
        if not self._keyring.has_at_hand(credentials.origin, credentials.key_id):
            self._limiter.check("strangers", asking.address)
        origin = await self._keyring.verify_request(
            credentials,
            method=asking.method.decode("latin-1"),
            uri=asking.target.decode("latin-1"),
            content=asking.json(),
        )
        self._heard_from(origin)
        return origin

    def name_of(self, requester: str) -> str:
        return requester
