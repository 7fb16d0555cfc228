"""What is kept of one of our users beside what they said in rooms: to be given to them, and to be forgotten.

The tables are named here once, so that no table is in the one and not in the other. What somebody has of others in
their address book is theirs; what others have of them in theirs is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from synapse_like.storage.shared import commit_log
from synapse_like.storage.state import MEMBER, slot_id
from synapse_like.storage.transactions import Transaction


class _Table(Struct, frozen=True):
    """A table with rows about users.

    :ivar told: columns that its user may see; the others are secrets, or of no meaning elsewhere.
    :ivar is_forgotten: whether the rows go when the user does.
    """

    name: str
    user: str
    told: tuple[str, ...]
    is_forgotten: bool = True


_TABLES = (
    _Table("users", "user_id", ("user_id", "is_admin", "created_at", "deactivated_at"), is_forgotten=False),
    _Table("access_tokens", "user_id", ("created_at",)),
    _Table("login_sessions", "user_id", ("purpose", "expires_at")),
    _Table("profile_fields", "user_id", ("field", "value", "visibility")),
    _Table("untold_profiles", "user_id", ()),
    _Table("account_addresses", "user_id", ("medium", "address", "validated_at")),
    _Table("mail_links", "user_id", ("purpose", "address", "expires_at")),
    _Table("identity_bindings", "user_id", ("server", "due_at")),
    # The running server has them unlinked at the identity servers, and then forgets them.
    _Table("linked_addresses", "user_id", ("medium", "address", "id_server", "validated_at"), is_forgotten=False),
    _Table("external_identities", "user_id", ("provider", "subject", "linked_at")),
    _Table("contacts", "user_id", ("contact_id", "body")),
    _Table("contact_keys", "user_id", ("lookup_key", "contact_id")),
    _Table("ignored_users", "user_id", ("ignored",)),
    _Table("invite_policies", "user_id", ("policy",)),
    _Table("presence", "user_id", ("state", "status_msg", "last_active", "is_hidden")),
    _Table("presence_lists", "observer", ("observed", "is_accepted")),
    _Table("presence_lists", "observed", ("observer", "is_accepted")),
    _Table("presence_groups", "owner", ("name", "member")),
    _Table("presence_interest", "user_id", ("server", "until")),
    _Table("address_invites", "sender", ("room_id", "created_at")),
    _Table("room_aliases", "creator", ("alias",), is_forgotten=False),
    _Table("content", "user_id", ("content_id", "mimetype", "filename", "size", "created_at"), is_forgotten=False),
)


def told(txn: Transaction, user_id: str) -> dict[str, list[dict[str, Any]]]:
    """What there is about a user, by table; the two sides of presence lists by the column, too."""
    found = {}
    for table in _TABLES:
        if table.told:
            rows = txn.all(f"SELECT {', '.join(table.told)} FROM {table.name} WHERE {table.user} = ?", (user_id,))
            name = table.name if table.user == "user_id" else f"{table.name} ({table.user})"
            found[name] = [dict(zip(table.told, row, strict=True)) for row in rows]
    return found


def forget(txn: Transaction, user_id: str) -> int:
    """Delete all of it but what keeps the name from being given to others; the number of rows."""
    # What the processes of a server were told of a user, such as a new name, stands there for some minutes.
    commit_log.unsay(txn, f'"{user_id}"')
    return sum(
        txn.execute(f"DELETE FROM {table.name} WHERE {table.user} = ?", (user_id,)).rowcount
        for table in _TABLES
        if table.is_forgotten
    )


def rooms(txn: Transaction, user_id: str) -> list[tuple[int, str, str]]:
    """The rooms in which a user ever was, or was invited to: number, ID and version."""
    slot = slot_id(txn, (MEMBER, user_id))
    rows = txn.all(
        "SELECT r.room_nid, r.room_id, r.version FROM rooms r WHERE r.room_nid IN"
        " (SELECT room_nid FROM membership_changes WHERE slot_id = ? UNION"
        " SELECT room_nid FROM current_state WHERE slot_id = ? UNION"
        " SELECT room_nid FROM outside_memberships WHERE user_id = ?) ORDER BY r.room_nid",
        (slot, slot, user_id),
    )
    return [(row[0], row[1], row[2]) for row in rows]


def memberships(txn: Transaction, user_id: str) -> list[dict[str, Any]]:
    """When a user came and went where."""
    slot = slot_id(txn, (MEMBER, user_id))
    rows = txn.all(
        "SELECT r.room_id, m.membership FROM membership_changes m JOIN rooms r ON r.room_nid = m.room_nid"
        " WHERE m.slot_id = ? ORDER BY m.position",
        (slot,),
    )
    return [{"room_id": row[0], "membership": row[1]} for row in rows]


def files(txn: Transaction, user_id: str) -> Iterator[tuple[str, str]]:
    """The IDs and hashes of what a user has uploaded."""
    yield from txn.all("SELECT content_id, sha256 FROM content WHERE server = '' AND user_id = ?", (user_id,))


def mark_erased(txn: Transaction, user_id: str, *, now_ms: int) -> bool:
    """Note that a user is to be forgotten; False if the account is not closed."""
    return (
        txn.execute(
            "UPDATE users SET erased_at = COALESCE(erased_at, ?) WHERE user_id = ? AND deactivated_at IS NOT NULL",
            (now_ms, user_id),
        ).rowcount
        == 1
    )


def exists(txn: Transaction, user_id: str) -> bool:
    """Was there ever such a user here?"""
    return txn.one("SELECT 1 FROM users WHERE user_id = ?", (user_id,)) is not None


def erased(txn: Transaction) -> list[str]:
    """The users who are to be forgotten."""
    return [row[0] for row in txn.all("SELECT user_id FROM users WHERE erased_at IS NOT NULL ORDER BY user_id")]
