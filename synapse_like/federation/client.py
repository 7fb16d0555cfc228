"""What other servers can be asked: the typed client that handlers use (FED-2, FED-4, FED-7).

Every request but those for keys is signed. Its body is encoded once, for the signature and for the wire. Answers are
checked for their outer shape; the PDUs in them are not, which is for those who use them.

The paths that the specification of 2014 ends with a slash are asked for with it. A server of today that does not know
such a path is asked again in today's form, and remembered.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import Any, Literal
from urllib.parse import quote, urlencode

from cachetools import LRUCache
from msgspec import Struct
from signedjson.types import SigningKey

from synapse_like.byte_streams import ByteStream
from synapse_like.federation.agent import Agent, Answer, Timeouts
from synapse_like.federation.errors import RemoteRefusal, ServerUnreachable
from synapse_like.protocol import canonical_json
from synapse_like.protocol.errors import MatrixError
from synapse_like.protocol.events import Pdu
from synapse_like.protocol.request_signing import authorization, encode_content

Json = dict[str, Any]
Change = Literal["join", "leave", "knock"]

FEDERATION = "/_matrix/federation/v1"
FEDERATION_V2 = "/_matrix/federation/v2"
KEYS = "/_matrix/key/v2"
CONTENT = "/_matrix/media/v1"

#: Bytes of an answer at the most: of one about a whole room, of any other, of keys.
MOST_ROOM_BYTES = 128 * 1024 * 1024
MOST_BYTES = 16 * 1024 * 1024
MOST_KEY_BYTES = 1024 * 1024
#: Bytes of a refusal that are read.
MOST_REFUSAL_BYTES = 16 * 1024
#: Keys are there or they are not.
KEY_TIMEOUTS = Timeouts(answer=20, body=20)
#: How many servers are remembered that know only the paths of today.
MOST_MODERN = 10_000

_ERRCODE = re.compile(r"[A-Z][A-Z0-9_.]{0,99}")


class IncomingFile(Struct, frozen=True):
    """A file that another server is sending."""

    mimetype: str | None
    filename: str | None
    body: ByteStream


class FederationClient:
    """Asks other servers, in our name.

    Every method takes the name of the server first, and raises ServerUnreachable if that gave no answer or one that
    makes no sense, RemoteRefusal if it refused.

    :param server_name: ours.
    :param key: signs our requests.
    :param slow: the time-outs for what makes another server work for long.
    """

    def __init__(self, agent: Agent, server_name: str, key: SigningKey, *, slow: Timeouts | None = None) -> None:
        self._agent = agent
        self._server_name = server_name
        self._key = key
        self._slow = slow
        self._modern: LRUCache[str, bool] = LRUCache(MOST_MODERN)

    async def send_transaction(self, destination: str, transaction_id: str, body: Mapping[str, Any]) -> Json:
        """Send PDUs and EDUs. The answer says for each PDU what became of it."""
        path = f"{FEDERATION}/send/{_segment(transaction_id)}"
        return await self._slashed(destination, "PUT", path, content=body, timeouts=self._slow)

    async def make_membership(
        self, destination: str, membership: Change, room_id: str, user_id: str, versions: Sequence[str]
    ) -> Json:
        """Ask for what an event of ours would have to look like: `{event, room_version}`.

        :param versions: of rooms, that we know.
        """
        path = f"{FEDERATION}/make_{membership}/{_segment(room_id)}/{_segment(user_id)}"
        answer = await self._object(destination, "GET", path, [("ver", version) for version in versions])
        _is(destination, answer.get("event"), dict, "event")
        if answer.get("room_version") is not None:
            _is(destination, answer["room_version"], str, "room_version")
        return answer

    async def send_membership(
        self, destination: str, membership: Change, room_id: str, event_id: str, pdu: Pdu
    ) -> Json:
        """Hand over the event that `make_membership` began, complete and signed."""
        path = f"/send_{membership}/{_segment(room_id)}/{_segment(event_id)}"
        return await self._second_or_first_version(destination, path, pdu, pdu, MOST_ROOM_BYTES)

    async def invite(
        self,
        destination: str,
        room_id: str,
        event_id: str,
        room_version: str,
        pdu: Pdu,
        shown_state: Sequence[Mapping[str, Any]],
    ) -> Json:
        """Ask a server to take an invite of its user, and to sign it: `{event}`.

        :param shown_state: what the invited user may see of the room.
        """
        path = f"/invite/{_segment(room_id)}/{_segment(event_id)}"
        today = {"room_version": room_version, "event": pdu, "invite_room_state": list(shown_state)}
        first = {**pdu, "unsigned": {**pdu.get("unsigned", {}), "invite_room_state": list(shown_state)}}
        answer = await self._second_or_first_version(destination, path, today, first, MOST_BYTES)
        _is(destination, answer.get("event"), dict, "event")
        return answer

    async def backfill(self, destination: str, room_id: str, event_ids: Sequence[str], limit: int) -> list[Pdu]:
        """Ask for events of a room, and for what was before them."""
        parameters = [("v", event_id) for event_id in event_ids] + [("limit", str(limit))]
        answer = await self._slashed(destination, "GET", f"{FEDERATION}/backfill/{_segment(room_id)}", parameters)
        return _objects(destination, answer, "pdus")

    async def missing_events(
        self,
        destination: str,
        room_id: str,
        *,
        earliest: Sequence[str],
        latest: Sequence[str],
        limit: int,
        min_depth: int,
    ) -> list[Pdu]:
        """Ask for what lies between two sets of events of a room."""
        content = {
            "earliest_events": list(earliest),
            "latest_events": list(latest),
            "limit": limit,
            "min_depth": min_depth,
        }
        path = f"{FEDERATION}/get_missing_events/{_segment(room_id)}"
        answer = await self._object(destination, "POST", path, content=content)
        return _objects(destination, answer, "pdus" if "pdus" in answer else "events")

    async def state(self, destination: str, room_id: str, event_id: str | None) -> tuple[list[Pdu], list[Pdu]]:
        """Ask for the state of a room, before an event or now, and for the events that authorise it."""
        answer = await self._slashed(
            destination,
            "GET",
            f"{FEDERATION}/state/{_segment(room_id)}",
            [] if event_id is None else [("event_id", event_id)],
            most_bytes=MOST_ROOM_BYTES,
            timeouts=self._slow,
        )
        return _objects(destination, answer, "pdus"), _objects(destination, answer, "auth_chain")

    async def event(self, destination: str, event_id: str) -> list[Pdu]:
        """Ask for one event, by the name of its PDU where it has one."""
        pdu_id, colon, origin = event_id.removeprefix("$").partition(":")
        if colon:
            try:
                path = f"{FEDERATION}/pdu/{_segment(origin)}/{_segment(pdu_id)}"
                return _objects(destination, await self._slashed(destination, "GET", path), "pdus")
            except RemoteRefusal as error:
                if not error.knows_no_such_path:
                    raise
        answer = await self._object(destination, "GET", f"{FEDERATION}/event/{_segment(event_id)}")
        return _objects(destination, answer, "pdus")

    async def event_auth(self, destination: str, room_id: str, event_id: str) -> list[Pdu]:
        """Ask for the events that authorise one, and those that authorise these, and so on."""
        path = f"{FEDERATION}/event_auth/{_segment(room_id)}/{_segment(event_id)}"
        answer = await self._object(destination, "GET", path, most_bytes=MOST_ROOM_BYTES)
        return _objects(destination, answer, "auth_chain" if "auth_chain" in answer else "pdus")

    async def pull(self, destination: str, transaction_ids: Sequence[str]) -> Json:
        """Ask for a transaction with what came after others."""
        parameters = [("origin", self._server_name), *(("v", transaction_id) for transaction_id in transaction_ids)]
        answer = await self._slashed(destination, "GET", f"{FEDERATION}/pull", parameters)
        _objects(destination, answer, "pdus")
        return answer

    async def query(self, destination: str, kind: str, parameters: Mapping[str, str]) -> Json:
        """Ask for something that is not a room's: a profile, an alias."""
        path = f"{FEDERATION}/query/{_segment(kind)}"
        return await self._object(destination, "GET", path, list(parameters.items()))

    @asynccontextmanager
    async def content(self, destination: str, content_id: str, *, most_bytes: int) -> AsyncIterator[IncomingFile]:
        """Ask for a file of a server. It is read within the context.

        :param most_bytes: how large it may be.

        As in 2014 this is not signed: files are for everybody.
        """
        # Today's servers are told not to ask others, and so in the end perhaps us.
        uri = f"{CONTENT}/download/{_segment(destination)}/{_segment(content_id)}?allow_remote=false"
        async with self._agent.download(destination, uri, most_bytes=most_bytes) as answer:
            if answer.status != 200:
                raise _refusal(destination, Answer(answer.status, await _beginning(answer.body)))
            yield IncomingFile(
                answer.header("Content-Type"), _filename(answer.header("Content-Disposition")), answer.body
            )

    async def exchange_third_party_invite(self, destination: str, room_id: str, invite: Mapping[str, Any]) -> None:
        """Have a user of ours invited, to whom a user there has sent an invite by an address.

        :param invite: the m.room.member event as far as we know it, with what the identity server has signed.
        """
        path = f"{FEDERATION}/exchange_third_party_invite/{_segment(room_id)}"
        await self._object(destination, "PUT", path, content=invite)

    async def server_keys(self, destination: str) -> Json:
        """Ask for the keys of the server itself."""
        answer = await self._agent.request(
            "GET", destination, f"{KEYS}/server", most_bytes=MOST_KEY_BYTES, timeouts=KEY_TIMEOUTS
        )
        return _object(destination, _content(destination, answer))

    async def query_keys(self, destination: str, wanted: Mapping[str, Sequence[str]]) -> list[Json]:
        """Ask a server what it knows of the keys of others.

        :param wanted: the IDs of the keys, by server.
        """
        body = encode_content({"server_keys": {name: {key_id: {} for key_id in ids} for name, ids in wanted.items()}})
        answer = await self._agent.request(
            "POST", destination, f"{KEYS}/query", body=body, most_bytes=MOST_KEY_BYTES, timeouts=KEY_TIMEOUTS
        )
        return _objects(destination, _object(destination, _content(destination, answer)), "server_keys")

    # How it is asked.

    async def _ask(
        self,
        destination: str,
        method: str,
        path: str,
        parameters: Sequence[tuple[str, str]] = (),
        *,
        content: Mapping[str, Any] | None = None,
        most_bytes: int = MOST_BYTES,
        timeouts: Timeouts | None = None,
    ) -> object:
        """Ask, signed, and give what the answer says."""
        uri = f"{path}?{urlencode(parameters, quote_via=quote, safe='')}" if parameters else path
        body = None if content is None else encode_content(content)
        header = authorization(
            method=method, uri=uri, origin=self._server_name, destination=destination, content=body, key=self._key
        )
        answer = await self._agent.request(
            method,
            destination,
            uri,
            headers={"Authorization": header},
            body=body,
            most_bytes=most_bytes,
            timeouts=timeouts,
        )
        return _content(destination, answer)

    async def _object(
        self, destination: str, method: str, path: str, parameters: Sequence[tuple[str, str]] = (), **options: Any
    ) -> Json:
        return _object(destination, await self._ask(destination, method, path, parameters, **options))

    async def _slashed(
        self, destination: str, method: str, path: str, parameters: Sequence[tuple[str, str]] = (), **options: Any
    ) -> Json:
        """Ask for a path that ended with a slash in 2014, and does not today."""
        if destination not in self._modern:
            try:
                return await self._object(destination, method, f"{path}/", parameters, **options)
            except RemoteRefusal as error:
                if not error.knows_no_such_path:
                    raise
        answer = await self._object(destination, method, path, parameters, **options)
        self._modern[destination] = True
        return answer

    async def _second_or_first_version(
        self, destination: str, path: str, today: Mapping[str, Any], first: Mapping[str, Any], most_bytes: int
    ) -> Json:
        """Ask by version 2 of the API; where that is not known, by version 1, whose answers are `[200, {…}]`."""
        options: Any = {"most_bytes": most_bytes, "timeouts": self._slow}
        try:
            return await self._object(destination, "PUT", FEDERATION_V2 + path, content=today, **options)
        except RemoteRefusal as error:
            if not error.knows_no_such_path:
                raise
        answer = await self._ask(destination, "PUT", FEDERATION + path, content=first, **options)
        match answer:
            case [200, dict(inner)]:
                return inner
        return _object(destination, answer)


