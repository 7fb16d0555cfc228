"""What a request goes through at the site, over real sockets: route, size, token, rate, body, endpoint, answer."""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

import io
import sys
from typing import Any

from msgspec import to_builtins
from twisted.internet.defer import CancelledError, Deferred

from synapse_like import logs
from synapse_like.http.requests import Body, Call
from synapse_like.http.responses import Encoded, Response
from synapse_like.http.routing import Auth, Mount, Route
from synapse_like.models import Model
from synapse_like.protocol.errors import Forbidden
from tests.http.site_case import PREFIX, SiteCase, Waiting, loop, request


class Message(Model, frozen=True):
    text: str


async def echo(call: Call[str]) -> object:
    """Answers what it was handed."""
    body = call.body
    if isinstance(body, Model):
        body = to_builtins(body)
    return {
        "params": dict(call.params),
        "q": call.query.text("q"),
        "body": body,
        "requester": call.requester_if_any,
        "address": call.client_address,
        "key": call.retransmit_key,
    }


def open_route(method: str, path: str, endpoint: Any = echo, **options: Any) -> Route[str]:
    return Route(method, path, endpoint, auth=Auth.NONE, **options)


class RoutingTests(SiteCase):
    async def test_endpoint_is_handed_what_the_request_says(self) -> None:
        self.serve(Route("PUT", "/rooms/{room}/send/{txn}", echo, body=Body.OBJECT, idempotent=True))
        answer = await self.ask(
            "PUT", "/rooms/%21a%2Fb%3Ac/send/1?q=x+y&new=1", b'{"a":1}', Authorization="Bearer alice"
        )
        assert answer.status == 200
        assert answer.json == {
            "params": {"room": "!a/b:c", "txn": "1"},
            "q": "x y",
            "body": {"a": 1},
            "requester": "@alice",
            "address": "127.0.0.1",
            "key": '["PUT","/api/rooms/{room}/send/{txn}","!a/b:c","1"]',
        }

    async def test_routes_that_are_not_idempotent_have_no_key(self) -> None:
        self.serve(open_route("POST", "/send"))
        assert (await self.ask("POST", "/send")).json["key"] is None

    async def test_unknown_path_is_told_from_wrong_method(self) -> None:
        self.serve(open_route("GET", "/here/{x}"), open_route("PUT", "/here/{x}"))
        unknown = await self.ask("GET", "/there")
        assert (unknown.status, unknown.json["errcode"]) == (404, "M_UNRECOGNIZED")
        for method in ("POST", "BREW"):
            wrong = await self.ask(method, "/here/1")
            assert (wrong.status, wrong.json["errcode"]) == (405, "M_UNRECOGNIZED")
            assert wrong.headers["allow"] == "GET, PUT"

    async def test_head_is_answered_without_a_body(self) -> None:
        self.serve(open_route("GET", "/here/{x}"), open_route("HEAD", "/here/{x}"))
        client = await self.connect()
        for path in ("/here/1", "/there", "/here/1"):
            client.send(request("HEAD", PREFIX + path))
        client.send(request("GET", f"{PREFIX}/here/1"))
        for status in (200, 404, 200):
            answer = await client.answer(has_body=False)
            assert answer.status == status
            assert int(answer.headers["content-length"]) > 0
        assert (await client.answer()).json["params"] == {"x": "1"}

    async def test_path_that_is_not_utf8_is_refused(self) -> None:
        self.serve(open_route("GET", "/here/{x}"))
        answer = await self.ask("GET", "/here/%ff")
        assert (answer.status, answer.json["errcode"]) == (400, "M_BAD_JSON")

    async def test_whole_url_is_understood(self) -> None:
        self.serve(open_route("GET", "/here/{x}"))
        client = await self.connect()
        client.send(request("GET", f"http://example.org{PREFIX}/here/1?q=2"))
        answer = await client.answer()
        assert (answer.json["params"], answer.json["q"]) == ({"x": "1"}, "2")


