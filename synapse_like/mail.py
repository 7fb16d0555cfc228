"""Mail: letters made of templates, and their hand-over to a mail server by SMTP.

A hand-over has two halves. First the server is reached, believed (TLS), logged in to, and asked whether it takes a mail
for an address: `Mailer.offer`. What goes wrong with a mail server mostly goes wrong there, and is told as an error that
one can try again. Then the letter is delivered, or the offer withdrawn. So a stranger can be told that the mail server
is down without being told whether there is anything to send: who keeps that secret makes an offer either way, answers,
and delivers or withdraws behind the answer.

Nothing is queued here. A letter is of use for some minutes, and who waits for it can ask for another.
"""

# mypy: allow-untyped-calls, allow-untyped-defs, allow-incomplete-defs
# (twisted.mail is not annotated.)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, make_msgid, parseaddr
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionRefusedError as NobodyListens
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.ssl import CertificateOptions, optionsForClientTLS
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

from synapse_like.authorities import tls_reason, trust_root
from synapse_like.clock import Clock
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import BadParam, LimitExceeded, Unavailable

#: Conversations with the mail server at the same time.
MOST_AT_ONCE = 32
#: Milliseconds after which to try again if there are that many.
FULL_RETRY_MS = 2000
#: The answers by which a mail server refuses for good; with other ones it may take the same mail later.
_FOR_GOOD = range(500, 600)

_log = get_logger(__name__)

Security = Literal["starttls", "tls", "none"]


class MailUnusable(Exception):
    """Mail cannot be set up as configured; the message says why, for the operator."""


def _try_again(reason: str) -> Unavailable:
    return Unavailable("The mail cannot be sent at the moment. Please try again in a while.", reason=reason)


# Letters.

#: All the letters there are; each has a template `NAME.txt`, whose first line is the subject, and one `NAME.html`.
LETTERS = (
    *("login_code", "login_link", "password_reset", "link_address"),
    *("identity_validation", "identity_invite"),
    "doctor",
)


class Letters:
    """Makes letters of templates.

    :param folder: whose files take the place of those in the package; None for none.
    :param sender: what stands in From: `Name <address>`.
    :param server_name: the server for which they are written.
    :raises MailUnusable: a template or the sender is not one.
    """

    def __init__(self, clock: Clock, folder: Path | None, sender: str, server_name: str) -> None:
        self._clock = clock
        self._server_name = server_name
        try:
            display, address = parseaddr(sender)
            self._sender = Address(display, addr_spec=address)
        except (ValueError, IndexError) as error:
            raise MailUnusable(f"mail.sender: {sender!r} is not of the form Name <address>") from error
        # Who sends no mail loads nothing of it.
        from jinja2 import (
            ChoiceLoader,
            Environment,
            FileSystemLoader,
            StrictUndefined,
            TemplateError,
            select_autoescape,
        )

        own = FileSystemLoader(str(files("synapse_like") / "templates" / "mail"))
        self._templates = Environment(
            loader=ChoiceLoader([FileSystemLoader(folder), own] if folder is not None else [own]),
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
            trim_blocks=True,
            keep_trailing_newline=True,
        )
        for name in LETTERS:
            for file in (f"{name}.txt", f"{name}.html"):
                try:
                    self._templates.get_template(file)
                except (TemplateError, OSError, UnicodeDecodeError) as error:
                    raise MailUnusable(f"mail.templates: {file}: {error}") from error

    @property
    def sender(self) -> str:
        """The address that bounces go to."""
        return self._sender.addr_spec

    def write(self, name: str, recipient: str, **values: object) -> bytes:
        """A letter, ready to be sent.

        :param name: one of `LETTERS`.
        :param values: what its templates speak of, beside `server_name` and `address`.
        """
        values = {"server_name": self._server_name, "address": recipient, **values}
        text = self._templates.get_template(f"{name}.txt").render(values)
        subject, _, body = text.partition("\n")
        message = EmailMessage(policy=SMTP.clone(cte_type="7bit"))
        message["From"] = self._sender
        message["To"] = Address(addr_spec=recipient)
        message["Subject"] = " ".join(subject.split())
        message["Date"] = format_datetime(datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC))
        message["Message-ID"] = make_msgid(domain=self._sender.domain)
        # So that no one's absence is announced to us (RFC 3834).
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(body.lstrip("\n"))
        message.add_alternative(self._templates.get_template(f"{name}.html").render(values), subtype="html")
        return message.as_bytes()


