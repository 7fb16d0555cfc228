"""One database for several processes of the server, each of which may do anything.

**Lanes.** What one process writes must not go against what another writes at the same time. Every writing transaction
holds a lock for each room that it adds to, and one for all that is not a room's; it has them before it reads what it
goes by, and until its commit. So for each room, and for the rest, there is one writer at a time, as there is in a
process that is alone. A transaction waits for a lane only while it holds nothing; one that it needs later it gets at
once or not at all, and then its job is done again in a transaction that begins with it. So none waits for another in
a circle.

**The log of commits.** A commit that others have to know of has a number, which is taken under a lock that is held
until the commit: numbers have no gaps, and never become visible after a later one has. Positions in streams are taken
under the same lock, so the same holds for them. With the number the commit writes down which rooms it changed, which
kinds of copies are wrong now, and its news. PostgreSQL then tells the others (NOTIFY) that there is something to read,
and nothing else; who hears it, or was not connected for a while, reads on from the last number that it knows.

**What passes.** What is worth nothing in a minute, such as who is typing, leaves no trace in the tables: it stands in
what PostgreSQL tells (`tell_passing`). Who does not hear it at the time never does.

**What cannot wait.** A commit that ends access tokens, or makes copies wrong, is to be known wherever a client goes
after it was answered. Processes of one machine see the number of the last such commit in memory that they share
(`Urgent`); who is asked something, and has not come so far, reads on first.

**Order.** Each process publishes the news of all commits in the order of their numbers, its own among them, and gives
the results of its own jobs with their news: who learns of a position knows that everything up to it can be read.
"""

from __future__ import annotations

import contextlib
import mmap
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Self

import orjson
from msgspec import Struct, field
from twisted.internet.defer import Deferred

from synapse_like.logs import get_logger
from synapse_like.storage.continuity import Continuity, DatabaseWentBack
from synapse_like.storage.engines import BUSY_SECONDS, CHANNEL, LONGEST_NOTICE, DatabaseUnavailable
from synapse_like.storage.news import from_log, to_log

if TYPE_CHECKING:
    from synapse_like.storage.database import Connection, Transaction

#: The lane of all that is not a room's.
REST = 0x53594E4D
#: The stream whose positions are the numbers of commits.
COMMITS = "commits"
#: How long what a commit changed is kept for those who have not read it; in seconds.
KEPT_SECONDS = 600
#: After how many seconds the log is read if nobody said that there is something to read.
LOOK_EVERY_SECONDS = 1.0
#: How many commits are read at once.
MOST_AT_ONCE = 500
#: The longest pause between attempts to reach the database again, in seconds.
LONGEST_PAUSE = 5.0

_log = get_logger(__name__)


def lane_of(room_id: str) -> int:
    """The lane of a room."""
    return int.from_bytes(blake2b(room_id.encode(), digest_size=8).digest(), "big", signed=True)


def lock_of_claim(name: str) -> int:
    """The lock of what only one process may do (`claims.py`); never a lane."""
    return lane_of(f"claim {name}")


class LaneTaken(Exception):
    """Another process writes in a lane; the job is to be done again in a transaction that waits for it first."""

    def __init__(self, lane: int) -> None:
        super().__init__("another process is writing there")
        self.lane = lane