def _segment(text: str) -> str:
    """A path segment, percent-encoded."""
    return quote(text, safe="")


# How answers are read.


def _content(destination: str, answer: Answer) -> object:
    """What an answer says.

    :raises RemoteRefusal: that it is not to be.
    :raises ServerUnreachable: nothing that makes sense.
    """
    if answer.status != 200:
        raise _refusal(destination, answer)
    try:
        return canonical_json.decode(answer.body)
    except MatrixError as error:
        raise ServerUnreachable(destination, f"its answer is not JSON: {error.reason}") from error


def _refusal(destination: str, answer: Answer) -> RemoteRefusal:
    errcode, message, retry_after_ms = "M_UNKNOWN", f"The server {destination} refused.", None
    try:
        told = canonical_json.decode(answer.body)
    except MatrixError:
        told = None
    if isinstance(told, dict):
        if isinstance(told.get("errcode"), str) and _ERRCODE.fullmatch(told["errcode"]):
            errcode = told["errcode"]
        if isinstance(told.get("error"), str):
            message = told["error"]
        if type(told.get("retry_after_ms")) is int and told["retry_after_ms"] >= 0:
            retry_after_ms = told["retry_after_ms"]
    # Whoever redirects us, or says that it is fine in another way than the one there is, has not answered.
    status = answer.status if 400 <= answer.status <= 599 else 502
    return RemoteRefusal(destination, status, errcode, message, retry_after_ms=retry_after_ms)


def _object(destination: str, value: object) -> Json:
    if not isinstance(value, dict):
        raise ServerUnreachable(destination, "its answer is not a JSON object")
    return value


def _objects(destination: str, answer: Json, key: str) -> list[Json]:
    """A list of objects in an answer."""
    value = answer.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ServerUnreachable(destination, f"{key} in its answer is not a list of objects")
    return value


def _is(destination: str, value: object, kind: type, name: str) -> None:
    if not isinstance(value, kind):
        raise ServerUnreachable(destination, f"{name} in its answer is not what it must be")


def _filename(disposition: str | None) -> str | None:
    """The name of a file in a Content-Disposition."""
    if disposition is None:
        return None
    message = Message()
    message["Content-Disposition"] = disposition
    names = [value for name, value in message.get_params([], "Content-Disposition") if name == "filename"]
    # With what stands for older readers there may be one that says its character set; that is the better one.
    names.sort(key=lambda name: not isinstance(name, tuple))
    return collapse_rfc2231_value(names[0]) if names else None


async def _beginning(body: ByteStream) -> bytes:
    """The first bytes of a body that should be short."""
    data = b""
    while len(data) < MOST_REFUSAL_BYTES and (piece := await body.read()):
        data += piece
    return data
