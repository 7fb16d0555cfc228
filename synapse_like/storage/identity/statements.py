"""What identity servers say of addresses: whose they are, and what keys their owners have (ID-1).

Each server's newest word on an address is a row. The newest of all counts. Our own have a position in a stream, by
which our siblings are told: so what waits for a sibling is simply what lies behind the position that it has come to,
and of an address that has changed hands meanwhile only what holds now.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from msgspec import Struct

from synapse_like.protocol.third_party_ids import ThirdPartyId
from synapse_like.storage import positions
from synapse_like.storage.identity import peppers
from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import batched, placeholders

STREAM = "statements"
ASSOCIATION, KEYS = "association", "keys"


class Statement(Struct, frozen=True):
    """What one server says of one address.

    :ivar kind: `ASSOCIATION` or `KEYS`.
    :ivar mxid: whose the address is; None: nobody's any more.
    :ivar ts: when that was said, in milliseconds since 1970.
    :ivar said: the whole of it, as JSON; of another server with its signature.
    """

    kind: str
    threepid: ThirdPartyId
    origin: str
    mxid: str | None
    ts: int
    said: dict[str, Any]


class StatementMade(Struct, frozen=True):
    """News: there is something that our siblings are to be told."""


def begin_run(txn: Transaction, now_ms: int) -> None:
    """Let the positions of this run of the server lie behind those of all earlier ones, also of those that are lost.

    A database that is brought back from a backup knows nothing of the positions that were given out after it was
    copied. Time knows: no run gives out more than one in a millisecond for long.
    """
    txn.execute("UPDATE stream_positions SET position = ? WHERE stream = ? AND position < ?", (now_ms, STREAM, now_ms))


def make(txn: Transaction, statement: Statement) -> None:
    """Say something in our own name."""
    _put(txn, statement, positions.take(txn, STREAM))
    txn.announce(StatementMade())


def learn(txn: Transaction, statement: Statement) -> bool:
    """Keep what another server says; False if it has said something newer already."""
    return _put(txn, statement, None)


def _put(txn: Transaction, statement: Statement, position: int | None) -> bool:
    changed = txn.execute(
        "INSERT INTO statements (kind, medium, address, origin, mxid, ts, position, statement)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (kind, medium, address, origin) DO UPDATE SET"
        " mxid = excluded.mxid, ts = excluded.ts, position = excluded.position, statement = excluded.statement"
        " WHERE excluded.ts > statements.ts",
        (
            statement.kind,
            *statement.threepid,
            statement.origin,
            statement.mxid,
            statement.ts,
            position,
            orjson.dumps(statement.said).decode(),
        ),
    )
    if statement.kind == ASSOCIATION:
        peppers.add(txn, statement.threepid)
    return changed.rowcount == 1


def newest(txn: Transaction, kind: str, threepids: Iterable[ThirdPartyId]) -> dict[ThirdPartyId, Statement]:
    """What holds of some addresses."""
    found: dict[ThirdPartyId, Statement] = {}
    by_medium: dict[str, list[str]] = {}
    for medium, address in threepids:
        by_medium.setdefault(medium, []).append(address)
    for medium, addresses in by_medium.items():
        for part in batched(addresses):
            rows = txn.all(
                "SELECT kind, medium, address, origin, mxid, ts, statement FROM statements"
                f" WHERE kind = ? AND medium = ? AND address IN ({placeholders(part)}) ORDER BY ts, origin",
                (kind, medium, *part),
            )
            # The later ones take the place of the earlier.
            found |= {statement.threepid: statement for statement in map(_statement, rows)}
    return found


def of_user(txn: Transaction, kind: str, mxid: str, most: int) -> list[Statement]:
    """What holds of the addresses of a user, some of them if they are many."""
    rows = txn.all(
        "SELECT DISTINCT medium, address FROM statements WHERE kind = ? AND mxid = ? ORDER BY medium, address LIMIT ?",
        (kind, mxid, most),
    )
    held = newest(txn, kind, [ThirdPartyId(*row) for row in rows])
    return [statement for statement in held.values() if statement.mxid == mxid]


def own_after(txn: Transaction, position: int, most: int) -> list[tuple[int, Statement]]:
    """Our own statements behind a position, with theirs, in their order."""
    rows = txn.all(
        "SELECT position, kind, medium, address, origin, mxid, ts, statement FROM statements"
        " WHERE position > ? ORDER BY position LIMIT ?",
        (position, most),
    )
    return [(row[0], _statement(row[1:])) for row in rows]


def count_own_after(txn: Transaction, position: int) -> int:
    """How many of our own statements lie behind a position."""
    [[count]] = txn.all("SELECT COUNT(*) FROM statements WHERE position > ?", (position,))
    return int(count)


def _statement(row: Sequence[Any]) -> Statement:
    kind, medium, address, origin, mxid, ts, said = row
    return Statement(kind, ThirdPartyId(medium, address), origin, mxid, ts, orjson.loads(said))
