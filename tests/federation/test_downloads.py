"""Files from other servers: read while they come, and bounded in every way (MEDIA-1, SEC-1)."""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from typing import Any

import pytest
from signedjson.key import generate_signing_key
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from synapse_like.byte_streams import MOST_WAITING
from synapse_like.federation.agent import Timeouts
from synapse_like.federation.client import FederationClient, IncomingFile
from synapse_like.federation.connections import MOST_CONNECTIONS
from synapse_like.federation.errors import AnswerTooLarge, RemoteRefusal, ServerUnreachable
from tests.federation.other_servers import FederationCase, Other, Visitor, answer, loop

MIB = 1024 * 1024


async def whole(file: IncomingFile) -> bytes:
    pieces = []
    while piece := await file.body.read():
        pieces.append(piece)
    return b"".join(pieces)


class DownloadCase(FederationCase):
    def client(self, **options: Any) -> FederationClient:
        return FederationClient(self.agent(**options), "we.example", generate_signing_key("a"))

    async def fetch(
        self, other: Other, *, client: FederationClient | None = None, most_bytes: int = MIB, **options: Any
    ) -> bytes:
        async with (client or self.client(**options)).content(
            f"localhost:{other.port}", "abc", most_bytes=most_bytes
        ) as file:
            return await whole(file)

    async def refusal(self, other: Other, **options: Any) -> str | None:
        with pytest.raises(ServerUnreachable) as caught:
            await self.fetch(other, **options)
        return caught.value.reason


