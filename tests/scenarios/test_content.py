"""Files: uploaded by one, fetched by anyone (EVS-10)."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from tests.scenarios.conftest import FreshServer
from tests.support.client import Client, not_found, refused

PICTURE = bytes(range(256)) * 40


def test_upload_is_answered_with_a_url_that_gives_the_file_back(alice: Client) -> None:
    """EVS-10."""
    url = alice.call("POST", "/_matrix/content", PICTURE, headers={"Content-Type": "image/png"})["content_token"]
    parts = urlsplit(url)
    assert (parts.scheme, parts.port) == ("http", alice.server.port)
    answer = alice.request("GET", parts.path, token="")
    assert (answer.status, answer.body) == (200, PICTURE)
    assert answer.headers["Content-Type"] == "image/png"


def test_media_upload_is_answered_with_a_uri_of_this_server(alice: Client) -> None:
    """EVS-10."""
    uri = alice.call("POST", "/_matrix/media/v1/upload", PICTURE, headers={"Content-Type": "image/png"})["content_uri"]
    server, _, content_id = uri.removeprefix("mxc://").partition("/")
    assert server == alice.server.name
    path = f"/_matrix/media/v1/download/{server}/{content_id}"
    assert alice.request("GET", path, token="").body == PICTURE
    with refused(502, "M_UNREACHABLE"):
        alice.call("GET", f"/_matrix/media/v1/download/elsewhere.invalid/{content_id}")


@pytest.mark.parametrize("mimetype", ["text/html", "image/svg+xml", "application/xhtml+xml", "nonsense", "a/b\\", ""])
def test_what_a_browser_might_run_is_a_download(alice: Client, mimetype: str) -> None:
    """MEDIA-1."""
    page = b"<script>alert(1)</script>"
    url = alice.call("POST", "/_matrix/content", page, headers={"Content-Type": mimetype})["content_token"]
    answer = alice.request("GET", urlsplit(url).path)
    assert answer.body == page
    assert answer.headers["Content-Disposition"] == "attachment"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_upload_needs_a_token_and_has_a_limit(fresh_server: FreshServer) -> None:
    """MEDIA-1."""
    server = fresh_server({"content.max_upload_size": 1000})
    alice = Client(server).register("alice")
    with refused(401, "M_MISSING_TOKEN"):
        alice.call("POST", "/_matrix/content", b"x", token="")
    with refused(413, "M_TOO_LARGE"):
        alice.call("POST", "/_matrix/content", b"x" * 1001)
    assert alice.call("POST", "/_matrix/content", b"x" * 1000)["content_token"]


@pytest.mark.parametrize("name", ["unknown", "..%2F..%2Fsigning.key", "%00", "a" * 300])
def test_content_that_is_not_there_is_not_found(alice: Client, name: str) -> None:
    """EVS-10."""
    with not_found():
        alice.call("GET", f"/_matrix/content/{name}")


def test_files_survive_a_killed_server(fresh_server: FreshServer) -> None:
    """MEDIA-1."""
    server = fresh_server()
    alice = Client(server).register("alice")
    path = urlsplit(alice.call("POST", "/_matrix/content", PICTURE)["content_token"]).path
    server.kill9()
    server.start()
    assert alice.request("GET", path).body == PICTURE
