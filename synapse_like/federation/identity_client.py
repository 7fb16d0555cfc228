"""What is asked of identity servers, by their API v1 (LOGIN-6).

Only servers that the operator has named are ever asked: clients say which one, and could otherwise have this server
knock anywhere, and believe anybody about whose an e-mail address is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        self.servers = [url.rstrip("/") for url in servers]
        self._by_name = {name: url.rstrip("/") for url in servers for name in _names(url)}

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

    async def bind(self, url: str, sid: str, client_secret: str, user_id: str) -> None:
        """Have the address of a session known as that of a user.

        :raises Forbidden: the server refuses for good.
        :raises ServerUnreachable: it cannot be asked.
        """
        form = {"sid": sid, "client_secret": client_secret, "mxid": user_id}
        found, reason = await self._post(url, "/3pid/bind", form)
        if "errcode" in found:
            raise Forbidden("The identity server does not bind this address.", reason=reason)

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
