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
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue
from typing import Any, Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from synapse_like.logs import get_logger
from synapse_like.storage.bus import Bus
from synapse_like.storage.caches import Caches
from synapse_like.storage.claims import Claims
from synapse_like.storage.connections import CommitFailed, Connection, Statistics
from synapse_like.storage.engines.engine import DatabaseUnavailable, Engine
from synapse_like.storage.jobs import Job, Outcome, Timings, caught, explained
from synapse_like.storage.news import CommitInDoubt, Wants
from synapse_like.storage.shared.commit_log import Reading, Told, newest
from synapse_like.storage.shared.holder import Holder
from synapse_like.storage.shared.lanes import Where, lane_of, lane_of_name, lock_of_claim
from synapse_like.storage.shared.listener import Listener
from synapse_like.storage.shared.machine import Machine
from synapse_like.storage.shared.order import Order
from synapse_like.storage.shared.passing import tell_passing
from synapse_like.storage.shared.turns import Turn
from synapse_like.storage.transactions import Transaction, first_question
from synapse_like.storage.writing import Writer

Result = TypeVar("Result")
P = ParamSpec("P")

_log = get_logger(__name__)


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
        self._writer = Writer(
            Connection(engine, self.caches, exclusive=True, holder=self._holder),
            is_shared=shared,
            deliver=self._deliver,
            in_doubt=self._in_doubt,
            went_back=self._go_back,
            timings=timings,
        )
        self._readers = [Connection(engine, self.caches) for _ in range(readers)]
        self._reads: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._writer.run, name="database-writer", daemon=True)]
        self._threads += [
            threading.Thread(target=self._run_reader, args=(reader,), name=f"database-reader-{n}", daemon=True)
            for n, reader in enumerate(self._readers)
        ]
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
        for connection in [self._writer.connection, *self._readers]:
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
        self._writer.connection.write_no_more()

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
            result = function(self._writer.connection)
            if self._holder is not None and self._from is None:
                self._from = self._writer.connection.transact(newest)
            return result
        except lost as error:
            raise DatabaseUnavailable(f"the database cannot be used any more: {str(error).strip()}") from error

    def stop(self) -> None:
        """Finish what is waiting, then end the threads and close the connections. Blocks."""
        if self._stopped:
            return
        self._stopped = True
        self._writer.jobs.put(None)
        for _ in self._readers:
            self._reads.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self.claims.stop()
        if self._listener is not None:
            self._listener.stop(self._writer.connection)
        self._watching.close()
        for connection in [*self._readers, self._writer.connection]:
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
        return self._submit(self._writer.jobs, self._job(name, function, *args, **kwargs))

    def _job(
        self,
        name: str,
        function: Callable[Concatenate[Transaction, P], Result],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Job[Result]:
        first = first_question(function, *args, is_shared=self.is_shared)
        return Job(name, lambda txn: function(txn, *args, **kwargs), first=first)

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
        return self._submit(self._writer.jobs, job)

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
            self._submit(self._reads, Job("newest-commit", newest, is_single=True)).addBoth(answer)
        except DatabaseUnavailable:
            answer(caught())

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
        job = Job("tell-others", lambda txn: tell_passing(txn, name, news), lanes=frozenset())
        name = self._holder.name
        return self._submit(self._writer.jobs, job).addErrback(
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
        return self._submit(self._reads, Job(name, lambda txn: function(txn, *args, **kwargs)))

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
            self._has_deleted = not self.engine.forget_deleted(self._writer.connection.raw)

    def _submit(self, queue: SimpleQueue[Job[Any] | None], job: Job[Result]) -> Deferred[Result]:
        if self._stopped:
            raise DatabaseUnavailable("the database has been stopped")
        queue.put(job)
        return job.deferred

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
                outcome = (job, False, explained(job, error, self.engine))
            if self._timings is not None:
                self._timings.read(began - job.since, time.perf_counter() - began)
            self._deliver([], [outcome])

    def _read_once(self, connection: Connection, job: Job[Any]) -> Any:
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

    def _read_single(self, connection: Connection, job: Job[Any]) -> Any:
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

    def _deliver(self, news: Sequence[object], outcomes: list[Outcome], turn: Turn | None = None) -> None:
        """Publish news and give results.

        :param turn: of the transaction that was committed for it, in a database that is shared.
        """
        if self._order is not None and turn is not None:
            self._reactor.callFromThread(self._order.ours, turn.number, news, outcomes, turn.heard)
        else:
            self._reactor.callFromThread(self._deliver_here, news, outcomes)

    def _in_doubt(self, number: int) -> None:
        """A commit of ours may stand or not."""
        if self._order is not None:
            self._reactor.callFromThread(self._order.in_doubt, number, [CommitInDoubt()])

    def _deliver_here(self, news: Iterable[object], outcomes: Iterable[Outcome]) -> None:
        for item in news:
            self._bus.publish(item)
        for job, succeeded, result in outcomes:
            if job.deferred.called:
                continue  # cancelled while it ran: the work is done all the same, nobody waits for it
            if succeeded:
                job.deferred.callback(result)
            else:
                job.deferred.errback(result)
