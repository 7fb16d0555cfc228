"""Files of other servers: fetched once, kept as long as there is room, and given to one's own users (MEDIA-1)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import NewDatabase
from tests.scenarios.conftest import FreshServer, Unique, above_storage
from tests.scenarios.federation.conftest import FederationOf, in_good_order
from tests.support.client import Answer, Client
from tests.support.content import agree, disk, download, incoming, media, path_of, size_of, thumbnail, try_media, upload
from tests.support.federation import Federation
from tests.support.pictures import MIB, SCRIPT, html, photo
from tests.support.processes import wait_until
from tests.support.server import HomeServer

FETCH = "route=/_matrix/media/v1/download/{server}/{content_id}"


@pytest.fixture(scope="module")
def shared_pair(federation_of: FederationOf, new_database: NewDatabase) -> Iterator[Federation]:
    """The servers behind `pair`."""
    settings = {
        "content__max_upload_size": 100 * MIB,
        "content__max_remote_size": 60 * MIB,
        "content__remote_cache_size": 64 * MIB,
    }
    with new_database() as one, new_database() as two, federation_of(one, two, **settings) as federation:
        yield federation


@pytest.fixture
def pair(shared_pair: Federation) -> Iterator[Federation]:
    """Two servers in good order: alice's and bob's."""
    with in_good_order(shared_pair) as federation:
        yield federation


@pytest.fixture
def home(pair: Federation) -> HomeServer:
    """Where files are uploaded."""
    return pair.servers[0]


@pytest.fixture
def away(pair: Federation) -> HomeServer:
    """Where they are wanted."""
    return pair.servers[1]


@pytest.fixture
def alice(home: HomeServer, unique: Unique) -> Client:
    return Client(home).register(unique("alice"))


@pytest.fixture
def bob(away: HomeServer, unique: Unique) -> Client:
    return Client(away).register(unique("bob"))


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def fetches_from(server: HomeServer) -> int:
    """How often files were fetched from a server since its log was last forgotten."""
    return server.recent_log().count(FETCH)


def purge_copies(server: HomeServer, other: HomeServer) -> None:
    """Begin without copies of another server's files."""
    assert try_media(server, "purge", other.name).returncode in (0, 1)


def test_file_of_another_server_is_fetched_and_kept(
    pair: Federation, home: HomeServer, away: HomeServer, alice: Client, bob: Client
) -> None:
    """MEDIA-1: with its type and its name; once it is here, its server is not needed."""
    data = photo()
    uri = upload(alice, data, "image/jpeg", filename="été.jpg")
    pair.cut(home)
    assert download(bob, uri).json["errcode"] == "M_UNREACHABLE"
    pair.heal()
    answer = download(bob, uri)
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, data, "image/jpeg")
    assert answer.headers["Content-Disposition"] == "inline; filename=\"_t_.jpg\"; filename*=UTF-8''%C3%A9t%C3%A9.jpg"
    assert answer.headers["ETag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    assert download(bob, uri, Range="bytes=5-9").body == data[5:10]
    assert size_of(thumbnail(bob, uri)) == (320, 213)
    home.terminate()
    away.restart()
    assert download(bob, uri).body == data
    assert size_of(thumbnail(bob, uri, 96, 96, "crop")) == (96, 96)
    agree(away)


def test_thumbnail_of_what_is_not_here_yet(alice: Client, bob: Client) -> None:
    """MEDIA-1."""
    uri = upload(alice, photo(600, 900), "image/jpeg")
    assert size_of(thumbnail(bob, uri)) == (160, 240)


def test_what_many_want_is_fetched_once(home: HomeServer, alice: Client, bob: Client) -> None:
    """MEDIA-1, SEC-1."""
    data = noise(1, 3 * MIB)
    uri = upload(alice, data, "video/mp4")

    def fetch(_: int) -> Answer:
        return download(bob.another_connection(), uri)

    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(fetch, range(12)))
    assert all(answer.body == data for answer in answers)
    assert fetches_from(home) == 1


def test_what_a_browser_might_run_stays_a_download_elsewhere(alice: Client, bob: Client) -> None:
    """MEDIA-1."""
    uri = upload(alice, html(), "text/html")
    answer = download(bob, uri)
    assert SCRIPT in answer.body
    assert answer.headers["Content-Disposition"] == "attachment"
    assert "sandbox" in answer.headers["Content-Security-Policy"]


def test_file_that_is_not_there_is_not_found(home: HomeServer, away: HomeServer, bob: Client) -> None:
    """MEDIA-1."""
    answer = download(bob, f"mxc://{home.name}/nothing")
    assert (answer.status, answer.json["errcode"]) == (404, "M_NOT_FOUND")
    agree(away)


def test_server_gives_others_only_what_is_its_own(pair: Federation, home: HomeServer, bob: Client) -> None:
    """MEDIA-1, SEC-1: so nobody can have two servers ask each other for ever, or one fetch for strangers."""
    uri = upload(bob, noise(2, 1000))
    stranger = Client(home)
    through_home = path_of(uri)
    assert stranger.request("GET", through_home).status == 200, "clients may have it of their server"
    # The same path at the door for servers; asked for by whoever may speak TLS.
    answer = pair.ask(home, through_home)
    assert (answer.status, answer.json["errcode"]) == (404, "M_NOT_FOUND")
    mine = upload(Client(home).register("uploader"), b"mine")
    assert pair.ask(home, path_of(mine)).body == b"mine"


def test_file_that_is_too_large_is_not_fetched(away: HomeServer, alice: Client, bob: Client) -> None:
    """MEDIA-1, SEC-1."""
    uri = upload(alice, bytes(61 * MIB), "video/mp4")
    answer = download(bob, uri)
    assert (answer.status, answer.json["errcode"]) == (502, "M_TOO_LARGE")
    agree(away)


