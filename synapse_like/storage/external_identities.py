"""Accounts at OAuth 2 providers by which people get into accounts here; each leads into one."""

from __future__ import annotations

from msgspec import Struct

from synapse_like.storage.transactions import Transaction


class ExternalIdentity(Struct, frozen=True):
    """Somebody as a provider knows them.

    :ivar provider: what the settings call the provider.
    :ivar subject: what the provider calls the person.
    :ivar linked_at: when it was linked to the account, in ms since the epoch.
    """

    provider: str
    subject: str
    linked_at: int


def owner(txn: Transaction, provider: str, subject: str) -> str | None:
    """The user whom an identity leads to, or None."""
    row = txn.one("SELECT user_id FROM external_identities WHERE provider = ? AND subject = ?", (provider, subject))
    return None if row is None else str(row[0])


def link(txn: Transaction, provider: str, subject: str, user_id: str, *, now_ms: int) -> bool:
    """Have an identity lead to a user; False if it leads to another one."""
    linked = txn.execute(
        "INSERT INTO external_identities (provider, subject, user_id, linked_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (provider, subject) DO UPDATE SET user_id = excluded.user_id"
        " WHERE external_identities.user_id = excluded.user_id",
        (provider, subject, user_id, now_ms),
    )
    return linked.rowcount == 1


def of_user(txn: Transaction, user_id: str) -> list[ExternalIdentity]:
    """The identities that lead to a user."""
    rows = txn.all(
        "SELECT provider, subject, linked_at FROM external_identities WHERE user_id = ? ORDER BY provider, subject",
        (user_id,),
    )
    return [ExternalIdentity(*row) for row in rows]


def unlink(txn: Transaction, user_id: str, provider: str, subject: str) -> bool:
    """Have an identity lead to a user no more; False if it does not."""
    ended = txn.execute(
        "DELETE FROM external_identities WHERE user_id = ? AND provider = ? AND subject = ?",
        (user_id, provider, subject),
    )
    return ended.rowcount == 1