class OtherOriginsTests(SiteCase):
    CORS = {  # noqa: RUF012 - never changed
        "access-control-allow-origin": "*",
        "access-control-allow-methods": "GET, POST, PUT, DELETE, OPTIONS",
        "access-control-allow-headers": "Origin, X-Requested-With, Content-Type, Accept, Authorization",
    }

    async def test_every_path_answers_options_without_a_token(self) -> None:
        self.serve(Route("PUT", "/send/{x}", echo))
        for path in ("/send/1", "/nowhere", "/%ff", "/send/a%2Fb"):
            answer = await self.ask("OPTIONS", path)
            assert (answer.status, answer.json) == (200, {})
            assert answer.headers.items() >= self.CORS.items()

    async def test_every_answer_may_be_read_from_elsewhere_errors_too(self) -> None:
        async def fail(call: Call[str]) -> object:
            raise RuntimeError

        async def page(call: Call[str]) -> object:
            return Response(200, {"Content-Type": "text/html"}, b"<p>")

        self.serve(
            open_route("GET", "/good"),
            open_route("GET", "/page", page),
            open_route("GET", "/bad", fail),
            Route("GET", "/token", echo),
        )
        for path, status in (("/good", 200), ("/page", 200), ("/bad", 500), ("/token", 401), ("/nowhere", 404)):
            answer = await self.ask("GET", path)
            assert answer.status == status
            assert answer.headers.items() >= self.CORS.items()

    async def test_body_that_is_too_large_too(self) -> None:
        self.serve(open_route("POST", "/send", body=Body.OBJECT), max_body=2)
        answer = await self.ask("POST", "/send", b'{"a":1}')
        assert answer.status == 413
        assert answer.headers.items() >= self.CORS.items()

    async def test_closed_mount_stays_closed(self) -> None:
        self.serve_mounts(
            [
                Mount("/open", [open_route("GET", "/x")], cors=True),
                Mount("/closed", [open_route("GET", "/x")]),
            ]
        )
        for prefix, is_open in (("/open", True), ("/closed", False)):
            client = await self.connect()
            client.send(request("GET", prefix + "/x"))
            assert ("access-control-allow-origin" in (await client.answer()).headers) == is_open

    async def test_site_without_open_mounts_has_no_options(self) -> None:
        self.serve(open_route("GET", "/x"), cors=False)
        answer = await self.ask("OPTIONS", "/x")
        assert answer.status == 405
        assert "access-control-allow-origin" not in answer.headers


class TokenTests(SiteCase):
    def serve_all(self) -> None:
        self.serve(
            Route("GET", "/user", echo),
            Route("GET", "/optional", echo, auth=Auth.OPTIONAL),
            open_route("GET", "/open"),
        )

    async def test_token_is_taken_from_the_query_or_the_header(self) -> None:
        self.serve_all()
        assert (await self.ask("GET", "/user?access_token=alice")).json["requester"] == "@alice"
        assert (await self.ask("GET", "/user", Authorization="Bearer alice")).json["requester"] == "@alice"
        assert (await self.ask("GET", "/user", Authorization="bearer  alice")).json["requester"] == "@alice"

    async def test_header_counts_for_more_than_the_query(self) -> None:
        self.serve_all()
        answer = await self.ask("GET", "/user?access_token=alice", Authorization="Bearer bob")
        assert answer.json["requester"] == "@bob"

    async def test_missing_and_empty_token_are_told_from_an_unknown_one(self) -> None:
        self.serve_all()
        for path in ("/user", "/user?access_token=", "/user?access_token"):
            answer = await self.ask("GET", path)
            assert (answer.status, answer.json["errcode"]) == (401, "M_MISSING_TOKEN")
        for path in ("/user?access_token=mallory", "/user?access_token=%ff", "/optional?access_token=mallory"):
            answer = await self.ask("GET", path)
            assert (answer.status, answer.json["errcode"]) == (401, "M_UNKNOWN_TOKEN")

    async def test_other_schemes_are_no_token(self) -> None:
        self.serve_all()
        answer = await self.ask("GET", "/user", Authorization="Basic alice")
        assert answer.json["errcode"] == "M_MISSING_TOKEN"

    async def test_optional_token_may_be_left_out(self) -> None:
        self.serve_all()
        assert (await self.ask("GET", "/optional")).json["requester"] is None
        assert (await self.ask("GET", "/optional?access_token=alice")).json["requester"] == "@alice"

    async def test_open_route_does_not_look_at_the_token(self) -> None:
        self.serve_all()
        answer = await self.ask("GET", "/open?access_token=mallory")
        assert (answer.status, answer.json["requester"]) == (200, None)

    async def test_asking_who_asks_on_an_open_route_is_an_error(self) -> None:
        async def who(call: Call[str]) -> object:
            return call.requester

        self.serve(open_route("GET", "/who", who))
        assert (await self.ask("GET", "/who")).status == 500