def test_copies_that_nobody_uses_make_room(home: HomeServer, away: HomeServer, alice: Client, bob: Client) -> None:
    """MEDIA-1."""
    purge_copies(away, home)
    own = upload(bob, noise(10, 5 * MIB), "video/mp4")
    files = [noise(seed, 20 * MIB) for seed in range(11, 15)]
    uris = [upload(alice, data, "video/mp4") for data in files]
    for n in (0, 1, 2, 0):
        download(bob, uris[n])
    # The first was used again meanwhile, so the second goes.
    assert download(bob, uris[3]).body == files[3]
    kept = [hashlib.sha256(data).hexdigest() in disk(away) for data in files]
    assert kept == [True, False, True, True]
    assert hashlib.sha256(noise(10, 5 * MIB)).hexdigest() in disk(away), "what is uploaded here is no copy"
    assert fetches_from(home) == 4
    assert download(bob, uris[1]).body == files[1], "it is fetched again"
    assert fetches_from(home) == 5
    assert download(bob, own).status == 200
    assert sum(hashlib.sha256(data).hexdigest() in disk(away) for data in files) == 3
    agree(away)


def test_purged_copy_is_gone_with_its_thumbnails_and_fetched_again(
    home: HomeServer, away: HomeServer, alice: Client, bob: Client
) -> None:
    """MEDIA-1."""
    uri = upload(alice, photo(1000, 700), "image/jpeg")
    thumbnail(bob, uri)
    before = len(disk(away))
    assert media(away, "purge", uri).startswith("Purged 1 uploads or copies, with 2 files")
    assert len(disk(away)) == before - 2
    thumbnail(bob, uri)
    assert fetches_from(home) == 2
    assert "Purged" in media(away, "purge", home.name)
    assert "Purged" in media(home, "purge", uri)
    answer = download(bob, uri)
    assert (answer.status, answer.json["errcode"]) == (404, "M_NOT_FOUND")
    agree(away)
    agree(home)


def test_copy_whose_file_was_lost_is_fetched_again(
    home: HomeServer, away: HomeServer, alice: Client, bob: Client
) -> None:
    """MEDIA-1."""
    data = noise(20, 5000)
    uri = upload(alice, data)
    download(bob, uri)
    name = hashlib.sha256(data).hexdigest()
    (away.data_dir / "content" / name[:2] / name[2:]).unlink()
    assert download(bob, uri).body == data
    agree(away)


@pytest.mark.parametrize("victim", [0, 1], ids=["the one that sends", "the one that fetches"])
def test_kill_in_the_middle_of_a_fetch_leaves_nothing(
    pair: Federation, victim: int, alice: Client, bob: Client
) -> None:
    """MEDIA-1: neither a part of a file nor a row; afterwards it is fetched as if nothing had been."""
    home, away = pair.servers
    data = noise(30 + victim, 48 * MIB)
    uri = upload(alice, data, "video/mp4")
    pair.slow(home, 1.0)
    pending = bob.start("GET", path_of(uri), token="")
    wait_until("a part of it", lambda: any(path.stat().st_size > MIB for path in incoming(away)))
    assert hashlib.sha256(data).hexdigest() not in disk(away)
    pair.servers[victim].kill9()
    if victim == 0:
        answer = pending.answer()
        assert (answer.status, answer.json["errcode"]) == (502, "M_UNREACHABLE")
    else:
        pending.abandon()
    pair.heal()
    pair.servers[victim].start()
    wait_until("the part to go", lambda: not incoming(away))
    agree(away)
    assert hashlib.sha256(data).hexdigest() not in disk(away)
    assert download(bob, uri).body == data
    agree(away)


def test_stopping_in_the_middle_of_a_fetch_leaves_nothing(pair: Federation, alice: Client, bob: Client) -> None:
    """MEDIA-1."""
    home, away = pair.servers
    uri = upload(alice, noise(50, 48 * MIB), "video/mp4")
    pair.slow(home, 5.0)
    pending = bob.start("GET", path_of(uri), token="")
    wait_until("the fetch", lambda: incoming(away))
    assert away.terminate() == 0
    pending.abandon()
    assert not incoming(away)
    away.start()
    agree(away)


@above_storage
def test_server_that_sends_too_slowly_is_given_up(
    federation_of: FederationOf, new_database: NewDatabase, unique: Unique
) -> None:
    """MEDIA-1, SEC-1."""
    with (
        new_database() as one,
        new_database() as two,
        federation_of(one, two, content__remote_timeout=2.0) as pair,
    ):
        alice, bob = (Client(server).register(unique("user")) for server in pair.servers)
        uri = upload(alice, noise(40, 40 * MIB), "video/mp4")
        pair.slow(pair.servers[0], 1.5)
        answer = download(bob, uri)
        assert (answer.status, answer.json["errcode"]) == (502, "M_UNREACHABLE")
        assert "it took too long" in pair.servers[1].recent_log()
        agree(pair.servers[1])


@above_storage
def test_addresses_inside_are_not_asked(fresh_server: FreshServer) -> None:
    """MEDIA-1, SEC-1: whoever names a server in a URI does not get to knock at our neighbours' doors."""
    server = fresh_server()
    client = Client(server)
    for name in ("127.0.0.1:22", "localhost:80", "10.0.0.1", "[::1]:8448", "169.254.169.254"):
        answer = download(client, f"mxc://{name}/abc")
        assert (answer.status, answer.json["errcode"]) == (502, "M_UNREACHABLE")
    assert server.recent_log().count("federation may not reach the address") >= 4
    for name in ("", "a b", "..", "x" * 300):
        assert download(client, f"mxc://{name}/abc").status in (400, 404)
