"""Templates made into answers, and the forms that come back.

A page may show its own style, run the scripts that it is given here, and send its forms back to where it came from; it
may do nothing else, and no other page may frame it. The address of a page can hold a secret, so it is told to nobody.
All pages do without scripts what can be done without.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, TypeVar

from synapse_like.http.requests import Call
from synapse_like.http.responses import Response
from synapse_like.protocol.errors import MatrixError

if TYPE_CHECKING:
    from jinja2 import Environment

R = TypeVar("R")

#: Bytes that a form may have.
MOST_FORM_BYTES = 16 * 1024

_FOLDER = files("synapse_like.http.pages") / "templates"


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


_STYLE = _text("style.css")
_SCRIPTS = {name: _text(name) for name in ("hand_over.js", "wait.js")}
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
_POLICY = {
    "default-src": "'none'",
    "style-src": _hash(_STYLE),
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}


@cache
def _templates() -> Environment:
    """The templates; what reads them is not loaded before the first page is asked for."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(str(_FOLDER)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals.update(style=_STYLE, scripts=_SCRIPTS)
    return templates


def page(
    template: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    may: Mapping[str, str] | None = None,
    scripts: Sequence[str] = (),
    **values: object,
) -> Response:
    """A page made of a template, with a policy by which it can do no harm.

    :param template: a file in `templates`.
    :param headers: more of them.
    :param may: what more the policy allows: ``{"connect-src": "'self'"}``.
    :param scripts: those that the template contains.
    """
    text = _templates().get_template(template).render(values)
    policy = {**_POLICY, **(may or {})}
    if scripts:
        policy["script-src"] = " ".join(_hash(_SCRIPTS[name]) for name in scripts)
    told = {"Content-Security-Policy": "; ".join(f"{key} {value}" for key, value in policy.items())}
    return Response(status, {**_HEADERS, **told, **(headers or {})}, text.encode())


def as_page(endpoint: Callable[[Call[R]], Awaitable[Response]]) -> Callable[[Call[R]], Awaitable[Response]]:
    """An endpoint whose refusals are pages, too."""

    async def with_refusals(call: Call[R]) -> Response:
        try:
            return await endpoint(call)
        except MatrixError as error:
            return refusal_page(error)

    return with_refusals


def refusal_page(error: MatrixError, *, again: str | None = None) -> Response:
    """A page that says that something did not work.

    :param again: where one can start again.
    """
    return page("refusal.html", status=error.status, message=error.message, again=again)
