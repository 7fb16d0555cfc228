"""Lies about invites."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from synapse_like.protocol.events import Pdu
from tests.scenarios.conftest import Unique
from tests.scenarios.federation.lying_peer.scene import honestly
from tests.support.client import ApiError, Client, Json
from tests.support.lying_peer import V2, Asked, LyingPeer, quote
from tests.support.peer_rooms import PeerRoom
from tests.support.processes import wait_until


def invite_lies(alice: Client, peer: LyingPeer, third: LyingPeer, room: PeerRoom) -> Iterator[tuple[str, Json]]:
    """Invites that nobody may sign: what is wrong, and what is sent."""
    mallory = peer.user("mallory")
    invite = {"membership": "invite"}

    def body(pdu: Pdu, version: str = room.rules.name) -> Json:
        return {"room_version": version, "event": pdu, "invite_room_state": []}

    yield "of nobody", body(room.make(mallory, "m.room.member", invite, f"@no-such-user:{alice.server.name}"))
    yield "of a third server's user", body(room.make(mallory, "m.room.member", invite, third.user("tess")))
    yield "by a third server's user", body(room.make(third.user("tess"), "m.room.member", invite, alice.user_id))
    yield "by ourselves", body(room.make(alice.user_id, "m.room.member", invite, alice.user_id))
    yield "that is a join", body(room.make(mallory, "m.room.member", {"membership": "join"}, alice.user_id))
    yield "that is a name", body(room.make(mallory, "m.room.name", {"name": "x"}, alice.user_id))
    yield "unsigned", body({**room.make(mallory, "m.room.member", invite, alice.user_id), "signatures": {}})
    yield "of an unknown version", body(room.make(mallory, "m.room.member", invite, alice.user_id), "99")
    yield (
        "of the wrong version",
        body(
            room.make(mallory, "m.room.member", invite, alice.user_id),
            "6" if room.rules.name == "spec-2014" else "spec-2014",
        ),
    )


@pytest.mark.parametrize("version", ["spec-2014", "11"])
def test_false_invites_are_not_signed(alice: Client, peer: LyingPeer, third: LyingPeer, version: str) -> None:
    """FED-7, SEC-8, SEC-9."""
    room = peer.host(version, peer.user("mallory"), is_public=False)
    for what, content in invite_lies(alice, peer, third, room):
        path = f"/invite/{quote(room.room_id)}/{quote(room.id_of(content['event']))}"
        with pytest.raises(ApiError) as error:
            peer.ask(alice.server, "PUT", path, content, prefix=V2)
        assert error.value.status in (400, 401, 403, 404), what
    good = room.make(peer.user("mallory"), "m.room.member", {"membership": "invite"}, alice.user_id)
    other_room = peer.host(version, peer.user("mallory"))
    for room_id, event_id in ((other_room.room_id, room.id_of(good)), (room.room_id, "$other:x")):
        content = {"room_version": version, "event": good, "invite_room_state": []}
        with pytest.raises(ApiError) as error:
            peer.ask(alice.server, "PUT", f"/invite/{quote(room_id)}/{quote(event_id)}", content, prefix=V2)
        assert error.value.status in (400, 403)
    assert not alice.synced_rooms()


@pytest.mark.parametrize("version", ["spec-2014", "11"])
def test_invite_is_ended_by_nobody_who_may_not(alice: Client, peer: LyingPeer, third: LyingPeer, version: str) -> None:
    """FED-7, SEC-8, MEM-2."""
    room = peer.host(version, peer.user("mallory"), is_public=False)
    peer.invite(alice.server, room, peer.user("mallory"), alice.user_id)
    assert room.room_id in alice.synced_rooms()
    out = {"membership": "leave"}
    for lie in (
        room.make(third.user("tess"), "m.room.member", out, alice.user_id),
        room.make(peer.user("nobody"), "m.room.member", out, alice.user_id),
        room.make(alice.user_id, "m.room.member", out, alice.user_id),
    ):
        for liar in (peer, third):
            liar.send(alice.server, [lie])
            assert room.room_id in alice.synced_rooms()
    peer.send(alice.server, [room.say(peer.user("mallory"), "m.room.member", out, alice.user_id)])
    assert room.room_id not in alice.synced_rooms()


@pytest.mark.parametrize("version", ["spec-2014", "11"])
def test_invite_that_overtakes_the_end_of_our_being_there_is_not_lost(
    alice: Client, peer: LyingPeer, unique: Unique, version: str
) -> None:
    """FED-7: to the other server we are not in the room any more, and it sends us nothing of it."""
    mallory, bob = peer.user("mallory"), Client(alice.server).register(unique("bob"))
    room = peer.host(version, mallory)
    alice.join(room.room_id)
    kick = room.say(mallory, "m.room.member", {"membership": "leave"}, alice.user_id)
    peer.invite(alice.server, room, mallory, bob.user_id)
    assert room.room_id not in bob.synced_rooms()
    peer.send(alice.server, [kick])
    wait_until("the invite", lambda: room.room_id in bob.synced_rooms())


def test_invited_server_that_changes_the_invite_is_not_believed(alice: Client, peer: LyingPeer) -> None:
    """FED-7, SEC-7."""
    room = alice.create_room()
    mickey = peer.user("mickey")

    def with_changes(asked: Asked) -> object:
        event = honestly(peer, asked)["event"]
        return {"event": {**event, "content": {"membership": "join"}}}

    for lie in (
        with_changes,
        lambda asked: {"event": asked.content["event"]},
        lambda asked: {"event": {}},
        lambda asked: {},
        lambda asked: (200, []),
    ):
        peer.answers["invite"] = lie
        with pytest.raises(ApiError) as error:
            alice.invite(room, mickey)
        assert error.value.status in (400, 401, 403, 502)
        assert mickey not in alice.members(room)
    peer.forget_answers()
    alice.invite(room, mickey)
    assert alice.members(room)[mickey] == "invite"


@pytest.mark.parametrize("status", [401, 500, 503])
def test_refusal_by_another_server_is_not_taken_for_one_of_our_own(alice: Client, peer: LyingPeer, status: int) -> None:
    """API-3: a client that is told of its token would log out."""
    room = alice.create_room()
    mickey = peer.user("mickey")
    peer.answers["invite"] = lambda asked: (status, {"errcode": "M_UNKNOWN_TOKEN", "error": "Who are you?"})
    with pytest.raises(ApiError) as error:
        alice.invite(room, mickey)
    assert (error.value.status, error.value.errcode) == (502, "M_UNKNOWN")
    peer.forget_answers()
    alice.invite(room, mickey)
