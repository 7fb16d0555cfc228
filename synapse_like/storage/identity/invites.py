"""Invites to rooms for addresses that are nobody's yet, and what home servers are told when they become somebody's."""

from __future__ import annotations

from msgspec import Struct

from synapse_like.protocol.third_party_ids import ThirdPartyId
from synapse_like.storage.transactions import Transaction


class Invite(Struct, frozen=True):
    """An invite that waits for the owner of an address.

    :ivar public_key: in base64, of a key pair that this invite alone has.
    :ivar private_key: its seed; None once the invite was redeemed.
    """

    token: str
    threepid: ThirdPartyId
    room_id: str
    sender: str
    public_key: str
    private_key: bytes | None


class NoticeStored(Struct, frozen=True):
    """News: a home server is to be told something."""

    server: str


def add(txn: Transaction, invite: Invite, now_ms: int) -> None:
    """Keep an invite."""
    txn.execute(
        "INSERT INTO invites (token, medium, address, room_id, sender, public_key, private_key, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            invite.token,
            *invite.threepid,
            invite.room_id,
            invite.sender,
            invite.public_key,
            invite.private_key,
            now_ms,
        ),
    )


def count_pending(txn: Transaction, threepid: ThirdPartyId) -> int:
    """How many invites wait for the owner of an address."""
    [[count]] = txn.all(
        "SELECT COUNT(*) FROM invites WHERE medium = ? AND address = ? AND redeemed_at IS NULL", threepid
    )
    return int(count)


def redeem(txn: Transaction, threepid: ThirdPartyId, now_ms: int) -> list[Invite]:
    """The invites that waited for the owner of an address, oldest first; they wait no more."""
    rows = txn.all(
        "SELECT token, room_id, sender, public_key, private_key FROM invites"
        " WHERE medium = ? AND address = ? AND redeemed_at IS NULL ORDER BY created_at, token",
        threepid,
    )
    txn.execute(
        "UPDATE invites SET redeemed_at = ?, private_key = NULL"
        " WHERE medium = ? AND address = ? AND redeemed_at IS NULL",
        (now_ms, *threepid),
    )
    return [Invite(row[0], threepid, row[1], row[2], row[3], bytes(row[4])) for row in rows]


def has_key(txn: Transaction, public_key: str) -> bool:
    """Whether a key is that of an invite that we remember."""
    return txn.one("SELECT 1 FROM invites WHERE public_key = ?", (public_key,)) is not None


def delete_old(txn: Transaction, *, created_before: int) -> int:
    """Forget invites, redeemed or not; how many."""
    return txn.execute("DELETE FROM invites WHERE created_at < ?", (created_before,)).rowcount


# What home servers are told.


class Notice(Struct, frozen=True):
    """What a home server is to be told, in JSON."""

    notice_id: int
    notice: str


def add_notice(txn: Transaction, server: str, notice: str, now_ms: int) -> None:
    """Let a home server be told something."""
    txn.execute("INSERT INTO notices (server, notice, created_at) VALUES (?, ?, ?)", (server, notice, now_ms))
    txn.announce(NoticeStored(server))


def next_notice(txn: Transaction, server: str) -> Notice | None:
    """The oldest that a home server has not been told yet."""
    row = txn.one("SELECT notice_id, notice FROM notices WHERE server = ? ORDER BY notice_id LIMIT 1", (server,))
    return Notice(*row) if row is not None else None


def count_notices(txn: Transaction, server: str) -> int:
    """How many things a home server is to be told."""
    [[count]] = txn.all("SELECT COUNT(*) FROM notices WHERE server = ?", (server,))
    return int(count)


def delete_notice(txn: Transaction, notice_id: int) -> None:
    """It was told, or never will be."""
    txn.execute("DELETE FROM notices WHERE notice_id = ?", (notice_id,))


def delete_old_notices(txn: Transaction, *, created_before: int) -> int:
    """Give up telling what could not be told for long; how many."""
    return txn.execute("DELETE FROM notices WHERE created_at < ?", (created_before,)).rowcount


def servers_to_tell(txn: Transaction) -> list[str]:
    """The home servers that are to be told something."""
    return [row[0] for row in txn.all("SELECT DISTINCT server FROM notices ORDER BY 1")]
