"""From the name of a server to where it is: real DNS on a port of our own (FED-1)."""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.names import client, dns

from synapse_like.clock import ReactorClock
from synapse_like.federation import resolver as resolver_module
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.federation.resolver import FAILURE_SECONDS, NOTHING_SECONDS, SHORTEST_SECONDS, Place, ServerResolver
from tests.federation.other_servers import FederationCase, loop

SERVICE = "_matrix._tcp.a.example"


def service(priority: int, weight: int, port: int, target: bytes, ttl: int = 600) -> Any:
    return dns.Record_SRV(priority, weight, port, target, ttl=ttl)


class ResolverTests(FederationCase):
    def resolver(self, *records: Any, lookup: Any = None, dice: Random | None = None) -> ServerResolver:
        self.time = Clock()
        lookup = lookup or self.dns_server({SERVICE: list(records)} if records else {})
        return ServerResolver(lookup, ReactorClock(self.time), dice)

    async def test_port_and_address_say_it_all(self) -> None:
        resolver = self.resolver()
        for name, place in {
            "a.example:1": Place("a.example", 1),
            "127.0.0.1": Place("127.0.0.1", 8448),
            "127.0.0.1:2": Place("127.0.0.1", 2),
            "[::1]": Place("::1", 8448),
            "[2001:db8::1]:3": Place("2001:db8::1", 3),
        }.items():
            assert await resolver.places(name) == [place]
        assert self.zone.asked == 0

    async def test_without_a_service_it_is_the_name_itself(self) -> None:
        assert await self.resolver().places("a.example") == [Place("a.example", 8448)]
        assert self.zone.asked == 1

    async def test_service_leads_elsewhere_in_order_of_priority(self) -> None:
        resolver = self.resolver(
            service(20, 0, 3, b"c.example"), service(10, 0, 1, b"a1.example"), service(15, 5, 2, b"b.example")
        )
        assert await resolver.places("a.example") == [
            Place("a1.example", 1),
            Place("b.example", 2),
            Place("c.example", 3),
        ]

    async def test_places_of_one_priority_are_drawn_by_weight(self) -> None:
        resolver = self.resolver(service(1, 90, 1, b"x.example"), service(1, 10, 2, b"y.example"), dice=Random(1))
        first = Counter([(await resolver.places("a.example"))[0].port for _ in range(1000)])
        assert 850 < first[1] < 950
        assert first[1] + first[2] == 1000

    async def test_dot_means_that_there_is_no_server(self) -> None:
        with pytest.raises(ServerUnreachable, match="no Matrix server"):
            await self.resolver(service(0, 0, 0, b".")).places("a.example")

    async def test_answer_is_remembered_as_long_as_it_says_within_bounds(self) -> None:
        for ttl, seconds in ((600, 600), (0, SHORTEST_SECONDS), (10**7, 24 * 3600)):
            resolver = self.resolver(service(1, 1, 1, b"x.example", ttl))
            await resolver.places("a.example")
            self.time.advance(seconds - 1)
            await resolver.places("a.example")
            assert self.zone.asked == 1
            self.time.advance(2)
            await resolver.places("a.example")
            assert self.zone.asked == 2

    async def test_that_there_is_nothing_is_remembered_too(self) -> None:
        resolver = self.resolver()
        await resolver.places("a.example")
        self.time.advance(NOTHING_SECONDS - 1)
        await resolver.places("a.example")
        assert self.zone.asked == 1
        self.time.advance(2)
        await resolver.places("a.example")
        assert self.zone.asked == 2

    async def test_dns_that_fails_is_asked_again_soon(self) -> None:
        asked = []

        class Broken:
            def lookupService(self, name: str, timeout: object = None) -> Deferred[Any]:  # noqa: N802
                asked.append(name)
                raise TimeoutError

        resolver = self.resolver(lookup=Broken())
        for _ in range(3):
            assert await resolver.places("a.example") == [Place("a.example", 8448)]
        assert asked == [SERVICE]
        self.time.advance(FAILURE_SECONDS + 1)
        await resolver.places("a.example")
        assert len(asked) == 2

    async def test_dns_that_does_not_answer_is_not_waited_for_long(self) -> None:
        silent = loop.listenUDP(0, dns.DNSDatagramProtocol(None), interface="127.0.0.1")
        silent.protocol.datagramReceived = lambda *_: None
        self.addCleanup(silent.stopListening)
        lookup = client.Resolver(servers=[("127.0.0.1", silent.getHost().port)], timeout=(1,), reactor=loop)
        assert await self.resolver(lookup=lookup).places("a.example") == [Place("a.example", 8448)]

    async def test_who_asks_at_the_same_time_shares_one_question(self) -> None:
        resolver = self.resolver(service(1, 1, 1, b"x.example"))
        await gatherResults([Deferred.fromCoroutine(resolver.places("a.example")) for _ in range(10)])
        assert self.zone.asked == 1

    async def test_memory_is_bounded(self) -> None:
        self.patch(resolver_module, "MOST_REMEMBERED", 2)
        resolver = self.resolver()
        for name in ("a.example", "b.example", "c.example", "c.example", "a.example"):
            await resolver.places(name)
        assert self.zone.asked == 4

    async def test_very_many_records_are_not_all_used(self) -> None:
        lookup = self.many_records(500)
        assert len(await self.resolver(lookup=lookup).places("a.example")) == resolver_module.MOST_RECORDS

    def many_records(self, number: int) -> Any:
        headers = [
            dns.RRHeader(SERVICE, dns.SRV, dns.IN, 60, service(1, 1, port, b"x.example")) for port in range(1, number)
        ]

        class Many:
            def lookupService(self, name: str, timeout: object = None) -> Deferred[Any]:  # noqa: N802
                found: Deferred[Any] = Deferred()
                found.callback((headers, [], []))
                return found

        return Many()
