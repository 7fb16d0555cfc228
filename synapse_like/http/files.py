"""Answers that are files: whole or in part, kept by caches, and never run by a browser (MEDIA-1).

What users upload is never to act in the name of this server in somebody's browser. Only plain pictures, sound and video
are shown in place, and none of these can hold a script; everything else is a download. All of it is sandboxed, and no
browser may take it for something else than what it is called (`X-Content-Type-Options`, which all answers have).

A file never changes, so that caches may keep it for ever; its hash is its entity tag.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from synapse_like.handlers.content import ContentRepository
from synapse_like.http.requests import Call
from synapse_like.http.responses import FileBody, Response, refusal
from synapse_like.protocol.errors import MatrixError

#: Types that a browser may show in place.
SHOWN_INLINE = frozenset(
    f"{kind}/{name}"
    for kind, names in {
        "image": ("png", "jpeg", "gif", "webp", "apng", "avif"),
        "audio": ("aac", "mpeg", "mp4", "ogg", "flac", "wav", "webm"),
        "video": ("mp4", "ogg", "webm"),
    }.items()
    for name in names
)
SAFETY = "sandbox; default-src 'none'"
FOR_EVER = "public, max-age=31536000, immutable"

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_UNQUOTED = re.compile(r'[^\x20-\x7e]|["\\%]')


class PartialFile(FileBody, Protocol):
    """A file of which a part can be read."""

    def narrow(self, start: int, length: int) -> None:
        """Read only a part."""


class Named(NamedTuple):
    """What is known of a file before it is opened."""

    sha256: str
    size: int
    mimetype: str
    filename: str | None


async def answer(call: Call[Any], file: Named, open_file: Callable[[], Awaitable[PartialFile]]) -> Response:
    """A file, the part of it that the client wants, or the news that the client has it already."""
    tag = f'"{file.sha256}"'
    headers = {
        "ETag": tag,
        "Cache-Control": FOR_EVER,
        "Content-Security-Policy": SAFETY,
        "Cross-Origin-Resource-Policy": "cross-origin",
    }
    if has_tag(call.header("If-None-Match"), tag):
        return Response(304, headers)
    headers |= {
        "Content-Type": file.mimetype,
        "Content-Disposition": disposition(file.mimetype, file.filename),
        "Accept-Ranges": "bytes",
    }
    part = None
    if call.header("If-Range") in (None, tag):
        part = wanted_range(call.header("Range"), file.size)
    if part == (0, 0):
        no_such_part = MatrixError(416, "M_INVALID_PARAM", "This file has no such part.")
        return refusal(no_such_part, {"Content-Range": f"bytes */{file.size}"})
    opened = await open_file()
    if part is None:
        return Response(200, headers, opened)
    start, length = part
    opened.narrow(start, length)
    headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{file.size}"
    return Response(206, headers, opened)


async def send_file(repository: ContentRepository, call: Call[Any], server: str, *, fetch: bool = True) -> Response:
    """A file of a server, by the parameter `content_id` of the path; called `filename` if that is there, too.

    :param fetch: False to look only at what is here.
    :raises NotFound: there is no such file.
    """
    found = await repository.find(server, call.params["content_id"], fetch=fetch)
    named = Named(found.sha256, found.size, found.mimetype, call.params.get("filename") or found.filename)
    return await answer(call, named, lambda: repository.open(found))


def has_tag(tags: str | None, tag: str) -> bool:
    """Whether a list of entity tags has one, compared as If-None-Match wants it."""
    listed = [part.strip().removeprefix("W/") for part in (tags or "").split(",")]
    return tag in listed or "*" in listed


def wanted_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Where the wanted part begins, and how long it is.

    None is for the whole: nothing, several ranges, or nonsense was asked for. A length of 0 says that there is no
    such part.
    """
    match = _RANGE.fullmatch((header or "").replace(" ", ""))
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if not first:
        length = min(int(last), size)
        return (size - length, length) if length else (0, 0)
    start, end = int(first), min(int(last) if last else size - 1, size - 1)
    if last and int(last) < start:
        return None
    return (start, end - start + 1) if start < size else (0, 0)


def disposition(mimetype: str, filename: str | None) -> str:
    """The header that says whether a file is shown in place, and what it is called."""
    kind = "inline" if mimetype in SHOWN_INLINE else "attachment"
    if not filename:
        return kind
    plain = _UNQUOTED.sub("_", filename)
    if plain == filename:
        return f'{kind}; filename="{filename}"'
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
