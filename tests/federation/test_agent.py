"""Requests to other servers: whom we believe, and how much another server may take of us (FED-1, SEC-1, SEC-10)."""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

import contextlib
import shutil
from functools import partial
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorPluggableNameResolver
from twisted.internet.task import deferLater
from twisted.names import dns
from zope.interface import implementer

from synapse_like.federation import agent as agent_module
from synapse_like.federation import connections
from synapse_like.federation.agent import Agent, Timeouts
from synapse_like.federation.connections import MOST_CONNECTIONS
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.federation.tls import CertificateUnusable, ClientTls, ServerTls
from tests.federation.other_servers import FederationCase, Visitor, answer, loop
from tests.support.certificates import Authority


def fine(visitor: Visitor) -> None:
    visitor.say(answer(b"{}"))


class AgentCase(FederationCase):
    async def refusal(self, agent: Agent, name: str, **options: Any) -> str:
        """Why a server could not be reached, as the log is told."""
        with pytest.raises(ServerUnreachable) as caught:
            await self.get(agent, name, **options)
        assert caught.value.status == 502
        assert name in caught.value.message
        return str(caught.value.reason)


class AskingTests(AgentCase):
    async def test_request_is_what_was_asked_for(self) -> None:
        other = self.listen(fine)
        name = f"localhost:{other.port}"
        given = await self.agent().request(
            "PUT", name, "/a%2Fb?c=%21d", headers={"Authorization": "X"}, body=b'{"x":1}', most_bytes=10
        )
        assert (given.status, given.body) == (200, b"{}")
        head, _, body = other.requests[0].partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        assert first == b"PUT /a%2Fb?c=%21d HTTP/1.1"
        assert {b"Host: " + name.encode(), b"Authorization: X", b"Content-Length: 7"} <= set(lines)
        assert b"Content-Type: application/json" in lines
        assert body == b'{"x":1}'

    async def test_connection_is_kept_for_the_next_request(self) -> None:
        other = self.listen(fine)
        agent = self.agent()
        for _ in range(3):
            await self.get(agent, f"localhost:{other.port}")
        assert len(other.visitors) == 1

    async def test_connections_to_one_server_are_few(self) -> None:
        waiting: list[Visitor] = []
        other = self.listen(waiting.append)
        agent = self.agent()
        asked = [Deferred.fromCoroutine(self.get(agent, f"localhost:{other.port}")) for _ in range(20)]
        await self.until(lambda: len(waiting) == MOST_CONNECTIONS)
        await deferLater(loop, 0.05)
        assert len(other.visitors) == MOST_CONNECTIONS
        other.handler = fine
        for visitor in waiting:
            fine(visitor)
        assert len(await gatherResults(asked)) == 20
        assert len(other.visitors) == MOST_CONNECTIONS

    async def test_waiting_requests_are_bounded_too(self) -> None:
        self.patch(connections, "MOST_WAITING", 1)
        other = self.listen(lambda visitor: None)
        agent = self.agent(timeouts=Timeouts(5, 0.5, 5))
        asked = [Deferred.fromCoroutine(self.refusal(agent, f"localhost:{other.port}")) for _ in range(8)]
        reasons = await gatherResults(asked)
        assert reasons.count("too many requests wait for it") == 1

    async def test_request_is_made_again_if_a_kept_connection_was_closed(self) -> None:
        other = self.listen(fine)
        agent = self.agent()
        name = f"localhost:{other.port}"
        await self.get(agent, name)
        other.handler = lambda visitor: visitor.abort() if visitor is other.visitors[0] else fine(visitor)
        assert (await agent.request("PUT", name, "/x", body=b"{}", most_bytes=10)).status == 200
        assert len(other.visitors) == 2

    async def test_kept_connection_that_was_closed_is_forgotten_when_its_time_is_up(self) -> None:
        """The pool closed it once more, and what was closed already failed at that."""
        self.patch(connections, "KEPT_SECONDS", 0.2)
        other = self.listen(fine)
        agent = self.agent()
        await self.get(agent, f"localhost:{other.port}")
        other.visitors[0].abort()
        await deferLater(loop, 0.4)
        assert not self.flushLoggedErrors()
        await self.get(agent, f"localhost:{other.port}")
        assert len(other.visitors) == 2

    async def test_request_is_made_again_once_only(self) -> None:
        other = self.listen(lambda visitor: visitor.abort())
        await self.refusal(self.agent(), f"localhost:{other.port}")
        assert len(other.visitors) == 2

    async def test_connections_to_many_servers_do_not_stay_open(self) -> None:
        self.patch(agent_module, "MOST_DESTINATIONS", 2)
        others = [self.listen(fine) for _ in range(4)]
        agent = self.agent()
        for other in others:
            await self.get(agent, f"localhost:{other.port}")
        await self.until(lambda: [other.is_deserted for other in others] == [True, True, False, False])

    async def test_redirects_are_not_followed(self) -> None:
        target = self.listen(fine)
        other = self.listen(lambda visitor: visitor.say(answer(b"", 302, Location=f"https://localhost:{target.port}/")))
        assert (await self.get(self.agent(), f"localhost:{other.port}")).status == 302
        assert not target.visitors


