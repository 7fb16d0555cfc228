"""Which browser it is: a secret in a cookie, by which what was begun in one goes on in no other (LOGIN-7, LOGIN-9).

The secret itself stays in the cookie. What is stored, and what stands in forms, are hashes of it, each for its purpose.
See docs/decisions/0013.
"""

from __future__ import annotations

import hmac
import re
import secrets
from hashlib import sha256
from typing import TypeVar

from msgspec import Struct

from synapse_like.http.requests import Call
from synapse_like.protocol.errors import Forbidden

R = TypeVar("R")

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


class Browser(Struct, frozen=True):
    """One browser.

    :ivar headers: those by which it remembers its secret, if it has just been given one.
    """

    _secret: str
    headers: dict[str, str]

    @property
    def binding(self) -> str:
        """By which a session remembers it."""
        return self._hash("session")

    @property
    def form_token(self) -> str:
        """What our forms show: a page of somebody else cannot know it."""
        return self._hash("form")

    def _hash(self, purpose: str) -> str:
        return sha256(f"{purpose} {self._secret}".encode()).hexdigest()

    def check_form(self, token: str | None) -> None:
        """See that a form is one of ours.

        :raises Forbidden: it is not, or this browser keeps no cookies.
        """
        if token is None or not hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self.form_token.encode()):
            raise Forbidden(
                "Your browser did not send the cookie that this page has set. Please allow cookies and start again."
            )


class Browsers:
    """Tells browsers apart.

    :param is_secure: whether they come by HTTPS: then the cookie is for this host alone, and never sent without.
    """

    def __init__(self, *, is_secure: bool) -> None:
        self._name = "__Host-synapse_like_browser" if is_secure else "synapse_like_browser"
        # Lax: it comes along when a provider sends people back to us, and not with other pages' forms.
        self._attributes = "; Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if is_secure else "")

    def known(self, call: Call[R]) -> Browser | None:
        """The browser that a request comes from; None if it shows no cookie."""
        for pair in (call.header("Cookie") or "").replace(",", ";").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self._name and _SECRET.fullmatch(value):
                return Browser(value, {})
        return None

    def of(self, call: Call[R]) -> Browser:
        """The same; one without a cookie is given one."""
        known = self.known(call)
        if known is not None:
            return known
        secret = secrets.token_urlsafe(32)
        return Browser(secret, {"Set-Cookie": f"{self._name}={secret}{self._attributes}"})
