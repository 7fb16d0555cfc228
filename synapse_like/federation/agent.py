"""Requests to other servers, with bounds on everything that another server decides (FED-1, SEC-1).

Each destination has a few connections at the most, kept open between requests (`connections.py`); how a new one comes
about is in `connecting.py`. There is a time-out for the connection with its handshake, one for the head of the answer,
one for the whole of it, and a limit for its size. Redirects are not followed. What goes wrong is a `ServerUnreachable`.
What is too large for memory comes as a stream (`Agent.download`), read as fast as its reader takes it.

What speaks HTTP to other servers takes 8 ms and 1 MB to load, which happens with the first request: a server answers
its clients sooner, and one that speaks to nobody does without.
"""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from twisted.internet.defer import Deferred

from synapse_like.byte_streams import ByteStream
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.federation.resolver import ServerResolver
from synapse_like.federation.tls import ClientTls

if TYPE_CHECKING:
    from synapse_like.federation.answers import Headers
    from synapse_like.federation.connections import Connections

#: Destinations whose connections are kept open.
MOST_DESTINATIONS = 1000


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


class Asked(Struct, frozen=True):
    """What another server is to be asked."""

    destination: str
    request: bytes
    most_bytes: int
    timeouts: Timeouts


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
        self._allow_private_addresses = allow_private_addresses
        self._timeouts = timeouts or Timeouts()
        self._user_agent = user_agent
        self._destinations: OrderedDict[str, Connections] = OrderedDict()

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
    ) -> Asked:
        if not self._enabled:
            raise ServerUnreachable(destination, "federation is switched off")
        given = {"Host": destination, "User-Agent": self._user_agent, **(headers or {})}
        return Asked(destination, _request(method, uri, given, body), most_bytes, timeouts or self._timeouts)

    def _unreachable(self, destination: str, error: Exception) -> Exception:
        """An error as who asked is to see it: faults of our own stay what they are."""
        from synapse_like.federation.reasons import why

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

    def _destination(self, name: str) -> Connections:
        known = self._destinations.get(name)
        if known is None:
            from synapse_like.federation.connections import Connections

            known = self._destinations[name] = Connections(
                name, self._reactor, self._resolver, self._tls, self._timeouts.connect, self._allow_private_addresses
            )
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
