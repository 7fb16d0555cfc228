"""Which of the periodic tasks one process does for all that share a database, and which each does for itself."""

from __future__ import annotations

from collections.abc import Iterable

from synapse_like.background import Repeating, every
from synapse_like.clock import Clock
from synapse_like.storage.claims import CHORES
from synapse_like.storage.database import Database
from synapse_like.storage.shared import commit_log

#: What stands in the tables is looked through by the process that holds the claim `CHORES`.
BY_ONE = frozenset(
    {
        "departures",
        "expire-login-sessions",
        "expire-mail-links",
        "fill-news",
        "forget-address-invites",
        "forget-addresses",
        "forget-commits",
        "forget-identity-sessions",
        "forget-retransmissions",
        "forget-transactions",
        "retry-waiting-events",
        "tell-identity-servers",
        "tell-rooms",
        "unlink-closed",
    }
)

#: What is in the memory of a process, or lies on its machine, is that process's own. Presence sees to it by itself that
#: one process keeps it.
BY_EACH = frozenset(
    {
        "drop-idle-watchers",
        "even-out-servers",
        "forget-deleted",
        "give-back-memory",
        "note-used-content",
        "outside-changes",
        "presence",
        "presence-elsewhere",
        "presence-input",
        "renewed-certificate",
        "tidy-content",
    }
)

#: How often it is looked for commits that everybody has had time to read, in seconds.
FORGET_SECONDS = 60


def share_out(tasks: Iterable[Repeating], database: Database, clock: Clock) -> list[Repeating]:
    """The tasks, each done by whom it is for; and what is to be done only where a database is shared."""
    shared = list(tasks)
    if database.is_shared:

        async def forget_commits() -> None:
            await database.write("forget-commits", commit_log.forget_old, now_ms=clock.now_ms())

        shared.append(every(clock, "forget-commits", FORGET_SECONDS, forget_commits))
    for task in shared:
        assert task.name in BY_ONE | BY_EACH, f"it must be said who does {task.name}"
        if task.name in BY_ONE:
            task.only_if(lambda: database.claims.holds(CHORES))
    return shared
