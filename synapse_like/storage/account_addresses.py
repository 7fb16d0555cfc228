"""Addresses, e-mail for now, that were proven to be those of an account's owner; each belongs to one account."""

from __future__ import annotations

from msgspec import Struct

from synapse_like.storage.transactions import Transaction


class AccountAddress(Struct, frozen=True):
    """An address of an account.

    :ivar validated_at: when it was proven, in ms since the epoch.
    """

    medium: str
    address: str
    validated_at: int


def owner(txn: Transaction, medium: str, address: str) -> str | None:
    """The user to whom an address belongs, or None."""
    row = txn.one("SELECT user_id FROM account_addresses WHERE medium = ? AND address = ?", (medium, address))
    return None if row is None else str(row[0])


def add(txn: Transaction, user_id: str, medium: str, address: str, *, now_ms: int) -> bool:
    """Give an address to a user who has just proven it; False if it is another user's."""
    added = txn.execute(
        "INSERT INTO account_addresses (medium, address, user_id, validated_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (medium, address) DO UPDATE SET validated_at = excluded.validated_at"
        " WHERE account_addresses.user_id = excluded.user_id",
        (medium, address, user_id, now_ms),
    )
    return added.rowcount == 1


def of_user(txn: Transaction, user_id: str) -> list[AccountAddress]:
    """The addresses of a user."""
    rows = txn.all(
        "SELECT medium, address, validated_at FROM account_addresses WHERE user_id = ? ORDER BY medium, address",
        (user_id,),
    )
    return [AccountAddress(*row) for row in rows]


def remove(txn: Transaction, user_id: str, medium: str, address: str) -> bool:
    """Take an address from a user; False if it is not theirs."""
    removed = txn.execute(
        "DELETE FROM account_addresses WHERE user_id = ? AND medium = ? AND address = ?", (user_id, medium, address)
    )
    return removed.rowcount == 1
