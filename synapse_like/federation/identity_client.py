"""What is asked of identity servers, by their API v1 (LOGIN-6, ID-1).

Only servers that the operator has named are ever asked: clients say which one, and could otherwise have this server
knock anywhere, and believe anybody about whose an e-mail address is. What such a server says of an address must be
signed by a key that it publishes, and be about that address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import orjson
from cachetools import TTLCache
from msgspec import Struct
from signedjson.types import SigningKey, VerifyKey

from synapse_like.clock import Clock
from synapse_like.federation.agent import Answer
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.federation.web_client import WebClient
from synapse_like.protocol.errors import BadJson, Forbidden, NotFound, SignatureError
from synapse_like.protocol.identifiers import canonical_user_id
from synapse_like.protocol.request_signing import authorization, encode_content, is_key_id
from synapse_like.protocol.third_party_ids import ThirdPartyId, check_signed_by, owner_in, public_key

API = "/_matrix/identity/api/v1"
#: Keys of identity servers that are remembered, and for how many seconds.
MOST_KEYS, KEY_SECONDS = 100, 600
#: Signatures of a statement that are looked at; characters of what identity servers may have us put into rooms.
MOST_SIGNATURES = 8
LONGEST_TOKEN, LONGEST_DISPLAY_NAME, LONGEST_URL = 255, 255, 500
_USUAL_PORTS = {"http": 80, "https": 443}


class Validated(Struct, frozen=True):
    """Whose session it is has shown that an address is theirs.

    :ivar medium: ``email``, or another kind of address.
    :ivar validated_at: when, in ms since the epoch.
    """

    medium: str
    address: str
    validated_at: int


class Bound(Struct, frozen=True):
    """An identity server has given an address to a user.

    :ivar id_name: the name by which it signs.
    """

    threepid: ThirdPartyId
    id_name: str


class StoredInvite(Struct, frozen=True):
    """An invite to an address that is nobody's was left at an identity server.

    :ivar public_keys: those by one of which it will sign who the address is: `public_key`, `key_validity_url`.
    :ivar display_name: what may be shown of the address.
    """

    token: str
    public_keys: list[dict[str, str]]
    display_name: str


class IdentityClient:
    """Asks the trusted identity servers.

    :param servers: their URLs.
    :ivar servers: the same, each once.
    :param server_name: ours, and `key` the one by which we sign.
    """

    def __init__(self, web: WebClient, servers: Sequence[str], clock: Clock, server_name: str, key: SigningKey) -> None:
        self._web = web
        self._by_name = {name: url.rstrip("/") for url in servers for name in _names(url)}
        self.servers = tuple(dict.fromkeys(url.rstrip("/") for url in servers))
        self._clock = clock
        self._server_name = server_name
        self._key = key
        self._keys: TTLCache[tuple[str, str], VerifyKey] = TTLCache(MOST_KEYS, KEY_SECONDS, timer=clock.monotonic)

    @property
    def usual(self) -> str:
        """The URL of the server that is asked if nobody says which.

        :raises NotFound: none is trusted.
        """
        if not self.servers:
            raise NotFound("This server trusts no identity server.")
        return self.servers[0]

    def url_of(self, id_server: str) -> str:
        """The URL of a server that a client names, by its URL or by host and port.

        :raises Forbidden: it is not trusted.
        """
        url = self._by_name.get(id_server.rstrip("/").lower())
        if url is None:
            raise Forbidden("This server does not trust that identity server.")
        return url

    async def request_token(self, url: str, email: str, client_secret: str) -> str:
        """Have a mail sent by whose code or link an address is confirmed; the session in which that happens.

        :raises Forbidden: the server does not want to.
        :raises ServerUnreachable: it cannot be asked.
        """
        form = {"email": email, "client_secret": client_secret, "send_attempt": "1"}
        found, reason = await self._post(url, "/validate/email/requestToken", form)
        if isinstance(found.get("sid"), (str, int)) and "errcode" not in found:
            # Some say it as a number.
            return str(found["sid"])
        raise Forbidden("The identity server does not send a mail to this address.", reason=reason)

    async def submit_token(self, url: str, sid: str, client_secret: str, token: str) -> None:
        """Confirm an address by the code in the mail.

        :raises Forbidden: the code is wrong.
        :raises ServerUnreachable: the server cannot be asked.
        """
        form = {"sid": sid, "client_secret": client_secret, "token": token}
        found, reason = await self._post(url, "/validate/email/submitToken", form)
        if found.get("success") is not True:
            raise Forbidden("The code is wrong.", reason=reason)

    async def validated(self, url: str, sid: str, client_secret: str) -> Validated:
        """What has been proven in a session.

        :param url: as `url_of` gives it.
        :raises Forbidden: nothing, or it is too long ago, or there is no such session.
        :raises ServerUnreachable: the server cannot be asked.
        """
        query = urlencode({"sid": sid, "client_secret": client_secret})
        answer = await self._web.request("GET", f"{url}{API}/3pid/getValidated3pid?{query}")
        found = _object(url, answer)
        match found:
            # Some answer a refusal with 200, too.
            case {"medium": str(medium), "address": str(address), "validated_at": int(validated_at)}:
                return Validated(medium, address, validated_at)
            case {"errcode": str()} if answer.status < 500:
                raise Forbidden(
                    "The identity server does not confirm this address.", reason=f"it said {str(found)[:200]}"
                )
        raise ServerUnreachable(urlsplit(url).netloc, f"it answered {answer.status} with {answer.body[:200]!r}")

    async def bind(self, url: str, sid: str, client_secret: str, user_id: str) -> dict[str, Any]:
        """Have the address of a session known as that of a user; what the server says to that.

        :raises Forbidden: the server refuses for good.
        :raises ServerUnreachable: it cannot be asked.
        """
        form = {"sid": sid, "client_secret": client_secret, "mxid": user_id}
        found, reason = await self._post(url, "/3pid/bind", form)
        if "errcode" in found:
            raise Forbidden("The identity server does not bind this address.", reason=reason)
        return found

    async def _post(self, url: str, path: str, form: Mapping[str, str]) -> tuple[dict[str, Any], str]:
        """What it answers, for good, be it a refusal with an `errcode`; and the same for the log.

        :raises ServerUnreachable: it gives no answer, or one that may be another one later.
        """
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await self._web.request("POST", f"{url}{API}{path}", headers=headers, body=urlencode(form).encode())
        found = _object(url, answer)
        reason = f"it answered {answer.status} with {answer.body[:200]!r}"
        if answer.status != 200:
            if not 400 <= answer.status < 500 or answer.status == 429:
                raise ServerUnreachable(urlsplit(url).netloc, reason)
            found.setdefault("errcode", "M_UNKNOWN")
        return found, reason

    async def link(self, url: str, sid: str, client_secret: str, threepid: ThirdPartyId, user_id: str) -> Bound:
        """The same, and see that the server says so with its signature.

        :param threepid: what was proven in the session.
        """
        association = await self.bind(url, sid, client_secret, user_id)
        name = await self._check_signed(url, association)
        if owner_in(association, threepid, self._clock.now_ms()) != user_id:
            raise ServerUnreachable(urlsplit(url).netloc, "it has bound the address to somebody else")
        return Bound(threepid, name)

    async def unlink(self, url: str, id_name: str, threepid: ThirdPartyId, user_id: str) -> None:
        """Have an address known as nobody's, in the name of its user's server, which we are.

        :raises ServerUnreachable: the server cannot be asked, or refuses.
        """
        content = {"mxid": user_id, "threepid": threepid._asdict()}
        body, path = encode_content(content), f"{API}/3pid/unbind"
        uri = f"{urlsplit(url).path}{path}"
        header = authorization(
            method="POST", uri=uri, origin=self._server_name, destination=id_name, content=body, key=self._key
        )
        headers = {"Content-Type": "application/json", "Authorization": header}
        answer = await self._web.request("POST", f"{url}{path}", headers=headers, body=body)
        # What is not there need not be taken away.
        if answer.status != 200 and _object(url, answer).get("errcode") != "M_NOT_FOUND":
            raise _nonsense(url, answer)

    async def lookup(self, url: str, threepid: ThirdPartyId) -> str | None:
        """Whose an address is, by the signed word of a server; None if it is nobody's.

        :raises ServerUnreachable: the server cannot be asked, or its word cannot be believed.
        """
        answer = await self._web.request("GET", f"{url}{API}/lookup?{urlencode(threepid._asdict())}")
        found = _object(url, answer)
        if answer.status != 200 or "errcode" in found:
            raise _nonsense(url, answer)
        if not found:
            return None
        await self._check_signed(url, found)
        try:
            owner = owner_in(found, threepid, self._clock.now_ms())
            return None if owner is None else canonical_user_id(owner)
        except BadJson as error:
            raise ServerUnreachable(urlsplit(url).netloc, error.message) from error

    async def lookup_many(self, url: str, threepids: Sequence[ThirdPartyId]) -> dict[ThirdPartyId, str]:
        """Whose some addresses are, by their hashes if the server knows how to look these up; one by one if not.

        :param threepids: of those that are nobody's, nothing is said.
        :raises ServerUnreachable: the server cannot be asked.
        """
        answer = await self._web.request("GET", f"{url}{API}/hash_details")
        details = _object(url, answer)
        match details:
            case {"algorithms": list(algorithms), "lookup_pepper": str(pepper)} if answer.status == 200:
                if "sha256" in algorithms:
                    return await self._lookup_hashed(url, threepids, pepper)
            case _ if answer.status not in (404, 405, 400):
                raise _nonsense(url, answer)
        found = {}
        for threepid in threepids:
            owner = await self.lookup(url, threepid)
            if owner is not None:
                found[threepid] = owner
        return found

    async def _lookup_hashed(self, url: str, threepids: Sequence[ThirdPartyId], pepper: str) -> dict[ThirdPartyId, str]:
        by_hash = {threepid.hashed(pepper): threepid for threepid in threepids}
        body = orjson.dumps({"addresses": list(by_hash), "algorithm": "sha256", "pepper": pepper})
        headers = {"Content-Type": "application/json"}
        answer = await self._web.request("POST", f"{url}{API}/lookup", headers=headers, body=body)
        mappings = _object(url, answer).get("mappings")
        if answer.status != 200 or not isinstance(mappings, dict):
            # Also if the pepper has just changed: then it is asked again another time.
            raise _nonsense(url, answer)
        found = {}
        for hashed, user_id in mappings.items():
            try:
                if hashed in by_hash and isinstance(user_id, str):
                    found[by_hash[hashed]] = canonical_user_id(user_id)
            except BadJson as error:
                raise ServerUnreachable(urlsplit(url).netloc, error.message) from error
        return found

    async def store_invite(self, url: str, threepid: ThirdPartyId, room_id: str, sender: str) -> StoredInvite | str:
        """Leave an invite for whoever will have an address; the user who has it already, if there is one.

        :raises ServerUnreachable: the server cannot be asked.
        :raises Forbidden: it does not want to keep the invite.
        """
        body = orjson.dumps({**threepid._asdict(), "room_id": room_id, "sender": sender})
        headers = {"Content-Type": "application/json"}
        answer = await self._web.request("POST", f"{url}{API}/store-invite", headers=headers, body=body)
        found = _object(url, answer)
        match found:
            case {"errcode": "M_THREEPID_IN_USE", "mxid": str(mxid)}:
                return canonical_user_id(mxid)
            case {"errcode": str()} if 400 <= answer.status < 500:
                sentence = "The identity server does not keep this invite."
                raise Forbidden(sentence, reason=f"it said {str(found)[:200]}")
            case {"token": str(token), "display_name": str(display_name)} if answer.status == 200 and token:
                keys = _public_keys(f"{url}{API}", found)
                if keys and len(token) <= LONGEST_TOKEN:
                    return StoredInvite(token, keys, display_name[:LONGEST_DISPLAY_NAME])
        raise _nonsense(url, answer)

    async def is_signed_by_trusted(self, statement: Mapping[str, Any]) -> bool:
        """Whether one of the trusted servers has signed a statement.

        :raises ServerUnreachable: none has, as far as can be seen, and one cannot be asked for a key.
        """
        failure: ServerUnreachable | None = None
        for url in self.servers:
            try:
                if await self._signer(url, statement) is not None:
                    return True
            except ServerUnreachable as error:
                failure = error
        if failure is not None:
            raise failure
        return False

    async def _check_signed(self, url: str, statement: Mapping[str, Any]) -> str:
        """See that a server has signed what it says; the name by which it did.

        :raises ServerUnreachable: it has not, or its keys cannot be had.
        """
        name = await self._signer(url, statement)
        if name is None:
            raise ServerUnreachable(urlsplit(url).netloc, "it has not signed what it says")
        return name

    async def _signer(self, url: str, statement: Mapping[str, Any]) -> str | None:
        """The name by which a server has signed a statement; None if it has not."""
        signatures = statement.get("signatures")
        pairs = [
            (name, key_id)
            for name, by_key in (signatures.items() if isinstance(signatures, dict) else ())
            for key_id in (by_key if isinstance(by_key, dict) else ())
            if is_key_id(key_id)
        ]
        for name, key_id in pairs[:MOST_SIGNATURES]:
            key = await self._public_key(url, key_id)
            if key is not None:
                try:
                    check_signed_by(statement, name, [key])
                except SignatureError:
                    continue
                return str(name)
        return None

    async def _public_key(self, url: str, key_id: str) -> VerifyKey | None:
        """A key that a server publishes; None if there is no such."""
        known = self._keys.get((url, key_id))
        if known is not None:
            return known
        answer = await self._web.request("GET", f"{url}{API}/pubkey/{quote(key_id, safe='')}")
        found = _object(url, answer)
        if answer.status in (404, 400):
            return None
        if answer.status != 200 or not isinstance(found.get("public_key"), str):
            raise _nonsense(url, answer)
        try:
            key = self._keys[url, key_id] = public_key(key_id, found["public_key"])
        except BadJson as error:
            raise _nonsense(url, answer) from error
        return key


def _public_keys(api: str, found: Mapping[str, Any]) -> list[dict[str, str]]:
    """The keys that a room must know for an invite: those listed, or the one of old."""
    listed = found.get("public_keys")
    entries = listed if isinstance(listed, list) else [{"public_key": found.get("public_key")}]
    usual = f"{api}/pubkey/isvalid"
    return [
        {"public_key": entry["public_key"], "key_validity_url": str(entry.get("key_validity_url", usual))[:LONGEST_URL]}
        for entry in entries[:MOST_SIGNATURES]
        if isinstance(entry, dict) and isinstance(entry.get("public_key"), str) and len(entry["public_key"]) <= 100
    ]


def _nonsense(url: str, answer: Answer) -> ServerUnreachable:
    return ServerUnreachable(urlsplit(url).netloc, f"it answered {answer.status} with {answer.body[:200]!r}")


def _names(url: str) -> set[str]:
    """How clients may call a server: by its URL, or by its host, with the port unless that is the usual one."""
    parts = urlsplit(url.lower())
    names = {url.lower().rstrip("/"), parts.netloc}
    if parts.port is None:
        names.add(f"{parts.netloc}:{_USUAL_PORTS[parts.scheme]}")
    elif parts.port == _USUAL_PORTS[parts.scheme]:
        names.add(parts.netloc.rpartition(":")[0])
    return names


def _object(url: str, answer: Answer) -> dict[str, Any]:
    try:
        found = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise ServerUnreachable(urlsplit(url).netloc, f"it answered {answer.status} with what is no JSON object")
    return found
