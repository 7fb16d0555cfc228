"""Handing letters over to a real mail server: TLS in its kinds, logging in, and what a letter may hold (LOGIN-4)."""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from synapse_like.authorities import AuthoritiesUnusable
from synapse_like.clock import ReactorClock
from synapse_like.mail import MOST_AT_ONCE, Letters, Mailer, MailServer, MailUnusable, Security
from synapse_like.protocol.errors import BadParam, LimitExceeded, MatrixError, Unavailable
from tests.support.certificates import Authority
from tests.support.smtp_server import PASSWORD, USER, SmtpServer

RECIPIENT = "alice@example.org"
LETTER = b"Subject: x\r\n\r\nHello\r\n"

loop: Any = reactor


class MailCase(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.authority = Authority(self.folder / "authority")

    def server(self, *hosts: str, expired: bool = False, **options: Any) -> SmtpServer:
        """A mail server, with a certificate for some hosts."""
        files = self.authority.certify(*hosts, expired=expired) if hosts else None
        folder = self.folder / "smtp"
        folder.mkdir()
        server = SmtpServer(
            folder, certificate=files and files.certificate, key=files and files.private_key, **options
        ).start()
        self.addCleanup(server.stop)
        return server

    def mailer(self, port: int, security: Security = "none", **options: Any) -> Mailer:
        settings = {
            "username": None,
            "password": None,
            "ca_file": self.authority.file,
            "verify_certificate": True,
            "timeout": 2.0,
            **options,
        }
        server = MailServer(settings.pop("host", "127.0.0.1"), port, security, **settings)
        return Mailer(reactor, ReactorClock(loop), server, "matrix@example.org", "example.org")

    async def refusal(self, mailer: Mailer, kind: type[MatrixError] = Unavailable) -> str:
        """Why a letter was not sent, as the log is told; the client is told less."""
        with pytest.raises(kind) as caught:
            await mailer.send(RECIPIENT, LETTER)
        assert caught.value.reason is not None
        assert caught.value.reason not in caught.value.message
        return caught.value.reason

    async def none_left(self, mailer: Mailer) -> None:
        """Wait until no conversation is under way."""
        for _ in range(500):
            if not mailer._under_way:
                return
            await deferLater(loop, 0.01)
        self.fail("a conversation does not end")


class TlsTests(MailCase):
    async def test_letter_goes_over_tls_that_begins_on_the_way(self) -> None:
        server = self.server("127.0.0.1", security="starttls")
        await self.mailer(server.port, "starttls").send(RECIPIENT, LETTER)
        letter = server.next_letter()
        assert (letter.sender, letter.recipient) == ("matrix@example.org", RECIPIENT)
        assert letter.message.get_content() == "Hello\r\n"

    async def test_letter_goes_over_tls_from_the_start(self) -> None:
        server = self.server("localhost", security="tls")
        await self.mailer(server.port, "tls", host="localhost").send(RECIPIENT, LETTER)
        assert server.next_letter().recipient == RECIPIENT
        await self.refusal(self.mailer(server.port, "tls"))
        await self.mailer(server.port, "tls", verify_certificate=False).send(RECIPIENT, LETTER)

    async def test_nothing_goes_without_tls_where_it_is_demanded(self) -> None:
        server = self.server(security="none")
        assert "TLS" in await self.refusal(self.mailer(server.port, "starttls"))
        assert server.recipients_asked_for() == []

    async def test_nothing_goes_to_who_cannot_prove_to_be_the_mail_server(self) -> None:
        server = self.server("mail.example.org", security="starttls")
        await self.refusal(self.mailer(server.port, "starttls"))
        stranger = Authority(self.folder / "stranger")
        await self.refusal(self.mailer(server.port, "starttls", ca_file=stranger.file))
        await self.refusal(self.mailer(server.port, "starttls", ca_file=None))
        assert server.recipients_asked_for() == []
        await self.mailer(server.port, "starttls", verify_certificate=False).send(RECIPIENT, LETTER)

    async def test_nothing_goes_to_who_has_an_expired_certificate(self) -> None:
        server = self.server("127.0.0.1", expired=True, security="tls")
        await self.refusal(self.mailer(server.port, "tls"))
        assert server.recipients_asked_for() == []

    async def test_what_is_said_before_tls_is_not_believed_after_it(self) -> None:
        """A stranger on the way could slip answers in behind the one that agrees to TLS."""

        class Stranger(Protocol):
            def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
                self._say(b"220 here\r\n")

            def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
                if data.startswith(b"EHLO"):
                    self._say(b"250-here\r\n250 STARTTLS\r\n")
                elif data.startswith(b"STARTTLS"):
                    self._say(b"220 go on\r\n250-here\r\n250 OK\r\n250 OK\r\n250 OK\r\n")

            def _say(self, data: bytes) -> None:
                transport: Any = self.transport
                transport.write(data)

        port = loop.listenTCP(0, ServerFactory.forProtocol(Stranger), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        with pytest.raises(Unavailable):
            await self.mailer(port.getHost().port, "starttls", timeout=0.5).offer(RECIPIENT)

    async def test_file_that_holds_no_authority_is_told_of_at_the_start(self) -> None:
        empty = self.folder / "empty.pem"
        for content in ("", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
            empty.write_text(content)
            with pytest.raises(AuthoritiesUnusable, match=r"empty\.pem"):
                self.mailer(25, "tls", ca_file=empty)


class LoginTests(MailCase):
    async def test_it_logs_in_where_the_server_wants_it(self) -> None:
        server = self.server("127.0.0.1", security="starttls", wants_login=True)
        await self.mailer(server.port, "starttls", username=USER, password=PASSWORD).send(RECIPIENT, LETTER)
        assert server.next_letter().recipient == RECIPIENT

    async def test_wrong_password_and_none_are_told_of(self) -> None:
        server = self.server("127.0.0.1", security="tls", wants_login=True)
        reason = await self.refusal(self.mailer(server.port, "tls", username=USER, password="wrong horse"))
        assert reason.startswith("the mail server does not take the username and password: 535")
        assert "wrong horse" not in reason
        assert "530" in await self.refusal(self.mailer(server.port, "tls"))

    async def test_who_is_to_log_in_does_not_go_on_where_one_cannot(self) -> None:
        server = self.server(security="none")
        await self.refusal(self.mailer(server.port, username=USER, password=PASSWORD))
        assert server.recipients_asked_for() == []


class HandOverTests(MailCase):
    async def test_letter_arrives_as_it_was_written(self) -> None:
        server = self.server()
        lines = [b".", b"..", b".x", b"x.", b"", b"y" * 900, b"."]
        for end in (b"\r\n", b""):
            body = b"\r\n".join(lines * 60) + end
            await self.mailer(server.port).send(RECIPIENT, b"Subject: x\r\n\r\n" + body)
            content = server.next_letter().message.get_payload(decode=True)
            assert isinstance(content, bytes)
            assert content.rstrip(b"\r\n") == body.rstrip(b"\r\n")

    async def test_offer_that_is_withdrawn_leaves_nothing(self) -> None:
        server = self.server()
        mailer = self.mailer(server.port)
        (await mailer.offer(RECIPIENT)).withdraw()
        await self.none_left(mailer)
        assert server.recipients_asked_for() == [RECIPIENT]
        assert server.count() == 0

    async def test_offer_that_is_forgotten_ends_by_itself(self) -> None:
        server = self.server()
        mailer = self.mailer(server.port, timeout=0.3)
        offer = await mailer.offer(RECIPIENT)
        await self.none_left(mailer)
        with pytest.raises(Unavailable):
            await offer.deliver(LETTER)
        offer = await mailer.offer(RECIPIENT)
        await self.none_left(mailer)
        offer.withdraw()
        assert server.count() == 0

    async def test_nobody_listening_is_told_of(self) -> None:
        assert "cannot be reached" in await self.refusal(self.mailer(1))
        assert "cannot be reached" in await self.refusal(self.mailer(25, host="nowhere.invalid"))

    async def test_server_that_says_nothing_is_given_up(self) -> None:
        port = loop.listenTCP(0, ServerFactory.forProtocol(Protocol), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        for security in ("none", "tls"):
            mailer = self.mailer(port.getHost().port, security, timeout=0.3)
            assert "too long" in await self.refusal(mailer)
            await self.none_left(mailer)

    async def test_server_that_talks_nonsense_is_given_up(self) -> None:
        class Nonsense(Protocol):
            def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
                transport: Any = self.transport
                transport.write(b"HTTP/1.1 200 OK\r\n\r\n")

        port = loop.listenTCP(0, ServerFactory.forProtocol(Nonsense), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        mailer = self.mailer(port.getHost().port)
        await self.refusal(mailer)
        await self.none_left(mailer)

    async def test_what_is_refused_for_good_is_not_to_be_tried_again(self) -> None:
        server = self.server()
        mailer = self.mailer(server.port)
        server.behave("refuse-letter")
        assert "550" in await self.refusal(mailer, BadParam)
        server.behave("later-letter")
        assert "451" in await self.refusal(mailer, Unavailable)
        await self.none_left(mailer)

    async def test_conversations_at_the_same_time_are_few(self) -> None:
        server = self.server()
        mailer = self.mailer(server.port)
        offers = await gatherResults([Deferred.fromCoroutine(mailer.offer(RECIPIENT)) for _ in range(MOST_AT_ONCE)])
        with pytest.raises(LimitExceeded):
            await mailer.offer(RECIPIENT)
        for offer in offers:
            offer.withdraw()
        await self.none_left(mailer)
        await mailer.send(RECIPIENT, LETTER)


class LetterTests(MailCase):
    def letters(self, **files: str) -> Letters:
        folder = self.folder / "letters"
        folder.mkdir(exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)
        return Letters(ReactorClock(loop), folder, "Example <matrix@example.org>", "example.org")

    def test_what_people_choose_is_not_html(self) -> None:
        letter = self.letters().write(
            "login_code", RECIPIENT, code="1", purpose="login", user_id="<b>@alice:example.org</b>"
        )
        assert b"<b>@alice" in letter.partition(b"text/html")[0]
        assert b"<b>@alice" not in letter.partition(b"text/html")[2]

    def test_lines_are_short_enough_for_any_server(self) -> None:
        letter = self.letters().write(
            "login_link", RECIPIENT, link="https://x/" + "y" * 3000, purpose="login", user_id="@ü:example.org"
        )
        assert letter.isascii()
        assert max(map(len, letter.split(b"\r\n"))) <= 998

    def test_subject_cannot_begin_another_header(self) -> None:
        letters = self.letters(login_code__txt="{{ user_id }}\n\n{{ code }}\n")
        letter = letters.write("login_code", RECIPIENT, code="1", purpose="login", user_id="a\rBcc: all@example.org")
        assert b"\r\nBcc" not in letter.partition(b"\r\n\r\n")[0]
        assert b"Subject: a Bcc: all@example.org\r\n" in letter

    def test_template_that_is_none_is_told_of_at_the_start(self) -> None:
        with pytest.raises(MailUnusable, match=r"login_code\.txt"):
            self.letters(login_code__txt="{% if %}")

    def test_sender_that_is_none_is_told_of_at_the_start(self) -> None:
        with pytest.raises(MailUnusable, match="sender"):
            Letters(ReactorClock(loop), None, "nobody", "example.org")
