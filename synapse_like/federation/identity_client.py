"""What is asked of identity servers, by their API v1 (LOGIN-6).

Only servers that the operator has named are ever asked: clients say which one, and could otherwise have this server
knock anywhere, and believe anybody about whose an e-mail address is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson

from synapse_like.federation.agent import Answer
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.federation.web_client import WebClient
from synapse_like.protocol.errors import Forbidden

API = "/_matrix/identity/api/v1"
_USUAL_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Validated:
    """Whose session it is has shown that an address is theirs.

    :ivar medium: ``email``, or another kind of address.
    :ivar validated_at: when, in ms since the epoch.
    """

    medium: str
    address: str
    validated_at: int


class IdentityClient:
    """Asks the trusted identity servers.

    :param servers: their URLs.
    """

    def __init__(self, web: WebClient, servers: Sequence[str]) -> None:
        self._web = web
        self._by_name = {name: url.rstrip("/") for url in servers for name in _names(url)}

    def url_of(self, id_server: str) -> str:
        """The URL of a server that a client names, by its URL or by host and port.

        :raises Forbidden: it is not trusted.
        """
        url = self._by_name.get(id_server.rstrip("/").lower())
        if url is None:
            raise Forbidden("This server does not trust that identity server.")
        return url

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

    async def bind(self, url: str, sid: str, client_secret: str, user_id: str) -> None:
        """Have the address of a session known as that of a user.

        :raises Forbidden: the server refuses for good.
        :raises ServerUnreachable: it cannot be asked.
        """
        body = urlencode({"sid": sid, "client_secret": client_secret, "mxid": user_id}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await self._web.request("POST", f"{url}{API}/3pid/bind", headers=headers, body=body)
        found = _object(url, answer)
        if answer.status == 200 and "errcode" not in found:
            return
        reason = f"it answered {answer.status} with {answer.body[:200]!r}"
        if 400 <= answer.status < 500 and answer.status != 429:
            raise Forbidden("The identity server does not bind this address.", reason=reason)
        raise ServerUnreachable(urlsplit(url).netloc, reason)


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
