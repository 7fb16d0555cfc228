#!/usr/bin/env python3
"""A small policy server, as an example: it refuses what holds certain words, and users of certain servers.

    python3 policy_server.py --port 8765 --word casino --server spam.example.org

A home server that is to ask it has in its settings:

    policy:
      servers:
        - url: http://127.0.0.1:8765/check
          hooks: [registration, invites, room_creation, local_sends, remote_sends]

It needs nothing but Python. It does not check the signature of the request, and so should listen where nobody but the
home server can ask.
"""

from __future__ import annotations

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: For how long a home server may remember that all of a server's users are refused, in seconds.
REMEMBERED = 60


def verdict(question: dict[str, Any], words: list[str], servers: list[str]) -> dict[str, Any]:
    """What is answered to a question."""
    server = question.get("user_id", "").partition(":")[2]
    if server in servers:
        return {
            "allow": False,
            "reason": f"Users of {server} are not welcome here.",
            "cache": {"seconds": REMEMBERED, "for": "user"},
        }
    # All that a question says is searched: the content of an event, the name of a room, the name of a new user.
    parts = [question.get(key) for key in ("user_id", "event", "room", "content")]
    said = json.dumps(parts, ensure_ascii=False).lower()
    for word in words:
        if word.lower() in said:
            return {"allow": False, "reason": f"Nobody may say {word!r} here."}
    return {"allow": True}


def handler(words: list[str], servers: list[str]) -> type[BaseHTTPRequestHandler]:
    """What answers requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Answer a question."""
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(verdict(question, words, servers)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write nothing for each request."""

    return Handler


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description="An example of a policy server.")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--word", action="append", default=[], help="a word that nobody may say")
    parser.add_argument("--server", action="append", default=[], help="a server whose users are refused")
    arguments = parser.parse_args()
    ThreadingHTTPServer(("127.0.0.1", arguments.port), handler(arguments.word, arguments.server)).serve_forever()


if __name__ == "__main__":
    main()
