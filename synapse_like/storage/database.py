"""The database of a server: storage functions are run on its threads.

`Database.read` runs a storage function in a reading transaction on one of a few threads; `Database.write` runs one on
the single writing thread. Both give a Deferred.

**Group commit.** Every commit costs a sync of the disk (or a round trip), so what waits while the writer is busy goes
into the next transaction together: the jobs run one after another in one transaction, which is committed once. A job
that raises before it has written anything (a refused event, a wrong password) fails alone. If a job fails after it has
written, the whole transaction is rolled back and each job is run again in a transaction of its own, so that only the
culprit fails. A storage function may therefore run more than once. What jobs ask first, as far as that is known
(`asks_first` in `transactions.py`), is asked for all of them at once.

**Sharing.** Where several processes write to one database, a transaction holds the lanes of its jobs; a job that cannot
have its lane at once waits for another transaction (`shared/lanes.py`).

**Order.** Results and news of a transaction reach the reactor's thread together, after the commit, in the order of the
commits: who learns of a stream position knows that everything up to it can be read.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from msgspec import Struct, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from synapse_like.logs import get_logger
from synapse_like.protocol.errors import Unavailable
from synapse_like.storage.bus import Bus
from synapse_like.storage.caches import Caches
from synapse_like.storage.claims import Claims
from synapse_like.storage.connections import CommitFailed, Connection, Statistics
from synapse_like.storage.continuity import DatabaseWentBack
from synapse_like.storage.engines.engine import DatabaseInUse, DatabaseUnavailable, Engine, Query
from synapse_like.storage.news import CommitInDoubt, Wants
from synapse_like.storage.shared.commit_log import Reading, Told, newest
from synapse_like.storage.shared.holder import Holder
from synapse_like.storage.shared.lanes import REST, LaneTaken, Where, lane_of, lane_of_name, lock_of_claim
from synapse_like.storage.shared.listener import Listener
from synapse_like.storage.shared.machine import Machine
from synapse_like.storage.shared.order import Order
from synapse_like.storage.shared.passing import tell_passing
from synapse_like.storage.shared.turns import Turn
from synapse_like.storage.transactions import Transaction, first_question

Result = TypeVar("Result")
P = ParamSpec("P")

#: How many waiting jobs share a commit at the most; bounds how long the first of them waits.
MOST_JOBS_PER_COMMIT = 64

#: How often a job is done again that stands in the way of another process's, before it fails.
MOST_TRIES = 10

_log = get_logger(__name__)


class Timings(Protocol):
    """Who is told how long the jobs of a database take, in seconds; on the database's threads."""

    def wrote(self, waits: Sequence[float], ran: float) -> None:
        """Jobs were committed together.

        :param waits: for how long each had waited for its turn.
        :param ran: how long all of them took, with the commit.
        """

    def read(self, waited: float, ran: float) -> None:
        """A job has read."""


class _Job(Struct, Generic[Result]):
    name: str
    function: Callable[[Transaction], Result]
    deferred: Deferred[Result] = field(default_factory=Deferred)
    since: float = field(default_factory=time.perf_counter)
    #: What it must have for itself, where the database is shared.
    lanes: frozenset[int] = frozenset([REST])
    #: What else it will want to have.
    wanted: frozenset[int] = frozenset()
    #: What it asks first, where that is known.
    first: Query | None = None
    tries: int = 0
    #: Whether it is one statement that reads, which needs no transaction around it.
    is_single: bool = False


_Outcome = tuple[_Job[Any], bool, Any]


def _firsts(jobs: Iterable[_Job[Any]]) -> list[Query]:
    """What some jobs ask first, each thing once."""
    return list(dict.fromkeys(job.first for job in jobs if job.first is not None))


def _unavailable(error: Exception) -> Failure:
    """What is answered while the database is not there."""
    sentence = "The server cannot reach its database at the moment. Please try again."
    return Failure(Unavailable(sentence, reason=str(error).strip()))  # type: ignore[no-untyped-call]  # Twisted's


