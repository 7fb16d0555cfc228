"""Files: uploaded by one, fetched by anyone; smaller pictures of pictures (EVS-10, MEDIA-1)."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from urllib.parse import urlsplit

import pytest

from tests.scenarios.conftest import FreshServer, above_storage, any_process
from tests.support import pictures
from tests.support.client import ApiError, Client, forbidden, not_found, quote, refused
from tests.support.content import (
    agree,
    disk,
    download,
    folder_of,
    incoming,
    media,
    path_of,
    size_of,
    thumbnail,
    try_media,
    upload,
)
from tests.support.pictures import CORPUS, MIB, photo
from tests.support.processes import wait_until
from tests.support.server import HomeServer

PICTURE = bytes(range(256)) * 40


def begin_upload(client: Client, length: int, *more: str, token: str | None = None) -> socket.socket:
    """Send the head of an upload, and nothing of its body."""
    line = socket.create_connection(client.server.address, timeout=10)
    token = client.token if token is None else token
    lines = [
        "POST /_matrix/media/v1/upload HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {token}",
        f"Content-Length: {length}",
        *more,
    ]
    line.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    return line


def first_line(line: socket.socket) -> str:
    return line.recv(65536).partition(b"\r\n")[0].decode()


# Uploading.


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


@above_storage
@pytest.mark.parametrize(
    ("token", "length", "status"),
    [("wrong", 20 * MIB, 401), (None, 60 * MIB, 413)],
    ids=["wrong token", "too large"],
)
def test_refusal_comes_before_the_body(alice: Client, token: str | None, length: int, status: int) -> None:
    """MEDIA-1, SEC-1: nothing of a body is waited for that will not be taken."""
    with begin_upload(alice, length, token=token) as line:
        assert first_line(line).startswith(f"HTTP/1.1 {status} ")
    with begin_upload(alice, length, "Expect: 100-continue", token=token) as line:
        assert first_line(line).startswith(f"HTTP/1.1 {status} ")


def test_client_that_asks_whether_it_may_is_told_so(alice: Client) -> None:
    """MEDIA-1."""
    with begin_upload(alice, 3, "Expect: 100-continue") as line:
        assert first_line(line) == "HTTP/1.1 100 Continue"
        line.sendall(b"abc")
        assert first_line(line) == "HTTP/1.1 200 OK"


def test_each_user_has_a_quota(fresh_server: FreshServer) -> None:
    """MEDIA-1."""
    server = fresh_server({"content.user_quota": 10_000})
    alice, bob = Client(server).register("alice"), Client(server).register("bob")
    first = upload(alice, bytes(6000))
    with begin_upload(alice, 4001) as line:
        assert first_line(line).startswith("HTTP/1.1 403 ")
    with forbidden():
        upload(alice, bytes(4001))
    upload(alice, bytes(4000))
    upload(bob, bytes(6000))
    # Together they would be too much, and each of them is let in at first.
    with begin_upload(bob, 3000) as one, begin_upload(bob, 3000) as two:
        for line in (one, two):
            line.sendall(bytes(3000))
        statuses = sorted(first_line(line).split(" ")[1] for line in (one, two))
    assert statuses == ["200", "403"]
    media(server, "purge", first)
    upload(alice, bytes(6000))
    agree(server)


@any_process
def test_user_uploads_a_few_files_at_a_time(alice: Client, server: HomeServer) -> None:
    """MEDIA-1, SEC-1."""
    lines = [begin_upload(alice, 10) for _ in range(4)]
    wait_until("the uploads", lambda: len(incoming(server)) == 4)
    with refused(429, "M_LIMIT_EXCEEDED"):
        upload(alice, b"one more")
    for line in lines:
        line.close()
    wait_until("the uploads to be cleared away", lambda: not incoming(server))
    assert upload(alice, b"one more")


@above_storage
def test_file_is_written_while_it_arrives(alice: Client, server: HomeServer) -> None:
    """MEDIA-1: a large upload takes the disk and not the memory."""
    before = server.resident_bytes()
    size = 48 * MIB
    with begin_upload(alice, size) as line:
        piece = random.Random(1).randbytes(MIB)
        for _ in range(size // MIB - 1):
            line.sendall(piece)
        wait_until(
            "most of it on the disk", lambda: sum(file.stat().st_size for file in incoming(server)) > size - 4 * MIB
        )
        assert server.resident_bytes() - before < 16 * MIB
        line.sendall(piece)
        assert first_line(line) == "HTTP/1.1 200 OK"


def test_same_bytes_are_kept_once(fresh_server: FreshServer) -> None:
    """MEDIA-1."""
    server = fresh_server()
    alice, bob = Client(server).register("alice"), Client(server).register("bob")
    one, two = upload(alice, PICTURE), upload(bob, PICTURE, "text/plain")
    assert one != two
    assert disk(server) == [hashlib.sha256(PICTURE).hexdigest()]
    media(server, "purge", one)
    with not_found():
        alice.call("GET", path_of(one))
    answer = download(alice, two)
    assert (answer.body, answer.headers["Content-Type"]) == (PICTURE, "text/plain")
    media(server, "purge", two)
    assert disk(server) == []


# Downloading.


def test_name_of_a_file_is_given_back(alice: Client) -> None:
    """MEDIA-1."""
    uri = upload(alice, PICTURE, filename="a cat.png")
    assert download(alice, uri).headers["Content-Disposition"] == 'inline; filename="a cat.png"'
    other = alice.request("GET", path_of(uri) + "/" + quote('été "x"\r\n.png'))
    header = other.headers["Content-Disposition"]
    assert header == "inline; filename=\"_t_ _x___.png\"; filename*=UTF-8''%C3%A9t%C3%A9%20%22x%22%0D%0A.png"


def test_part_of_a_file_can_be_fetched(alice: Client) -> None:
    """MEDIA-1."""
    uri = upload(alice, PICTURE, "video/mp4")
    size = len(PICTURE)
    for wanted, part in {"bytes=0-9": (0, 9), "bytes=100-": (100, size - 1), "bytes=-7": (size - 7, size - 1)}.items():
        answer = download(alice, uri, Range=wanted)
        assert answer.status == 206
        assert answer.body == PICTURE[part[0] : part[1] + 1]
        assert answer.headers["Content-Range"] == f"bytes {part[0]}-{part[1]}/{size}"
    answer = download(alice, uri, Range=f"bytes={size}-")
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{size}")
    assert answer.json["errcode"]
    for whole in ("bytes=0-1,5-6", "bytes=9-1", "lines=1-2", "bytes=x-y"):
        assert download(alice, uri, Range=whole).status == 200
    assert download(alice, uri, Range="bytes=0-9", If_Range='"something else"').status == 200
    tag = download(alice, uri).headers["ETag"]
    assert download(alice, uri, Range="bytes=0-9", If_Range=tag).status == 206


def test_file_that_a_cache_has_is_not_sent_again(alice: Client) -> None:
    """MEDIA-1."""
    uri = upload(alice, photo(), "image/jpeg")
    for answer in (download(alice, uri), thumbnail(alice, uri)):
        assert answer.headers["ETag"] == f'"{hashlib.sha256(answer.body).hexdigest()}"'
        assert "immutable" in answer.headers["Cache-Control"]
    tag = download(alice, uri).headers["ETag"]
    for tags in (tag, f'W/{tag}, "other"', "*"):
        answer = download(alice, uri, If_None_Match=tags)
        assert (answer.status, answer.body, answer.headers["ETag"]) == (304, b"", tag)
    assert download(alice, uri, If_None_Match='"other"').status == 200


@above_storage
def test_slow_readers_hold_no_memory(alice: Client, server: HomeServer) -> None:
    """MEDIA-1, SEC-1."""
    uri = upload(alice, random.Random(2).randbytes(30 * MIB), "video/mp4")
    download(alice, uri)
    before = server.resident_bytes()
    readers = []
    for _ in range(20):
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(server.address)
        reader.sendall(f"GET {path_of(uri)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert reader.recv(4096).startswith(b"HTTP/1.1 200 OK")
        readers.append(reader)
    time.sleep(1)
    # Those that are read from go on meanwhile.
    assert len(download(alice, uri).body) == 30 * MIB
    grown = server.resident_bytes() - before
    for reader in readers:
        reader.close()
    assert grown < 40 * MIB, "twenty times the file would be 600 MiB"


# Smaller pictures.


def test_thumbnail_is_of_the_next_larger_size(alice: Client) -> None:
    """MEDIA-1."""
    uri = upload(alice, photo(1200, 800), "image/jpeg")
    assert size_of(thumbnail(alice, uri, 320, 240)) == (320, 213)
    assert size_of(thumbnail(alice, uri, 300, 200, "scale")) == (320, 213)
    assert size_of(thumbnail(alice, uri, 33, 20, "crop")) == (96, 96)
    assert size_of(thumbnail(alice, uri, 5000, 5000)) == (800, 533)
    assert thumbnail(alice, uri).headers["Content-Type"] == "image/jpeg"


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?width=1",
        "?width=x&height=1",
        "?width=0&height=1",
        "?width=-1&height=1",
        "?width=1&height=1&method=stretch",
    ],
)
def test_thumbnail_of_a_size_that_is_none_is_refused(alice: Client, query: str) -> None:
    """MEDIA-1."""
    uri = upload(alice, photo(), "image/jpeg")
    answer = alice.request("GET", path_of(uri, "thumbnail") + query, token="")
    assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM")


@above_storage
def test_any_size_can_be_had_where_that_is_allowed(fresh_server: FreshServer) -> None:
    """MEDIA-1: but not any number of sizes."""
    server = fresh_server({"content.dynamic_thumbnails": True, "content.thumbnail_processes": 4})
    alice = Client(server).register("alice")
    uri = upload(alice, photo(1200, 800), "image/jpeg")
    assert size_of(thumbnail(alice, uri, 500, 500)) == (512, 341)
    assert size_of(thumbnail(alice, uri, 10, 10, "crop")) == (16, 16)
    for side in range(20):
        assert thumbnail(alice, uri, 16 * (side + 2), 16 * (side + 2)).status == 200
    wait_until("the first ones to go", lambda: len(disk(server)) == 1 + 16)
    agree(server)


@above_storage
def test_corpus_harms_nobody(fresh_server: FreshServer) -> None:
    """MEDIA-1, SEC-1: every picture can be had as it is, and none but as a picture; the server stays well."""
    server = fresh_server({"content.thumbnail_cpu_time": 2})
    alice = Client(server).register("alice")
    alice.call("GET", "/initialSync")
    before = server.resident_bytes()

    def one(sample: pictures.Sample) -> None:
        client = alice.another_connection()
        uri = upload(client, sample.data, sample.mimetype)
        answer = download(client, uri)
        assert answer.body == sample.data
        assert answer.headers["Content-Type"] == sample.mimetype
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        is_shown = answer.headers["Content-Disposition"].startswith("inline")
        assert is_shown == (sample.mimetype in {"image/png", "image/jpeg", "image/gif", "image/webp"})
        for _ in range(2):
            small = thumbnail(client, uri)
            if sample.fate == "fine":
                assert small.status == 200, (sample.name, small.body)
                assert small.headers["Content-Type"] in {"image/png", "image/jpeg"}
                assert pictures.SCRIPT not in small.body
            else:
                expected = (400, "M_UNKNOWN") if sample.fate == "broken" else (413, "M_TOO_LARGE")
                assert (small.status, small.json["errcode"]) == expected, (sample.name, small.body)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(one, CORPUS))
    assert server.resident_bytes() - before < 32 * MIB
    assert alice.call("GET", "/initialSync")["rooms"] == []
    agree(server)


@above_storage
def test_hopeless_picture_is_tried_once(fresh_server: FreshServer) -> None:
    """SEC-1: it is not worth a process for each who looks at it."""
    server = fresh_server({"content.thumbnail_cpu_time": 2})
    alice = Client(server).register("alice")
    uri = upload(alice, pictures.jpeg_of_many_scans(), "image/jpeg")
    begun = time.monotonic()
    assert thumbnail(alice, uri).status == 413
    took = time.monotonic() - begun
    begun = time.monotonic()
    for method in ("scale", "crop"):
        assert thumbnail(alice, uri, 96, 96, method).status == 413
    assert time.monotonic() - begun < took / 5


@above_storage
def test_thumbnail_that_takes_too_long_may_be_tried_again(fresh_server: FreshServer) -> None:
    """MEDIA-1: that a machine is busy does not make a picture hopeless."""
    server = fresh_server({"content.thumbnail_timeout": 0.005})
    alice = Client(server).register("alice")
    uri = upload(alice, photo(), "image/jpeg")
    for _ in range(2):
        answer = thumbnail(alice, uri)
        assert (answer.status, answer.json["errcode"]) == (503, "M_UNAVAILABLE")
    agree(server)


def test_thumbnail_that_many_want_is_made_once(fresh_server: FreshServer) -> None:
    """MEDIA-1."""
    server = fresh_server()
    alice = Client(server).register("alice")
    uri = upload(alice, pictures.noise(1500, 1000), "image/png")
    with ThreadPoolExecutor(10) as threads:
        sizes = list(threads.map(lambda _: size_of(thumbnail(alice.another_connection(), uri)), range(10)))
    assert sizes == [(320, 213)] * 10
    assert len(disk(server)) == 2


# Looking after them.


def test_purge_deletes_everything_of_a_file(fresh_server: FreshServer) -> None:
    """MEDIA-1."""
    server = fresh_server()
    alice = Client(server).register("alice")
    uri = upload(alice, photo(), "image/jpeg")
    thumbnail(alice, uri)
    thumbnail(alice, uri, 90, 90, "crop")
    assert len(disk(server)) == 3
    assert media(server, "purge", uri) == "Purged 1 uploads or copies, with 3 files on the disk, thumbnails included.\n"
    assert disk(server) == []
    for gone in (download(alice, uri), thumbnail(alice, uri)):
        assert (gone.status, gone.json["errcode"]) == (404, "M_NOT_FOUND")
    assert media(server, "status").splitlines()[0].split() == ["uploads", "0", "0", "bytes"]
    agree(server)


def test_purge_of_a_user_takes_what_is_old_enough(fresh_server: FreshServer) -> None:
    """MEDIA-1."""
    server = fresh_server()
    alice, bob = Client(server).register("alice"), Client(server).register("bob")
    mine, his = [upload(alice, bytes([n])) for n in range(3)], upload(bob, b"his")
    assert media(server, "purge", "--user", "alice", "--days", "1") == "There was nothing to purge.\n"
    done = try_media(server, "purge", f"mxc://{server.name}/none")
    assert (done.returncode, done.stderr) == (1, "Error: There is no such content.\n")
    assert "Purged 3" in media(server, "purge", "--user", "alice")
    assert [download(bob, uri).status for uri in [*mine, his]] == [404, 404, 404, 200]
    assert try_media(server, "purge").returncode == 2


def test_status_tells_what_there_is(fresh_server: FreshServer) -> None:
    """MEDIA-1."""
    server = fresh_server()
    alice = Client(server).register("alice")
    uri = upload(alice, photo(), "image/jpeg")
    upload(alice, photo(), "image/jpeg")
    thumbnail(alice, uri)
    lines = media(server, "status").splitlines()
    assert lines[0].split() == ["uploads", "2", f"{len(photo()):,}", "bytes"]
    assert lines[1].split()[:4] == ["thumbnails", "of", "uploads", "1"]
    assert any(line.split()[:2] == [alice.user_id, "2"] for line in lines)


def test_upload_whose_file_is_lost_is_missed_and_listed(fresh_server: FreshServer) -> None:
    """MEDIA-1: the operator is told; the row stays, for the file may come back."""
    server = fresh_server()
    alice = Client(server).register("alice")
    uri = upload(alice, PICTURE)
    (name,) = disk(server)
    path = folder_of(server) / name[:2] / name[2:]
    path.rename(folder_of(server) / "lost")
    assert download(alice, uri).status == 404
    assert "the file of an upload is not there" in server.recent_log()
    for options in ((), ("--repair",)):
        done = try_media(server, "reconcile", *options)
        assert (done.returncode, done.stdout) == (1, f"no file, or a damaged one, for {name}\n")
    (folder_of(server) / "lost").rename(path)
    assert download(alice, uri).body == PICTURE
    agree(server)


def test_purging_beside_uploads_of_the_same_bytes_leaves_no_hole(fresh_server: FreshServer) -> None:
    """MEDIA-1: the command and the server never change the same file at the same time."""
    server = fresh_server()
    alice = Client(server).register("alice")
    ending = threading.Event()
    failures: list[object] = []

    def work(client: Client) -> None:
        while not ending.is_set():
            answer = download(client, upload(client, PICTURE))
            if answer.status not in (200, 404) or (answer.status == 200 and answer.body != PICTURE):
                failures.append(answer)

    workers = [threading.Thread(target=work, args=(alice.another_connection(),)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for _ in range(3):
        try_media(server, "purge", "--user", "alice")
    ending.set()
    for worker in workers:
        worker.join()
    assert not failures
    agree(server)


def test_kill_9_amid_uploads_leaves_neither_orphan_nor_hole(fresh_server: FreshServer) -> None:
    """MEDIA-1: what was acknowledged is there, byte for byte; of the rest nothing is left."""
    server = fresh_server()
    alice = Client(server).register("alice")
    dice = random.Random(3)
    kept: dict[str, bytes] = {}

    def work(number: int) -> None:
        client, dice = alice.another_connection(), random.Random(number)
        while True:
            data = dice.randbytes(dice.choice((100, 70_000, 1_500_000)))
            try:
                kept[upload(client, data)] = data
            except (OSError, HTTPException, ApiError):
                return

    for round_number in range(5):
        with ThreadPoolExecutor(6) as threads:
            known = len(kept)
            work_done = [threads.submit(work, 10 * round_number + n) for n in range(6)]
            wait_until("some uploads", lambda at_least=known + 10: len(kept) >= at_least)
            time.sleep(dice.random() / 5)
            server.kill9()
            for each in work_done:
                each.result()
        server.start()
    wait_until("the rest to be cleared away", lambda: not incoming(server))
    agree(server)
    for uri, data in kept.items():
        assert download(alice, uri).body == data
    assert len(disk(server)) >= len(kept)


def test_stopping_in_the_middle_of_an_upload_leaves_nothing(fresh_server: FreshServer) -> None:
    """MEDIA-1."""
    server = fresh_server()
    alice = Client(server).register("alice")
    with begin_upload(alice, 1000) as line:
        line.sendall(b"half of it")
        wait_until("the upload", lambda: incoming(server))
        assert server.terminate() == 0
    server.start()
    agree(server)
    assert disk(server) == []
