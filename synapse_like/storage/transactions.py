"""One open transaction: all that storage functions see of the database.

A *storage function* is a plain function that takes a `Transaction` first. It may run more than once (`database.py` says
when), and must change nothing but the tables, directly. What else is to come of it, it hands to the transaction, for
the time when it is known how that has ended: `when_committed`, `when_rolled_back`, `announce`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from synapse_like.storage.caches import Cache, CacheKind, Caches, Key, Value
from synapse_like.storage.engines.engine import Engine, Query, RawConnection, RawCursor, Row
from synapse_like.storage.shared.lanes import lane_of_name
from synapse_like.storage.values import MOST_VALUES, batched, placeholders

if TYPE_CHECKING:
    from synapse_like.storage.shared.turns import Turn

Function = TypeVar("Function", bound=Callable[..., Any])


#: By storage function, what it asks first: from whether the database is shared, and its arguments.
_first_questions: dict[Any, Callable[..., Query]] = {}


def asks_first(question: Callable[..., Query]) -> Callable[[Function], Function]:
    """Mark a storage function of which it is known from its arguments what it asks first (`Transaction.first`).

    Of jobs that share a transaction, that is asked in one message.

    :param question: is given whether the database is shared, and the arguments of the function.
    """

    def mark(function: Function) -> Function:
        _first_questions[function] = question
        return function

    return mark


def first_question(function: object, *arguments: Any, is_shared: bool) -> Query | None:
    """What a storage function asks first; None if that is not known."""
    question = _first_questions.get(function)
    return question(is_shared, *arguments) if question is not None else None


class Transaction:
    """One open transaction, as the storage functions see it."""

    __slots__ = (
        "_adapt",
        "_engine",
        "_foreseen",
        "caches",
        "for_update",
        "generation",
        "heads",
        "known_events",
        "last_writes",
        "news",
        "on_commit",
        "on_rollback",
        "outcomes",
        "outdated",
        "positions",
        "raw",
        "slots",
        "statements",
        "turn",
        "waiting",
        "writable",
        "writes",
    )

    def __init__(
        self,
        connection: RawConnection,
        engine: Engine,
        caches: Caches,
        *,
        writable: bool,
        turn: Turn | None = None,
    ) -> None:
        self._engine = engine
        self._adapt = engine.adapt
        # For those who run it.
        self.raw = connection
        #: Statements that are to be run with the next message, or with the commit.
        self.waiting: list[Query] = []
        self.last_writes: dict[object, Callable[[], None]] = {}
        self.on_commit: list[Callable[[], None]] = []
        self.on_rollback: list[Callable[[], None]] = []
        self.news: list[object] = []
        self.caches = caches
        #: Of the caches, when this transaction began.
        self.generation = caches.generation
        self.for_update = engine.for_update
        self.writable = writable
        #: What it holds of a database that is shared; None of one that is not.
        self.turn = turn
        #: Kinds of copies that this transaction has made wrong; it must not read them any more.
        self.outdated: set[object] = set()
        #: Stream positions handed out by this transaction (`positions.py`).
        self.positions: dict[str, int] = {}
        self._foreseen: dict[Query, list[Row]] = {}
        #: Where the rooms stand that it writes to (`rooms.py`), whatever is forgotten of the copies meanwhile.
        self.heads: dict[str, Any] = {}
        #: What it knows of events (`events.py`), by their IDs; None of one that is not here.
        self.known_events: dict[str, Any] = {}
        #: Answers to requests that it does once (`retransmissions.py`), with when they came; written at its end.
        self.outcomes: dict[tuple[int, bytes], tuple[dict[str, Any], int]] = {}
        #: Numbers of (type, state key) that this transaction has given out (`state.py`).
        self.slots: dict[tuple[str, str], int] = {}
        self.statements = 0
        self.writes = 0

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> RawCursor:
        """Run a statement that changes something."""
        # It may be what somebody has asked about.
        self._foreseen.clear()
        return self._change(sql, parameters)

    def _change(self, sql: str, parameters: Sequence[object]) -> RawCursor:
        self.writes += 1
        return self._run(sql, parameters)

    def execute_later(self, sql: str, parameters: Sequence[object] = ()) -> None:
        """The same for one that gives nothing, and changes nothing of what is asked `first`.

        It is run before the next one that may give something, or right before the commit.

        :param sql: one of few, which are kept ready.
        """
        if not self._engine.gathers:
            self._change(sql, parameters)
            return
        self.writes += 1
        self.statements += 1
        self.waiting.append((sql, parameters))

    def execute_now(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """The same with a statement that gives rows, in one message with those that were to be run later."""
        self.writes += 1
        [rows], _ = self.ask([(sql, parameters)])
        return rows

    def one(self, sql: str, parameters: Sequence[object] = ()) -> Row | None:
        """The first row of a query, or None."""
        row: Row | None = self._run(sql, parameters).fetchone()
        return row

    def all(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Every row of a query."""
        return self._run(sql, parameters).fetchall()

    def _run(self, sql: str, parameters: Sequence[object]) -> RawCursor:
        if self.waiting:
            self.ask([])
        self.statements += 1
        return self.raw.execute(self._adapt(sql), parameters)

    def insert(self, sql: str, parameters: Sequence[object] = ()) -> Any:
        """Run an ``INSERT … RETURNING``, as `execute_now` does, and give the first column of what it returned."""
        [row] = self.execute_now(sql, parameters)
        return row[0]

    def insert_rows(self, sql: str, rows: Sequence[Sequence[object]], then: str = "") -> list[Row]:
        """Insert many rows with few statements; what they return, in any order, if they return something.

        :param sql: up to ``VALUES``; one of few, as in `execute_later`.
        :param then: what follows the values.
        """
        if len(rows) == 1 and "RETURNING" not in then:
            self.execute_later(f"{sql} VALUES ({placeholders(rows[0])}) {then}", rows[0])
            return []
        returned: list[Row] = []
        for part in batched(rows, MOST_VALUES // max(1, len(rows[0]) if rows else 1)):
            values = ", ".join([f"({placeholders(part[0])})"] * len(part))
            cursor = self._change(f"{sql} VALUES {values} {then}", [value for row in part for value in row])
            if "RETURNING" in then:
                returned += cursor.fetchall()
        return returned

    def before_commit(self, key: object, write: Callable[[], None]) -> None:
        """Have `write` called once at the end of the transaction, however often it was asked for under this key."""
        self.writes += 1
        self.last_writes.setdefault(key, write)

    def when_committed(self, change: Callable[[], None]) -> None:
        """Have `change` called on this thread right after the commit; never, if there is none."""
        self.on_commit.append(change)

    def when_rolled_back(self, undo: Callable[[], None]) -> None:
        """Have `undo` called if the transaction is rolled back."""
        self.on_rollback.append(undo)

    def announce(self, news: object) -> None:
        """Have `news` published on the bus after the commit."""
        self.news.append(news)

    def cache(self, kind: CacheKind[Key, Value]) -> Cache[Key, Value]:
        """The copies of one kind."""
        return self.caches.of(kind)

    # What other processes are kept from, and told.

    def hold_room(self, room_id: str) -> None:
        """Be the only one to write to a room, until the commit: before what is written there is decided.

        :raises LaneTaken: another process is writing to it; the job is to be done again.
        """
        if self.turn is not None:
            self.turn.hold(self, room_id)

    def hold_names(self, *names: str) -> None:
        """Have to oneself, until the commit, what is no room's, and what lanes of several rooms may touch.

        :raises LaneTaken: another process has it; the job is to be done again.
        """
        if self.turn is not None:
            self.turn.hold_names(self, names)

    def holds_name(self, name: str) -> bool:
        """Whether one has that already, or has everything."""
        return self.turn is None or lane_of_name(name) in self.turn.lanes

    @property
    def is_shared(self) -> bool:
        """Whether other processes may write at the same time."""
        return self.turn is not None

    def moves(self, room_id: str, slots: Iterable[tuple[str, str]]) -> None:
        """An event has become the newest one of a room, and nothing else has happened there, as far as this goes.

        :param slots: those of the room's state that have changed by it.
        """
        if self.turn is not None:
            self.turn.moves(room_id, slots)

    def changes(self, room_id: str) -> None:
        """Something else has happened in a room."""
        if self.turn is not None:
            self.turn.changes(room_id)

    def take_number(self) -> None:
        """Commit after all who have done this before, and before all who will."""
        if self.turn is not None:
            self.turn.take_number(self)

    def outdates(self, kind: str) -> None:
        """Have other processes forget their copies of a kind."""
        if self.turn is not None:
            self.turn.kinds.add(kind)
            self.turn.is_urgent = True

    def announce_at_once(self, news: object) -> None:
        """The same as `announce`; other processes on this machine answer nobody before they have published it."""
        self.announce(news)
        if self.turn is not None:
            self.turn.is_urgent = True

    # For those who run it.

    def ask(
        self,
        queries: Sequence[Query],
        *,
        begins: bool = False,
        needed: Sequence[int] = (),
        wanted: Sequence[int] = (),
    ) -> tuple[list[list[Row]], set[int]]:
        """Run some statements, and those that were to be run later, in one message: see `Engine`."""
        self.statements += len(queries)
        read, held = self._engine.ask(self.raw, [*self.waiting, *queries], begins=begins, needed=needed, wanted=wanted)
        # Not before that: if it failed, what waits has not been done, and nothing may be committed without it.
        waited = len(self.waiting)
        self.waiting.clear()
        return read[waited:], held

    def foresee(self, queries: Sequence[Query]) -> None:
        """Ask in one message what jobs will ask first, each thing once."""
        new = [query for query in queries if query not in self._foreseen]
        if new:
            self.has_foreseen(new, self.ask(new)[0])

    def has_foreseen(self, queries: Sequence[Query], answers: Sequence[list[Row]]) -> None:
        """The same where it was asked together with something else."""
        self._foreseen.update(zip(queries, answers, strict=True))

    def holds_more(self) -> None:
        """It has lanes that it did not have before: others may have done there what it does not know of."""
        self._foreseen.clear()
        self.known_events.clear()

    def first(self, query: Query) -> list[Row]:
        """Every row of a query that was perhaps foreseen.

        :param query: with its values in a tuple.
        """
        rows = self._foreseen.pop(query, None)
        if rows is None:
            [rows], _ = self.ask([query])
        return rows

    def marks(self) -> tuple[int, int, int]:
        """Where it stands before a job: how much it has written, and how much is to come of it."""
        return self.writes, len(self.on_commit), len(self.news)

    def forget_since(self, marks: tuple[int, int, int]) -> None:
        """Take back what was to come of a job that has failed."""
        del self.on_commit[marks[1] :]
        del self.news[marks[2] :]
