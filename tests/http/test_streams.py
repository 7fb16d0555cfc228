"""Bodies that are worked on while they arrive, and answers that are read while they are sent (MEDIA-1, SEC-1)."""

# mypy: allow-untyped-calls

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from synapse_like.byte_streams import MOST_WAITING
from synapse_like.http.channel import IDLE_SECONDS, RECEIVE_SECONDS
from synapse_like.http.requests import Body, Call
from synapse_like.http.responses import Response
from synapse_like.http.routing import Auth, Route
from synapse_like.protocol.errors import Forbidden, MatrixError
from tests.http.site_case import PREFIX, SiteCase, Waiting, request

LARGE = 20 * 1024 * 1024


class Taker:
    """An endpoint that takes what comes when it is told to.

    :ivar refusal: what it says before it has read anything.
    """

    def __init__(self) -> None:
        self.calls: list[Call[str]] = []
        self.taken = b""
        self.failures: list[Exception] = []
        self.refusal: MatrixError | None = None
        self.is_paused = False
        self._go_on: Deferred[None] | None = None

    async def __call__(self, call: Call[str]) -> object:
        self.calls.append(call)
        if self.refusal is not None:
            raise self.refusal
        try:
            while True:
                if self.is_paused:
                    self._go_on = Deferred()
                    await self._go_on
                piece = await call.body.read()
                if not piece:
                    return {"bytes": len(self.taken)}
                self.taken += piece
        except Exception as error:
            self.failures.append(error)
            raise

    def go_on(self) -> None:
        self.is_paused = False
        if self._go_on is not None:
            self._go_on.callback(None)


class Bytes:
    """The body of an answer, as many bytes as it is asked for."""

    def __init__(self, length: int, piece: int = 100_000, breaks_at: int | None = None) -> None:
        self.length = length
        self.is_closed = False
        self.given = 0
        self._piece = piece
        self._breaks_at = breaks_at

    async def read(self) -> bytes:
        if self._breaks_at is not None and self.given >= self._breaks_at:
            raise OSError("the disk is broken")
        size = 0 if self.is_closed else min(self._piece, self.length - self.given)
        self.given += size
        return bytes(size)

    def close(self) -> None:
        self.is_closed = True


