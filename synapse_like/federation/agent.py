"""Requests to other servers, with bounds on everything that another server decides (FED-1, SEC-1).

Each destination has a few connections at the most, kept open between requests; how a new one comes about is in
`connecting.py`. There is a time-out for the connection with its handshake, one for the head of the answer, one for the
whole of it, and a limit for its size. Redirects are not followed. What goes wrong is a `ServerUnreachable`. What is too
large for memory comes as a stream (`Agent.download`), read as fast as its reader takes it.

Every request is one that may be made twice without harm. So if a connection that was kept open turns out to have been
closed meanwhile, the request is made once more on a new one.
"""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol, TypeVar

from msgspec import Struct
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.defer import TimeoutError as DeferredTimeoutError

from synapse_like.byte_streams import ByteStream
from synapse_like.federation.answers import Headers, PassedOn, Taker, Whole
from synapse_like.federation.connecting import Connection, GuardedReactor, ServerEndpoint
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.federation.reasons import NotAnAnswer, Unanswered, timed_out, why
from synapse_like.federation.resolver import ServerResolver
from synapse_like.federation.tls import ClientTls

Outcome = TypeVar("Outcome")

#: Connections to one destination at the same time.
MOST_CONNECTIONS = 6
#: Requests to one destination that wait for one.
MOST_WAITING = 1000
#: Destinations whose connections are kept open.
MOST_DESTINATIONS = 1000
#: How long a connection is kept open without use, in seconds: less than servers wait, ours for one.
KEPT_SECONDS = 50
#: How long the other side may take to agree that a connection is over, in seconds.
CLOSING_SECONDS = 2


class Timeouts(Struct, frozen=True):
    """How long another server may take, in seconds.

    :ivar connect: until TCP and TLS are there, for each place that is tried.
    :ivar answer: until the head of the answer is there, connecting included.
    :ivar body: from then until the whole answer is.
    """

    connect: float = 10
    answer: float = 60
    body: float = 120


class Answer(Struct, frozen=True):
    """What another server answered.

    :ivar date: when, by its clock, in the way of HTTP; None if it did not say, or was not asked by its URL.
    """

    status: int
    body: bytes
    date: str | None = None


class Download(Struct, frozen=True):
    """What another server is answering.

    :ivar body: reading it raises ServerUnreachable if it breaks off or takes too long, AnswerTooLarge if it is that.
    """

    status: int
    headers: Headers
    body: ByteStream

    def header(self, name: str) -> str | None:
        """A header of it, or None."""
        value = self.headers.get(name.lower().encode())
        return None if value is None else value.decode("utf-8", "replace")


class Agent:
    """Asks other servers.

    :param reactor: Twisted's reactor.
    :param enabled: False lets nothing out: every server is unreachable.
    :param allow_private_addresses: whether addresses that are not on the internet may be reached.
    :param user_agent: what we call ourselves.
    """

    def __init__(
        self,
        reactor: Any,
        resolver: ServerResolver,
        tls: ClientTls,
        *,
        enabled: bool = True,
        allow_private_addresses: bool = False,
        timeouts: Timeouts | None = None,
        user_agent: str = "synapse_like",
    ) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._tls = tls
        self._enabled = enabled
        self._guarded: Any = reactor if allow_private_addresses else GuardedReactor(reactor)
        self._timeouts = timeouts or Timeouts()
        self._user_agent = user_agent
        self._destinations: OrderedDict[str, _Destination] = OrderedDict()

    async def request(
        self,
        method: str,
        destination: str,
        uri: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        most_bytes: int,
        timeouts: Timeouts | None = None,
    ) -> Answer:
        """Ask a server and read the whole answer, whatever its status.

        :param destination: the server's name, well-formed.
        :param uri: path and query, percent-encoded.
        :param body: JSON.
        :param most_bytes: how large the answer's body may be.
        :raises ServerUnreachable: there was no answer.
        """
        try:
            asked = self._asked(method, destination, uri, headers, body, most_bytes, timeouts)
            return await self._destination(destination).ask(asked)
        except Exception as error:
            raise self._unreachable(destination, error) from error

    @asynccontextmanager
    async def download(
        self,
        destination: str,
        uri: str,
        *,
        headers: Mapping[str, str] | None = None,
        most_bytes: int,
        timeouts: Timeouts | None = None,
    ) -> AsyncIterator[Download]:
        """Ask a server for something large, which is read within the context.

        :param most_bytes: how large the answer's body may be.
        :raises ServerUnreachable: there was no answer.
        """
        try:
            asked = self._asked("GET", destination, uri, headers, None, most_bytes, timeouts)
            asking = self._destination(destination)
            download, close = await asking.begin(asked)
        except Exception as error:
            raise self._unreachable(destination, error) from error
        try:
            yield download
        finally:
            close()

    def _asked(
        self,
        method: str,
        destination: str,
        uri: str,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        most_bytes: int,
        timeouts: Timeouts | None,
    ) -> _Asked:
        if not self._enabled:
            raise ServerUnreachable(destination, "federation is switched off")
        given = {"Host": destination, "User-Agent": self._user_agent, **(headers or {})}
        return _Asked(destination, _request(method, uri, given, body), most_bytes, timeouts or self._timeouts)

    def _unreachable(self, destination: str, error: Exception) -> Exception:
        """An error as who asked is to see it: faults of our own stay what they are."""
        reason = why(error)
        return error if reason is None else ServerUnreachable(destination, reason)

    def switch_off(self) -> None:
        """Ask nobody any more."""
        self._enabled = False

    async def close(self) -> None:
        """Close the connections that are kept open."""
        while self._destinations:
            _, destination = self._destinations.popitem()
            await destination.close()

    def _destination(self, name: str) -> _Destination:
        known = self._destinations.get(name)
        if known is None:
            endpoint = ServerEndpoint(name, self._guarded, self._resolver, self._tls, self._timeouts.connect)
            known = self._destinations[name] = _Destination(self._reactor, endpoint)
            self._forget_some()
        self._destinations.move_to_end(name)
        return known

    def _forget_some(self) -> None:
        """Close the connections to whom nothing was asked for longest, if there are too many."""
        if len(self._destinations) <= MOST_DESTINATIONS:
            return
        for name, destination in self._destinations.items():
            if not destination.is_busy and name != next(reversed(self._destinations)):
                del self._destinations[name]
                Deferred.fromCoroutine(destination.close())
                return