class Turn(Struct):
    """What one writing transaction holds, and changes for others.

    :ivar number: of its commit, once it has one.
    :ivar is_urgent: whether others must know of it before they answer anybody.
    """

    holder: Holder
    lanes: set[int] = field(default_factory=set)
    rooms: set[str] = field(default_factory=set)
    kinds: set[str] = field(default_factory=set)
    number: int | None = None
    is_urgent: bool = False

    def hold(self, txn: Transaction, room_id: str) -> None:
        """Have the lane of a room.

        :raises LaneTaken: it cannot be had at once.
        """
        self._hold_lane(txn, lane_of(room_id))
        self.rooms.add(room_id)

    def hold_name(self, txn: Transaction, name: str) -> None:
        """Have the lane of something that is no room.

        :raises LaneTaken: it cannot be had at once.
        """
        self._hold_lane(txn, lane_of(f"name {name}"))

    def _hold_lane(self, txn: Transaction, lane: int) -> None:
        if lane not in self.lanes:
            self._try(txn, [lane])
            if lane not in self.lanes:
                raise LaneTaken(lane)
            self.holder.catch_up(txn)

    def begin(self, txn: Transaction, needed: Iterable[int], wanted: Iterable[int]) -> None:
        """Wait for some lanes, have such others as can be had at once, and learn what happened there."""
        for lane in sorted(needed):
            txn.one("SELECT pg_advisory_xact_lock(?)", (lane,))
            self.lanes.add(lane)
        self._try(txn, wanted)
        self.holder.catch_up(txn)

    def _try(self, txn: Transaction, wanted: Iterable[int]) -> None:
        new = sorted(set(wanted) - self.lanes)
        if new:
            rows = txn.all(
                "SELECT lane, pg_try_advisory_xact_lock(lane) FROM unnest(CAST(? AS BIGINT[])) AS lane", (new,)
            )
            self.lanes.update(lane for lane, is_held in rows if is_held)

    def take_number(self, txn: Transaction) -> None:
        """Have the number of the commit, if it has none yet; one transaction at a time takes positions after that."""
        if self.number is None:
            self.number = txn.insert(
                "UPDATE stream_positions SET position = position + 1 WHERE stream = ? RETURNING position", (COMMITS,)
            )

    def tell_at_once(self, number: int) -> None:
        """It is committed, and others on this machine must know."""
        if self.holder.urgent is not None:
            self.holder.urgent.note(number)

    def write_down(self, txn: Transaction, news: Sequence[object]) -> None:
        """Write down what the commit changes, if it concerns others; the last thing before it."""
        if not txn.writes or not (news or self.rooms or self.kinds or self.number is not None):
            return
        self.take_number(txn)
        told = orjson.dumps([to_log(item) for item in news]).decode()
        txn.execute(
            "INSERT INTO commits (number, maker, rooms, kinds, news, made_at) VALUES (?, ?, ?, ?, ?, ?)"
            " RETURNING pg_notify(?, '')",
            (
                self.number,
                self.holder.name,
                orjson.dumps(sorted(self.rooms)).decode(),
                orjson.dumps(sorted(self.kinds)).decode(),
                told,
                int(time.time() * 1000),
                CHANNEL,
            ),
        )


class Urgent:
    """The numbers of those commits that others on this machine must know before they answer anybody.

    :param numbers: the last of each process, in memory that they share.
    :param place: of the process that this is.
    """

    def __init__(self, numbers: memoryview[int], place: int) -> None:
        self._numbers = numbers
        self._place = place

    @classmethod
    def of_several(cls, count: int) -> list[Self]:
        """Those of some processes that are forked from now on."""
        numbers = memoryview(mmap.mmap(-1, 8 * count)).cast("Q")
        return [cls(numbers, place) for place in range(count)]

    def note(self, number: int) -> None:
        """This process has made one."""
        # Nobody else writes there, and it is written at once or not at all.
        self._numbers[self._place] = number

    def newest(self) -> int:
        """The last of all of them; 0 if there was none yet."""
        return max(self._numbers)


class Holder:
    """A process among those that share a database, as its writing thread sees it.

    :param urgent: what others must know at once; None if there are none on this machine.
    :ivar name: by which its commits are known.
    :ivar continuity: the last commit that it knows, its own or another's.
    """

    def __init__(self, urgent: Urgent | None = None) -> None:
        self.name = secrets.token_hex(8)
        self.urgent = urgent
        self.continuity = Continuity()
        self._seen: int | None = None

    def catch_up(self, txn: Transaction) -> None:
        """Forget the copies that other processes have made wrong, now that the lanes are held."""
        if self._seen is None:
            self._seen = newest(txn)
            return
        rows = txn.all(
            "SELECT number, maker, rooms, kinds FROM commits WHERE number > ? ORDER BY number", (self._seen,)
        )
        if rows and rows[0][0] > self._seen + 1:
            txn.caches.clear()
        for _, maker, rooms, kinds in rows:
            if maker != self.name:
                txn.caches.drop("heads", orjson.loads(rooms))
                for kind in orjson.loads(kinds):
                    txn.caches.drop_kind(kind)
        if rows:
            self._seen = rows[-1][0]


