"""What is known of who is there, and who may know it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import orjson
from msgspec import Struct, field

from synapse_like.protocol.identifiers import domain_of
from synapse_like.storage import positions
from synapse_like.storage.engines.engine import Row
from synapse_like.storage.news import for_others
from synapse_like.storage.state import MEMBER, slot_id
from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import MOST_VALUES, batched, placeholders

STREAM = "presence"
OFFLINE = "offline"

#: Users of other servers that are asked about for some of ours who come at once.
MOST_COMPANY = 50_000
#: Users of ours of whom a server is told at once.
MOST_TOLD = 20_000


class StoredPresence(Struct, frozen=True):
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


@for_others
class PresenceRecorded(Struct, frozen=True):
    """News: the presence of some users has changed.

    :ivar user_ids: those of whom others are told.
    :ivar own_ids: those who have chosen something, and are told so themselves.
    :ivar told: what others are told of each of `user_ids`, as who recorded it has put it down.
    """

    position: int
    user_ids: Sequence[str]
    own_ids: Sequence[str]
    told: Sequence[Any] = ()


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
    txn: Transaction,
    changed: Sequence[StoredPresence],
    kept: Sequence[StoredPresence],
    own_ids: Sequence[str],
    told: Sequence[Any] = (),
) -> None:
    """Write down the presence of users.

    :param changed: those of whom others are to be told; their positions are set here.
    :param kept: those of whom nobody else needs to be told.
    :param own_ids: who has chosen something themselves.
    :param told: what others are told of those who changed, for other processes; as JSON has it.
    """
    if changed or own_ids:
        position = positions.take(txn, STREAM)
        _write(txn, [(position, row) for row in changed])
        txn.announce(PresenceRecorded(position, [row.user_id for row in changed], own_ids, told))
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
    joined = _joined_by(txn, user_ids)
    names: dict[int, str] = {}
    for part in batched(sorted(set(chain.from_iterable(joined.values())))):
        rows = txn.all(f"SELECT room_nid, room_id FROM rooms WHERE room_nid IN ({placeholders(part)})", part)
        names.update({row[0]: row[1] for row in rows})
    return {user_id: {names[room_nid] for room_nid in room_nids} for user_id, room_nids in joined.items()}


def _joined_by(txn: Transaction, user_ids: Collection[str]) -> dict[str, list[int]]:
    """The numbers of the rooms that each of some users is joined to.

    Asked table by table: PostgreSQL, if it does not know how large they are, joins them by comparing all with all.
    """
    found: dict[str, list[int]] = {user_id: [] for user_id in user_ids}
    users: dict[int, str] = {}
    for part in batched(list(found), MOST_VALUES - 1):
        rows = txn.all(
            f"SELECT slot_id, state_key FROM state_slots WHERE type = ? AND state_key IN ({placeholders(part)})",
            (MEMBER, *part),
        )
        users.update({row[0]: row[1] for row in rows})
    for slots in batched(list(users)):
        rows = txn.all(
            "SELECT slot_id, room_nid FROM current_state WHERE membership IS NOT NULL AND membership = 'join'"
            f" AND slot_id IN ({placeholders(slots)})",
            slots,
        )
        for slot, room_nid in rows:
            found[users[slot]].append(room_nid)
    return found


def _servers_in(txn: Transaction, room_nids: Collection[int]) -> dict[int, set[str]]:
    """The other servers in some rooms; a room that no other is in is left out."""
    found: dict[int, set[str]] = {}
    for part in batched(sorted(room_nids)):
        rows = txn.all(
            f"SELECT room_nid, server FROM room_servers WHERE until IS NULL AND room_nid IN ({placeholders(part)})",
            part,
        )
        for room_nid, server in rows:
            found.setdefault(room_nid, set()).add(server)
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
    joined = _joined_by(txn, user_ids)
    shared = _servers_in(txn, set(chain.from_iterable(joined.values())))
    found: set[str] = set()
    for part in batched(list(user_ids)):
        rows = txn.all(
            f"SELECT observed FROM presence_lists WHERE observer IN ({placeholders(part)}) AND is_accepted = 1", part
        )
        found.update(row[0] for row in rows)
    for room_nid in sorted(shared):
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


def _allowed(txn: Transaction, wanted: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Those of our users of whom servers may be told, of those of whom they want to be.

    A server may know of a user if one of its users shares a room with them, or is let see them by a list.

    :param wanted: by server.
    """
    users = {user_id for named in wanted.values() for user_id in named}
    joined = _joined_by(txn, users)
    present = _servers_in(txn, set(chain.from_iterable(joined.values())))
    servers = {room_nid: names & wanted.keys() for room_nid, names in present.items()}
    lists = observers_of(txn, users)
    seen_by = {
        user_id: {domain_of(observer) for observer in lists[user_id]}.union(
            *(servers[room_nid] for room_nid in joined[user_id] if room_nid in servers)
        )
        for user_id in users
    }
    found = {server: [name for name in named if server in seen_by[name]] for server, named in wanted.items()}
    return {server: named for server, named in found.items() if named}


def may_know(txn: Transaction, server: str, user_ids: Sequence[str]) -> list[str]:
    """Those of some users of whom a server may be told."""
    return _allowed(txn, {server: user_ids}).get(server, [])


def interested(txn: Transaction, user_ids: Sequence[str], *, now_ms: int) -> dict[str, list[str]]:
    """The servers that are to be told of some of our users, each with those of whom: it has asked, and may know."""
    wanted: dict[str, list[str]] = {}
    for part in batched(sorted(user_ids), MOST_VALUES - 1):
        rows = txn.all(
            f"SELECT server, user_id FROM presence_interest WHERE until > ? AND user_id IN ({placeholders(part)})"
            " ORDER BY user_id",
            (now_ms, *part),
        )
        for server, user_id in rows:
            wanted.setdefault(server, []).append(user_id)
    return _allowed(txn, wanted)


def interest_of(txn: Transaction, servers: Collection[str] | None, *, now_ms: int) -> dict[str, list[str]]:
    """Those of our users of whom some servers are to be told; if they are very many, those who have changed last.

    :param servers: None for all that are to be told of anybody.
    """
    rows = txn.all(
        "SELECT i.server, i.user_id FROM presence_interest i JOIN presence p ON p.user_id = i.user_id"
        " WHERE i.until > ? ORDER BY p.position DESC",
        (now_ms,),
    )
    wanted: dict[str, list[str]] = {}
    for server, user_id in rows:
        if servers is None or server in servers:
            wanted.setdefault(server, []).append(user_id)
    return _allowed(txn, {server: named[:MOST_TOLD] for server, named in wanted.items()})


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
