"""The hashes by which addresses are looked up without being told, and the peppers in them.

A pepper is used for some time, so that nobody can hash all addresses there are once and for all. The next one is there,
with the hashes of all addresses, before it is told to anybody, and the last one is good as long as the one after it is
being used: nobody's question comes too late.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from synapse_like.protocol.third_party_ids import ThirdPartyId
from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import batched, placeholders

#: Peppers that are good at the same time.
MOST_GOOD = 2


class Pepper(Struct, frozen=True):
    """A pepper whose hashes are all there.

    :ivar created_at: in milliseconds since 1970.
    """

    pepper: str
    created_at: int


def good(txn: Transaction) -> list[Pepper]:
    """The peppers that one may ask with, the newest first, which is the one that is told."""
    rows = txn.all(
        "SELECT pepper, created_at FROM peppers WHERE done_at IS NOT NULL ORDER BY created_at DESC, pepper LIMIT ?",
        (MOST_GOOD,),
    )
    return [Pepper(*row) for row in rows]


def begin(txn: Transaction, pepper: str, now_ms: int) -> None:
    """Begin to hash with a new pepper, unless that is being done with another one."""
    if txn.one("SELECT 1 FROM peppers WHERE done_at IS NULL") is None:
        txn.execute(
            "INSERT INTO peppers (pepper, created_at, done_at, filled_medium, filled_address)"
            " VALUES (?, ?, NULL, '', '')",
            (pepper, now_ms),
        )


def fill(txn: Transaction, most: int, now_ms: int) -> bool:
    """Hash some more addresses with the new pepper; False if there is nothing left to do.

    When all are hashed, the new pepper is good, and the hashes of the oldest go.
    """
    row = txn.one("SELECT pepper, filled_medium, filled_address FROM peppers WHERE done_at IS NULL")
    if row is None:
        return False
    pepper, medium, address = row
    rows = txn.all(
        "SELECT DISTINCT medium, address FROM statements WHERE kind = 'association'"
        " AND (medium > ? OR (medium = ? AND address > ?)) ORDER BY medium, address LIMIT ?",
        (medium, medium, address, most),
    )
    found = [ThirdPartyId(*row) for row in rows]
    insert(txn, pepper, found)
    if len(found) == most:
        txn.execute("UPDATE peppers SET filled_medium = ?, filled_address = ? WHERE pepper = ?", (*found[-1], pepper))
        return True
    txn.execute("UPDATE peppers SET done_at = ? WHERE pepper = ?", (now_ms, pepper))
    kept = [item.pepper for item in good(txn)]
    txn.execute(f"DELETE FROM lookup_hashes WHERE pepper NOT IN ({placeholders(kept)})", kept)
    txn.execute(f"DELETE FROM peppers WHERE pepper NOT IN ({placeholders(kept)})", kept)
    return False


def add(txn: Transaction, threepid: ThirdPartyId) -> None:
    """Let an address be found by its hashes."""
    for (pepper,) in txn.all("SELECT pepper FROM peppers"):
        insert(txn, pepper, [threepid])


def find(txn: Transaction, pepper: str, hashes: Sequence[str]) -> dict[str, ThirdPartyId]:
    """The addresses that are known, of those that some hashes stand for."""
    found: dict[str, ThirdPartyId] = {}
    for part in batched(hashes):
        rows = txn.all(
            f"SELECT hash, medium, address FROM lookup_hashes WHERE pepper = ? AND hash IN ({placeholders(part)})",
            (pepper, *part),
        )
        found |= {row[0]: ThirdPartyId(row[1], row[2]) for row in rows}
    return found


def insert(txn: Transaction, pepper: str, threepids: Sequence[ThirdPartyId]) -> None:
    """Let addresses be found by their hashes with one pepper."""
    txn.insert_rows(
        "INSERT INTO lookup_hashes (pepper, hash, medium, address)",
        [(pepper, threepid.hashed(pepper), *threepid) for threepid in threepids],
        "ON CONFLICT (pepper, hash) DO NOTHING",
    )
