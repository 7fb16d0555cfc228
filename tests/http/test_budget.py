"""What clients may hold of the server's memory and sockets, at a real socket (SEC-1, RATE-1)."""

# mypy: allow-untyped-calls

from __future__ import annotations

from typing import Any

import pytest

from synapse_like.http.budget import Budget
from synapse_like.http.channel import ABORT_SECONDS, IDLE_SECONDS, LINGER_SECONDS
from synapse_like.http.limits import Limiter
from synapse_like.http.requests import Body, Call, weight
from synapse_like.http.responses import Encoded
from synapse_like.http.routing import Auth, Route
from synapse_like.protocol.errors import LimitExceeded, Unavailable
from tests.http.site_case import PREFIX, Client, SiteCase, Waiting, request

MEBIBYTE = 1024 * 1024
LOCAL = "127.0.0.1"


def test_what_is_given_back_is_there_again() -> None:
    budget = Budget(100)
    budget.hold("a", 25)
    with pytest.raises(Unavailable):
        budget.check("a", 1)
    budget.release("a", 25)
    budget.check("a", 25)
    assert (budget.total, budget.held("a")) == (0, 0)


def test_one_address_does_not_take_what_others_need() -> None:
    budget = Budget(100)
    budget.hold("a", 25)
    budget.check("b", 25)
    for address in "bcd":
        budget.hold(address, 25)
    with pytest.raises(Unavailable):
        budget.check("e", 1)


def test_request_that_is_alone_may_be_large() -> None:
    budget = Budget(100)
    budget.hold("a", 20)
    budget.check("a", 200, own=20)
    with pytest.raises(Unavailable):
        budget.check("a", 200, own=19)


def test_weight_of_json_is_that_of_its_values_and_not_of_its_text() -> None:
    assert weight(b"[" + b"[],[{}]," * 500_000 + b"0]") > 40 * MEBIBYTE
    assert weight(b'{"body":"' + b",[{" * 100_000 + b'"}') < 1000


class HeldTests(SiteCase):
    def serve_pages(self, budget: Budget, size: int = 4 * MEBIBYTE, **options: Any) -> None:
        self.asked = 0
        self.waiting = Waiting()

        async def page(call: Call[str]) -> object:
            self.asked += 1
            return Encoded(bytes(size))

        async def change(call: Call[str]) -> object:
            self.asked += 1
            return Encoded(bytes(size))

        self.serve(
            Route("GET", "/page", page, auth=Auth.NONE),
            Route("PUT", "/change", change, auth=Auth.NONE, body=Body.OBJECT),
            Route("PUT", "/wait", self.waiting, auth=Auth.NONE, body=Body.OBJECT),
            budget=budget,
            **options,
        )

    async def connect_deaf(self) -> Client:
        """A client that does not read."""
        client = await self.connect()
        transport: Any = client.transport
        transport.pauseProducing()
        return client

    async def test_unread_answers_are_bounded_however_many_are_asked_for(self) -> None:
        """Twenty-five connections that asked for large pages and did not read once held two gigabytes."""
        budget = Budget(64 * MEBIBYTE)
        self.serve_pages(budget)
        largest = 0
        for _ in range(25):
            client = await self.connect_deaf()
            client.send(8 * request("GET", PREFIX + "/page"))
            await self.reactor_turns()
            largest = max(largest, budget.total)
        await self.until(lambda: budget.total > 12 * MEBIBYTE)
        assert max(largest, budget.total) < 17 * MEBIBYTE
        assert len(self.site.connections) == 25

    async def test_who_is_refused_is_told_so_and_gets_it_once_the_others_are_gone(self) -> None:
        budget = Budget(64 * MEBIBYTE)
        self.serve_pages(budget, size=12 * MEBIBYTE)
        deaf = await self.connect_deaf()
        deaf.send(request("GET", PREFIX + "/page"))
        await self.until(lambda: self.asked == 1)
        answer = await self.ask("GET", "/page")
        assert (answer.status, answer.json["errcode"]) == (503, "M_UNAVAILABLE")
        assert int(answer.headers["retry-after"]) > 0
        deaf.leave()
        transport: Any = deaf.transport
        transport.resumeProducing()
        await self.until(lambda: budget.total == 0)
        assert len((await self.ask("GET", "/page")).body) == 12 * MEBIBYTE
        await self.until(lambda: budget.total == 0)

    async def test_client_that_reads_is_never_refused(self) -> None:
        budget = Budget(16 * MEBIBYTE)
        self.serve_pages(budget, size=3 * MEBIBYTE)
        client = await self.connect()
        for _ in range(10):
            client.send(request("GET", PREFIX + "/page"))
            assert len((await client.answer()).body) == 3 * MEBIBYTE
        await self.until(lambda: budget.total == 0)

    async def test_client_that_does_not_read_is_cut_off_and_holds_nothing_more(self) -> None:
        budget = Budget(64 * MEBIBYTE)
        self.serve_pages(budget)
        client = await self.connect_deaf()
        client.send(2 * request("GET", PREFIX + "/page"))
        await self.until(lambda: budget.total > MEBIBYTE)
        for _ in range(IDLE_SECONDS + ABORT_SECONDS + 12):
            self.time.advance(1)
            await self.reactor_turns(1)
        await self.until(lambda: budget.total == 0)
        assert not self.site.connections

    async def test_answer_of_what_changes_something_is_not_withheld(self) -> None:
        self.serve_pages(Budget(4), size=MEBIBYTE)
        assert len((await self.ask("PUT", "/change", b"{}")).body) == MEBIBYTE

    async def test_bodies_under_way_are_bounded_and_end_with_their_requests(self) -> None:
        budget = Budget(4 * MEBIBYTE)
        self.serve_pages(budget)
        first = await self.connect()
        first.send(request("PUT", PREFIX + "/wait", b'{"a":"' + bytes(b"x" * 900_000) + b'"}'))
        await self.until(lambda: self.waiting.waits)
        second = await self.connect()
        second.send(request("PUT", PREFIX + "/wait", b'{"a":"' + bytes(b"x" * 900_000) + b'"}'))
        answer = await second.answer()
        assert (answer.status, answer.json["errcode"]) == (503, "M_UNAVAILABLE")
        self.time.advance(LINGER_SECONDS)
        await second.closed()
        self.waiting.waits[0].callback({})
        assert (await first.answer()).status == 200
        await self.until(lambda: budget.total == 0)

    async def test_json_that_is_small_as_text_and_large_in_memory_counts_as_that(self) -> None:
        budget = Budget(16 * MEBIBYTE)
        self.serve_pages(budget)
        client = await self.connect()
        client.send(request("PUT", PREFIX + "/wait", b'{"a":[' + b"[]," * 300_000 + b"0]}"))
        await self.until(lambda: self.waiting.waits)
        assert budget.held(LOCAL) > 16 * MEBIBYTE
        assert (await self.ask("PUT", "/wait", b"{}")).status == 503
        self.waiting.waits[0].callback({})
        await self.until(lambda: budget.total == 0)

    async def test_client_that_goes_away_in_the_middle_leaves_nothing(self) -> None:
        budget = Budget(16 * MEBIBYTE)
        self.serve_pages(budget)
        client = await self.connect()
        client.send(request("PUT", PREFIX + "/wait", b"{}") + request("PUT", PREFIX + "/wait", Content_Length="900"))
        client.send(bytes(500))
        await self.until(lambda: self.waiting.waits and budget.total >= 502)
        client.leave()
        await self.until(lambda: not self.site.connections)
        self.waiting.waits[0].callback({})
        await self.until(lambda: budget.total == 0)


