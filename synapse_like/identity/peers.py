"""Whose request it is: siblings and home servers sign theirs, as home servers do among each other.

The keys of siblings are in the settings. Those of a home server are asked of it, by its name, and must have signed the
answer that tells them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cachetools import TTLCache
from msgspec import Struct
from signedjson.types import VerifyKey

from synapse_like.clock import Clock
from synapse_like.http.authentication import Asking
from synapse_like.identity.asking import AsksHomeServers, object_in
from synapse_like.identity.validations import Limits
from synapse_like.protocol import request_signing, server_keys
from synapse_like.protocol.errors import MatrixError, SignatureError
from synapse_like.protocol.request_signing import Credentials, encode_content, parse_authorization

KEYS_PATH = "/_matrix/key/v2/server"
MOST_KEY_BYTES = 1024 * 1024
#: Home servers whose keys are remembered, and for how many seconds.
MOST_REMEMBERED, REMEMBERED_SECONDS = 1000, 600
#: The class of the rate limit for requests that make us ask a home server.
STRANGERS = "strangers"


class Sibling(Struct, frozen=True):
    """An identity server that tells us what it knows, and is told.

    :ivar name: by which it signs.
    :ivar url: where it is, without a slash at the end.
    :ivar keys: its public keys, by ID.
    """

    name: str
    url: str
    keys: Mapping[str, VerifyKey]


class Peer(Struct, frozen=True):
    """A server that has signed a request."""

    name: str
    is_sibling: bool


class PeerAuthenticator:
    """Checks the signatures of requests.

    :param name: ours.
    :param limits: counts, by address, the requests for which a home server is asked.
    :param heard_from: is told which sibling has asked something.
    """

    reads_body = True

    def __init__(
        self,
        name: str,
        siblings: Sequence[Sibling],
        ask: AsksHomeServers,
        clock: Clock,
        limits: Limits,
        heard_from: Callable[[str], None],
    ) -> None:
        self._name = name
        self._siblings = {sibling.name: sibling for sibling in siblings}
        self._ask = ask
        self._clock = clock
        self._limits = limits
        self._heard_from = heard_from
        self._known: TTLCache[str, Mapping[str, VerifyKey]] = TTLCache(
            MOST_REMEMBERED, REMEMBERED_SECONDS, timer=clock.monotonic
        )

    async def authenticate(self, asking: Asking, *, is_optional: bool) -> Peer | None:
        """The server that has signed the request.

        :raises SignatureError: none has, not for us, or it is not true.
        :raises LimitExceeded: too many requests from one address make us ask home servers.
        """
        header = asking.headers.get(b"Authorization", b"").decode("latin-1")
        if is_optional and not header:
            return None
        credentials = parse_authorization(header)
        if credentials.destination != self._name:
            # Without it, what one sibling is told could be told to another.
            raise SignatureError("This request was signed for another server.")
        sibling = self._siblings.get(credentials.origin)
        if sibling is not None:
            self._verify(asking, credentials, sibling.keys)
            self._heard_from(sibling.name)
            return Peer(sibling.name, is_sibling=True)
        keys = self._known.get(credentials.origin, {})
        if credentials.key_id not in keys:
            self._limits.check(STRANGERS, asking.address)
            keys = self._known[credentials.origin] = await self._keys_of(credentials.origin)
        self._verify(asking, credentials, keys)
        return Peer(credentials.origin, is_sibling=False)

    def name_of(self, requester: Peer) -> str:
        return requester.name

    def _verify(self, asking: Asking, credentials: Credentials, keys: Mapping[str, VerifyKey]) -> None:
        key = keys.get(credentials.key_id)
        if key is None:
            raise SignatureError(f"{credentials.origin} has no key {credentials.key_id}.")
        content = asking.json()
        request_signing.verify(
            credentials,
            method=asking.method.decode("latin-1"),
            uri=asking.target.decode("latin-1"),
            destination=self._name,
            content=None if content is None else encode_content(content),
            key=key,
        )

    async def _keys_of(self, server: str) -> Mapping[str, VerifyKey]:
        try:
            answer = await self._ask.request("GET", server, KEYS_PATH, most_bytes=MOST_KEY_BYTES)
            if answer.status != 200:
                raise SignatureError(f"{server} does not tell its keys.", reason=f"it answered {answer.status}")
            keys = server_keys.read(object_in(answer), server)
        except MatrixError as error:
            sentence = f"The keys of {server} cannot be had."
            raise SignatureError(sentence, reason=error.reason or error.message) from error
        if keys.valid_until < self._clock.now_ms():
            raise SignatureError(f"The keys of {server} are not valid any more.")
        return keys.current
