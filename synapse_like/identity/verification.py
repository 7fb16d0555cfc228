"""Whether what an identity server keeps holds together (`synapse_like identity verify`).

What somebody has said is looked at in the order of its table, each batch in a transaction of its own, so that it may
take long, beside a running server, and memory does not grow. What others have said carries their signature, which is
checked by the keys in the settings. What we say ourselves is stored without ours, since it is signed whenever it is
handed out; of that it is seen that it says what its row says. The hashes by which addresses are looked up are derived
from the statements, and can be made anew (`mend_hashes`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field
from signedjson.key import decode_signing_key_base64, encode_verify_key_base64, get_verify_key
from signedjson.types import VerifyKey
from unpaddedbase64 import decode_base64, encode_base64

from synapse_like.identity.notices import EPHEMERAL_KEY
from synapse_like.identity.user_keys import check_keys
from synapse_like.protocol import canonical_json
from synapse_like.protocol.errors import MatrixError
from synapse_like.protocol.identifiers import canonical_user_id
from synapse_like.protocol.third_party_ids import ThirdPartyId, check_signed_by, third_party_id
from synapse_like.storage.faults import Fault
from synapse_like.storage.identity import peppers
from synapse_like.storage.identity import verification as stored
from synapse_like.storage.identity.statements import ASSOCIATION, KEYS
from synapse_like.storage.identity.verification import InviteRow, StatementKey, StatementRow
from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import batched

#: Hashes that are compared, and addresses that are hashed, in one step.
BATCH = 500


class Checked(Struct):
    """What became of some statements.

    :ivar up_to: the last of them.
    :ivar unsigned: how many are of servers that are no siblings any more, so that their keys are not known.
    """

    up_to: StatementKey
    count: int = 0
    unsigned: int = 0
    faults: list[Fault] = field(default_factory=list)


class StatementVerification:
    """Looks at statements.

    :param name: ours.
    :param siblings: the keys of the siblings, by their names.
    """

    def __init__(self, name: str, siblings: Mapping[str, Iterable[VerifyKey]]) -> None:
        self._name = name
        self._siblings = siblings

    def check(self, txn: Transaction, after: StatementKey, limit: int) -> Checked:
        """Look at the first statements behind one."""
        rows = stored.statements_after(txn, after, limit)
        checked = Checked(rows[-1].key if rows else after, len(rows))
        for row in rows:
            key = row.key
            where = f"{key.kind} of {key.medium} {key.address} by {key.origin}"
            try:
                said = _object(row.said)
                sentences = [*_what_is_wrong(row, said)]
                checked.unsigned += self._is_unsigned(row, said)
            except MatrixError as error:
                sentences = [error.message]
            checked.faults += [Fault(where, sentence) for sentence in sentences]
        return checked

    def _is_unsigned(self, row: StatementRow, said: Mapping[str, Any]) -> bool:
        """Whether nobody can tell if a statement is well signed.

        :raises MatrixError: it is not.
        """
        origin = row.key.origin
        if origin == self._name:
            return False
        if origin not in self._siblings:
            return True
        check_signed_by(said, origin, self._siblings[origin])
        return False


def _object(text: str) -> dict[str, Any]:
    value = canonical_json.decode(text.encode())
    if not isinstance(value, dict):
        raise MatrixError(500, "M_UNKNOWN", "it is no object")
    return value


def _what_is_wrong(row: StatementRow, said: Mapping[str, Any]) -> Iterable[str]:
    kind, medium, address, _ = row.key
    if any(said.get(name) != held for name, held in (("medium", medium), ("address", address), ("mxid", row.mxid))):
        yield "it says something else than its row: of another address, or another user"
    if said.get("ts") != row.ts:
        yield "it says something else than its row: another time"
    if third_party_id(medium, address) != (medium, address):
        yield "its address is not in the one spelling there is"
    if row.mxid is not None and canonical_user_id(row.mxid) != row.mxid:
        yield "its user is not in the one spelling there is"
    if kind == ASSOCIATION and not all(type(said.get(name)) is int for name in ("not_before", "not_after")):
        yield "it does not say when it holds"
    if kind == KEYS:
        keys = said.get("keys")
        check_keys(keys if isinstance(keys, dict) else {})
    if kind not in (ASSOCIATION, KEYS):
        yield "nothing is known of this kind of statement"
    if ("signatures" in said) == (row.position is not None):
        yield "it is told to siblings as ours, and has another's signature" if row.position else "nobody has signed it"


# Hashes.


def check_hashes(txn: Transaction) -> list[Fault]:
    """Hashes that are missing, wrong, or of nothing."""
    found = []
    lost = stored.count_lost_hashes(txn)
    if lost:
        found.append(Fault("hashes", f"{lost} are with a pepper that is not there", is_derived=True))
    for pepper, is_complete, filled in stored.peppers(txn):
        wrong, unknown = _compare_hashes(txn, pepper)
        missing = _count_missing(txn, pepper, None if is_complete else filled)
        for number, what in ((wrong, "not those of"), (unknown, "of no known"), (missing, "missing of")):
            if number:
                sentence = f"with the pepper {pepper}, {number} are {what} addresses"
                found.append(Fault("hashes", sentence, is_derived=True))
    return found


def _compare_hashes(txn: Transaction, pepper: str) -> tuple[int, int]:
    """How many hashes are not those of their addresses, and how many are of addresses that are not known."""
    wrong = unknown = 0
    after = ""
    while rows := stored.hashes_after(txn, pepper, after, BATCH):
        wrong += sum(threepid.hashed(pepper) != text for text, threepid, _ in rows)
        unknown += sum(not is_known for _, _, is_known in rows)
        after = rows[-1][0]
    return wrong, unknown


def _count_missing(txn: Transaction, pepper: str, up_to: ThirdPartyId | None) -> int:
    """How many addresses have no hash, up to one if not all were hashed yet."""
    missing = 0
    for addresses in _addresses(txn):
        wanted = [one for one in addresses if up_to is None or one <= up_to]
        found = peppers.find(txn, pepper, [one.hashed(pepper) for one in wanted])
        missing += len(set(wanted) - set(found.values()))
    return missing


def _addresses(txn: Transaction) -> Iterable[Sequence[ThirdPartyId]]:
    after = ThirdPartyId("", "")
    while found := stored.addresses_after(txn, after, BATCH):
        yield found
        after = found[-1]


def mend_hashes(txn: Transaction) -> None:
    """Make all hashes anew."""
    stored.begin_hashes_anew(txn)
    known = stored.peppers(txn)
    for addresses in _addresses(txn):
        for part in batched(addresses, BATCH):
            for pepper, is_complete, filled in known:
                peppers.insert(txn, pepper, [one for one in part if is_complete or one <= filled])


# Invites, and what home servers are told.


def check_invites(rows: Iterable[InviteRow]) -> list[Fault]:
    """Invites that could not be redeemed, or were and still have their secret."""
    found = []
    for row in rows:
        where = f"invite of {row.threepid.medium} {row.threepid.hinted()} ({row.public_key})"
        if row.is_redeemed != (row.private_key is None):
            state = "was redeemed, and still has its key" if row.is_redeemed else "waits, and has no key"
            found.append(Fault(where, f"it {state}"))
        elif row.private_key is not None and not _belong_together(row.private_key, row.public_key):
            found.append(Fault(where, "its two keys do not belong together"))
    return found


def _belong_together(private_key: bytes, public_key: str) -> bool:
    try:
        key = decode_signing_key_base64("ed25519", EPHEMERAL_KEY, encode_base64(private_key))
        return decode_base64(encode_verify_key_base64(get_verify_key(key))) == decode_base64(public_key)
    except ValueError:
        return False


def check_notices(txn: Transaction) -> list[Fault]:
    """What home servers are to be told, and nobody could understand."""
    found = []
    for number, server, text in stored.notices(txn):
        try:
            _object(text)
        except MatrixError as error:
            found.append(Fault(f"notice {number} for {server}", error.message))
    return found
