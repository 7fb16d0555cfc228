"""An identity server in a process of its own, and what one asks of it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import yaml
from signedjson.key import encode_verify_key_base64, get_verify_key, read_signing_keys

from tests.support.client import Answer, ApiError
from tests.support.command_line import must_do
from tests.support.processes import dying_with_us, free_port, wait_until
from tests.support.server import ROOT
from tests.support.smtp_server import SmtpServer

API = "/_matrix/identity/api/v1"
Json = dict[str, Any]

#: Settings for tests of something else than these.
QUICK: Mapping[str, object] = {
    "rate_limits.enabled": False,
    "home_servers.allow_private_addresses": True,
    "home_servers.verify_certificates": False,
}


class IdentityServer:
    """One identity server with its data directory.

    :param data_dir: where it keeps everything; made by the server itself.
    :param mail: the mail server that it hands its mail over to.
    :param database: `sqlite`, or the URL of an empty PostgreSQL database.
    :param settings: what its configuration says beside the defaults.
    """

    def __init__(
        self,
        data_dir: Path,
        mail: SmtpServer,
        database: str = "sqlite",
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.mail = mail
        self.database = database
        self.port = free_port()
        self.name = f"localhost:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self._secrets = (f"secret{number}" for number in count(1))
        mail_settings = {"mail.host": "127.0.0.1", "mail.port": mail.port, "mail.security": "none"}
        chosen = {**QUICK, **mail_settings, **(settings or {})}
        sets = [word for key, value in chosen.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        must_do(
            *("identity", "init", "--data-dir", str(data_dir), "--server-name", self.name),
            *("--port", str(self.port), "--database", database, *sets),
        )

    @property
    def config(self) -> Path:
        """Its settings file."""
        return self.data_dir / "identity.yaml"

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def public_key(self) -> str:
        """Its key, as its siblings have it in their settings."""
        with (self.data_dir / "signing.key").open() as file:
            key = read_signing_keys(file)[0]
        return f"{key.alg}:{key.version} {encode_verify_key_base64(get_verify_key(key))}"

    def log(self) -> str:
        """What it wrote to standard output and error, over all its starts."""
        return (self.data_dir / "server.log").read_text(errors="replace")

    def set(self, **settings: object) -> None:
        """Change its settings; it must be started anew."""
        values = yaml.safe_load(self.config.read_text())
        values.update(settings)
        self.config.write_text(yaml.safe_dump(values))

    def know(self, siblings: Sequence[IdentityServer]) -> None:
        """Give it siblings."""
        self.set(
            siblings=[
                {"name": sibling.name, "url": sibling.url, "public_keys": [sibling.public_key]} for sibling in siblings
            ]
        )

    def start(self) -> IdentityServer:
        """Start it, and wait until it serves."""
        with (self.data_dir / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "synapse_like", "identity", "run", "--config", self.config],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=dying_with_us(signal.SIGKILL),
            )
        wait_until("the identity server's health", self._is_healthy)
        return self

    def kill9(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None, "it was never started"
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """Send SIGTERM and wait for its end; the exit code."""
        assert self.process is not None, "it was never started"
        self.process.terminate()
        return self.process.wait(timeout=30)

    def close(self) -> None:
        """Make sure that it does not run any more."""
        if self.process is not None and self.process.poll() is None:
            self.kill9()

    def command(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of the operator's commands on its settings."""
        return self._run("identity", name, "--config", str(self.config), *arguments)

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "synapse_like", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _is_healthy(self) -> bool:
        assert self.process is not None, "it was never started"
        if self.process.poll() is not None:
            raise RuntimeError(f"the identity server ended before it served:\n{self.log()}")
        try:
            return self.request("GET", "/health").status == 200
        except ConnectionError:
            return False

    # Asking.

    def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None, **query: object
    ) -> Answer:
        """Make a request and read the answer, whatever it is.

        :param path: below the API's prefix unless it begins with another root.
        :param body: bytes are sent as they are, anything else as JSON.
        """
        target = path if path.startswith(("/_matrix", "/health")) else API + path
        if query:
            target += "?" + urlencode(query)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, target, data, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def call(self, method: str, path: str, body: object = None, **query: Any) -> Any:
        """Make a request that must be answered with 200; the JSON.

        :raises ApiError: another status.
        """
        __tracebackhide__ = True
        answer = self.request(method, path, body, **query)
        if answer.status != 200:
            raise ApiError(f"{method} {path}", answer)
        return answer.json

    # What is often asked.

    def begin(self, email: str, secret: str | None = None, attempt: int = 1, **more: object) -> tuple[str, str]:
        """Ask for a mail to an address; `sid` and secret of the validation."""
        secret = secret or next(self._secrets)
        body = {"email": email, "client_secret": secret, "send_attempt": attempt, **more}
        return self.call("POST", "/validate/email/requestToken", body)["sid"], secret

    def validate(self, email: str) -> tuple[str, str]:
        """Prove that an address is ours, by what is in the mail; `sid` and secret of the validation."""
        sid, secret = self.begin(email)
        link = link_in(self.mail_to(email))
        given = {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}
        assert self.call("POST", "/validate/email/submitToken", given) == {"success": True}
        return sid, secret

    def mail_to(self, email: str) -> str:
        """The text of the next mail, which must be for this address."""
        letter = self.mail.next_letter()
        assert letter.recipient == email.lower()
        return letter.part("plain")

    def bind(self, email: str, mxid: str) -> Json:
        """Prove an address and give it to a user; the association."""
        sid, secret = self.validate(email)
        return dict(self.call("POST", "/3pid/bind", {"sid": sid, "client_secret": secret, "mxid": mxid}))

    def lookup(self, email: str) -> str | None:
        """Whose an address is."""
        found: str | None = self.call("GET", "/lookup", medium="email", address=email).get("mxid")
        return found


def link_in(mail: str) -> str:
    """The link in a mail."""
    found = re.search(r"https?://\S+", mail)
    assert found is not None, f"there is no link in {mail}"
    return found[0]