class UploadTests(SiteCase):
    def serve_taker(self, **options: Any) -> Taker:
        taker = Taker()
        options = {"max_body": LARGE, **options}
        self.serve(Route("POST", "/take", taker, body=Body.STREAM, **options), Route("GET", "/x", taker, rate=None))
        return taker

    async def test_endpoint_gets_the_body_while_it_arrives(self) -> None:
        taker = self.serve_taker()
        client = await self.connect()
        head = request("POST", PREFIX + "/take", Authorization="Bearer alice", Content_Length="10")
        client.send(head + b"hello")
        await self.until(lambda: taker.taken == b"hello")
        assert taker.calls[0].body.length == 10
        client.send(b"world" + head + b"0123456789")
        assert [answer.json for answer in await client.answers(2)] == [{"bytes": 10}, {"bytes": 20}]
        assert self.site.in_flight == 0

    async def test_chunked_body_and_no_body_too(self) -> None:
        taker = self.serve_taker()
        client = await self.connect()
        client.send(request("POST", PREFIX + "/take", Authorization="Bearer alice", Transfer_Encoding="chunked"))
        client.send(b"3\r\nabc\r\n0\r\n\r\n")
        assert (await client.answer()).json == {"bytes": 3}
        assert taker.calls[0].body.length is None
        client.send(request("POST", PREFIX + "/take", b"", Authorization="Bearer alice"))
        assert (await client.answer()).json == {"bytes": 3}

    async def test_sender_waits_while_nobody_reads(self) -> None:
        taker = self.serve_taker()
        taker.is_paused = True
        client = await self.connect()
        client.send(request("POST", PREFIX + "/take", bytes(LARGE), Authorization="Bearer alice"))
        await self.until(lambda: taker.calls and taker.calls[0].body.received >= MOST_WAITING)
        await self.reactor_turns(20)
        assert taker.calls[0].body.received < MOST_WAITING + 200_000
        taker.go_on()
        assert (await client.answer()).json == {"bytes": LARGE}

    async def test_wrong_token_is_refused_before_the_body_is_sent(self) -> None:
        taker = self.serve_taker()
        client = await self.connect()
        client.send(request("POST", PREFIX + "/take", Authorization="Bearer nobody", Content_Length="1000000"))
        answer = await client.answer()
        assert (answer.status, answer.json["errcode"]) == (401, "M_UNKNOWN_TOKEN")
        assert answer.headers["connection"] == "close"
        self.time.advance(1)
        await client.closed()
        assert taker.calls == []
        assert self.site.in_flight == 0

    async def test_refusal_by_the_endpoint_comes_before_the_body_too(self) -> None:
        taker = self.serve_taker()
        taker.refusal = Forbidden("No room.")
        client = await self.connect()
        client.send(request("POST", PREFIX + "/take", Authorization="Bearer alice", Content_Length="1000000"))
        assert (await client.answer()).status == 403

    async def test_announced_length_that_is_too_large_is_refused_before_the_body(self) -> None:
        taker = self.serve_taker(max_body=1000)
        client = await self.connect()
        client.send(request("POST", PREFIX + "/take", Authorization="Bearer alice", Content_Length="1001"))
        answer = await client.answer()
        assert (answer.status, answer.json["errcode"], taker.calls) == (413, "M_TOO_LARGE", [])

    async def test_body_that_grows_too_large_is_refused_in_the_middle(self) -> None:
        taker = self.serve_taker(max_body=1000)
        client = await self.connect()
        client.send(request("POST", PREFIX + "/take", Authorization="Bearer alice", Transfer_Encoding="chunked"))
        client.send(b"3e8\r\n" + bytes(1000) + b"\r\n")
        await self.until(lambda: len(taker.taken) == 1000)
        client.send(b"1\r\nx\r\n")
        answer = await client.answer()
        assert (answer.status, answer.json["errcode"]) == (413, "M_TOO_LARGE")
        assert [type(failure).__name__ for failure in taker.failures] == ["TooLarge"]
        assert self.site.in_flight == 0

    async def test_client_that_waits_for_a_word_is_told_to_go_on_only_when_it_is_let_in(self) -> None:
        taker = self.serve_taker()
        client = await self.connect()
        options = {"Content_Length": "5", "Expect": "100-continue"}
        client.send(request("POST", PREFIX + "/take", Authorization="Bearer alice", **options))
        await self.until(lambda: b"100 Continue" in client.received)
        client.received = b""
        client.send(b"hello")
        assert (await client.answer()).json == {"bytes": 5}
        taker.refusal = Forbidden("No room.")
        client.send(request("POST", PREFIX + "/take", Authorization="Bearer alice", **options))
        assert (await client.answer()).status == 403

    async def test_endpoint_learns_that_the_client_has_gone(self) -> None:
        taker = self.serve_taker()
        client = await self.connect()
        client.send(request("POST", PREFIX + "/take", Authorization="Bearer alice", Content_Length="10") + b"hello")
        await self.until(lambda: taker.taken == b"hello")
        client.leave()
        await self.until(lambda: taker.failures)
        await self.until(lambda: not self.site.connections)
        assert self.site.in_flight == 0

    async def test_upload_may_take_as_long_as_its_route_says(self) -> None:
        taker = self.serve_taker(receive_seconds=600)
        client = await self.connect()
        client.send(request("POST", PREFIX + "/take", Authorization="Bearer alice", Content_Length="10000"))
        await self.until(lambda: taker.calls)
        for round_number in range(1, 20):
            self.time.advance(30)
            client.send(b"x")
            await self.until(lambda at_least=round_number: len(taker.taken) >= at_least)
        assert RECEIVE_SECONDS < 30 * 19
        self.time.advance(40)
        await client.closed()
        await self.until(lambda: taker.failures)

    async def test_behind_a_waiting_poll_an_upload_is_taken_and_answered_in_its_turn(self) -> None:
        taker, waiting = Taker(), Waiting()
        self.serve(Route("POST", "/take", taker, body=Body.STREAM), Route("GET", "/wait", waiting, auth=Auth.NONE))
        client = await self.connect()
        client.send(request("GET", PREFIX + "/wait"))
        client.send(request("POST", PREFIX + "/take", b"hello", Authorization="Bearer alice"))
        client.send(request("POST", PREFIX + "/take", Authorization="Bearer nobody", Content_Length="5"))
        await self.until(lambda: taker.taken == b"hello")
        await self.reactor_turns()
        assert client.received == b""
        waiting.waits[0].callback({})
        assert [answer.status for answer in await client.answers(3)] == [200, 200, 401]


