"""Addresses whose owner is to prove that they have it."""

from __future__ import annotations

from hashlib import sha256

from msgspec import Struct

from synapse_like.protocol.third_party_ids import ThirdPartyId
from synapse_like.storage.engines.engine import Row
from synapse_like.storage.transactions import Transaction

_COLUMNS = "sid, medium, address, secret_hash, send_attempt, next_link, tries, created_at, validated_at"


class Validation(Struct, frozen=True):
    """One address on its way to be proven. Times are milliseconds since 1970.

    :ivar secret_hash: of what the client chose.
    :ivar send_attempt: the client's count of the messages that it wanted sent.
    :ivar next_link: where the owner is led when the address is proven.
    :ivar tries: wrong tokens that were submitted.
    :ivar validated_at: None until it is proven.
    """

    sid: str
    threepid: ThirdPartyId
    secret_hash: bytes
    send_attempt: int
    next_link: str | None
    tries: int
    created_at: int
    validated_at: int | None


def hash_secret(client_secret: str) -> bytes:
    """What a client's secret is stored as."""
    return sha256(client_secret.encode("utf-8", "surrogatepass")).digest()


def begin(
    txn: Transaction,
    new_sid: str,
    threepid: ThirdPartyId,
    secret_hash: bytes,
    *,
    next_link: str | None,
    created_after: int,
    now_ms: int,
) -> Validation:
    """The validation of an address for one client; a new one if there is none.

    :param created_after: an older one has expired, and begins anew.
    """
    txn.execute(
        "DELETE FROM validations WHERE medium = ? AND address = ? AND secret_hash = ? AND created_at <= ?",
        (*threepid, secret_hash, created_after),
    )
    txn.execute(
        f"INSERT INTO validations ({_COLUMNS}) VALUES (?, ?, ?, ?, 0, ?, 0, ?, NULL)"
        " ON CONFLICT (medium, address, secret_hash) DO UPDATE SET next_link = excluded.next_link",
        (new_sid, *threepid, secret_hash, next_link, now_ms),
    )
    [row] = txn.all(
        f"SELECT {_COLUMNS} FROM validations WHERE medium = ? AND address = ? AND secret_hash = ?",
        (*threepid, secret_hash),
    )
    return _validation(row)


def claim_attempt(txn: Transaction, sid: str, attempt: int) -> bool:
    """A message is to be sent for this attempt; False if one was, for this or a later one."""
    changed = txn.execute(
        "UPDATE validations SET send_attempt = ? WHERE sid = ? AND send_attempt < ?", (attempt, sid, attempt)
    )
    return changed.rowcount == 1


def give_back_attempt(txn: Transaction, sid: str, attempt: int, before: int) -> None:
    """The message could not be sent: the same attempt may be made again."""
    txn.execute("UPDATE validations SET send_attempt = ? WHERE sid = ? AND send_attempt = ?", (before, sid, attempt))


def find(txn: Transaction, sid: str, secret_hash: bytes) -> Validation | None:
    """A validation, for who knows both its name and its secret."""
    row = txn.one(f"SELECT {_COLUMNS} FROM validations WHERE sid = ? AND secret_hash = ?", (sid, secret_hash))
    return _validation(row) if row is not None else None


def count_wrong_token(txn: Transaction, sid: str) -> None:
    """Somebody has submitted a wrong token."""
    txn.execute("UPDATE validations SET tries = tries + 1 WHERE sid = ?", (sid,))


def prove(txn: Transaction, sid: str, now_ms: int) -> None:
    """The owner has shown that they have the address; the first time counts."""
    txn.execute("UPDATE validations SET validated_at = ? WHERE sid = ? AND validated_at IS NULL", (now_ms, sid))


def delete_old(txn: Transaction, created_before: int) -> int:
    """Forget validations that have expired; how many."""
    return txn.execute("DELETE FROM validations WHERE created_at <= ?", (created_before,)).rowcount


def _validation(row: Row) -> Validation:
    sid, medium, address, secret_hash, *rest = row
    return Validation(sid, ThirdPartyId(medium, address), bytes(secret_hash), *rest)