# Their hand-over.


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where mail is handed over.

    :ivar security: ``starttls`` demands that TLS is begun, ``tls`` begins with it, ``none`` is for a server on this
        machine.
    :ivar username: None if one does not log in there.
    :ivar ca_file: the authorities to believe; None for those of the system.
    :ivar timeout: seconds for the whole of each half of a hand-over.
    """

    host: str
    port: int
    security: Security
    username: str | None
    password: str | None
    ca_file: Path | None
    verify_certificate: bool
    timeout: float


class Mailer:
    """Hands letters over to the mail server.

    :param reactor: Twisted's reactor.
    :param identity: the name by which we greet it.
    :raises AuthoritiesUnusable: the file of the authorities cannot be used.
    """

    def __init__(self, reactor: Any, clock: Clock, server: MailServer, sender: str, identity: str) -> None:
        self._reactor = reactor
        self._clock = clock
        self._server = server
        self._sender = sender
        self._identity = identity
        self._tls = _tls_options(server)
        self._under_way = 0

    async def offer(self, recipient: str) -> Offer:
        """Have the server agree to take a mail for an address.

        :raises Unavailable: not now; try again later.
        :raises BadParam: it takes none for this address.
        :raises LimitExceeded: too many mails are under way.
        """
        if self._under_way >= MOST_AT_ONCE:
            raise LimitExceeded("Too many mails are being sent. Please try again in a moment.", FULL_RETRY_MS)
        self._under_way += 1
        server = self._server
        conversation = _Conversation(server, self._tls, self._sender, recipient, self._identity)
        conversation.gone.addCallback(self._one_less)
        endpoint: Any = HostnameEndpoint(self._reactor, server.host, server.port, timeout=server.timeout)
        if server.security == "tls":
            endpoint = wrapClientTLS(self._tls, endpoint)
        factory = Factory.forProtocol(lambda: conversation)
        factory.noisy = False
        try:
            connecting = endpoint.connect(factory)
            await connecting.addTimeout(server.timeout, self._reactor)
        except Exception as error:
            conversation.end()
            raise _try_again(f"{server.host} port {server.port} cannot be reached: {_why(error)}") from error
        await conversation.next_step(self._clock, server.timeout)
        return Offer(conversation, self._clock, server.timeout)

    async def send(self, recipient: str, letter: bytes) -> None:
        """Hand over a letter, and return when the server has it.

        :raises Unavailable: not now; try again later.
        :raises BadParam: the server takes no mail for this address, or not this letter.
        :raises LimitExceeded: too many mails are under way.
        """
        await (await self.offer(recipient)).deliver(letter)

    def _one_less(self, _: None) -> None:
        self._under_way -= 1


class Offer:
    """A mail server that waits for a letter, until the time-out of the offer. One of the two is to be called, once."""

    def __init__(self, conversation: _Conversation, clock: Clock, timeout: float) -> None:
        self._conversation = conversation
        self._clock = clock
        self._timeout = timeout

    async def deliver(self, letter: bytes) -> None:
        """Hand over the letter, and return when the server has it.

        :raises Unavailable: not now; try again later.
        :raises BadParam: the server does not want it.
        """
        self._conversation.deliver(letter)
        await self._conversation.next_step(self._clock, self._timeout)

    def withdraw(self) -> None:
        """Send nothing after all."""
        self._conversation.withdraw()


#: What it means that Twisted's client ends a conversation; `{}` is what the server said.
_KNOWN_ERRORS: dict[type[SMTPClientError], str] = {
    TLSRequiredError: "the mail server does not offer STARTTLS, without which nothing is sent (security: starttls)",
    EHLORequiredError: "the mail server does not let one log in, and there is a username",
    AUTHRequiredError: "the mail server lets one log in in no way that is known here, and there is a username",
    AUTHDeclinedError: "the mail server does not take the username and password: {}",
    AuthenticationError: "the mail server does not take the username and password: {}",
}


class _Conversation(ESMTPClient):
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
            self._failure = _try_again("the letter was withdrawn")
            self._disconnectFromServer()

    def smtpState_data(self, code, resp):  # noqa: N802 - Twisted's name
        self._expected = [250]
        self._okresponse = self._taken
        # Lines that begin with a dot get another one (RFC 5321, 4.5.2).
        self._line.write((b"\r\n" + self._letter).replace(b"\r\n.", b"\r\n..")[2:])
        self.sendLine(b"." if self._letter.endswith(b"\r\n") else b"\r\n.")

    def _taken(self, code, resp) -> None:
        self._step.callback(None)
        self._failure = _try_again("the letter is delivered already")
        self._disconnectFromServer()

    def _refused(self, code: int, resp: bytes) -> None:
        reason = f"the mail server said {code} {resp.decode('latin-1')}"
        if code in _FOR_GOOD:
            self._fail(BadParam("The mail server does not take this mail. Is the address right?", reason=reason))
        else:
            self._fail(_try_again(reason))
        self._disconnectFromServer()

    def smtpTransferFailed(self, code, resp):  # noqa: N802 - Twisted's name
        # Of MAIL FROM: it is about us, not about the address.
        self._fail(_try_again(f"the mail server said {code} {resp.decode('latin-1')}"))
        self._disconnectFromServer()

    def sendError(self, exc: SMTPClientError) -> None:  # noqa: N802 - Twisted's name
        said = f"{exc.code} {exc.resp.decode('latin-1')}"
        self._fail(_try_again(_KNOWN_ERRORS.get(type(exc), "the mail server said {}").format(said)))
        self.smtpState_disconnect(-1, None)

    def connectionLost(self, reason=connectionDone) -> None:  # noqa: N802 - Twisted's name
        super().connectionLost(reason)
        is_tls = isinstance(reason.value, SSL.Error | VerificationError)
        what = ":" if is_tls else " has closed the connection:"
        self._fail(_try_again(f"the mail server{what} {_why(reason.value)}"))
        self.end()

    # The end.

    def give_up(self) -> None:
        """It takes too long."""
        self._fail(_try_again("the mail server takes too long"))
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


def _tls_options(server: MailServer) -> Any:
    if server.security == "none":
        return None
    if not server.verify_certificate:
        return CertificateOptions()
    return optionsForClientTLS(server.host, trustRoot=trust_root(server.ca_file))


def _why(error: BaseException) -> str:
    if isinstance(error, SSL.Error):
        return tls_reason(error)
    if isinstance(error, VerificationError):
        return "its certificate is for another host than mail.host"
    if isinstance(error, DeferredTimeoutError):
        return "it takes too long"
    if isinstance(error, NobodyListens):
        return "the connection was refused"
    return str(error) or type(error).__name__
