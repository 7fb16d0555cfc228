"""What all parts of a home server stand on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from synapse_like.app.parts import limiter, load_keys, open_database, open_tls
from synapse_like.app.reloading import rates_of
from synapse_like.app.siblings import Siblings
from synapse_like.clock import ReactorClock
from synapse_like.config import Config
from synapse_like.federation.own_keys import OwnKeys
from synapse_like.federation.tls import ClientTls, ServerTls
from synapse_like.http.limits import Limiter
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database

if TYPE_CHECKING:
    from synapse_like.app.metrics import HomeServerMetrics


class Foundation(Struct, frozen=True):
    """The settings, and what needs nothing but them.

    :ivar rates: the rate limits by class; `limits` looks at them each time.
    :ivar server_tls: None behind a proxy that does it.
    :ivar metrics: what counts for Prometheus; None if the settings want none.
    :ivar siblings: the processes that are the server together; None if it is one.
    """

    config: Config
    reactor: Any
    clock: ReactorClock
    bus: Bus
    database: Database
    own_keys: OwnKeys
    client_tls: ClientTls
    server_tls: ServerTls | None
    rates: dict[str, tuple[float, int]]
    limits: Limiter
    metrics: HomeServerMetrics | None
    siblings: Siblings | None

    @property
    def name(self) -> str:
        """The name of the server."""
        return self.config.server_name


def lay_foundation(config: Config, reactor: Any, siblings: Siblings | None = None) -> Foundation:
    """Read the keys, and open the database.

    :param reactor: Twisted's reactor.
    :param siblings: the processes that are the server together.
    :raises StartError: the database cannot be used, or a key or a certificate cannot be read.
    """
    clock, bus = ReactorClock(reactor), Bus()
    own_keys = load_keys(config, clock.now_ms())
    client_tls, server_tls = open_tls(config)
    metrics, rates = make_metrics(config, bus), rates_of(config)
    database = open_database(
        config, own_keys, reactor, bus, metrics, siblings.machine if siblings is not None else None
    )
    limits = limiter(config, clock, rates, siblings.buckets if siblings is not None else None)
    return Foundation(
        config, reactor, clock, bus, database, own_keys, client_tls, server_tls, rates, limits, metrics, siblings
    )


def make_metrics(config: Config, bus: Bus) -> HomeServerMetrics | None:
    """What counts for Prometheus; None if the settings want none."""
    if config.metrics.port is None:
        return None
    from prometheus_client import CollectorRegistry

    from synapse_like.app.metrics import HomeServerMetrics

    return HomeServerMetrics(CollectorRegistry(), config.server_name, bus)
