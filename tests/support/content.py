"""Files and pictures in the scenarios: uploading, fetching, and what lies on the disk of a server."""

from __future__ import annotations

import subprocess
from io import BytesIO
from pathlib import Path

from PIL import Image

from tests.support.client import Answer, Client, quote
from tests.support.processes import wait_until
from tests.support.server import HomeServer


def upload(client: Client, data: bytes, mimetype: str = "image/png", **query: object) -> str:
    """Upload a file; its URI."""
    answer = client.call("POST", "/_matrix/media/v1/upload", data, headers={"Content-Type": mimetype}, **query)
    return str(answer["content_uri"])


def path_of(uri: str, kind: str = "download") -> str:
    """The path by which any server gives a file, or a thumbnail of it."""
    server, _, content_id = uri.removeprefix("mxc://").partition("/")
    return f"/_matrix/media/v1/{kind}/{quote(server)}/{content_id}"


def download(client: Client, uri: str, **headers: str) -> Answer:
    """Fetch a file, whoever is asked.

    :param headers: their names with underscores.
    """
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.request("GET", path_of(uri), token="", headers=given)


def thumbnail(client: Client, uri: str, width: int = 320, height: int = 240, method: str = "scale") -> Answer:
    """Fetch a smaller picture."""
    query = f"width={width}&height={height}&method={method}"
    return client.request("GET", f"{path_of(uri, 'thumbnail')}?{query}", token="")


def size_of(answer: Answer) -> tuple[int, int]:
    """Width and height of a picture."""
    assert answer.status == 200, answer.body
    return Image.open(BytesIO(answer.body)).size


def disk(server: HomeServer) -> list[str]:
    """The names of all files that are kept."""
    return sorted(path.parent.name + path.name for path in folder_of(server).glob("??/*"))


def incoming(server: HomeServer) -> list[Path]:
    """The files that are being written."""
    return list((folder_of(server) / "incoming").glob("*"))


def folder_of(server: HomeServer) -> Path:
    """Where a server keeps its files."""
    return server.data_dir / "content"


def media(server: HomeServer, *words: str) -> str:
    """Run a command on the files; what it says."""
    done = try_media(server, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def try_media(server: HomeServer, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the files, which may be refused."""
    return server.command(f"media {name}", *words)


def agree(server: HomeServer) -> None:
    """Files and tables agree, and nothing is left over.

    What a server still clears away that has just started is waited for.
    """
    wait_until("nothing to be in doubt", lambda: not list((folder_of(server) / "doubtful").glob("*")))
    assert media(server, "reconcile") == "Files and tables agree.\n"
    assert not incoming(server)
