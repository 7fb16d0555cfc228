"""Registrations and logins under way, so that they survive a restart.

A session is known by the hash of its ID, or by that of its ticket. Every step names the revision it has seen, and
happens only if that is still the one stored: of two submissions at the same time, one wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from msgspec import Struct

from synapse_like.storage.engines.engine import Row
from synapse_like.storage.transactions import Transaction


class LoginSession(Struct, frozen=True):
    """What a registration or login has proven so far.

    :ivar purpose: ``login`` or ``register``.
    :ivar user_id: whom it is for; None until a stage has said so.
    :ivar completed: the stage types done, in order.
    :ivar facts: what each of them found out, by its type.
    :ivar stage: the type of the stage that is under way, None between two stages.
    :ivar state: what that one must remember.
    :ivar ticket_hash: the hash of the secret that takes part in it from elsewhere.
    """

    session_hash: bytes
    purpose: str
    user_id: str | None
    completed: tuple[str, ...]
    facts: Mapping[str, Mapping[str, Any]]
    stage: str | None
    state: Mapping[str, Any]
    ticket_hash: bytes | None
    revision: int


_FIELDS = "session_hash, purpose, user_id, completed, facts, stage, state, ticket_hash, revision"


def create(txn: Transaction, session: LoginSession, *, expires_at: int) -> None:
    """Begin a session; expires_at in ms since the epoch."""
    txn.execute(
        f"INSERT INTO login_sessions ({_FIELDS}, tries, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)",
        (session.session_hash, session.purpose, *_values(session), session.revision, expires_at),
    )


def find(txn: Transaction, session_hash: bytes, *, purpose: str, now_ms: int) -> LoginSession | None:
    """A session that has not expired, or None."""
    return _session(
        txn.one(
            f"SELECT {_FIELDS} FROM login_sessions WHERE session_hash = ? AND purpose = ? AND expires_at > ?",
            (session_hash, purpose, now_ms),
        )
    )


def find_by_ticket(txn: Transaction, ticket_hash: bytes, *, now_ms: int) -> LoginSession | None:
    """The session that a ticket belongs to, if it has not expired and the ticket was not used."""
    return _session(
        txn.one(f"SELECT {_FIELDS} FROM login_sessions WHERE ticket_hash = ? AND expires_at > ?", (ticket_hash, now_ms))
    )


def advance(txn: Transaction, seen: LoginSession, now: LoginSession) -> bool:
    """Record a step, after which the session may have another hash; False if another step came first."""
    changed = txn.execute(
        "UPDATE login_sessions SET session_hash = ?, user_id = ?, completed = ?, facts = ?, stage = ?, state = ?,"
        " ticket_hash = ?, revision = revision + 1 WHERE session_hash = ? AND revision = ?",
        (now.session_hash, *_values(now), seen.session_hash, seen.revision),
    )
    return changed.rowcount == 1


def take_try(txn: Transaction, session_hash: bytes, *, most: int) -> bool:
    """Count a try at proving something; False, and the session is over, if there were too many."""
    taken = txn.execute(
        "UPDATE login_sessions SET tries = tries + 1 WHERE session_hash = ? AND tries < ?", (session_hash, most)
    )
    if taken.rowcount == 1:
        return True
    txn.execute("DELETE FROM login_sessions WHERE session_hash = ?", (session_hash,))
    return False


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


def _values(session: LoginSession) -> tuple[object, ...]:
    """What a step may change, in the order of the fields."""
    return (
        session.user_id,
        _text(session.completed),
        _text(session.facts),
        session.stage,
        _text(session.state),
        session.ticket_hash,
    )


def _session(row: Row | None) -> LoginSession | None:
    if row is None:
        return None
    session_hash, purpose, user_id, completed, facts, stage, state, ticket_hash, revision = row
    return LoginSession(
        bytes(session_hash),
        purpose,
        user_id,
        tuple(orjson.loads(completed)),
        orjson.loads(facts),
        stage,
        orjson.loads(state),
        None if ticket_hash is None else bytes(ticket_hash),
        revision,
    )


def _text(value: object) -> str:
    return orjson.dumps(value).decode()