class _Asked(Struct, frozen=True):
    destination: str
    request: bytes
    most_bytes: int
    timeouts: Timeouts


class _Waited(Taker, Protocol[Outcome]):
    """A taker that is waited for."""

    @property
    def outcome(self) -> Deferred[Outcome]: ...


class _Destination:
    """The connections to one server, and who waits for one."""

    def __init__(self, reactor: Any, endpoint: ServerEndpoint) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._kept: list[Connection] = []
        self._free = DeferredSemaphore(MOST_CONNECTIONS)
        self._requests = 0

    @property
    def is_busy(self) -> bool:
        return self._requests > 0

    async def ask(self, asked: _Asked) -> Answer:
        await self._wait_for_turn(asked)
        try:
            (status, body), connection = await self._ask_or_ask_again(
                asked, lambda connection: Whole(connection, asked.most_bytes)
            )
            self._keep(connection)
            return Answer(status, body)
        finally:
            self._leave()

    async def begin(self, asked: _Asked) -> tuple[Download, Callable[[], None]]:
        """Ask; what is coming, and what is to be called when nobody reads it any more."""
        await self._wait_for_turn(asked)
        takers: list[PassedOn] = []

        def passed_on(connection: Connection) -> PassedOn:
            takers.append(PassedOn(connection, asked.destination, asked.most_bytes))
            return takers[-1]

        try:
            (status, headers, body), connection = await self._ask_or_ask_again(asked, passed_on)
        except BaseException:
            self._leave()
            raise

        def close() -> None:
            takers[-1].leave()
            self._keep(connection)
            self._leave()

        return Download(status, headers, body), close

    async def _wait_for_turn(self, asked: _Asked) -> None:
        """Wait until a connection is free; it counts as taken until `_leave`, unless this raises."""
        if self._requests >= MOST_CONNECTIONS + MOST_WAITING:
            raise NotAnAnswer("too many requests wait for it")
        self._requests += 1
        turn = self._free.acquire()
        if turn.called:
            return
        try:
            await turn.addTimeout(asked.timeouts.answer, self._reactor, timed_out)
        except BaseException:
            self._requests -= 1
            raise

    def _leave(self) -> None:
        self._free.release()
        self._requests -= 1

    async def _ask_or_ask_again(
        self, asked: _Asked, make: Callable[[Connection], _Waited[Outcome]]
    ) -> tuple[Outcome, Connection]:
        try:
            return await self._ask(asked, make)
        except Unanswered:
            # The others that were kept may have been closed as well.
            self._close_kept()
        return await self._ask(asked, make)

    async def _ask(self, asked: _Asked, make: Callable[[Connection], _Waited[Outcome]]) -> tuple[Outcome, Connection]:
        left = asked.timeouts.answer
        connection = self._take_kept()
        if connection is None:
            began = self._reactor.seconds()
            connecting = Deferred.fromCoroutine(self._endpoint.connect())
            connection = await connecting.addTimeout(left, self._reactor, timed_out)
            left = max(0, left - (self._reactor.seconds() - began))
        taker = make(connection)
        connection.ask(asked.request, taker, answer=left, body=asked.timeouts.body)
        return await taker.outcome, connection

    # Connections that are kept.

    def _take_kept(self) -> Connection | None:
        while self._kept:
            connection = self._kept.pop()
            if connection.is_open:
                return connection
        return None

    def _keep(self, connection: Connection) -> None:
        """Keep a connection, if nothing has ended it."""
        if connection.is_open:
            connection.keep(KEPT_SECONDS)
            self._kept.append(connection)

    def _close_kept(self) -> list[Deferred[None]]:
        closing = [connection.close() for connection in self._kept]
        self._kept.clear()
        return closing

    async def close(self) -> None:
        closing: Deferred[Any] = DeferredList(self._close_kept())
        with suppress(DeferredTimeoutError):
            await closing.addTimeout(CLOSING_SECONDS, self._reactor, timed_out)


def _request(method: str, uri: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """A request as bytes.

    :raises ValueError: something in it would end a line.
    """
    if body is not None:
        headers = {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"{method} {uri} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()]]
    said = "".join(lines)
    if " " in uri or not said.isascii() or not said.isprintable():
        raise ValueError("a request with what HTTP cannot say")
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (body or b"")
