"""Positions: where in its stream a piece of news stands.

Each kind of news (events, later presence, typing …) is a stream of rows with positions that only grow. The row of a
stream in `stream_positions` is locked from the first position a transaction takes until its commit, so a position never
becomes visible after a later one has. Processes that share a database take the number of their commit first
(`shared/commit_log.py`), so that none holds one stream while it waits for another.
"""

from __future__ import annotations

from synapse_like.storage.transactions import Transaction

#: The stream in which commands that run beside a server count their changes.
OUTSIDE = "outside"


def take(txn: Transaction, stream: str) -> int:
    """The next position of the stream."""
    last = txn.positions.get(stream)
    if last is None:
        position = _take_first(txn, stream)
    else:
        position = last + 1
        # Only the first position of a transaction is taken in the table; the last one is written at its end.
        if txn.turn is not None:
            txn.turn.reaches(stream, position)
        else:
            txn.before_commit(("position", stream), lambda: _write_last(txn, stream))
    txn.positions[stream] = position
    return position


def _take_first(txn: Transaction, stream: str) -> int:
    if txn.turn is not None and txn.turn.number is None:
        return txn.turn.take_number_and_position(txn, stream)
    position: int = txn.insert(
        "UPDATE stream_positions SET position = position + 1 WHERE stream = ? RETURNING position",
        (stream,),
    )
    return position


def _write_last(txn: Transaction, stream: str) -> None:
    txn.execute_later("UPDATE stream_positions SET position = ? WHERE stream = ?", (txn.positions[stream], stream))


def current(txn: Transaction, stream: str) -> int:
    """The last position handed out and committed, as this transaction sees it."""
    row = txn.one("SELECT position FROM stream_positions WHERE stream = ?", (stream,))
    return row[0] if row is not None else 0
