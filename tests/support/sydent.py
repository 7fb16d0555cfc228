"""Sydent, an identity server in use, in a process of its own."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.support.processes import dying_with_us, free_port, wait_until

ROOT = Path(__file__).parents[2]
HOW_TO_INSTALL = (
    "sydent is needed to try login by an identity server in use:"
    " python3 -m venv .sydent && .sydent/bin/pip install matrix-sydent prometheus-client 'setuptools<80'"
)
API = "/_matrix/identity/api/v1"

_LETTER = """\
Date: %(date)s
From: %(from)s
To: %(to)s
Message-ID: %(messageid)s
Subject: The token
MIME-Version: 1.0
Content-Type: text/plain; charset=UTF-8

    %(token)s
"""


def find_sydent() -> Path | None:
    """Its program, if it is installed; it must have a venv of its own, since it wants older libraries than ours."""
    program = ROOT / ".sydent" / "bin" / "sydent"
    return program if program.exists() else None


class Sydent:
    """It, on a free port of this machine.

    :param folder: where it keeps everything; must exist.
    :param smtp_port: of the mail server by which it sends tokens.
    """

    def __init__(self, program: Path, folder: Path, smtp_port: int) -> None:
        self.port = free_port()
        brand = folder / "templates" / "matrix-org"
        brand.mkdir(parents=True)
        (brand / "verification_template.eml").write_text(_LETTER)
        (brand / "verify_response_template.html").write_text("%(message)s")
        (brand / "invite_template.eml").write_text(_LETTER)
        (folder / "sydent.conf").write_text(
            f"""\
[general]
server.name = localhost
templates.path = {folder / "templates"}
ip.whitelist = 127.0.0.1
[db]
db.file = {folder / "sydent.db"}
[http]
clientapi.http.bind_address = 127.0.0.1
clientapi.http.port = {self.port}
federation.verifycerts = false
[email]
email.from = Sydent <sydent@localhost>
email.smtphost = 127.0.0.1
email.smtpport = {smtp_port}
email.tlsmode = 0
email.ratelimit_sender.burst = 1000
"""
        )
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program],
                cwd=folder,
                env={**os.environ, "SYDENT_CONF": str(folder / "sydent.conf")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=dying_with_us(signal.SIGKILL),
            )
        try:
            wait_until("sydent to answer", self._answers)
        except BaseException as error:
            self.stop()
            error.add_note(f"Its log:\n{self._log.read_text(errors='replace')}")
            raise

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def name(self) -> str:
        """How clients call it."""
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def request_token(self, email: str) -> dict[str, str]:
        """Have it send a token to an address; what the client then shows to a home server."""
        secret = secrets.token_hex(8)
        asked = {"email": email, "client_secret": secret, "send_attempt": 1}
        answer = self._call("POST", "/validate/email/requestToken", asked)
        return {"sid": str(answer["sid"]), "clientSecret": secret, "idServer": self.name}

    def submit_token(self, credentials: dict[str, str], token: str) -> None:
        """Show it the token."""
        shown = {"sid": credentials["sid"], "client_secret": credentials["clientSecret"], "token": token}
        answer = self._call("POST", "/validate/email/submitToken", shown)
        assert answer.get("success") is True, answer

    def lookup(self, email: str) -> str | None:
        """Whose an address is, as far as it knows."""
        return self._call("GET", f"/lookup?{urlencode({'medium': 'email', 'address': email})}").get("mxid")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, API + path, content, {"Content-Type": "application/json"})
            return dict(json.loads(connection.getresponse().read()))
        finally:
            connection.close()

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError("sydent ended before it served")
        try:
            self._call("GET", "")
        except (ConnectionError, TimeoutError):
            return False
        return True
