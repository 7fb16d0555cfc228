"""How far siblings are, and who cannot be reached at the moment: siblings and home servers."""

from __future__ import annotations

from msgspec import Struct

from synapse_like.storage.transactions import Transaction

HOME, SIBLING = "home", "sibling"
_LOG = "log"


class Destination(Struct):
    """Somebody whom we tell things. Times are milliseconds since 1970.

    :ivar kind: `HOME` or `SIBLING`.
    :ivar sent_up_to: the position of our statements up to which a sibling has all; 0 for home servers.
    :ivar failing_since: when it was first found unreachable; None if it is well.
    :ivar retry_at: when it is to be tried again; None for at once.
    :ivar retry_interval: how long was waited last, before chance had its say.
    :ivar last_error: why it failed last.
    """

    kind: str
    server: str
    sent_up_to: int = 0
    failing_since: int | None = None
    retry_at: int | None = None
    retry_interval: int = 0
    last_error: str | None = None


_COLUMNS = "kind, server, sent_up_to, failing_since, retry_at, retry_interval, last_error"


def find(txn: Transaction, kind: str, server: str) -> Destination:
    """How it stands with one; a new one is well, and has nothing."""
    row = txn.one(f"SELECT {_COLUMNS} FROM destinations WHERE kind = ? AND server = ?", (kind, server))
    return Destination(*row) if row is not None else Destination(kind, server)


def all_of(txn: Transaction) -> list[Destination]:
    """All that are remembered."""
    return [Destination(*row) for row in txn.all(f"SELECT {_COLUMNS} FROM destinations ORDER BY kind, server")]


def save(txn: Transaction, item: Destination) -> None:
    """Write down how it stands with one; a home server that is well need not be remembered."""
    if item.kind == HOME and item.failing_since is None:
        txn.execute("DELETE FROM destinations WHERE kind = ? AND server = ?", (item.kind, item.server))
        return
    txn.execute(
        f"INSERT INTO destinations ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (kind, server) DO UPDATE SET sent_up_to = excluded.sent_up_to,"
        " failing_since = excluded.failing_since, retry_at = excluded.retry_at,"
        " retry_interval = excluded.retry_interval, last_error = excluded.last_error",
        (
            item.kind,
            item.server,
            item.sent_up_to,
            item.failing_since,
            item.retry_at,
            item.retry_interval,
            item.last_error,
        ),
    )


def forget_all_but(txn: Transaction, siblings: list[str]) -> None:
    """Forget how far siblings are that are none any more, so that they begin anew if they come back."""
    for item in all_of(txn):
        if item.kind == SIBLING and item.server not in siblings:
            txn.execute("DELETE FROM destinations WHERE kind = ? AND server = ?", (SIBLING, item.server))
            txn.execute("DELETE FROM heard WHERE server = ?", (item.server,))


# Our log, and what we have of those of others.


def log_name(txn: Transaction, new: str) -> str:
    """The name of our log of statements; that of a new database is new."""
    txn.execute("INSERT INTO facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", (_LOG, new))
    [[name]] = txn.all("SELECT value FROM facts WHERE name = ?", (_LOG,))
    return str(name)


def heard_from(txn: Transaction, server: str) -> tuple[str, int] | None:
    """The log of a sibling that we hear, and up to where; None if we never did."""
    row = txn.one("SELECT log, position FROM heard WHERE server = ?", (server,))
    return (row[0], row[1]) if row is not None else None


def heard_up_to(txn: Transaction, server: str, log: str) -> int:
    """Up to where we have what a sibling has told, in this log of it."""
    row = txn.one("SELECT position FROM heard WHERE server = ? AND log = ?", (server, log))
    return row[0] if row is not None else 0


def set_heard(txn: Transaction, server: str, log: str, position: int) -> None:
    """Write down up to where we have what a sibling has told."""
    txn.execute(
        "INSERT INTO heard (server, log, position) VALUES (?, ?, ?)"
        " ON CONFLICT (server) DO UPDATE SET log = excluded.log, position = excluded.position",
        (server, log, position),
    )
