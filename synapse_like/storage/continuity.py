"""Whether a database is still the one that was written to, once the connection to it was lost.

Another may have taken its place: a replica that was made the primary. One that follows its primary synchronously has
everything that was acknowledged. Another one may lack the last moments; positions that clients and this process know
would then be given out again, for something else, and nobody would be told of that.

So who connects again looks for the last thing that it knows. If that is not there, all positions leap ahead, beyond
those that anybody may have been told, and the process ends: what it keeps in memory is not what the tables say.
"""

from __future__ import annotations

from collections.abc import Mapping

from synapse_like.storage.engines.engine import DatabaseUnavailable
from synapse_like.storage.transactions import Transaction

#: How far positions leap: more than are given out in the moments that may be missing.
LEAP = 1_000_000


class DatabaseWentBack(DatabaseUnavailable):
    """Something that was committed is not there any more."""

    def __init__(self) -> None:
        super().__init__("the database lacks what was committed: another one has taken its place, with fewer commits")


class Continuity:
    """The last that a process knows of what was committed."""

    def __init__(self) -> None:
        self._positions: dict[str, int] = {}
        self._commit: tuple[int, str] | None = None

    def knows(self, positions: Mapping[str, int]) -> None:
        """Positions have been committed."""
        self._positions.update(positions)

    def knows_of(self, number: int, maker: str) -> None:
        """A commit has been made, of a database that is shared."""
        if self._commit is None or number > self._commit[0]:
            self._commit = (number, maker)

    def is_broken(self, txn: Transaction) -> bool:
        """Whether something of that is not there."""
        now: dict[str, int] = dict(txn.all("SELECT stream, position FROM stream_positions"))
        if any(now.get(stream, 0) < position for stream, position in self._positions.items()):
            return True
        if self._commit is None:
            return False
        number, maker = self._commit
        row = txn.one("SELECT MIN(number), MAX(CASE WHEN number = ? THEN maker END) FROM commits", (number,))
        assert row is not None, "it counts"
        oldest, found = row
        if found is None:
            # Those that are old are forgotten, from the oldest on; the newest never is.
            return oldest is None or bool(oldest < number)
        return bool(found != maker)


def leap(txn: Transaction) -> None:
    """Have no position given out again that may have been given out."""
    txn.execute("UPDATE stream_positions SET position = position + ?", (LEAP,))
