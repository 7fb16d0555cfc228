"""A process among those that share a database, as its writing thread sees it.

Before it writes, it learns what the others have changed: its copies may be wrong by it. What a transaction that was
committed has read of the log is not read again by the listener, if that did not come first.

**Quiet.** To wake all processes for each commit would cost more than the commit. A process that commits one thing after
the other tells them to read on, which they do every few milliseconds for a while (`READ_ON_SECONDS` in `listener.py`);
meanwhile it says nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any, Protocol

import orjson

from synapse_like.logs import get_logger
from synapse_like.protocol.events import StateSlot
from synapse_like.storage.continuity import Continuity
from synapse_like.storage.engines.engine import Query, Row
from synapse_like.storage.shared.commit_log import Reading, Told
from synapse_like.storage.shared.machine import Machine
from synapse_like.storage.transactions import Transaction

#: Who commits again so soon tells the others to read on; in seconds.
SOON_SECONDS = 0.03
#: For how long after that it is not said again that there is something to read: less than all read on for, since what
#: is committed meanwhile has to be there when they look last. And after how long that is not sure any more.
SAID_SECONDS, DOUBTFUL_SECONDS = 0.04, 0.08
#: Of how many commits a writing transaction learns one by one what they changed; before that, it forgets everything.
MOST_CAUGHT_UP = 500
#: After how many looks in vain it is not likely any more that others have committed something. To ask for it in vain
#: costs less than to ask for it in a message of its own.
PATIENCE = 4

#: The newest commits first, after a number; news only of those after another one.
_COMMITS_SINCE = (
    "SELECT number, maker, rooms, kinds, CASE WHEN number > ? THEN news END FROM commits"
    " WHERE number > ? ORDER BY number DESC LIMIT ?"
)
#: A number that no commit has.
_NEVER = 2**62

_log = get_logger(__name__)


class Look(IntEnum):
    """When a writing transaction looks what others have committed: when it begins, and when its commit has a number."""

    BEGIN = 0
    NUMBER = 1


class Movable(Protocol):
    """A copy that can be brought up to date, when all that happened was of the usual kind: see `Turn.moves`."""

    def as_moved(self, slots: Iterable[StateSlot]) -> Any:
        """Where it stands, as JSON can say it.

        :param slots: those of its state that have changed.
        """
        ...

    def move(self, txn: Transaction, place: Any) -> None:
        """Be there; it was where that process found it."""
        ...


class Holder:
    """A process among those that share a database, as its writing thread sees it.

    :param machine: what the processes of this machine know of each other; None if there are no others.
    :ivar name: by which its commits are known.
    :ivar continuity: the last commit that it knows, its own or another's.
    :ivar reading: how far the log is read; None before there is anybody to be told of it.
    """

    def __init__(self, machine: Machine | None = None) -> None:
        self.name = secrets.token_hex(8)
        self.machine = machine
        self.continuity = Continuity()
        # By the monotonic clock: when it last told the others to read on, and when it last began a commit.
        self._said_at = self._committed_at = float("-inf")
        self.reading: Reading | None = None
        # The last commit of which the copies know; None before there are any.
        self._seen: int | None = None
        # What this transaction has read of the log.
        self._rows: list[Row] = []
        # How often in a row nothing was found, by when it was looked.
        self._in_vain = [PATIENCE for _ in Look]

    def notice(self) -> str:
        """What to say with a commit: that there is something to read, or to read on; or nothing."""
        now = time.monotonic()
        if now - self._said_at <= SAID_SECONDS:
            return ""
        return f"{self.name} +" if now - self._committed_at <= SOON_SECONDS else self.name

    @property
    def is_doubtful(self) -> bool:
        """Whether others may have stopped reading on."""
        return time.monotonic() - self._said_at > DOUBTFUL_SECONDS

    @property
    def unseen(self) -> Query:
        """What asks for the commits that the copies do not know of, the newest first, with the news not read yet."""
        seen = self._seen if self._seen is not None else _NEVER
        return _COMMITS_SINCE, (self.reading.last if self.reading is not None else _NEVER, seen, MOST_CAUGHT_UP)

    def likely(self, look: Look) -> list[Query]:
        """The same, if it is likely that there are some; for a message that asks for something else, too."""
        return [self.unseen] if self._in_vain[look] < PATIENCE else []

    def come_to(self, txn: Transaction, newest: int, look: Look, answers: Sequence[Sequence[Row]]) -> None:
        """Learn of all commits up to one.

        :param newest: its number.
        :param answers: to `likely`, after that one was there.
        """
        if not answers and self._seen is not None and self._seen < newest:
            answers, _ = txn.ask([self.unseen])
        for commits in answers:
            self.catch_up(txn, commits)
        self._in_vain[look] = 0 if any(answers) else self._in_vain[look] + 1

    def begin(self, newest: int) -> None:
        """A writing transaction has begun. At the first one there are no copies yet that anything could make wrong.

        :param newest: the number of the newest commit.
        """
        self._rows = []
        if self._seen is None:
            self._seen = newest

    def catch_up(self, txn: Transaction, commits: Sequence[Row]) -> None:
        """Learn what other processes have changed, now that the lanes are held: copies may be wrong by it.

        :param commits: the answer to `unseen`.
        """
        if not commits:
            return
        assert self._seen is not None, "a transaction has begun"
        rows = commits[::-1]
        if rows[0][0] > self._seen + 1:
            txn.caches.clear()
            # It is for the listener, from where it was read last.
            self._rows = []
        for _, maker, rooms, kinds, _ in rows:
            if maker != self.name:
                self._forget(txn, orjson.loads(rooms))
                for kind in orjson.loads(kinds):
                    txn.caches.drop_kind(kind)
        self._seen = rows[-1][0]
        self._rows += rows
        self.continuity.knows_of(rows[-1][0], rows[-1][1])

    def _forget(self, txn: Transaction, rooms: Sequence[Any]) -> None:
        for room in rooms:
            if isinstance(room, str):
                txn.caches.drop("heads", [room])
                continue
            room_id, place = room
            head: Movable | None = txn.caches.find("heads", room_id)
            if head is not None:
                head.move(txn, place)

    def read(self, txn: Transaction) -> list[Told]:
        """What a transaction that is committed has read of the log, as far as the listener has not read it meanwhile.

        It is told together with what became of the transaction: to be told twice costs more.
        """
        if self.reading is None:
            return []
        try:
            return self.reading.read(txn, self._rows)
        except Exception as error:
            # The commit stands, whatever this is. The listener reads it once more, and says why it cannot.
            _log.info("what others have committed is read later", reason=f"{type(error).__name__}: {error}")
            return []

    def have_committed(self, number: int, began: float, notice: str) -> None:
        """A commit of this process stands.

        :param began: when it was begun, by the monotonic clock.
        :param notice: what was said with it.
        """
        self._committed_at = began
        if notice.endswith("+"):
            self._said_at = began
        if self._seen is not None and number == self._seen + 1:
            self._seen = number
        if self.reading is not None:
            self.reading.ours(number)
