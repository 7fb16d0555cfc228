"""Seeing that somebody has an address: a message with a token goes there, and the token comes back.

A client begins with a secret of its own choosing and gets the name of the validation, the `sid`; whoever knows both
may use what was proven. Asking again with the same `send_attempt` sends nothing again. The token follows from the `sid`
and our key, so that it is in no table; every message of a validation has the same.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import Protocol
from urllib.parse import urlencode, urlsplit

from synapse_like.clock import Clock
from synapse_like.identity.signer import Signer
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import BadParam, Forbidden, MatrixError
from synapse_like.protocol.third_party_ids import EMAIL, ThirdPartyId
from synapse_like.storage.database import Database
from synapse_like.storage.identity import validations
from synapse_like.storage.identity.validations import Validation, hash_secret
from synapse_like.storage.transactions import Transaction

#: Wrong tokens that may be submitted for a validation.
MOST_TRIES = 10
#: Characters of a link to go on to.
LONGEST_LINK = 2000
#: The class of the rate limit for messages to one address.
MESSAGES = "messages"
_SID_BYTES = 18

_log = get_logger(__name__)


class Limits(Protocol):
    """What is needed of `http.limits.Limiter`."""

    def check(self, rate_class: str, key: str, cost: int = 1) -> None:
        """Raises LimitExceeded if it is one too many."""


#: Sends a message of a kind to an address: `link` and `token` are what it is about.
Send = Callable[[str, str, str], Awaitable[None]]


class Validations:
    """Begins, ends and knows validations.

    :param send: how messages are sent, by medium; a medium that is not there cannot be validated. Each function takes
        the address, the token, and the link that submits it.
    :param public_url: of this server, as browsers reach it.
    :param lifetime: seconds from the beginning of a validation to its end, used or not.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        signer: Signer,
        limits: Limits,
        send: dict[str, Send],
        *,
        public_url: str,
        lifetime: int,
    ) -> None:
        self._database = database
        self._clock = clock
        self._signer = signer
        self._limits = limits
        self._send = send
        self._public_url = public_url
        self._lifetime_ms = lifetime * 1000

    async def begin(self, threepid: ThirdPartyId, client_secret: str, attempt: int, next_link: str | None) -> str:
        """Send a message to an address, unless this attempt was made before; the `sid` of the validation.

        :param next_link: where its owner may go on to.
        :raises Forbidden: this server cannot send to such addresses.
        :raises Unavailable: not now.
        """
        send = self._send.get(threepid.medium)
        if send is None:
            raise Forbidden(f"This server does not validate addresses of the kind {threepid.medium}.")
        if next_link is not None:
            _check_link(next_link)
        validation = await self._database.write(
            "begin-validation",
            validations.begin,
            secrets.token_urlsafe(_SID_BYTES),
            threepid,
            hash_secret(client_secret),
            next_link=next_link,
            created_after=self._clock.now_ms() - self._lifetime_ms,
            now_ms=self._clock.now_ms(),
        )
        if attempt <= validation.send_attempt:
            return validation.sid
        self._limits.check(MESSAGES, threepid.address)
        if not await self._database.write("claim-attempt", validations.claim_attempt, validation.sid, attempt):
            return validation.sid
        query = urlencode({"sid": validation.sid, "client_secret": client_secret, "token": self._token(validation)})
        link = f"{self._public_url}/_matrix/identity/api/v1/validate/{threepid.medium}/submitToken?{query}"
        try:
            await send(threepid.address, self._token(validation), link)
        except MatrixError:
            await self._database.write(
                "give-back-attempt",
                validations.give_back_attempt,
                validation.sid,
                attempt,
                validation.send_attempt,
            )
            raise
        _log.info("a message to validate an address was sent", medium=threepid.medium)
        return validation.sid

    async def submit(self, medium: str, sid: str, client_secret: str, token: str) -> Validation:
        """Take the token that was in the message.

        :raises MatrixError: it is not the one, or the validation is over.
        """
        validation = await self._database.write(
            "submit-token", self._submit, medium, sid, hash_secret(client_secret), token
        )
        if validation is None:
            raise Forbidden("This is not the token that was sent.")
        return validation

    def _submit(self, txn: Transaction, medium: str, sid: str, secret: bytes, token: str) -> Validation | None:
        validation = self._find(txn, sid, secret)
        if validation.threepid.medium != medium:
            raise _unknown()
        if validation.tries >= MOST_TRIES:
            raise Forbidden("Too many wrong tokens were submitted. Please start again.")
        if not hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self._token(validation).encode()):
            validations.count_wrong_token(txn, sid)
            return None
        validations.prove(txn, sid, self._clock.now_ms())
        return validation

    async def proven(self, sid: str, client_secret: str) -> Validation:
        """A validation that has come to its good end.

        :raises MatrixError: it has not, or is over.
        """
        return await self._database.read("validated", self.proven_in, sid, client_secret)

    def proven_in(self, txn: Transaction, sid: str, client_secret: str) -> Validation:
        """The same within a transaction."""
        validation = self._find(txn, sid, hash_secret(client_secret))
        if validation.validated_at is None:
            raise MatrixError(400, "M_SESSION_NOT_VALIDATED", "The owner of the address has not confirmed it yet.")
        return validation

    async def forget_old(self) -> None:
        """Forget validations that are over."""
        expired = self._clock.now_ms() - self._lifetime_ms
        await self._database.write("forget-validations", validations.delete_old, expired)

    def _find(self, txn: Transaction, sid: str, secret_hash: bytes) -> Validation:
        validation = validations.find(txn, sid, secret_hash)
        if validation is None:
            raise _unknown()
        if validation.created_at <= self._clock.now_ms() - self._lifetime_ms:
            raise MatrixError(400, "M_SESSION_EXPIRED", "This validation has expired. Please start again.")
        return validation

    def _token(self, validation: Validation) -> str:
        make = self._signer.token if validation.threepid.medium == EMAIL else self._signer.code
        return make(validation.sid)


def _unknown() -> MatrixError:
    return MatrixError(404, "M_NO_VALID_SESSION", "There is no such validation, or it is not yours.")


def _check_link(link: str) -> None:
    """See that a link leads to a page on the web.

    :raises BadParam: it does not.
    """
    try:
        parts = urlsplit(link)
        is_fine = parts.scheme in {"http", "https"} and bool(parts.hostname) and link.isprintable()
    except ValueError:
        is_fine = False
    if not is_fine or len(link) > LONGEST_LINK:
        raise BadParam("'next_link' must be a URL that begins with http:// or https://.")
