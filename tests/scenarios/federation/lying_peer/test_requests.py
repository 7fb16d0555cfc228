"""Transactions and requests that are not what they claim."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from signedjson.key import generate_signing_key

from tests.scenarios.federation.lying_peer.scene import (
    Scene,
    for_tess,
)
from tests.support.client import ApiError, Json, texts
from tests.support.lying_peer import V1, quote
from tests.support.peer_rooms import now_ms
from tests.support.processes import wait_until

# Lies about transactions and requests.


def test_one_bad_event_does_not_spoil_the_others(old_scene: Scene) -> None:
    """FED-2: the answer says what became of each."""
    scene = old_scene
    good = [scene.room.text(scene.mallory, "one"), scene.room.text(scene.mallory, "two")]
    bad = for_tess(scene)
    results = scene.peer.send(scene.server, [bad, good[0], {"pdu_id": 7}, bad, good[1]])
    assert [results[scene.room.id_of(pdu)] for pdu in good] == [{}, {}]
    assert "error" in results[scene.room.id_of(bad)]
    assert [text for text in texts(scene.alice.history(scene.room_id)) if text] == ["one", "two"]
    scene.works_on()


def test_repeated_transaction_is_answered_from_the_record(old_scene: Scene) -> None:
    """FED-2: also under a slash less, after a restart, and with other contents."""
    scene = old_scene
    first = scene.room.text(scene.mallory, "once")
    answer = scene.peer.send(scene.server, [first], txn="the same")
    other = scene.room.make(scene.mallory, "m.room.message", {"msgtype": "m.text", "body": "other"})
    assert scene.peer.send(scene.server, [other], txn="the same") == answer
    scene.server.restart()
    body = {"pdus": [other], "edus": []}
    assert scene.peer.ask(scene.server, "PUT", "/send/the%20same", body)["pdus"] == answer
    assert "other" not in texts(scene.alice.history(scene.room_id))
    assert scene.third.send(scene.server, [], txn="the same") == {}
    scene.works_on()


def test_empty_transaction_is_fine(old_scene: Scene) -> None:
    """FED-2."""
    assert old_scene.peer.send(old_scene.server) == {}
    assert old_scene.peer.ask(old_scene.server, "PUT", "/send/bare/", {})["pdus"] == {}


def test_path_and_receiver_override_what_a_transaction_says_of_itself(old_scene: Scene) -> None:
    """FED-2."""
    scene = old_scene
    said = scene.room.text(scene.mallory, "hello")
    results = scene.peer.send(scene.server, [said], transaction_id="another", destination="another.example")
    assert results == {scene.room.id_of(said): {}}


@pytest.mark.parametrize(
    "lies",
    [
        {"pdus": {"1": {}}},
        {"pdus": [1]},
        {"pdus": None},
        {"edus": "x"},
        {"edus": [[]]},
        {"pdus": [{}] * 51},
        {"edus": [{"edu_type": "x", "content": {}}] * 101},
        {"origin": "another.example"},
    ],
    ids=lambda lies: str(lies)[:40],
)
def test_transaction_of_another_shape_is_refused(old_scene: Scene, lies: Json) -> None:
    """FED-2, SEC-1, SEC-8."""
    body = {"origin": old_scene.peer.name, "pdus": [], "edus": [], **lies}
    with pytest.raises(ApiError) as error:
        old_scene.peer.ask(old_scene.server, "PUT", f"/send/{now_ms()}/", body)
    assert error.value.status in (400, 403, 413)
    old_scene.works_on()


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b'{"pdus": [NaN]}',
        b'{"pdus": ["\\ud800"]}',
        b'{"pdus": [' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
        b"\xff\xfe{}",
        b'{"pdus": [{"depth": ' + b"9" * 100_000 + b"}]}",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_body_that_is_no_transaction_is_refused(old_scene: Scene, body: bytes) -> None:
    """API-3, SEC-1."""
    scene = old_scene
    uri = f"{V1}/send/odd/"
    headers = [scene.peer.authorization(scene.server.name, "PUT", uri, signed) for signed in (body, None)]
    for header in headers:
        answer = scene.peer.request(scene.server, "PUT", uri, body, header=header)
        assert 400 <= answer.status < 500
        assert answer.json["errcode"]
    scene.works_on()


def test_transaction_of_50_megabytes_is_refused_and_costs_little(old_scene: Scene) -> None:
    """SEC-1."""
    scene = old_scene
    before = scene.server.resident_bytes()
    filler = [{"edu_type": "x", "content": {"filler": "x" * 1_000_000}} for _ in range(50)]
    uri = f"{V1}/send/large/"
    with ThreadPoolExecutor(3) as threads:
        asking = [
            threads.submit(scene.peer.request, scene.server, "PUT", uri, {"pdus": [], "edus": filler}) for _ in range(3)
        ]
        assert [asked.result().status for asked in asking] == [413, 413, 413]
    assert scene.server.resident_bytes() - before < 60_000_000
    scene.works_on()


def test_request_for_another_server_is_no_request_to_this_one(old_scene: Scene) -> None:
    """SEC-8, FED-9: what one server was asked cannot be asked of another with the same words."""
    scene = old_scene
    uri = f"{V1}/state/{quote(scene.room_id)}/"
    for_third = scene.peer.authorization(scene.third.name, "GET", uri, None)
    assert scene.peer.request(scene.server, "GET", uri, header=for_third).status == 401
    said_by_alices_server = None

    scene.alice.send(scene.room_id, "hello")
    said_by_alices_server = wait_until("a request of hers", lambda: next(iter(scene.peer.requests("send")), None))
    header = said_by_alices_server.headers["Authorization"]
    content = said_by_alices_server.content
    answer = scene.third.request(scene.server, "PUT", said_by_alices_server.uri, content, header=header)
    assert answer.status == 401, "its own words thrown back"
    scene.works_on()


def variations(scene: Scene, uri: str) -> Iterator[str]:
    """Headers that are each false in another way."""
    sign = scene.peer.authorization
    name = scene.server.name
    yield ""
    yield "Bearer x"
    yield "X-Matrix"
    yield "X-Matrix " + "a" * 100_000
    yield "X-Matrix origin=,key=,sig="
    yield sign(name, "GET", uri, None, key=generate_signing_key("lie"))
    yield sign(name, "GET", uri, None, key=generate_signing_key("unknown"))
    yield sign(name, "GET", uri, None, origin=scene.third.name)
    yield sign(name, "GET", uri, None, origin=name)
    yield sign(name, "PUT", uri, None)
    yield sign(name, "GET", uri + "?", None)
    yield sign(name, "GET", uri, b"{}")
    good = sign(name, "GET", uri, None)
    yield good.replace('sig="', 'sig="A')
    yield good.replace(scene.peer.name, scene.peer.name.upper())
    yield good + f',origin="{scene.third.name}"'
    yield good.replace(scene.peer.name, "localhost:1")
    yield good.replace(scene.peer.name, "nowhere.invalid")


def test_request_that_is_not_signed_as_it_should_be_is_refused(old_scene: Scene) -> None:
    """FED-9, SEC-8: and by nobody else than who asks."""
    scene = old_scene
    uri = f"{V1}/state/{quote(scene.room_id)}/"
    for header in variations(scene, uri):
        answer = scene.peer.request(scene.server, "GET", uri, header=header)
        assert answer.status == (400 if len(header) > 50_000 else 401), header[:100]
        assert answer.json["errcode"]
    assert scene.peer.request(scene.server, "GET", uri).status == 200
