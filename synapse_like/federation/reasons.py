"""Why another server could not be reached, or its answer not be taken: Twisted's many errors as a sentence."""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from typing import NoReturn

from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.error import ConnectionRefusedError as NobodyListens
from twisted.web.client import RequestTransmissionFailed, ResponseFailed

from synapse_like.authorities import tls_reason
from synapse_like.federation.errors import ServerUnreachable


class AddressRefused(ConnectError):
    """Federation may not reach this address."""


class NotAnAnswer(Exception):
    """What another server sent is no answer to take; says why."""


class Unanswered(NotAnAnswer):
    """The connection was closed before a byte of an answer was there: by then it may have been so already."""


def timed_out(_outcome: object, _seconds: float) -> NoReturn:
    """For `addTimeout`, which knows only one of the many exceptions by which Twisted says that it was cancelled."""
    raise DeferredTimeoutError


def why(error: BaseException) -> str | None:
    """Why a server could not be reached, for the log; None if the fault is ours."""
    if isinstance(error, ServerUnreachable):
        return error.reason
    if isinstance(error, ResponseFailed | RequestTransmissionFailed):
        return "; ".join(why(failure.value) or repr(failure.value) for failure in error.reasons)
    if isinstance(error, DeferredTimeoutError):
        return "it took too long"
    if isinstance(error, VerificationError | CertificateError):
        return "its certificate is not that of this server"
    if isinstance(error, SSL.Error):
        return tls_reason(error)
    if isinstance(error, NobodyListens):
        return "the connection was refused"
    if isinstance(error, NotAnAnswer | ConnectError | ConnectionClosed | DNSLookupError | OSError | ValueError):
        return str(error) or type(error).__name__
    return None
