"""Credentials for the TURN server that relays calls (VOIP-1).

They need nothing stored: the TURN server has the same secret, and so can tell that we gave them out, and until when
they hold (the "TURN REST API", which coturn calls `use-auth-secret`).
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Sequence

from msgspec import Struct

from synapse_like.clock import Clock
from synapse_like.handlers.authentication import Requester


class TurnCredentials(Struct, frozen=True):
    """What a client needs to have its calls relayed.

    :ivar ttl: the seconds for which they hold.
    """

    username: str
    password: str
    uris: list[str]
    ttl: int


class Voip:
    """Gives out TURN credentials.

    :param uris: of the TURN server; empty if there is none.
    :param secret: what it shares with us.
    :param lifetime: the seconds for which credentials hold.
    """

    def __init__(self, clock: Clock, uris: Sequence[str], secret: str | None, lifetime: int) -> None:
        self._clock = clock
        self._uris = list(uris)
        self._secret = secret
        self._lifetime = lifetime

    def credentials(self, requester: Requester) -> TurnCredentials | None:
        """Credentials for a user; None if there is no TURN server."""
        if not self._uris or self._secret is None:
            return None
        expiry = self._clock.now_ms() // 1000 + self._lifetime
        username = f"{expiry}:{requester.user_id}"
        password = b64encode(hmac.digest(self._secret.encode(), username.encode(), "sha1")).decode()
        return TurnCredentials(username, password, self._uris, self._lifetime)
