"""Users of this server and their access tokens."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import placeholders


class Account(Struct, frozen=True):
    """A user of this server.

    :ivar password_hash: None if the user cannot log in by password.
    :ivar is_deactivated: it was closed for good: nobody logs in to it any more.
    """

    user_id: str
    password_hash: str | None
    is_admin: bool
    is_deactivated: bool = False


def create(txn: Transaction, user_id: str, *, password_hash: str | None, is_admin: bool = False, now_ms: int) -> bool:
    """Make an account; False if the name is taken."""
    return (
        txn.execute(
            "INSERT INTO users (user_id, password_hash, is_admin, created_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (user_id) DO NOTHING",
            (user_id, password_hash, int(is_admin), now_ms),
        ).rowcount
        == 1
    )


def find(txn: Transaction, user_id: str) -> Account | None:
    """An account, or None."""
    row = txn.one("SELECT user_id, password_hash, is_admin, deactivated_at FROM users WHERE user_id = ?", (user_id,))
    return Account(row[0], row[1], bool(row[2]), row[3] is not None) if row is not None else None


def set_password(txn: Transaction, user_id: str, password_hash: str) -> bool:
    """Give a user another password; False if there is no such user, or their account is closed."""
    changed = txn.execute(
        "UPDATE users SET password_hash = ? WHERE user_id = ? AND deactivated_at IS NULL", (password_hash, user_id)
    )
    return changed.rowcount == 1


def replace_password(txn: Transaction, user_id: str, password_hash: str) -> bool:
    """The same, which ends all their tokens."""
    delete_tokens(txn, user_id)
    return set_password(txn, user_id, password_hash)


def set_admin(txn: Transaction, user_id: str, *, is_admin: bool) -> bool:
    """Make a user an administrator of the server, or an administrator a user; False as in `set_password`."""
    changed = txn.execute(
        "UPDATE users SET is_admin = ? WHERE user_id = ? AND deactivated_at IS NULL", (int(is_admin), user_id)
    )
    return changed.rowcount == 1


def deactivate(txn: Transaction, user_id: str, *, now_ms: int) -> bool:
    """Close an account for good, with all that leads into it and is its user's alone; False if none is open."""
    changed = txn.execute(
        "UPDATE users SET deactivated_at = ?, password_hash = NULL, is_admin = 0"
        " WHERE user_id = ? AND deactivated_at IS NULL",
        (now_ms, user_id),
    )
    delete_tokens(txn, user_id)
    own = (
        "account_addresses",
        "external_identities",
        "mail_links",
        "identity_bindings",
        "contacts",
        "contact_keys",
        "ignored_users",
    )
    for table in (*own, "invite_policies"):
        txn.execute(f"DELETE FROM {table} WHERE user_id = ?", (user_id,))
    return changed.rowcount == 1


class TokenOwner(Struct, frozen=True):
    """Whose access token it is."""

    token_id: int
    user_id: str
    is_admin: bool


def add_token(txn: Transaction, user_id: str, token_hash: bytes, *, now_ms: int) -> int:
    """Store a new access token by its hash; its number."""
    token_id: int = txn.insert(
        "INSERT INTO access_tokens (token_hash, user_id, created_at) VALUES (?, ?, ?) RETURNING token_id",
        (token_hash, user_id, now_ms),
    )
    return token_id


def token_owner(txn: Transaction, token_hash: bytes) -> TokenOwner | None:
    """The owner of an access token, or None if it is not valid (any more)."""
    row = txn.one(
        "SELECT t.token_id, t.user_id, u.is_admin FROM access_tokens t JOIN users u ON u.user_id = t.user_id"
        " WHERE t.token_hash = ?",
        (token_hash,),
    )
    return TokenOwner(row[0], row[1], bool(row[2])) if row is not None else None


def valid_tokens(txn: Transaction, token_ids: Collection[int]) -> set[int]:
    """Which of some access tokens are still valid."""
    rows = txn.all(
        f"SELECT token_id FROM access_tokens WHERE token_id IN ({placeholders(list(token_ids))})", list(token_ids)
    )
    return {row[0] for row in rows}


def tokens_of(txn: Transaction, user_id: str) -> list[int]:
    """The numbers of a user's access tokens."""
    return [row[0] for row in txn.all("SELECT token_id FROM access_tokens WHERE user_id = ?", (user_id,))]


def delete_token(txn: Transaction, token_id: int) -> None:
    """End one access token."""
    txn.execute("DELETE FROM access_tokens WHERE token_id = ?", (token_id,))


def delete_tokens(txn: Transaction, user_id: str) -> None:
    """End all access tokens of a user."""
    txn.execute("DELETE FROM access_tokens WHERE user_id = ?", (user_id,))
