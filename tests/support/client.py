"""A small synchronous client of API v1.

`Client` is one login on one connection. Its methods are the calls of the API; an answer other than 200 is raised as
`ApiError`, and `refused(status, errcode)` is how a test expects one. `Client.start` sends a request without waiting for
the answer, which is how long polls and concurrent requests are made without threads.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPMessage, RemoteDisconnected
from itertools import count
from typing import Any, Protocol
from urllib.parse import quote as percent_encode
from urllib.parse import urlencode

PREFIX = "/_matrix/client/api/v1"
PASSWORD = "correct horse"

Json = dict[str, Any]

#: Percent-encode one segment of a path.
quote = partial(percent_encode, safe="")


class ApiError(AssertionError):
    """An answer other than 200; it fails a test that does not expect it."""

    def __init__(self, request: str, answer: Answer) -> None:
        super().__init__(f"{request} was answered with {answer.status}: {answer.body[:2000]!r}")
        self.status = answer.status
        self.answer = answer

    @property
    def errcode(self) -> str:
        """The Matrix error code."""
        return str(self.answer.json["errcode"])

    @property
    def sentence(self) -> str:
        """What is told to the person."""
        return str(self.answer.json["error"])


@contextmanager
def refused(status: int, errcode: str) -> Iterator[None]:
    """Expect a call to be refused in just this way, with a sentence for the user."""
    __tracebackhide__ = True
    try:
        yield
    except ApiError as error:
        refusal = error
    else:
        raise AssertionError(f"expected {status} {errcode}, but it was allowed")
    assert (refusal.status, refusal.errcode) == (status, errcode), f"expected {status} {errcode}, but {refusal}"
    assert refusal.sentence, f"no sentence for the user: {refusal}"


forbidden = partial(refused, 403, "M_FORBIDDEN")
bad_json = partial(refused, 400, "M_BAD_JSON")
not_found = partial(refused, 404, "M_NOT_FOUND")


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Pending:
    """A request that was sent, and whose answer nobody has read yet."""

    def __init__(self, connection: HTTPConnection, request: str) -> None:
        self._connection = connection
        self._request = request

    def is_waiting(self) -> bool:
        """Whether no byte of the answer has come."""
        readable, _, _ = select.select([self._connection.sock], [], [], 0)
        return not readable

    def answer(self, within: float = 20) -> Answer:
        """Read the answer, whatever it is.

        :param within: seconds until the test fails.
        """
        assert self._connection.sock is not None, "the answer was read already"
        self._connection.sock.settimeout(within)
        response = self._connection.getresponse()
        answer = Answer(response.status, response.headers, response.read())
        self._connection.close()
        return answer

    def json(self, within: float = 20) -> Any:
        """Read the answer, which must be 200.

        :raises ApiError: it is not.
        """
        answer = self.answer(within)
        if answer.status != 200:
            raise ApiError(self._request, answer)
        return answer.json

    def abandon(self) -> None:
        """Go away without the answer."""
        self._connection.close()


class Home(Protocol):
    """A home server, as its clients know it."""

    @property
    def name(self) -> str:
        """What stands behind the colon in the names of its users."""

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect."""


