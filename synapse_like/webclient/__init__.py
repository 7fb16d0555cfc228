"""The chat page: a small client of API v1, which a home server serves at `/`.

It is plain HTML, CSS and modules of JavaScript in `static`, as a browser loads them; nothing builds it. All files but
`index.html` lie under a folder whose name is made of what is in them (`version`), so that a browser may keep them for
ever, and asks for new ones when there are any.

The page itself is told in `static/README.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable

from msgspec import Struct

#: The types of the files, by the ends of their names. Others are not served.
TYPES: Mapping[str, str] = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
INDEX = "index.html"
#: Where the page says that its other files lie; in its place comes the folder where they really do.
PLACE = "static/"


class StaticFile(Struct, frozen=True):
    """One file of the page.

    :ivar path: below the folder: "views/login.js".
    :ivar sha256: of its content, in hexadecimal digits.
    """

    path: str
    mimetype: str
    content: bytes
    sha256: str


class ChatPage(Struct, frozen=True):
    """All files of the page.

    :ivar index: the page itself.
    :ivar version: changes whenever any of the files does.
    """

    index: StaticFile
    files: tuple[StaticFile, ...]
    version: str


def load(folder: str) -> ChatPage:
    """Read the page from the package.

    :param folder: where its files will be found, such as "/webclient/"; the version is put behind that.
    """
    found = dict(_walk(files("synapse_like.webclient") / "static"))
    index = found.pop(INDEX)
    whole = sha256()
    for path in sorted(found):
        whole.update(path.encode() + b"\0" + sha256(found[path]).digest())
    version = whole.hexdigest()[:16]
    text = index.decode("utf-8").replace(f'"{PLACE}', f'"{folder}{version}/')
    return ChatPage(
        _file(INDEX, text.encode("utf-8")), tuple(_file(path, found[path]) for path in sorted(found)), version
    )


def _file(path: str, content: bytes) -> StaticFile:
    return StaticFile(path, TYPES[_ending(path)], content, sha256(content).hexdigest())


def _ending(path: str) -> str:
    return path.rpartition(".")[2]


def _walk(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    """Every file of a folder that has a type, with its path."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        elif _ending(entry.name) in TYPES:
            yield prefix + entry.name, entry.read_bytes()
