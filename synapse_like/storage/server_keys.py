"""The keys of other servers, as they told them, or others told us of them (FED-9)."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from synapse_like.storage.transactions import Transaction

#: Keys of one server that are kept; of more, those that stopped first are forgotten.
MOST_KEYS = 200


class StoredKey(Struct, frozen=True):
    """A key of another server.

    :ivar verify_key: its 32 bytes.
    :ivar valid_until: when it stops, or has stopped, to vouch for events, in milliseconds since 1970.
    :ivar is_old: whether its server signs with it no more.
    :ivar relayed_by: who told us, if it was not the server itself.
    :ivar fetched_at: when we were told.
    """

    key_id: str
    verify_key: bytes
    valid_until: int
    is_old: bool
    relayed_by: str | None
    fetched_at: int


def of_server(txn: Transaction, server_name: str) -> list[StoredKey]:
    """All keys of a server that are known."""
    rows = txn.all(
        "SELECT key_id, verify_key, valid_until, is_old, relayed_by, fetched_at FROM server_keys WHERE server_name = ?",
        (server_name,),
    )
    return [StoredKey(row[0], bytes(row[1]), row[2], bool(row[3]), row[4] or None, row[5]) for row in rows]


def replace(
    txn: Transaction, server_name: str, keys: Iterable[StoredKey], answer: str, *, valid_until: int, now_ms: int
) -> list[StoredKey]:
    """Store what a server told about its own keys, and give all of them that are known now.

    What others told us about them is forgotten. A key that the server does not mention any more has stopped now.

    :param answer: what it told, signed, in JSON.
    """
    txn.execute("DELETE FROM server_keys WHERE server_name = ? AND relayed_by <> ''", (server_name,))
    txn.execute(
        "UPDATE server_keys SET is_old = 1, valid_until = CASE WHEN valid_until > ? THEN ? ELSE valid_until END"
        " WHERE server_name = ? AND is_old = 0",
        (now_ms, now_ms, server_name),
    )
    for key in keys:
        _put(txn, server_name, key)
    txn.execute(
        "INSERT INTO server_key_answers (server_name, answer, valid_until, fetched_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (server_name) DO UPDATE SET answer = excluded.answer, valid_until = excluded.valid_until,"
        " fetched_at = excluded.fetched_at",
        (server_name, answer, valid_until, now_ms),
    )
    _forget_most(txn, server_name)
    return of_server(txn, server_name)


def add_relayed(txn: Transaction, server_name: str, keys: Iterable[StoredKey]) -> list[StoredKey]:
    """Store what another server told us of a server's keys, and give all of them that are known now.

    Where the server itself has spoken, that stays.
    """
    told_by_itself = {key.key_id for key in of_server(txn, server_name) if key.relayed_by is None}
    for key in keys:
        if key.key_id not in told_by_itself:
            _put(txn, server_name, key)
    _forget_most(txn, server_name)
    return of_server(txn, server_name)


def answer_of(txn: Transaction, server_name: str) -> tuple[str, int] | None:
    """The newest answer of a server about its own keys, and how long it is valid."""
    row = txn.one("SELECT answer, valid_until FROM server_key_answers WHERE server_name = ?", (server_name,))
    return None if row is None else (row[0], row[1])


def _put(txn: Transaction, server_name: str, key: StoredKey) -> None:
    txn.execute(
        "INSERT INTO server_keys (server_name, key_id, verify_key, valid_until, is_old, relayed_by, fetched_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (server_name, key_id) DO UPDATE SET"
        " verify_key = excluded.verify_key, valid_until = excluded.valid_until, is_old = excluded.is_old,"
        " relayed_by = excluded.relayed_by, fetched_at = excluded.fetched_at",
        (
            server_name,
            key.key_id,
            key.verify_key,
            key.valid_until,
            int(key.is_old),
            key.relayed_by or "",
            key.fetched_at,
        ),
    )


def _forget_most(txn: Transaction, server_name: str) -> None:
    txn.execute(
        "DELETE FROM server_keys WHERE server_name = ? AND key_id NOT IN"
        " (SELECT key_id FROM server_keys WHERE server_name = ? ORDER BY valid_until DESC, key_id LIMIT ?)",
        (server_name, server_name, MOST_KEYS),
    )
