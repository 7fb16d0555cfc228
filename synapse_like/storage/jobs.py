"""Jobs for the threads of a database (`database.py`), and what is told of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from synapse_like.logs import get_logger
from synapse_like.protocol.errors import Unavailable
from synapse_like.storage.engines.engine import DatabaseUnavailable, Engine, Query
from synapse_like.storage.shared.lanes import REST
from synapse_like.storage.transactions import Transaction

Result = TypeVar("Result")

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


class Job(Struct, Generic[Result]):
    """A storage function that is to be run, and who waits for that."""

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


#: A job, whether it succeeded, and its result or its failure.
Outcome = tuple[Job[Any], bool, Any]


def first_questions(jobs: Iterable[Job[Any]]) -> list[Query]:
    """What some jobs ask first, each thing once."""
    return list(dict.fromkeys(job.first for job in jobs if job.first is not None))


def unavailable(error: Exception) -> Failure:
    """What is answered while the database is not there."""
    sentence = "The server cannot reach its database at the moment. Please try again."
    return Failure(Unavailable(sentence, reason=str(error).strip()))  # type: ignore[no-untyped-call]  # Twisted's


def caught() -> Failure:
    """The exception being handled, as a Deferred takes it."""
    return Failure()  # type: ignore[no-untyped-call]  # Twisted leaves its constructor untyped


def explained(job: Job[Any], error: Exception, engine: Engine) -> Failure:
    """The exception being handled, as who gave the job is to see it."""
    if isinstance(error, (*engine.connection_errors, DatabaseUnavailable)):
        _log.error("the database is not there", job=job.name, reason=str(error).strip())
        return unavailable(error)
    if isinstance(error, engine.database_errors):
        _log.error("a database job failed", job=job.name, reason=f"{type(error).__name__}: {error}")
    return caught()
