"""Routes are data: which endpoint answers which method and path, who may ask, how often, and with what body.

A dialect is a table of `Route`s, mounted under a prefix. All mounts are compiled once into one tree with a level per
path segment. A path is matched in its raw form: split at every "/", then each segment percent-decoded once, by itself,
so that "%2F" inside an ID is data (API-6). A fixed segment wins over a parameter; where the fixed one leads nowhere,
the parameter is tried. An empty last segment counts: "/state/m.x/" has an empty state key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import Enum
from typing import Generic, NamedTuple, TypeVar
from urllib.parse import unquote_to_bytes

import orjson
from msgspec import Struct

from synapse_like.http.requests import Body, Call
from synapse_like.models import Model
from synapse_like.protocol.errors import BadJson

R = TypeVar("R")

Endpoint = Callable[[Call[R]], Awaitable[object]]


class Auth(Enum):
    """Whether a route wants to know who asks (API-2)."""

    NONE = "none"
    """Anyone may ask; a token is not looked at."""

    USER = "user"
    """A valid token is required."""

    OPTIONAL = "optional"
    """Anyone may ask, but a token, if there is one, must be valid."""


class Route(Struct, Generic[R], frozen=True):
    """One endpoint and what has to hold before it is called.

    :ivar method: the HTTP method, in capitals.
    :ivar path: below the mount's prefix; `{name}` stands for one segment: "/rooms/{room}/send/{type}".
    :ivar endpoint: `async def endpoint(call) -> object`; what it may return is told in `responses`.
    :ivar auth: whether a token is needed.
    :ivar rate: the class of rate limit that counts here, or None for no limit.
    :ivar body: what is wanted of the body: a model, or one of `Body`.
    :ivar idempotent: whether `call.retransmit_key` is given, by which an answer is kept and given again (API-4).
    :ivar cancellable: whether the endpoint is cancelled when its client goes away. For those that only wait, such
        as long polls; all others run to their end.
    :ivar max_body: the largest body in bytes; None for what is usual at the site.
    :ivar receive_seconds: how long the client may take to send the request; None for what is usual.
    :ivar forms: whether the body may also be what a form of a web page sends.
    """

    method: str
    path: str
    endpoint: Endpoint[R]
    auth: Auth = Auth.USER
    rate: str | None = None
    body: Body | type[Model] = Body.NONE
    idempotent: bool = False
    cancellable: bool = False
    max_body: int | None = None
    receive_seconds: float | None = None
    forms: bool = False


class Mount(Struct, Generic[R], frozen=True):
    """A table of routes under a prefix such as "/_matrix/client/api/v1".

    :ivar cors: whether pages of other origins may read the answers (API-1).
    """

    prefix: str
    routes: Sequence[Route[R]]
    cors: bool = False


class Match(NamedTuple, Generic[R]):
    """The route that a request means.

    :ivar template: the whole path as the tables have it, with the names of its parameters.
    :ivar params: the parameters' values by name, in the order of the path.
    """

    route: Route[R]
    template: str
    cors: bool
    params: dict[str, str]

    def key(self) -> str:
        """What two requests have in common if one is a repetition of the other."""
        return orjson.dumps([self.route.method, self.template, *self.params.values()]).decode()


class _Target(NamedTuple, Generic[R]):
    """What stands at the end of a path for one method."""

    route: Route[R]
    template: str
    cors: bool
    names: tuple[str, ...]


class _Node(Generic[R]):
    """One level of the tree: what may follow, and what may be done where a path ends here."""

    __slots__ = ("fixed", "parameter", "targets")

    def __init__(self) -> None:
        self.fixed: dict[str, _Node[R]] = {}
        self.parameter: _Node[R] | None = None
        self.targets: dict[str, _Target[R]] = {}


class Router(Generic[R]):
    """All mounts of a site, compiled.

    :ivar has_cors: whether pages of other origins may read anything here at all.
    :raises ValueError: two routes have the same method and shape of path, or a path is malformed.
    """

    def __init__(self, mounts: Iterable[Mount[R]]) -> None:
        self._root: _Node[R] = _Node()
        self.has_cors = False
        for mount in mounts:
            self.has_cors = self.has_cors or mount.cors
            for route in mount.routes:
                self._add(mount.prefix + route.path, route, mount.cors)

    def _add(self, template: str, route: Route[R], cors: bool) -> None:
        if not template.startswith("/"):
            raise ValueError(f"the path {template!r} does not begin with a slash")
        node = self._root
        names = []
        for segment in template.split("/")[1:]:
            if segment.startswith("{") and segment.endswith("}"):
                names.append(segment[1:-1])
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.fixed.setdefault(segment, _Node())
        if not all(name.isidentifier() for name in names) or len(set(names)) != len(names):
            raise ValueError(f"the parameters of {template} need names, each its own")
        if route.method in node.targets:
            raise ValueError(f"two routes for {route.method} {template}")
        node.targets[route.method] = _Target(route, template, cors, tuple(names))

    def match(self, method: str, segments: Sequence[str]) -> Match[R] | None:
        """Find the route for a method and a path that `split_path` has taken apart."""
        values: list[str] = []
        target = _find(self._root, method, segments, values)
        if target is None:
            return None
        params = dict(zip(target.names, values, strict=True))
        return Match(target.route, target.template, target.cors, params)

    def methods(self, segments: Sequence[str]) -> list[str]:
        """Name the methods that a path has, sorted; none means that the path is unknown."""
        nodes = [self._root]
        for segment in segments:
            nodes = [follower for node in nodes for follower in (node.fixed.get(segment), node.parameter) if follower]
        return sorted({method for node in nodes for method in node.targets})


def _find(root: _Node[R], method: str, segments: Sequence[str], values: list[str]) -> _Target[R] | None:
    """Walk down the tree, collecting the parameters' values; at a dead end, go back to the last parameter not tried."""
    index, node = 0, root
    untried: list[tuple[int, _Node[R], int]] = []
    while True:
        if index < len(segments):
            segment, parameter = segments[index], node.parameter
            follower = node.fixed.get(segment)
            index += 1
            if follower is not None:
                if parameter is not None:
                    untried.append((index, parameter, len(values)))
                node = follower
                continue
            if parameter is not None:
                values.append(segment)
                node = parameter
                continue
        elif (target := node.targets.get(method)) is not None:
            return target
        if not untried:
            return None
        index, node, kept = untried.pop()
        values[kept:] = [segments[index - 1]]


def split_path(path: bytes) -> list[str]:
    """Take the raw path of a request apart into decoded segments (API-6).

    A "%" that no two hexadecimal digits follow stands for itself.

    :raises BadJson: a segment is not UTF-8.
    """
    try:
        segments = path.decode("utf-8").split("/")[1:]
        if b"%" not in path:
            return segments
        return [unquote_to_bytes(segment).decode("utf-8") if "%" in segment else segment for segment in segments]
    except UnicodeDecodeError:
        raise BadJson("The path is not valid UTF-8 once its percent-encoding is undone.") from None
