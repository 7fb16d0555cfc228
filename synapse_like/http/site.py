"""The site: what listens on a port, and what every request goes through.

The headers are there: the route is found, and with it how large a body may be. The whole request is there: who asks
(`authenticator`), how often (`limiter`), with what body (`requests`); then the endpoint is called. Where a route wants
its body as a stream, all this happens when the headers are there, before a byte of the body is read. What an endpoint
returns or raises becomes an answer here and nowhere else, with one line in the log, which names the route and never
the path.
How one tells who asks is handed in: clients show a token (`client/authentication.py`), servers sign
(`federation/authentication.py`).

The site is a Twisted factory for its own connections (`channel`), not a `twisted.web` resource behind a
`twisted.web.server.Site`: that one parses queries, forms and cookies, asks the socket for its addresses and formats a
line of access log for every request, before anything of ours has run, and `http.Request.finish` cannot wait for its
turn. `bench/http_floor.py` measures both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from email.utils import formatdate
from itertools import count
from typing import Generic, TypeVar

from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import ServerFactory

from synapse_like.byte_streams import ByteStream
from synapse_like.clock import Clock
from synapse_like.http.authentication import Asking, Authenticator
from synapse_like.http.budget import Budget
from synapse_like.http.channel import NO_HEADERS, Exchange, PipelinedChannel, too_large
from synapse_like.http.limits import Limiter
from synapse_like.http.proxies import TrustedProxies, counted_as
from synapse_like.http.requests import Body, Call, Query, as_object, decode_form, decode_json, is_form, weight
from synapse_like.http.responses import NOTHING_MORE, FileBody, Response, refusal, render
from synapse_like.http.routing import Auth, Match, Mount, Router, split_path
from synapse_like.logs import bind, get_logger
from synapse_like.models import Model
from synapse_like.protocol.errors import LimitExceeded, MatrixError, MethodNotAllowed, Unavailable, Unrecognized

R = TypeVar("R")

_log = get_logger(__name__)

#: Seconds between two looks at how long the clients have been taking.
_ROUND_SECONDS = 5

#: Bytes of answers together that all clients of a site may leave unread, where nobody says so.
USUAL_BUDGET = 256 * 1024 * 1024
#: Bytes of an answer that is given in any case: less than what there would be to say instead is worth.
_SMALL = 64 * 1024


class ClientGone(MatrixError):
    """Nobody is there any more to send the rest of a body, nor to read the answer."""

    def __init__(self) -> None:
        super().__init__(400, "M_UNKNOWN", "The request broke off.")


#: Who is told of each answer: the method, the path as the tables have it ("none" if they have none), the status, and
#: how long it took, in seconds.
Answered = Callable[[str, str, int, float], object]

_INTERNAL = MatrixError(500, "M_UNKNOWN", "Internal server error")


class Bounds(Struct, frozen=True):
    """How much a site takes.

    :ivar max_body: bytes that a body may have where its route does not say.
    :ivar max_json_depth: how deeply a body may nest.
    :ivar max_pipelined: how many requests of one connection are worked on at the same time.
    :ivar max_connections: how many connections there may be.
    :ivar max_connections_per_address: the same from one address, proxies that are trusted aside.
    """

    max_body: int = 1024 * 1024
    max_json_depth: int = 100
    max_pipelined: int = 8
    max_connections: int = 10_000
    max_connections_per_address: int = 2000


def make_site(
    mounts: Iterable[Mount[R]],
    *,
    authenticator: Authenticator[R],
    limiter: Limiter,
    clock: Clock,
    bounds: Bounds | None = None,
    budget: Budget | None = None,
    trusted_proxies: Iterable[str] = (),
    answered: Answered | None = None,
) -> Site[R]:
    """Make a site of tables of routes.

    :param authenticator: tells who asks.
    :param bounds: how much it takes.
    :param budget: bounds what requests and answers hold in memory; several sites may have one together.
    :param trusted_proxies: addresses and networks whose X-Forwarded-For is believed.
    :param answered: is told of each answer.
    :raises ValueError: a route or a proxy is malformed.
    """
    return Site(
        Router(mounts),
        authenticator,
        limiter,
        clock,
        bounds or Bounds(),
        budget or Budget(USUAL_BUDGET),
        TrustedProxies(trusted_proxies),
        answered,
    )


class Site(ServerFactory[PipelinedChannel], Generic[R]):
    """What listens on a port. See `make_site`.

    :ivar connections: all that are open.
    :ivar in_flight: how many requests are being worked on, or answered and not yet sent.
    :ivar is_draining: whether connections are closed with the next answer.
    """

    noisy = False

    def __init__(
        self,
        router: Router[R],
        authenticator: Authenticator[R],
        limiter: Limiter,
        clock: Clock,
        bounds: Bounds,
        budget: Budget,
        trusted_proxies: TrustedProxies,
        answered: Answered | None,
    ) -> None:
        self.router = router
        self.authenticator = authenticator
        self.limiter = limiter
        self.clock = clock
        self.bounds = bounds
        self.budget = budget
        self.trusted_proxies = trusted_proxies
        self.answered = answered
        self.in_flight = 0
        self.is_draining = False
        self.numbers = count(1)
        self.connections: set[PipelinedChannel] = set()
        self._by_address: Counter[str] = Counter()
        self._second, self._date = 0, b""
        self._next_round: IDelayedCall | None = None
        self._drained: Deferred[None] | None = None

    @property
    def max_pipelined(self) -> int:
        """How many requests of one connection are worked on at the same time."""
        return self.bounds.max_pipelined

    def buildProtocol(self, addr: IAddress | None) -> PipelinedChannel:  # noqa: N802 - Twisted's name
        return PipelinedChannel(self)

    def new_exchange(self, channel: PipelinedChannel) -> Exchange:
        return _Visit(self, channel)

    def date(self) -> bytes:
        """Give the header that tells the time, which HTTP wants in every answer."""
        second = self.clock.now_ms() // 1000
        if second != self._second:
            self._second, self._date = second, b"Date: %b\r\n" % formatdate(second, usegmt=True).encode()
        return self._date

    def connected(self, channel: PipelinedChannel) -> bool:
        self.connections.add(channel)
        address = counted_as(channel.peer)
        self._by_address[address] += 1
        if self._next_round is None:
            self._next_round = self.clock.call_later(_ROUND_SECONDS, self._go_round)
        if len(self.connections) > self.bounds.max_connections:
            return False
        return (
            self._by_address[address] <= self.bounds.max_connections_per_address or channel.peer in self.trusted_proxies
        )

    def disconnected(self, channel: PipelinedChannel) -> None:
        self.connections.discard(channel)
        address = counted_as(channel.peer)
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]
        if not self.connections and self._next_round is not None:
            self._next_round.cancel()
            self._next_round = None
        self.look_whether_drained()

    def _go_round(self) -> None:
        self._next_round = self.clock.call_later(_ROUND_SECONDS, self._go_round)
        for channel in list(self.connections):
            channel.look_at_the_clock()

    async def drain(self, seconds: float) -> None:
        """Let what is in flight come to its end, close every connection behind its last answer, and return then.

        For after the port is closed. Connections nothing is happening on are closed at once.

        :param seconds: how long to wait; whoever is not done by then is cut off.
        """
        self.is_draining = True
        self._drained = Deferred()
        cut_off = self.clock.call_later(seconds, self._cut_off)
        for channel in list(self.connections):
            if not channel.requests and not channel.is_ending:
                channel.end()
        self.look_whether_drained()
        await self._drained
        if cut_off.active():
            cut_off.cancel()

    def _cut_off(self) -> None:
        _log.warning("not everything came to its end in time", requests=self.in_flight)
        for channel in list(self.connections):
            channel.abort()
        if self._drained is not None and not self._drained.called:
            self._drained.callback(None)

    def look_whether_drained(self) -> None:
        """Have `drain` return if nothing is in flight and nobody connected."""
        if self._drained is not None and not self._drained.called and not self.in_flight and not self.connections:
            self._drained.callback(None)


class _Visit(Exchange, Generic[R]):
    """One request on its way through the site."""

    def __init__(self, site: Site[R], channel: PipelinedChannel) -> None:
        super().__init__(channel)
        self._site = site
        self._number = next(site.numbers)
        self._found: Match[R] | Response = NOTHING_MORE
        self._query = b""
        self._chunks: list[bytes] = []
        self._stream: ByteStream | None = None
        self._file: FileBody | None = None
        self._value: object = None
        self._user: str | None = None
        self._address = ""
        self._held = self._answer_held = 0
        self._started = 0.0
        self._running: Deferred[None] | None = None
        self._has_begun = False
        self._is_over = False
        self._is_settled = False

    # While the request is being received

    def begin(self) -> None:
        path, _, self._query = self.target.partition(b"?")
        if not path.startswith(b"/"):
            # The whole URL, as one writes to a proxy.
            path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
        self._found = self._find(self.method.decode("ascii"), path)
        self._address = self._client_address()
        self.max_body = self._site.bounds.max_body
        if isinstance(self._found, Match):
            route = self._found.route
            if route.max_body is not None:
                self.max_body = route.max_body
            self.is_streamed = route.body is Body.STREAM
            if route.receive_seconds is not None:
                self.receive_seconds = route.receive_seconds

    def _find(self, method: str, path: bytes) -> Match[R] | Response:
        """Find the route, or what to say where there is none: to a browser that it may ask, to others that they err."""
        router = self._site.router
        if method == "OPTIONS" and router.has_cors:
            return NOTHING_MORE
        try:
            segments = split_path(path)
        except MatrixError as error:
            return refusal(error)
        match = router.match(method, segments)
        if match is not None:
            return match
        methods = router.methods(segments)
        if not methods:
            return refusal(Unrecognized("This server has nothing at this path."))
        return refusal(MethodNotAllowed(f"There is no {method} at this path."), {"Allow": ", ".join(methods)})

    def keep(self, data: bytes) -> None:
        if self._stream is not None:
            self._stream.push(data)
        elif isinstance(self._found, Match) and (
            self._found.route.body is not Body.NONE or self._site.authenticator.reads_body
        ):
            try:
                self._hold(len(data))
            except Unavailable as error:
                self._chunks.clear()
                self.channel.refuse(error)
                return
            self._chunks.append(data)

    def _hold(self, size: int) -> None:
        """Have some more bytes of memory for this request, until it is answered.

        :raises Unavailable: there are none left.
        """
        budget = self._site.budget
        budget.check(self._address, size, own=self._held)
        budget.hold(self._address, size)
        self._held += size

    def stream(self, length: int | None) -> None:
        self._stream = ByteStream(
            self.channel.pause, self.channel.go_on, length=length, begin=lambda: self.channel.want_body(self)
        )
        self._work()

    def fail(self, error: MatrixError) -> None:
        if self._stream is not None:
            # It is being worked on; who reads it lets the error come out.
            self._stream.fail(error)
            return
        self._begin_work()
        with bind(request=self._number):
            self._respond(refusal(error))
        self._end_work()

    # When it is there

    def serve(self) -> None:
        if self._stream is not None:
            self._stream.end()
        else:
            self._work()

    def _work(self) -> None:
        self._begin_work()
        self._running = Deferred.fromCoroutine(self._run())

    async def _run(self) -> None:
        try:
            with bind(request=self._number):
                try:
                    self._respond(await self._result())
                except MatrixError as error:
                    self._respond(refusal(error), errcode=error.errcode, reason=error.reason)
                except Exception as error:
                    # Who is gone is not answered; that a poll was called off for it is no news.
                    if not (self.is_lost and isinstance(error, CancelledError)):
                        _log.exception("the endpoint failed", route=self._route)
                        self._respond(refusal(_INTERNAL))
        finally:
            self._end_work()

    async def _result(self) -> object:
        """Go through everything that has to hold before the endpoint is called, then call it."""
        if isinstance(self._found, Response):
            return self._found
        site, route = self._site, self._found.route
        if self.is_too_large:
            raise too_large(self.max_body)
        query = Query(self._query)
        address = self._address
        site.budget.check(address, own=self._held)
        requester = None if route.auth is Auth.NONE else await self._authenticate(query, address, route.auth)
        if route.rate is not None:
            site.limiter.check(route.rate, self._user or address)
        call = Call(
            params=self._found.params,
            query=query,
            body=self._body(route.body),
            requester=requester,
            client_address=address,
            headers=self.headers,
            retransmit_key=self._found.key() if route.idempotent else None,
            is_closed=lambda: self.is_lost,
        )
        answer = route.endpoint(call)
        # From now on these are the endpoint's. One that waits for long lets go of them, and there may be thousands.
        del call, query
        self.headers = self.requestHeaders = NO_HEADERS
        try:
            if self._user is None:
                return await answer
            with bind(user=self._user):
                return await answer
        except LimitExceeded as error:
            if route.rate is not None:
                # Who waits for the other limit has to get past this one, too.
                error.wait_at_least(site.limiter.interval_ms(route.rate))
            raise

    async def _authenticate(self, query: Query, address: str, auth: Auth) -> R | None:
        authenticator = self._site.authenticator
        asking = Asking(self.method, self.target, self.headers, query, address, self._json)
        requester = await authenticator.authenticate(asking, is_optional=auth is Auth.OPTIONAL)
        if requester is not None:
            self._user = authenticator.name_of(requester)
        return requester

    def _client_address(self) -> str:
        """Whence the request comes, as it is counted."""
        forwarded_for = self.headers.get(b"X-Forwarded-For")
        if forwarded_for is None:
            return counted_as(self.channel.peer)
        proxies = self._site.trusted_proxies
        return counted_as(proxies.client_address(self.channel.peer, forwarded_for.decode("latin-1")))

    def _body(self, kind: Body | type[Model]) -> object:
        if kind is Body.NONE:
            return None
        if self._stream is not None:
            return self._stream
        if kind in (Body.RAW, Body.FORM):
            content = b"".join(self._chunks)
            self._chunks.clear()
            return content if kind is Body.RAW else decode_form(content)
        return as_object(self._json(), kind if isinstance(kind, type) else None)

    def _json(self) -> object:
        """The JSON of the body, read once; None if there is no body."""
        if self._chunks:
            content = b"".join(self._chunks)
            self._chunks.clear()
            if self._is_form() and not content.lstrip().startswith(b"{"):
                self._value = decode_form(content)
            else:
                self._hold(weight(content))
                self._value = decode_json(content, self._site.bounds.max_json_depth)
        return self._value

    def _is_form(self) -> bool:
        """Whether the body may be a form, and says that it is. (There are programs that say so of JSON, too.)"""
        may_be = isinstance(self._found, Match) and self._found.route.forms
        return may_be and is_form(self._header(b"Content-Type"))

    # When it is answered

    @property
    def _route(self) -> str:
        """The path as the tables have it, for the log: a path itself may hold what is nobody's business."""
        return self._found.template if isinstance(self._found, Match) else "none"

    def _respond(self, result: object, **causes: str | None) -> None:
        """Send an answer, and tell the log.

        :param causes: for the log, why it is not what was asked for.
        """
        site = self._site
        if isinstance(result, Response) and not isinstance(result.body, bytes):
            self._file = result.body
        cors = self._found.cors if isinstance(self._found, Match) else site.router.has_cors
        status, head, body = render(result, cors=cors)
        if isinstance(body, bytes) and len(body) > _SMALL and self.method == b"GET":
            try:
                site.budget.check(self._address, len(body), own=self._held)
            except Unavailable as error:
                causes = {"errcode": error.errcode, "reason": error.reason}
                status, head, body = render(refusal(error), cors=cors)
        if isinstance(body, bytes) and not self.is_lost:
            site.budget.hold(self._address, len(body))
            self._answer_held = len(body)
        method, seconds = self.method.decode("ascii"), site.clock.monotonic() - self._started
        if site.answered is not None:
            site.answered(method, self._route, status, seconds)
        _log.info(
            "answered",
            method=method,
            route=self._route,
            status=status,
            ms=round(seconds * 1000),
            bytes=len(body) if isinstance(body, bytes) else body.length,
            user=self._user,
            **{name: cause for name, cause in causes.items() if cause is not None},
        )
        # To HEAD it is told how long the body would be; there is none, whatever is answered.
        self.give(head + site.date(), b"" if self.method == b"HEAD" else body)

    def _header(self, name: bytes) -> str | None:
        given = self.headers.get(name)
        return None if given is None else given.decode("latin-1")

    def _begin_work(self) -> None:
        self._has_begun = True
        self._started = self._site.clock.monotonic()
        self._site.in_flight += 1

    def _end_work(self) -> None:
        self._is_over = True
        self._let_go()

    def settled(self) -> None:
        if self.is_lost and self._stream is not None:
            self._stream.fail(ClientGone())
        self._is_settled = True
        self._let_go()
        running = self._running
        if self.is_lost and running is not None and isinstance(self._found, Match) and self._found.route.cancellable:
            running.cancel()

    def _let_go(self) -> None:
        """Free everything, once the endpoint has ended and the answer is on its way, in whatever order."""
        if not self._is_settled or (self._has_begun and not self._is_over):
            return
        if self._file is not None:
            self._file.close()
        if self._held:
            self._site.budget.release(self._address, self._held)
            self._held = 0
        if self._is_over:
            self._site.in_flight -= 1
            self._site.look_whether_drained()

    def taken(self) -> None:
        if self._answer_held:
            self._site.budget.release(self._address, self._answer_held)
            self._answer_held = 0
