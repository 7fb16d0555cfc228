"""Requests that no honest program sends, made from the tables of routes (SEC-1).

Each is of a route that there is, mostly near to what it wants: known names in the path and the query, a body of its
model, and then something wrong with it: another type, a huge number, half a surrogate pair, a NUL, a key that stands
twice, a hundred levels of lists, an odd percent-encoding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st

from synapse_like.http.requests import Body
from synapse_like.http.routing import Route, Router
from synapse_like.models import Model, fields_of
from tests.fuzz.mutations import mutate

#: Values that go wrong in a reader who is not careful.
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53 - 1, 2**53, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308),
    *("", "\0", "a\0b", "\ud800", "\udfff\ud800", "é" * 300, "x" * 70_000, "\u202e", "..", "/", "%", "%00", "\r\nX: y"),
    *([], {}, [[]], [{}], {"": None}, {"\0": 1}, ["\ud800"], {"a": {"b": {"c": []}}}),
)
_SEGMENTS = (
    *(b"", b".", b"..", b"%", b"%2", b"%zz", b"%2F", b"%2e%2e%2f", b"%252F", b"%00", b"%ff", b"%c0%af", b"%ed%a0%80"),
    *(b"a" * 300, b"%20", b"+", b"%0d%0aX:y", b"\xc3\xa9", b"\xff", b"*", b"%25s", b"0", b"-1", b"9" * 60, b"{room}"),
)
_NUMBERS = (
    *("0", "1", "-1", "10", "1000", "1001", "9" * 20, "9" * 5000, "1e3", "0x10", "", " 1", "\u0661"),
    *(odd for odd in ODD if isinstance(odd, str) and len(odd) < 1000),
)
_QUERY_NAMES = (
    *("from", "to", "dir", "limit", "timeout", "access_token", "user_id", "field", "room_alias", "v", "ver"),
    "filename",
    *("event_id", "server_name", "width", "height", "method", "required_power_level", "medium", "address", "format"),
    *("minimum_valid_until_ts", "id_server", "session", "ticket", "state", "code", "\ud800", ""),
)
#: What some routes want in the query.
_WANTED: Mapping[str, tuple[str, ...]] = {
    "/backfill/": ("v", "limit"),
    "/query/{kind}": ("room_alias", "user_id"),
    "/state": ("event_id",),
    "/thumbnail/": ("width", "height"),
    "/lookup": ("medium", "address"),
    "/messages": ("from", "dir", "limit"),
    "/events": ("from", "timeout"),
}
_BODY_KEYS = (
    *("type", "user", "password", "session", "membership", "msgtype", "body", "displayname", "avatar_url", "redacts"),
    *("reason", "level", "users", "join_rule", "name", "topic", "presence", "email", "threePidCreds", "medium"),
    "state",
    *("origin", "pdus", "edus", "prev_ids", "edu_type", "content", "server_keys", "invites", "mxid", "signed"),
)
_BODIES = (
    *(b"", b"null", b"[]", b"{", b'"', b"\xff", b"[" * 200, b"[" * 100_000, b'{"a":' * 50_000, b"NaN", b"{}{}"),
    *(b'{"a":1e999}', b'{"a":-}', b"\xef\xbb\xbf{}", b'{"a":"\\ud800"}', b'{"n":' + b"9" * 100_000 + b"}"),
)
_CONTENTS = (
    {"msgtype": "m.text", "body": "hi"},
    {"topic": "x"},
    {"name": "x"},
    {"membership": "join", "displayname": "A"},
    {"level": 50},
)
_EDUS = ("m.typing", "m.presence", "m.presence_invite", "m.presence_accept", "m.presence_deny", "m.receipt", "\0")
_VCARD = b"BEGIN:VCARD\r\nVERSION:3.0\r\nN:a;b;c;d;e\r\nFN:A\r\nEMAIL:a@b.example\r\nTEL:+4930123456\r\nEND:VCARD\r\n"
_RAW = (b"x", b"\0" * 1000, _VCARD, _VCARD * 3, _VCARD.replace(b"N:", b"N;=:"), b"BEGIN:", b'{"contacts":[{}]}')
_AUTHORIZATIONS = (
    *("Bearer", "Bearer ", "Bearer \xff", "X-Matrix", "X-Matrix origin=peer.example,key=ed25519:lie,sig=x"),
    'X-Matrix origin="peer.example",key="ed25519:lie",sig="' + "A" * 86 + '"',
    'X-Matrix origin="10.0.0.1",key="ed25519:1",sig="' + "A" * 86 + '",destination="us.example"',
    *("X-Matrix " + ",".join(['origin="x"'] * 50), "Basic YTpi", "X-Matrix origin=\x00"),
)
_CONTENT_TYPES = ("application/x-www-form-urlencoded", "text/vcard", "\xff", "multipart/form-data", "a" * 500)
#: Paths whose body is an event that is named in them.
_STEP = re.compile(r"/(?:send_)?(join|leave|knock|invite)/\{room\}/\{event_id\}")


@dataclass(frozen=True)
class Known:
    """What there is on the server, for requests that are to get somewhere.

    :ivar values: likely values of parameters of paths and queries, by name.
    :ivar texts: likely texts for bodies, the first of them a name to log in by.
    :ivar pdus: makes PDUs of the other server, the first of them signed.
    :ivar step: makes what a path takes by which users come and go (`join`, `leave`, `knock`, `invite`): its parameters
        `room` and `event_id`, and its body.
    """

    values: Mapping[str, Sequence[str]]
    texts: Sequence[str]
    pdus: Callable[[Random], list[dict[str, Any]]]
    step: Callable[[Random, str], tuple[str, str, Any]]


@dataclass(frozen=True)
class Shot:
    """A request.

    :ivar signs: whether it is to be signed by the other server, rightly.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None
    signs: bool


