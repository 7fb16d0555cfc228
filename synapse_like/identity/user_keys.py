"""The public keys of users: told by the owner of an address, vouched for as far as that goes (the 2014 specification,
"Trusted federation of Identity servers for: Publishing user public keys for PKI").

Whoever proves that they have an address that is bound to a user may publish keys for that user. The keys are an object
that each of its signing keys has signed, so that nobody can publish those of another as their own. Whoever asks for an
address gets them with its user; whoever asks for the user gets them without the address, which is nobody's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from unpaddedbase64 import decode_base64

from synapse_like.clock import Clock
from synapse_like.identity.signer import Signer
from synapse_like.identity.validations import Validations
from synapse_like.protocol.errors import BadJson, Forbidden, MatrixError, NotFound
from synapse_like.protocol.signing import verify_json
from synapse_like.protocol.third_party_ids import ThirdPartyId, public_key
from synapse_like.storage.database import Database
from synapse_like.storage.identity import statements
from synapse_like.storage.identity.statements import ASSOCIATION, KEYS, Statement
from synapse_like.storage.transactions import Transaction

#: Keys of a user; statements that are given for one.
MOST_KEYS, MOST_STATEMENTS = 20, 20
SIGNING, AGREEMENT = "ed25519", "curve25519"
_KEY_ID = re.compile(r"(ed25519|curve25519):[A-Za-z0-9_+/=.-]{1,64}")
_KEY_BYTES = 32


class UserKeys:
    """Keeps and gives the keys of users."""

    def __init__(self, database: Database, clock: Clock, signer: Signer, validations: Validations) -> None:
        self._database = database
        self._clock = clock
        self._signer = signer
        self._validations = validations

    async def publish(self, sid: str, client_secret: str, keys: Mapping[str, Any]) -> None:
        """Keep the keys of the user who has an address; they take the place of those published by the same address.

        :param keys: `{"mxid": …, "keys": {key ID: base64}, "signatures": {mxid: {key ID: …}}}`.
        :raises BadJson: it is not such an object, or not signed by its keys.
        :raises Forbidden: the address is not that user's.
        """
        check_keys(keys)
        await self._database.write("publish-keys", self._publish, sid, client_secret, keys)

    def _publish(self, txn: Transaction, sid: str, client_secret: str, keys: Mapping[str, Any]) -> None:
        threepid = self._validations.proven_in(txn, sid, client_secret).threepid
        owner = statements.newest(txn, ASSOCIATION, [threepid]).get(threepid)
        if owner is None or owner.mxid != keys["mxid"]:
            raise Forbidden("The address is not bound to this user.")
        known = statements.newest(txn, KEYS, [threepid]).get(threepid)
        ts = max(self._clock.now_ms(), known.ts + 1 if known is not None else 0)
        said = {"medium": threepid.medium, "address": threepid.address, "mxid": owner.mxid, "ts": ts, "keys": keys}
        statements.make(txn, Statement(KEYS, threepid, self._signer.name, owner.mxid, ts, said))

    async def of_address(self, threepid: ThirdPartyId) -> dict[str, Any]:
        """The keys of whoever has an address, signed by us and whoever was told them.

        :raises NotFound: there are none.
        """
        found = await self._database.read("keys-of-address", self._of_address, threepid)
        if found is None:
            raise NotFound("No keys are known for this address.")
        return self._signer.sign(found.said)

    async def of_user(self, mxid: str) -> list[dict[str, Any]]:
        """The keys that were published for a user, signed by us, without the addresses that they were published by."""
        found = await self._database.read("keys-of-user", self._of_user, mxid)
        return [self._signer.sign({name: item.said[name] for name in ("mxid", "ts", "keys")}) for item in found]

    def _of_user(self, txn: Transaction, mxid: str) -> list[Statement]:
        told = statements.of_user(txn, KEYS, mxid, MOST_STATEMENTS)
        owners = statements.newest(txn, ASSOCIATION, [item.threepid for item in told])
        return [item for item in told if item.threepid in owners and owners[item.threepid].mxid == mxid]

    def _of_address(self, txn: Transaction, threepid: ThirdPartyId) -> Statement | None:
        told = statements.newest(txn, KEYS, [threepid]).get(threepid)
        owner = statements.newest(txn, ASSOCIATION, [threepid]).get(threepid)
        return told if told is not None and owner is not None and told.mxid == owner.mxid else None


def check_keys(keys: Mapping[str, Any]) -> None:
    """See that an object holds the keys of a user and is signed by each of them that can sign.

    :raises BadJson: it does not, or is not.
    """
    mxid, by_id, signatures = keys.get("mxid"), keys.get("keys"), keys.get("signatures")
    if len(keys) != 3 or not isinstance(mxid, str) or not isinstance(by_id, dict) or not isinstance(signatures, dict):
        raise BadJson("'keys' must have 'mxid', 'keys' and 'signatures', and nothing else.")
    signing = [key_id for key_id in by_id if key_id.startswith(f"{SIGNING}:")]
    if not signing or len(by_id) > MOST_KEYS:
        raise BadJson(f"There must be at least one {SIGNING} key, and not more than {MOST_KEYS} keys.")
    if set(signatures) != {mxid} or not isinstance(signatures[mxid], dict) or set(signatures[mxid]) != set(signing):
        raise BadJson(f"The keys must be signed by just their {SIGNING} keys, in the name of the user.")
    for key_id, encoded in by_id.items():
        _check_key(key_id, encoded)
    for key_id in signing:
        try:
            verify_json(keys, mxid, public_key(key_id, by_id[key_id]))
        except MatrixError as error:
            raise BadJson(f"The signature by {key_id} is false.", reason=error.reason) from error


def _check_key(key_id: str, encoded: object) -> None:
    try:
        is_one = (
            _KEY_ID.fullmatch(key_id) is not None
            and isinstance(encoded, str)
            and len(encoded) <= 2 * _KEY_BYTES
            and len(decode_base64(encoded)) == _KEY_BYTES
        )
    except ValueError:
        is_one = False
    if not is_one:
        raise BadJson(f"Keys must be {SIGNING}:… or {AGREEMENT}:…, each 32 bytes in base64.")
