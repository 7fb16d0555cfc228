"""What a server tells of itself to Prometheus (`metrics.port`), on a port of its own.

What happens is counted when it happens, which costs some microseconds; how things stand is seen when somebody asks.
Labels have few values that are known beforehand, or stand in our tables of routes: never names of servers, rooms or
users, nor anything that a stranger can choose. Everything is in a registry that is handed in.

Without `metrics.port` none of this is there, nor is prometheus_client loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from synapse_like.app import figures
from synapse_like.app.siblings import Siblings
from synapse_like.clock import Clock
from synapse_like.http.authentication import Asking
from synapse_like.http.limits import Limiter
from synapse_like.http.requests import Call
from synapse_like.http.responses import Response
from synapse_like.http.routing import Auth, Mount, Route
from synapse_like.http.site import Answered, Site, make_site
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import Unavailable
from synapse_like.protocol.identifiers import domain_of
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.event_news import EventPersisted
from synapse_like.storage.transactions import Transaction

if TYPE_CHECKING:
    from synapse_like.federation.destinations import QueueState
    from synapse_like.handlers.event_stream import EventStream
    from synapse_like.handlers.notifier import Notifier

#: Upper bounds of the classes of durations, in seconds. Long polls take minutes.
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
DATABASE_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
JOBS_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
#: How long the database may take to tell its part, in seconds; the rest is told without it.
PATIENCE_SECONDS = 5.0
#: What events are counted as.
KINDS = {"m.room.message": "message", "m.room.member": "membership", "m.room.redaction": "redaction"}
#: What a queue for a server can be doing.
QUEUE_STATES = ("idle", "sending", "waiting")

_log = get_logger(__name__)


class Metrics:
    """What every server counts: requests, and what its database does."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "synapse_like_requests",
            "Requests that were answered, by route and class of status.",
            ["site", "method", "route", "status"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "synapse_like_request_seconds",
            "How long requests took until the answer was ready; long polls wait.",
            ["site", "method", "route"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        waits = self._histogram("database_wait_seconds", "How long jobs waited for a turn at the database.")
        runs = self._histogram("database_run_seconds", "How long reads, and commits of jobs together, took.")
        self._read_waits, self._write_waits = waits.labels("read"), waits.labels("write")
        self._read_runs, self._write_runs = runs.labels("read"), runs.labels("write")
        self._commit_jobs = Histogram(
            "synapse_like_commit_jobs", "Jobs that shared a commit.", buckets=JOBS_BUCKETS, registry=registry
        )
        self._in_flight = self.gauge("requests_in_flight", "Requests that are being worked on or sent.", "site")
        self._connections = self.gauge("connections", "Open connections.", "site")
        self._up = self.gauge("database_up", "Whether the database answered when these figures were collected.")
        self._bytes = self.gauge("database_bytes", "The size of the database.")
        self._positions = self.gauge("stream_position", "How far each stream has come.", "stream")
        self._cache_entries = self.gauge("cache_entries", "Copies in memory, by kind.", "cache")
        self._cache_bytes = self.gauge("cache_bytes", "Bytes of copies in memory, where they are counted.", "cache")
        self._cache_fill = self.gauge("cache_fill_ratio", "How full a cache is.", "cache")
        self._sites: dict[str, Site[Any]] = {}

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """Something that goes up and down."""
        return Gauge(f"synapse_like_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"synapse_like_{name}", text, ["kind"], buckets=DATABASE_BUCKETS, registry=self.registry)

    # What is counted when it happens.

    def answered(self, site: str) -> Answered:
        """What a site is to tell its answers to."""
        known: dict[tuple[str, str, int], tuple[Any, Any]] = {}

        def count(method: str, route: str, status: int, seconds: float) -> None:
            key = (method, route, status // 100)
            children = known.get(key)
            if children is None:
                # What is in no table, may be any word.
                word = method if route != "none" else "any"
                children = known[word, route, status // 100] = (
                    self._requests.labels(site, word, route, f"{status // 100}xx"),
                    self._request_seconds.labels(site, word, route),
                )
            children[0].inc()
            children[1].observe(seconds)

        return count

    def wrote(self, waits: Sequence[float], ran: float) -> None:
        self._commit_jobs.observe(len(waits))
        self._write_runs.observe(ran)
        for wait in waits:
            self._write_waits.observe(wait)

    def read(self, waited: float, ran: float) -> None:
        self._read_waits.observe(waited)
        self._read_runs.observe(ran)

    # How things stand.

    def watch(self, **sites: Site[Any]) -> None:
        """Tell how it stands with some sites, too."""
        self._sites |= sites

    async def look(self, database: Database, clock: Clock) -> None:
        """See how things stand now."""
        for name, site in self._sites.items():
            self._in_flight.labels(name).set(site.in_flight)
            self._connections.labels(name).set(len(site.connections))
        for kind, (entries, weight) in database.caches.fills().items():
            self.tell_cache(kind.name, entries, weight if kind.in_bytes else None, weight / kind.most)
        answer = database.read("metrics", _look, database.engine.size_query)
        timer = clock.call_later(PATIENCE_SECONDS, answer.cancel)
        try:
            size, positions = await answer
        except (CancelledError, Unavailable) as error:
            _log.warning("the database has no figures to give", reason=str(error))
            self._up.set(0)
            return
        finally:
            if timer.active():
                timer.cancel()
        self._up.set(1)
        self._bytes.set(size)
        for stream, position in positions.items():
            self._positions.labels(stream).set(position)

    def tell_cache(self, name: str, entries: int, size: float | None, fill: float) -> None:
        """How full a cache is.

        :param size: in bytes, if that is known.
        """
        self._cache_entries.labels(name).set(entries)
        if size is not None:
            self._cache_bytes.labels(name).set(size)
        self._cache_fill.labels(name).set(fill)


class HomeServerMetrics(Metrics):
    """What a home server has beside that."""

    def __init__(self, registry: CollectorRegistry, server_name: str, bus: Bus) -> None:
        super().__init__(registry)
        self._server_name = server_name
        self._events = Counter(
            "synapse_like_events",
            "Events that have come into their rooms, by kind, of our users and others.",
            ["kind", "origin"],
            registry=registry,
        )
        self._polls = self.gauge("long_polls", "Requests for news that are under way.")
        self._destinations = self.gauge("destinations", "Queues for other servers in memory, by what they do.", "state")
        self._waiting_events = self.gauge("destination_events", "Events in memory that wait in them.", "state")
        self._waiting_edus = self.gauge("destination_edus", "EDUs in memory that wait in them.", "state")
        self._behind = self.gauge("destination_behind_seconds", "For how long the oldest has been waiting.", "state")
        bus.subscribe(EventPersisted, self._persisted)

    def _persisted(self, news: EventPersisted) -> None:
        if news.is_heard:
            # It is counted by who stored it.
            return
        event = news.about
        kind = KINDS.get(event.event_type) or ("state" if event.is_state else "other")
        self._events.labels(kind, "ours" if domain_of(event.sender) == self._server_name else "others").inc()

    def look_at_streams(self, event_stream: EventStream, notifier: Notifier) -> None:
        """See who waits for news, and how much of it is in memory."""
        self._polls.set(event_stream.polls)
        count, size, fill = notifier.recent.size
        self.tell_cache("recent", count, size, fill)

    def look_at_queues(self, states: Mapping[str, QueueState]) -> None:
        """See how it stands with what is sent to others."""
        for doing in QUEUE_STATES:
            queues = [state for state in states.values() if state.doing == doing]
            self._destinations.labels(doing).set(len(queues))
            self._waiting_events.labels(doing).set(sum(state.events for state in queues))
            self._waiting_edus.labels(doing).set(sum(state.passing_edus for state in queues))
            self._behind.labels(doing).set(max((state.behind_seconds for state in queues), default=0))


def _look(txn: Transaction, size_query: str) -> tuple[int, dict[str, int]]:
    """The size of the database, and how far its streams are."""
    row = txn.one(size_query)
    assert row is not None, "it has a size"
    return int(row[0]), dict(txn.all("SELECT stream, position FROM stream_positions"))


class _Nobody:
    """Asks nobody who they are."""

    reads_body = False

    async def authenticate(self, asking: Asking, *, is_optional: bool) -> None:
        return None

    def name_of(self, requester: None) -> str:
        return ""


class MetricsParts(Struct):
    """What answers to Prometheus.

    :ivar threads: where the answer is written, which takes a while.
    :ivar teller: what answers to other processes of the same server, if there are any.
    """

    site: Site[None]
    threads: ThreadPool
    teller: Factory | None


def make_metrics_site(
    metrics: Metrics,
    reactor: Any,
    clock: Clock,
    database: Database,
    look: Callable[[], None] | None = None,
    siblings: Siblings | None = None,
) -> MetricsParts:
    """What answers to Prometheus.

    :param look: what else is to be looked at before.
    :param siblings: the processes that are the server together: all their figures are on the page.
    """
    threads = ThreadPool(0, 1, "metrics")

    async def write(by: Callable[[CollectorRegistry], bytes]) -> bytes:
        if look is not None:
            look()
        await metrics.look(database, clock)
        return await deferToThreadPool(reactor, threads, by, metrics.registry)

    async def collect(_: Call[None]) -> object:
        if siblings is None:
            text = await write(generate_latest)
        else:
            places = {number: siblings.meeting_place(number) for number in siblings.others}
            others = Deferred.fromCoroutine(figures.ask_all(reactor, places))
            own = await write(figures.written)
            told = {siblings.number: own, **await others}
            text = await deferToThreadPool(reactor, threads, figures.page, told)
        return Response(200, {"Content-Type": CONTENT_TYPE_LATEST}, text)

    mount: Mount[None] = Mount("", [Route("GET", "/metrics", collect, auth=Auth.NONE)])
    limits = Limiter({}, clock.monotonic, enabled=False)
    site = make_site([mount], authenticator=_Nobody(), limiter=limits, clock=clock)
    teller = figures.Teller(lambda: write(figures.written)) if siblings is not None else None
    return MetricsParts(site, threads, teller)
