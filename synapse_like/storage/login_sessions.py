"""Registrations and logins under way, so that they survive a restart.

A session is known by the hash of its ID. Every step names the revision it has seen, and happens only if that is still
the one stored: of two submissions at the same time, one wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from synapse_like.storage.database import Transaction


@dataclass(frozen=True, slots=True)
class LoginSession:
    """What a registration or login has proven so far.

    :ivar purpose: ``login`` or ``register``.
    :ivar completed: the stage types done, in order.
    :ivar facts: what the stages found out, e.g. the user.
    """

    session_hash: bytes
    purpose: str
    completed: tuple[str, ...]
    facts: dict[str, Any]
    revision: int


def create(
    txn: Transaction,
    session_hash: bytes,
    *,
    purpose: str,
    completed: tuple[str, ...],
    facts: dict[str, Any],
    expires_at: int,
) -> None:
    """Begin a session; expires_at in ms since the epoch."""
    txn.execute(
        "INSERT INTO login_sessions (session_hash, purpose, completed, facts, revision, expires_at)"
        " VALUES (?, ?, ?, ?, 1, ?)",
        (session_hash, purpose, _text(completed), _text(facts), expires_at),
    )


def find(txn: Transaction, session_hash: bytes, *, purpose: str, now_ms: int) -> LoginSession | None:
    """A session that has not expired, or None."""
    row = txn.one(
        "SELECT completed, facts, revision FROM login_sessions"
        " WHERE session_hash = ? AND purpose = ? AND expires_at > ?",
        (session_hash, purpose, now_ms),
    )
    if row is None:
        return None
    return LoginSession(session_hash, purpose, tuple(orjson.loads(row[0])), orjson.loads(row[1]), row[2])


def advance(txn: Transaction, seen: LoginSession, *, completed: tuple[str, ...], facts: dict[str, Any]) -> bool:
    """Record a step; False if another step came first."""
    changed = txn.execute(
        "UPDATE login_sessions SET completed = ?, facts = ?, revision = revision + 1"
        " WHERE session_hash = ? AND revision = ?",
        (_text(completed), _text(facts), seen.session_hash, seen.revision),
    )
    return changed.rowcount == 1


def finish(txn: Transaction, seen: LoginSession) -> bool:
    """End a session; False if another step came first."""
    ended = txn.execute(
        "DELETE FROM login_sessions WHERE session_hash = ? AND revision = ?",
        (seen.session_hash, seen.revision),
    )
    return ended.rowcount == 1


def delete_expired(txn: Transaction, *, now_ms: int) -> int:
    """Forget what was never finished; the number of sessions."""
    return txn.execute("DELETE FROM login_sessions WHERE expires_at <= ?", (now_ms,)).rowcount


def _text(value: object) -> str:
    return orjson.dumps(value).decode()
