"""The composition root: all parts of a server, put together.

Nothing else makes a handler or a site; everything is handed what it needs, here or in the modules beside, once.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from twisted.internet.protocol import Factory
from twisted.python.threadpool import ThreadPool

from synapse_like.app.addresses import make_addresses
from synapse_like.app.chores import share_out
from synapse_like.app.client_site import client_mounts
from synapse_like.app.content import ContentParts, make_content
from synapse_like.app.entrance import make_entrance, make_identity_client, make_policy
from synapse_like.app.federation_site import federation_mounts, make_transactions
from synapse_like.app.foundation import Foundation, lay_foundation
from synapse_like.app.giving_back import LOOK_SECONDS, GivingBack
from synapse_like.app.health import Health
from synapse_like.app.parts import hasher, site
from synapse_like.app.reloading import Takes, takes_of_home_server
from synapse_like.app.rooms import make_rooms
from synapse_like.app.siblings import Siblings
from synapse_like.app.speaking import make_agent, make_speaking
from synapse_like.app.streams import Streams, make_streams
from synapse_like.background import Repeating, every
from synapse_like.config import Config
from synapse_like.federation.agent import Agent
from synapse_like.federation.client import FederationClient
from synapse_like.federation.destinations import DestinationQueues
from synapse_like.federation.greetings import Greetings
from synapse_like.federation.tls import ServerTls
from synapse_like.handlers.authentication import Authentication, Requester
from synapse_like.handlers.backfill import Backfill
from synapse_like.handlers.event_stream import EventStream
from synapse_like.handlers.incoming_transactions import IncomingTransactions
from synapse_like.handlers.passwords import Passwords
from synapse_like.http.budget import Budget
from synapse_like.http.client.authentication import TokenAuthenticator
from synapse_like.http.federation.authentication import SignatureAuthenticator
from synapse_like.http.site import Site
from synapse_like.storage.database import Database

if TYPE_CHECKING:
    from synapse_like.app.metrics import MetricsParts

#: Threads that read and write files.
FILE_THREADS = 8
#: How often events are tried again that wait for what they lack, in seconds.
WAITING_SECONDS = 20
#: How often it is looked for what we missed of our rooms; what comes by itself shall do so first.
NEWS_SECONDS = 10
#: How often the file of the certificate is looked at, in seconds.
CERTIFICATE_SECONDS = 60


class HomeServer(Struct):
    """A running server's parts, as far as somebody must start and stop them.

    :ivar metrics: what answers to Prometheus.
    :ivar figures: what tells other processes of the same server how it stands with this one.
    :ivar takes: how settings are taken over while it runs.
    :ivar files_agent: fetches files; apart from the other, so that large files never stand in the way of events.
    """

    database: Database
    thread_pools: list[ThreadPool]
    event_stream: EventStream
    site: Site[Requester]
    federation: Federation | None
    tasks: list[Repeating]
    content: ContentParts
    files_agent: Agent
    start_presence: Callable[[], Coroutine[Any, Any, None]] | None
    health: Health
    metrics: Site[None] | None
    figures: Factory | None
    takes: Takes[Config]


class Federation(Struct):
    """What of it other servers deal with.

    :ivar tls: None behind a proxy that does it.
    """

    agent: Agent
    site: Site[str]
    tls: ServerTls | None
    queues: DestinationQueues
    greetings: Greetings
    transactions: IncomingTransactions


def build(config: Config, reactor: Any, siblings: Siblings | None = None) -> HomeServer:
    """Put a server together; its database is open, nothing runs yet.

    :param reactor: Twisted's reactor.
    :param siblings: the processes that are the server together, if this is one of several.
    :raises StartError: the database cannot be used, or a key, a certificate or a template cannot be read.
    """
    on = lay_foundation(config, reactor, siblings)
    database, clock, limits = on.database, on.clock, on.limits
    authentication = Authentication(database, on.bus, clock)
    passwords = Passwords(hasher(config), reactor)
    identity_client = make_identity_client(config, reactor, clock, on.own_keys)
    policy = make_policy(config, reactor, clock, database, on.own_keys)
    entrance = make_entrance(
        config, reactor, clock, database, authentication, passwords, limits, identity_client, policy
    )
    speaking = make_speaking(on)
    rooms = make_rooms(on, speaking, policy)
    streams = make_streams(on, speaking, authentication)
    addresses = make_addresses(on, speaking, rooms, identity_client)
    files = ThreadPool(0, FILE_THREADS, "files")
    files_agent = make_agent(on, seconds=config.content.remote_timeout)
    files_client = FederationClient(files_agent, on.name, on.own_keys.signing)
    content = make_content(config, reactor, clock, database, files, files_client)
    backfill = Backfill(database, speaking.client, rooms.checks, rooms.missing, rooms.locks, clock, on.bus)
    transactions = make_transactions(on, speaking, rooms, streams)
    health = Health(database, clock)

    def heard_from(other: str) -> None:
        streams.queues.heard_from(other)
        backfill.heard_from(other)

    held_bytes = config.limits.max_held_bytes
    budget, metrics = Budget(held_bytes if siblings is None else siblings.share(held_bytes)), on.metrics
    client_site = site(
        config,
        clock,
        limits,
        budget,
        client_mounts(on, authentication, entrance, rooms, streams, addresses, content, backfill, health),
        TokenAuthenticator(authentication.authenticate, lambda requester: requester.user_id),
        metrics.answered("clients") if metrics else None,
    )
    federation_site = site(
        config,
        clock,
        limits,
        budget,
        federation_mounts(on, speaking, rooms, addresses, content, transactions),
        SignatureAuthenticator(speaking.keyring, limits, heard_from),
        metrics.answered("servers") if metrics else None,
    )
    federation = Federation(
        speaking.agent,
        federation_site,
        on.server_tls,
        streams.queues,
        Greetings(database, clock, speaking.client, on.name),
        transactions,
    )
    tasks = [
        every(clock, "forget-transactions", 3600, transactions.forget_old),
        every(clock, "retry-waiting-events", WAITING_SECONDS, transactions.retry_waiting),
        every(clock, "fill-news", NEWS_SECONDS, backfill.fill_news),
        every(clock, "give-back-memory", LOOK_SECONDS, GivingBack().look),
        *streams.tasks,
        *rooms.tasks,
        *addresses.tasks,
        *entrance.tasks,
        *content.tasks,
    ]
    if on.server_tls is not None:
        tasks.append(every(clock, "renewed-certificate", CERTIFICATE_SECONDS, on.server_tls.look))
    thread_pools = [passwords.threads, files, addresses.threads, speaking.threads]
    metrics_parts = _make_metrics_parts(on, streams, client_site, federation_site, thread_pools)
    return HomeServer(
        database,
        thread_pools,
        streams.event_stream,
        client_site,
        federation if config.federation.enabled else None,
        share_out(tasks, database, clock),
        content,
        files_agent,
        streams.people.start if streams.people else None,
        health,
        metrics_parts.site if metrics_parts else None,
        metrics_parts.teller if metrics_parts else None,
        takes_of_home_server(on.rates, [client_site, federation_site], speaking.keyring, on.client_tls),
    )


def _make_metrics_parts(
    on: Foundation,
    streams: Streams,
    client_site: Site[Requester],
    federation_site: Site[str],
    thread_pools: list[ThreadPool],
) -> MetricsParts | None:
    """What answers to Prometheus, if the settings want it.

    :param thread_pools: its own is put among them.
    """
    if on.metrics is None:
        return None
    # Most servers have none, and start sooner without.
    from synapse_like.app.metrics import make_metrics_site

    metrics = on.metrics

    def look() -> None:
        metrics.look_at_streams(streams.event_stream, streams.notifier)
        metrics.look_at_queues(streams.queues.states())

    metrics.watch(clients=client_site, servers=federation_site)
    parts = make_metrics_site(metrics, on.reactor, on.clock, on.database, look, on.siblings)
    thread_pools.append(parts.threads)
    return parts
