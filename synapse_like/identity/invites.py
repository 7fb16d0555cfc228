"""Invites to rooms for addresses that are nobody's yet.

A home server that wants to invite an address leaves the invite here. It gets a token, and the public keys that it must
tell the room: the server's, and one that this invite alone has, which stays good when the server's changes. The owner
of the address gets a mail that says so, and nothing in it is of the inviter's own wording.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

from msgspec import Struct
from signedjson.key import encode_verify_key_base64, generate_signing_key, get_verify_key

from synapse_like.clock import Clock
from synapse_like.identity.notices import EPHEMERAL_KEY
from synapse_like.identity.signer import Signer
from synapse_like.identity.validations import MESSAGES, Limits
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import Forbidden, LimitExceeded, MatrixError
from synapse_like.protocol.third_party_ids import ThirdPartyId
from synapse_like.storage.database import Database
from synapse_like.storage.identity import invites, statements
from synapse_like.storage.identity.invites import Invite
from synapse_like.storage.identity.statements import ASSOCIATION
from synapse_like.storage.transactions import Transaction

#: Invites that may wait for the owner of one address.
MOST_PENDING = 100
#: How long they wait, and their keys are known, in milliseconds.
KEPT_MS = 365 * 24 * 60 * 60 * 1000
_TOKEN_BYTES = 24
_RETRY_MS = 24 * 60 * 60 * 1000

_log = get_logger(__name__)

#: Tells the owner of an address who has invited them.
SendInvite = Callable[[str, str], Awaitable[None]]


class Kept(Struct, frozen=True):
    """An invite that was left here.

    :ivar own_key: the public key that it alone has, in base64.
    :ivar display_name: what may be shown of the address.
    """

    token: str
    own_key: str
    display_name: str


class Invites:
    """Keeps invites.

    :param send: how the owners of addresses are told, by medium.
    """

    def __init__(
        self, database: Database, clock: Clock, signer: Signer, limits: Limits, send: dict[str, SendInvite]
    ) -> None:
        self._database = database
        self._clock = clock
        self._signer = signer
        self._limits = limits
        self._send = send

    async def keep(self, threepid: ThirdPartyId, room_id: str, sender: str) -> Kept:
        """Keep an invite, and tell the owner of the address.

        :raises MatrixError: the address is somebody's, whom one may invite: M_THREEPID_IN_USE with `mxid`.
        :raises LimitExceeded: too many wait for this address.
        :raises Forbidden: nobody can be told at such an address.
        """
        send = self._send.get(threepid.medium)
        if send is None:
            raise Forbidden(f"This server does not send to addresses of the kind {threepid.medium}.")
        self._limits.check(MESSAGES, threepid.address)
        key = generate_signing_key(EPHEMERAL_KEY)
        invite = Invite(
            secrets.token_urlsafe(_TOKEN_BYTES),
            threepid,
            room_id,
            sender,
            encode_verify_key_base64(get_verify_key(key)),
            key.encode(),
        )
        await self._database.write("keep-invite", self._keep, invite)
        try:
            await send(threepid.address, sender)
        except MatrixError as error:
            # The invite stands: its owner finds it when they bind the address.
            _log.warning("no mail about an invite", reason=error.reason or error.message)
        return Kept(invite.token, invite.public_key, threepid.hinted())

    def _keep(self, txn: Transaction, invite: Invite) -> None:
        owner = statements.newest(txn, ASSOCIATION, [invite.threepid]).get(invite.threepid)
        if owner is not None and owner.mxid is not None:
            raise MatrixError(
                400, "M_THREEPID_IN_USE", "The address is a user's, whom you can invite.", extra={"mxid": owner.mxid}
            )
        if invites.count_pending(txn, invite.threepid) >= MOST_PENDING:
            raise LimitExceeded("Too many invites wait for the owner of this address.", _RETRY_MS)
        invites.add(txn, invite, self._clock.now_ms())

    async def has_key(self, public_key: str) -> bool:
        """Whether a public key is that of an invite."""
        return await self._database.read("key-of-invite", invites.has_key, public_key)

    async def forget_old(self) -> None:
        """Forget invites that nobody has taken up for a year."""
        before = self._clock.now_ms() - KEPT_MS
        await self._database.write("forget-invites", invites.delete_old, created_before=before)