class NastyServerTests(AgentCase):
    async def test_nobody_there(self) -> None:
        assert "refused" in await self.refusal(self.agent(), "localhost:1")

    async def test_name_that_dns_does_not_know(self) -> None:
        assert "nobody.invalid" in await self.refusal(self.agent(), "nobody.invalid:8448")

    async def test_silence_instead_of_tls(self) -> None:
        other = self.listen(fine, plain=True)
        assert "too long" in await self.refusal(self.agent(timeouts=Timeouts(0.3, 5, 5)), f"localhost:{other.port}")
        await self.until_deserted(other)

    async def test_packets_that_vanish(self) -> None:
        """Nothing comes back, not even a refusal; first while one place is tried after another, then altogether."""
        vanishing = Vanishing()
        lookup = self.dns_server(
            {"_matrix._tcp.a.example": [dns.Record_SRV(priority, 1, 1, b"localhost", ttl=60) for priority in range(3)]}
        )
        agent = self.agent(lookup=lookup, using=vanishing, timeouts=Timeouts(0.2, 5, 5))
        assert "too long" in await self.refusal(agent, "a.example")
        tried = vanishing.tried
        assert tried >= 3
        vanishing.tried = 0
        agent = self.agent(lookup=lookup, using=vanishing, timeouts=Timeouts(5, 0.2, 5))
        assert "too long" in await self.refusal(agent, "a.example")
        # No other place is tried once it is too late.
        assert vanishing.tried <= tried / 3

    async def test_http_instead_of_tls(self) -> None:
        other = self.listen(fine, plain=True)
        self.patch(Visitor, "dataReceived", lambda visitor, data: visitor.say(answer(b"no TLS")))
        assert "TLS failed" in await self.refusal(self.agent(), f"localhost:{other.port}")

    async def test_no_answer(self) -> None:
        other = self.listen(lambda visitor: None)
        agent = self.agent(timeouts=Timeouts(5, 0.3, 5))
        assert "too long" in await self.refusal(agent, f"localhost:{other.port}")
        await self.until_deserted(other)

    async def test_slow_body(self) -> None:
        def slow(visitor: Visitor) -> None:
            visitor.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            drop(visitor)

        def drop(visitor: Visitor) -> None:
            visitor.say(b"x")
            if not visitor.other.is_deserted:
                loop.callLater(0.02, drop, visitor)

        other = self.listen(slow)
        agent = self.agent(timeouts=Timeouts(5, 5, 0.3))
        assert "too long" in await self.refusal(agent, f"localhost:{other.port}")
        await self.until_deserted(other)
        await deferLater(loop, 0.03)

    async def test_body_announced_as_too_large_or_sent_without_end(self) -> None:
        def endless(visitor: Visitor) -> None:
            visitor.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            more(visitor)

        def more(visitor: Visitor) -> None:
            if not visitor.other.is_deserted:
                visitor.say(b"10000\r\n" + bytes(65536) + b"\r\n")
                loop.callLater(0, more, visitor)

        fifty_megabytes = self.listen(lambda visitor: visitor.say(answer(bytes(50_000_000))))
        for other in (self.listen(endless), fifty_megabytes):
            assert "too large" in await self.refusal(self.agent(), f"localhost:{other.port}", most_bytes=100_000)
            await self.until_deserted(other)

    async def test_body_as_large_as_allowed_is_taken(self) -> None:
        other = self.listen(lambda visitor: visitor.say(answer(bytes(100_000))))
        assert len((await self.get(self.agent(), f"localhost:{other.port}", most_bytes=100_000)).body) == 100_000

    async def test_head_without_end(self) -> None:
        def endless(visitor: Visitor) -> None:
            visitor.say(b"HTTP/1.1 200 OK\r\n")
            more(visitor)

        def more(visitor: Visitor) -> None:
            if not visitor.other.is_deserted:
                visitor.say(b"X: y\r\n" * 1000)
                loop.callLater(0, more, visitor)

        other = self.listen(endless)
        agent = self.agent(timeouts=Timeouts(5, 5, 5))
        assert "too long" not in await self.refusal(agent, f"localhost:{other.port}")
        await self.until_deserted(other)

    async def test_answer_that_breaks_off(self) -> None:
        def half(visitor: Visitor) -> None:
            visitor.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            visitor.leave()

        def cut_off(visitor: Visitor) -> None:
            visitor.say(b"HTTP/1.1 200 OK\r\n\r\n{")
            loop.callLater(0.05, visitor.abort)

        for handler in (half, cut_off):
            other = self.listen(handler)
            assert "broke off" in await self.refusal(self.agent(), f"localhost:{other.port}")

    async def test_answer_that_ends_with_its_connection(self) -> None:
        """RFC 9112, 6.3: it may say nothing of where it ends. It is bounded like any other."""

        def say(visitor: Visitor) -> None:
            visitor.say(b"HTTP/1.1 200 OK\r\n\r\n{")
            loop.callLater(0.05, visitor.say, b"}")
            loop.callLater(0.05, visitor.leave)

        other = self.listen(say)
        agent = self.agent()
        name = f"localhost:{other.port}"
        for _ in range(2):
            assert (await self.get(agent, name)).body == b"{}"
        assert len(other.visitors) == 2
        assert "too large" in await self.refusal(self.agent(), name, most_bytes=1)
        silent = self.listen(lambda visitor: visitor.say(b"HTTP/1.1 200 OK\r\n\r\n{}"))
        agent = self.agent(timeouts=Timeouts(5, 5, 0.3))
        assert "too long" in await self.refusal(agent, f"localhost:{silent.port}")
        await self.until_deserted(silent)

    async def test_nonsense(self) -> None:
        for nonsense in (
            b"\x00" * 100 + b"\r\n\r\n",
            b"HTTP/9 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        ):
            other = self.listen(partial(Visitor.say, data=nonsense))
            assert await self.refusal(self.agent(), f"localhost:{other.port}")

    async def test_answer_to_nothing_ends_the_connection(self) -> None:
        other = self.listen(fine)
        agent = self.agent()
        await self.get(agent, f"localhost:{other.port}")
        other.visitors[0].say(answer(b"{}"))
        await self.until_deserted(other)
        assert (await self.get(agent, f"localhost:{other.port}")).status == 200


class CertificateTests(AgentCase):
    async def test_certificate_must_be_of_an_authority_that_we_trust(self) -> None:
        stranger = Authority(self.folder / "stranger", "stranger")
        other = self.listen(fine, files=stranger.certify("localhost"))
        assert "its certificate is not believed" in await self.refusal(self.agent(), f"localhost:{other.port}")
        assert "its certificate is not believed" in await self.refusal(
            self.agent(ca_file=None), f"localhost:{other.port}"
        )
        assert not other.requests

    async def test_certificate_must_name_the_server(self) -> None:
        other = self.listen(fine, "example.org", "127.0.0.2")
        for host in ("localhost", "127.0.0.1"):
            assert "not that of this server" in await self.refusal(self.agent(), f"{host}:{other.port}")
        assert not other.requests

    async def test_certificate_may_name_an_address(self) -> None:
        other = self.listen(fine, "127.0.0.1")
        assert (await self.get(self.agent(), f"127.0.0.1:{other.port}")).status == 200
        assert "not that of this server" in await self.refusal(self.agent(), f"localhost:{other.port}")
        other = self.listen(fine, "::1", interface="::1")
        assert (await self.get(self.agent(), f"[::1]:{other.port}")).status == 200

    async def test_certificate_must_not_have_expired(self) -> None:
        other = self.listen(fine, files=self.authority.certify("localhost", expired=True))
        assert "its certificate is not believed" in await self.refusal(self.agent(), f"localhost:{other.port}")

    async def test_nothing_is_checked_if_the_operator_says_so(self) -> None:
        other = self.listen(fine, files=Authority(self.folder / "stranger").certify("example.org", expired=True))
        assert (await self.get(self.agent(verify=False), f"localhost:{other.port}")).status == 200

    async def test_one_server_can_be_believed_without_a_certificate(self) -> None:
        stranger = Authority(self.folder / "stranger")
        self_signed, other = (self.listen(fine, files=stranger.certify("localhost")) for _ in range(2))
        agent = self.agent(unverified_servers=[f"localhost:{self_signed.port}"])
        assert (await self.get(agent, f"localhost:{self_signed.port}")).status == 200
        assert "its certificate is not believed" in await self.refusal(agent, f"localhost:{other.port}")

    async def test_old_tls_is_refused_by_both_sides(self) -> None:
        files = self.authority.certify("localhost")
        unused: Any = None
        server = ServerTls(files.certificate, files.private_key).serverConnectionForTLS(unused)
        client = SSL.Connection(tls_1_1(), None)
        client.set_connect_state()
        with pytest.raises(SSL.Error):
            shake_hands(client, server)
        old = tls_1_1()
        old.use_certificate_chain_file(str(files.certificate))
        old.use_privatekey_file(str(files.private_key))
        server = SSL.Connection(old, None)
        server.set_accept_state()
        client = ClientTls(ca_file=self.authority.file).towards("localhost").clientConnectionForTLS(unused)
        with pytest.raises(SSL.Error):
            shake_hands(client, server)

    async def test_session_is_kept_and_still_belongs_to_one_server(self) -> None:
        other = self.listen(fine)
        agent = self.agent()
        reused = []
        check = ClientTls.check

        def look(tls: ClientTls, name: str, connection: SSL.Connection) -> None:
            reused.append(bool(SSL._lib.SSL_session_reused(connection._ssl)))  # type: ignore[attr-defined]  # pyOpenSSL has no call for it
            check(tls, name, connection)

        self.patch(ClientTls, "check", look)
        for host in ("localhost", "localhost", "127.0.0.1"):
            await self.get(agent, f"{host}:{other.port}")
            await agent.close()
        assert reused == [False, True, False]

    async def test_certificate_can_be_renewed_under_a_running_server(self) -> None:
        files = self.authority.certify("example.org")
        tls = ServerTls(files.certificate, files.private_key)
        port = loop.listenSSL(0, self.listen(fine), tls, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        name = f"localhost:{port.getHost().port}"
        await self.refusal(self.agent(), name)
        renewed = self.authority.certify("localhost")
        files.certificate.write_text("nonsense")
        await tls.look()
        assert "not that of this server" in await self.refusal(self.agent(), name)
        shutil.copy(renewed.private_key, files.private_key)
        shutil.copy(renewed.certificate, files.certificate)
        await tls.look()
        assert (await self.get(self.agent(), name)).status == 200

    def test_unusable_certificates_are_named(self) -> None:
        files, others = self.authority.certify("localhost"), self.authority.certify("localhost")
        nonsense = self.folder / "nonsense"
        nonsense.write_text("nonsense")
        for certificate, key, named in (
            (self.folder / "nowhere", files.private_key, "nowhere"),
            (nonsense, files.private_key, "nonsense"),
            (files.certificate, nonsense, "nonsense"),
            (files.certificate, others.private_key, others.private_key.name),
        ):
            with pytest.raises(CertificateUnusable, match=named):
                ServerTls(certificate, key)
        with pytest.raises(CertificateUnusable, match="nonsense"):
            ClientTls(ca_file=nonsense)


def tls_1_1() -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_1_VERSION)
    context.set_max_proto_version(SSL.TLS1_1_VERSION)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    return context


def shake_hands(client: SSL.Connection, server: SSL.Connection) -> None:
    """Go through a TLS handshake in memory."""
    for _ in range(10):
        for one, other in ((client, server), (server, client)):
            with contextlib.suppress(SSL.WantReadError):
                one.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(65536))