class RateTests(SiteCase):
    async def test_who_asks_too_often_is_told_how_long_to_wait(self) -> None:
        self.serve(Route("PUT", "/send", echo, rate="send"))
        path = "/send?access_token=alice"
        assert [(await self.ask("PUT", path)).status for _ in range(2)] == [200, 200]
        self.time.advance(0.5)
        answer = await self.ask("PUT", path)
        assert answer.status == 429
        assert answer.json["errcode"] == "M_LIMIT_EXCEEDED"
        assert answer.json["retry_after_ms"] == 500
        assert answer.headers["retry-after"] == "1"
        assert (await self.ask("PUT", "/send?access_token=bob")).status == 200
        self.time.advance(0.5)
        assert (await self.ask("PUT", path)).status == 200

    async def test_without_a_token_the_address_counts(self) -> None:
        self.serve(open_route("PUT", "/send", rate="send"), trusted_proxies=["127.0.0.1"])
        statuses = [(await self.ask("PUT", "/send", X_Forwarded_For="192.0.2.1")).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        answer = await self.ask("PUT", "/send", X_Forwarded_For="192.0.2.2")
        assert (answer.status, answer.json["address"]) == (200, "192.0.2.2")

    async def test_stranger_cannot_choose_an_address(self) -> None:
        self.serve(open_route("PUT", "/send", rate="send"))
        answers = [await self.ask("PUT", "/send", X_Forwarded_For=f"192.0.2.{number}") for number in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert answers[0].json["address"] == "127.0.0.1"


class BodyTests(SiteCase):
    async def test_content_type_does_not_matter(self) -> None:
        self.serve(open_route("POST", "/send", body=Body.OBJECT))
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "nonsense"):
            answer = await self.ask("POST", "/send", b'{"a":1}', Content_Type=content_type)
            assert answer.json["body"] == {"a": 1}

    async def test_absent_body_and_null_are_an_empty_object(self) -> None:
        self.serve(open_route("POST", "/send", body=Body.OBJECT))
        for body in (None, b"", b"null"):
            assert (await self.ask("POST", "/send", body)).json["body"] == {}

    async def test_model_is_filled_or_its_faults_are_named(self) -> None:
        self.serve(open_route("POST", "/send", body=Message))
        assert (await self.ask("POST", "/send", b'{"text":"hi"}')).json["body"] == {"text": "hi"}
        answer = await self.ask("POST", "/send", b"{}")
        assert (answer.status, answer.json) == (400, {"errcode": "M_BAD_JSON", "error": "text: is required"})

    async def test_form_is_taken_where_the_route_says_so(self) -> None:
        self.serve(
            open_route("POST", "/form", body=Body.OBJECT, forms=True), open_route("POST", "/json", body=Body.OBJECT)
        )
        form = "application/x-www-form-urlencoded; charset=UTF-8"
        answer = await self.ask("POST", "/form", b"a=1&b=%C3%BC+x&a=2&c", Content_Type=form)
        assert answer.json["body"] == {"a": "1", "b": "ü x", "c": ""}
        # Programs that send JSON do not always say so.
        assert (await self.ask("POST", "/form", b' {"a":1}', Content_Type=form)).json["body"] == {"a": 1}
        assert (await self.ask("POST", "/form", b'{"a":1}')).json["body"] == {"a": 1}
        answer = await self.ask("POST", "/form", b"a=%FF", Content_Type=form)
        assert (answer.status, answer.json["errcode"]) == (400, "M_BAD_JSON")
        assert (await self.ask("POST", "/json", b"a=1", Content_Type=form)).json["errcode"] == "M_NOT_JSON"

    async def test_bad_json_is_refused(self) -> None:
        self.serve(open_route("POST", "/send", body=Body.OBJECT), max_json_depth=3)
        for body, errcode in (
            (b"{", "M_NOT_JSON"),
            (b'{"a":"\\ud800"}', "M_NOT_JSON"),
            (b"[]", "M_BAD_JSON"),
            (b'{"a":{"b":{"c":{}}}}', "M_BAD_JSON"),
        ):
            answer = await self.ask("POST", "/send", body)
            assert (answer.status, answer.json["errcode"]) == (400, errcode)

    async def test_body_that_nobody_asked_for_is_ignored(self) -> None:
        self.serve(open_route("GET", "/look"))
        answer = await self.ask("GET", "/look", b"null")
        assert (answer.status, answer.json["body"]) == (200, None)
        assert (await self.ask("GET", "/look", b"{nonsense")).status == 200

    async def test_route_may_have_its_own_largest_body(self) -> None:
        self.serve(
            open_route("POST", "/more", body=Body.OBJECT, max_body=100),
            open_route("POST", "/less", body=Body.OBJECT, max_body=5),
            open_route("POST", "/usual", body=Body.OBJECT),
            max_body=10,
        )
        body = b'{"a":12345678}'
        assert (await self.ask("POST", "/more", body)).status == 200
        assert (await self.ask("POST", "/less", b'{"a":1}')).status == 413
        assert (await self.ask("POST", "/usual", b'{"a":1}')).status == 200
        assert (await self.ask("POST", "/usual", body)).status == 413

    async def test_size_is_looked_at_before_the_token(self) -> None:
        self.serve(Route("POST", "/send", echo, body=Body.OBJECT), max_body=2)
        assert (await self.ask("POST", "/send", b'{"a":1}')).status == 413


class AnswerTests(SiteCase):
    async def test_json_answers_are_marked_as_such(self) -> None:
        self.serve(open_route("GET", "/x"))
        answer = await self.ask("GET", "/x")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-length"] == str(len(answer.body))
        assert answer.headers["date"] == "Mon, 12 Jan 1970 13:46:40 GMT"
        assert "connection" not in answer.headers

    async def test_json_that_is_encoded_already_is_sent_as_it_stands(self) -> None:
        async def encoded(call: Call[str]) -> object:
            return Encoded(b'{"a" : 1}')

        self.serve(open_route("GET", "/x", encoded))
        assert (await self.ask("GET", "/x")).body == b'{"a" : 1}'

    async def test_response_sets_status_and_headers(self) -> None:
        async def page(call: Call[str]) -> object:
            return Response(202, {"content-type": "text/html", "X-Own": "yes"}, b"<p>")

        self.serve(open_route("GET", "/x", page))
        answer = await self.ask("GET", "/x")
        assert (answer.status, answer.body) == (202, b"<p>")
        assert answer.headers["content-type"] == "text/html"
        assert answer.headers["x-own"] == "yes"
        assert answer.headers["cache-control"] == "no-store"

    async def test_answer_that_may_have_no_body_has_none(self) -> None:
        async def unchanged(call: Call[str]) -> object:
            return Response(304, {}, b"ignored")

        self.serve(open_route("GET", "/x", unchanged))
        client = await self.connect()
        client.send(2 * request("GET", PREFIX + "/x"))
        first, second = await client.answers(2)
        assert (first.status, second.status, first.body) == (304, 304, b"")
        assert "content-length" not in first.headers

    async def test_header_cannot_smuggle_in_another(self) -> None:
        async def redirect(call: Call[str]) -> object:
            return Response(302, {"Location": "/\r\nSet-Cookie: a=b"})

        self.serve(open_route("GET", "/x", redirect))
        answer = await self.ask("GET", "/x")
        assert answer.status == 500
        assert "set-cookie" not in answer.headers


class ErrorTests(SiteCase):
    def setUp(self) -> None:
        """Read along in the log."""
        self.addCleanup(logs.unconfigure)
        self.output = io.StringIO()
        self.patch(sys, "stderr", self.output)
        logs.configure("text", "info", adopt_twisted=False)

    async def test_unexpected_error_shows_in_the_log_and_nowhere_else(self) -> None:
        async def fail(call: Call[str]) -> object:
            raise RuntimeError("the cellar is under water")

        self.serve(open_route("GET", "/x", fail))
        answer = await self.ask("GET", "/x")
        assert answer.status == 500
        assert answer.json == {"errcode": "M_UNKNOWN", "error": "Internal server error"}
        assert "the cellar is under water" in self.output.getvalue()
        assert "Traceback" in self.output.getvalue()

    async def test_what_json_cannot_say_is_an_unexpected_error(self) -> None:
        async def strange(call: Call[str]) -> object:
            return {"x": object()}

        self.serve(open_route("GET", "/x", strange))
        assert (await self.ask("GET", "/x")).status == 500

    async def test_cancellation_that_no_client_caused_is_an_unexpected_error(self) -> None:
        async def cancelled(call: Call[str]) -> object:
            raise CancelledError

        self.serve(open_route("GET", "/x", cancelled, cancellable=True))
        assert (await self.ask("GET", "/x")).status == 500

    async def test_refusal_shows_its_public_side_and_logs_the_private_one(self) -> None:
        async def refuse(call: Call[str]) -> object:
            raise Forbidden("You may not.", reason="level 10 of 50")

        self.serve(open_route("GET", "/x", refuse))
        answer = await self.ask("GET", "/x")
        assert (answer.status, answer.json) == (403, {"errcode": "M_FORBIDDEN", "error": "You may not."})
        assert 'errcode=M_FORBIDDEN reason="level 10 of 50"' in self.output.getvalue()
        assert "Traceback" not in self.output.getvalue()

    async def test_each_request_has_one_line_that_tells_no_secrets(self) -> None:
        self.serve(Route("PUT", "/x/{y}", echo, body=Body.OBJECT))
        answer = await self.ask("PUT", "/x/whisper?access_token=alice&q=hush", b'{"a":"psst"}')
        (line,) = self.output.getvalue().splitlines()
        assert line.endswith(
            "synapse_like.http.site: answered request=1 method=PUT route=/api/x/{y} status=200 ms=0 "
            f"bytes={len(answer.body)} user=@alice"
        )

    async def test_what_an_endpoint_logs_names_request_and_user(self) -> None:
        async def talk(call: Call[str]) -> object:
            logs.get_logger("endpoint").info("one")
            wait = Deferred[None]()
            loop.callLater(0, wait.callback, None)
            await wait
            logs.get_logger("endpoint").info("two")
            return {}

        self.serve(Route("GET", "/x", talk))
        client = await self.connect()
        client.send(request("GET", PREFIX + "/x?access_token=alice") + request("GET", PREFIX + "/x?access_token=bob"))
        await client.answers(2)
        spoken = [line.partition("endpoint: ")[2] for line in self.output.getvalue().splitlines() if "endpoint" in line]
        assert spoken == [
            "one request=1 user=@alice",
            "one request=2 user=@bob",
            "two request=1 user=@alice",
            "two request=2 user=@bob",
        ]

    async def test_poll_of_a_client_that_left_is_no_error(self) -> None:
        waiting = Waiting()
        self.serve(open_route("GET", "/wait", waiting, cancellable=True))
        client = await self.connect()
        client.send(request("GET", PREFIX + "/wait"))
        await self.until(lambda: waiting.waits)
        client.leave()
        await self.until(lambda: waiting.cancelled)
        assert self.output.getvalue() == ""

    async def test_time_of_a_request_is_told_in_milliseconds(self) -> None:
        waiting = Waiting()
        self.serve(open_route("GET", "/wait", waiting))
        client = await self.connect()
        client.send(request("GET", PREFIX + "/wait"))
        await self.until(lambda: waiting.waits)
        self.time.advance(1.25)
        waiting.waits[0].callback({})
        await client.answer()
        assert " ms=1250 " in self.output.getvalue()


class GoneTests(SiteCase):
    async def test_waiting_endpoint_is_cancelled_when_its_client_leaves(self) -> None:
        waiting = Waiting()
        self.serve(Route("GET", "/wait", waiting, cancellable=True))
        client = await self.connect()
        client.send(2 * request("GET", PREFIX + "/wait?access_token=alice"))
        await self.until(lambda: len(waiting.waits) == 2)
        assert self.site.in_flight == 2
        client.leave()
        await self.until(lambda: waiting.cancelled == 2)
        assert self.site.in_flight == 0

    async def test_other_endpoints_run_to_their_end_and_can_tell(self) -> None:
        waiting, calls, ended = Waiting(), [], []

        async def work(call: Call[str]) -> object:
            calls.append(call)
            await waiting(call)
            ended.append(call)
            return {}

        self.serve(open_route("PUT", "/work", work))
        client = await self.connect()
        client.send(request("PUT", PREFIX + "/work"))
        await self.until(lambda: waiting.waits)
        assert not calls[0].closed
        client.leave()
        await self.until(lambda: calls[0].closed)
        assert (waiting.cancelled, ended, self.site.in_flight) == (0, [], 1)
        waiting.waits[0].callback(None)
        assert (ended, self.site.in_flight) == (calls, 0)


class DrainTests(SiteCase):
    async def test_idle_connections_are_closed_and_busy_ones_answered_first(self) -> None:
        waiting = Waiting()
        self.serve(open_route("GET", "/wait", waiting), open_route("GET", "/x"))
        idle, busy = await self.connect(), await self.connect()
        idle.send(request("GET", PREFIX + "/x"))
        await idle.answer()
        busy.send(2 * request("GET", PREFIX + "/wait"))
        await self.until(lambda: len(waiting.waits) == 2)
        drained = Deferred.fromCoroutine(self.site.drain(10))
        await idle.closed()
        assert not drained.called
        # What still comes on a busy connection is served.
        busy.send(request("GET", PREFIX + "/x"))
        await self.until(lambda: self.site.in_flight == 3)
        for wait in waiting.waits:
            wait.callback({})
        answers = await busy.answers(3)
        assert [answer.headers.get("connection") for answer in answers] == [None, None, "close"]
        await busy.closed()
        await drained
        assert self.time.getDelayedCalls() == []

    async def test_who_is_not_done_in_time_is_cut_off(self) -> None:
        waiting = Waiting()
        self.serve(open_route("GET", "/wait", waiting))
        client = await self.connect()
        client.send(request("GET", PREFIX + "/wait"))
        await self.until(lambda: waiting.waits)
        drained = Deferred.fromCoroutine(self.site.drain(10))
        self.time.advance(9)
        assert not drained.called
        self.time.advance(1)
        await drained
        await client.closed()

    async def test_site_without_connections_is_drained_at_once(self) -> None:
        self.serve()
        await self.site.drain(10)
        assert self.time.getDelayedCalls() == []

    async def test_endpoint_whose_client_has_left_is_waited_for(self) -> None:
        waiting = Waiting()
        self.serve(open_route("PUT", "/wait", waiting))
        client = await self.connect()
        client.send(request("PUT", PREFIX + "/wait"))
        await self.until(lambda: waiting.waits)
        client.leave()
        await self.until(lambda: not self.site.connections)
        drained = Deferred.fromCoroutine(self.site.drain(10))
        assert not drained.called
        waiting.waits[0].callback({})
        await drained
