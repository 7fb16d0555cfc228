"""Mail: letters made of templates, and their hand-over to a mail server by SMTP.

A hand-over has two halves. First the server is reached, believed (TLS), logged in to, and asked whether it takes a mail
for an address: `Mailer.offer`. What goes wrong with a mail server mostly goes wrong there, and is told as an error that
one can try again. Then the letter is delivered, or the offer withdrawn. So a stranger can be told that the mail server
is down without being told whether there is anything to send: who keeps that secret makes an offer either way, answers,
and delivers or withdraws behind the answer.

Nothing is queued here. A letter is of use for some minutes, and who waits for it can ask for another.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, make_msgid, parseaddr
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionRefusedError as NobodyListens
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions, optionsForClientTLS

from synapse_like.authorities import tls_reason, trust_root
from synapse_like.clock import Clock
from synapse_like.protocol.errors import LimitExceeded, Unavailable

if TYPE_CHECKING:
    from synapse_like.mail.conversation import Conversation

#: Conversations with the mail server at the same time.
MOST_AT_ONCE = 32
#: Milliseconds after which to try again if there are that many.
FULL_RETRY_MS = 2000

Security = Literal["starttls", "tls", "none"]


class MailUnusable(Exception):
    """Mail cannot be set up as configured; the message says why, for the operator."""


def try_again(reason: str) -> Unavailable:
    """What is told of a mail that could not be sent now.

    :param reason: for the log.
    """
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


class MailServer(Struct, frozen=True):
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
        # Who sends no mail loads nothing of it; nor may it be loaded before there is a reactor.
        from synapse_like.mail.conversation import Conversation

        self._converse = Conversation

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
        conversation = self._converse(server, self._tls, self._sender, recipient, self._identity)
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
            raise try_again(f"{server.host} port {server.port} cannot be reached: {why(error)}") from error
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

    def __init__(self, conversation: Conversation, clock: Clock, timeout: float) -> None:
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


def _tls_options(server: MailServer) -> Any:
    if server.security == "none":
        return None
    if not server.verify_certificate:
        return CertificateOptions()
    return optionsForClientTLS(server.host, trustRoot=trust_root(server.ca_file))


def why(error: BaseException) -> str:
    """What went wrong with a connection, for the log."""
    if isinstance(error, SSL.Error):
        return tls_reason(error)
    if isinstance(error, VerificationError):
        return "its certificate is for another host than mail.host"
    if isinstance(error, DeferredTimeoutError):
        return "it takes too long"
    if isinstance(error, NobodyListens):
        return "the connection was refused"
    return str(error) or type(error).__name__
