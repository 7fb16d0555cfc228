"""Addresses that users have linked to themselves by way of identity servers, and invites to addresses (ID-1)."""

from __future__ import annotations

import orjson
from msgspec import Struct

from synapse_like.protocol.third_party_ids import ThirdPartyId
from synapse_like.storage.transactions import Transaction


class LinkedAddress(Struct, frozen=True):
    """An address that an identity server knows to be a user's.

    :ivar id_server: its URL; `id_name` the name by which it signs.
    :ivar validated_at: when the user proved it there, in ms since the epoch.
    """

    threepid: ThirdPartyId
    id_server: str
    id_name: str
    validated_at: int


def link(txn: Transaction, user_id: str, linked: LinkedAddress) -> None:
    """A user has linked an address."""
    txn.execute(
        "INSERT INTO linked_addresses (medium, address, user_id, id_server, id_name, validated_at)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (medium, address, user_id, id_server)"
        " DO UPDATE SET id_name = excluded.id_name, validated_at = excluded.validated_at",
        (*linked.threepid, user_id, linked.id_server, linked.id_name, linked.validated_at),
    )


def count_linked(txn: Transaction, user_id: str) -> int:
    """How many addresses a user has linked."""
    [[count]] = txn.all("SELECT COUNT(*) FROM linked_addresses WHERE user_id = ?", (user_id,))
    return int(count)


def linked_by(txn: Transaction, user_id: str, threepid: ThirdPartyId | None = None) -> list[LinkedAddress]:
    """What a user has linked.

    :param threepid: only this address, if it is given.
    """
    which, values = ("", ()) if threepid is None else (" AND medium = ? AND address = ?", tuple(threepid))
    rows = txn.all(
        "SELECT medium, address, id_server, id_name, validated_at FROM linked_addresses"
        f" WHERE user_id = ?{which} ORDER BY medium, address, id_server",
        (user_id, *values),
    )
    return [LinkedAddress(ThirdPartyId(row[0], row[1]), *row[2:]) for row in rows]


def unlink(txn: Transaction, user_id: str, linked: LinkedAddress) -> None:
    """A user has unlinked an address."""
    txn.execute(
        "DELETE FROM linked_addresses WHERE medium = ? AND address = ? AND user_id = ? AND id_server = ?",
        (*linked.threepid, user_id, linked.id_server),
    )


def linked_by_closed(txn: Transaction, most: int) -> list[tuple[str, LinkedAddress]]:
    """Addresses that are still linked to users whose accounts were closed, with these users."""
    rows = txn.all(
        "SELECT l.user_id, l.medium, l.address, l.id_server, l.id_name, l.validated_at FROM linked_addresses l"
        " JOIN users u ON u.user_id = l.user_id WHERE u.deactivated_at IS NOT NULL"
        " ORDER BY l.user_id, l.medium, l.address LIMIT ?",
        (most,),
    )
    return [(row[0], LinkedAddress(ThirdPartyId(row[1], row[2]), *row[3:])) for row in rows]


# Invites to addresses.


class AddressInvite(Struct, frozen=True):
    """An invite to an address that was nobody's.

    :ivar public_keys: in base64; who has one of these may say whose the address is.
    :ivar redeemed_by: whom it turned out to invite.
    """

    token: str
    room_id: str
    sender: str
    public_keys: tuple[str, ...]
    redeemed_by: str | None = None


def add_invite(txn: Transaction, invite: AddressInvite, now_ms: int) -> None:
    """Keep an invite, or what has become of it."""
    txn.execute(
        "INSERT INTO address_invites (token, room_id, sender, public_keys, created_at, redeemed_by)"
        " VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (token, room_id) DO UPDATE SET redeemed_by = excluded.redeemed_by",
        (
            invite.token,
            invite.room_id,
            invite.sender,
            orjson.dumps(invite.public_keys).decode(),
            now_ms,
            invite.redeemed_by,
        ),
    )


def find_invite(txn: Transaction, token: str, room_id: str) -> AddressInvite | None:
    """An invite, or None."""
    row = txn.one(
        "SELECT token, room_id, sender, public_keys, redeemed_by FROM address_invites WHERE token = ? AND room_id = ?",
        (token, room_id),
    )
    return AddressInvite(row[0], row[1], row[2], tuple(orjson.loads(row[3])), row[4]) if row is not None else None


def delete_old_invites(txn: Transaction, *, created_before: int) -> int:
    """Forget invites, redeemed or not; how many."""
    return txn.execute("DELETE FROM address_invites WHERE created_at < ?", (created_before,)).rowcount


def delete_invites_of_room(txn: Transaction, room_id: str) -> None:
    """Forget the invites to a room."""
    txn.execute("DELETE FROM address_invites WHERE room_id = ?", (room_id,))