class DownloadTests(SiteCase):
    def serve_bytes(self, body: Bytes) -> None:
        async def give(call: Call[str]) -> object:
            return Response(200, {"Content-Type": "video/mp4"}, body)

        async def other(call: Call[str]) -> object:
            return {"other": True}

        self.serve(Route("GET", "/file", give, auth=Auth.NONE), Route("GET", "/other", other, auth=Auth.NONE))

    async def test_file_is_sent_whole_and_what_was_asked_after_it_follows(self) -> None:
        body = Bytes(LARGE)
        self.serve_bytes(body)
        client = await self.connect()
        client.send(request("GET", PREFIX + "/file") + request("GET", PREFIX + "/other"))
        answer = await client.answer()
        assert (answer.status, answer.headers["content-length"], len(answer.body)) == (200, str(LARGE), LARGE)
        assert (await client.answer()).json == {"other": True}
        assert body.is_closed
        assert self.site.in_flight == 0

    async def test_file_is_read_only_as_fast_as_the_client_takes_it(self) -> None:
        body = Bytes(LARGE)
        self.serve_bytes(body)
        client = await self.connect()
        client.transport.pauseProducing()
        client.send(request("GET", PREFIX + "/file"))
        await self.until(lambda: body.given)
        await self.reactor_turns(50)
        given = body.given
        await self.reactor_turns(20)
        assert body.given == given < LARGE
        # What the sockets hold is the system's; beyond that the site holds one piece.
        client.transport.resumeProducing()
        assert len((await client.answer()).body) == LARGE

    async def test_client_that_does_not_read_is_cut_off(self) -> None:
        body = Bytes(LARGE)
        self.serve_bytes(body)
        client = await self.connect()
        client.transport.pauseProducing()
        client.send(request("GET", PREFIX + "/file"))
        await self.until(lambda: body.given)
        await self.reactor_turns(50)
        for _ in range(IDLE_SECONDS // 5 + 2):
            self.time.advance(5)
        await self.until(lambda: not self.site.connections)
        assert body.is_closed
        assert self.site.in_flight == 0
        client.transport.resumeProducing()

    async def test_client_that_goes_away_in_the_middle_leaves_nothing_open(self) -> None:
        body = Bytes(LARGE)
        self.serve_bytes(body)
        client = await self.connect()
        client.transport.pauseProducing()
        client.send(request("GET", PREFIX + "/file"))
        await self.until(lambda: body.given)
        client.transport.abortConnection()
        await self.until(lambda: not self.site.connections)
        await self.until(lambda: body.is_closed)
        assert self.site.in_flight == 0

    async def test_file_that_cannot_be_read_to_its_end_ends_the_connection(self) -> None:
        body = Bytes(LARGE, breaks_at=1_000_000)
        self.serve_bytes(body)
        client = await self.connect()
        client.send(request("GET", PREFIX + "/file"))
        await client.closed()
        assert b"200 OK" in client.received
        assert len(client.received) < LARGE
        assert body.is_closed

    async def test_draining_waits_for_a_file_that_is_being_sent(self) -> None:
        body = Bytes(LARGE)
        self.serve_bytes(body)
        client = await self.connect()
        client.transport.pauseProducing()
        client.send(request("GET", PREFIX + "/file"))
        await self.until(lambda: body.given)
        drained = Deferred.fromCoroutine(self.site.drain(10))
        await self.reactor_turns()
        assert not drained.called
        client.transport.resumeProducing()
        assert len((await client.answer()).body) == LARGE
        await drained