def _caught() -> Failure:
    """The exception being handled, as a Deferred takes it."""
    return Failure()  # type: ignore[no-untyped-call]  # Twisted leaves its constructor untyped


class Database:
    """The server's database: one writing thread, a few reading ones.

    :param engine: which database.
    :param reactor: results are delivered on its thread.
    :param bus: where the news of committed transactions goes.
    :param readers: number of reading threads, each with a connection.
    :param timings: is told how long jobs take.
    :param shared: whether other processes may write to it, too.
    :param machine: what the processes of this machine know of each other's commits, if there are several.
    :ivar claims: what only one of the processes may do at a time.
    :raises DatabaseInUse: another server runs on it.
    :raises DatabaseUnavailable: it cannot be opened.
    """

    def __init__(
        self,
        engine: Engine,
        reactor: IReactorFromThreads,
        bus: Bus,
        *,
        readers: int = 2,
        timings: Timings | None = None,
        shared: bool = False,
        machine: Machine | None = None,
    ) -> None:
        self._reactor = reactor
        self._timings = timings
        self._bus = bus
        self.engine = engine
        self.caches = Caches()
        self._holder = Holder(machine) if shared else None
        self._machine = machine
        #: The number of an urgent commit that was waited for in vain.
        self._given_up = 0
        self.claims = Claims(reactor, (lambda: Connection(engine, shared=True)) if shared else None, lock_of_claim)
        self._writer = Connection(engine, self.caches, exclusive=True, holder=self._holder)
        self._readers = [Connection(engine, self.caches) for _ in range(readers)]
        self._writes: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._reads: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._run_writer, name="database-writer", daemon=True)]
        self._threads += [
            threading.Thread(target=self._run_reader, args=(reader,), name=f"database-reader-{n}", daemon=True)
            for n, reader in enumerate(self._readers)
        ]
        self._put_off: list[_Job[Any]] = []
        #: The number of the last commit that is not published here, of a database that is shared.
        self._from: int | None = None
        self._wants: Wants = lambda *_: True
        self._order: Order | None = None
        self._is_looking = False
        self._lookers: list[Deferred[int]] = []
        self._listener: Listener | None = None
        self._watching = contextlib.ExitStack()
        self._stopped = False
        self._has_deleted = False
        self._has_gone_back = False
        #: Is called, once, when what was committed is not there any more: nothing can be written then.
        self.when_gone_back: Callable[[], object] = lambda: None

    @property
    def statistics(self) -> Statistics:
        """The writer's and the readers' counts together."""
        total = Statistics()
        for connection in [self._writer, *self._readers]:
            total.statements += connection.statistics.statements
            total.commits += connection.statistics.commits
            total.jobs += connection.statistics.jobs
            total.reads += connection.statistics.reads
            total.rollbacks += connection.statistics.rollbacks
        return total

    def start(self) -> None:
        """Start the threads; the tables must be there (`migrations.py`, by way of `prepare`).

        :raises DatabaseUnavailable: the database was lost meanwhile.
        """
        if self._holder is not None:
            self.prepare(lambda _: None)
            assert self._from is not None, "it was looked up there"
            self._listen(self._holder, self._from)
        for thread in self._threads:
            thread.start()
        self.claims.start()
        self._watching.enter_context(self.engine.watch())

    def _listen(self, holder: Holder, last: int) -> None:
        """Publish from now on what other processes commit, too."""

        def connect() -> Connection:
            return Connection(self.engine, self.caches)

        def tell(commits: list[Told]) -> None:
            self._reactor.callFromThread(order.heard, commits)

        def missed(number: int) -> None:
            self._reactor.callFromThread(self._deliver_here, [CommitInDoubt()], ())
            self._reactor.callFromThread(order.missed, number)

        def tell_passing(news: list[object]) -> None:
            self._reactor.callFromThread(self._deliver_here, news, ())

        reading = holder.reading = Reading(holder.name, last, self._is_wanted, holder.continuity)
        listener = self._listener = Listener(connect, reading, tell, missed, tell_passing, self._go_back)
        order = self._order = Order(holder.name, last, self._deliver_here, listener.hurry)
        listener.start()

    def read_events_of(self, wants: Wants) -> None:
        """Have events that other processes have stored be read when they are in certain rooms or about certain users.

        :param wants: is asked on any thread.
        """
        self._wants = wants

    def _is_wanted(self, room_id: str, user_ids: Iterable[str]) -> bool:
        return self._wants(room_id, user_ids)

    def _go_back(self) -> None:
        """What was committed is not there any more: have nothing written, and tell. On any thread."""
        self._writer.write_no_more()

        def tell() -> None:
            if not self._has_gone_back:
                self._has_gone_back = True
                self.when_gone_back()

        self._reactor.callFromThread(tell)

    def prepare(self, function: Callable[[Connection], Result]) -> Result:
        """Use the writing connection, blocking, before the threads are started.

        What other processes commit after the first of it is published here, later: so nothing is missed of what comes
        after that which the others have read, and what they know already can be told to them once more.

        :raises DatabaseUnavailable: it was lost meanwhile.
        """
        lost: tuple[type[Exception], ...] = (*self.engine.connection_errors, CommitFailed)
        try:
            result = function(self._writer)
            if self._holder is not None and self._from is None:
                self._from = self._writer.transact(newest)
            return result
        except lost as error:
            raise DatabaseUnavailable(f"the database cannot be used any more: {str(error).strip()}") from error

    def stop(self) -> None:
        """Finish what is waiting, then end the threads and close the connections. Blocks."""
        if self._stopped:
            return
        self._stopped = True
        self._writes.put(None)
        for _ in self._readers:
            self._reads.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self.claims.stop()
        if self._listener is not None:
            self._listener.stop(self._writer)
        self._watching.close()
        for connection in [*self._readers, self._writer]:
            connection.close()

    def write(
        self,
        name: str,
        function: Callable[Concatenate[Transaction, P], Result],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Deferred[Result]:
        """Run a storage function that may change something; the Deferred fires once that is committed.

        :param name: what it is, for the log.
        """
        return self._submit(self._writes, self._job(name, function, *args, **kwargs))

    def _job(
        self,
        name: str,
        function: Callable[Concatenate[Transaction, P], Result],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> _Job[Result]:
        first = first_question(function, *args, is_shared=self.is_shared)
        return _Job(name, lambda txn: function(txn, *args, **kwargs), first=first)

    def write_to_room(
        self,
        where: str | Where,
        name: str,
        function: Callable[Concatenate[Transaction, P], Result],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Deferred[Result]:
        """Run a storage function that adds to one room, and changes nothing of what is not in that room.

        :param where: the ID of the room; and perhaps the names of what the function will hold (`hold_names`).
        :param name: what it is, for the log.
        """
        job = self._job(name, function, *args, **kwargs)
        room_id, names = (where, ()) if isinstance(where, str) else where
        job.lanes = frozenset([lane_of(room_id)])
        if self.is_shared:
            job.wanted = frozenset([lane_of_name(held) for held in names])
        return self._submit(self._writes, job)

    @property
    def is_shared(self) -> bool:
        """Whether other processes write to it, too."""
        return self._holder is not None

    async def come_up_to_date(self) -> None:
        """Wait until everything is known here that other processes have committed by now; at once if there are none."""
        if self._order is None:
            return
        machine = self._machine
        if machine is not None and machine.is_alone and machine.newest() <= self._order.last:
            return
        mine: Deferred[int] = Deferred()
        self._lookers.append(mine)
        if not self._is_looking:
            self._look()
        await self._order.reach(await mine)

    def _look(self) -> None:
        """Ask for the newest commit, once for all who want that by now; who comes meanwhile waits for the next time."""
        lookers, self._lookers = self._lookers, []
        self._is_looking = bool(lookers)
        if not lookers:
            return

        def answer(outcome: int | Failure) -> None:
            for looker in lookers:
                if looker.called:
                    continue
                if isinstance(outcome, Failure):
                    looker.errback(outcome)
                else:
                    looker.callback(outcome)
            self._look()

        try:
            self._submit(self._reads, _Job("newest-commit", newest, is_single=True)).addBoth(answer)
        except DatabaseUnavailable:
            answer(_caught())

    def missing(self) -> Deferred[None] | None:
        """What must be waited for before anybody is answered: news of other processes on this machine."""
        if self._machine is None or self._order is None:
            return None
        number = self._machine.urgent()
        return None if number <= max(self._order.last, self._given_up) else self._order.reach(number)

    def do_without(self) -> None:
        """Wait no more for what is `missing` now."""
        if self._machine is not None:
            self._given_up = self._machine.urgent()

    def tell_others(self, *news: object) -> Deferred[None]:
        """Tell other processes, if there are any, what is worth nothing later; it is not published here.

        It comes after what this process has committed before. Nobody is told whether it came.

        :returns: what fires when it was told, or could not be.
        """
        if self._holder is None or self._stopped:
            return succeed(None)
        job = _Job("tell-others", lambda txn: tell_passing(txn, name, news), lanes=frozenset())
        name = self._holder.name
        return self._submit(self._writes, job).addErrback(
            lambda failure: _log.warning("other processes were not told", reason=failure.getErrorMessage())
        )

    def read(
        self,
        name: str,
        function: Callable[Concatenate[Transaction, P], Result],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Deferred[Result]:
        """Run a storage function that only reads: one consistent snapshot of everything committed so far.

        :param name: what it is, for the log.
        """
        return self._submit(self._reads, _Job(name, lambda txn: function(txn, *args, **kwargs)))

    def forget_deleted(self) -> Deferred[None]:
        """See that deleted data leaves the files, too: now, if nobody reads it at the moment."""
        self._has_deleted = True
        return self.write("forget-deleted", lambda txn: txn.when_committed(self._forget_deleted))

    def deleted(self, _: object = None) -> None:
        """Something was deleted; see some time soon that it leaves the files, too."""
        self._has_deleted = True

    async def forget_what_is_left(self) -> None:
        """Try once more what `forget_deleted` could not do."""
        if self._has_deleted:
            await self.forget_deleted()

    def _forget_deleted(self) -> None:
        # Once is enough for all who asked for it with this commit.
        if self._has_deleted:
            self._has_deleted = not self.engine.forget_deleted(self._writer.raw)

    def _submit(self, queue: SimpleQueue[_Job[Any] | None], job: _Job[Result]) -> Deferred[Result]:
        if self._stopped:
            raise DatabaseUnavailable("the database has been stopped")
        queue.put(job)
        return job.deferred

    # The writing thread.

    def _run_writer(self) -> None:
        while True:
            jobs, self._put_off = self._put_off, []
            if not jobs:
                job = self._writes.get()
                if job is None:
                    return
                jobs.append(job)
            self._add_who_waits(jobs)
            self._write_together(jobs)

    def _add_who_waits(self, jobs: list[_Job[Any]]) -> None:
        """Add jobs that wait to those that share a commit."""
        with contextlib.suppress(Empty):
            while len(jobs) < MOST_JOBS_PER_COMMIT:
                job = self._writes.get_nowait()
                if job is None:
                    # Nothing comes after it: the end is for the next time.
                    self._writes.put(None)
                    return
                jobs.append(job)

    def _write_together(self, jobs: list[_Job[Any]], *, with_others: bool = True) -> None:
        """Run the jobs in one transaction; if that fails, each in its own.

        :param with_others: whether jobs that come meanwhile are done with them.
        """
        began = time.perf_counter()
        not_there: tuple[type[Exception], ...] = (*self.engine.database_errors, DatabaseUnavailable, DatabaseInUse)
        try:
            txn = self._begin_writing(jobs)
        except self.engine.passing_errors as error:
            # Tokens are locked with the beginning, and another process ends some.
            refused = [job for job in jobs if not self._is_to_be_done_again(job, error)]
            self._deliver([], [(job, False, self._explained(job, error)) for job in refused])
            return
        except not_there as error:
            # Each of them would wait as long as all of them have.
            _log.error("the database cannot be written", jobs=len(jobs), reason=str(error).strip())
            if isinstance(error, DatabaseWentBack):
                self._go_back()
            failure = _unavailable(error)
            self._deliver([], [(job, False, failure) for job in jobs])
            return
        except Exception:
            # If this thread ended, everybody would wait for ever.
            _log.exception("a transaction could not be begun", jobs=len(jobs))
            failure = _caught()
            self._deliver([], [(job, False, failure) for job in jobs])
            return
        try:
            news, outcomes = self._write_once(txn, jobs, with_others=with_others)
        except CommitFailed as error:
            _log.error("a commit failed", jobs=len(jobs), reason=str(error))
            failure = _unavailable(error)
            self._deliver([CommitInDoubt()], [(job, False, failure) for job in jobs])
            if txn.turn is not None and txn.turn.number is not None and self._order is not None:
                self._reactor.callFromThread(self._order.in_doubt, txn.turn.number, [CommitInDoubt()])
                self._look_into_it()
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._write_together([job], with_others=False)
            elif not self._is_to_be_done_again(jobs[0], error):
                self._deliver([], [(jobs[0], False, self._explained(jobs[0], error))])
        else:
            if self._timings is not None:
                self._timings.wrote([began - job.since for job in jobs], time.perf_counter() - began)
            self._deliver(news, outcomes, txn.turn)

    def _look_into_it(self) -> None:
        """Have the writing thread read what stands: nobody tells this process of its own commits."""
        job: _Job[None] = _Job("look-into-it", lambda _: None, lanes=frozenset())
        # If the database is not there, nobody waits for this.
        job.deferred.addErrback(lambda _: None)
        self._writes.put(job)

    def _write_once(
        self, txn: Transaction, jobs: list[_Job[Any]], *, with_others: bool
    ) -> tuple[list[object], list[_Outcome]]:
        writer = self._writer
        outcomes: list[_Outcome] = []
        put_off: list[_Job[Any]] = []
        try:
            for job in self._in_turn(txn, jobs) if with_others else jobs:
                if txn.turn is not None and not job.lanes <= txn.turn.lanes:
                    put_off.append(job)
                    continue
                marks = txn.marks()
                try:
                    outcomes.append((job, True, job.function(txn)))
                    if txn.turn is not None:
                        txn.turn.end_job(has_written=txn.writes != marks[0])
                except writer.engine.database_errors:
                    raise
                except Exception as error:
                    if isinstance(error, LaneTaken):
                        job.lanes |= {error.lane}
                    if txn.writes != marks[0]:
                        raise
                    txn.forget_since(marks)
                    if txn.turn is not None:
                        txn.turn.end_job(has_written=False)
                    if isinstance(error, LaneTaken):
                        put_off.append(job)
                    else:
                        outcomes.append((job, False, _caught()))
            news = writer.commit(txn)
        except BaseException:
            writer.roll_back(txn)
            raise
        self._put_off += put_off
        writer.statistics.jobs += len(outcomes)
        return news, outcomes

    def _in_turn(self, txn: Transaction, jobs: list[_Job[Any]]) -> Iterator[_Job[Any]]:
        """The jobs, and those that have come by the time when these are done, which share the commit then."""
        done = 0
        while done < len(jobs):
            yield from jobs[done:]
            done = len(jobs)
            self._add_who_waits(jobs)
            firsts = _firsts(jobs[done:])
            if txn.turn is not None:
                txn.turn.want(txn, {lane for job in jobs[done:] for lane in job.lanes | job.wanted}, firsts)
            else:
                txn.foresee(firsts)

    def _begin_writing(self, jobs: list[_Job[Any]]) -> Transaction:
        """Begin; on a lost connection once more with a new one. Nothing was written by it yet, so that is safe."""
        try:
            return self._begin_once(jobs)
        except self.engine.passing_errors:
            raise
        except self.engine.connection_errors as error:
            _log.warning("the connection to the database was lost, connecting again", reason=str(error).strip())
            self._writer.reconnect()
            return self._begin_once(jobs)

    def _begin_once(self, jobs: list[_Job[Any]]) -> Transaction:
        firsts = _firsts(jobs)
        if self._holder is None:
            return self._writer.begin_writing(firsts)
        lanes = [lane for job in jobs for lane in job.lanes | job.wanted]
        return self._writer.begin_in_lanes(jobs[0].lanes, lanes, firsts)

    def _is_to_be_done_again(self, job: _Job[Any], error: Exception) -> bool:
        """Whether a job only stood in the way of another process's; it waits then."""
        if not isinstance(error, LaneTaken):
            if not isinstance(error, self.engine.passing_errors) or job.tries == MOST_TRIES:
                return False
            job.tries += 1
        self._put_off.append(job)
        return True

    # The reading threads.

    def _run_reader(self, connection: Connection) -> None:
        while True:
            job = self._reads.get()
            if job is None:
                return
            began = time.perf_counter()
            try:
                outcome = (job, True, self._read_once(connection, job))
            except Exception as error:
                outcome = (job, False, self._explained(job, error))
            if self._timings is not None:
                self._timings.read(began - job.since, time.perf_counter() - began)
            self._deliver([], [outcome])

    def _read_once(self, connection: Connection, job: _Job[Any]) -> Any:
        if job.is_single:
            return self._read_single(connection, job)
        try:
            txn = connection.begin(writable=False)
        except self.engine.connection_errors:
            connection.reconnect()
            txn = connection.begin(writable=False)
        try:
            result = job.function(txn)
            connection.statistics.reads += 1
            connection.statistics.statements += txn.statements
            return result
        finally:
            self.engine.roll_back(connection.raw)

    def _read_single(self, connection: Connection, job: _Job[Any]) -> Any:
        txn = connection.without_begin()
        try:
            result = job.function(txn)
        except self.engine.connection_errors:
            connection.reconnect()
            txn = connection.without_begin()
            result = job.function(txn)
        connection.statistics.reads += 1
        connection.statistics.statements += txn.statements
        return result

    # Back on the reactor's thread.

    def _explained(self, job: _Job[Any], error: Exception) -> Failure:
        """The exception being handled, as who gave the job is to see it."""
        if isinstance(error, (*self.engine.connection_errors, DatabaseUnavailable)):
            _log.error("the database is not there", job=job.name, reason=str(error).strip())
            return _unavailable(error)
        if isinstance(error, self.engine.database_errors):
            _log.error("a database job failed", job=job.name, reason=f"{type(error).__name__}: {error}")
        return _caught()

    def _deliver(self, news: Sequence[object], outcomes: list[_Outcome], turn: Turn | None = None) -> None:
        """Publish news and give results.

        :param turn: of the transaction that was committed for it, in a database that is shared.
        """
        if self._order is not None and turn is not None:
            self._reactor.callFromThread(self._order.ours, turn.number, news, outcomes, turn.heard)
        else:
            self._reactor.callFromThread(self._deliver_here, news, outcomes)

    def _deliver_here(self, news: Iterable[object], outcomes: Iterable[_Outcome]) -> None:
        for item in news:
            self._bus.publish(item)
        for job, succeeded, result in outcomes:
            if job.deferred.called:
                continue  # cancelled while it ran: the work is done all the same, nobody waits for it
            if succeeded:
                job.deferred.callback(result)
            else:
                job.deferred.errback(result)
