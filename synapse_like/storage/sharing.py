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
and who; who hears it, or was not connected for a while, reads on from the last number that it knows.

**What passes.** What is worth nothing in a minute, such as who is typing, leaves no trace in the tables: it stands in
what PostgreSQL tells (`tell_passing`). Who does not hear it at the time never does.

**What cannot wait.** A commit that ends access tokens, or makes copies wrong, is to be known wherever a client goes
after it was answered. Processes of one machine see the number of the last such commit in memory that they share
(`Urgent`); who is asked something, and has not come so far, reads on first.
**Quiet.** To wake all processes for each commit would cost more than the commit. Who commits one thing after the other
tells them to read on, which they do every few milliseconds for a while (`READ_ON_SECONDS`); meanwhile it says nothing.
And what a writing transaction has read in the log is not read again.

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
from typing import TYPE_CHECKING, Any, Protocol, Self

import orjson
from msgspec import Struct, field
from twisted.internet.defer import Deferred

from synapse_like.logs import get_logger
from synapse_like.storage.continuity import Continuity, DatabaseWentBack
from synapse_like.storage.engines import BUSY_SECONDS, CHANNEL, LONGEST_NOTICE, DatabaseUnavailable, Row
from synapse_like.storage.news import from_log, to_log

if TYPE_CHECKING:
    from synapse_like.protocol.events import StateSlot
    from synapse_like.storage.database import Connection, Transaction

#: The lane of all that is not a room's.
REST = 0x53594E4D
#: The stream whose positions are the numbers of commits.
COMMITS = "commits"
#: How long what a commit changed is kept for those who have not read it; in seconds.
KEPT_SECONDS = 600
#: After how many seconds the log is read if nobody said that there is something to read.
LOOK_EVERY_SECONDS = 2.0
#: How long it is read on after something was heard or found; in seconds.
READ_ON_SECONDS = 0.1
#: The pause after a look at the log, if nobody here is waiting for what stands there; in seconds.
PACE_SECONDS = 0.03
#: Who commits again so soon tells the others to read on; in seconds.
SOON_SECONDS = 0.03
#: For how long after that it is not said again that there is something to read: less than all read on for, since what
#: is committed meanwhile has to be there when they look last. And after how long that is not sure any more.
SAID_SECONDS, DOUBTFUL_SECONDS = 0.04, 0.08
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


