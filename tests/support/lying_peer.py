"""A home server of the tests', which speaks to real ones over real TLS and says whatever a test wants.

Left to itself it is honest: it publishes its key, signs its requests, remembers what it is told, hands out what it
knows of its rooms, and lets real servers join those that it has made. A test makes it lie: in its requests by hand, in
its answers by `answers["state"] = lambda asked: …`. What such a function returns is

    a dictionary or list            the JSON of a good answer
    a status and one of these       the same with another status
    an iterator of bytes            what goes over the wire, as it stands, until the iterator ends or the other has gone
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from functools import partial
from http.client import HTTPException, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlencode, urlsplit
from urllib.parse import quote as percent_encode

from signedjson.key import generate_signing_key, get_verify_key
from signedjson.types import SigningKey

from synapse_like.protocol.canonical_json import decode
from synapse_like.protocol.errors import MatrixError
from synapse_like.protocol.events import Pdu
from synapse_like.protocol.request_signing import authorization, encode_content, parse_authorization, verify
from synapse_like.protocol.room_versions import ALL_RULES, rules_for
from synapse_like.protocol.server_keys import ServerKeys, publish, read
from synapse_like.protocol.signing import sign_pdu
from tests.support.certificates import Authority
from tests.support.client import Answer, ApiError
from tests.support.peer_rooms import PeerRoom, now_ms
from tests.support.processes import free_port, wait_until

V1 = "/_matrix/federation/v1"
V2 = "/_matrix/federation/v2"
KEYS = "/_matrix/key/v2"
KEYS_VALID_MS = 24 * 3600 * 1000

Json = dict[str, Any]
quote = partial(percent_encode, safe="")


@dataclass
class Asked:
    """What another server asked.

    :ivar kind: the first segment of the path behind its prefix: `send`, `make_join`, …; `keys` and `key_query`.
    :ivar parameters: the other segments, decoded.
    :ivar origin: who it claims to be; empty if it does not say.
    :ivar is_over: whether the other end has gone before the whole answer was out.
    """

    method: str
    uri: str
    kind: str
    parameters: list[str]
    query: dict[str, list[str]]
    headers: Message
    content: Any
    origin: str = ""
    is_over: threading.Event = field(default_factory=threading.Event)


Answerer = Callable[[Asked], object]


class NotHere(Exception):
    """What was asked for is not known; answered with 404."""


class Named(Protocol):
    """A server: a real one, or another of these."""

    @property
    def name(self) -> str: ...


class LyingPeer:
    """One such server; use it as a context.

    :param host: its name without the port; the certificate is good for it.
    :ivar key: what it signs with.
    :ivar asked: all that it was asked, in order of arrival.
    :ivar answers: how it answers, by kind; a test may put its own functions there.
    :ivar rooms: those it knows, by ID.
    :ivar aliases: what it answers when it is asked for an alias.
    :ivar faults: what went wrong in it that no test has wanted to.
    """

    def __init__(self, authority: Authority, host: str = "localhost") -> None:
        self._authority = authority
        self._context = ssl.create_default_context(cafile=str(authority.file))
        files = authority.certify(host)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.private_key)
        self._server = _Server(self, context)
        self._numbers = count(1)
        #: Connections that each thread has to others.
        self._kept: dict[tuple[int, str], HTTPSConnection] = {}
        self._keys_of: dict[str, ServerKeys] = {}
        self.name = f"{host}:{self._server.server_address[1]}"
        self.key: SigningKey = generate_signing_key("lie")
        self.asked: list[Asked] = []
        self.answers: dict[str, Answerer] = {}
        self.rooms: dict[str, PeerRoom] = {}
        self.aliases: dict[str, str] = {}
        self.faults: list[str] = []
        self.forget_answers()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name=self.name, daemon=True)
        self._thread.start()

    def __enter__(self) -> LyingPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and all its connections."""
        self._server.shutdown()
        self._server.server_close()
        self._server.end_all()
        self._thread.join()
        for connection in self._kept.values():
            connection.close()

    def user(self, name: str) -> str:
        """The ID of a user of this server."""
        return f"@{name}:{self.name}"

    # Asking.

    def request(
        self, server: Named | str, method: str, uri: str, content: Any = None, *, header: str | None = None
    ) -> Answer:
        """Ask a server.

        :param header: the authorization, if it is not to be signed as it should; empty for none.
        """
        name = server if isinstance(server, str) else server.name
        body = None if content is None else content if isinstance(content, bytes) else encode_content(content)
        if header is None:
            header = self.authorization(name, method, uri, body)
        headers = {"Content-Type": "application/json"} | ({"Authorization": header} if header else {})
        connection = self._kept.pop((threading.get_ident(), name), None)
        if connection is not None:
            with suppress(OSError, HTTPException):  # it may have been closed since
                return self._exchange(connection, name, method, uri, body, headers)
        connection = HTTPSConnection(name, timeout=60, context=self._context)
        return self._exchange(connection, name, method, uri, body, headers)

    def _exchange(
        self,
        connection: HTTPSConnection,
        name: str,
        method: str,
        uri: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> Answer:
        """Make a request on a connection, and keep it for the next one if that is well."""
        is_whole = False
        try:
            # Who has heard enough may answer and go before all is said.
            with suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                connection.request(method, uri, body, headers)
                is_whole = True
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
        except BaseException:
            connection.close()
            raise
        if is_whole:
            self._kept[threading.get_ident(), name] = connection
        else:
            connection.close()
        return answer

    def authorization(
        self,
        destination: str,
        method: str,
        uri: str,
        body: bytes | None,
        *,
        origin: str | None = None,
        key: SigningKey | None = None,
    ) -> str:
        """The header by which a request is signed."""
        return authorization(
            method=method,
            uri=uri,
            origin=origin or self.name,
            destination=destination,
            content=body,
            key=key or self.key,
        )

    def ask(
        self, server: Named | str, method: str, path: str, content: Any = None, *, prefix: str = V1, **query: Any
    ) -> Any:
        """Ask for what must be answered with 200, signed.

        :raises ApiError: it is answered with another status.
        """
        __tracebackhide__ = True
        uri = prefix + path + (f"?{urlencode(query, doseq=True)}" if query else "")
        answer = self.request(server, method, uri, content)
        if answer.status != 200:
            raise ApiError(f"{method} {uri}", answer)
        return decode(answer.body)

    def send(
        self,
        server: Named,
        pdus: Sequence[Any] = (),
        edus: Sequence[Any] = (),
        txn: str | None = None,
        **lies: Any,
    ) -> dict[str, Json]:
        """Send a transaction, and give what is said of its PDUs.

        :param lies: fields of the transaction that are to be something else.
        """
        txn = txn or f"{next(self._numbers)}"
        body = {
            "transaction_id": txn,
            "origin": self.name,
            "destination": server.name,
            "ts": now_ms(),
            "origin_server_ts": now_ms(),
            "prev_ids": [],
            "pdus": list(pdus),
            "edus": list(edus),
        }
        results: dict[str, Json] = self.ask(server, "PUT", f"/send/{quote(txn)}/", body | lies)["pdus"]
        return results

    def join(self, server: Named, room_id: str, user_id: str) -> PeerRoom:
        """Join a room through a server that is in it, and be honest about it."""
        room, template = self.begin(server, "join", room_id, user_id)
        join = room.complete(template)
        self.finish_join(server, room, join)
        return room

    def begin(self, server: Named, step: str, room_id: str, user_id: str) -> tuple[PeerRoom, Pdu]:
        """Ask for the template of a join, leave or knock; the room is known only by name then."""
        versions = [rules.name for rules in ALL_RULES]
        answer = self.ask(server, "GET", f"/make_{step}/{quote(room_id)}/{quote(user_id)}", ver=versions)
        return PeerRoom(rules_for(answer["room_version"]), room_id, self.name, self.key), answer["event"]

    def finish(self, server: Named, step: str, room: PeerRoom, pdu: Pdu) -> Json:
        """Hand over what was begun."""
        path = f"/send_{step}/{quote(room.room_id)}/{quote(room.id_of(pdu))}"
        answer: Json = self.ask(server, "PUT", path, pdu, prefix=V1 if step == "knock" else V2)
        return answer

    def finish_join(self, server: Named, room: PeerRoom, join: Pdu) -> None:
        """Hand a join over, and know the room from then on."""
        answer = self.finish(server, "join", room, join)
        room.enter(answer.get("event", join), answer["state"], answer["auth_chain"])
        self.rooms[room.room_id] = room

    def host(self, version: str, creator: str, *, is_public: bool = True) -> PeerRoom:
        """Make a room of its own."""
        room = PeerRoom.create(rules_for(version), creator, self.name, self.key, is_public=is_public)
        self.rooms[room.room_id] = room
        return room

    def invite(self, server: Named, room: PeerRoom, sender: str, user_id: str, **lies: Any) -> Pdu:
        """Invite a server's user to a room of ours; what they have signed goes into it."""
        pdu = room.make(sender, "m.room.member", {"membership": "invite"}, user_id, **lies)
        body = {"room_version": room.rules.name, "event": pdu, "invite_room_state": []}
        path = f"/invite/{quote(room.room_id)}/{quote(room.id_of(pdu))}"
        signed: Pdu = self.ask(server, "PUT", path, body, prefix=V2)["event"]
        room.add(signed)
        return signed

    # Being asked.

    def requests(self, kind: str) -> list[Asked]:
        """What it was asked of one kind."""
        return [asked for asked in self.asked if asked.kind == kind]

    def received(self, room_id: str | None = None) -> list[Pdu]:
        """The PDUs that were sent to it; of one room, if that is given."""
        pdus = [pdu for asked in self.requests("send") for pdu in asked.content["pdus"]]
        return [pdu for pdu in pdus if room_id in (None, _room_id(pdu))]

    def wait_for_pdu(self, room: PeerRoom, event_id: str) -> Pdu:
        """Wait until an event was sent to it."""
        return wait_until(
            f"{event_id} to be sent",
            lambda: next((pdu for pdu in self.received(room.room_id) if room.id_of(pdu) == event_id), None),
        )

    def forget(self) -> None:
        """Be as if nothing had happened yet."""
        self.forget_answers()
        for memory in (self.asked, self.rooms, self.aliases, self.faults):
            memory.clear()

    def forget_answers(self) -> None:
        """Be honest again."""
        self.answers.clear()
        self.answers |= {
            "keys": lambda asked: self.published_keys(),
            "key_query": lambda asked: {"server_keys": [self.published_keys()]},
            "send": self._take_transaction,
            "invite": self._sign_invite,
            "state": lambda asked: self._state(asked),
            "state_ids": lambda asked: self._state_ids(asked),
            "event": lambda asked: self._one_event(asked.parameters[0]),
            "pdu": lambda asked: self._one_event(f"${asked.parameters[1]}:{asked.parameters[0]}"),
            "event_auth": self._event_auth,
            "backfill": self._backfill,
            "get_missing_events": self._missing_events,
            "pull": lambda asked: self._transaction([]),
            "query": self._query,
        }
        for step in ("join", "leave", "knock"):
            self.answers[f"make_{step}"] = self._make
            self.answers[f"send_{step}"] = self._enter

    def published_keys(self) -> Json:
        """What it says of its keys."""
        public = get_verify_key(self.key)
        valid_until = now_ms() + KEYS_VALID_MS
        return publish(ServerKeys(self.name, valid_until, {f"{public.alg}:{public.version}": public}, {}), self.key)

    def _transaction(self, pdus: Sequence[Pdu], **more: Any) -> Json:
        return {"origin": self.name, "origin_server_ts": now_ms(), "ts": now_ms(), "pdus": list(pdus), **more}

    def _room(self, asked: Asked) -> PeerRoom:
        room = self.rooms.get(asked.parameters[0])
        if room is None:
            raise NotHere
        return room

    def _take_transaction(self, asked: Asked) -> object:
        results: Json = {}
        for pdu in asked.content["pdus"]:
            room = self.rooms.get(_room_id(pdu))
            if room is not None and room.id_of(pdu) not in room.after:
                results[room.add(pdu).event_id] = {}
        return {"pdus": results}

    def _sign_invite(self, asked: Asked) -> object:
        rules = rules_for(asked.content["room_version"])
        return {"event": sign_pdu(rules, asked.content["event"], self.name, self.key)}

    def _make(self, asked: Asked) -> object:
        room = self._room(asked)
        template = room.template(asked.parameters[1], asked.kind.removeprefix("make_"))
        return {"event": template, "room_version": room.rules.name}

    def _enter(self, asked: Asked) -> object:
        room = self._room(asked)
        event = room.add(asked.content)
        if asked.kind != "send_join":
            return {}
        state = list(room.before[event.event_id].values())
        auth_chain = room.auth_chain([event.event_id, *state])
        return {
            "origin": self.name,
            "state": room.told(state),
            "auth_chain": room.told(auth_chain),
            "event": asked.content,
        }

    def _held(self, asked: Asked) -> tuple[PeerRoom, list[str]]:
        room = self._room(asked)
        [event_id] = asked.query.get("event_id", [""])
        if event_id and event_id not in room.before:
            raise NotHere
        return room, list((room.before[event_id] if event_id else room.state).values())

    def _state(self, asked: Asked) -> object:
        room, state = self._held(asked)
        return self._transaction(room.told(state), auth_chain=room.told(room.auth_chain(state)))

    def _state_ids(self, asked: Asked) -> object:
        room, state = self._held(asked)
        return {"pdu_ids": state, "auth_chain_ids": room.auth_chain(state)}

    def _one_event(self, event_id: str) -> object:
        for room in self.rooms.values():
            if event_id in room.pdus:
                return self._transaction(room.told([event_id]))
        raise NotHere

    def _event_auth(self, asked: Asked) -> object:
        room = self._room(asked)
        return {"auth_chain": room.told(room.auth_chain(asked.parameters[1:]))}

    def _backfill(self, asked: Asked) -> object:
        room = self._room(asked)
        return self._transaction(room.told(room.history(asked.query["v"], int(asked.query["limit"][0]))))

    def _missing_events(self, asked: Asked) -> object:
        room, wanted = self._room(asked), asked.content
        found = room.told(room.between(wanted["earliest_events"], wanted["latest_events"], wanted["limit"]))
        return self._transaction(found, events=found)

    def _query(self, asked: Asked) -> object:
        if asked.parameters == ["directory"]:
            room_id = self.aliases.get(asked.query["room_alias"][0])
            if room_id is not None:
                return {"room_id": room_id, "servers": [self.name]}
        raise NotHere

    # What the connections use.

    def check_signature(self, asked: Asked, body: bytes) -> str:
        """Who signed a request to us.

        :raises MatrixError: nobody, or not as it should be.
        """
        credentials = parse_authorization(asked.headers.get("Authorization", ""))
        content = encode_content(decode(body)) if body else None
        current = self._current_keys(credentials.origin)
        if credentials.key_id not in current:
            self._keys_of.pop(credentials.origin, None)
            current = self._current_keys(credentials.origin)
        verify(
            credentials,
            method=asked.method,
            uri=asked.uri,
            destination=self.name,
            content=content,
            key=current[credentials.key_id],
        )
        return credentials.origin

    def _current_keys(self, server_name: str) -> Mapping[str, Any]:
        if server_name not in self._keys_of:
            answer = self.request(server_name, "GET", f"{KEYS}/server", header="")
            self._keys_of[server_name] = read(answer.json, server_name)
        return self._keys_of[server_name].current


def _room_id(pdu: Mapping[str, Any]) -> str:
    return str(pdu.get("context", pdu.get("room_id", "")))


def _read_target(method: str, target: str, headers: Message, body: bytes) -> Asked:
    parts = urlsplit(target)
    segments = parts.path.removesuffix("/").split("/")[4:]
    is_of_keys = parts.path.startswith(KEYS)
    kind = {"server": "keys", "query": "key_query"}[segments[0]] if is_of_keys else segments[0]
    parameters = [unquote(segment) for segment in segments[1:]]
    return Asked(method, target, kind, parameters, parse_qs(parts.query), headers, decode(body) if body else None)


class _Connection(BaseHTTPRequestHandler):
    """One connection of another server's to the peer."""

    protocol_version = "HTTP/1.1"
    timeout = 120
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Say nothing: what was asked is kept."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        peer = self.server.peer
        asked = _read_target(self.command, self.path, self.headers, body)
        if asked.kind not in ("keys", "key_query"):
            try:
                asked.origin = peer.check_signature(asked, body)
            except MatrixError as error:
                peer.faults.append(f"{asked.method} {asked.uri}: {error.message}")
                return self._say(401, error.body())
        peer.asked.append(asked)
        answerer = peer.answers.get(asked.kind)
        if answerer is None:
            return self._say(404, {"errcode": "M_UNRECOGNIZED", "error": "There is no such thing."})
        try:
            answer = answerer(asked)
        except NotHere:
            return self._say(404, {"errcode": "M_NOT_FOUND", "error": "There is nothing of the kind."})
        except Exception:
            peer.faults.append(traceback.format_exc())
            return self._say(500, {"errcode": "M_UNKNOWN", "error": "The tests have a fault."})
        if isinstance(answer, Iterator):
            return self._stream(asked, answer)
        status, content = answer if isinstance(answer, tuple) else (200, answer)
        return self._say(status, content)

    do_GET = do_PUT = do_POST = _serve  # noqa: N815 - the library's names

    def _say(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, asked: Asked, pieces: Iterator[bytes]) -> None:
        self.close_connection = True
        try:
            for piece in pieces:
                self.wfile.write(piece)
                self.wfile.flush()
        except OSError:
            asked.is_over.set()


def _new_port() -> int:
    """A port that no peer had before: real servers remember by its name what they know of a server."""
    while (port := free_port()) in _PORTS:
        pass
    _PORTS.add(port)
    return port


_PORTS: set[int] = set()


class _Server(ThreadingHTTPServer):
    """Listens, with a thread for each connection."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, peer: LyingPeer, context: ssl.SSLContext) -> None:
        self.peer = peer
        self._context = context
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", _new_port()), _Connection)

    def finish_request(self, request: Any, client_address: Any) -> None:
        # The handshake is made here, in a thread of its own, so that nobody's keeps others waiting.
        with self._context.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as secured:
            self._open.add(secured)
            try:
                secured.do_handshake()
                super().finish_request(secured, client_address)
            except OSError:
                pass  # the other end has gone, which it may
            finally:
                self._open.discard(secured)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What goes wrong here is a fault of the tests."""
        self.peer.faults.append(traceback.format_exc())

    def end_all(self) -> None:
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
