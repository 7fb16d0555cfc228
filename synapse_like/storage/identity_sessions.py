"""Sessions of identity servers by which people have come in, and what those servers are still to be told."""

from __future__ import annotations

from msgspec import Struct

from synapse_like.storage.transactions import Transaction


class Binding(Struct, frozen=True):
    """An address that an identity server is to know as that of a user.

    :ivar server: its URL.
    :ivar failures: how often it could not be told.
    """

    binding_id: int
    server: str
    sid: str
    client_secret: str
    user_id: str
    failures: int


def use(txn: Transaction, server: str, sid: str, *, now_ms: int) -> bool:
    """Use a session; False if it was used before."""
    used = txn.execute(
        "INSERT INTO identity_sessions (server, sid, used_at) VALUES (?, ?, ?) ON CONFLICT (server, sid) DO NOTHING",
        (server, sid, now_ms),
    )
    return used.rowcount == 1


def forget_used(txn: Transaction, *, before: int) -> int:
    """Forget the sessions that were used before some time; their number."""
    return txn.execute("DELETE FROM identity_sessions WHERE used_at < ?", (before,)).rowcount


def add_binding(txn: Transaction, server: str, sid: str, client_secret: str, user_id: str, *, now_ms: int) -> None:
    """Have a server told of a new user, as soon as may be."""
    txn.execute(
        "INSERT INTO identity_bindings (server, sid, client_secret, user_id, failures, due_at)"
        " VALUES (?, ?, ?, ?, 0, ?)",
        (server, sid, client_secret, user_id, now_ms),
    )


def due_bindings(txn: Transaction, *, now_ms: int, most: int) -> list[Binding]:
    """What servers are to be told now, oldest first."""
    rows = txn.all(
        "SELECT binding_id, server, sid, client_secret, user_id, failures FROM identity_bindings"
        " WHERE due_at <= ? ORDER BY due_at, binding_id LIMIT ?",
        (now_ms, most),
    )
    return [Binding(*row) for row in rows]


def binding_done(txn: Transaction, binding_id: int) -> None:
    """It was told, or there is no use in trying again."""
    txn.execute("DELETE FROM identity_bindings WHERE binding_id = ?", (binding_id,))


def binding_failed(txn: Transaction, binding_id: int, *, due_at: int) -> None:
    """Try it again then."""
    txn.execute(
        "UPDATE identity_bindings SET failures = failures + 1, due_at = ? WHERE binding_id = ?", (due_at, binding_id)
    )
