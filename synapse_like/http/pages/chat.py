"""The chat page, served (`webclient`).

It may run its own scripts and styles, show pictures and play sound of this server, and ask this server; it may do
nothing else, and no page may frame it. Nor can its scripts make markup of text, whoever wrote that: browsers that know
trusted types refuse it.

`/` is asked for each time, and answered with 304 if it is what the browser has; the other files are kept for ever,
since their addresses change with them.
"""

from __future__ import annotations

from synapse_like.handlers.authentication import Requester
from synapse_like.http.files import FOR_EVER, has_tag
from synapse_like.http.requests import Call
from synapse_like.http.responses import Response
from synapse_like.http.routing import Auth, Endpoint, Mount, Route
from synapse_like.webclient import ChatPage, StaticFile

FOLDER = "/webclient/"

_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob:",
    "media-src": "'self'",
    "connect-src": "'self'",
    "form-action": "'none'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
_SAFETY = {
    "Content-Security-Policy": "; ".join(f"{key} {value}" for key, value in _POLICY.items()),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


def mount_chat_page(page: ChatPage) -> Mount[Requester]:
    """The routes of the page and of all its files."""
    shown = _routes("/", page.index, "no-cache")
    kept = [route for file in page.files for route in _routes(f"{FOLDER}{page.version}/{file.path}", file, FOR_EVER)]
    return Mount("", [*shown, *kept])


def _routes(path: str, file: StaticFile, caching: str) -> list[Route[Requester]]:
    """A file, and what is known of it."""
    endpoint = _sends(file, caching)
    return [Route(method, path, endpoint, auth=Auth.NONE, rate="read") for method in ("GET", "HEAD")]


def _sends(file: StaticFile, caching: str) -> Endpoint[Requester]:
    tag = f'"{file.sha256}"'
    lasting = {"ETag": tag, "Cache-Control": caching, **_SAFETY}
    whole = Response(200, {**lasting, "Content-Type": file.mimetype}, file.content)
    known = Response(304, lasting)

    async def send(call: Call[Requester]) -> Response:
        return known if has_tag(call.header("If-None-Match"), tag) else whole

    return send
