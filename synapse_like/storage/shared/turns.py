"""A turn: what one writing transaction holds of a database that is shared, and what of it others have to know."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from msgspec import Struct, field

from synapse_like.protocol.events import StateSlot
from synapse_like.storage.engines.engine import Engine, Query
from synapse_like.storage.engines.postgresql import CHANNEL
from synapse_like.storage.news import to_log
from synapse_like.storage.shared.commit_log import COMMITS, Told
from synapse_like.storage.shared.holder import Holder, Look, Movable
from synapse_like.storage.shared.lanes import LaneTaken, lane_of, lane_of_name
from synapse_like.storage.transactions import Transaction

#: Where the log stands, and how often commands have changed something beside the server.
_POSITIONS: Query = ("SELECT stream, position FROM stream_positions WHERE stream IN ('commits', 'outside')", ())
_REACH = "UPDATE stream_positions SET position = ? WHERE stream = ?"
_TAKE_NUMBER = "UPDATE stream_positions SET position = position + 1 WHERE stream = ? RETURNING position"
# The second row is not touched before the first one is had: it is joined to what that gives.
_TAKE_NUMBER_AND_POSITION = (
    "WITH number AS (UPDATE stream_positions SET position = position + 1 WHERE stream = ? RETURNING position)"
    " UPDATE stream_positions AS s SET position = s.position + 1 FROM number WHERE s.stream = ?"
    " RETURNING s.position, number.position"
)


class Turn(Struct):
    """What one writing transaction holds, and changes for others.

    :ivar holder: the process whose transaction it is.
    :ivar lanes: those that it holds.
    :ivar changed: rooms of which others have to read everything anew.
    :ivar moved: rooms of which others need to know where they stand, and nothing else; with what has changed of their
        state.
    :ivar kinds: of copies that are wrong now.
    :ivar number: of its commit, once it has one.
    :ivar is_urgent: whether others must know of it before they answer anybody.
    :ivar heard: what it has read of the log; there is nothing before it is committed.
    """

    holder: Holder
    lanes: set[int] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    moved: dict[str, set[StateSlot]] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)
    number: int | None = None
    is_urgent: bool = False
    heard: list[Told] = field(default_factory=list)
    # Of the job that is being done.
    _held_now: set[str] = field(default_factory=set)
    _moved_now: dict[str, set[StateSlot]] = field(default_factory=dict)
    _changed_now: set[str] = field(default_factory=set)
    _notice: str = ""
    _reached: dict[str, int] = field(default_factory=dict)

    def hold(self, txn: Transaction, room_id: str) -> None:
        """Have the lane of a room.

        :raises LaneTaken: it cannot be had at once.
        """
        self._hold_lanes(txn, {lane_of(room_id)})
        self._held_now.add(room_id)

    def hold_names(self, txn: Transaction, names: Iterable[str]) -> None:
        """Have the lanes of things that are no rooms.

        :raises LaneTaken: one cannot be had at once.
        """
        self._hold_lanes(txn, {lane_of_name(name) for name in names})

    def want(self, txn: Transaction, lanes: set[int], firsts: Sequence[Query] = ()) -> None:
        """Have such lanes as can be had at once.

        :param firsts: what is asked first by jobs that want them.
        """
        missing = lanes - self.lanes
        if not missing:
            txn.foresee(firsts)
            return
        (commits, *answers), held = txn.ask([self.holder.unseen, *firsts], wanted=sorted(missing))
        if held:
            txn.holds_more()
        txn.has_foreseen(firsts, answers)
        self.lanes |= held
        self.holder.catch_up(txn, commits)

    def _hold_lanes(self, txn: Transaction, lanes: set[int]) -> None:
        if lanes <= self.lanes:
            return
        self.want(txn, lanes)
        for lane in lanes - self.lanes:
            raise LaneTaken(lane)

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

    def begin(
        self, txn: Transaction, needed: Iterable[int], wanted: Iterable[int], firsts: Sequence[Query] = ()
    ) -> int:
        """Begin; wait for some lanes, have such others as can be had at once, and learn what happened there.

        :param firsts: what is asked first by the jobs.
        :returns: how often commands have changed something beside the server.
        """
        needed = sorted(needed)
        also = sorted(set(wanted) - set(needed))
        questions = [_POSITIONS, *firsts, *self.holder.likely(Look.BEGIN)]
        (rows, *answers), held = txn.ask(questions, begins=True, needed=needed, wanted=also)
        commits = answers[len(firsts) :]
        txn.has_foreseen(firsts, answers[: len(firsts)])
        self.lanes.update(needed, held)
        positions: dict[str, int] = dict(rows)
        self.holder.begin(positions[COMMITS])
        self.holder.come_to(txn, positions[COMMITS], Look.BEGIN, commits)
        return positions.get("outside", 0)

    def take_number(self, txn: Transaction) -> None:
        """Have the number of the commit, if it has none yet; one transaction at a time takes positions after that."""
        if self.number is None:
            self.number = self._take(txn, _TAKE_NUMBER)[-1]

    def take_number_and_position(self, txn: Transaction, stream: str) -> int:
        """The same, for a transaction that has none yet, and the next position of a stream with it."""
        position, self.number = self._take(txn, _TAKE_NUMBER_AND_POSITION, stream)
        return position

    def reaches(self, stream: str, position: int) -> None:
        """The last position of a stream that the transaction has given out, if it is not the first."""
        self._reached[stream] = position

    def _take(self, txn: Transaction, sql: str, *more: str) -> list[int]:
        """Take a number, and learn of all commits up to it: then none of them has to be waited for, as a rule.

        :param sql: gives the number last.
        """
        txn.writes += 1
        ((taken,), *commits), _ = txn.ask([(sql, (COMMITS, *more)), *self.holder.likely(Look.NUMBER)])
        self.holder.come_to(txn, taken[-1] - 1, Look.NUMBER, commits)
        return list(taken)

    def last_words(self, txn: Transaction, news: Sequence[object]) -> list[Query]:
        """What writes down what the commit changes, if that concerns others; for the message that commits."""
        self.end_job(has_written=True)
        if not txn.writes or not (news or self.changed or self.moved or self.kinds or self.number is not None):
            return []
        self.take_number(txn)
        told = orjson.dumps([to_log(item) for item in news]).decode()
        rooms: list[Any] = sorted(self.changed)
        for room_id in sorted(self.moved.keys() - self.changed):
            head: Movable | None = txn.caches.find("heads", room_id)
            rooms.append([room_id, head.as_moved(self.moved[room_id])] if head is not None else room_id)
        notice = self._notice = self.holder.notice()
        assert self.number is not None, "it has just been taken"
        values: list[object] = [
            self.number,
            self.holder.name,
            orjson.dumps(rooms).decode(),
            orjson.dumps(sorted(self.kinds)).decode(),
            told,
            int(time.time() * 1000),
        ]
        sql = "INSERT INTO commits (number, maker, rooms, kinds, news, made_at) VALUES (?, ?, ?, ?, ?, ?)"
        if notice:
            sql, values = f"{sql} RETURNING pg_notify(?, ?)", [*values, CHANNEL, notice]
        return [*((_REACH, (position, stream)) for stream, position in self._reached.items()), (sql, values)]

    def committed(self, engine: Engine, txn: Transaction, began: float) -> None:
        """The commit stands.

        :param txn: reads on the same connection.
        :param began: when it was begun, by the monotonic clock.
        """
        if self.number is None:
            self.heard = self.holder.read(txn)
            return
        if self.holder.machine is not None:
            self.holder.machine.note(self.number, is_urgent=self.is_urgent)
        if not self._notice and self.holder.is_doubtful:
            # It took so long that those who were told last may look no more.
            with contextlib.suppress(*engine.database_errors):
                engine.notify(txn.raw, self.holder.name)
        self.heard = self.holder.read(txn)
        self.holder.have_committed(self.number, began, self._notice)
