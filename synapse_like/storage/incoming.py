"""What other servers have sent: transactions and their answers, and events that wait for what they lack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from synapse_like.storage.database import Transaction
from synapse_like.storage.engines import placeholders

#: How long the answer to a transaction is kept, for its repetitions.
KEPT_MS = 24 * 60 * 60 * 1000
#: For how long an event waits for what it lacks, and how many events of one server may.
WAITING_MS = 7 * 24 * 60 * 60 * 1000
MOST_WAITING = 200


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


@dataclass(frozen=True, slots=True)
class WaitingPdu:
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

    :return: the IDs of those that are too many, and are not stored.
    """
    refused: set[str] = set()
    free: dict[str, int] = {}
    for waiting in pdus:
        if waiting.origin not in free:
            [[count]] = txn.all("SELECT COUNT(*) FROM waiting_pdus WHERE origin = ?", (waiting.origin,))
            free[waiting.origin] = MOST_WAITING - count
        if free[waiting.origin] <= 0:
            refused.add(waiting.event_id)
            continue
        free[waiting.origin] -= txn.execute(
            "INSERT INTO waiting_pdus (origin, room_id, event_id, pdu, received_at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (event_id) DO NOTHING",
            (waiting.origin, waiting.room_id, waiting.event_id, waiting.pdu, now_ms),
        ).rowcount
    return refused


def settled(txn: Transaction, event_ids: Iterable[str]) -> None:
    """Events wait no longer."""
    ids = list(event_ids)
    txn.execute(f"DELETE FROM waiting_pdus WHERE event_id IN ({placeholders(ids)})", ids)


def all_waiting(txn: Transaction) -> list[WaitingPdu]:
    """All events that wait, in the order in which they came."""
    rows = txn.all("SELECT origin, room_id, event_id, pdu, received_at FROM waiting_pdus ORDER BY waiting_nid")
    return [WaitingPdu(row[0], row[1], row[2], bytes(row[3]), row[4]) for row in rows]
