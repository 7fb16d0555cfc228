"""From the name of a server to the places where it may be (FED-1).

A name with a port, or an IP address, says it all. For any other name, DNS is asked for the service `_matrix._tcp`; the
places come in the order in which RFC 2782 wants them tried, drawn anew each time. Without such a record it is the name
itself, at port 8448. A record with the target "." means that there is no server under this name.

What DNS says is remembered for as long as it says, within bounds; that it could not be asked, for moments only. Then
the name itself at port 8448 is tried: whoever answers there has to show a certificate anyway.
"""

# mypy: allow-untyped-calls
# (Twisted's names are not annotated.)

from __future__ import annotations

from collections.abc import Sequence
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from cachetools import TLRUCache
from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.names.error import DNSNameError, DomainError, ResolverError

from synapse_like.clock import Clock
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.federation.sharing import Shared
from synapse_like.logs import get_logger

if TYPE_CHECKING:
    from twisted.names import dns

PORT = 8448
SERVICE = "_matrix._tcp"
#: How long DNS may take to answer each of our questions, in seconds.
DNS_SECONDS = (1, 2, 4)
#: The type of the records that tell where a service is.
SRV = 33

#: How long an answer of DNS is remembered, in seconds, whatever it says itself.
SHORTEST_SECONDS, LONGEST_SECONDS = 60, 24 * 3600
#: The same for the answer that there is nothing, and for no answer.
NOTHING_SECONDS, FAILURE_SECONDS = 300, 30
MOST_REMEMBERED = 10_000
MOST_RECORDS = 16

_log = get_logger(__name__)


class Place(NamedTuple):
    """Where a server may be.

    :ivar host: a DNS name or an IP address, without brackets.
    """

    host: str
    port: int


class ServiceLookup(Protocol):
    """What is needed of `twisted.names.client.Resolver`."""

    def lookupService(self, name: str, timeout: Sequence[int] | None = None) -> Deferred[Any]:  # noqa: N802
        """Ask for the SRV records of a name."""


class SystemLookup:
    """Asks the DNS servers of this machine.

    What does is loaded with the first question: it takes 4 ms, and who names no other servers, or names them with
    their ports, never asks.

    :param reactor: Twisted's reactor.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._resolver: Any = None

    def lookupService(self, name: str, timeout: Sequence[int] | None = None) -> Deferred[Any]:  # noqa: N802
        if self._resolver is None:
            from twisted.names.client import Resolver

            self._resolver = Resolver(resolv="/etc/resolv.conf", timeout=DNS_SECONDS, reactor=self._reactor)
        asking: Deferred[Any] = self._resolver.lookupService(name, timeout)
        return asking


class _Records(Struct, frozen=True):
    """What DNS said about a name.

    :ivar is_closed: whether it said that there is no such service.
    """

    records: tuple[dns.Record_SRV, ...]
    seconds: float
    is_closed: bool = False


def split_name(server_name: str) -> tuple[str, int | None]:
    """The host, without brackets, and the port of a well-formed server name."""
    if server_name.startswith("["):
        host, _, port = server_name[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = server_name.partition(":")
    return host, int(port) if port else None


def is_address(host: str) -> bool:
    """Whether the host of a well-formed server name is an IP address: only these have a colon or end in a digit."""
    return ":" in host or host.rpartition(".")[2].isdigit()


class ServerResolver:
    """Finds servers.

    :param lookup: asks DNS.
    :param dice: draws among the places of one priority.
    """

    def __init__(self, lookup: ServiceLookup, clock: Clock, dice: Random | None = None) -> None:
        self._lookup = lookup
        self._dice = dice or SystemRandom()
        self._known: TLRUCache[str, _Records] = TLRUCache(
            MOST_REMEMBERED, lambda _, records, now: now + records.seconds, timer=clock.monotonic
        )
        self._asking: Shared[str, _Records] = Shared(self._ask)

    async def places(self, server_name: str) -> list[Place]:
        """Where to find a server, in the order in which to try it; one place at least.

        :param server_name: well-formed.
        :raises ServerUnreachable: DNS says that there is no such server.
        """
        host, port = split_name(server_name)
        if port is not None or is_address(host):
            return [Place(host, port or PORT)]
        found = self._known.get(host)
        if found is None:
            found = self._known[host] = await self._asking.get(host)
        if found.is_closed:
            raise ServerUnreachable(server_name, "DNS says that it has no Matrix server")
        return [Place(str(record.target).rstrip("."), record.port) for record in self._in_order(found.records)] or [
            Place(host, PORT)
        ]

    async def _ask(self, host: str) -> _Records:
        try:
            answers, _, _ = await self._lookup.lookupService(f"{SERVICE}.{host}")
        except DNSNameError:
            return _Records((), NOTHING_SECONDS)
        except (DomainError, ResolverError, DeferredTimeoutError, OSError) as error:
            _log.debug("DNS could not be asked", host=host, reason=repr(error))
            return _Records((), FAILURE_SECONDS)
        return _records(answers)

    def _in_order(self, records: Sequence[dns.Record_SRV]) -> list[dns.Record_SRV]:
        """RFC 2782: the lowest priority first; within one, drawn with a chance by weight."""
        left = sorted(records, key=lambda record: (record.priority, record.weight))
        ordered = []
        while left:
            peers = [record for record in left if record.priority == left[0].priority]
            mark = self._dice.randint(0, sum(record.weight for record in peers))
            for record in peers:
                mark -= record.weight
                if mark <= 0:
                    break
            left.remove(record)
            ordered.append(record)
        return ordered


def _records(answers: Sequence[Any]) -> _Records:
    headers = [header for header in answers if header.type == SRV and header.payload is not None][:MOST_RECORDS]
    if not headers:
        return _Records((), NOTHING_SECONDS)
    seconds = min(max(min(header.ttl for header in headers), SHORTEST_SECONDS), LONGEST_SECONDS)
    usable = tuple(header.payload for header in headers if str(header.payload.target) not in ("", "."))
    return _Records(usable, seconds, is_closed=not usable)