class Turn(Struct):
    """What one writing transaction holds, and changes for others.

    :ivar number: of its commit, once it has one.
    :ivar is_urgent: whether others must know of it before they answer anybody.
    :ivar changed: rooms of which others have to read everything anew.
    :ivar moved: rooms of which others need to know where they stand, and nothing else.
    """

    holder: Holder
    lanes: set[int] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    moved: dict[str, set[StateSlot]] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)
    number: int | None = None
    is_urgent: bool = False
    _outside: int | None = None
    # Of the job that is being done.
    _held_now: set[str] = field(default_factory=set)
    _moved_now: dict[str, set[StateSlot]] = field(default_factory=dict)
    _changed_now: set[str] = field(default_factory=set)
    _notice: str = ""

    def hold(self, txn: Transaction, room_id: str) -> None:
        """Have the lane of a room.

        :raises LaneTaken: it cannot be had at once.
        """
        self._hold_lane(txn, lane_of(room_id))
        self._held_now.add(room_id)

    def hold_name(self, txn: Transaction, name: str) -> None:
        """Have the lane of something that is no room.

        :raises LaneTaken: it cannot be had at once.
        """
        self._hold_lane(txn, lane_of(f"name {name}"))

    def _hold_lane(self, txn: Transaction, lane: int) -> None:
        if lane not in self.lanes:
            held, rows = txn.lock_and_read([], [lane], _POSITIONS)
            if not held:
                raise LaneTaken(lane)
            self.lanes.add(lane)
            # Our own number, if we have it, is not yet a commit.
            last: int = dict[str, int](rows)[COMMITS] if self.number is None else self.number - 1
            self.holder.catch_up(txn, last)

    # What a job does to a room that it holds.

    def moves(self, room_id: str, slots: Iterable[StateSlot]) -> None:
        """Nothing has happened in a room but that an event has become its newest one.

        :param slots: those of its state that have changed by it.
        """
        self._moved_now.setdefault(room_id, set()).update(slots)

    def changes(self, room_id: str) -> None:
        """Something else has happened there."""
        self._changed_now.add(room_id)

    def end_job(self, *, has_written: bool) -> None:
        """A job has ended, in this transaction or without having written anything."""
        if has_written:
            for room_id in self._held_now:
                if room_id in self._moved_now and room_id not in self._changed_now:
                    self.moved.setdefault(room_id, set()).update(self._moved_now[room_id])
                else:
                    self.changed.add(room_id)
        self._held_now.clear()
        self._moved_now.clear()
        self._changed_now.clear()

    # The transaction.

    def begin(self, txn: Transaction, needed: Iterable[int], wanted: Iterable[int]) -> int:
        """Begin; wait for some lanes, have such others as can be had at once, and learn what happened there.

        :returns: how often commands have changed something beside the server.
        """
        needed = sorted(needed)
        also = sorted(set(wanted) - set(needed))
        held, rows = txn.lock_and_read(needed, also, _POSITIONS, begins=True)
        self.lanes.update(needed, held)
        positions: dict[str, int] = dict(rows)
        self.holder.catch_up(txn, positions[COMMITS])
        return positions.get("outside", 0)

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

    def take_number_and_position(self, txn: Transaction, stream: str) -> int:
        """The same, for a transaction that has none yet, and the next position of a stream with it."""
        # The second row is not touched before the first one is had: it is joined to what that gives.
        row = txn.execute(
            "WITH number AS (UPDATE stream_positions SET position = position + 1 WHERE stream = ? RETURNING position)"
            " UPDATE stream_positions AS s SET position = s.position + 1 FROM number WHERE s.stream = ?"
            " RETURNING s.position, number.position",
            (COMMITS, stream),
        ).fetchone()
        assert row is not None, "both rows are there from the beginning"
        position: int
        position, self.number = row
        return position

    def write_down(self, txn: Transaction, news: Sequence[object]) -> None:
        """Write down what the commit changes, if it concerns others; the last thing before it."""
        self.end_job(has_written=True)
        if not txn.writes or not (news or self.changed or self.moved or self.kinds or self.number is not None):
            return
        self.take_number(txn)
        told = orjson.dumps([to_log(item) for item in news]).decode()
        rooms: list[Any] = sorted(self.changed)
        for room_id in sorted(self.moved.keys() - self.changed):
            head: Movable | None = txn.caches.find("heads", room_id)
            rooms.append([room_id, head.as_moved(self.moved[room_id])] if head is not None else room_id)
        notice = self._notice = self.holder.notice()
        values = [
            self.number,
            self.holder.name,
            orjson.dumps(rooms).decode(),
            orjson.dumps(sorted(self.kinds)).decode(),
            told,
            int(time.time() * 1000),
        ]
        sql = "INSERT INTO commits (number, maker, rooms, kinds, news, made_at) VALUES (?, ?, ?, ?, ?, ?)"
        if notice:
            txn.execute(f"{sql} RETURNING pg_notify(?, ?)", [*values, CHANNEL, notice])
        else:
            txn.execute(sql, values)

    def committed(self, connection: Connection, began: float) -> None:
        """The commit stands.

        :param began: when it was begun, by the monotonic clock.
        """
        if self.number is None:
            return
        if self.is_urgent:
            self.tell_at_once(self.number)
        if not self._notice and self.holder.is_doubtful:
            # It took so long that those who were told last may look no more.
            with contextlib.suppress(*connection.engine.database_errors):
                connection.engine.notify(connection.raw, self.holder.name)
        self.holder.have_committed(self.number, began, self._notice)


#: Of how many commits a writing transaction learns one by one what they changed; before that, it forgets everything.
MOST_CAUGHT_UP = 500

#: Where the log stands, and how often commands have changed something beside the server.
_POSITIONS = "SELECT stream, position FROM stream_positions WHERE stream IN ('commits', 'outside')"

#: A commit: its number, who made it, and its news.
Told = tuple[int, str, list[object]]


