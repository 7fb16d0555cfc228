"""What files cost: uploads and downloads of 50 MiB, and thumbnails.

    python -m bench.content [--database sqlite|postgresql]

runs a home server and tells, for each row, the CPU time of its process, that of the processes that make thumbnails, the
time on the wall, how much memory the home server held before, and the most that it held meanwhile.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from io import BytesIO

from PIL import Image

from bench.support.lines import Line, request
from bench.support.subject import Subject
from bench.support.tables import table
from bench.support.usage import ended_children_cpu_seconds, forget_peak, peak_bytes

MIB = 1024 * 1024
FILE_BYTES = 50 * MIB
TIMES = 100
AT_A_TIME = 10
PHOTO = (4000, 3000)

MEDIA = "/_matrix/media/v1"


class Client:
    """Somebody with one connection.

    :param token: the access token.
    """

    def __init__(self, subject: Subject, token: str) -> None:
        self._connection = HTTPConnection(*subject.address, timeout=120)
        self._headers = {"Authorization": f"Bearer {token}"}

    def upload(self, data: bytes, mimetype: str) -> str:
        """Upload a file; the two parts of its URI as a path has them."""
        answer = self._ask("POST", f"{MEDIA}/upload", data, {"Content-Type": mimetype})
        return str(json.loads(answer)["content_uri"]).removeprefix("mxc://")

    def get(self, path: str) -> int:
        """Fetch something; how many bytes it had."""
        self._connection.request("GET", f"{MEDIA}/{path}")
        response = self._connection.getresponse()
        size = 0
        while piece := response.read(MIB):
            size += len(piece)
        if response.status != 200:
            raise RuntimeError(f"{path} was answered with {response.status}")
        return size

    def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        self._connection.request(method, path, body, self._headers | headers)
        response = self._connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path} was answered with {response.status}: {data!r}")
        return data


def register(subject: Subject) -> str:
    """Make a user; the access token."""
    body = {"type": "m.login.password", "user": "uploader", "password": "correct horse"}
    with Line(subject.address) as line:
        return str(line.ask_json(request("POST", "/register", body))["access_token"])


def photos(count: int) -> list[bytes]:
    """Pictures as from a camera of twelve megapixels, each another one."""
    base = Image.effect_mandelbrot(PHOTO, (-2.0, -1.5, 1.0, 1.5), 40).convert("RGB")
    made = []
    for number in range(count):
        file = BytesIO()
        base.save(file, "JPEG", quality=90, comment=f"number {number}")
        made.append(file.getvalue())
    return made


def measured(subject: Subject, name: str, work: Callable[[], object]) -> list[str]:
    """A row of the table."""
    subject.settle()
    process = subject.process_id
    before = subject.resident_bytes()
    forget_peak(process)
    children, used, begun = ended_children_cpu_seconds(process), subject.usage(), time.perf_counter()
    work()
    wall = time.perf_counter() - begun
    subject.settle()
    server = (subject.usage() - used).server
    thumbnails = ended_children_cpu_seconds(process) - children
    return [
        name,
        f"{server:.2f}",
        f"{thumbnails:.2f}" if thumbnails else "",
        f"{wall:.2f}",
        f"{before / MIB:.0f}",
        f"{peak_bytes(process) / MIB:.0f}",
    ]


def side_by_side(subject: Subject, token: str, works: Sequence[Callable[[Client], object]], count: int) -> None:
    """Do things on some connections at the same time."""
    clients = [Client(subject, token) for _ in range(count)]

    def some(number: int) -> None:
        for work in works[number::count]:
            work(clients[number])

    with ThreadPoolExecutor(count) as threads:
        list(threads.map(some, range(count)))


def measure(subject: Subject) -> list[list[str]]:
    """All rows."""
    token = register(subject)
    client = Client(subject, token)
    files = [random.Random(seed).randbytes(FILE_BYTES) for seed in range(5)]
    uris: list[str] = []
    rows = [measured(subject, "upload 50 MiB", lambda: uris.append(client.upload(files[0], "video/mp4")))]
    uploads = [lambda other, data=data: other.upload(data, "video/mp4") for data in files[1:]]
    rows.append(measured(subject, "the same, 4 at a time", lambda: side_by_side(subject, token, uploads, 4)))
    path = f"download/{uris[0]}"
    rows.append(measured(subject, f"{TIMES} downloads of it", lambda: [client.get(path) for _ in range(TIMES)]))
    downloads = [lambda other: other.get(path)] * TIMES
    rows.append(measured(subject, "the same, 10 at a time", lambda: side_by_side(subject, token, downloads, AT_A_TIME)))
    pictures = [client.upload(data, "image/jpeg") for data in photos(TIMES)]
    paths = [f"thumbnail/{uri}?width=320&height=240" for uri in pictures]
    thumbnails = [lambda other, path=path: other.get(path) for path in paths]
    title = f"{TIMES} thumbnails of photos"
    rows.append(measured(subject, title, lambda: side_by_side(subject, token, thumbnails, AT_A_TIME)))
    rows.append(measured(subject, "the same, made already", lambda: [client.get(path) for path in paths]))
    return rows


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.content", description="Measure what files cost.")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    options = parser.parse_args()
    with Subject(options.database, {"presence.enabled": False}) as subject:
        subject.start()
        rows = measure(subject)
    headings = [["CPU s", "thumbnails'", "wall s", "MiB before", "at most"]]
    print(table(f"files, {options.database}", headings, rows))


if __name__ == "__main__":
    main()
