"""What `doctor` says of a real mail server: one sentence that tells what to mend."""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from twisted.internet import reactor

from synapse_like.app.doctor.findings import Finding
from synapse_like.app.doctor.shared import check_mail
from synapse_like.clock import ReactorClock
from synapse_like.config import MailHandOver
from tests.support.certificates import Authority
from tests.support.smtp_server import PASSWORD, USER, SmtpServer
from tests.test_mail import MailCase, loop


class MailServerTests(MailCase):
    async def look(
        self, server: SmtpServer, ca_file: Path, *, security: Literal["starttls", "tls"] = "starttls", **more: Any
    ) -> Finding:
        """The one thing that is found when the server is asked whether it takes a letter."""
        settings = MailHandOver(host="127.0.0.1", port=server.port, security=security, ca_file=ca_file, **more)
        clock = ReactorClock(loop)
        [finding] = [finding async for finding in check_mail(settings, "example.org", reactor, clock, None)]
        assert not server.has_new()
        return finding

    async def fault(self, server: SmtpServer, ca_file: Path, **more: Any) -> str:
        """What is said of what is wrong: one line, without a word of a program's."""
        finding = await self.look(server, ca_file, **more)
        assert (finding.state, finding.advice) == ("fault", "See to the settings under mail.")
        sentence = finding.sentence.removeprefix(f"127.0.0.1 port {server.port}: ")
        assert not set("\n[]'") & set(sentence), sentence
        return sentence

    async def test_right_password_and_starttls_are_found_well(self) -> None:
        server = self.server("127.0.0.1", security="starttls", wants_login=True)
        finding = await self.look(server, self.authority.file, username=USER, password=PASSWORD)
        assert finding.state == "ok"

    async def test_wrong_password_is_told(self) -> None:
        server = self.server("127.0.0.1", security="starttls", wants_login=True)
        sentence = await self.fault(server, self.authority.file, username=USER, password="not this one")
        assert sentence.startswith("the mail server does not take the username and password: 535 ")
        assert "not this one" not in sentence

    async def test_server_without_starttls_is_told(self) -> None:
        server = self.server(security="none")
        sentence = await self.fault(server, self.authority.file)
        assert sentence.startswith("the mail server does not offer STARTTLS")

    async def test_certificate_of_a_stranger_is_told(self) -> None:
        server = self.server("127.0.0.1", security="starttls")
        stranger = Authority(self.folder / "stranger")
        sentence = await self.fault(server, stranger.file)
        assert sentence.startswith("the mail server: its certificate is not believed")

    async def test_certificate_for_another_host_is_told(self) -> None:
        server = self.server("mail.example.org", security="starttls")
        sentence = await self.fault(server, self.authority.file)
        assert sentence == "the mail server: its certificate is for another host than mail.host."