class Reading:
    """How far this process has read the log, on whatever thread.

    :param name: of this process, whose own news is not read.
    :param last: the last number that is known.
    :param tell: is given commits as they are read, on the thread that reads them.
    :param wants: whether somebody waits for what happens in a room.
    :param continuity: what this process knows of what was committed.
    """

    def __init__(
        self,
        name: str,
        last: int,
        tell: Callable[[list[Told]], None],
        wants: Callable[[str], bool] = lambda _: True,
        continuity: Continuity | None = None,
    ) -> None:
        self.name = name
        self.last = last
        self.continuity = continuity or Continuity()
        self._tell = tell
        self._wants = wants
        self._lock = threading.Lock()

    def has_read(self, number: int) -> None:
        """What was up to a number is known, or can be read no more."""
        with self._lock:
            self.last = max(self.last, number)

    def read(self, txn: Transaction, rows: Sequence[Row]) -> None:
        """Tell what stands in some rows of the log that follow what was read before; two threads may tell the same.

        :param rows: number, maker, rooms, kinds and news of commits, one after the other.
        """
        last = self.last
        rows = [row for row in rows if row[0] > last]
        if not rows or rows[0][0] != last + 1:
            return
        written = []
        for _, maker, _, kinds, told in rows:
            for kind in orjson.loads(kinds):
                txn.caches.drop_kind(kind)
            written.append([] if maker == self.name else orjson.loads(told))
        news = from_log(txn, [item for several in written for item in several], self._wants)
        self._tell([(row[0], row[1], [next(news) for _ in told]) for row, told in zip(rows, written, strict=True)])
        self.has_read(rows[-1][0])
        self.continuity.knows_of(rows[-1][0], rows[-1][1])

    def ours(self, number: int) -> None:
        """A commit of our own stands."""
        with self._lock:
            if number == self.last + 1:
                self.last = number


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
    :ivar reading: is told what is read; None before there is anybody to be told.
    """

    def __init__(self, urgent: Urgent | None = None) -> None:
        self.name = secrets.token_hex(8)
        self.urgent = urgent
        self.continuity = Continuity()
        # By the monotonic clock: when it last told the others to read on, and when it last began a commit.
        self._said_at = self._committed_at = float("-inf")
        self.reading: Reading | None = None
        # The last commit of which the copies know; None before there are any.
        self._seen: int | None = None

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

    def catch_up(self, txn: Transaction, last: int) -> None:
        """Learn what other processes have changed, now that the lanes are held: copies may be wrong by it.

        :param last: the number of the last commit.
        """
        if self._seen is None:
            self._seen = last
        if last <= self._seen:
            return
        known = self.reading.last if self.reading is not None else last
        rows = txn.all(
            "SELECT number, maker, rooms, kinds, CASE WHEN number > ? THEN news END FROM commits"
            " WHERE number > ? ORDER BY number",
            (known, max(self._seen, last - MOST_CAUGHT_UP)),
        )
        if not rows or rows[0][0] > self._seen + 1:
            txn.caches.clear()
        for _, maker, rooms, kinds, _ in rows:
            if maker != self.name:
                self._forget(txn, orjson.loads(rooms))
                for kind in orjson.loads(kinds):
                    txn.caches.drop_kind(kind)
        # Perhaps more than was known to be there: what has been dealt with must not be dealt with again.
        self._seen = rows[-1][0] if rows else last
        if self.reading is not None:
            self.reading.read(txn, rows)

    def _forget(self, txn: Transaction, rooms: Sequence[Any]) -> None:
        for room in rooms:
            if isinstance(room, str):
                txn.caches.drop("heads", [room])
                continue
            room_id, place = room
            head: Movable | None = txn.caches.find("heads", room_id)
            if head is not None:
                head.move(txn, place)

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
    # From the oldest on, whatever clocks say, so that none is left out for who reads on. The newest one stays, by which
    # one sees that one has missed something.
    return txn.execute(
        "DELETE FROM commits WHERE number < COALESCE("
        "(SELECT number FROM commits WHERE made_at >= ? ORDER BY number LIMIT 1), (SELECT MAX(number) FROM commits))",
        (now_ms - KEPT_SECONDS * 1000,),
    ).rowcount


class Listener:
    """Reads what others have committed, on a thread of its own.

    :param connect: makes its connection, and says on which channel PostgreSQL tells it of news.
    :param reading: how far this process has read.
    :param missed: is given a number when what was before it cannot be read any more.
    :param tell_passing: is given news of others that stands in no log.
    :param went_back: is called, and nothing more is read, if what was committed is not there any more.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        reading: Reading,
        missed: Callable[[int], None],
        tell_passing: Callable[[list[object]], None],
        went_back: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._reading = reading
        self._went_back = went_back
        self._missed = missed
        self._tell_passing = tell_passing
        #: What has been said so far by those who are not at the end of it.
        self._parts: dict[str, str] = {}
        self._ending = threading.Event()
        self._listens = threading.Event()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="database-listener", daemon=True)

    def start(self) -> None:
        """Begin to listen. Blocks until that is so: what passes before, this process never hears."""
        self._thread.start()
        # If the database is not there just now, it is listened to later.
        self._listens.wait(BUSY_SECONDS)

    def hurry(self) -> None:
        """Somebody waits for what has been committed, and cannot wait until it would be read."""
        self._hurry.set()

    def stop(self, connection: Connection | None = None) -> None:
        """End.

        :param connection: by which the listener can be woken; without it, it may take `LOOK_EVERY_SECONDS`.
        """
        self._ending.set()
        self._hurry.set()
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
                # Who was cut short is not heard to the end.
                self._parts.clear()
                connection.see_that_all_is_there(self._reading.continuity)
                self._listens.set()
                pause = 0.1
                self._read_on(connection)
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

    def _read_on(self, connection: Connection) -> None:
        """Read when there is something to read, until the end."""
        # What was said before it listened may have been to read on.
        until = time.monotonic() + READ_ON_SECONDS
        while not self._ending.is_set():
            # Before the look: the last one has to come after all that was not said because everybody was reading.
            is_last = time.monotonic() >= until
            self._hurry.clear()
            count = self._read(connection)
            if count == MOST_AT_ONCE:
                continue
            if count or not is_last:
                self._hurry.wait(PACE_SECONDS)
            if self._hear(connection, LOOK_EVERY_SECONDS if is_last else 0):
                until = time.monotonic() + READ_ON_SECONDS

    def _hear(self, connection: Connection, seconds: float) -> bool:
        """Hear whether to read on; what passes is told at once, after what was committed before it.

        :param seconds: how long to wait for the first that is said, be it only that there is something to read.
        """
        is_to_read_on = False
        for notice in connection.engine.notices(connection.raw, seconds):
            maker, _, rest = notice.partition(" ")
            if maker in ("", self._reading.name):
                continue
            if rest in ("", "+"):
                is_to_read_on |= rest == "+"
                continue
            left, _, text = rest.partition(" ")
            text = self._parts.pop(maker, "") + text
            if left != "0":
                self._parts[maker] = text
                continue
            while self._read(connection) == MOST_AT_ONCE:
                pass
            txn = connection.begin(writable=False)
            try:
                self._tell_passing(list(from_log(txn, orjson.loads(text))))
            finally:
                connection.roll_back(txn)
        return is_to_read_on

    def _read(self, connection: Connection) -> int:
        """Read on; how many commits there were."""
        rows = connection.look(
            "SELECT number, maker, rooms, kinds, news FROM commits WHERE number > ? ORDER BY number LIMIT ?",
            (self._reading.last, MOST_AT_ONCE),
        )
        if not rows:
            return 0
        txn = connection.begin_late()
        try:
            if rows[0][0] > self._reading.last + 1:
                txn.caches.clear()
                self._missed(rows[0][0] - 1)
                self._reading.has_read(rows[0][0] - 1)
            self._reading.read(txn, rows)
        finally:
            connection.roll_back(txn)
        return len(rows)