class ConnectionTests(SiteCase):
    async def test_one_address_has_only_so_many(self) -> None:
        self.serve(Route("GET", "/x", Waiting(), auth=Auth.NONE), max_connections_per_address=3)
        clients = [await self.connect() for _ in range(3)]
        await (await self.connect()).closed()
        clients[0].leave()
        await self.until(lambda: len(self.site.connections) == 2)
        assert (await self.ask("GET", "/y")).status == 404
        assert not clients[1].is_closed

    async def test_trusted_proxy_has_as_many_as_there_may_be(self) -> None:
        self.serve(max_connections=4, max_connections_per_address=1, trusted_proxies=[LOCAL])
        clients = [await self.connect() for _ in range(4)]
        await self.reactor_turns()
        assert not any(client.is_closed for client in clients)
        await (await self.connect()).closed()


class RetryTests(SiteCase):
    async def test_waiting_as_long_as_told_is_enough_for_every_limit_on_the_way(self) -> None:
        """RATE-1: a limit behind another one said how long to wait for itself alone."""

        async def limited(call: Call[str]) -> object:
            if self.time.seconds() < 1_000_000.01:
                raise LimitExceeded("Another limit.", 10)
            return {}

        self.serve(Route("PUT", "/x", limited, rate="slow", body=Body.OBJECT), limiter=self.limiter(1, 1))
        answer = await self.ask("PUT", "/x", b"{}", Authorization="Bearer alice")
        assert (answer.status, answer.json["retry_after_ms"]) == (429, 1000)
        self.time.advance(1)
        assert (await self.ask("PUT", "/x", b"{}", Authorization="Bearer alice")).status == 200

    async def test_clients_behind_a_proxy_are_counted_apart_and_ipv6_by_its_network(self) -> None:
        self.serve(
            Route("GET", "/x", self.fine, auth=Auth.NONE, rate="slow"),
            limiter=self.limiter(1, 1),
            trusted_proxies=[LOCAL],
        )
        for claimed, status in (
            ("2001:db8::1", 200),
            ("2001:db8::2", 429),
            ("2001:db8:0:0:ffff::", 429),
            ("2001:db8::1%eth0", 429),
            ("2001:db8:0:1::1", 200),
            ("::ffff:192.0.2.1", 200),
            ("192.0.2.1", 429),
            ("evil, 2001:db8::3", 429),
        ):
            assert (await self.ask("GET", "/x", X_Forwarded_For=claimed)).status == status, claimed

    async def test_header_of_a_stranger_does_not_make_another_address_of_it(self) -> None:
        self.serve(Route("GET", "/x", self.fine, auth=Auth.NONE, rate="slow"), limiter=self.limiter(1, 1))
        assert (await self.ask("GET", "/x")).status == 200
        for claimed in ("192.0.2.1", "127.0.0.2", ",".join(["10.0.0.1"] * 500), "a" * 5000, "::1, 127.0.0.1"):
            assert (await self.ask("GET", "/x", X_Forwarded_For=claimed)).status == 429, claimed

    def limiter(self, per_second: float, burst: int) -> Limiter:
        # The site's clock is made by `serve`.
        return Limiter({"slow": (per_second, burst)}, lambda: self.time.seconds())

    async def fine(self, call: Call[str]) -> object:
        return {}
