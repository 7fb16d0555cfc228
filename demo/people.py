"""Who lives on the servers of the demo, and how they speak to them: by the API v1, as any client does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection, HTTPException
from itertools import count
from typing import Any
from urllib.parse import quote, urlencode

from servers import HERE, DemoError, Server, shown

API = "/_matrix/client/api/v1"
UPLOAD = "/_matrix/media/v1/upload"
#: By their user names, one on each server.
NAMES = {"alice": "Alice", "bob": "Bob", "carol": "Carol"}
PASSWORD = "tea-for-three"
#: How long anything may take. A server that was away is tried again after 1, 2, 4 ... seconds, and so, at the latest,
#: after as long as it was away.
PATIENCE_SECONDS = 90

Json = dict[str, Any]


class Refused(DemoError):
    """A server has answered with an error."""

    def __init__(self, request: str, status: int, answer: Json) -> None:
        super().__init__(f"{request}: {status} {answer.get('errcode')} {answer.get('error')}")
        self.errcode = answer.get("errcode")


class Person:
    """Somebody with an account on one of the servers, who follows the event stream there."""

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self.server = server
        self.user_id = f"@{name}:{server.name}"
        self._token = ""
        self._position = ""
        self._transactions = count(time.time_ns())
        #: What the event stream has told since `listen`.
        self.heard: list[Json] = []

    def call(self, method: str, path: str, body: Json | None = None, **query: Any) -> Json:
        """Ask the server for something.

        :raises Refused: it answers with an error.
        :raises DemoError: it does not answer.
        """
        return self._request(method, API + path, None if body is None else json.dumps(body).encode(), **query)

    def upload(self, picture: bytes) -> str:
        """Give the server a PNG to keep; its address, as others are told of it."""
        return str(self._request("POST", UPLOAD, picture, "image/png")["content_uri"])

    def _request(
        self, method: str, path: str, body: bytes | None, kind: str = "application/json", **query: Any
    ) -> Json:
        if self._token:
            query["access_token"] = self._token
        connection = HTTPConnection("127.0.0.1", self.server.client_port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, f"{path}?{urlencode(query)}", body, {"Content-Type": kind})
            response = connection.getresponse()
            answer: Json = json.loads(response.read())
        except (OSError, HTTPException, ValueError) as error:
            raise DemoError(f"{self.server.name} does not answer: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise Refused(f"{self.name}: {method} {path}", response.status, answer)
        return answer

    def enter(self) -> None:
        """Get an account, or log in to the one from the last time.

        :raises DemoError: somebody has given it another password.
        """
        who: Json = {"type": "m.login.password", "user": self.name, "password": PASSWORD}
        try:
            answer = self.call("POST", "/register", who)
        except Refused as refusal:
            if refusal.errcode != "M_USER_IN_USE":
                raise
            answer = self._log_in(who)
        self._token = answer["access_token"]
        self._position = self.call("GET", "/events", timeout=0)["end"]

    def _log_in(self, who: Json) -> Json:
        try:
            return self.call("POST", "/login", who)
        except Refused as refusal:
            if refusal.errcode != "M_FORBIDDEN":
                raise
            anew = f"{shown(HERE / 'clean.sh')} && {shown(HERE / 'start.sh')}"
            raise DemoError(f"{self.user_id} has another password than {PASSWORD}. To begin anew: {anew}") from None

    def leave(self) -> None:
        """Log out."""
        self.call("POST", "/logout", {})
        self._token = ""

    def listen(self, what: str, is_it: Callable[[Json], bool]) -> Json:
        """Wait until the event stream brings an event.

        :param what: what is waited for, in words.
        :param is_it: whether an event is the one.
        :raises DemoError: it has not come in time.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            for event in self.heard:
                if is_it(event):
                    return event
            if time.monotonic() > deadline:
                raise DemoError(f"{self.name} has waited {PATIENCE_SECONDS} s in vain for {what}.")
            query: Json = {"from": self._position, "timeout": 5000}
            news = self.call("GET", "/events", **query)
            self._position = news["end"]
            self.heard += news["chunk"]

    def say(self, room: str, text: str) -> None:
        """Say something in a room."""
        path = f"/rooms/{quote(room)}/send/m.room.message/{next(self._transactions)}"
        self.call("PUT", path, {"msgtype": "m.text", "body": text})

    def hear(self, room: str, text: str) -> None:
        """Wait until somebody has said something."""
        self.listen(f"“{text}”", lambda event: event.get("room_id") == room and _body(event) == text)

    def heard_in(self, room: str) -> list[str]:
        """What the event stream has told of a room, as lines."""
        return _lines(event for event in self.heard if event.get("room_id") == room)

    def history_of(self, room: str) -> list[str]:
        """The history of a room as the server keeps it, as lines."""
        page = self.call("GET", f"/rooms/{quote(room)}/messages", dir="b", limit=100)
        return _lines(reversed(page["chunk"]))

    def state_of(self, room: str) -> set[tuple[str, str, str]]:
        """The state of a room: which events say what holds now."""
        path = f"/rooms/{quote(room)}/state"
        return {(event["type"], event["state_key"], event["event_id"]) for event in self.call_list(path)}

    def call_list(self, path: str) -> list[Json]:
        """Ask for what is answered with a list."""
        answer: Any = self.call("GET", path)
        return list(answer)


def _body(event: Json) -> object:
    return event["content"].get("body") if event["type"] == "m.room.message" else None


def _lines(events: Iterator[Json] | Sequence[Json]) -> list[str]:
    """What is said among events: `alice: Hello`."""
    return [f"{event['user_id'][1:].partition(':')[0]}: {_body(event)}" for event in events if _body(event)]