def tell_passing(txn: Transaction, maker: str, news: Sequence[object]) -> None:
    """Tell the other processes, with the commit of a transaction, what leaves no trace.

    :param maker: the name of this process.
    """
    text = orjson.dumps([to_log(item) for item in news]).decode()
    # No character has more than four bytes.
    length = (LONGEST_NOTICE - 60) // 4 if not text.isascii() else LONGEST_NOTICE - 60
    parts = [text[start : start + length] for start in range(0, len(text), length)]
    for left, part in zip(reversed(range(len(parts))), parts, strict=True):
        txn.one("SELECT pg_notify(?, ?)", (CHANNEL, f"{maker} {left} {part}"))


def newest(txn: Transaction) -> int:
    """The number of the last commit."""
    row = txn.one("SELECT position FROM stream_positions WHERE stream = ?", (COMMITS,))
    assert row is not None, "there is a row from the beginning"
    number: int = row[0]
    return number


def forget_old(txn: Transaction, *, now_ms: int) -> int:
    """Forget what everybody has had time to read; how many commits."""
    # The newest one stays, by which one sees that one has missed something.
    return txn.execute(
        "DELETE FROM commits WHERE made_at < ? AND number < (SELECT MAX(number) FROM commits)",
        (now_ms - KEPT_SECONDS * 1000,),
    ).rowcount


#: A commit: its number, who made it, and its news.
Told = tuple[int, str, list[object]]


