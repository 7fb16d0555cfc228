"""What is known of who is there, and who may know it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from synapse_like.storage import positions
from synapse_like.storage.database import Transaction
from synapse_like.storage.engines import MOST_VALUES, Row, batched, placeholders
from synapse_like.storage.state import MEMBER, slot_id

STREAM = "presence"
OFFLINE = "offline"

#: Users of other servers that are asked about for some of ours who come at once.
MOST_COMPANY = 50_000
#: Users of ours of whom a server is told at once.
MOST_TOLD = 20_000


@dataclass(frozen=True, slots=True)
class StoredPresence:
    """A user's row.

    :ivar last_active: in ms; None if it was never seen.
    :ivar choices: what the user's clients chose, by token_id.
    """

    user_id: str
    position: int
    state: str
    status_msg: str | None = None
    last_active: int | None = None
    is_hidden: bool = False
    choices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PresenceRecorded:
    """News: the presence of some users has changed.

    :ivar user_ids: those of whom others are told.
    :ivar own_ids: those who have chosen something, and are told so themselves.
    """

    position: int
    user_ids: Sequence[str]
    own_ids: Sequence[str]


_COLUMNS = "p.user_id, p.position, p.state, p.status_msg, p.last_active, p.is_hidden, p.choices"


def _stored(row: Row) -> StoredPresence:
    user_id, position, state, status_msg, last_active, is_hidden, choices = row
    return StoredPresence(user_id, position, state, status_msg, last_active, bool(is_hidden), orjson.loads(choices))


def current_position(txn: Transaction) -> int:
    """The newest position of the stream."""
    return positions.current(txn, STREAM)


def of_users(txn: Transaction, user_ids: Collection[str]) -> dict[str, StoredPresence]:
    """What is known of some users."""
    found = {}
    for part in batched(list(user_ids), MOST_VALUES):
        rows = txn.all(f"SELECT {_COLUMNS} FROM presence p WHERE p.user_id IN ({placeholders(part)})", part)
        found.update({row[0]: _stored(row) for row in rows})
    return found


def there(txn: Transaction) -> list[StoredPresence]:
    """Everybody who is not offline."""
    return [
        _stored(row)
        for row in txn.all(f"SELECT {_COLUMNS} FROM presence p WHERE p.state <> 'offline' ORDER BY position")
    ]


def record(
    txn: Transaction, changed: Sequence[StoredPresence], kept: Sequence[StoredPresence], own_ids: Sequence[str]
) -> None:
    """Write down the presence of users.

    :param changed: those of whom others are to be told; their positions are set here.
    :param kept: those of whom nobody else needs to be told.
    :param own_ids: who has chosen something themselves.
    """
    if changed or own_ids:
        position = positions.take(txn, STREAM)
        _write(txn, [(position, row) for row in changed])
        txn.announce(PresenceRecorded(position, [row.user_id for row in changed], own_ids))
    _write(txn, [(row.position, row) for row in kept])


def were_active(txn: Transaction, when: Mapping[str, int]) -> None:
    """Write down when users did something who are not there otherwise."""
    if when:
        txn.insert_rows(
            "INSERT INTO presence (user_id, position, state, last_active)",
            [(user_id, 0, OFFLINE, when_ms) for user_id, when_ms in when.items()],
            "ON CONFLICT (user_id) DO UPDATE SET last_active = excluded.last_active",
        )


def _write(txn: Transaction, rows: Iterable[tuple[int, StoredPresence]]) -> None:
    values = [
        (
            row.user_id,
            position,
            row.state,
            row.status_msg,
            row.last_active,
            int(row.is_hidden),
            orjson.dumps(dict(row.choices)).decode(),
        )
        for position, row in rows
    ]
    if values:
        txn.insert_rows(
            "INSERT INTO presence (user_id, position, state, status_msg, last_active, is_hidden, choices)",
            values,
            "ON CONFLICT (user_id) DO UPDATE SET position = excluded.position, state = excluded.state,"
            " status_msg = excluded.status_msg, last_active = excluded.last_active, is_hidden = excluded.is_hidden,"
            " choices = excluded.choices",
        )


# Who may see whom.


def rooms_of(txn: Transaction, user_ids: Collection[str]) -> dict[str, set[str]]:
    """The IDs of the rooms that each of some users is joined to."""
    found: dict[str, set[str]] = {user_id: set() for user_id in user_ids}
    for part in batched(list(user_ids), MOST_VALUES // 2):
        rows = txn.all(
            "SELECT s.state_key, r.room_id FROM state_slots s JOIN current_state c ON c.slot_id = s.slot_id"
            " JOIN rooms r ON r.room_nid = c.room_nid"
            f" WHERE s.type = ? AND s.state_key IN ({placeholders(part)}) AND c.membership = 'join'",
            (MEMBER, *part),
        )
        for user_id, room_id in rows:
            found[user_id].add(room_id)
    return found


def observers_of(txn: Transaction, user_ids: Collection[str]) -> dict[str, set[str]]:
    """Who each of some users allows to see them."""
    found: dict[str, set[str]] = {user_id: set() for user_id in user_ids}
    for part in batched(list(user_ids), MOST_VALUES):
        rows = txn.all(
            "SELECT observed, observer FROM presence_lists"
            f" WHERE observed IN ({placeholders(part)}) AND is_accepted = 1",
            part,
        )
        for observed, observer in rows:
            found[observed].add(observer)
    return found


def share_a_room(txn: Transaction, one: str, other: str) -> bool:
    """Whether two users are joined to the same room."""
    mine, theirs = slot_id(txn, (MEMBER, one)), slot_id(txn, (MEMBER, other))
    if mine is None or theirs is None:
        return False
    row = txn.one(
        "SELECT 1 FROM current_state a JOIN current_state b ON b.room_nid = a.room_nid AND b.slot_id = ?"
        " AND b.membership = 'join' WHERE a.slot_id = ? AND a.membership = 'join' LIMIT 1",
        (theirs, mine),
    )
    return row is not None


def changed_between(txn: Transaction, user_id: str, after: int, up_to: int) -> list[StoredPresence]:
    """What has changed of those whom a user may see, with after < position <= up_to."""
    mine = slot_id(txn, (MEMBER, user_id))
    rows = txn.all(
        f"SELECT {_COLUMNS} FROM presence p WHERE p.position > ? AND p.position <= ? AND p.user_id <> ? AND ("
        " EXISTS (SELECT 1 FROM presence_lists l WHERE l.observer = ? AND l.observed = p.user_id AND l.is_accepted = 1)"
        " OR EXISTS (SELECT 1 FROM state_slots s"
        " JOIN current_state t ON t.slot_id = s.slot_id AND t.membership = 'join'"
        " JOIN current_state m ON m.room_nid = t.room_nid AND m.slot_id = ? AND m.membership = 'join'"
        " WHERE s.type = ? AND s.state_key = p.user_id)) ORDER BY p.position",
        (after, up_to, user_id, user_id, -1 if mine is None else mine, MEMBER),
    )
    return [_stored(row) for row in rows]


def of_members(txn: Transaction, room_id: str) -> list[StoredPresence]:
    """What is known of those who are joined to a room."""
    rows = txn.all(
        f"SELECT {_COLUMNS} FROM rooms r JOIN current_state c ON c.room_nid = r.room_nid AND c.membership = 'join'"
        " JOIN state_slots s ON s.slot_id = c.slot_id JOIN presence p ON p.user_id = s.state_key WHERE r.room_id = ?"
        " ORDER BY p.user_id",
        (room_id,),
    )
    return [_stored(row) for row in rows]


# Other servers.


def company(txn: Transaction, user_ids: Collection[str], server_name: str) -> set[str]:
    """The users of other servers whose presence some of ours may see.

    Each room is read once, however many of ours are in it.

    :param server_name: ours.
    """
    room_nids: set[int] = set()
    found: set[str] = set()
    for part in batched(list(user_ids), MOST_VALUES - 1):
        rows = txn.all(
            "SELECT DISTINCT m.room_nid FROM state_slots s JOIN current_state m ON m.slot_id = s.slot_id"
            " AND m.membership IS NOT NULL AND m.membership = 'join'"
            f" WHERE s.type = ? AND s.state_key IN ({placeholders(part)})"
            " AND EXISTS (SELECT 1 FROM room_servers x WHERE x.room_nid = m.room_nid AND x.until IS NULL)",
            (MEMBER, *part),
        )
        room_nids.update(row[0] for row in rows)
        rows = txn.all(
            f"SELECT observed FROM presence_lists WHERE observer IN ({placeholders(part)}) AND is_accepted = 1", part
        )
        found.update(row[0] for row in rows)
    for room_nid in sorted(room_nids):
        if len(found) >= MOST_COMPANY:
            break
        found.update(_joined(txn, room_nid))
    return _of_others(found, server_name)


def strangers_in(txn: Transaction, room_id: str, server_name: str) -> set[str]:
    """The users of other servers who are joined to a room.

    :param server_name: ours.
    """
    row = txn.one("SELECT room_nid FROM rooms WHERE room_id = ?", (room_id,))
    return set() if row is None else _of_others(_joined(txn, row[0]), server_name)


def _joined(txn: Transaction, room_nid: int) -> list[str]:
    rows = txn.all(
        "SELECT s.state_key FROM current_state t JOIN state_slots s ON s.slot_id = t.slot_id"
        " WHERE t.room_nid = ? AND t.membership IS NOT NULL AND t.membership = 'join' LIMIT ?",
        (room_nid, MOST_COMPANY),
    )
    return [row[0] for row in rows]


def _of_others(user_ids: Collection[str], server_name: str) -> set[str]:
    return {user_id for user_id in user_ids if ":" in user_id and not user_id.endswith(f":{server_name}")}


def add_interest(txn: Transaction, server: str, user_ids: Sequence[str], *, until: int) -> None:
    """A server wants to be told of some of our users of whom it may know, for a while."""
    txn.insert_rows(
        "INSERT INTO presence_interest (user_id, server, until)",
        [(user_id, server, until) for user_id in user_ids],
        "ON CONFLICT (user_id, server) DO UPDATE SET until = excluded.until",
    )


def end_interest(txn: Transaction, server: str, user_ids: Sequence[str]) -> None:
    """A server does not want to be told of some users any longer."""
    for part in batched(list(user_ids), MOST_VALUES - 1):
        txn.execute(
            f"DELETE FROM presence_interest WHERE server = ? AND user_id IN ({placeholders(part)})", (server, *part)
        )


#: Whether the server `{server}` may know of the user `{user}`: one of its users shares a room with them, or is let see
#: them by a list.
_MAY_KNOW = (
    "(EXISTS (SELECT 1 FROM state_slots s"
    " JOIN current_state m ON m.slot_id = s.slot_id AND m.membership IS NOT NULL AND m.membership = 'join'"
    " JOIN room_servers x ON x.room_nid = m.room_nid AND x.server = {server} AND x.until IS NULL"
    f" WHERE s.type = '{MEMBER}' AND s.state_key = {{user}})"
    " OR EXISTS (SELECT 1 FROM presence_lists l WHERE l.observed = {user} AND l.is_accepted = 1"
    " AND substr(l.observer, length(l.observer) - length({server})) = ':' || {server}))"
)


def may_know(txn: Transaction, server: str, user_ids: Sequence[str]) -> list[str]:
    """Those of some users of whom a server may be told."""
    condition = _MAY_KNOW.format(server="w.server", user="u.user_id")
    found: list[str] = []
    for part in batched(list(user_ids), MOST_VALUES - 1):
        rows = txn.all(
            "WITH w (server) AS (VALUES (CAST(? AS TEXT))),"
            f" u (user_id) AS (VALUES {', '.join(['(CAST(? AS TEXT))'] * len(part))})"
            f" SELECT u.user_id FROM u CROSS JOIN w WHERE {condition} ORDER BY u.user_id",
            (server, *part),
        )
        found += [row[0] for row in rows]
    return found


def interested(txn: Transaction, user_ids: Sequence[str], *, now_ms: int) -> dict[str, list[str]]:
    """The servers that are to be told of some of our users, each with those of whom: it has asked, and may know."""
    condition = _MAY_KNOW.format(server="i.server", user="i.user_id")
    found: dict[str, list[str]] = {}
    for part in batched(list(user_ids), MOST_VALUES - 1):
        rows = txn.all(
            "SELECT i.server, i.user_id FROM presence_interest i"
            f" WHERE i.until > ? AND i.user_id IN ({placeholders(part)}) AND {condition} ORDER BY i.user_id",
            (now_ms, *part),
        )
        for server, user_id in rows:
            found.setdefault(server, []).append(user_id)
    return found


def interest_of(txn: Transaction, server: str, *, now_ms: int) -> list[str]:
    """Those of our users of whom a server is to be told; if they are very many, those who have changed last."""
    condition = _MAY_KNOW.format(server="i.server", user="i.user_id")
    rows = txn.all(
        "SELECT i.user_id FROM presence_interest i JOIN presence p ON p.user_id = i.user_id"
        f" WHERE i.server = ? AND i.until > ? AND {condition} ORDER BY p.position DESC LIMIT ?",
        (server, now_ms, MOST_TOLD),
    )
    return [row[0] for row in rows]


def interested_servers(txn: Transaction, *, now_ms: int) -> list[str]:
    """The servers that are to be told of any of our users."""
    rows = txn.all("SELECT DISTINCT server FROM presence_interest WHERE until > ? ORDER BY server", (now_ms,))
    return [row[0] for row in rows]


def guests(txn: Transaction, room_id: str) -> list[str]:
    """Who is joined to a room, if other servers are in it, too."""
    row = txn.one(
        "SELECT r.room_nid FROM rooms r WHERE r.room_id = ?"
        " AND EXISTS (SELECT 1 FROM room_servers x WHERE x.room_nid = r.room_nid AND x.until IS NULL)",
        (room_id,),
    )
    return [] if row is None else _joined(txn, row[0])


def forget_interest(txn: Transaction, *, now_ms: int) -> None:
    """Forget what has lapsed."""
    txn.execute("DELETE FROM presence_interest WHERE until <= ?", (now_ms,))
