"""Bodies of what Twisted's agent asks, and those of the answers, taken in up to a number of bytes."""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import IBodyProducer, IResponse
from zope.interface import implementer

from synapse_like.federation.reasons import NotAnAnswer


@implementer(IBodyProducer)
class BytesProducer:
    """A body that is there already, written at once."""

    def __init__(self, body: bytes) -> None:
        self.length: Final = len(body)
        self._body = body

    def startProducing(self, consumer: Any) -> Deferred[None]:  # noqa: N802 - Twisted's name
        consumer.write(self._body)
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's name
        pass

    def resumeProducing(self) -> None:  # noqa: N802 - Twisted's name
        pass

    def stopProducing(self) -> None:  # noqa: N802 - Twisted's name
        pass


def read_body(response: IResponse, most_bytes: int) -> Deferred[bytes]:
    """The body of a response. To cancel it is to close the connection."""
    reader = _BodyReader(most_bytes)
    response.deliverBody(reader)
    return reader.body


class _BodyReader(Protocol):
    """Takes a body in, up to a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self.body: Deferred[bytes] = Deferred(lambda _: self._abort())
        self._left = most_bytes
        self._chunks: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        if self.body.called:
            return
        self._left -= len(data)
        if self._left < 0:
            self._chunks.clear()
            self.body.errback(NotAnAnswer("its answer is too large"))
            self._abort()
        else:
            self._chunks.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802 - Twisted's name
        if self.body.called:
            return
        if reason.check(ResponseDone):
            self.body.callback(b"".join(self._chunks))
        else:
            # `PotentialDataLoss` among them: a body that ends with the connection may have been cut off.
            self.body.errback(NotAnAnswer("its answer broke off"))

    def _abort(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.loseConnection()