class Listener:
    """Reads what others have committed, on a thread of its own.

    :param connect: makes its connection, and says on which channel PostgreSQL tells it of news.
    :param holder: this process, whose own news is not read.
    :param last: the last number that is known.
    :param tell: is given commits as they are read, on the listener's thread.
    :param missed: is given a number when what was before it cannot be read any more.
    :param tell_passing: is given news of others that stands in no log.
    :param went_back: is called, and nothing more is read, if what was committed is not there any more.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        holder: Holder,
        last: int,
        tell: Callable[[list[Told]], None],
        missed: Callable[[int], None],
        tell_passing: Callable[[list[object]], None],
        went_back: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._name = holder.name
        self._continuity = holder.continuity
        self._went_back = went_back
        self._last = last
        self._tell = tell
        self._missed = missed
        self._tell_passing = tell_passing
        #: What has been said so far by those who are not at the end of it.
        self._parts: dict[str, str] = {}
        self._ending = threading.Event()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._run, name="database-listener", daemon=True)

    def start(self) -> None:
        """Begin to listen. Blocks until that is so: what passes before, this process never hears."""
        self._thread.start()
        # If the database is not there just now, it is listened to later.
        self._listens.wait(BUSY_SECONDS)

    def stop(self, connection: Connection | None = None) -> None:
        """End.

        :param connection: by which the listener can be woken; without it, it may take `LOOK_EVERY_SECONDS`.
        """
        self._ending.set()
        if connection is not None:
            with contextlib.suppress(*connection.engine.database_errors):
                connection.engine.notify(connection.raw)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause = 0.1
        while not self._ending.is_set():
            try:
                connection = self._connect()
            except DatabaseUnavailable as error:
                _log.warning("others cannot be listened to", reason=str(error).strip())
                self._ending.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            try:
                connection.engine.listen(connection.raw)
                connection.see_that_all_is_there(self._continuity)
                self._listens.set()
                pause = 0.1
                while not self._ending.is_set():
                    if not self._read(connection):
                        self._hear(connection)
            except DatabaseWentBack:
                self._went_back()
                return
            except connection.engine.database_errors as error:
                _log.warning("what others said could not be read, connecting again", reason=str(error).strip())
            except Exception:
                _log.exception("what others said could not be understood, connecting again")
                self._ending.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            finally:
                connection.close()

    def _hear(self, connection: Connection) -> None:
        """Wait until there is something to read; what passes is told at once, after what was committed before it."""
        is_behind = False
        for notice in connection.engine.notices(connection.raw, LOOK_EVERY_SECONDS):
            maker, _, rest = notice.partition(" ")
            is_behind = is_behind or not maker
            if maker in ("", self._name):
                continue
            left, _, text = rest.partition(" ")
            text = self._parts.pop(maker, "") + text
            if left != "0":
                self._parts[maker] = text
                continue
            while is_behind:
                is_behind = self._read(connection)
            txn = connection.begin(writable=False)
            try:
                self._tell_passing(list(from_log(txn, orjson.loads(text))))
            finally:
                connection.roll_back(txn)

    def _read(self, connection: Connection) -> bool:
        """Read on; whether there may be more."""
        txn = connection.begin(writable=False)
        try:
            rows = txn.all(
                "SELECT number, maker, kinds, news FROM commits WHERE number > ? ORDER BY number LIMIT ?",
                (self._last, MOST_AT_ONCE),
            )
            if not rows:
                return False
            if rows[0][0] > self._last + 1:
                txn.caches.clear()
                self._missed(rows[0][0] - 1)
            written = []
            for _, maker, kinds, told in rows:
                for kind in orjson.loads(kinds):
                    txn.caches.drop_kind(kind)
                written.append([] if maker == self._name else orjson.loads(told))
            news = from_log(txn, [item for several in written for item in several])
            self._tell([(row[0], row[1], [next(news) for _ in told]) for row, told in zip(rows, written, strict=True)])
            self._last = rows[-1][0]
            self._continuity.knows_of(self._last, rows[-1][1])
            return len(rows) == MOST_AT_ONCE
        finally:
            connection.roll_back(txn)


class Order:
    """Publishes the commits of all processes in the order of their numbers; on the reactor's thread.

    :param name: of this process.
    :param last: the last number that is known.
    :param deliver: is given the news of one commit after the other, and the results of our own.
    """

    def __init__(self, name: str, last: int, deliver: Callable[[Sequence[object], Any], None]) -> None:
        self._name = name
        self._last = last
        self._deliver = deliver
        self._ours: dict[int, tuple[Sequence[object], Any]] = {}
        self._theirs: dict[int, list[object]] = {}
        self._doubtful: set[int] = set()
        self._found: set[int] = set()
        self._waiting: list[tuple[int, Deferred[None]]] = []

    @property
    def last(self) -> int:
        """The number up to which the news of all commits has been published."""
        return self._last

    def reach(self, number: int) -> Deferred[None]:
        """Wait until the news of all commits up to a number has been published."""
        reached: Deferred[None] = Deferred()
        self._waiting.append((number, reached))
        self._let_go_on()
        return reached

    def _let_go_on(self) -> None:
        ready = [reached for number, reached in self._waiting if number <= self._last]
        self._waiting = [waiting for waiting in self._waiting if waiting[0] > self._last]
        for reached in ready:
            if not reached.called:
                reached.callback(None)

    def ours(self, number: int, news: Sequence[object], outcomes: Any) -> None:
        """One of our own commits stands."""
        self._doubtful.discard(number)
        if number <= self._last:
            # Everybody has looked again, instead of being told.
            self._deliver((), outcomes)
            return
        self._ours[number] = (news, outcomes)
        self._go_on()

    def heard(self, commits: Iterable[Told]) -> None:
        """Some commits were read in the log."""
        for number, maker, news in commits:
            if number > self._last:
                if maker == self._name:
                    self._found.add(number)
                else:
                    self._theirs[number] = news
        self._go_on()

    def in_doubt(self, number: int) -> None:
        """A commit of ours failed, and may stand or not: if it does, it is in the log. Everybody looks again anyhow."""
        self._doubtful.add(number)
        self._go_on()

    def missed(self, number: int) -> None:
        """What was up to a number can be read no more. Everybody looks again anyhow."""
        self._last = max(self._last, number)
        for known in sorted(known for known in self._ours if known <= number):
            _, outcomes = self._ours.pop(known)
            self._deliver((), outcomes)
        self._theirs = {known: news for known, news in self._theirs.items() if known > number}
        self._go_on()

    def _go_on(self) -> None:
        while True:
            following = self._last + 1
            if following in self._ours:
                news, outcomes = self._ours.pop(following)
            elif following in self._theirs:
                news, outcomes = self._theirs.pop(following), ()
            elif following in self._doubtful and following in self._found:
                news, outcomes = (), ()
            else:
                break
            self._found.discard(following)
            self._doubtful.discard(following)
            self._last = following
            self._deliver(news, outcomes)
        if self._waiting:
            self._let_go_on()
