"""The writing thread of a database (`database.py`), and how it has jobs share a commit."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from synapse_like.logs import get_logger
from synapse_like.storage.connections import CommitFailed, Connection
from synapse_like.storage.continuity import DatabaseWentBack
from synapse_like.storage.engines.engine import DatabaseInUse, DatabaseUnavailable
from synapse_like.storage.jobs import Job, Outcome, Timings, caught, explained, first_questions, unavailable
from synapse_like.storage.news import CommitInDoubt
from synapse_like.storage.shared.lanes import LaneTaken
from synapse_like.storage.shared.turns import Turn
from synapse_like.storage.transactions import Transaction

#: How many waiting jobs share a commit at the most; bounds how long the first of them waits.
MOST_JOBS_PER_COMMIT = 64

#: How often a job is done again that stands in the way of another process's, before it fails.
MOST_TRIES = 10

_log = get_logger(__name__)


class Deliver(Protocol):
    """Publishes news and gives results, on the reactor's thread."""

    def __call__(self, news: Sequence[object], outcomes: list[Outcome], turn: Turn | None = None, /) -> None:
        """Publish, and give.

        :param turn: of the transaction that was committed for it, in a database that is shared.
        """


class Writer:
    """The writing thread.

    :param connection: for itself.
    :param is_shared: whether other processes write, too.
    :param deliver: is given what comes of the jobs.
    :param in_doubt: is given the number of a commit of which is not known whether it stands.
    :param went_back: is called if what was committed is not there any more.
    :param timings: is told how long jobs take.
    :ivar jobs: those that wait; None ends the thread.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        is_shared: bool,
        deliver: Deliver,
        in_doubt: Callable[[int], None],
        went_back: Callable[[], None],
        timings: Timings | None = None,
    ) -> None:
        self.connection = connection
        self.jobs: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._engine = connection.engine
        self._is_shared = is_shared
        self._deliver = deliver
        self._in_doubt = in_doubt
        self._went_back = went_back
        self._timings = timings
        self._put_off: list[Job[Any]] = []

    def run(self) -> None:
        """Write what comes, until it is None."""
        while True:
            jobs, self._put_off = self._put_off, []
            if not jobs:
                job = self.jobs.get()
                if job is None:
                    return
                jobs.append(job)
            self._add_who_waits(jobs)
            self._write_together(jobs)

    def _add_who_waits(self, jobs: list[Job[Any]]) -> None:
        """Add jobs that wait to those that share a commit."""
        with contextlib.suppress(Empty):
            while len(jobs) < MOST_JOBS_PER_COMMIT:
                job = self.jobs.get_nowait()
                if job is None:
                    # Nothing comes after it: the end is for the next time.
                    self.jobs.put(None)
                    return
                jobs.append(job)

    def _write_together(self, jobs: list[Job[Any]], *, with_others: bool = True) -> None:
        """Run the jobs in one transaction; if that fails, each in its own.

        :param with_others: whether jobs that come meanwhile are done with them.
        """
        began = time.perf_counter()
        not_there: tuple[type[Exception], ...] = (*self._engine.database_errors, DatabaseUnavailable, DatabaseInUse)
        try:
            txn = self._begin_writing(jobs)
        except self._engine.passing_errors as error:
            # Tokens are locked with the beginning, and another process ends some.
            refused = [job for job in jobs if not self._is_to_be_done_again(job, error)]
            self._deliver([], [(job, False, explained(job, error, self._engine)) for job in refused])
            return
        except not_there as error:
            # Each of them would wait as long as all of them have.
            _log.error("the database cannot be written", jobs=len(jobs), reason=str(error).strip())
            if isinstance(error, DatabaseWentBack):
                self._went_back()
            failure = unavailable(error)
            self._deliver([], [(job, False, failure) for job in jobs])
            return
        except Exception:
            # If this thread ended, everybody would wait for ever.
            _log.exception("a transaction could not be begun", jobs=len(jobs))
            failure = caught()
            self._deliver([], [(job, False, failure) for job in jobs])
            return
        try:
            news, outcomes = self._write_once(txn, jobs, with_others=with_others)
        except CommitFailed as error:
            _log.error("a commit failed", jobs=len(jobs), reason=str(error))
            failure = unavailable(error)
            self._deliver([CommitInDoubt()], [(job, False, failure) for job in jobs])
            if txn.turn is not None and txn.turn.number is not None:
                self._in_doubt(txn.turn.number)
                self._look_into_it()
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._write_together([job], with_others=False)
            elif not self._is_to_be_done_again(jobs[0], error):
                self._deliver([], [(jobs[0], False, explained(jobs[0], error, self._engine))])
        else:
            if self._timings is not None:
                self._timings.wrote([began - job.since for job in jobs], time.perf_counter() - began)
            self._deliver(news, outcomes, txn.turn)

    def _look_into_it(self) -> None:
        """Have the writing thread read what stands: nobody tells this process of its own commits."""
        job: Job[None] = Job("look-into-it", lambda _: None, lanes=frozenset())
        # If the database is not there, nobody waits for this.
        job.deferred.addErrback(lambda _: None)
        self.jobs.put(job)

    def _write_once(
        self, txn: Transaction, jobs: list[Job[Any]], *, with_others: bool
    ) -> tuple[list[object], list[Outcome]]:
        writer = self.connection
        outcomes: list[Outcome] = []
        put_off: list[Job[Any]] = []
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
                        outcomes.append((job, False, caught()))
            news = writer.commit(txn)
        except BaseException:
            writer.roll_back(txn)
            raise
        self._put_off += put_off
        writer.statistics.jobs += len(outcomes)
        return news, outcomes

    def _in_turn(self, txn: Transaction, jobs: list[Job[Any]]) -> Iterator[Job[Any]]:
        """The jobs, and those that have come by the time when these are done, which share the commit then."""
        done = 0
        while done < len(jobs):
            yield from jobs[done:]
            done = len(jobs)
            self._add_who_waits(jobs)
            firsts = first_questions(jobs[done:])
            if txn.turn is not None:
                txn.turn.want(txn, {lane for job in jobs[done:] for lane in job.lanes | job.wanted}, firsts)
            else:
                txn.foresee(firsts)

    def _begin_writing(self, jobs: list[Job[Any]]) -> Transaction:
        """Begin; on a lost connection once more with a new one. Nothing was written by it yet, so that is safe."""
        try:
            return self._begin_once(jobs)
        except self._engine.passing_errors:
            raise
        except self._engine.connection_errors as error:
            _log.warning("the connection to the database was lost, connecting again", reason=str(error).strip())
            self.connection.reconnect()
            return self._begin_once(jobs)

    def _begin_once(self, jobs: list[Job[Any]]) -> Transaction:
        firsts = first_questions(jobs)
        if not self._is_shared:
            return self.connection.begin_writing(firsts)
        lanes = [lane for job in jobs for lane in job.lanes | job.wanted]
        return self.connection.begin_in_lanes(jobs[0].lanes, lanes, firsts)

    def _is_to_be_done_again(self, job: Job[Any], error: Exception) -> bool:
        """Whether a job only stood in the way of another process's; it waits then."""
        if not isinstance(error, LaneTaken):
            if not isinstance(error, self._engine.passing_errors) or job.tries == MOST_TRIES:
                return False
            job.tries += 1
        self._put_off.append(job)
        return True
