"""What waits to be sent to which server, and how far each server is.

The queue for a server is the stream of events, read through its stays (`room_servers.py`): what this server has to pass
on (`is_outgoing`) in the rooms of the stays, after the position up to which the server has everything. Putting an event
into all queues is part of storing it, and costs nothing for each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from msgspec import Struct

from synapse_like.storage import events, positions
from synapse_like.storage.events import GAP
from synapse_like.storage.news import for_others
from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import placeholders

EDU_STREAM = "outgoing_edus"

#: Lasting EDUs that are kept for a server; beyond that, the oldest are lost.
MOST_LASTING_EDUS = 10_000
#: How many waiting events are counted at the most.
MOST_COUNTED = 1000
#: Positions in the first stretch of the stream that is searched for events, and how much longer each further one is.
FIRST_STRETCH = 256
STRETCH_GROWTH = 8


class Destination(Struct):
    """How far a server is, and whether it can be reached. Times are milliseconds since 1970.

    :ivar sent_up_to: the position of the stream of events up to which it has all that is for it.
    :ivar last_transaction: the ID of the last transaction that it took.
    :ivar failing_since: when it was first found unreachable; None if it is well.
    :ivar retry_at: when it is to be tried again; None for at once.
    :ivar retry_interval: how long was waited last, before chance had its say.
    :ivar last_error: why it failed last.
    """

    server: str
    sent_up_to: int = 0
    last_transaction: str | None = None
    failing_since: int | None = None
    retry_at: int | None = None
    retry_interval: int = 0
    last_error: str | None = None


class Waiting(Struct, frozen=True):
    """Some of what waits for a server, oldest first.

    :ivar pdus: positions and wire forms.
    :ivar edus: positions in their own stream and wire forms.
    :ivar up_to: up to which position of the stream of events nothing else waits.
    :ivar is_all: whether that is the end of the stream, as this transaction sees it.
    :ivar are_all_edus: whether no other EDU waits.
    """

    pdus: list[tuple[int, bytes]]
    edus: list[tuple[int, bytes]]
    up_to: int
    is_all: bool
    are_all_edus: bool


@for_others
class EduStored(Struct, frozen=True):
    """News: a lasting EDU waits for a server."""

    server: str


@for_others
class Rewound(Struct, frozen=True):
    """News: a server may lack something that lies before the position at which it was."""

    server: str
    position: int


@for_others
class LeftAlone(Struct, frozen=True):
    """News: a server could not be reached, and is tried again later; or it was.

    :ivar until: when it will be, in milliseconds since 1970; None if it was reached.
    """

    server: str
    until: int | None


def find(txn: Transaction, server: str) -> Destination:
    """How far a server is; one that nothing was ever sent to is at the beginning of each of its stays."""
    row = txn.one(
        "SELECT server, sent_up_to, last_transaction, failing_since, retry_at, retry_interval, last_error"
        " FROM destinations WHERE server = ?",
        (server,),
    )
    return Destination(*row) if row is not None else Destination(server)


def save(
    txn: Transaction,
    destinations: Iterable[Destination],
    edus_sent_up_to: Iterable[tuple[str, int]],
    left_alone: Iterable[LeftAlone] = (),
    known: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, int]:
    """Write down how far servers are; how far each is then: one that was set back meanwhile stays there (`rewind`).

    :param edus_sent_up_to: which lasting EDUs servers have, by server.
    :param left_alone: what other processes are told of it.
    :param known: how far each was when that was last read or written.
    """
    found = {}
    for item in destinations:
        found[item.server] = txn.insert(
            "INSERT INTO destinations"
            " (server, sent_up_to, last_transaction, failing_since, retry_at, retry_interval, last_error)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (server) DO UPDATE SET sent_up_to ="
            " CASE WHEN destinations.sent_up_to < ? THEN destinations.sent_up_to ELSE excluded.sent_up_to END,"
            " last_transaction = excluded.last_transaction, failing_since = excluded.failing_since,"
            " retry_at = excluded.retry_at, retry_interval = excluded.retry_interval, last_error = excluded.last_error"
            " RETURNING sent_up_to",
            (
                item.server,
                item.sent_up_to,
                item.last_transaction,
                item.failing_since,
                item.retry_at,
                item.retry_interval,
                item.last_error,
                known.get(item.server, 0),
            ),
        )
    for server, position in edus_sent_up_to:
        txn.execute("DELETE FROM outgoing_edus WHERE server = ? AND position <= ?", (server, position))
    for news in left_alone:
        txn.announce(news)
    return found


def left_alone(txn: Transaction) -> dict[str, int]:
    """The servers that could not be reached, and when they are to be tried again."""
    return dict(
        txn.all("SELECT server, retry_at FROM destinations WHERE failing_since IS NOT NULL AND retry_at IS NOT NULL")
    )


def waiting(txn: Transaction, server: str, *, after: int, most_pdus: int, edus_after: int, most_edus: int) -> Waiting:
    """The oldest of what waits for a server.

    :param after: up to which position of the stream of events it has everything.
    :param edus_after: the same for the stream of lasting EDUs.
    """
    found, up_to, is_all = _waiting_events(txn, server, after, most_pdus)
    pdus = _pdus(txn, found)
    edus, are_all_edus = waiting_edus(txn, server, after=edus_after, most=most_edus)
    return Waiting(pdus, edus, up_to, is_all, are_all_edus)


def _waiting_events(txn: Transaction, server: str, after: int, most: int) -> tuple[list[tuple[int, int]], int, bool]:
    """(position, event_nid) of the oldest that wait; up to where these are all; whether that is everything.

    The stream is searched in stretches that grow, so that neither a long queue nor a long silence is read as a whole.
    """
    newest = events.current_position(txn)
    found: list[tuple[int, int]] = []
    start, length = after, FIRST_STRETCH
    while start < newest and len(found) < most:
        end = min(start + length, newest)
        # The lower bound stands there twice: as one that both databases search a room by, and not from the beginning of
        # the stay; and as a constant from which PostgreSQL can tell how little it will find.
        rows = txn.all(
            "SELECT DISTINCT e.place, e.event_nid FROM room_servers s CROSS JOIN events e"
            " WHERE s.server = ? AND (s.until IS NULL OR s.until > ?) AND e.room_nid = s.room_nid AND e.is_outgoing = 1"
            f" AND e.place > CASE WHEN s.since > ? THEN s.since ELSE ? END * {GAP} AND e.place > ? AND e.place <= ?"
            f" AND e.place % {GAP} = 0 AND (s.until IS NULL OR e.place <= s.until * {GAP}) ORDER BY e.place LIMIT ?",
            (server, start, start, start, start * GAP, end * GAP, most - len(found)),
        )
        found += [(row[0] // GAP, row[1]) for row in rows]
        start, length = end, length * STRETCH_GROWTH
    if len(found) == most:
        return found, found[-1][0], False
    return found, max(after, newest), True


def events_for(txn: Transaction, known: Sequence[tuple[int, int]]) -> list[tuple[int, bytes]]:
    """Positions and wire forms of events of which it is known that they wait; those that are gone are left out.

    :param known: their positions and numbers.
    """
    return _pdus(txn, known)


def _pdus(txn: Transaction, wanted: Sequence[tuple[int, int]]) -> list[tuple[int, bytes]]:
    if not wanted:
        return []
    nids = [nid for _, nid in wanted]
    rows = txn.all(f"SELECT event_nid, pdu FROM events WHERE event_nid IN ({placeholders(nids)})", nids)
    by_nid = {row[0]: bytes(row[1]) for row in rows}
    return [(position, by_nid[nid]) for position, nid in wanted if nid in by_nid]


def waiting_edus(txn: Transaction, server: str, *, after: int, most: int) -> tuple[list[tuple[int, bytes]], bool]:
    """Positions and wire forms of the oldest lasting EDUs for a server, and whether these are all."""
    rows = txn.all(
        "SELECT position, edu FROM outgoing_edus WHERE server = ? AND position > ? ORDER BY position LIMIT ?",
        (server, after, most + 1),
    )
    return [(row[0], bytes(row[1])) for row in rows[:most]], len(rows) <= most


def add_edu(txn: Transaction, server: str, edu_type: str, key: str | None, edu: bytes) -> None:
    """Let a lasting EDU wait for a server; it takes the place of one of the same type and key.

    :param edu: its wire form.
    """
    if key is not None:
        withdraw_edu(txn, server, edu_type, key)
    txn.execute(
        "INSERT INTO outgoing_edus (position, server, edu_type, edu_key, edu) VALUES (?, ?, ?, ?, ?)",
        (positions.take(txn, EDU_STREAM), server, edu_type, key, edu),
    )
    surplus = txn.one(
        "SELECT position FROM outgoing_edus WHERE server = ? ORDER BY position DESC LIMIT 1 OFFSET ?",
        (server, MOST_LASTING_EDUS),
    )
    if surplus is not None:
        txn.execute("DELETE FROM outgoing_edus WHERE server = ? AND position <= ?", (server, surplus[0]))
    txn.announce(EduStored(server))


def withdraw_edu(txn: Transaction, server: str, edu_type: str, key: str) -> None:
    """Take a lasting EDU back, if it still waits."""
    txn.execute("DELETE FROM outgoing_edus WHERE server = ? AND edu_type = ? AND edu_key = ?", (server, edu_type, key))


def rewind(txn: Transaction, server: str, position: int) -> None:
    """Let a server be no further than a position: it has come into a room where it may have missed what followed."""
    txn.execute(
        "UPDATE destinations SET sent_up_to = ? WHERE server = ? AND sent_up_to > ?", (position, server, position)
    )
    txn.announce(Rewound(server, position))


def needing_attention(txn: Transaction) -> list[str]:
    """The servers for which something waits, or which could not be reached."""
    # The newest of each stay, as a value: every database finds that by one step in the index.
    newest = (
        "SELECT MAX(e.place) FROM events e WHERE e.room_nid = s.room_nid AND e.is_outgoing = 1"
        f" AND e.place <= CASE WHEN s.until IS NULL THEN {2**63 - 1} ELSE s.until * {GAP} END"
    )
    with_events = (
        "SELECT DISTINCT s.server FROM room_servers s LEFT JOIN destinations d ON d.server = s.server"
        f" WHERE ({newest}) > CASE WHEN d.sent_up_to > s.since THEN d.sent_up_to ELSE s.since END * {GAP}"
    )
    rows = txn.all(
        f"{with_events} UNION SELECT server FROM destinations WHERE failing_since IS NOT NULL"
        " UNION SELECT server FROM outgoing_edus ORDER BY 1"
    )
    return [row[0] for row in rows]


# For the operator.


class Overview(Struct, frozen=True):
    """A server as the operator sees it.

    :ivar waiting: how many events wait for it; `MOST_COUNTED` + 1 if there are more.
    :ivar waiting_edus: how many lasting EDUs do.
    """

    destination: Destination
    waiting: int
    waiting_edus: int


def overview(txn: Transaction) -> list[Overview]:
    """All servers that something was sent to, or is to be, by name."""
    rows = txn.all("SELECT server FROM destinations UNION SELECT server FROM room_servers ORDER BY 1")
    return [_overview_of(txn, find(txn, row[0])) for row in rows]


def _overview_of(txn: Transaction, destination: Destination) -> Overview:
    found, _, _ = _waiting_events(txn, destination.server, destination.sent_up_to, MOST_COUNTED + 1)
    [[edus_waiting]] = txn.all("SELECT COUNT(*) FROM outgoing_edus WHERE server = ?", (destination.server,))
    return Overview(destination, len(found), edus_waiting)


def ask_retry(txn: Transaction, server: str | None) -> int:
    """Have a server tried again at once, or all of them; how many.

    :param server: None for all that could not be reached.
    """
    which, parameters = ("failing_since IS NOT NULL", ()) if server is None else ("server = ?", (server,))
    return txn.execute(
        f"UPDATE destinations SET retry_at = NULL, retry_interval = 0, retry_asked = 1 WHERE {which}", parameters
    ).rowcount


def retries_asked(txn: Transaction) -> list[str]:
    """The servers that an operator wants tried again."""
    return [row[0] for row in txn.all("SELECT server FROM destinations WHERE retry_asked = 1")]


def forget_retries_asked(txn: Transaction, servers: Sequence[str]) -> None:
    """What an operator wanted is being done."""
    for server in servers:
        txn.execute("UPDATE destinations SET retry_asked = 0 WHERE server = ?", (server,))
