"""The log of commits: what each has changed, for the other processes.

A commit that others have to know of has a number, which is taken under a lock that is held until the commit: numbers
have no gaps, and never become visible after a later one has. Positions in streams are taken under the same lock, so the
same holds for them. With the number the commit writes down which rooms it changed, which kinds of copies are wrong now,
and its news. PostgreSQL then tells the others (NOTIFY) that there is something to read, and who made it; who hears it,
or was not connected for a while, reads on from the last number that it knows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import orjson

from synapse_like.storage.continuity import Continuity
from synapse_like.storage.engines.engine import Row
from synapse_like.storage.news import CommitInDoubt, Wants, from_log, to_log
from synapse_like.storage.transactions import Transaction

#: The stream whose positions are the numbers of commits.
COMMITS = "commits"
#: How long what a commit changed is kept for those who have not read it; in seconds.
KEPT_SECONDS = 600

#: A commit: its number, who made it, and its news.
Told = tuple[int, str, list[object]]


def newest(txn: Transaction) -> int:
    """The number of the last commit."""
    row = txn.one("SELECT position FROM stream_positions WHERE stream = ?", (COMMITS,))
    assert row is not None, "there is a row from the beginning"
    number: int = row[0]
    return number


def unsay(txn: Transaction, words: str) -> None:
    """Take back news of before that has some words in it; who has not heard it yet looks at everything again.

    :param words: as JSON has them.
    """
    # Nobody writes news where there are no others; so there is none then.
    txn.execute(
        "UPDATE commits SET news = ?, rooms = '[]', kinds = '[\"heads\",\"events\"]' WHERE news LIKE ? OR rooms LIKE ?",
        (orjson.dumps([to_log(CommitInDoubt())]).decode(), f"%{words}%", f"%{words}%"),
    )


def forget_old(txn: Transaction, *, now_ms: int) -> int:
    """Forget what everybody has had time to read; how many commits."""
    # From the oldest on, whatever clocks say, so that none is left out for who reads on. The newest one stays, by which
    # one sees that one has missed something.
    return txn.execute(
        "DELETE FROM commits WHERE number < COALESCE("
        "(SELECT number FROM commits WHERE made_at >= ? ORDER BY number LIMIT 1), (SELECT MAX(number) FROM commits))",
        (now_ms - KEPT_SECONDS * 1000,),
    ).rowcount


class Reading:
    """How far this process has read the log, on whatever thread.

    :param name: of this process, whose own news is not read.
    :param last: the last number that is known.
    :param wants: whether somebody waits for what happens in a room, or to some users.
    :param continuity: what this process knows of what was committed.
    :ivar complete_at: when a commit of our own last stood and all before it was known; by the monotonic clock.
    """

    def __init__(
        self,
        name: str,
        last: int,
        wants: Wants = lambda *_: True,
        continuity: Continuity | None = None,
    ) -> None:
        self.name = name
        self.last = last
        self.continuity = continuity or Continuity()
        self.complete_at = float("-inf")
        self._wants = wants
        self._lock = threading.Lock()

    def has_read(self, number: int) -> None:
        """What was up to a number is known, or can be read no more."""
        with self._lock:
            self.last = max(self.last, number)

    def read(self, txn: Transaction, rows: Sequence[Row]) -> list[Told]:
        """What stands in some rows of the log that follow what was read before; two threads may read the same.

        :param rows: number, maker, rooms, kinds and news of commits, one after the other.
        """
        last = self.last
        rows = [row for row in rows if row[0] > last]
        if not rows or rows[0][0] != last + 1 or rows[-1][0] != last + len(rows):
            return []
        written = []
        for _, maker, _, kinds, told in rows:
            for kind in orjson.loads(kinds):
                txn.caches.drop_kind(kind)
            written.append([] if maker == self.name else orjson.loads(told))
        news = from_log(txn, [item for several in written for item in several], self._wants)
        commits = [(row[0], row[1], [next(news) for _ in told]) for row, told in zip(rows, written, strict=True)]
        self.has_read(rows[-1][0])
        self.continuity.knows_of(rows[-1][0], rows[-1][1])
        return commits

    def ours(self, number: int) -> None:
        """A commit of our own stands."""
        with self._lock:
            if number == self.last + 1:
                self.last = number
                self.complete_at = time.monotonic()
