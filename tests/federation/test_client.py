"""What other servers can be asked: how it goes over the wire, and which answers are taken (FED-2, FED-4, FED-7)."""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
import pytest
from signedjson.key import generate_signing_key, get_verify_key

from synapse_like.federation.client import FederationClient
from synapse_like.federation.errors import RemoteRefusal, ServerUnreachable
from synapse_like.protocol.request_signing import parse_authorization, verify
from tests.federation.other_servers import FederationCase, Other, Visitor, answer

US = "us.example"
KEY = generate_signing_key("1")
ROOM, EVENT, USER = "!r/1:a.example", "$e+1:a.example", "@alice:us.example"
PDUS = [{"n": 10**30}, {}]
UNKNOWN = (404, {"errcode": "M_UNRECOGNIZED", "error": "Unknown."})

V1, V2 = "/_matrix/federation/v1", "/_matrix/federation/v2"
ROOM_PATH, EVENT_PATH = "%21r%2F1%3Aa.example", "%24e%2B1%3Aa.example"


class Request:
    """What a server was asked."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        self.method, self.uri, _ = first.split(" ")
        self.headers = dict(line.split(": ", 1) for line in lines)

    @property
    def what(self) -> tuple[str, str, Any]:
        return self.method, self.uri, orjson.loads(self.body) if self.body else None


class ClientCase(FederationCase):
    def setUp(self) -> None:
        super().setUp()
        self.answers: dict[str, tuple[int, Any]] = {}
        self.usual: Any = {}
        self.other: Other = self.listen(self.serve)
        self.name = f"localhost:{self.other.port}"
        self.client = FederationClient(self.agent(), US, KEY)

    def serve(self, visitor: Visitor) -> None:
        request = Request(visitor.requests[-1])
        status, said = self.answers.get(request.uri.partition("?")[0], (200, self.usual))
        visitor.say(answer(said if isinstance(said, bytes) else orjson.dumps(said), status))

    def asked(self) -> list[Request]:
        return [Request(raw) for raw in self.other.requests]

    async def refused(self, error: type[Exception], asking: Coroutine[Any, Any, Any]) -> Any:
        with pytest.raises(error) as caught:
            await asking
        return caught.value


class WireTests(ClientCase):
    async def test_every_request_is_signed_over_what_is_sent(self) -> None:
        self.usual = {"pdus": [], "event": {}, "events": [], "auth_chain": [], "server_keys": []}
        client, name = self.client, self.name
        await client.send_transaction(name, "t/1", {"pdus": PDUS[1:], "n": 10**30})
        await client.make_membership(name, "join", ROOM, USER, ["1", "spec-2014"])
        await client.send_membership(name, "leave", ROOM, EVENT, {"x": 1})
        await client.invite(name, ROOM, EVENT, "5", {"x": 1}, [])
        await client.backfill(name, ROOM, [EVENT, "$x:y"], 5)
        await client.missing_events(name, ROOM, earliest=["$a"], latest=["$b"], limit=3, min_depth=1)
        await client.state(name, ROOM, EVENT)
        await client.state(name, ROOM, None)
        await client.event(name, EVENT)
        await client.event(name, "$hash")
        await client.event_auth(name, ROOM, EVENT)
        await client.pull(name, ["1", "2"])
        await client.query(name, "profile", {"user_id": USER, "field": "a&b"})
        asked = self.asked()
        for request in asked:
            credentials = parse_authorization(request.headers["Authorization"])
            assert (credentials.origin, credentials.destination) == (US, name)
            verify(
                credentials,
                method=request.method,
                uri=request.uri,
                destination=name,
                content=request.body or None,
                key=get_verify_key(KEY),
            )
        assert asked[0].body == b'{"n":1000000000000000000000000000000,"pdus":[{}]}'
        assert [request.what for request in asked[1:]] == [
            ("GET", f"{V1}/make_join/{ROOM_PATH}/%40alice%3Aus.example?ver=1&ver=spec-2014", None),
            ("PUT", f"{V2}/send_leave/{ROOM_PATH}/{EVENT_PATH}", {"x": 1}),
            (
                "PUT",
                f"{V2}/invite/{ROOM_PATH}/{EVENT_PATH}",
                {"room_version": "5", "event": {"x": 1}, "invite_room_state": []},
            ),
            ("GET", f"{V1}/backfill/{ROOM_PATH}/?v={EVENT_PATH}&v=%24x%3Ay&limit=5", None),
            (
                "POST",
                f"{V1}/get_missing_events/{ROOM_PATH}",
                {"earliest_events": ["$a"], "latest_events": ["$b"], "limit": 3, "min_depth": 1},
            ),
            ("GET", f"{V1}/state/{ROOM_PATH}/?event_id={EVENT_PATH}", None),
            ("GET", f"{V1}/state/{ROOM_PATH}/", None),
            ("GET", f"{V1}/pdu/a.example/e%2B1/", None),
            ("GET", f"{V1}/event/%24hash", None),
            ("GET", f"{V1}/event_auth/{ROOM_PATH}/{EVENT_PATH}", None),
            ("GET", f"{V1}/pull/?origin=us.example&v=1&v=2", None),
            ("GET", f"{V1}/query/profile?user_id=%40alice%3Aus.example&field=a%26b", None),
        ]
        assert asked[0].uri == f"{V1}/send/t%2F1/"

    async def test_keys_are_asked_for_unsigned(self) -> None:
        self.usual = {"server_keys": [{"a": 1}]}
        assert await self.client.server_keys(self.name) == self.usual
        assert await self.client.query_keys(self.name, {"a.example": ["ed25519:1"]}) == [{"a": 1}]
        assert [request.what for request in self.asked()] == [
            ("GET", "/_matrix/key/v2/server", None),
            ("POST", "/_matrix/key/v2/query", {"server_keys": {"a.example": {"ed25519:1": {}}}}),
        ]
        assert not any("Authorization" in request.headers for request in self.asked())

    async def test_answers_are_given_as_they_are_with_exact_integers(self) -> None:
        raw = b'{"pdus":[{"n":1000000000000000000000000000000},{}],"auth_chain":[{"a":1}]}'
        self.answers = {f"{V1}/state/{ROOM_PATH}/": (200, raw), f"{V1}/backfill/{ROOM_PATH}/": (200, raw)}
        assert await self.client.state(self.name, ROOM, None) == (PDUS, [{"a": 1}])
        assert await self.client.backfill(self.name, ROOM, [EVENT], 1) == PDUS
        self.usual = {"events": [{"b": 1}]}
        missing = await self.client.missing_events(self.name, ROOM, earliest=[], latest=[], limit=1, min_depth=0)
        assert missing == [{"b": 1}]


class FallbackTests(ClientCase):
    async def test_server_of_today_is_asked_without_the_slash_from_then_on(self) -> None:
        self.answers[f"{V1}/send/1/"] = UNKNOWN
        for _ in range(2):
            assert await self.client.send_transaction(self.name, "1", {}) == {}
        assert [request.uri for request in self.asked()] == [f"{V1}/send/1/", f"{V1}/send/1", f"{V1}/send/1"]

    async def test_refusal_is_no_reason_to_ask_in_another_form(self) -> None:
        for status, errcode in ((403, "M_FORBIDDEN"), (404, "M_NOT_FOUND"), (500, "M_UNRECOGNIZED")):
            self.answers[f"{V1}/send/1/"] = (status, {"errcode": errcode})
            self.answers[f"{V2}/send_join/{ROOM_PATH}/{EVENT_PATH}"] = (status, {"errcode": errcode})
            await self.refused(RemoteRefusal, self.client.send_transaction(self.name, "1", {}))
            await self.refused(RemoteRefusal, self.client.send_membership(self.name, "join", ROOM, EVENT, {"x": 1}))
        assert len(self.asked()) == 6

    async def test_first_version_answers_in_a_list(self) -> None:
        path = f"/send_join/{ROOM_PATH}/{EVENT_PATH}"
        self.answers = {V2 + path: UNKNOWN, V1 + path: (200, [200, {"state": []}])}
        assert await self.client.send_membership(self.name, "join", ROOM, EVENT, {"x": 1}) == {"state": []}
        path = f"/invite/{ROOM_PATH}/{EVENT_PATH}"
        self.answers = {V2 + path: UNKNOWN, V1 + path: (200, [200, {"event": {"y": 1}}])}
        pdu = {"x": 1, "unsigned": {"age": 1}}
        assert await self.client.invite(self.name, ROOM, EVENT, "5", pdu, [{"s": 1}]) == {"event": {"y": 1}}
        assert self.asked()[-1].what[2] == {"x": 1, "unsigned": {"age": 1, "invite_room_state": [{"s": 1}]}}

    async def test_event_is_asked_for_by_its_id_where_pdus_have_no_names(self) -> None:
        self.answers = {f"{V1}/pdu/a.example/e%2B1/": UNKNOWN, f"{V1}/pdu/a.example/e%2B1": UNKNOWN}
        self.usual = {"pdus": [{"x": 1}]}
        assert await self.client.event(self.name, EVENT) == [{"x": 1}]
        assert self.asked()[-1].uri == f"{V1}/event/{EVENT_PATH}"


class AnswerTests(ClientCase):
    async def test_answers_of_a_wrong_shape_are_none(self) -> None:
        client, name = self.client, self.name
        everything: list[Callable[[], Coroutine[Any, Any, Any]]] = [
            lambda: client.send_transaction(name, "1", {}),
            lambda: client.make_membership(name, "join", ROOM, USER, ["1"]),
            lambda: client.send_membership(name, "join", ROOM, EVENT, {}),
            lambda: client.invite(name, ROOM, EVENT, "1", {}, []),
            lambda: client.backfill(name, ROOM, [EVENT], 1),
            lambda: client.missing_events(name, ROOM, earliest=[], latest=[], limit=1, min_depth=1),
            lambda: client.state(name, ROOM, EVENT),
            lambda: client.event(name, EVENT),
            lambda: client.event_auth(name, ROOM, EVENT),
            lambda: client.pull(name, []),
            lambda: client.query(name, "profile", {}),
            lambda: client.server_keys(name),
            lambda: client.query_keys(name, {}),
        ]
        any_object_will_do = {0, 2, 10, 11}
        for said in ([], "x", 5, None, [200], [200, 5], b"", b"{", b"nonsense", b"[" * 100_000, b'{"a":"\\ud800"}'):
            self.usual = said
            for ask in everything:
                await self.refused(ServerUnreachable, ask())
        for said in (
            {},
            {"pdus": 5, "events": 5, "event": 5, "auth_chain": 5, "server_keys": 5},
            {"pdus": [5], "events": [5], "event": [5], "auth_chain": [5], "server_keys": [5]},
            {"event": {}, "room_version": 5, "pdus": {}},
        ):
            self.usual = said
            for number, ask in enumerate(everything):
                if number not in any_object_will_do and not (number == 3 and "room_version" in said):
                    await self.refused(ServerUnreachable, ask())

    async def test_refusal_is_told_as_the_other_server_told_it_but_for_what_a_client_would_take_for_ours(self) -> None:
        self.usual = {}
        path = f"{V1}/query/profile"
        for status, said, expected in (
            (403, {"errcode": "M_FORBIDDEN", "error": "No."}, (403, "M_FORBIDDEN", "No.", None)),
            (
                429,
                {"errcode": "M_LIMIT_EXCEEDED", "error": "x", "retry_after_ms": 7},
                (429, "M_LIMIT_EXCEEDED", "x", 7),
            ),
            (401, {"errcode": "M_UNKNOWN_TOKEN", "error": "x"}, (502, "M_UNKNOWN", "x", None)),
            (500, b"<html>", (502, "M_UNKNOWN", f"The server {self.name} refused.", None)),
            (404, {"errcode": 5, "error": []}, (404, "M_UNKNOWN", f"The server {self.name} refused.", None)),
            (400, {"errcode": "x\ny", "error": "e" * 9999}, (400, "M_UNKNOWN", "e" * 500, None)),
            (302, {"errcode": "M_X", "error": "x"}, (502, "M_X", "x", None)),
            (204, b"", (502, "M_UNKNOWN", f"The server {self.name} refused.", None)),
        ):
            self.answers[path] = (status, said)
            error = await self.refused(RemoteRefusal, self.client.query(self.name, "profile", {}))
            assert (error.status, error.errcode, error.message, error.retry_after_ms) == expected
