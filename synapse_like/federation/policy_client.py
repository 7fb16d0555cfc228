"""Asking a policy server (POL-1): a POST to its URL, signed as requests to other servers are (docs/operating.md).

A verdict may say for how long, and for what else, it holds; that is remembered, within bounds. So many requests may be
under way to one server and so many wait for their turn, which counts as its time; what would be more counts as not
answered, so that a server that is slow does not take memory.
"""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import orjson
from cachetools import TLRUCache
from msgspec import Struct
from signedjson.types import SigningKey
from twisted.internet import defer
from twisted.internet.defer import Deferred, DeferredSemaphore

from synapse_like.clock import Clock
from synapse_like.config import PolicyServer
from synapse_like.federation.agent import Answer
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.federation.web_client import WebClient
from synapse_like.protocol.canonical_json import decode
from synapse_like.protocol.errors import MatrixError
from synapse_like.protocol.request_signing import authorization, encode_content

#: Verdicts that are remembered of one server, and for how many seconds at the most.
MOST_VERDICTS, LONGEST_SECONDS = 10_000, 3600
#: Requests that may be under way to one server, and with those that wait for their turn.
MOST_AT_ONCE, MOST_WAITING = 100, 5000
#: Characters of a reason that is passed on.
LONGEST_REASON = 300

#: What a verdict may hold for beside the very same request: the fields in which another must be like it.
SCOPES: Mapping[str, tuple[str, ...]] = {
    "user": ("user_id",),
    "room": ("room_id",),
    "user_in_room": ("user_id", "room_id"),
}

Json = dict[str, Any]


class PolicyVerdict(Struct, frozen=True):
    """What a policy server says.

    :ivar reason: why not, for the person; may be empty.
    """

    is_allowed: bool
    reason: str = ""


class _Kept(Struct, frozen=True):
    verdict: PolicyVerdict
    seconds: float


def _until(key: bytes, kept: _Kept, now: float) -> float:
    return now + kept.seconds


class PolicyClient:
    """Asks one policy server.

    :param reactor: Twisted's reactor, by which its time is measured.
    :param server_name: ours, and `key` the one by which we sign.
    """

    def __init__(
        self, reactor: Any, web: WebClient, settings: PolicyServer, clock: Clock, server_name: str, key: SigningKey
    ) -> None:
        self._reactor = reactor
        self._web = web
        self._settings = settings
        self._server_name = server_name
        self._key = key
        self._kept: TLRUCache[bytes, _Kept] = TLRUCache(MOST_VERDICTS, _until, timer=clock.monotonic)
        self._turns = DeferredSemaphore(MOST_AT_ONCE)
        self._waiting = 0

    @property
    def settings(self) -> PolicyServer:
        """What the operator says of it."""
        return self._settings

    async def ask(self, question: Json) -> PolicyVerdict:
        """What it says to a question.

        :param question: has `hook`, and what else there is to know.
        :raises ServerUnreachable: it has said nothing, or nothing that makes sense, in time.
        """
        body = encode_content({"server_name": self._server_name, **question})
        for scope in ("same", *SCOPES):
            kept = self._kept.get(_key(scope, question, body))
            if kept is not None:
                return kept.verdict
        if self._waiting >= MOST_WAITING:
            raise ServerUnreachable(self._name, f"{MOST_WAITING} requests wait for an answer")
        self._waiting += 1
        asking: Deferred[Answer] = self._turns.run(lambda: Deferred.fromCoroutine(self._post(body)))
        try:
            answer = await asking.addTimeout(self._settings.timeout, self._reactor)
        except defer.TimeoutError as error:
            raise ServerUnreachable(self._name, "it does not answer in time") from error
        finally:
            self._waiting -= 1
        return self._read(question, body, answer)

    @property
    def _name(self) -> str:
        return urlsplit(self._settings.url).netloc

    async def _post(self, body: bytes) -> Answer:
        parts = urlsplit(self._settings.url)
        uri = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        header = authorization(
            method="POST", uri=uri, origin=self._server_name, destination=parts.netloc, content=body, key=self._key
        )
        headers = {"Content-Type": "application/json", "Authorization": header}
        return await self._web.request("POST", self._settings.url, headers=headers, body=body)

    def _read(self, question: Json, body: bytes, answer: Answer) -> PolicyVerdict:
        try:
            decoded = decode(answer.body) if answer.status == 200 else None
        except MatrixError:
            decoded = None
        said = decoded if isinstance(decoded, dict) else {}
        if not isinstance(said.get("allow"), bool):
            raise ServerUnreachable(self._name, f"it answered {answer.status} with {answer.body[:200]!r}")
        reason = said.get("reason")
        verdict = PolicyVerdict(said["allow"], _plain(reason) if isinstance(reason, str) else "")
        cache = said.get("cache")
        cache = cache if isinstance(cache, dict) else {}
        seconds, scope = cache.get("seconds"), cache.get("for", "same")
        if isinstance(seconds, int) and seconds > 0 and (scope == "same" or _is_told(scope, question)):
            self._kept[_key(scope, question, body)] = _Kept(verdict, min(seconds, LONGEST_SECONDS))
        return verdict


def _is_told(scope: object, question: Json) -> bool:
    """Whether a question has the fields that count for a scope."""
    return isinstance(scope, str) and scope in SCOPES and all(name in question for name in SCOPES[scope])


def _key(scope: str, question: Json, body: bytes) -> bytes:
    """What is remembered: the whole question, or the fields that count for a scope."""
    if scope == "same":
        return b"same" + sha256(body).digest()
    fields = [question.get(name) for name in SCOPES[scope]]
    return scope.encode() + sha256(orjson.dumps([question["hook"], *fields])).digest()


def _plain(text: str) -> str:
    """A reason on one line, without what could harm a log or a terminal."""
    return "".join(character if character.isprintable() else " " for character in text[:LONGEST_REASON]).strip()
