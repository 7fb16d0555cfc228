"""Requests of other servers at the site: signed, or refused (FED-9, SEC-8)."""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from typing import Any

import orjson
from signedjson.key import generate_signing_key, get_verify_key

from synapse_like.http.federation.authentication import SignatureAuthenticator
from synapse_like.http.limits import Limiter
from synapse_like.http.requests import Body, Call
from synapse_like.http.routing import Auth, Route
from synapse_like.protocol.errors import SignatureError
from synapse_like.protocol.request_signing import Credentials, authorization, encode_content, verify
from tests.http.site_case import PREFIX, Answer, SiteCase

US = "us.example"
PEER = "peer.example"
KEY = generate_signing_key("1")


class OneKey:
    """A keyring that knows one key of one server, and need not ask for it."""

    def has_at_hand(self, server_name: str, key_id: str) -> bool:
        return server_name == PEER

    async def verify_request(self, credentials: Credentials, *, method: str, uri: str, content: object) -> str:
        if credentials.origin != PEER:
            raise SignatureError("Nobody knows them.")
        encoded = None if content is None else encode_content(content)
        key = get_verify_key(KEY)
        verify(credentials, method=method, uri=uri, destination=US, content=encoded, key=key)
        return credentials.origin


async def echo(call: Call[str]) -> object:
    return orjson.Fragment(encode_content({"origin": call.requester_if_any, "body": call.body, "params": call.params}))


class SignedRequestTests(SiteCase):
    def serve_all(self, *routes: Route[str]) -> None:
        self.heard: list[str] = []
        limiter = Limiter({"strangers": (1, 2), "send": (1, 2)}, lambda: 0.0)
        keyring: Any = OneKey()
        self.serve(
            Route("PUT", "/send/{x}", echo, body=Body.OBJECT),
            Route("GET", "/get/{x}", echo),
            Route("GET", "/maybe", echo, auth=Auth.OPTIONAL),
            Route("GET", "/open", echo, auth=Auth.NONE),
            Route("GET", "/limited", echo, rate="send"),
            cors=False,
            authenticator=SignatureAuthenticator(keyring, limiter, self.heard.append),
            limiter=limiter,
        )

    async def ask_signed(self, verb: str, path: str, body: bytes | None = None, **said: Any) -> Answer:
        """Ask with a signature over the request, or over what is said instead."""
        content = None if body is None else encode_content(orjson.loads(body))
        about = {"method": verb, "uri": PREFIX + path, "origin": PEER, "destination": US, "content": content} | said
        return await self.ask(verb, path, body, Authorization=authorization(**about, key=KEY))

    async def test_requester_is_the_origin(self) -> None:
        self.serve_all()
        answer = await self.ask_signed("GET", "/get/1")
        assert (answer.status, answer.json["origin"]) == (200, PEER)
        answer = await self.ask_signed("PUT", "/send/1", b'{"a": 1}')
        assert (answer.status, answer.json["body"]) == (200, {"a": 1})

    async def test_who_has_asked_is_known_to_be_there(self) -> None:
        """FED-3: what waits for a server is tried as soon as it is heard from; from a forger nobody is."""
        self.serve_all()
        await self.ask_signed("GET", "/get/1", uri=PREFIX + "/get/2")
        assert self.heard == []
        await self.ask_signed("GET", "/get/1")
        assert self.heard == [PEER]

    async def test_what_is_signed_is_the_path_as_it_was_sent(self) -> None:
        self.serve_all()
        answer = await self.ask_signed("GET", "/get/%21a%2fb?c=%20d+e&f")
        assert (answer.status, answer.json["params"]) == (200, {"x": "!a/b"})
        answer = await self.ask_signed("GET", "/get/%21a", uri=PREFIX + "/get/!a")
        assert (answer.status, answer.json["errcode"]) == (401, "M_UNAUTHORIZED")

    async def test_any_change_is_refused(self) -> None:
        self.serve_all()
        for path, body, said in (
            ("/send/1", b'{"a":1}', {"content": b'{"a":2}'}),
            ("/send/1", b'{"a":1}', {"content": None}),
            ("/send/1", None, {"content": b"{}"}),
            ("/send/1", b'{"a":1}', {"method": "POST"}),
            ("/send/1", b'{"a":1}', {"uri": PREFIX + "/send/2"}),
            ("/send/1", b'{"a":1}', {"destination": "other.example"}),
        ):
            answer = await self.ask_signed("PUT", path, body, **said)
            assert (answer.status, answer.json["errcode"]) == (401, "M_UNAUTHORIZED")

    async def test_body_counts_even_where_the_route_has_no_use_for_it(self) -> None:
        self.serve_all()
        assert (await self.ask_signed("GET", "/get/1", b'{"a":1}')).status == 200
        assert (await self.ask_signed("GET", "/get/1", b'{"a":1}', content=None)).status == 401

    async def test_big_integers_stay_exact(self) -> None:
        self.serve_all()
        body = b'{"n":123456789012345678901234567890}'
        answer = await self.ask_signed("PUT", "/send/1", body, content=body)
        assert answer.status == 200
        assert b"123456789012345678901234567890" in answer.body

    async def test_body_that_is_not_json_is_refused_as_such(self) -> None:
        self.serve_all()
        about = {"method": "PUT", "uri": PREFIX + "/send/1", "origin": PEER, "destination": US}
        header = authorization(**about, content=b"{}", key=KEY)
        answer = await self.ask("PUT", "/send/1", b"{", Authorization=header)
        assert (answer.status, answer.json["errcode"]) == (400, "M_NOT_JSON")

    async def test_unsigned_requests_are_refused_where_it_matters(self) -> None:
        self.serve_all()
        for headers in ({}, {"Authorization": "Bearer abc"}, {"Authorization": "X-Matrix"}):
            answer = await self.ask("GET", "/get/1", **headers)
            assert (answer.status, answer.json["errcode"]) == (401, "M_UNAUTHORIZED")
        assert (await self.ask("GET", "/get/1?access_token=alice")).status == 401
        assert (await self.ask("GET", "/maybe")).json["origin"] is None
        assert (await self.ask_signed("GET", "/maybe")).json["origin"] == PEER
        assert (await self.ask("GET", "/maybe", Authorization="X-Matrix")).status == 401
        assert (await self.ask("GET", "/open", Authorization="X-Matrix")).status == 200

    async def test_strangers_are_counted_by_address_and_servers_by_name(self) -> None:
        self.serve_all()
        statuses = [(await self.ask_signed("GET", "/get/1", origin=f"s{n}.example")).status for n in range(4)]
        assert statuses == [401, 401, 429, 429]
        assert (await self.ask_signed("GET", "/get/1")).status == 200
        assert [(await self.ask_signed("GET", "/limited")).status for _ in range(3)] == [200, 200, 429]
