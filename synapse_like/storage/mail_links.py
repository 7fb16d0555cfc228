"""Links sent by mail, outside of a login; stored by their hash, and each good once."""

from __future__ import annotations

from msgspec import Struct

from synapse_like.storage.engines.engine import Row
from synapse_like.storage.transactions import Transaction


class MailLink(Struct, frozen=True):
    """What a link is good for.

    :ivar purpose: what may be done with it.
    :ivar address: where it was sent.
    """

    purpose: str
    user_id: str
    address: str


def create(txn: Transaction, link_hash: bytes, link: MailLink, *, expires_at: int) -> None:
    """Keep a link; expires_at in ms since the epoch."""
    txn.execute(
        "INSERT INTO mail_links (link_hash, purpose, user_id, address, expires_at) VALUES (?, ?, ?, ?, ?)",
        (link_hash, link.purpose, link.user_id, link.address, expires_at),
    )


def find(txn: Transaction, link_hash: bytes, purpose: str, *, now_ms: int) -> MailLink | None:
    """What a link is good for, if it still is."""
    return _link(
        txn.one(
            "SELECT purpose, user_id, address FROM mail_links WHERE link_hash = ? AND purpose = ? AND expires_at > ?",
            (link_hash, purpose, now_ms),
        )
    )


def spend(txn: Transaction, link_hash: bytes, purpose: str, *, now_ms: int) -> MailLink | None:
    """The same, for the last time."""
    return _link(
        txn.execute(
            "DELETE FROM mail_links WHERE link_hash = ? AND purpose = ? AND expires_at > ?"
            " RETURNING purpose, user_id, address",
            (link_hash, purpose, now_ms),
        ).fetchone()
    )


def delete_of_user(txn: Transaction, user_id: str, purpose: str) -> None:
    """Void all links of a user for one purpose."""
    txn.execute("DELETE FROM mail_links WHERE user_id = ? AND purpose = ?", (user_id, purpose))


def delete_expired(txn: Transaction, *, now_ms: int) -> int:
    """Forget the links that nobody has used; their number."""
    return txn.execute("DELETE FROM mail_links WHERE expires_at <= ?", (now_ms,)).rowcount


def _link(row: Row | None) -> MailLink | None:
    return None if row is None else MailLink(*row)