class Client:
    """One login, or none yet, at one server; `token` and `user_id` are empty until there is one.

    `room_version` is that of the rooms that `create_room` makes; None leaves the choice to the server.
    """

    def __init__(self, server: Home, *, token: str = "", user_id: str = "", room_version: str | None = None) -> None:
        self.server = server
        self.token = token
        self.user_id = user_id
        self.room_version = room_version
        self._connection = self._connect()
        self._transactions = count(1)

    def another_connection(self) -> Client:
        """The same login on a connection of its own."""
        return Client(self.server, token=self.token, user_id=self.user_id, room_version=self.room_version)

    def new_txn(self) -> str:
        """A transaction ID that this client has not used."""
        return f"txn-{next(self._transactions)}"

    # Any request.

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        **query: object,
    ) -> Answer:
        """Make a request and read the answer, whatever it is.

        :param path: below the API's prefix unless it begins with another root; already percent-encoded.
        :param body: bytes are sent as they are, None is no body, anything else is sent as JSON.
        :param token: the access token instead of the client's own; empty for none.
        :param query: further query parameters; those that are None are left out.
        """
        prepared = self._prepare(path, body, token, headers, query)
        was_used = self._connection.sock is not None
        try:
            return self._exchange(method, *prepared)
        except (RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            if not was_used:
                raise
            # The server may have closed the connection while it was idle, or been restarted since.
            return self._exchange(method, *prepared)

    def _exchange(self, method: str, target: str, data: bytes | None, headers: Mapping[str, str]) -> Answer:
        try:
            self._connection.request(method, target, data, headers)
            response = self._connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        except BaseException:
            self._connection.close()  # the next request opens it anew
            raise

    def call(self, method: str, path: str, body: object = None, **options: Any) -> Any:
        """Make a request that must be answered with 200.

        :returns: the answer's JSON.
        :raises ApiError: another status.
        """
        __tracebackhide__ = True
        answer = self.request(method, path, body, **options)
        if answer.status != 200:
            raise ApiError(f"{method} {path}", answer)
        return answer.json

    def start(
        self, method: str, path: str, body: object = None, *, token: str | None = None, **query: object
    ) -> Pending:
        """Send a request on a connection of its own, and leave its answer for later."""
        target, data, headers = self._prepare(path, body, token, None, query)
        connection = self._connect()
        connection.request(method, target, data, headers)
        return Pending(connection, f"{method} {path}")

    def _prepare(
        self,
        path: str,
        body: object,
        token: str | None,
        headers: Mapping[str, str] | None,
        query: Mapping[str, object],
    ) -> tuple[str, bytes | None, dict[str, str]]:
        if token is None:
            token = self.token
        parameters = {key: value for key, value in query.items() if value is not None}
        if token:
            parameters["access_token"] = token
        target = path if path.startswith(("/_matrix", "/health")) else PREFIX + path
        if parameters:
            target += ("&" if "?" in target else "?") + urlencode(parameters)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        return target, data, {"Content-Type": "application/json", **(headers or {})}

    def _connect(self) -> HTTPConnection:
        return HTTPConnection(*self.server.address, timeout=60)

    # Accounts.

    def register(self, name: str, password: str = PASSWORD) -> Client:
        """Make an account and be logged in to it."""
        return self._log_in("/register", name, password)

    def login(self, name: str, password: str = PASSWORD) -> Client:
        """Log in."""
        return self._log_in("/login", name, password)

    def _log_in(self, path: str, name: str, password: str) -> Client:
        body = {"type": "m.login.password", "user": name, "password": password}
        answer = self.call("POST", path, body, token="")
        self.token, self.user_id = answer["access_token"], answer["user_id"]
        return self

    # Profiles.

    def profile(self, user: Client | str, **options: Any) -> Json:
        """What this client may see of somebody's profile.

        :param options: `token=""` to ask as nobody.
        """
        return dict(self.call("GET", f"/profile/{quote(id_of(user))}", **options))

    def profile_field(self, user: Client | str, field: str, **options: Any) -> Json:
        """One field of it, as the object that it is answered in."""
        return dict(self.call("GET", f"/profile/{quote(id_of(user))}/{quote(field)}", **options))

    def tell(self, field: str, value: object, visibility: str | None = None) -> None:
        """Set a field of one's own profile.

        :param visibility: not said if left out.
        """
        body = {field: value} | ({} if visibility is None else {"visibility": visibility})
        self.call("PUT", f"/profile/{quote(self.user_id)}/{quote(field)}", body)

    # Rooms and membership.

    def create_room(self, **options: object) -> str:
        """Create a room.

        :param options: the body of createRoom.
        :returns: the room's ID.
        """
        version = {} if self.room_version is None else {"room_version": self.room_version}
        return str(self.call("POST", "/createRoom", version | options)["room_id"])

    def join(self, room: str) -> str:
        """Join a room by its ID or alias.

        :returns: the room's ID.
        """
        return str(self.call("POST", f"/join/{quote(room)}", {})["room_id"])

    def leave(self, room: str) -> None:
        self.call("POST", f"/rooms/{quote(room)}/leave", {})

    def invite(self, room: str, user: Client | str) -> None:
        self._about(room, "invite", user)

    def kick(self, room: str, user: Client | str, reason: str | None = None) -> None:
        self._about(room, "kick", user, reason)

    def ban(self, room: str, user: Client | str, reason: str | None = None) -> None:
        self._about(room, "ban", user, reason)

    def unban(self, room: str, user: Client | str) -> None:
        self._about(room, "unban", user)

    def _about(self, room: str, action: str, user: Client | str, reason: str | None = None) -> None:
        body = {"user_id": id_of(user)} | ({} if reason is None else {"reason": reason})
        self.call("POST", f"/rooms/{quote(room)}/{action}", body)

    # Power, in rooms of any version.

    def give_power(self, room: str, levels: Mapping[str, int]) -> None:
        """Give users power levels of their own; those of others stay."""
        content = self.state_content(room, "m.room.power_levels")
        content.get("users", content).update(levels)
        self.set_state(room, "m.room.power_levels", content)

    def set_operators_levels(self, room: str, *, ban: int = 50, kick: int = 50, redact: int = 50) -> None:
        """Say what it takes to ban, to kick and to redact."""
        content = self.state_content(room, "m.room.power_levels")
        if "users" in content:
            self.set_state(room, "m.room.power_levels", content | {"ban": ban, "kick": kick, "redact": redact})
        else:
            levels = {"ban_level": ban, "kick_level": kick, "redact_level": redact}
            self.set_state(room, "m.room.ops_levels", levels)

    # Saying things.

    def send(self, room: str, text: str) -> str:
        """Send a text message, once.

        :returns: the event's ID.
        """
        return self.send_event(room, "m.room.message", {"msgtype": "m.text", "body": text})

    def send_event(self, room: str, event_type: str, content: object, txn: str | None = None) -> str:
        """Send an event that is not state.

        :param txn: the transaction ID; a new one if left out.
        :returns: the event's ID.
        """
        txn = self.new_txn() if txn is None else txn
        path = f"/rooms/{quote(room)}/send/{quote(event_type)}/{quote(txn)}"
        return str(self.call("PUT", path, content)["event_id"])

    def redact(self, room: str, event_id: str, reason: str | None = None) -> str:
        """Redact an event.

        :returns: the redaction's event ID.
        """
        body = {} if reason is None else {"reason": reason}
        return str(self.call("POST", f"/rooms/{quote(room)}/redact/{quote(event_id)}", body)["event_id"])

    def set_state(self, room: str, event_type: str, content: object, key: str | None = None, **query: object) -> str:
        """Set a piece of state.

        :param key: the state key; left out of the path if None, which means the empty one.
        :param query: `required_power_level`, if wanted.
        :returns: the event's ID.
        """
        return str(self.call("PUT", state_path(room, event_type, key), content, **query)["event_id"])

    # Reading.

    def state_content(self, room: str, event_type: str, key: str | None = None) -> Any:
        """The content of one piece of state."""
        return self.call("GET", state_path(room, event_type, key))

    def state(self, room: str) -> list[Json]:
        """All current state of a room."""
        return list(self.call("GET", f"/rooms/{quote(room)}/state"))

    def state_event(self, room: str, event_type: str, key: str = "") -> Json:
        """One piece of state as a whole event."""
        [event] = [event for event in self.state(room) if (event["type"], event["state_key"]) == (event_type, key)]
        return event

    def members(self, room: str) -> dict[str, str]:
        """The membership of everyone a room knows, by user ID."""
        chunk = self.call("GET", f"/rooms/{quote(room)}/members")["chunk"]
        return {event["state_key"]: event["content"]["membership"] for event in chunk}

    def event(self, event_id: str) -> Json:
        """One event."""
        return dict(self.call("GET", f"/events/{quote(event_id)}"))

    def present(self) -> str:
        """The stream token of now."""
        return str(self.events(timeout=0)["end"])

    def events(self, since: str | None = None, timeout: int = 0) -> Json:
        """What is new in the event stream.

        :param since: the token to go on from; the present if left out.
        :param timeout: how long to wait if there is nothing, in milliseconds.
        """
        return dict(self.call("GET", "/events", **{"from": since, "timeout": timeout}))

    def poll(self, since: str | None = None, timeout: int = 30_000) -> Pending:
        """Begin a long poll."""
        query: Json = {"from": since, "timeout": timeout}
        return self.start("GET", "/events", **query)

    def events_until(self, since: str, event_id: str, seconds: float = 20) -> tuple[list[Json], str]:
        """Follow the event stream until an event has come.

        :returns: all events on the way in their order, and the token behind them.
        """
        deadline = time.monotonic() + seconds
        seen: list[Json] = []
        while not any(event.get("event_id") == event_id for event in seen):
            assert time.monotonic() < deadline, f"{event_id} never came, only {seen}"
            page = self.events(since, timeout=1000)
            seen += page["chunk"]
            since = page["end"]
        return seen, since

    def messages(self, room: str, **query: object) -> Json:
        """One page of a room's history; `from_` stands for the parameter `from`."""
        query = {key.rstrip("_"): value for key, value in query.items()}
        return dict(self.call("GET", f"/rooms/{quote(room)}/messages", **query))

    def history(self, room: str) -> list[Json]:
        """The last thousand events of a room, oldest first."""
        return list(reversed(self.messages(room, dir="b", limit=1000)["chunk"]))

    def initial_sync(self, **query: object) -> Json:
        return dict(self.call("GET", "/initialSync", **query))

    def room_initial_sync(self, room: str, **query: object) -> Json:
        return dict(self.call("GET", f"/rooms/{quote(room)}/initialSync", **query))

    def synced_rooms(self) -> dict[str, Json]:
        """The rooms of initialSync, by their IDs."""
        return {room["room_id"]: room for room in self.initial_sync(limit=5)["rooms"]}


class Pipeline:
    """One raw connection on which requests are sent without waiting for the answers before them."""

    def __init__(self, server: Home) -> None:
        self._socket = socket.create_connection(server.address, timeout=20)
        self._reader = self._socket.makefile("rb")

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        self._socket.close()

    def send(self, client: Client, method: str, path: str, body: object = None, **query: object) -> None:
        """Send a request of this client's."""
        query["access_token"] = client.token
        target = f"{PREFIX}{path}?{urlencode(query)}"
        data = b"" if body is None else json.dumps(body).encode()
        self.send_raw(
            f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
        )

    def send_raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self) -> Answer:
        """Read the next answer."""
        status_line = self._reader.readline().decode()
        if not status_line:
            raise RemoteDisconnected("the server closed the connection")
        headers = HTTPMessage()
        while line := self._reader.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name] = value.strip()
        length = int(headers.get("Content-Length", "0"))
        return Answer(int(status_line.split()[1]), headers, self._reader.read(length))

    def refuses(self) -> bool:
        """Whether the server answers with an error of the client's, or closes without a word."""
        try:
            return 400 <= self.answer().status < 500
        except ConnectionError:
            return True


def id_of(user: Client | str) -> str:
    """The user ID of somebody."""
    return user.user_id if isinstance(user, Client) else user


def state_path(room: str, event_type: str, key: str | None = None) -> str:
    """The path of a piece of state."""
    path = f"/rooms/{quote(room)}/state/{quote(event_type)}"
    return path if key is None else f"{path}/{quote(key)}"


def texts(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """The bodies of the messages among events, in their order."""
    return [event["content"].get("body") for event in events if event["type"] == "m.room.message"]


def ids(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """The IDs of events, in their order."""
    return [event["event_id"] for event in events]
