"""What is said to a mail server, by Twisted's client for SMTP.

It is loaded with the first `Mailer`: `twisted.mail` makes the reactor when it is loaded.
"""

# mypy: allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
# (twisted.mail is not annotated.)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.mail.smtp import (
    AUTHDeclinedError,
    AuthenticationError,
    AUTHRequiredError,
    CramMD5ClientAuthenticator,
    EHLORequiredError,
    ESMTPClient,
    LOGINAuthenticator,
    PLAINAuthenticator,
    SMTPClientError,
    TLSRequiredError,
    quoteaddr,
)
from twisted.python.failure import Failure

from synapse_like.clock import Clock
from synapse_like.mail import MailServer, try_again, why
from synapse_like.protocol.errors import BadParam

#: The answers by which a mail server refuses for good; with other ones it may take the same mail later.
_FOR_GOOD = range(500, 600)
#: What it means that Twisted's client ends a conversation; `{}` is what the server said.
_KNOWN_ERRORS: dict[type[SMTPClientError], str] = {
    TLSRequiredError: "the mail server does not offer STARTTLS, without which nothing is sent (security: starttls)",
    EHLORequiredError: "the mail server does not let one log in, and there is a username",
    AUTHRequiredError: "the mail server lets one log in in no way that is known here, and there is a username",
    AUTHDeclinedError: "the mail server does not take the username and password: {}",
    AuthenticationError: "the mail server does not take the username and password: {}",
}


class Conversation(ESMTPClient):
    """One connection to the mail server, for one letter.

    :ivar gone: fires when the connection is over, whatever came of it.
    """

    # What is said is not kept: there are passwords in it.
    debug = False
    heloFallback = True  # noqa: N815 - Twisted's name

    def __init__(self, server: MailServer, tls: Any, sender: str, recipient: str, identity: str) -> None:
        secret = None if server.username is None else (server.password or "").encode()
        super().__init__(secret, tls, identity)
        self.requireTransportSecurity = server.security == "starttls"
        self.requireAuthentication = server.username is not None
        if server.security == "none":
            self.context = None
        if server.username is not None:
            name = server.username.encode()
            for kind in (CramMD5ClientAuthenticator, PLAINAuthenticator, LOGINAuthenticator):
                self.registerAuthenticator(kind(name))
        self._is_tls_from_the_start = server.security == "tls"
        self._sender = sender
        self._recipient = recipient
        self._letter = b""
        self._line: Any = None
        self._step: Deferred[None] = Deferred()
        self._is_awaited = False
        self._failure: Exception | None = None
        self._timer: IDelayedCall | None = None
        self.gone: Deferred[None] = Deferred()

    async def next_step(self, clock: Clock, seconds: float) -> None:
        """Return when the server has taken the address, and the second time when it has taken the letter.

        :param seconds: after which the conversation is ended, whatever happens until then.
        :raises MatrixError: the server does not take it.
        """
        if self._failure is not None:
            raise self._failure
        self._stop_timer()
        self._timer = clock.call_later(seconds, self.give_up)
        self._is_awaited = True
        try:
            await self._step
        finally:
            self._is_awaited = False
            self._step = Deferred()

    # What Twisted's client calls.

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        self._line = self.transport
        super().connectionMade()
        self._tlsMode = self._is_tls_from_the_start

    def esmtpState_starttls(self, code, resp):  # noqa: N802 - Twisted's name
        # What came in plain text behind the agreement to begin TLS was said by who knows whom.
        self.clearLineBuffer()
        super().esmtpState_starttls(code, resp)

    def getMailFrom(self):  # noqa: N802 - Twisted's name
        return self._sender

    def getMailTo(self) -> Sequence[str]:  # noqa: N802 - Twisted's name
        return [self._recipient]

    def smtpState_to(self, code, resp):  # noqa: N802 - Twisted's name
        self._expected = [250, 251]
        self._okresponse = self._recipient_taken
        self._failresponse = self._refused
        self.sendLine(b"RCPT TO:" + quoteaddr(self._recipient))

    def _recipient_taken(self, code, resp) -> None:
        # Nothing is expected to be said until we go on.
        self._expected = []
        self._failresponse = self._refused
        self._step.callback(None)

    def deliver(self, letter: bytes) -> None:
        if self._failure is not None:
            return
        self._letter = letter
        self._expected = [354]
        self._okresponse = self.smtpState_data
        self._failresponse = self._refused
        self.sendLine(b"DATA")

    def withdraw(self) -> None:
        if self._failure is None:
            self._failure = try_again("the letter was withdrawn")
            self._disconnectFromServer()

    def smtpState_data(self, code, resp):  # noqa: N802 - Twisted's name
        self._expected = [250]
        self._okresponse = self._taken
        # Lines that begin with a dot get another one (RFC 5321, 4.5.2).
        self._line.write((b"\r\n" + self._letter).replace(b"\r\n.", b"\r\n..")[2:])
        self.sendLine(b"." if self._letter.endswith(b"\r\n") else b"\r\n.")

    def _taken(self, code, resp) -> None:
        self._step.callback(None)
        self._failure = try_again("the letter is delivered already")
        self._disconnectFromServer()

    def _refused(self, code: int, resp: bytes) -> None:
        reason = f"the mail server said {code} {resp.decode('latin-1')}"
        if code in _FOR_GOOD:
            self._fail(BadParam("The mail server does not take this mail. Is the address right?", reason=reason))
        else:
            self._fail(try_again(reason))
        self._disconnectFromServer()

    def smtpTransferFailed(self, code, resp):  # noqa: N802 - Twisted's name
        # Of MAIL FROM: it is about us, not about the address.
        self._fail(try_again(f"the mail server said {code} {resp.decode('latin-1')}"))
        self._disconnectFromServer()

    def sendError(self, exc: SMTPClientError) -> None:  # noqa: N802 - Twisted's name
        said = f"{exc.code} {exc.resp.decode('latin-1')}"
        self._fail(try_again(_KNOWN_ERRORS.get(type(exc), "the mail server said {}").format(said)))
        self.smtpState_disconnect(-1, None)

    def connectionLost(self, reason=connectionDone) -> None:  # noqa: N802 - Twisted's name
        super().connectionLost(reason)
        is_tls = isinstance(reason.value, SSL.Error | VerificationError)
        what = ":" if is_tls else " has closed the connection:"
        self._fail(try_again(f"the mail server{what} {why(reason.value)}"))
        self.end()

    # The end.

    def give_up(self) -> None:
        """It takes too long."""
        self._fail(try_again("the mail server takes too long"))
        self.end()

    def end(self) -> None:
        """Close the connection, if there is one, at once."""
        self._stop_timer()
        if self._line is not None:
            self._line.abortConnection()
        if not self.gone.called:
            self.gone.callback(None)

    def _fail(self, error: Exception) -> None:
        """Tell whoever waits, or will, unless something was told before."""
        if self._failure is None:
            self._failure = error
            if self._is_awaited:
                self._step.errback(Failure(error))

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
