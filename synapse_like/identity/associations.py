"""Whose an address is: given to a user, taken back, and looked up.

To give an address to somebody takes a validation of it. What the server says then is an *association*, signed whenever
it is handed out, by the key of the day; of a sibling's word the sibling's signature stays beside ours. The newest word
of all siblings counts, and it is given a time that is later than that of any other known, whatever the clocks say.

Nobody proves here that they are the user they name: the address is theirs, and that is all the server vouches for.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from synapse_like.clock import Clock
from synapse_like.identity.notices import Notices
from synapse_like.identity.signer import Signer
from synapse_like.identity.validations import Validations
from synapse_like.protocol.errors import BadParam, Forbidden, MatrixError, NotFound
from synapse_like.protocol.identifiers import domain_of
from synapse_like.protocol.third_party_ids import ThirdPartyId
from synapse_like.storage.database import Database
from synapse_like.storage.identity import peppers, statements
from synapse_like.storage.identity.statements import ASSOCIATION, Statement
from synapse_like.storage.transactions import Transaction

#: From how long before it was made, and for how long, an association holds, in milliseconds.
HOLDS_BEFORE, HOLDS_FOR = 5 * 60 * 1000, 100 * 365 * 24 * 60 * 60 * 1000
#: The one way to hash addresses.
ALGORITHM = "sha256"
#: Addresses that are hashed with a new pepper in one transaction.
_FILLED_AT_ONCE = 500
_PEPPER_BYTES = 24


class Associations:
    """Binds, unbinds and looks up.

    :param notices: is told whose addresses become.
    :param pepper_lifetime: seconds after which addresses are hashed anew.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        signer: Signer,
        validations: Validations,
        notices: Notices,
        *,
        pepper_lifetime: int,
    ) -> None:
        self._database = database
        self._clock = clock
        self._signer = signer
        self._validations = validations
        self._notices = notices
        self._pepper_lifetime_ms = pepper_lifetime * 1000

    # Giving and taking.

    async def bind(self, sid: str, client_secret: str, mxid: str) -> dict[str, Any]:
        """Give an address that was proven to a user; the signed association.

        :param mxid: in lower case.
        :raises MatrixError: the address was not proven.
        """
        said = await self._database.write("bind", self._bind, sid, client_secret, mxid)
        return self._signer.sign(said)

    def _bind(self, txn: Transaction, sid: str, client_secret: str, mxid: str) -> dict[str, Any]:
        threepid = self._validations.proven_in(txn, sid, client_secret).threepid
        known = statements.newest(txn, ASSOCIATION, [threepid]).get(threepid)
        if known is not None and (known.mxid, known.origin) == (mxid, self._signer.name):
            # It was bound by the same request before.
            return known.said
        made = self._make(txn, threepid, mxid, known)
        self._notices.settle(txn, threepid, mxid)
        return made.said

    async def unbind(
        self,
        threepid: ThirdPartyId,
        mxid: str,
        *,
        home_server: str | None = None,
        proof: tuple[str, str] | None = None,
    ) -> None:
        """Take an address from a user, for its owner or the user's home server.

        :param home_server: that asks, if one does.
        :param proof: `sid` and client secret of a validation of the address, if there is one.
        :raises Forbidden: neither may.
        :raises NotFound: the address is not the user's.
        """
        await self._database.write("unbind", self._unbind, threepid, mxid, home_server, proof)

    def _unbind(
        self,
        txn: Transaction,
        threepid: ThirdPartyId,
        mxid: str,
        home_server: str | None,
        proof: tuple[str, str] | None,
    ) -> None:
        is_theirs = home_server is not None and domain_of(mxid) == home_server
        if not is_theirs and (proof is None or self._validations.proven_in(txn, *proof).threepid != threepid):
            raise Forbidden("To take an address from a user takes a validation of it, or the user's home server.")
        known = statements.newest(txn, ASSOCIATION, [threepid]).get(threepid)
        if known is None or known.mxid != mxid:
            raise NotFound("This user does not have this address.")
        self._make(txn, threepid, None, known)

    def _make(self, txn: Transaction, threepid: ThirdPartyId, mxid: str | None, known: Statement | None) -> Statement:
        now = self._clock.now_ms()
        ts = now if known is None else max(now, known.ts + 1)
        said = {
            "medium": threepid.medium,
            "address": threepid.address,
            "mxid": mxid,
            "ts": ts,
            "not_before": now - HOLDS_BEFORE,
            "not_after": now + HOLDS_FOR,
        }
        made = Statement(ASSOCIATION, threepid, self._signer.name, mxid, ts, said)
        statements.make(txn, made)
        return made

    # Looking up.

    async def find(self, threepids: Sequence[ThirdPartyId]) -> dict[ThirdPartyId, dict[str, Any]]:
        """The signed associations of those addresses that are somebody's."""
        held = await self._database.read("lookup", statements.newest, ASSOCIATION, threepids)
        return {statement.threepid: self._signer.sign(statement.said) for statement in self._holding(held.values())}

    async def pepper(self) -> str:
        """The pepper to hash with."""
        return (await self._good_peppers())[0]

    async def find_hashed(self, hashes: Sequence[str], algorithm: str, pepper: str) -> dict[str, str]:
        """The users who have those addresses that some hashes stand for.

        :param pepper: what they were hashed with.
        :raises MatrixError: it is not used any more, or the hashes are of another kind.
        """
        if algorithm != ALGORITHM:
            raise BadParam(f"The only algorithm is {ALGORITHM}.")
        good = await self._good_peppers()
        if pepper not in good:
            raise MatrixError(
                400,
                "M_INVALID_PEPPER",
                "Addresses must be hashed with the present pepper.",
                extra={"algorithm": ALGORITHM, "lookup_pepper": good[0]},
            )
        return await self._database.read("lookup-hashed", self._find_hashed, hashes, pepper)

    def _find_hashed(self, txn: Transaction, hashes: Sequence[str], pepper: str) -> dict[str, str]:
        found = peppers.find(txn, pepper, hashes)
        held = statements.newest(txn, ASSOCIATION, found.values())
        owners = {statement.threepid: statement.mxid for statement in self._holding(held.values())}
        return {text: mxid for text, threepid in found.items() if (mxid := owners.get(threepid)) is not None}

    def _holding(self, held: Iterable[Statement]) -> list[Statement]:
        now = self._clock.now_ms()
        return [
            statement
            for statement in held
            if statement.mxid is not None and statement.said["not_before"] <= now <= statement.said["not_after"]
        ]

    async def _good_peppers(self) -> list[str]:
        good = await self._database.read("peppers", peppers.good)
        if not good:
            # Somebody asks before the first one is there.
            await self.change_pepper()
            good = await self._database.read("peppers", peppers.good)
        return [item.pepper for item in good]

    async def change_pepper(self) -> None:
        """See that there is a pepper, and a new one when the last was in use for long enough."""
        good = await self._database.read("peppers", peppers.good)
        now = self._clock.now_ms()
        if not good or good[0].created_at + self._pepper_lifetime_ms <= now:
            await self._database.write("new-pepper", peppers.begin, secrets.token_urlsafe(_PEPPER_BYTES), now)
        while await self._database.write("fill-pepper", peppers.fill, _FILLED_AT_ONCE, now):
            pass
