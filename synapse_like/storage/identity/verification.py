"""What the operator's `identity verify` reads of the tables that nobody else reads in this way."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from synapse_like.protocol.third_party_ids import ThirdPartyId
from synapse_like.storage.identity.statements import STREAM
from synapse_like.storage.transactions import Transaction

#: For a stream of the database: where its highest position stands.
HIGHEST = {STREAM: "SELECT MAX(position) FROM statements"}


class StatementKey(NamedTuple):
    """Which row of its table a statement is; in the order of their table."""

    kind: str = ""
    medium: str = ""
    address: str = ""
    origin: str = ""


class StatementRow(Struct, frozen=True):
    """A statement as it stands in its table, whatever that is."""

    key: StatementKey
    mxid: str | None
    ts: int
    position: int | None
    said: str


def statements_after(txn: Transaction, key: StatementKey, limit: int) -> list[StatementRow]:
    """The first statements behind one."""
    rows = txn.all(
        "SELECT kind, medium, address, origin, mxid, ts, position, statement FROM statements"
        " WHERE (kind, medium, address, origin) > (?, ?, ?, ?) ORDER BY kind, medium, address, origin LIMIT ?",
        (*key, limit),
    )
    return [StatementRow(StatementKey(*row[:4]), *row[4:]) for row in rows]


def peppers(txn: Transaction) -> list[tuple[str, bool, ThirdPartyId]]:
    """The peppers, whether the hashes of each are complete, and if not, up to which address they are."""
    rows = txn.all("SELECT pepper, done_at, filled_medium, filled_address FROM peppers ORDER BY created_at, pepper")
    return [(row[0], row[1] is not None, ThirdPartyId(row[2], row[3])) for row in rows]


def addresses_after(txn: Transaction, after: ThirdPartyId, limit: int) -> list[ThirdPartyId]:
    """The first addresses behind one of which it was ever said whose they are."""
    rows = txn.all(
        "SELECT DISTINCT medium, address FROM statements WHERE kind = 'association'"
        " AND (medium, address) > (?, ?) ORDER BY medium, address LIMIT ?",
        (*after, limit),
    )
    return [ThirdPartyId(*row) for row in rows]


def hashes_after(txn: Transaction, pepper: str, after: str, limit: int) -> list[tuple[str, ThirdPartyId, bool]]:
    """The first hashes with a pepper behind one, of which address they are, and whether that one is known."""
    rows = txn.all(
        "SELECT h.hash, h.medium, h.address, EXISTS (SELECT 1 FROM statements s WHERE s.kind = 'association'"
        " AND s.medium = h.medium AND s.address = h.address) FROM lookup_hashes h"
        " WHERE h.pepper = ? AND h.hash > ? ORDER BY h.hash LIMIT ?",
        (pepper, after, limit),
    )
    return [(row[0], ThirdPartyId(row[1], row[2]), bool(row[3])) for row in rows]


def count_lost_hashes(txn: Transaction) -> int:
    """How many hashes there are of peppers that are not there."""
    [[count]] = txn.all("SELECT COUNT(*) FROM lookup_hashes WHERE pepper NOT IN (SELECT pepper FROM peppers)")
    return int(count)


def begin_hashes_anew(txn: Transaction) -> None:
    """Take all hashes out, so that all are made again."""
    txn.execute("DELETE FROM lookup_hashes")


class InviteRow(Struct, frozen=True):
    """An invite as it stands in its table."""

    token: str
    threepid: ThirdPartyId
    public_key: str
    private_key: bytes | None
    is_redeemed: bool


def invites_after(txn: Transaction, token: str, limit: int) -> list[InviteRow]:
    """The first invites behind one."""
    rows = txn.all(
        "SELECT token, medium, address, public_key, private_key, redeemed_at FROM invites"
        " WHERE token > ? ORDER BY token LIMIT ?",
        (token, limit),
    )
    return [
        InviteRow(
            row[0], ThirdPartyId(row[1], row[2]), row[3], bytes(row[4]) if row[4] is not None else None, bool(row[5])
        )
        for row in rows
    ]


def notices(txn: Transaction) -> list[tuple[int, str, str]]:
    """What home servers are to be told: number, server, JSON."""
    return [(row[0], row[1], row[2]) for row in txn.all("SELECT notice_id, server, notice FROM notices ORDER BY 1")]
