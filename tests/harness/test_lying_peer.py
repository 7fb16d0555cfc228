"""The lying peer: honest as long as nobody makes it lie, by the rules of the protocol core and on real sockets.

Two of them speak to each other here; each checks what the other signs.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from signedjson.key import generate_signing_key, get_verify_key

from synapse_like.protocol.authorisation import auth_types_for, authorise, claimed_state
from synapse_like.protocol.hashes import check_content_hash
from synapse_like.protocol.room_versions import ALL_RULES, RoomRules
from synapse_like.protocol.signing import verify_pdu
from synapse_like.protocol.wire_formats import from_pdu
from tests.support.certificates import Authority
from tests.support.client import ApiError, refused
from tests.support.lying_peer import V1, Asked, LyingPeer
from tests.support.peer_rooms import PeerRoom

every_version = pytest.mark.parametrize("rules", ALL_RULES, ids=lambda rules: rules.name)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def one(authority: Authority) -> Iterator[LyingPeer]:
    with LyingPeer(authority) as peer:
        yield peer
        assert not peer.faults


@pytest.fixture
def other(authority: Authority) -> Iterator[LyingPeer]:
    with LyingPeer(authority, "127.0.0.1") as peer:
        yield peer
        assert not peer.faults


def check_all(room: PeerRoom) -> None:
    """See that every event of a room is one that an honest server would have made."""
    for event_id, pdu in room.pdus.items():
        event = from_pdu(room.rules, pdu)
        assert event.event_id == event_id
        assert check_content_hash(room.rules, pdu)
        key = get_verify_key(room.key)
        verify_pdu(room.rules, pdu, room.server_name, key)
        if event_id in room.before:
            needed = auth_types_for(room.rules, event)
            state = {slot: room.events[room.before[event_id][slot]] for slot in needed if slot in room.before[event_id]}
            authorise(room.rules, event, state)
        create = room.events["$" + room.room_id[1:]] if not room.rules.create_in_auth_events else None
        cited = [room.events[auth] for auth in event.auth_events]
        authorise(room.rules, event, claimed_state(room.rules, event, cited, create=create))


@every_version
def test_honest_rooms_pass_every_check(rules: RoomRules) -> None:
    room = PeerRoom.create(rules, "@alice:a.example", "a.example", generate_signing_key("a"))
    room.member("@bob:a.example", "join")
    said = room.text("@bob:a.example", "hello")
    room.say("@alice:a.example", "m.room.redaction", {}, redacts=room.id_of(said))
    fork = room.fork()
    room.member("@alice:a.example", "ban", "@bob:a.example")
    fork.text("@bob:a.example", "meanwhile")
    assert room.heads != fork.heads
    room.add(fork.pdus[fork.heads[0]])
    assert len(room.heads) == 2
    room.text("@alice:a.example", "together")
    assert len(room.heads) == 1
    assert room.events[room.state["m.room.member", "@bob:a.example"]].content["membership"] == "ban"
    check_all(room)


@every_version
def test_peers_join_each_others_rooms_and_talk(one: LyingPeer, other: LyingPeer, rules: RoomRules) -> None:
    room = one.host(rules.name, one.user("alice"))
    there = other.join(one, room.room_id, other.user("bob"))
    assert there.state == room.state
    said = there.text(other.user("bob"), "hello")
    assert other.send(one, [said]) == {there.id_of(said): {}}
    assert one.received(room.room_id) == [said]
    assert room.heads == there.heads
    assert one.wait_for_pdu(room, room.heads[0]) == said


def test_what_a_peer_knows_can_be_fetched(one: LyingPeer, other: LyingPeer) -> None:
    room = one.host("spec-2014", one.user("alice"))
    before = room.state
    texts = [room.text(one.user("alice"), str(number)) for number in range(5)]
    names = [room.id_of(pdu) for pdu in texts]
    path = f"/{room.room_id}"
    state = other.ask(one, "GET", f"/state{path}/", event_id=names[0])
    assert {room.id_of(pdu) for pdu in state["pdus"]} == set(before.values())
    assert set(other.ask(one, "GET", f"/state_ids{path}", event_id=names[0])["pdu_ids"]) == set(before.values())
    backfilled = other.ask(one, "GET", f"/backfill{path}/", v=[names[3]], limit=2)["pdus"]
    assert backfilled == [texts[3], texts[2]]
    between = {"earliest_events": [names[0]], "latest_events": [names[4]], "limit": 10, "min_depth": 0}
    assert other.ask(one, "POST", f"/get_missing_events{path}", between)["pdus"] == texts[1:4]
    assert other.ask(one, "GET", f"/event/{names[2]}")["pdus"] == [texts[2]]
    pdu = texts[2]
    assert other.ask(one, "GET", f"/pdu/{pdu['origin']}/{pdu['pdu_id']}/")["pdus"] == [pdu]
    chain = other.ask(one, "GET", f"/event_auth{path}/{names[2]}")["auth_chain"]
    assert {room.id_of(pdu) for pdu in chain} >= set(room.events[names[2]].auth_events)
    with refused(404, "M_NOT_FOUND"):
        other.ask(one, "GET", "/event/$nothing:here")


def test_request_that_is_not_signed_as_it_should_be_is_noticed(one: LyingPeer, other: LyingPeer) -> None:
    uri = f"{V1}/state/!room:here/"
    headers = [
        "",
        other.authorization(one.name, "GET", uri, None, key=generate_signing_key("lie")),
        other.authorization(other.name, "GET", uri, None),
        other.authorization(one.name, "GET", uri, None, origin=one.name),
        other.authorization(one.name, "GET", f"{uri}x", None),
        other.authorization(one.name, "GET", uri, b"{}"),
    ]
    for header in headers:
        answer = other.request(one, "GET", uri, header=header)
        assert answer.status == 401
    assert len(one.faults) == len(headers)
    one.faults.clear()
    assert not one.requests("state")


@every_version
def test_lie_is_signed_all_the_same(rules: RoomRules) -> None:
    room = PeerRoom.create(rules, "@alice:a.example", "a.example", generate_signing_key("a"))
    for lie in ({"depth": 2**63}, {"depth": -1}, {"content": {"n": 1.5}}):
        pdu = room.change(room.make("@alice:a.example", "x", {}), **lie)
        lenient = replace(rules, strict_canonical_json=False)
        assert check_content_hash(lenient, pdu)
        verify_pdu(lenient, pdu, "a.example", get_verify_key(room.key))


def test_answer_may_be_anything(one: LyingPeer, other: LyingPeer) -> None:
    one.answers["event"] = lambda asked: (418, [asked.parameters[0]])
    with pytest.raises(ApiError, match=r"418: .*\$x"):
        other.ask(one, "GET", "/event/$x")
    one.answers["event"] = lambda asked: iter([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"{", b"}"])
    assert other.ask(one, "GET", "/event/$x") == {}


def test_endless_answer_ends_when_the_other_has_gone(one: LyingPeer) -> None:
    def endless(asked: Asked) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n["
        while True:
            yield b"1," * 10_000

    one.answers["keys"] = endless
    host, _, port = one.name.partition(":")
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        one._context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        connection.sendall(b"GET /_matrix/key/v2/server HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(100)
    [asked] = one.requests("keys")
    assert asked.is_over.wait(5)


def test_handshake_that_never_comes_keeps_nobody_waiting(one: LyingPeer, other: LyingPeer) -> None:
    host, _, port = one.name.partition(":")
    with socket.create_connection((host, int(port))):
        begun = time.monotonic()
        assert other.request(one, "GET", "/_matrix/key/v2/server", header="").status == 200
        assert time.monotonic() - begun < 5


def test_fault_in_an_answer_is_noticed(one: LyingPeer, other: LyingPeer) -> None:
    one.answers["event"] = lambda asked: 1 // 0
    with refused(500, "M_UNKNOWN"):
        other.ask(one, "GET", "/event/$x")
    assert "ZeroDivisionError" in one.faults.pop()


def test_closing_a_peer_ends_its_connections(authority: Authority) -> None:
    peer = LyingPeer(authority)
    host, _, port = peer.name.partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        time.sleep(0.1)
        peer.close()
        assert connection.recv(1) == b""