class Order:
    """Publishes the commits of all processes in the order of their numbers; on the reactor's thread.

    :param name: of this process.
    :param last: the last number that is known.
    :param deliver: is given the news of one commit after the other, and the results of our own.
    :param hurry: is called when somebody waits for what was not read yet.
    """

    def __init__(
        self,
        name: str,
        last: int,
        deliver: Callable[[Sequence[object], Any], None],
        hurry: Callable[[], object] = lambda: None,
    ) -> None:
        self._name = name
        self._last = last
        self._deliver = deliver
        self._hurry = hurry
        self._ours: dict[int, tuple[Sequence[object], Any]] = {}
        self._theirs: dict[int, list[object]] = {}
        self._doubtful: dict[int, Sequence[object]] = {}
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
        if self._waiting:
            self._hurry()
        return reached

    def _let_go_on(self) -> None:
        ready = [reached for number, reached in self._waiting if number <= self._last]
        self._waiting = [waiting for waiting in self._waiting if waiting[0] > self._last]
        for reached in ready:
            if not reached.called:
                reached.callback(None)

    def ours(self, number: int, news: Sequence[object], outcomes: Any) -> None:
        """One of our own commits stands."""
        self._doubtful.pop(number, None)
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

    def in_doubt(self, number: int, news: Sequence[object]) -> None:
        """A commit of ours failed, and may stand or not, perhaps only later: if it does, it is in the log.

        :param news: what is published when a commit of that number is there, be it another one of ours.
        """
        self._doubtful[number] = news
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
                news, outcomes = self._doubtful[following], ()
            else:
                break
            self._found.discard(following)
            self._doubtful.pop(following, None)
            self._last = following
            self._deliver(news, outcomes)
        if self._waiting:
            self._let_go_on()
        if self._ours or self._waiting:
            self._hurry()
