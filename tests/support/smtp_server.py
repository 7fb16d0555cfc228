"""A real mail server, aiosmtpd, in a process of its own: `python -m tests.support.smtp_server SETTINGS`.

Each letter that it takes becomes a file in its folder. How it behaves can be changed while it runs: by the file
`behaviour`, which holds words such as `refuse-recipient`; it is read at every command.
"""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import subprocess
import sys
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from itertools import count
from pathlib import Path
from typing import Any

from tests.support.processes import dying_with_us, free_port, wait_until

ROOT = Path(__file__).parents[2]
USER, PASSWORD = "matrix", "a mail password"


@dataclass(frozen=True)
class Letter:
    """A letter that was taken."""

    sender: str
    recipient: str
    message: EmailMessage

    @property
    def subject(self) -> str:
        return str(self.message["Subject"])

    def part(self, kind: str) -> str:
        """What it says as `plain` or as `html`."""
        body = self.message.get_body((kind,))
        assert isinstance(body, EmailMessage)
        return str(body.get_content()).replace("\r\n", "\n")


class SmtpServer:
    """The process, and the letters that it has taken.

    :param folder: where it keeps them; must exist.
    :param security: `none`, `starttls` (nothing goes without it) or `tls`.
    :param certificate: PEM file of its certificate, and `key` of its key, for TLS.
    :param wants_login: whether it takes letters only from who is `USER`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        security: str = "none",
        certificate: Path | None = None,
        key: Path | None = None,
        wants_login: bool = False,
    ) -> None:
        self.port = free_port()
        self._folder = folder
        self._seen: set[Path] = set()
        self._settings = {
            "port": self.port,
            "folder": str(folder),
            "security": security,
            "certificate": None if certificate is None else str(certificate),
            "key": None if key is None else str(key),
            "wants_login": wants_login,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.behave()

    def start(self) -> SmtpServer:
        """Start it, and wait until it listens."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.smtp_server", json.dumps(self._settings)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=dying_with_us(signal.SIGKILL),
            )
        ready = self._folder / "ready"
        wait_until("the mail server to listen", ready.exists)
        ready.unlink()
        return self

    def stop(self) -> None:
        """End it; letters are kept."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def behave(self, *words: str) -> None:
        """From now on behave like this; without words, well.

        `refuse-sender`, `refuse-recipient`, `refuse-letter`: for good. `later-…`: for now. `slow-…`: never answer.
        `hang-up-…`: close the connection.
        """
        (self._folder / "behaviour").write_text(" ".join(words))

    # What came.

    def count(self) -> int:
        """How many letters it has taken."""
        return len(list(self._folder.glob("*.eml")))

    def next_letter(self) -> Letter:
        """Wait for a letter that was not asked for before, and take it up; the oldest first."""
        path = wait_until("a letter", lambda: next(iter(self._new()), None))
        self._seen.add(path)
        sender, _, rest = path.read_bytes().partition(b"\n")
        recipient, _, content = rest.partition(b"\n")
        message = message_from_bytes(content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        return Letter(sender.decode(), recipient.decode(), message)

    def recipients_asked_for(self) -> list[str]:
        """The addresses that it was asked to take a letter for, whether or not one came."""
        path = self._folder / "recipients"
        return path.read_text().splitlines() if path.exists() else []

    def has_new(self) -> bool:
        """Whether there is a letter that was not taken up."""
        return bool(self._new())

    def _new(self) -> list[Path]:
        return sorted(set(self._folder.glob("*.eml")) - self._seen)


class _Handler:
    """What the process does with commands and letters."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(1 + len(list(folder.glob("*.eml"))))

    async def _do(self, what: str, server: Any) -> str | None:
        words = (self._folder / "behaviour").read_text().split()
        if f"hang-up-{what}" in words:
            server.transport.abort()
        if f"slow-{what}" in words or f"hang-up-{what}" in words:
            await asyncio.sleep(3600)
        if f"refuse-{what}" in words:
            return "550 5.1.1 I do not want this"
        if f"later-{what}" in words:
            return "451 4.7.1 Come again later"
        return None

    async def handle_EHLO(self, server: Any, session: Any, envelope: Any, hostname: str, responses: Any) -> Any:  # noqa: N802 - aiosmtpd's name
        session.host_name = hostname
        refusal = await self._do("greeting", server)
        return responses if refusal is None else [refusal]

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:  # noqa: N802
        envelope.mail_from = address
        return await self._do("sender", server) or "250 OK"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:  # noqa: N802
        with (self._folder / "recipients").open("a") as file:
            file.write(f"{address}\n")
        refusal = await self._do("recipient", server)
        if refusal is not None:
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        refusal = await self._do("letter", server)
        if refusal is not None:
            return refusal
        head = f"{envelope.mail_from}\n{','.join(envelope.rcpt_tos)}\n".encode()
        path = self._folder / f"{next(self._numbers):06}.new"
        path.write_bytes(head + envelope.content)
        path.rename(path.with_suffix(".eml"))
        return "250 OK"


async def _serve(settings: dict[str, Any]) -> None:
    from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

    def check_login(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> Any:
        right = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        return AuthResult(success=right, handled=right)

    folder = Path(settings["folder"])
    security = settings["security"]
    context = None
    if security != "none":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(settings["certificate"], settings["key"])
    handler = _Handler(folder)

    def protocol() -> SMTP:
        return SMTP(
            handler,
            hostname="localhost",
            tls_context=context if security == "starttls" else None,
            require_starttls=security == "starttls",
            auth_required=settings["wants_login"],
            # Without TLS it is not even offered.
            auth_require_tls=security != "tls" or not settings["wants_login"],
            authenticator=check_login,
            loop=asyncio.get_running_loop(),
        )

    listener = await asyncio.get_running_loop().create_server(
        protocol, "127.0.0.1", settings["port"], ssl=context if security == "tls" else None
    )
    (folder / "ready").touch()
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.argv[1])))