@implementer(IReactorPluggableNameResolver)
class Rebinding:
    """A reactor whose DNS says what a test wants."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.nameResolver = self

    def __getattr__(self, name: str) -> Any:
        return getattr(loop, name)

    def resolveHostName(self, receiver: Any, name: str, portNumber: int = 0, **_: Any) -> None:  # noqa: N802, N803
        receiver.resolutionBegan(self)
        for address in self.addresses:
            receiver.addressResolved(IPv4Address("TCP", address, portNumber))
        receiver.resolutionComplete()


@implementer(IReactorPluggableNameResolver)
class Vanishing:
    """A reactor whose connections never come about.

    :ivar tried: how many were to be made.
    """

    def __init__(self) -> None:
        self.tried = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(loop, name)

    def connectTCP(self, host: str, port: int, factory: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
        self.tried += 1
        factory.startedConnecting(self)
        return self

    def getDestination(self) -> IPv4Address:  # noqa: N802
        return IPv4Address("TCP", "127.0.0.1", 1)

    def stopConnecting(self) -> None:  # noqa: N802
        """Nothing was begun."""


class AddressTests(AgentCase):
    async def test_loopback_is_not_reached(self) -> None:
        other = self.listen(fine)
        agent = self.agent(allow_private_addresses=False)
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::1]"):
            assert "may not reach" in await self.refusal(agent, f"{host}:{other.port}")
        assert not other.visitors

    async def test_name_that_leads_inside_is_not_followed(self) -> None:
        other = self.listen(fine)
        rebinding = Rebinding("127.0.0.1")
        agent = self.agent(using=rebinding, allow_private_addresses=False)
        assert "may not reach" in await self.refusal(agent, f"example.org:{other.port}")
        assert not other.visitors

    async def test_service_that_leads_inside_is_not_followed(self) -> None:
        other = self.listen(fine)
        lookup = self.dns_server({"_matrix._tcp.a.example": [dns.Record_SRV(1, 1, other.port, b"localhost", ttl=60)]})
        agent = self.agent(lookup=lookup, allow_private_addresses=False)
        assert "may not reach" in await self.refusal(agent, "a.example")
        assert not other.visitors


class ServiceTests(AgentCase):
    async def test_name_without_a_port_is_looked_up_and_its_own_name_certified(self) -> None:
        good, bad = self.listen(fine, "a.example"), self.listen(fine, "localhost")
        record = "_matrix._tcp.{}"
        lookup = self.dns_server(
            {
                record.format("a.example"): [dns.Record_SRV(1, 1, good.port, b"localhost", ttl=60)],
                record.format("b.example"): [dns.Record_SRV(1, 1, bad.port, b"localhost", ttl=60)],
            }
        )
        agent = self.agent(lookup=lookup)
        assert (await self.get(agent, "a.example")).status == 200
        assert b"\r\nHost: a.example\r\n" in good.requests[0]
        assert "not that of this server" in await self.refusal(agent, "b.example")

    async def test_next_place_is_tried_if_one_does_not_answer_or_has_a_wrong_certificate(self) -> None:
        good, wrong = self.listen(fine, "a.example"), self.listen(fine, "localhost")
        lookup = self.dns_server(
            {
                "_matrix._tcp.a.example": [
                    dns.Record_SRV(1, 1, 1, b"localhost", ttl=60),
                    dns.Record_SRV(2, 1, wrong.port, b"localhost", ttl=60),
                    dns.Record_SRV(3, 1, good.port, b"localhost", ttl=60),
                ]
            }
        )
        assert (await self.get(self.agent(lookup=lookup), "a.example")).status == 200
        assert (len(wrong.requests), len(good.requests)) == (0, 1)

    async def test_name_whose_service_is_closed_is_not_reached(self) -> None:
        lookup = self.dns_server({"_matrix._tcp.a.example": [dns.Record_SRV(0, 0, 0, b".", ttl=60)]})
        assert "no Matrix server" in await self.refusal(self.agent(lookup=lookup), "a.example")
