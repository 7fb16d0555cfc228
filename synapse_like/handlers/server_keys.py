"""Telling keys: ours, and as a notary those of others (FED-9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from signedjson.key import get_verify_key
from twisted.internet.defer import Deferred

from synapse_like.background import all_of
from synapse_like.clock import Clock
from synapse_like.federation.keyring import Keyring
from synapse_like.federation.own_keys import OwnKeys
from synapse_like.protocol import canonical_json
from synapse_like.protocol.server_keys import ServerKeys as Keys
from synapse_like.protocol.server_keys import publish
from synapse_like.protocol.signing import sign_json

#: How long our word on our keys is good, in milliseconds.
VALIDITY = 24 * 3600 * 1000
#: The longest that others should keep an answer without asking again, in seconds.
MOST_CACHED_SECONDS = 3600


class OwnAnswer(Struct, frozen=True):
    """What we say of our own keys.

    :ivar encoded: the same in JSON.
    :ivar remade_at: when there will be a new one, in milliseconds since 1970.
    """

    answer: Mapping[str, Any]
    encoded: bytes
    remade_at: int


class ServerKeys:
    """Tells keys, each answer signed by us."""

    def __init__(self, own: OwnKeys, keyring: Keyring, clock: Clock) -> None:
        self._own = own
        self._keyring = keyring
        self._clock = clock
        self._answer: OwnAnswer | None = None

    def own(self) -> OwnAnswer:
        """What we say of our own keys: made once, and again when half of its validity is gone."""
        now = self._clock.now_ms()
        if self._answer is None or not self._answer.remade_at - VALIDITY // 2 <= now < self._answer.remade_at:
            own = self._own
            answer = publish(
                Keys(
                    own.server_name,
                    now + VALIDITY,
                    {own.signing_id: get_verify_key(own.signing)},
                    {key_id: (old.key, old.ended) for key_id, old in own.old.items()},
                ),
                own.signing,
            )
            self._answer = OwnAnswer(answer, canonical_json.encode(answer), now + VALIDITY // 2)
        return self._answer

    def cached_seconds(self) -> int:
        """How long others may keep our answer without asking again."""
        return max(0, min((self.own().remade_at - self._clock.now_ms()) // 1000, MOST_CACHED_SECONDS))

    async def of_others(self, wanted: Mapping[str, int | None]) -> list[Mapping[str, Any]]:
        """What servers say of their own keys, with our signature beside theirs; nothing of those that say nothing.

        :param wanted: by server, until when the keys should be valid at least, or None.
        """
        answers = await all_of([Deferred.fromCoroutine(self._one(name, wanted[name])) for name in wanted])
        return [answer for answer in answers if answer is not None]

    async def _one(self, server_name: str, minimum: int | None) -> Mapping[str, Any] | None:
        if server_name == self._own.server_name:
            return self.own().answer
        answer = await self._keyring.signed_answer(server_name, minimum)
        return None if answer is None else sign_json(answer, self._own.server_name, self._own.signing)
