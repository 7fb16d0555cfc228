"""Keys of whole servers: published, rotated, and passed on by another (FED-1, FED-9)."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import orjson
import pytest
from signedjson.key import decode_verify_key_base64
from signedjson.sign import verify_signed_json

from tests.scenarios.conftest import FreshServer
from tests.support.certificates import Authority
from tests.support.server import HomeServer

MakeServer = Callable[..., HomeServer]
DAY = 24 * 3600 * 1000


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def certified(fresh_server: FreshServer, authority: Authority) -> MakeServer:
    """Makes servers that have certificates, and believe those of the others."""

    def make(**settings: object) -> HomeServer:
        files = authority.certify("localhost")
        usual = {
            "federation.ca_file": str(authority.file),
            "federation.tls_certificate": str(files.certificate),
            "federation.tls_private_key": str(files.private_key),
            "federation.allow_private_addresses": True,
        }
        return fresh_server({**usual, **settings})

    return make


def ask(server: HomeServer, method: str, path: str, body: object = None, authority: Authority | None = None) -> Any:
    """Ask as other servers do, checking the certificate if the authority is given."""
    status, _, answer = ask_all(server, method, path, body, authority)
    assert status == 200, answer
    return answer


def ask_all(
    server: HomeServer, method: str, path: str, body: object = None, authority: Authority | None = None
) -> tuple[int, dict[str, str], Any]:
    context = ssl.create_default_context(cafile=str(authority.file)) if authority else ssl._create_unverified_context()
    connection = HTTPSConnection("localhost", int(server.name.rpartition(":")[2]), context=context, timeout=30)
    try:
        connection.request(method, path, None if body is None else orjson.dumps(body))
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), orjson.loads(response.read())
    finally:
        connection.close()


def verify(answer: Any, server: HomeServer, key_id: str) -> None:
    algorithm, _, version = key_id.partition(":")
    said = {**answer["verify_keys"], **answer["old_verify_keys"]}[key_id]["key"]
    verify_signed_json(answer, server.name, decode_verify_key_base64(algorithm, version, said))


def test_keys_are_published_signed_and_cacheable(certified: MakeServer, authority: Authority) -> None:
    server = certified()
    status, headers, answer = ask_all(server, "GET", "/_matrix/key/v2/server", authority=authority)
    assert status == 200
    assert answer["server_name"] == server.name
    [key_id] = answer["verify_keys"]
    assert answer["old_verify_keys"] == {}
    verify(answer, server, key_id)
    assert DAY / 2 <= answer["valid_until_ts"] - time.time() * 1000 <= DAY
    assert headers["Cache-Control"] == "public, max-age=3600"
    for path in ("/_matrix/key/v2/server/", f"/_matrix/key/v2/server/{key_id}"):
        assert ask(server, "GET", path) == answer


def test_self_signed_certificate_serves_those_who_ask_for_no_better(
    fresh_server: FreshServer, authority: Authority
) -> None:
    server = fresh_server()
    assert ask(server, "GET", "/_matrix/key/v2/server")["server_name"] == server.name
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(server, "GET", "/_matrix/key/v2/server", authority=authority)


def test_rotated_key_signs_from_the_next_start_and_the_old_one_is_told_as_old(fresh_server: FreshServer) -> None:
    server = fresh_server()
    [first] = ask(server, "GET", "/_matrix/key/v2/server")["verify_keys"]
    rotated = server.command("rotate-key")
    assert rotated.returncode == 0, rotated.stderr
    # The running server goes on with the first one.
    assert list(ask(server, "GET", "/_matrix/key/v2/server")["verify_keys"]) == [first]
    before = time.time() * 1000
    server.kill9()
    server.start()
    for _ in range(2):
        answer = ask(server, "GET", "/_matrix/key/v2/server")
        [second] = answer["verify_keys"]
        assert second in rotated.stdout
        verify(answer, server, second)
        assert list(answer["old_verify_keys"]) == [first]
        ended = answer["old_verify_keys"][first]["expired_ts"]
        assert before - 1 <= ended <= time.time() * 1000
        before = ended
        server.kill9()
        server.start()
    # The end does not move.
    assert ask(server, "GET", "/_matrix/key/v2/server")["old_verify_keys"][first]["expired_ts"] == before


def test_notary_passes_on_what_a_server_says_of_itself(
    certified: MakeServer, authority: Authority, tmp_path: Path
) -> None:
    subject, notary = certified(), certified()
    own = ask(subject, "GET", "/_matrix/key/v2/server")
    [notary_key] = ask(notary, "GET", "/_matrix/key/v2/server")["verify_keys"]
    wanted = {"server_keys": {subject.name: {}, "nobody.invalid": {}, notary.name: {"ed25519:x": {}}}}
    answers = ask(notary, "POST", "/_matrix/key/v2/query", wanted)["server_keys"]
    by_name = {answer["server_name"]: answer for answer in answers}
    assert by_name.keys() == {subject.name, notary.name}
    told = by_name[subject.name]
    assert told["verify_keys"] == own["verify_keys"]
    [key_id] = own["verify_keys"]
    verify(told, subject, key_id)
    notary_keys = by_name[notary.name]["verify_keys"]
    version = notary_key.partition(":")[2]
    verify_signed_json(told, notary.name, decode_verify_key_base64("ed25519", version, notary_keys[notary_key]["key"]))
    # It knows them when the server is away, too, and after a restart.
    subject.kill9()
    notary.restart()
    [again] = ask(notary, "GET", f"/_matrix/key/v2/query/{subject.name}")["server_keys"]
    assert again["verify_keys"] == own["verify_keys"]
    assert ask(notary, "GET", f"/_matrix/key/v2/query/{subject.name}/{key_id}")["server_keys"] == [again]


def test_notary_does_not_believe_wrong_certificates(fresh_server: FreshServer) -> None:
    subject = fresh_server()
    believing = fresh_server(
        {"federation.allow_private_addresses": True, "federation.unverified_servers": [subject.name]}
    )
    doubting = fresh_server({"federation.allow_private_addresses": True})
    isolated = fresh_server({"federation.verify_certificates": False})
    counts = [
        len(ask(notary, "GET", f"/_matrix/key/v2/query/{subject.name}")["server_keys"])
        for notary in (believing, doubting, isolated)
    ]
    assert counts == [1, 0, 0]


def test_notary_refuses_nonsense_with_a_reason(fresh_server: FreshServer) -> None:
    server = fresh_server()
    for body in (
        {},
        {"server_keys": []},
        {"server_keys": {"no name": {}}},
        {"server_keys": {"a.example": 1}},
        {"server_keys": {"a.example": {"ed25519:1": 1}}},
        {"server_keys": {f"s{number}.example": {} for number in range(101)}},
    ):
        status, _, answer = ask_all(server, "POST", "/_matrix/key/v2/query", body)
        assert (status, answer["errcode"]) == (400, "M_BAD_JSON")


def test_federation_can_be_switched_off(fresh_server: FreshServer) -> None:
    server = fresh_server({"federation.enabled": False})
    with pytest.raises(ConnectionRefusedError):
        ask(server, "GET", "/_matrix/key/v2/server")
    assert server.terminate() == 0
