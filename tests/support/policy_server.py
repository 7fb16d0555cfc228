"""A policy server for tests, on a thread of its own: it says what the test wants, and notes what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.processes import free_port

Json = dict[str, Any]
ALLOW: Json = {"allow": True}


@dataclass(frozen=True)
class Question:
    """A request, as it came."""

    path: str
    authorization: str
    body: Json


class PolicyServer:
    """The server.

    :ivar verdict: what it says to a question: an object, or bytes that are sent as they are.
    :ivar asked: the questions, in the order in which they came.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.verdict: Callable[[Json], Json | bytes] = lambda question: ALLOW
        self.asked: list[Question] = []
        self._server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/check?as=test"

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Be gone; `start` comes back."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def reset(self) -> None:
        """Allow everything, and forget what was asked."""
        self.verdict = lambda question: ALLOW
        self.asked.clear()

    def refuse(self, word: str, reason: str, seconds: float = 0, **cache: object) -> None:
        """Refuse what holds a word, after a while; allow the rest at once.

        :param cache: what the answer says of how long it holds.
        """

        def verdict(question: Json) -> Json:
            if word not in json.dumps(question):
                return ALLOW
            time.sleep(seconds)
            return {"allow": False, "reason": reason} | ({"cache": cache} if cache else {})

        self.verdict = verdict

    def say(self, answer: bytes) -> None:
        """Say the same to every question."""
        self.verdict = lambda question: answer

    def questions(self, hook: str) -> list[Json]:
        """What was asked at a hook."""
        return [question.body for question in self.asked if question.body["hook"] == hook]


def _handler(server: PolicyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append(Question(self.path, self.headers["Authorization"], body))
            said = server.verdict(body)
            content = said if isinstance(said, bytes) else json.dumps(said).encode()
            try:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # who asked waits no longer

        def log_message(self, *_: object) -> None:
            pass

    return Handler