class DownloadTests(DownloadCase):
    async def test_file_is_asked_for_by_the_path_of_2014(self) -> None:
        headers = {
            "Content_Type": "image/png",
            "Content_Disposition": "inline; filename=e.png; filename*=UTF-8''%C3%A9t%C3%A9.png",
        }
        other = self.listen(lambda visitor: visitor.say(answer(b"picture", **headers)))
        name = f"localhost:{other.port}"
        async with self.client().content(name, "a/b", most_bytes=MIB) as file:
            assert (file.mimetype, file.filename, file.body.length) == ("image/png", "été.png", 7)
            assert await whole(file) == b"picture"
        path = f"/_matrix/media/v1/download/localhost%3A{other.port}/a%2Fb?allow_remote=false"
        assert other.requests[0].split(b"\r\n")[0] == f"GET {path} HTTP/1.1".encode()
        assert b"Authorization" not in other.requests[0]

    async def test_connection_is_kept_after_a_whole_file_and_closed_after_a_part(self) -> None:
        other = self.listen(lambda visitor: visitor.say(answer(bytes(2 * MIB))))
        client = self.client()
        for _ in range(2):
            assert len(await self.fetch(other, client=client, most_bytes=2 * MIB)) == 2 * MIB
        assert len(other.visitors) == 1
        async with client.content(f"localhost:{other.port}", "abc", most_bytes=2 * MIB) as file:
            await file.body.read()
        await self.until_deserted(other)

    async def test_nothing_more_is_received_while_nobody_reads(self) -> None:
        other = self.listen(lambda visitor: visitor.say(answer(bytes(20 * MIB))))
        client = self.client(timeouts=Timeouts(30, 30, 30))
        async with client.content(f"localhost:{other.port}", "abc", most_bytes=20 * MIB) as file:
            await self.until(lambda: file.body.received >= MOST_WAITING)
            await deferLater(loop, 0.2)
            assert file.body.received < MOST_WAITING + MIB
            assert len(await whole(file)) == 20 * MIB

    async def test_refusal_is_told(self) -> None:
        told = b'{"errcode":"M_NOT_FOUND","error":"No such file."}'
        other = self.listen(lambda visitor: visitor.say(answer(told, 404)))
        with pytest.raises(RemoteRefusal) as caught:
            await self.fetch(other)
        assert (caught.value.status, caught.value.errcode) == (404, "M_NOT_FOUND")

    async def test_endless_refusal_is_not_read_to_its_end(self) -> None:
        other = self.listen(lambda visitor: visitor.say(answer(b"x" * 900_000, 500)))
        with pytest.raises(RemoteRefusal):
            await self.fetch(other)

    async def test_announced_length_that_is_too_large_is_not_received(self) -> None:
        other = self.listen(lambda visitor: visitor.say(answer(b"", Content_Length="2000000")))
        with pytest.raises(AnswerTooLarge) as caught:
            await self.fetch(other)
        assert (caught.value.status, caught.value.errcode) == (502, "M_TOO_LARGE")
        await self.until_deserted(other)

    async def test_file_that_grows_too_large_is_given_up(self) -> None:
        def flood(visitor: Visitor) -> None:
            visitor.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(40):
                visitor.say(b"10000\r\n" + bytes(65536) + b"\r\n")

        other = self.listen(flood)
        with pytest.raises(AnswerTooLarge):
            await self.fetch(other)
        await self.until_deserted(other)

    async def test_file_that_breaks_off_is_none(self) -> None:
        def break_off(visitor: Visitor) -> None:
            visitor.say(answer(b"half", Content_Length="100"))
            visitor.leave()

        assert await self.refusal(self.listen(break_off)) == "its answer broke off"

    async def test_file_that_ends_with_its_connection_is_whole_if_that_was_not_cut_off(self) -> None:
        def no_length(visitor: Visitor) -> None:
            visitor.say(b"HTTP/1.1 200 OK\r\n\r\nsomething")
            visitor.leave()

        def cut_off(visitor: Visitor) -> None:
            visitor.say(b"HTTP/1.1 200 OK\r\n\r\nsome")
            loop.callLater(0.05, visitor.abort)

        assert await self.fetch(self.listen(no_length)) == b"something"
        assert await self.refusal(self.listen(cut_off)) == "its answer broke off"

    async def test_file_that_comes_too_slowly_is_given_up(self) -> None:
        other = self.listen(lambda visitor: visitor.say(answer(b"a few bytes", Content_Length="100")))
        assert await self.refusal(other, timeouts=Timeouts(5, 5, 0.3)) == "it took too long"
        await self.until_deserted(other)

    async def test_redirect_is_not_followed(self) -> None:
        target = self.listen(lambda visitor: visitor.say(answer(b"{}")))
        other = self.listen(lambda visitor: visitor.say(answer(b"", 302, Location=f"https://localhost:{target.port}/")))
        with pytest.raises(RemoteRefusal) as caught:
            await self.fetch(other)
        assert caught.value.status == 502
        assert not target.visitors

    async def test_addresses_that_federation_may_not_reach_are_not_reached(self) -> None:
        other = self.listen(lambda visitor: visitor.say(answer(b"secret")))
        reason = await self.refusal(other, allow_private_addresses=False)
        assert reason is not None
        assert "may not reach" in reason
        assert not other.visitors

    async def test_connections_are_given_back_whatever_happens(self) -> None:
        other = self.listen(lambda visitor: visitor.say(answer(b"", Content_Length="2000000")))
        client = self.client()
        for _ in range(2):
            fetches = [Deferred.fromCoroutine(self.fetch(other, client=client)) for _ in range(MOST_CONNECTIONS)]
            for fetch in fetches:
                with pytest.raises(AnswerTooLarge):
                    await fetch
        other.handler = lambda visitor: visitor.say(answer(b"fine"))
        more = [Deferred.fromCoroutine(self.fetch(other, client=client)) for _ in range(2 * MOST_CONNECTIONS)]
        assert await gatherResults(more) == [b"fine"] * 2 * MOST_CONNECTIONS

    async def test_switched_off_federation_lets_nothing_out(self) -> None:
        other = self.listen(lambda visitor: visitor.say(answer(b"fine")))
        assert await self.refusal(other, enabled=False) == "federation is switched off"
