"""Connections: pipelining (EVS-9), what may not be received to its end, and how long a client may take (SEC-1)."""

from __future__ import annotations

import os
import re
from functools import partial
from typing import Any

from synapse_like.http.channel import ABORT_SECONDS, IDLE_SECONDS, LINGER_SECONDS, RECEIVE_SECONDS, SWALLOWED
from synapse_like.http.requests import Body, Call
from synapse_like.http.routing import Auth, Mount, Route
from tests.http.site_case import PREFIX, Client, SiteCase, Waiting, request


def wait(path: str = "") -> bytes:
    return request("GET", PREFIX + "/wait" + path)


def put(number: int, body: bytes = b"{}") -> bytes:
    return request("PUT", f"{PREFIX}/put/{number}", body)


def was_refused(client: Client) -> bool:
    return client.is_closed or b"400" in client.received


class ChannelCase(SiteCase):
    """A site with a long poll, and a PUT that says which it was."""

    def serve_usual(self, **options: Any) -> None:
        self.waiting = Waiting()
        self.done: list[str] = []

        async def note(call: Call[str]) -> object:
            self.done.append(call.params["number"])
            return {"number": int(call.params["number"]), "body": call.body}

        self.serve_mounts(
            [
                Mount(
                    PREFIX,
                    [
                        Route("GET", "/wait", self.waiting, auth=Auth.NONE, cancellable=True),
                        Route("PUT", "/put/{number}", note, auth=Auth.NONE, body=Body.OBJECT),
                    ],
                    cors=True,
                )
            ],
            **options,
        )

    async def connect_waiting(self, polls: int = 1) -> Client:
        """A connection with long polls on it that wait."""
        client = await self.connect()
        before = len(self.waiting.waits)
        client.send(polls * wait())
        await self.until(lambda: len(self.waiting.waits) == before + polls)
        return client

    async def pass_time(self, seconds: float) -> None:
        """Let the site live through some time."""
        for _ in range(int(seconds)):
            self.time.advance(1)
            await self.reactor_turns(1)


