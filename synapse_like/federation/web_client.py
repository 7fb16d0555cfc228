"""Requests to servers that the operator has named by their URLs: identity servers and the like.

They are where their URL says, believed by the authorities of the web or those of a file, and may be at any address:
nobody but the operator chooses them. Redirects are not followed, answers are bounded, and a connection is made for
each request.
"""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.ssl import optionsForClientTLS
from twisted.web.http_headers import Headers
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from synapse_like.authorities import trust_root
from synapse_like.federation.agent import Answer
from synapse_like.federation.errors import ServerUnreachable

#: Bytes that an answer may have.
MOST_BYTES = 256 * 1024


class WebClient:
    """Asks them.

    :param reactor: Twisted's reactor.
    :param ca_file: the authorities to believe; None for those of the system.
    :param timeout: seconds for a whole request.
    :param user_agent: what we call ourselves.
    :raises AuthoritiesUnusable: the file of the authorities cannot be used.
    """

    def __init__(self, reactor: Any, *, ca_file: Path | None, timeout: float, user_agent: str) -> None:
        self._reactor = reactor
        self._timeout = timeout
        self._user_agent = [user_agent.encode("ascii")]
        self._policy = _Policy(trust_root(ca_file))

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Ask, and read the whole answer, whatever its status.

        :raises ServerUnreachable: there was no answer.
        """
        # Loaded with the first request, as `agent.py` does; most servers never make one.
        from twisted.web.client import Agent, HTTPConnectionPool

        from synapse_like.federation.bodies import BytesProducer, read_body
        from synapse_like.federation.reasons import timed_out, why

        pool = HTTPConnectionPool(self._reactor, persistent=False)
        agent: Any = Agent(self._reactor, self._policy, connectTimeout=self._timeout, pool=pool)
        given = Headers({name: [value] for name, value in (headers or {}).items()})
        given.setRawHeaders(b"User-Agent", self._user_agent)
        try:
            producer = None if body is None else BytesProducer(body)
            asking = agent.request(method.encode("ascii"), url.encode("ascii"), given, producer)
            response = await asking.addTimeout(self._timeout, self._reactor, timed_out)
            content = await read_body(response, MOST_BYTES).addTimeout(self._timeout, self._reactor, timed_out)
        except Exception as error:
            reason = why(error)
            if reason is None:
                raise
            raise ServerUnreachable(urlsplit(url).netloc, reason) from error
        return Answer(response.code, content, response.headers.getRawHeaders("Date", [None])[0])


@implementer(IPolicyForHTTPS)
class _Policy:
    """Believes who has a certificate for the host of the URL."""

    def __init__(self, trusted: Any) -> None:
        self._trusted = trusted

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:  # noqa: N802 - Twisted's name
        return optionsForClientTLS(hostname.decode("ascii"), trustRoot=self._trusted)
