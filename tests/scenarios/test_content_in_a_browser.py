"""What is uploaded does not run in the name of the server, whatever a real browser makes of it (MEDIA-1)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.scenarios.conftest import above_storage
from tests.support import browser as browsers
from tests.support import pictures
from tests.support.client import Client
from tests.support.content import path_of, upload
from tests.support.needed import needed
from tests.support.pictures import drawing, encoded
from tests.support.visits import Listener, listening, visit

#: By their names: the type that is claimed, and what stands around the script.
HOSTILE = {
    "page": ("text/html", b"<!DOCTYPE html><html><body>%b</body></html>"),
    "xhtml": ("application/xhtml+xml", b'<html xmlns="http://www.w3.org/1999/xhtml"><body>%b</body></html>'),
    "svg": ("image/svg+xml", b'<svg xmlns="http://www.w3.org/2000/svg">%b</svg>'),
    "xml": ("text/xml", b'<x xmlns:h="http://www.w3.org/1999/xhtml">%b</x>'),
    "page-as-png": ("image/png", b"<!DOCTYPE html><html><body>%b</body></html>"),
    "page-as-text": ("text/plain", b"<!DOCTYPE html><html><body>%b</body></html>"),
    "gif-and-page": ("text/html", encoded(drawing(8, 8), "GIF").replace(b"%", b"%%") + b"<html>%b</html>"),
}
#: Those that a browser runs where nobody takes precautions.
RUN_ELSEWHERE = ("page", "xhtml", "svg", "gif-and-page")


pytestmark = above_storage


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all."""
    with browsers.chromium(needed(browsers.find_chromium(), "CHROMIUM", browsers.HOW_TO_INSTALL)) as browser:
        yield browser


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    with listening() as listener:
        yield listener


def made(listener: Listener, name: str) -> tuple[str, bytes]:
    """A file that tells the listener when it runs."""
    mimetype, around = HOSTILE[name]
    attribute = b' xmlns="http://www.w3.org/1999/xhtml"' if name == "xml" else b""
    script = b"<script%b>new Image().src = '%b/ran/%b'</script>" % (attribute, listener.url.encode(), name.encode())
    return mimetype, around % script


def hostile_files(listener: Listener) -> list[tuple[str, bytes]]:
    return [made(listener, name) for name in HOSTILE]


def address_of(client: Client, uri: str, kind: str = "download") -> str:
    """Where a browser finds a file."""
    return f"http://127.0.0.1:{client.server.port}{path_of(uri, kind)}"


@pytest.mark.parametrize("name", RUN_ELSEWHERE)
def test_scripts_run_where_nothing_keeps_them_from_it(chromium: Browser, listener: Listener, name: str) -> None:
    """MEDIA-1: so that the next test means something."""
    listener.pages = {"/shown": made(listener, name)}
    visit(chromium, f"{listener.url}/shown")
    assert f"/ran/{name}" in listener.asked
    listener.asked.clear()


@pytest.mark.parametrize("name", HOSTILE)
def test_script_in_an_upload_does_not_run(chromium: Browser, alice: Client, listener: Listener, name: str) -> None:
    """MEDIA-1."""
    listener.asked.clear()
    mimetype, data = made(listener, name)
    visit(chromium, f"{address_of(alice, upload(alice, data, mimetype))}/page.html")
    assert listener.asked == []


def test_script_in_a_frame_does_not_run(chromium: Browser, alice: Client, listener: Listener) -> None:
    """MEDIA-1: on a page of somebody else, which loads all of them."""
    listener.asked.clear()
    addresses = [address_of(alice, upload(alice, data, mimetype)) for mimetype, data in hostile_files(listener)]
    frames = "".join(f'<iframe src="{address}"></iframe>' for address in addresses)
    listener.pages = {"/shown": ("text/html", (frames + "<script>new Image().src='/loaded'</script>").encode())}
    visit(chromium, f"{listener.url}/shown")
    assert "/loaded" in listener.asked
    assert [path for path in listener.asked if path.startswith("/ran/")] == []


def test_picture_and_thumbnail_are_shown(chromium: Browser, alice: Client, listener: Listener) -> None:
    """MEDIA-1: what keeps scripts out keeps pictures in, also on the pages of others."""
    uri = upload(alice, pictures.photo(), "image/jpeg")
    sources = [address_of(alice, uri), f"{address_of(alice, uri, 'thumbnail')}?width=320&height=240"]
    page = "".join(f'<img src="{source}" onload="this.alt=this.naturalWidth">' for source in sources)
    listener.pages = {"/shown": ("text/html", page.encode())}
    shown = visit(chromium, f"{listener.url}/shown")
    assert 'alt="1200"' in shown
    assert 'alt="320"' in shown