class PipeliningTests(ChannelCase):
    async def test_put_behind_a_waiting_poll_is_executed_at_once_and_answered_in_its_turn(self) -> None:
        self.serve_usual()
        client = await self.connect_waiting()
        client.send(put(1))
        await self.until(lambda: self.done == ["1"])
        assert client.received == b""
        self.waiting.waits[0].callback({"poll": 1})
        first, second = await client.answers(2)
        assert (first.json, second.json["number"]) == ({"poll": 1}, 1)

    async def test_put_may_wake_the_poll_before_it(self) -> None:
        waiting = Waiting()

        async def wake(call: Call[str]) -> object:
            waiting.waits[0].callback({"news": True})
            return {"sent": True}

        self.serve(
            Route("GET", "/wait", waiting, auth=Auth.NONE, cancellable=True),
            Route("PUT", "/wake", wake, auth=Auth.NONE, body=Body.OBJECT),
        )
        client = await self.connect()
        client.send(wait() + request("PUT", PREFIX + "/wake", b"{}") + request("GET", PREFIX + "/nowhere"))
        answers = await client.answers(3)
        assert [answer.status for answer in answers] == [200, 200, 404]
        assert [answer.json for answer in answers[:2]] == [{"news": True}, {"sent": True}]

    async def test_answers_come_in_order_whatever_is_ready_first(self) -> None:
        self.serve_usual()
        client = await self.connect_waiting(6)
        for index in (3, 1, 5, 0, 4, 2):
            self.waiting.waits[index].callback({"poll": index})
        assert [answer.json["poll"] for answer in await client.answers(6)] == [0, 1, 2, 3, 4, 5]

    async def test_requests_that_arrive_byte_by_byte_are_understood(self) -> None:
        self.serve_usual()
        client = await self.connect()
        for byte in wait() + put(1, b'{"a":1}') + wait() + put(2):
            client.send(bytes([byte]))
            await self.reactor_turns(1)
        await self.until(lambda: self.done == ["1", "2"])
        for index, poll in enumerate(self.waiting.waits):
            poll.callback({"poll": index})
        answers = await client.answers(4)
        assert [answer.json.get("poll", answer.json.get("number")) for answer in answers] == [0, 1, 1, 2]

    async def test_head_is_read_alike_at_once_and_in_two_pieces(self) -> None:
        """With its first line, a head is read whole if it is there; what is unusual must not become something else."""
        last = b"GET /nowhere HTTP/1.1\r\nconnection: close\r\n\r\n"
        first = b"PUT /api/put/1 HTTP/1.1\r\n"
        for head, number in {
            b"Host: a\r\ncontent-length: 2\r\nX-Own: b\r\n\r\n{}": 2,
            b"Host: a\r\n folded\r\nContent-Length: 2\r\n\r\n{}": 2,
            b"\tfolded\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}": 1,
            b"Content-Type: text/plain\r\nContent-Type: b\r\nContent-Length:2\r\n\r\n{}": 2,
            b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n": 2,
            # None at all, and none, but those of another request behind it.
            b"\r\n": 2,
            b"\r\nPUT /api/put/2 HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}": 3,
            b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}": 1,
            b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n": 1,
            b"Content-Length : 2\r\n\r\n{}": 1,
            b"Host\r\nContent-Length: 2\r\n\r\n{}": 1,
            b"Host: a\x00\r\nContent-Length: 2\r\n\r\n{}": 1,
            b"User-Agent: a\rb\r\nContent-Length: 2\r\n\r\n{}": 1,
            b"Host: a\nContent-Length: 2\r\n\r\n{}": 1,
            b"X: y\r\n" * 501 + b"\r\n": 1,
            b"Accept: " + b"x" * 17_000 + b"\r\n\r\n": 1,
        }.items():
            self.serve_usual()
            heard = []
            for at in (0, len(first) + head.find(b"\r\n\r\n") + 3):
                client = await self.connect()
                client.send((first + head)[:at])
                await self.reactor_turns()
                client.send((first + head + last)[at:])
                await self.until(partial(was_refused, client))
                self.time.advance(LINGER_SECONDS)
                await client.closed()
                heard.append(re.sub(rb"Date: .*", b"", client.received))
            assert heard[0] == heard[1], head[:100]
            assert heard[0].count(b"HTTP/1.1 ") == number, (head[:100], heard[0])

    async def test_body_that_is_still_arriving_is_not_disturbed_by_an_answer_before_it(self) -> None:
        self.serve_usual()
        client = await self.connect_waiting()
        body = b'{"a":"' + b"x" * 50_000 + b'"}'
        whole = put(1, body)
        client.send(whole[:30_000])
        await self.until(lambda: self.receiving() > 20_000)
        self.waiting.waits[0].callback({})
        assert (await client.answer()).status == 200
        client.send(whole[30_000:] + put(2))
        first, second = await client.answers(2)
        assert first.json["body"] == {"a": "x" * 50_000}
        assert second.json["number"] == 2

    def receiving(self) -> int:
        """How many bytes of the last request's body have arrived."""
        (channel,) = self.site.connections
        return channel.requests[-1].size

    async def test_only_so_many_are_worked_on_at_a_time(self) -> None:
        self.serve_usual(max_pipelined=3)
        client = await self.connect_waiting(3)
        client.send(put(1) + wait() + put(2))
        await self.reactor_turns()
        assert (len(self.waiting.waits), self.done) == (3, [])
        self.waiting.waits[0].callback({})
        await self.until(lambda: self.done == ["1"])
        assert len(self.waiting.waits) == 3
        for index in (1, 2):
            self.waiting.waits[index].callback({})
        await self.until(lambda: len(self.waiting.waits) == 4 and self.done == ["1", "2"])
        self.waiting.waits[3].callback({})
        assert [answer.status for answer in await client.answers(6)] == [200] * 6

    async def test_large_request_at_the_limit_is_read_once_there_is_room(self) -> None:
        self.serve_usual(max_pipelined=2)
        client = await self.connect_waiting(2)
        body = b'{"a":"' + b"x" * 900_000 + b'"}'
        client.send(put(1, body) + put(2))
        await self.reactor_turns()
        assert self.done == []
        for poll in self.waiting.waits:
            poll.callback({})
        answers = await client.answers(4)
        assert len(answers[2].json["body"]["a"]) == 900_000
        assert answers[3].json["number"] == 2

    async def test_many_requests_at_once_are_all_answered_in_order(self) -> None:
        self.serve_usual()
        client = await self.connect()
        client.send(b"".join(map(put, range(500))))
        assert [answer.json["number"] for answer in await client.answers(500)] == list(range(500))

    async def test_client_that_does_not_read_is_not_read_from(self) -> None:
        answer = {"x": "y" * 500_000}
        asked = 0

        async def much(call: Call[str]) -> object:
            nonlocal asked
            asked += 1
            return answer

        self.serve(Route("GET", "/much", much, auth=Auth.NONE))
        client = await self.connect()
        assert client.transport is not None
        transport: Any = client.transport
        transport.pauseProducing()
        client.send(2000 * request("GET", PREFIX + "/much"))
        await self.reactor_turns(50)
        assert 0 < asked < 100
        stopped_at = asked
        await self.reactor_turns(50)
        assert asked == stopped_at
        transport.resumeProducing()
        assert all(answer.status == 200 for answer in await client.answers(100))

    async def test_at_the_limit_only_a_little_is_kept(self) -> None:
        self.serve_usual(max_pipelined=2, max_body=100_000_000)
        client = await self.connect_waiting(2)
        client.send(put(1, b" " * 20_000_000))
        await self.reactor_turns(50)
        transport: Any = client.transport
        assert len(transport.dataBuffer) > 10_000_000
        for poll in self.waiting.waits:
            poll.callback({})
        assert [answer.status for answer in await client.answers(3)] == [200] * 3

    async def test_leaving_frees_all_that_waits(self) -> None:
        self.serve_usual()
        client = await self.connect_waiting(4)
        client.send(put(1)[:-1])
        await self.reactor_turns()
        client.leave()
        await self.until(lambda: self.waiting.cancelled == 4)
        assert self.site.in_flight == 0
        assert self.done == []

    async def test_leaving_is_noticed_while_requests_are_held_back(self) -> None:
        self.serve_usual(max_pipelined=2)
        client = await self.connect_waiting(2)
        client.send(5 * wait())
        await self.reactor_turns()
        client.leave()
        await self.until(lambda: self.waiting.cancelled == 2)


