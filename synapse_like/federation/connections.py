"""The connections to one server, and who waits for one (FED-1, SEC-1).

Every request is one that may be made twice without harm. So if a connection that was kept open turns out to have been
closed meanwhile, the request is made once more on a new one.
"""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.defer import TimeoutError as DeferredTimeoutError

from synapse_like.federation.agent import Answer, Asked, Download
from synapse_like.federation.answers import PassedOn, Taker, Whole
from synapse_like.federation.connecting import Connection, GuardedReactor, ServerEndpoint
from synapse_like.federation.reasons import NotAnAnswer, Unanswered, timed_out
from synapse_like.federation.resolver import ServerResolver
from synapse_like.federation.tls import ClientTls

Outcome = TypeVar("Outcome")

#: Connections to one destination at the same time.
MOST_CONNECTIONS = 6
#: Requests to one destination that wait for one.
MOST_WAITING = 1000
#: How long a connection is kept open without use, in seconds: less than servers wait, ours for one.
KEPT_SECONDS = 50
#: How long the other side may take to agree that a connection is over, in seconds.
CLOSING_SECONDS = 2


class _Waited(Taker, Protocol[Outcome]):
    """A taker that is waited for."""

    @property
    def outcome(self) -> Deferred[Outcome]: ...


class Connections:
    """The connections to one server, and who waits for one.

    :param server_name: well-formed.
    :param reactor: Twisted's reactor.
    :param connect_seconds: that TCP and TLS may take for each place where the server may be.
    :param allow_private_addresses: whether addresses that are not on the internet may be reached.
    """

    def __init__(
        self,
        server_name: str,
        reactor: Any,
        resolver: ServerResolver,
        tls: ClientTls,
        connect_seconds: float,
        allow_private_addresses: bool,
    ) -> None:
        guarded = reactor if allow_private_addresses else GuardedReactor(reactor)
        self._endpoint = ServerEndpoint(server_name, guarded, resolver, tls, connect_seconds)
        self._reactor = reactor
        self._kept: list[Connection] = []
        self._free = DeferredSemaphore(MOST_CONNECTIONS)
        self._requests = 0

    @property
    def is_busy(self) -> bool:
        return self._requests > 0

    async def ask(self, asked: Asked) -> Answer:
        await self._wait_for_turn(asked)
        try:
            (status, body), connection = await self._ask_or_ask_again(
                asked, lambda connection: Whole(connection, asked.most_bytes)
            )
            self._keep(connection)
            return Answer(status, body)
        finally:
            self._leave()

    async def begin(self, asked: Asked) -> tuple[Download, Callable[[], None]]:
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

    async def _wait_for_turn(self, asked: Asked) -> None:
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
        self, asked: Asked, make: Callable[[Connection], _Waited[Outcome]]
    ) -> tuple[Outcome, Connection]:
        try:
            return await self._ask(asked, make)
        except Unanswered:
            # The others that were kept may have been closed as well.
            self._close_kept()
        return await self._ask(asked, make)

    async def _ask(self, asked: Asked, make: Callable[[Connection], _Waited[Outcome]]) -> tuple[Outcome, Connection]:
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
