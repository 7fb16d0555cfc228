"""A sibling that lies: it tells what others say, or old things again, or too much, and signs for others (ID-1)."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from signedjson.key import encode_verify_key_base64, generate_signing_key, get_verify_key
from signedjson.sign import sign_json

from synapse_like.protocol.request_signing import authorization, encode_content
from tests.scenarios.identity.conftest import IdentityServers
from tests.scenarios.identity.test_associations import user_keys
from tests.support.client import Answer
from tests.support.identity import IdentityServer

PUSH = "/_matrix/identity/replicate/v1/push"
NAME, OTHER = "liar.example", "honest.example"
KEY, OTHER_KEY = generate_signing_key("1"), generate_signing_key("2")


def public(key: Any) -> str:
    return f"{key.alg}:{key.version} {encode_verify_key_base64(get_verify_key(key))}"


class Liar:
    """A sibling, as one server knows it."""

    def __init__(self, server: IdentityServer) -> None:
        self.server = server

    def push(
        self,
        content: object,
        *,
        origin: str = NAME,
        destination: str | None = None,
        key: Any = KEY,
        signed: object = None,
    ) -> Answer:
        """Push something, signed for the server unless it is said otherwise."""
        header = authorization(
            method="POST",
            uri=PUSH,
            origin=origin,
            destination=destination or self.server.name,
            content=encode_content(content if signed is None else signed),
            key=key,
        )
        return self.server.request("POST", PUSH, json.dumps(content).encode(), headers={"Authorization": header})

    def tell(self, *statements: dict[str, Any], log: str = "log", after: int = 0, kind: str = "association") -> Answer:
        """Tell statements at the positions that follow."""
        told = [
            {"position": after + number, "kind": kind, "statement": statement}
            for number, statement in enumerate(statements, 1)
        ]
        return self.push({"log": log, "after": after, "statements": told})


def now_ms() -> int:
    return int(time.time() * 1000)


def unsigned(email: str = "alice@example.org", **changes: Any) -> dict[str, Any]:
    ts = now_ms()
    said = {
        "medium": "email",
        "address": email,
        "mxid": "@mallory:a",
        "ts": ts,
        "not_before": ts,
        "not_after": ts + 10**9,
    }
    return said | changes


def statement(email: str = "alice@example.org", *, by: str = NAME, key: Any = KEY, **changes: Any) -> dict[str, Any]:
    return sign_json(unsigned(email, **changes), by, key)


@pytest.fixture
def server(identity_servers: IdentityServers) -> IdentityServer:
    """An identity server with two siblings, whose keys we have both."""
    made = identity_servers()
    siblings = [
        {"name": name, "url": "http://127.0.0.1:9", "public_keys": [public(key)]}
        for name, key in ((NAME, KEY), (OTHER, OTHER_KEY))
    ]
    made.set(siblings=siblings)
    return made.start()


def test_what_a_sibling_may_not_tell_is_refused_whole(server: IdentityServer) -> None:
    """ID-1: only its own statements, in their one form, of the present; nothing of a bad push is taken."""
    liar = Liar(server)
    good = statement("good@example.org")
    keys, _ = user_keys("@mallory:a")
    cases: list[tuple[str, dict[str, Any], str, int]] = [
        ("another sibling's", statement(by=OTHER, key=OTHER_KEY), "association", 403),
        ("another sibling's name with its own key", statement(by=OTHER), "association", 403),
        ("of the server itself", statement(by=server.name), "association", 403),
        ("with another signature beside", sign_json(statement(), OTHER, OTHER_KEY), "association", 403),
        ("with no signature", {**unsigned(), "signatures": {}}, "association", 403),
        ("with strange signatures", {**unsigned(), "signatures": {NAME: {"ed25519:1": 10**30}}}, "association", 403),
        ("with a false signature", statement() | {"mxid": "@other:a"}, "association", 401),
        ("with a key that is not its own", statement(key=generate_signing_key("1")), "association", 401),
        ("of the future", statement(ts=now_ms() + 3600_000), "association", 400),
        ("of before all time", statement(ts=-1), "association", 400),
        ("with a huge number", statement(not_after=2**53), "association", 400),
        ("in capitals", statement("Alice@example.org"), "association", 400),
        ("of no address", statement("alice"), "association", 400),
        ("of no user", statement(mxid="mallory"), "association", 400),
        ("of a user in capitals", statement(mxid="@Mallory:a"), "association", 400),
        ("with something more", statement(more=1), "association", 400),
        ("of an unknown kind", statement(), "fact", 400),
        ("keys that are an association", statement(), "keys", 400),
        ("keys of somebody else", _keys_statement(keys, mxid="@alice:a"), "keys", 400),
        ("keys that nobody signed", _keys_statement(keys | {"signatures": {}}), "keys", 400),
        ("keys that are none", _keys_statement(5), "keys", 400),
    ]
    for what, bad, kind, status in cases:
        content = {
            "log": "log",
            "after": 0,
            "statements": [
                {"position": 1, "kind": "association", "statement": good},
                {"position": 2, "kind": kind, "statement": bad},
            ],
        }
        answer = liar.push(content)
        assert answer.status == status, f"{what}: {answer.body!r}"
    assert server.lookup("good@example.org") is None
    assert server.lookup("alice@example.org") is None
    assert liar.tell(good, statement("x@example.org")).json == {"position": 2}
    assert server.lookup("good@example.org") == "@mallory:a"


def _keys_statement(keys: object, mxid: str = "@mallory:a") -> dict[str, Any]:
    said = {"medium": "email", "address": "alice@example.org", "mxid": mxid, "ts": now_ms(), "keys": keys}
    return sign_json(said, NAME, KEY)


def test_old_words_do_not_come_back(server: IdentityServer) -> None:
    """ID-1: a push that is made again changes nothing, under whatever name its log goes."""
    liar = Liar(server)
    first = statement(mxid="@first:a")
    assert liar.tell(first).json == {"position": 1}
    second = statement(mxid="@second:a", ts=first["ts"] + 1)
    assert liar.tell(second, after=1).json == {"position": 2}
    assert server.lookup("alice@example.org") == "@second:a"
    assert liar.tell(first).json == {"position": 2}
    assert liar.tell(first, after=2).json == {"position": 3}
    assert liar.tell(first, log="another").json == {"position": 1}
    assert server.lookup("alice@example.org") == "@second:a"


def test_owner_takes_an_address_back_from_a_liar(server: IdentityServer) -> None:
    """ID-1: a new word of this server is later than any it has heard."""
    ahead = now_ms() + 9 * 60 * 1000
    assert Liar(server).tell(statement(ts=ahead)).json == {"position": 1}
    assert server.lookup("alice@example.org") == "@mallory:a"
    association = server.bind("alice@example.org", "@alice:example.org")
    assert association["ts"] == ahead + 1
    assert server.lookup("alice@example.org") == "@alice:example.org"


def test_gap_is_not_jumped(server: IdentityServer) -> None:
    """ID-1: positions that follow what was never heard are not taken; the answer says where to begin."""
    liar = Liar(server)
    assert liar.tell(statement(), after=5).json == {"position": 0}
    assert server.lookup("alice@example.org") is None
    out_of_order = [{"position": number, "kind": "association", "statement": statement()} for number in (2, 1)]
    assert liar.push({"log": "log", "after": 0, "statements": out_of_order}).status == 400


def test_pushes_must_be_signed_by_a_sibling_for_this_server(server: IdentityServer) -> None:
    """ID-1, SEC-8: nobody else is heard, and what was signed for one sibling is not good for another."""
    liar = Liar(server)
    content = {"log": "log", "after": 0, "statements": []}
    assert server.request("POST", PUSH, content).status == 401
    wrong: list[dict[str, Any]] = [
        {"destination": "another.example"},
        {"key": OTHER_KEY},
        {"key": generate_signing_key("1")},
        {"origin": OTHER},
        {"signed": {**content, "after": 1}},
        {"origin": "stranger.invalid"},
    ]
    for options in wrong:
        answer = liar.push(content, **options)
        assert answer.status == 401, f"{options}: {answer.body!r}"
    assert liar.push(content).json == {"position": 0}


def test_sibling_is_no_home_server(server: IdentityServer) -> None:
    """ID-1, SEC-8: it cannot take an address from a user by signing the request itself, whatever it is called."""
    server.bind("alice@example.org", f"@alice:{NAME}")
    path = "/_matrix/identity/api/v1/3pid/unbind"
    content = {"mxid": f"@alice:{NAME}", "threepid": {"medium": "email", "address": "alice@example.org"}}
    header = authorization(
        method="POST", uri=path, origin=NAME, destination=server.name, content=encode_content(content), key=KEY
    )
    answer = server.request("POST", path, json.dumps(content).encode(), headers={"Authorization": header})
    assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN")
    assert server.lookup("alice@example.org") == f"@alice:{NAME}"


def test_huge_pushes_are_refused(server: IdentityServer) -> None:
    """ID-1, SEC-1: bytes, statements and depth are bounded."""
    liar = Liar(server)
    assert liar.tell(*[statement(f"a{number}@example.org") for number in range(101)]).status == 400
    assert liar.push({"log": "x" * 65, "after": 0, "statements": []}).status == 400
    assert liar.push({"log": "x", "after": 2**60, "statements": []}).status == 400
    assert liar.push({"log": "x", "after": 0, "statements": [], "more": "x" * 1024 * 1024}).status == 413
    deep: Any = 1
    for _ in range(50):
        deep = [deep]
    assert liar.push({"log": "x", "after": 0, "statements": [], "more": deep}).status == 400
    assert liar.tell(*[statement(f"a{number}@example.org") for number in range(100)]).json == {"position": 100}
