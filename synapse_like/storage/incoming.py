"""What other servers have sent: transactions and their answers, and events that wait for what they lack."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import placeholders

#: How long the answer to a transaction is kept, for its repetitions.
KEPT_MS = 24 * 60 * 60 * 1000
#: For how long an event waits for what it lacks; how many events of one server may for one room, and for all.
WAITING_MS = 7 * 24 * 60 * 60 * 1000
MOST_WAITING_IN_ROOM = 200
MOST_WAITING = 1000


def answer_to(txn: Transaction, origin: str, transaction_id: str) -> bytes | None:
    """What a transaction was answered, if it was."""
    row = txn.one(
        "SELECT answer FROM received_transactions WHERE origin = ? AND transaction_id = ?", (origin, transaction_id)
    )
    return row[0].encode() if row is not None else None


def record(txn: Transaction, origin: str, transaction_id: str, answer: bytes, *, now_ms: int) -> bytes:
    """Remember the answer to a transaction; the one that stands, if there is one already."""
    stands: str = txn.insert(
        "INSERT INTO received_transactions (origin, transaction_id, answer, received_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (origin, transaction_id) DO UPDATE SET answer = received_transactions.answer RETURNING answer",
        (origin, transaction_id, answer.decode(), now_ms),
    )
    return stands.encode()


def newest_transaction(txn: Transaction, origin: str) -> str | None:
    """The last transaction of a server that was answered."""
    row = txn.one(
        "SELECT transaction_id FROM received_transactions WHERE origin = ? ORDER BY received_at DESC LIMIT 1",
        (origin,),
    )
    return row[0] if row is not None else None


def delete_old(txn: Transaction, *, now_ms: int) -> int:
    """Forget answers that nobody will ask for again, and events that have waited in vain; the number of the answers."""
    txn.execute("DELETE FROM waiting_pdus WHERE received_at < ?", (now_ms - WAITING_MS,))
    return txn.execute("DELETE FROM received_transactions WHERE received_at < ?", (now_ms - KEPT_MS,)).rowcount


class WaitingPdu(Struct, frozen=True):
    """An event that was taken over, but is not in its room yet.

    :ivar pdu: as it came, in JSON.
    :ivar received_at: ms since the epoch; 0 if it is only about to be stored.
    """

    origin: str
    room_id: str
    event_id: str
    pdu: bytes
    received_at: int = 0


def keep_waiting(txn: Transaction, pdus: Iterable[WaitingPdu], *, now_ms: int) -> set[str]:
    """Store events whose sender is not kept waiting any longer.

    If there are too many, the oldest are forgotten. Nothing is lost by that: the newest leads to them, and whatever is
    missing before it is fetched.

    :return: the IDs of those that do not wait any more, or never did.
    """
    new = list(pdus)
    txn.insert_rows(
        "INSERT INTO waiting_pdus (origin, room_id, event_id, pdu, received_at)",
        [(waiting.origin, waiting.room_id, waiting.event_id, waiting.pdu, now_ms) for waiting in new],
        "ON CONFLICT (event_id) DO NOTHING",
    )
    forgotten: set[str] = set()
    for origin, room_id in dict.fromkeys((waiting.origin, waiting.room_id) for waiting in new):
        forgotten |= _forget_oldest(txn, "origin = ? AND room_id = ?", (origin, room_id), MOST_WAITING_IN_ROOM)
    for origin in dict.fromkeys(waiting.origin for waiting in new):
        forgotten |= _forget_oldest(txn, "origin = ?", (origin,), MOST_WAITING)
    return forgotten


def _forget_oldest(txn: Transaction, which: str, values: tuple[str, ...], most: int) -> set[str]:
    """Of some events that wait, keep the newest; the IDs of the others."""
    rows = txn.all(
        f"DELETE FROM waiting_pdus WHERE {which} AND waiting_nid <="
        f" (SELECT waiting_nid FROM waiting_pdus WHERE {which} ORDER BY waiting_nid DESC LIMIT 1 OFFSET ?)"
        " RETURNING event_id",
        (*values, *values, most),
    )
    return {row[0] for row in rows}


def settled(txn: Transaction, event_ids: Iterable[str]) -> None:
    """Events wait no longer."""
    ids = list(event_ids)
    txn.execute(f"DELETE FROM waiting_pdus WHERE event_id IN ({placeholders(ids)})", ids)


def all_waiting(txn: Transaction) -> list[WaitingPdu]:
    """All events that wait, in the order in which they came."""
    rows = txn.all("SELECT origin, room_id, event_id, pdu, received_at FROM waiting_pdus ORDER BY waiting_nid")
    return [WaitingPdu(row[0], row[1], row[2], bytes(row[3]), row[4]) for row in rows]
