"""Which other servers are in which room.

A *stay* is a row: from which position of the stream of events a server was in a room, and until which. What this server
has to send to another is what it says in the rooms of the other's stays: the queue for a server is the stream of
events itself, read through its stays (`destinations.py`), and costs nothing per message and server.
"""

from __future__ import annotations

from collections.abc import Mapping

from synapse_like.storage.rooms import RoomHead
from synapse_like.storage.transactions import Transaction

#: A position that is never reached.
EVER = 2**40


def present(txn: Transaction, room: RoomHead) -> dict[str, int]:
    """The other servers in a room, and how many of their users are joined. For a writing transaction."""
    if room.servers is None:
        rows = txn.all("SELECT server, joined FROM room_servers WHERE room_nid = ? AND until IS NULL", (room.room_nid,))
        room.servers = {row[0]: row[1] for row in rows}
    return room.servers


def in_room(txn: Transaction, room_nid: int) -> list[str]:
    """The other servers in a room, in alphabetical order."""
    rows = txn.all("SELECT server FROM room_servers WHERE room_nid = ? AND until IS NULL ORDER BY server", (room_nid,))
    return [row[0] for row in rows]


def last_position(txn: Transaction, room_nid: int, server: str) -> int | None:
    """The position in the stream of events up to which another server was in a room; None if it never was.

    What passes a server that is not in the room takes up one position, and is no stay.

    :returns: `EVER` if it is in the room.
    """
    row = txn.one(
        "SELECT MAX(COALESCE(until, ?)) FROM room_servers"
        " WHERE room_nid = ? AND server = ? AND (until IS NULL OR until > since + 1)",
        (EVER, room_nid, server),
    )
    return None if row is None or row[0] is None else int(row[0])


def change(txn: Transaction, room: RoomHead, changes: Mapping[str, int], *, position: int, since: int) -> None:
    """Count users of other servers who came or went.

    :param changes: by server, how many more are joined.
    :param position: of the event by which they did; who leaves gets it, too.
    :param since: up to which position those who come have what was said.
    """
    servers = present(txn, room)
    for server, more in changes.items():
        joined = servers.get(server, 0) + more
        if server not in servers:
            # A server may come back at the position at which it went, if one event changed it all.
            txn.execute(
                "INSERT INTO room_servers (room_nid, server, since, until, joined) VALUES (?, ?, ?, NULL, ?)"
                " ON CONFLICT (room_nid, server, since) DO UPDATE SET until = NULL, joined = excluded.joined",
                (room.room_nid, server, since, joined),
            )
        else:
            txn.execute(
                "UPDATE room_servers SET joined = ?, until = ? WHERE room_nid = ? AND server = ? AND until IS NULL",
                (joined, position if joined <= 0 else None, room.room_nid, server),
            )
        if joined > 0:
            servers[server] = joined
        else:
            servers.pop(server, None)


def add_passing(txn: Transaction, room: RoomHead, server: str, *, position: int) -> None:
    """Let a server that is not in a room get one event of it: it is about a user of that server."""
    txn.execute(
        "INSERT INTO room_servers (room_nid, server, since, until, joined) VALUES (?, ?, ?, ?, 0)"
        " ON CONFLICT (room_nid, server, since) DO UPDATE SET until = excluded.until",
        (room.room_nid, server, position - 1, position),
    )


def everywhere(txn: Transaction, *, most: int) -> list[str]:
    """The other servers in any room, at most so many."""
    rows = txn.all("SELECT DISTINCT server FROM room_servers WHERE until IS NULL ORDER BY server LIMIT ?", (most,))
    return [row[0] for row in rows]


def delete_room(txn: Transaction, room_nid: int) -> None:
    """Take all stays in a room out."""
    txn.execute("DELETE FROM room_servers WHERE room_nid = ?", (room_nid,))
