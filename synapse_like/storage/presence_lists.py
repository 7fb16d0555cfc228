"""Who wants to see whose presence, and who allows it; and the groups that users sort those into."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import Struct

from synapse_like.storage import positions
from synapse_like.storage.news import for_others
from synapse_like.storage.presence import STREAM
from synapse_like.storage.transactions import Transaction


class Entry(Struct, frozen=True):
    """That one user wants to see another.

    :ivar is_accepted: whether the other allows it.
    """

    observer: str
    observed: str
    is_accepted: bool


@for_others
class ListChanged(Struct, frozen=True):
    """News: an entry was made (`is_accepted` says of which kind), or taken away (None)."""

    position: int
    observer: str
    observed: str
    is_accepted: bool | None


def find(txn: Transaction, observer: str, observed: str) -> Entry | None:
    """One entry, or None."""
    row = txn.one(
        "SELECT observer, observed, is_accepted FROM presence_lists WHERE observer = ? AND observed = ?",
        (observer, observed),
    )
    return Entry(row[0], row[1], bool(row[2])) if row is not None else None


def may_observe(txn: Transaction, observer: str, observed: str) -> bool:
    """Has a user let another one see whether they are there?"""
    entry = find(txn, observer, observed)
    return entry is not None and entry.is_accepted


def put(txn: Transaction, entry: Entry) -> None:
    """Make an entry, or accept one."""
    position = positions.take(txn, STREAM)
    txn.execute(
        "INSERT INTO presence_lists (observer, observed, is_accepted, position) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (observer, observed) DO UPDATE SET is_accepted = excluded.is_accepted,"
        " position = excluded.position",
        (entry.observer, entry.observed, int(entry.is_accepted), position),
    )
    txn.announce(ListChanged(position, entry.observer, entry.observed, entry.is_accepted))


def delete(txn: Transaction, observer: str, observed: str) -> None:
    """Take an entry away, and its observed out of the observer's groups."""
    txn.execute("DELETE FROM presence_lists WHERE observer = ? AND observed = ?", (observer, observed))
    txn.execute("DELETE FROM presence_groups WHERE owner = ? AND member = ?", (observer, observed))
    txn.announce(ListChanged(positions.take(txn, STREAM), observer, observed, None))


def of_observer(txn: Transaction, observer: str) -> list[Entry]:
    """The list of a user."""
    rows = txn.all(
        "SELECT observer, observed, is_accepted FROM presence_lists WHERE observer = ? ORDER BY observed", (observer,)
    )
    return [Entry(row[0], row[1], bool(row[2])) for row in rows]


def count_of(txn: Transaction, observer: str) -> int:
    """How long the list of a user is."""
    [[count]] = txn.all("SELECT COUNT(*) FROM presence_lists WHERE observer = ?", (observer,))
    found: int = count
    return found


def counts_of_observers(txn: Transaction, observed: str, *, server: str) -> tuple[int, int, int]:
    """How many a user lets see them; how many wait for an answer; and how many of these are of one server."""
    suffix = f":{server}"
    [row] = txn.all(
        "SELECT COALESCE(SUM(is_accepted), 0), COALESCE(SUM(1 - is_accepted), 0), COALESCE(SUM(CASE WHEN"
        " is_accepted = 0 AND substr(observer, length(observer) - ? + 1) = ? THEN 1 ELSE 0 END), 0)"
        " FROM presence_lists WHERE observed = ?",
        (len(suffix), suffix, observed),
    )
    return int(row[0]), int(row[1]), int(row[2])


def requests_to(txn: Transaction, observed: str, *, after: int, up_to: int) -> list[str]:
    """Who wants to see a user and has no answer yet, of those who asked with after < position <= up_to."""
    rows = txn.all(
        "SELECT observer FROM presence_lists WHERE observed = ? AND is_accepted = 0 AND position > ? AND position <= ?"
        " ORDER BY position",
        (observed, after, up_to),
    )
    return [row[0] for row in rows]


def accepted_for(txn: Transaction, observer: str, *, after: int, up_to: int) -> list[str]:
    """Whom a user may see by their list, of those who allowed it with after < position <= up_to."""
    rows = txn.all(
        "SELECT observed FROM presence_lists WHERE observer = ? AND is_accepted = 1 AND position > ? AND position <= ?",
        (observer, after, up_to),
    )
    return [row[0] for row in rows]


def set_group(txn: Transaction, owner: str, name: str, members: Sequence[str]) -> None:
    """Say who belongs to a group; nobody for no group."""
    txn.execute("DELETE FROM presence_groups WHERE owner = ? AND name = ?", (owner, name))
    if members:
        rows = [(owner, name, member) for member in dict.fromkeys(members)]
        txn.insert_rows("INSERT INTO presence_groups (owner, name, member)", rows)


def groups_of(txn: Transaction, owner: str) -> dict[str, list[str]]:
    """The groups of a user."""
    found: dict[str, list[str]] = {}
    rows = txn.all("SELECT name, member FROM presence_groups WHERE owner = ? ORDER BY name, member", (owner,))
    for name, member in rows:
        found.setdefault(name, []).append(member)
    return found


def members_of(txn: Transaction, owner: str, names: Collection[str]) -> dict[str, list[str]]:
    """The members of some groups of a user, by the groups' names; one that there is not is left out."""
    return {name: members for name, members in groups_of(txn, owner).items() if name in names}
