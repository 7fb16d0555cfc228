"""What users do not want: whom they ignore, whose invites they take, and what they are not told of (SEC-9)."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from synapse_like.storage.news import for_others
from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import batched, placeholders

#: What holds for who has not said anything.
EVERYONE = "everyone"
#: Whom nearly all ignore: one for all of them.
NOBODY: frozenset[str] = frozenset()


@for_others
class IgnoredChanged(Struct, frozen=True):
    """News: a user of this server ignores others than before."""

    user_id: str
    ignored: frozenset[str]


def ignored_by(txn: Transaction, user_id: str) -> frozenset[str]:
    """Whom a user ignores."""
    rows = txn.all("SELECT ignored FROM ignored_users WHERE user_id = ?", (user_id,))
    return frozenset([row[0] for row in rows]) if rows else NOBODY


def ignores(txn: Transaction, user_id: str, other: str) -> bool:
    """Whether a user ignores another."""
    return txn.one("SELECT 1 FROM ignored_users WHERE user_id = ? AND ignored = ?", (user_id, other)) is not None


def ignore(txn: Transaction, user_id: str, ignored: Collection[str]) -> None:
    """Have a user ignore these, and nobody else."""
    txn.execute("DELETE FROM ignored_users WHERE user_id = ?", (user_id,))
    txn.insert_rows("INSERT INTO ignored_users (user_id, ignored)", [(user_id, other) for other in sorted(ignored)])
    txn.announce(IgnoredChanged(user_id, frozenset(ignored)))


def policy_of(txn: Transaction, user_id: str) -> str:
    """Whose invites a user takes."""
    row = txn.one("SELECT policy FROM invite_policies WHERE user_id = ?", (user_id,))
    return str(row[0]) if row is not None else EVERYONE


def set_policy(txn: Transaction, user_id: str, policy: str) -> None:
    """Say whose invites a user takes."""
    txn.execute(
        "INSERT INTO invite_policies (user_id, policy) VALUES (?, ?)"
        " ON CONFLICT (user_id) DO UPDATE SET policy = excluded.policy",
        (user_id, policy),
    )


def hide(txn: Transaction, event_nid: int) -> None:
    """Do not tell a user of a change of their membership."""
    txn.execute("INSERT INTO hidden_memberships (event_nid) VALUES (?) ON CONFLICT DO NOTHING", (event_nid,))


def hidden_among(txn: Transaction, event_nids: Collection[int]) -> set[int]:
    """Those of some changes of membership that the user is not told of."""
    found: set[int] = set()
    for part in batched(event_nids):
        rows = txn.all(f"SELECT event_nid FROM hidden_memberships WHERE event_nid IN ({placeholders(part)})", part)
        found.update(row[0] for row in rows)
    return found


def delete_room(txn: Transaction, room_nid: int) -> None:
    """Forget what is hidden of a room; before its events go."""
    txn.execute(
        "DELETE FROM hidden_memberships WHERE event_nid IN (SELECT event_nid FROM events WHERE room_nid = ?)",
        (room_nid,),
    )
