"""How much one may ask for."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from synapse_like.config.shared import Rate, Rates
from synapse_like.config.values import Count, Section


class RateClasses(Rates, frozen=True):
    """The limits, each `{per_second: in the long run, burst: at once, after a pause}`."""

    login: Rate = Rate(per_second=0.2, burst=10)
    """Attempts to log in, per client address."""

    login_steps: Rate = Rate(per_second=1, burst=30)
    """Further requests of a login or registration that is under way, per client address."""

    mail: Rate = Rate(per_second=0.005, burst=5)
    """Mails with a code or a link, per e-mail address and per user."""

    tries: Rate = Rate(per_second=0.1, burst=20)
    """Attempts to prove that one is a certain user, from whatever address, per user."""

    lookup: Rate = Rate(per_second=0.2, burst=100)
    """Addresses that identity servers are asked about, per user."""

    registration: Rate = Rate(per_second=0.1, burst=10)
    """Attempts to register, per client address."""

    send: Rate = Rate(per_second=10, burst=50)
    """Whatever changes something, per user."""

    room: Rate = Rate(per_second=50, burst=500)
    """Messages and state that users of this server send into one room, all together, per room."""

    joins: Rate = Rate(per_second=1, burst=30)
    """Rooms that are joined, per user."""

    invites: Rate = Rate(per_second=0.5, burst=100)
    """Invites, those into a new room included, per user."""

    creations: Rate = Rate(per_second=0.2, burst=20)
    """New rooms, per user."""

    read: Rate = Rate(per_second=50, burst=200)
    """Everything else, per user, or per client address where no user is known."""

    federation: Rate = Rate(per_second=100, burst=500)
    """Requests of other servers, per server."""

    federation_joins: Rate = Rate(per_second=5, burst=50)
    """Steps by which users of other servers come into rooms, knock and leave, per server."""

    federation_invites: Rate = Rate(per_second=1, burst=50)
    """Invites by users of other servers, per server."""

    federation_events: Rate = Rate(per_second=500, burst=5000)
    """Events that other servers send, and news of other kinds, per server."""

    federation_room: Rate = Rate(per_second=200, burst=2000)
    """Events that another server sends into one room, per server and room."""

    strangers: Rate = Rate(per_second=5, burst=100)
    """Requests of other servers for which this one may have to ask for the keys of a server, per address."""


class RateLimits(Section, frozen=True):
    """How much one user or one address may ask for."""

    enabled: bool = True
    """Whether there are limits at all."""

    classes: RateClasses = RateClasses()


class Limits(Section, frozen=True):
    """How large a single request may be, and how much there may be at the same time."""

    max_body_bytes: Annotated[int, Meta(ge=65536)] = 1024 * 1024
    """Bytes in the body of a request."""

    max_json_depth: Annotated[int, Meta(ge=10, le=500)] = 100
    """Levels of lists and objects in one another."""

    max_pipelined: Annotated[int, Meta(ge=1, le=64)] = 8
    """Requests of one connection that are worked on at the same time."""

    max_connections: Count = 10_000
    """Connections of clients that there may be; of other servers as many again."""

    max_connections_per_address: Count = 2000
    """The same from one address; trusted proxies may have more."""

    max_held_bytes: Annotated[int, Meta(ge=16 * 1024 * 1024)] = 256 * 1024 * 1024
    """Bytes of memory for requests that are being received and answers that their clients have not taken yet. One
    address may have a quarter. What is beyond is refused with 503, to be tried again."""

    max_polls_per_user: Count = 64
    """Requests of one user that wait for events at the same time; beyond, the oldest is answered at once."""

    long_poll_max_ms: Annotated[int, Meta(ge=1000)] = 300_000
    """Milliseconds that a client may wait for events in one request; a longer wait is cut to this."""