def routes_of(router: Router[Any]) -> list[tuple[str, Route[Any]]]:
    """All routes of a site, each with its whole path."""

    def walk(node: Any) -> Iterator[tuple[str, Route[Any]]]:
        for target in node.targets.values():
            yield target.template, target.route
        for follower in node.fixed.values():
            yield from walk(follower)
        if node.parameter is not None:
            yield from walk(node.parameter)

    return sorted(walk(router._root), key=lambda found: (found[0], found[1].method))


def tries(router: Router[Any]) -> st.SearchStrategy[tuple[str, Route[Any], Random]]:
    """Routes of a site, each with dice to make a request of it.

    Not the requests themselves, since what these name is other users and rooms each time.
    """
    routes = routes_of(router)
    numbers = st.integers(0, len(routes) - 1)
    return st.builds(lambda number, seed: (*routes[number], Random(seed)), numbers, st.integers(0, 2**64 - 1))


class Maker:
    """Makes requests with dice."""

    def __init__(self, random: Random, known: Known, tokens: Sequence[str]) -> None:
        self._random = random
        self._known = known
        self._tokens = tokens

    def shot(self, template: str, route: Route[Any], *, signs: bool) -> Shot:
        """A request of a route."""
        named: dict[str, str] = {}
        step = _STEP.match(route.path)
        if step and self._maybe(0.8):
            named["room"], named["event_id"], value = self._known.step(self._random, step[1])
            if "v1/invite" in template:
                value = value["event"]
            body: bytes | None = self._text(self._mutated(value, 0.3))
        else:
            body = self._body(route)
        target = b"/".join(self._segment(part, named) for part in template.split("/")) + self._query(route)
        # A request line has no spaces, and no line ends.
        target = b"".join(b"%%%02X" % byte if byte <= 0x20 else bytes([byte]) for byte in target)
        method = route.method if self._maybe(0.97) else self._one_of(("GET", "PUT", "POST", "DELETE", "OPTIONS"))
        headers = self._headers(signs=signs)
        return Shot(method, target.decode("latin-1"), headers, body, signs and self._maybe(0.9))

    def _maybe(self, chance: float) -> bool:
        return self._random.random() < chance

    def _one_of(self, choices: Sequence[Any]) -> Any:
        return self._random.choice(choices)

    def _mutated(self, value: Any, chance: float) -> Any:
        while self._maybe(chance):
            value = mutate(value, self._random)
        return value

    # Heads.

    def _segment(self, part: str, named: Mapping[str, str]) -> bytes:
        if not part.startswith("{") or self._maybe(0.02):
            return part.encode()
        name = part[1:-1]
        known = [named[name]] if name in named else self._known.values.get(name, ())
        if not known or self._maybe(0.1):
            return bytes(self._one_of(_SEGMENTS))
        value = self._one_of(known)
        if self._maybe(0.1):
            value = self._bent(value)
        raw = _bytes(value)
        if self._maybe(0.2):
            return bytes(raw.replace(b"?", b"%3f").replace(b"/", b"%2f").replace(b"#", b"%23"))
        return _escaped(raw)

    def _bent(self, text: str) -> str:
        at = self._random.randint(0, len(text))
        return text[:at] + str(self._one_of(("\0", "\ud800", ":", "é", "", "%", " ", "\n"))) + text[at + 1 :]

    def _query(self, route: Route[Any]) -> bytes:
        names = self._random.sample(_QUERY_NAMES, self._one_of((0, 0, 0, 1, 2)))
        wanted = [names for path, names in _WANTED.items() if path in route.path]
        pairs = []
        for name in [*names, *(wanted[0] if wanted and self._maybe(0.8) else ())]:
            known = self._known.values.get(name)
            value = self._one_of(known) if known and self._maybe(0.8) else self._one_of(_NUMBERS)
            pairs.append(_escaped(_bytes(name)) + b"=" + _escaped(_bytes(value)))
        if self._maybe(0.05):
            pairs.append(self._one_of((b"&&&", b"=", b"%", b"access_token=%ff", b"from=%00", b"limit")))
        if pairs and self._maybe(0.1):
            pairs.append(pairs[0])
        return b"?" + b"&".join(pairs) if pairs else b""

    def _headers(self, *, signs: bool) -> dict[str, str]:
        headers = {}
        if not signs and self._maybe(0.92):
            headers["Authorization"] = f"Bearer {self._one_of(self._tokens)}"
        elif self._maybe(0.3):
            headers["Authorization"] = self._one_of(_AUTHORIZATIONS)
        for chance, name, values in (
            (0.1, "Content-Type", _CONTENT_TYPES),
            (0.05, "Range", ("bytes=0-", "bytes=-1", "bytes=9-1", "bytes=0-1,2-3", "x")),
            (0.05, "X-Forwarded-For", ("1.2.3.4", "::1%x", "," * 900, "\xff")),
            (0.03, "Cookie", ("a=b", "=;=;", "\xff", "x" * 3000)),
            (0.03, "If-None-Match", ('"x"', "*", "\xff")),
        ):
            if self._maybe(chance):
                headers[name] = self._one_of(values)
        return headers

    # Bodies.

    def _body(self, route: Route[Any]) -> bytes | None:
        if route.body is Body.NONE:
            return None if self._maybe(0.9) else self._text(self._any_object())
        if self._maybe(0.03):
            return None
        if self._maybe(0.04):
            return bytes(self._one_of(_BODIES))
        if route.body in (Body.RAW, Body.STREAM) and self._maybe(0.5):
            return bytes(self._one_of(_RAW))
        if route.body is Body.FORM or (route.forms and self._maybe(0.3)):
            return self._form()
        return self._text(self._mutated(self._good_body(route), 0.4))

    def _good_body(self, route: Route[Any]) -> Any:
        """What the route wants, more or less."""
        path = route.path
        if isinstance(route.body, type):
            return self._of_model(route.body)
        if path.startswith("/send/"):
            return self._transaction()
        if path.endswith("/send/{type}") or (path.startswith("/rooms") and self._maybe(0.5)):
            return dict(self._one_of(_CONTENTS))
        if path in ("/login", "/register") and self._maybe(0.8):
            return {"type": "m.login.password", "user": self._known.texts[0], "password": "correct horse"}
        if "/profile/" in path and self._maybe(0.8):
            return {"displayname": "A", "avatar_url": "mxc://a/b"}
        return self._any_object()

    def _transaction(self) -> Any:
        edus = [{"edu_type": self._one_of(_EDUS), "content": self._edu()} for _ in range(self._one_of((0, 0, 1, 3)))]
        first, *rest = self._known.pdus(self._random)
        pdus = [first, *(mutate(pdu, self._random) for pdu in rest)]
        return {"origin": "peer.example", "origin_server_ts": 1, "prev_ids": [], "pdus": pdus, "edus": edus}

    def _edu(self) -> Any:
        user, other, room = (self._one_of(self._known.values[name]) for name in ("user", "user", "room"))
        if self._maybe(0.2):
            return self._any_object()
        content = {"room_id": room, "user_id": user, "typing": True, "observer_user": user, "observed_user": other}
        content["push"] = [{"user_id": user, "presence": "online", "last_active_ago": 1, "status_msg": "x"}]
        return self._mutated(content, 0.5)

    def _any_object(self) -> dict[str, Any]:
        return {self._one_of(_BODY_KEYS): self._value() for _ in range(self._one_of((0, 1, 2, 4)))}

    def _value(self, depth: int = 0) -> Any:
        if self._maybe(0.5):
            return self._one_of(self._known.texts)
        if depth < 3 and self._maybe(0.3):
            inner = self._value(depth + 1)
            return self._one_of(([inner], {self._one_of(_BODY_KEYS): inner}))
        return self._one_of(ODD)

    def _of_model(self, model: type[Model]) -> dict[str, Any]:
        """Something that the model takes, as far as types go."""
        made = {}
        for field in fields_of(model):
            if field.required or self._maybe(0.6):
                key = self._one_of([field.name, *(other for other, name in model.others.items() if name == field.name)])
                made[key] = self._of_type(field.type) if self._maybe(0.9) else self._value()
        return made

    def _of_type(self, kind: Any) -> Any:
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Annotated:
            return self._of_type(arguments[0])
        if origin in (Union, UnionType):
            return self._of_type(self._one_of(arguments))
        if origin is Literal:
            return self._one_of(arguments)
        if origin in (list, tuple, set, frozenset):
            return [self._of_type(arguments[0]) for _ in range(self._one_of((0, 1, 2)))]
        if origin is dict:
            return {str(self._of_type(arguments[0])): self._of_type(arguments[1]) for _ in range(2)}
        if isinstance(kind, type) and issubclass(kind, Model):
            return self._of_model(kind)
        if kind is str:
            return self._one_of(self._known.texts)
        if kind is bool:
            return self._maybe(0.5)
        if kind is int:
            return self._one_of((0, 1, 2**53 - 1))
        return None if kind is NoneType else self._value()

    def _text(self, value: Any) -> bytes:
        """JSON, and sometimes not quite."""
        text = json.dumps(value).encode()
        if self._maybe(0.05) and text.startswith(b"{") and len(text) > 2:
            # Every key twice.
            return text[:-1] + b"," + text[1:]
        if self._maybe(0.03):
            return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
        if self._maybe(0.03):
            depth = self._one_of((90, 101, 5000))
            return b'{"deep":' + b"[" * depth + b"]" * depth + b"}"
        if self._maybe(0.02):
            return text[: self._random.randint(0, len(text))]
        return text

    def _form(self) -> bytes:
        names = (b"user", b"password", b"session", b"stage", b"code", b"ticket", b"secret", b"flow", b"again")
        values = (b"", b"alice", b"correct+horse", b"%ff", b"%00", b"%", b"x" * 5000, b"0")
        return b"&".join(self._one_of(names) + b"=" + self._one_of(values) for _ in range(self._one_of((0, 1, 3))))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _escaped(raw: bytes) -> bytes:
    return b"".join(b"%%%02x" % byte for byte in raw)
