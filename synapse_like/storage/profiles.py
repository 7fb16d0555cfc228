"""What the users of this server tell of themselves, and which of them have rooms that have yet to hear of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from msgspec import Struct

from synapse_like.protocol.canonical_json import decode, encode_in_any_order
from synapse_like.protocol.profiles import AVATAR_URL, DISPLAYNAME, SHOWN
from synapse_like.storage.news import for_others
from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import batched, placeholders


class Profile(Struct, frozen=True):
    """What rooms and observers are told of a user; None for what the user has not set."""

    displayname: str | None = None
    avatar_url: str | None = None

    def content(self) -> dict[str, str]:
        """The same as keys of an event's content."""
        said = {DISPLAYNAME: self.displayname, AVATAR_URL: self.avatar_url}
        return {key: value for key, value in said.items() if value is not None}


class ProfileField(Struct, frozen=True):
    """Anything that somebody tells of themselves, and to whom it is open."""

    field: str
    value: Any
    visibility: str


@for_others
class ProfileChanged(Struct, frozen=True):
    """News: a user of this server has another display name or avatar; None for one that is not set."""

    user_id: str
    displayname: str | None
    avatar_url: str | None


@for_others
class RoomsUntold(Struct, frozen=True):
    """News: there are rooms that have yet to be told of somebody's profile."""


def name_of_profile(user_id: str) -> str:
    """By which name the profile of a user is held (`Transaction.hold_names`)."""
    return f"profile {user_id}"


def find(txn: Transaction, user_id: str) -> Profile:
    """What rooms and observers are told of a user."""
    return of_users(txn, [user_id])[user_id]


def of_users(txn: Transaction, user_ids: Collection[str]) -> dict[str, Profile]:
    """What rooms and observers are told of some users."""
    told: dict[str, dict[str, Any]] = {user_id: {} for user_id in user_ids}
    for part in batched(user_ids):
        rows = txn.all(
            f"SELECT user_id, field, value FROM profile_fields WHERE user_id IN ({placeholders(part)})"
            f" AND field IN ({placeholders(SHOWN)})",
            (*part, *SHOWN),
        )
        for user_id, field, value in rows:
            told[user_id][field] = decode(value.encode())
    return {user_id: Profile(said.get(DISPLAYNAME), said.get(AVATAR_URL)) for user_id, said in told.items()}


def fields(txn: Transaction, user_id: str) -> list[ProfileField]:
    """Everything that a user tells, in alphabetical order."""
    rows = txn.all("SELECT field, value, visibility FROM profile_fields WHERE user_id = ?", (user_id,))
    return [ProfileField(field, decode(value.encode()), visibility) for field, value, visibility in sorted(rows)]


def put(txn: Transaction, user_id: str, told: ProfileField) -> None:
    """Set a field."""
    txn.execute(
        "INSERT INTO profile_fields (user_id, field, value, visibility) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (user_id, field) DO UPDATE SET value = excluded.value, visibility = excluded.visibility",
        (user_id, told.field, encode_in_any_order(told.value).decode(), told.visibility),
    )


def delete(txn: Transaction, user_id: str, field: str) -> None:
    """Take a field away."""
    txn.execute("DELETE FROM profile_fields WHERE user_id = ? AND field = ?", (user_id, field))


# Which rooms have yet to be told.


def begin_telling(txn: Transaction, user_id: str) -> None:
    """Have all the rooms of a user told, from the first on."""
    txn.execute(
        "INSERT INTO untold_profiles (user_id, told_up_to) VALUES (?, 0)"
        " ON CONFLICT (user_id) DO UPDATE SET told_up_to = excluded.told_up_to",
        (user_id,),
    )
    txn.announce(RoomsUntold())


def untold(txn: Transaction, user_id: str | None = None) -> tuple[str, int] | None:
    """A user some of whose rooms have yet to be told, and the number of the last room that was.

    :param user_id: this one or none; left out: the one who is farthest behind.
    """
    chosen, parameters = ("", ()) if user_id is None else (" WHERE user_id = ?", (user_id,))
    row = txn.one(f"SELECT user_id, told_up_to FROM untold_profiles{chosen} ORDER BY told_up_to LIMIT 1", parameters)
    return (row[0], row[1]) if row is not None else None


def told(txn: Transaction, user_id: str, up_to: int | None) -> None:
    """Rooms have been told.

    :param up_to: the number of the last one; None if that were all.
    """
    if up_to is None:
        txn.execute("DELETE FROM untold_profiles WHERE user_id = ?", (user_id,))
    else:
        txn.execute("UPDATE untold_profiles SET told_up_to = ? WHERE user_id = ?", (up_to, user_id))