class EndOfConnectionTests(ChannelCase):
    async def test_connection_closes_behind_the_answer_that_was_to_be_the_last(self) -> None:
        self.serve_usual()
        client = await self.connect_waiting()
        client.send(request("PUT", PREFIX + "/put/1", b"{}", Connection="Keep-Alive, Close") + put(2))
        await self.until(lambda: self.done == ["1"])
        await self.reactor_turns()
        assert not client.is_closed
        self.waiting.waits[0].callback({})
        first, second = await client.answers(2)
        assert "connection" not in first.headers
        assert second.headers["connection"] == "close"
        await client.closed()
        assert self.done == ["1"]

    async def test_last_request_that_is_still_arriving_does_not_close_early(self) -> None:
        self.serve_usual()
        client = await self.connect_waiting()
        last = request("PUT", PREFIX + "/put/1", b"{}", Connection="close")
        client.send(last[:-1])
        await self.reactor_turns()
        self.waiting.waits[0].callback({})
        await client.answer()
        await self.reactor_turns()
        assert not client.is_closed
        client.send(last[-1:])
        assert (await client.answer()).json["number"] == 1
        await client.closed()

    async def test_http_1_0_is_answered_once(self) -> None:
        self.serve_usual()
        client = await self.connect()
        client.send(put(1).replace(b"HTTP/1.1", b"HTTP/1.0") + put(2))
        assert (await client.answer()).headers["connection"] == "close"
        await client.closed()
        assert self.done == ["1"]

    async def test_what_is_not_http_is_answered_in_its_turn(self) -> None:
        self.serve_usual()
        for nonsense in (
            b"GET\r\n\r\n",
            b"GET / HTTP/2.0\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
            b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"X-Long: yes\r\n" * 5000 + b"\r\n",
            b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",
        ):
            client = await self.connect_waiting()
            client.send(nonsense + put(1))
            await self.reactor_turns()
            assert client.received == b"", nonsense[:50]
            self.waiting.waits[-1].callback({})
            first, second = await client.answers(2)
            assert (first.status, second.status) == (200, 400)
            assert second.json["errcode"] == "M_UNRECOGNIZED"
            assert second.headers["connection"] == "close"
            self.time.advance(LINGER_SECONDS)
            await client.closed()
        assert self.done == []
        assert self.site.in_flight == 0


