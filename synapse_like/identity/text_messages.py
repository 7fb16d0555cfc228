"""Text messages, by way of a gateway that takes them by HTTP."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlencode

import orjson

from synapse_like.identity.asking import AsksByUrl
from synapse_like.protocol.errors import Unavailable

Format = Literal["json", "form"]


class TextMessages:
    """Hands text messages over to a gateway: `to`, `from` and `text`.

    :param url: of the gateway.
    :param token: by which it knows us, sent as a bearer token; None if it does not ask.
    :param sender: who shall be shown as the sender; None leaves that to the gateway.
    :param encoding: whether the gateway takes JSON or forms.
    """

    def __init__(self, ask: AsksByUrl, url: str, token: str | None, sender: str | None, encoding: Format) -> None:
        self._ask = ask
        self._url = url
        self._token = token
        self._sender = sender
        self._encoding = encoding

    async def send(self, number: str, text: str) -> None:
        """Send a text to a phone.

        :param number: its digits in international form.
        :raises Unavailable: the gateway did not take it.
        """
        message = {"to": f"+{number}", "text": text} | ({} if self._sender is None else {"from": self._sender})
        is_json = self._encoding == "json"
        headers = {"Content-Type": "application/json" if is_json else "application/x-www-form-urlencoded"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        body = orjson.dumps(message) if is_json else urlencode(message).encode()
        answer = await self._ask.request("POST", self._url, headers=headers, body=body)
        if not 200 <= answer.status <= 299:
            raise Unavailable(
                "The text message cannot be sent at the moment.", reason=f"the gateway answered {answer.status}"
            )
