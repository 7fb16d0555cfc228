"""A small identity server for tests: as much of API v1 as a home server asks of one.

It is honest: it confirms an address only in a session in which it was validated, to who knows the session's secret. Who
validates addresses is the test itself.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.processes import free_port

API = "/_matrix/identity/api/v1"


@dataclass(frozen=True)
class Session:
    """A session in which somebody validates an address; `validated_at` in ms, None if not yet."""

    sid: str
    client_secret: str
    medium: str
    address: str
    validated_at: int | None


class IdentityServer:
    """The server, on a thread of its own; `stop` and `start` leave its sessions alone.

    :ivar bound: the user of each address that it was told of.
    :ivar asked: the paths that were asked for.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.bound: dict[str, str] = {}
        self.asked: list[str] = []
        #: What it answers to everything, if that is to be nonsense.
        self.nonsense: bytes | None = None
        self._sessions: dict[str, Session] = {}
        self._server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def name(self) -> str:
        """How clients call it."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def session(
        self, address: str, *, medium: str = "email", age_seconds: float = 0, is_validated: bool = True
    ) -> dict[str, str]:
        """Have an address validated; what the client then shows to a home server."""
        at = int((time.time() - age_seconds) * 1000) if is_validated else None
        session = Session(secrets.token_hex(8), secrets.token_hex(8), medium, address, at)
        self._sessions[session.sid] = session
        return {"sid": session.sid, "clientSecret": session.client_secret, "idServer": self.name}

    def answer(self, method: str, target: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """What it says to a request."""
        parts = urlsplit(target)
        self.asked.append(parts.path)
        if (method, parts.path) == ("GET", API):
            return 200, {}
        given = form or {key: values[0] for key, values in parse_qs(parts.query).items()}
        session = self._sessions.get(given.get("sid", ""))
        if session is None or session.client_secret != given.get("client_secret"):
            return 404, {"errcode": "M_NO_VALID_SESSION", "error": "No such session"}
        if session.validated_at is None:
            return 400, {"errcode": "M_SESSION_NOT_VALIDATED", "error": "Not validated yet"}
        found = {"medium": session.medium, "address": session.address}
        if (method, parts.path) == ("GET", f"{API}/3pid/getValidated3pid"):
            return 200, {**found, "validated_at": session.validated_at}
        if (method, parts.path) == ("POST", f"{API}/3pid/bind"):
            self.bound[session.address] = given["mxid"]
            return 200, {**found, "mxid": given["mxid"], "ts": session.validated_at}
        return 404, {"errcode": "M_UNRECOGNIZED", "error": "No such path"}


def _handler(server: IdentityServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            form = {key: values[0] for key, values in parse_qs(body).items()}
            status, found = server.answer(self.command, self.path, form)
            content = json.dumps(found).encode() if server.nonsense is None else server.nonsense
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815 - the library's names

        def log_message(self, *_: object) -> None:
            pass

    return Handler
