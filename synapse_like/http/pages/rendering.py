"""Templates made into answers, and the forms that come back.

A page may show its own style, and send its forms back to where it came from; it may do nothing else, and no other page
may frame it. The address of a page can hold a secret, so it is told to nobody.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable
from hashlib import sha256
from importlib.resources import files
from typing import TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from synapse_like.http.requests import Call
from synapse_like.http.responses import Response
from synapse_like.protocol.errors import MatrixError

R = TypeVar("R")

#: Bytes that a form may have.
MOST_FORM_BYTES = 16 * 1024

_FOLDER = files("synapse_like.http.pages") / "templates"
_STYLE = (_FOLDER / "style.css").read_text(encoding="utf-8")
_STYLE_HASH = b64encode(sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}

_templates = Environment(
    loader=FileSystemLoader(str(_FOLDER)), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_templates.globals["style"] = _STYLE


def page(template: str, *, status: int = 200, **values: object) -> Response:
    """A page made of a template, with a policy by which it can do no harm.

    :param template: a file in `templates`.
    """
    text = _templates.get_template(template).render(values)
    return Response(status, _HEADERS, text.encode())


def as_page(endpoint: Callable[[Call[R]], Awaitable[Response]]) -> Callable[[Call[R]], Awaitable[Response]]:
    """An endpoint whose refusals are pages, too."""

    async def with_refusals(call: Call[R]) -> Response:
        try:
            return await endpoint(call)
        except MatrixError as error:
            return page("refusal.html", status=error.status, message=error.message)

    return with_refusals