class LargeBodyTests(ChannelCase):
    def chunked(self, body: bytes) -> bytes:
        chunks = [body[start : start + 65536] for start in range(0, len(body), 65536)]
        encoded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        return request("PUT", PREFIX + "/put/1", Transfer_Encoding="chunked") + encoded + b"0\r\n\r\n"

    async def test_body_a_little_too_large_is_swallowed_and_the_connection_kept(self) -> None:
        self.serve_usual(max_body=1000)
        client = await self.connect()
        body = b"x" * (SWALLOWED // 4)
        for too_large in (put(1, body), self.chunked(body)):
            client.send(too_large + put(2))
            first, second = await client.answers(2)
            assert (first.status, first.json["errcode"]) == (413, "M_TOO_LARGE")
            assert "connection" not in first.headers
            assert second.json["number"] == 2
        assert self.done == ["2", "2"]

    async def test_body_much_too_large_is_refused_before_it_is_sent(self) -> None:
        self.serve_usual(max_body=1000)
        client = await self.connect()
        client.send(request("PUT", PREFIX + "/put/1", Content_Length=str(SWALLOWED + 1001)))
        answer = await client.answer()
        assert (answer.status, answer.json["errcode"]) == (413, "M_TOO_LARGE")
        assert answer.headers["connection"] == "close"
        self.time.advance(LINGER_SECONDS)
        await client.closed()

    async def test_chunked_body_much_too_large_is_refused_on_the_way(self) -> None:
        self.serve_usual(max_body=1000)
        client = await self.connect_waiting()
        # The last chunk is the one too many.
        client.send(self.chunked(b"x" * (SWALLOWED + 1001)) + put(2))
        await self.until(lambda: self.site.in_flight == 2)
        self.waiting.waits[0].callback({})
        first, second = await client.answers(2)
        assert (first.status, second.status) == (200, 413)
        assert second.headers["connection"] == "close"
        self.time.advance(LINGER_SECONDS)
        await client.closed()
        assert (self.done, self.site.in_flight) == ([], 0)

    async def test_largest_body_is_let_in_whichever_way_it_comes(self) -> None:
        self.serve_usual(max_body=1000)
        client = await self.connect()
        body = b'{"a":"' + b"x" * 992 + b'"}'
        client.send(put(1, body) + self.chunked(body) + put(2, body + b" ") + self.chunked(body + b" "))
        assert [answer.status for answer in await client.answers(4)] == [200, 200, 413, 413]

    async def test_client_that_asks_before_sending_is_told(self) -> None:
        self.serve_usual(max_body=1000)
        client = await self.connect()
        head, body = put(1, b'{"a":1}')[:-7], b'{"a":1}'
        client.send(head.replace(b"Host", b"Expect: 100-continue\r\nHost"))
        await self.until(lambda: client.received)
        assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.received = b""
        client.send(body)
        assert (await client.answer()).json["body"] == {"a": 1}
        client.send(request("PUT", PREFIX + "/put/1", Content_Length="1001", Expect="100-continue"))
        assert (await client.answer()).status == 413

    async def test_refusal_waits_for_its_turn_however_long_that_is(self) -> None:
        self.serve_usual(max_body=1000)
        client = await self.connect_waiting()
        client.send(request("PUT", PREFIX + "/put/1", Content_Length=str(SWALLOWED + 1001)))
        await self.until(lambda: self.site.in_flight == 2)
        await self.pass_time(2 * IDLE_SECONDS)
        self.waiting.waits[0].callback({})
        assert [answer.status for answer in await client.answers(2)] == [200, 413]

    async def test_refused_client_may_leave_at_once(self) -> None:
        self.serve_usual(max_body=1000)
        client = await self.connect()
        client.send(request("PUT", PREFIX + "/put/1", Content_Length=str(SWALLOWED + 1001)))
        await client.answer()
        client.leave()
        await self.until(lambda: not self.site.connections)
        assert self.time.getDelayedCalls() == []

    async def test_refused_client_is_not_listened_to_for_ever(self) -> None:
        self.serve_usual(max_body=1000)
        client = await self.connect_waiting()
        client.send(request("PUT", PREFIX + "/put/1", Content_Length=str(SWALLOWED * 4)))
        for _ in range(40):
            client.send(os.urandom(SWALLOWED // 16))
            await self.reactor_turns(1)
        await client.closed()


class TimeTests(ChannelCase):
    async def test_silent_connection_is_closed(self) -> None:
        self.serve_usual()
        client = await self.connect()
        client.send(put(1))
        await client.answer()
        await self.pass_time(IDLE_SECONDS - 1)
        assert not client.is_closed
        await self.pass_time(6)
        await client.closed()

    async def test_waiting_for_an_answer_is_no_silence(self) -> None:
        self.serve_usual()
        client = await self.connect_waiting()
        await self.pass_time(5 * IDLE_SECONDS)
        self.waiting.waits[0].callback({})
        assert (await client.answer()).status == 200
        await self.pass_time(IDLE_SECONDS - 1)
        assert not client.is_closed
        client.send(put(1))
        assert (await client.answer()).status == 200

    async def test_request_that_stops_arriving_ends_the_connection(self) -> None:
        self.serve_usual()
        for part in (b"PU", put(1)[:40], put(1)[:-1]):
            client = await self.connect_waiting()
            client.send(part)
            await self.reactor_turns()
            await self.pass_time(IDLE_SECONDS + 6)
            await client.closed()
            await self.until(lambda: not self.site.connections)
        assert self.waiting.cancelled == 3

    async def test_request_that_trickles_in_has_its_time_and_no_more(self) -> None:
        self.serve_usual()
        client = await self.connect()
        client.send(put(1)[:-1])
        for second in range(RECEIVE_SECONDS - 1):
            await self.pass_time(1)
            assert not client.is_closed, second
            client.send(b"X" if second else b" ")
        await self.pass_time(7)
        await client.closed()
        assert self.done == []

    async def test_each_request_has_the_whole_time(self) -> None:
        self.serve_usual()
        client = await self.connect()
        for number in range(4):
            whole = put(number)
            client.send(whole[:20])
            await self.reactor_turns()
            await self.pass_time(IDLE_SECONDS - 6)
            client.send(whole[20:])
            assert (await client.answer()).json["number"] == number

    async def test_client_that_does_not_read_is_cut_off_in_the_end(self) -> None:
        async def much(call: Call[str]) -> object:
            return {"x": "y" * 30_000_000}

        self.serve(Route("GET", "/much", much, auth=Auth.NONE))
        client = await self.connect()
        transport: Any = client.transport
        transport.pauseProducing()
        client.send(request("GET", PREFIX + "/much"))
        await self.until(lambda: any(channel.transport.dataBuffer for channel in self.channels()))
        await self.pass_time(IDLE_SECONDS + 6)
        assert len(self.site.connections) == 1
        await self.pass_time(ABORT_SECONDS + 6)
        await self.until(lambda: not self.site.connections)

    def channels(self) -> list[Any]:
        return list(self.site.connections)

    async def test_no_timer_is_left_when_all_have_gone(self) -> None:
        self.serve_usual()
        clients = [await self.connect() for _ in range(3)]
        assert len(self.time.getDelayedCalls()) == 1
        for client in clients:
            client.leave()
        await self.until(lambda: not self.site.connections)
        assert self.time.getDelayedCalls() == []
