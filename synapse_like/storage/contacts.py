"""The address books of users, and what identity servers have said of addresses lately (BOOK-1).

A contact is found by its *keys*: its addresses, user IDs and name, each with its kind before it. The keys that are
addresses are those by which `address_owners` remembers what was looked up, for all users together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import orjson
from msgspec import Struct

from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import batched, placeholders

Body = dict[str, Any]


class StoredContact(Struct, frozen=True):
    """A contact.

    :ivar body: what its user sees of it, but for the marks.
    :ivar keys: what it is found by.
    """

    contact_id: str
    body: Body
    keys: frozenset[str] = frozenset()


def size(txn: Transaction, user_id: str) -> tuple[int, int]:
    """How many contacts a user has, and how long they are together."""
    [[number, length]] = txn.all("SELECT COUNT(*), SUM(LENGTH(body)) FROM contacts WHERE user_id = ?", (user_id,))
    return int(number), int(length or 0)


def all_of(txn: Transaction, user_id: str) -> list[StoredContact]:
    """The contacts of a user, without their keys."""
    rows = txn.all("SELECT contact_id, body FROM contacts WHERE user_id = ? ORDER BY contact_id", (user_id,))
    return [StoredContact(row[0], orjson.loads(row[1])) for row in rows]


def find(txn: Transaction, user_id: str, contact_ids: Collection[str]) -> list[StoredContact]:
    """Those of some contacts that a user has, without their keys."""
    found = []
    for part in batched(contact_ids):
        rows = txn.all(
            "SELECT contact_id, body FROM contacts"
            f" WHERE user_id = ? AND contact_id IN ({placeholders(part)}) ORDER BY contact_id",
            (user_id, *part),
        )
        found += [StoredContact(row[0], orjson.loads(row[1])) for row in rows]
    return found


def with_keys(txn: Transaction, user_id: str, keys: Collection[str]) -> list[StoredContact]:
    """The contacts of a user that have any of some keys, without their keys."""
    ids: set[str] = set()
    for part in batched(keys):
        rows = txn.all(
            f"SELECT contact_id FROM contact_keys WHERE user_id = ? AND lookup_key IN ({placeholders(part)})",
            (user_id, *part),
        )
        ids.update(row[0] for row in rows)
    return find(txn, user_id, sorted(ids))


def put(txn: Transaction, user_id: str, contacts: Iterable[StoredContact]) -> None:
    """Add contacts, or replace those of the same IDs."""
    contacts = list(contacts)
    delete(txn, user_id, [contact.contact_id for contact in contacts])
    rows = [(user_id, contact.contact_id, orjson.dumps(contact.body).decode()) for contact in contacts]
    txn.insert_rows("INSERT INTO contacts (user_id, contact_id, body)", rows)
    keys = [(user_id, key, contact.contact_id) for contact in contacts for key in sorted(contact.keys)]
    txn.insert_rows("INSERT INTO contact_keys (user_id, lookup_key, contact_id)", keys)


def delete(txn: Transaction, user_id: str, contact_ids: Collection[str]) -> int:
    """Take contacts out; how many there were."""
    number = 0
    for part in batched(contact_ids):
        chosen = f"user_id = ? AND contact_id IN ({placeholders(part)})"
        number += txn.execute(f"DELETE FROM contacts WHERE {chosen}", (user_id, *part)).rowcount
        txn.execute(f"DELETE FROM contact_keys WHERE {chosen}", (user_id, *part))
    return number


def delete_all(txn: Transaction, user_id: str) -> int:
    """Take all contacts of a user out; how many there were."""
    txn.execute("DELETE FROM contact_keys WHERE user_id = ?", (user_id,))
    return txn.execute("DELETE FROM contacts WHERE user_id = ?", (user_id,)).rowcount


def has_user(txn: Transaction, user_id: str, other: str) -> bool:
    """Whether another is among the contacts of a user: by a user ID, or by an address known to be the other's."""
    row = txn.one(
        "SELECT 1 FROM contact_keys k LEFT JOIN address_owners o ON o.lookup_key = k.lookup_key"
        " WHERE k.user_id = ? AND (k.lookup_key = ? OR o.owner = ?) LIMIT 1",
        (user_id, f"user:{other}", other),
    )
    return row is not None


# Whose addresses are.


def owners(txn: Transaction, keys: Collection[str]) -> dict[str, tuple[str | None, int]]:
    """What was said of some addresses, and when; those that were not asked about are left out."""
    found: dict[str, tuple[str | None, int]] = {}
    for part in batched(keys):
        rows = txn.all(
            f"SELECT lookup_key, owner, asked_at FROM address_owners WHERE lookup_key IN ({placeholders(part)})", part
        )
        found.update((row[0], (row[1], row[2])) for row in rows)
    return found


def set_owners(txn: Transaction, said: Mapping[str, str | None], now_ms: int) -> None:
    """Remember what was said of addresses."""
    rows = [(key, owner, now_ms) for key, owner in sorted(said.items())]
    txn.insert_rows(
        "INSERT INTO address_owners (lookup_key, owner, asked_at)",
        rows,
        "ON CONFLICT (lookup_key) DO UPDATE SET owner = excluded.owner, asked_at = excluded.asked_at",
    )


def forget_owners(txn: Transaction, before_ms: int) -> int:
    """Forget what was said before a time; how many."""
    return txn.execute("DELETE FROM address_owners WHERE asked_at < ?", (before_ms,)).rowcount
