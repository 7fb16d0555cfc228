"""Lies to those who come in, and by those who do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from synapse_like.protocol.events import Pdu
from tests.scenarios.conftest import Unique
from tests.scenarios.federation.lying_peer.scene import (
    Scene,
    alias_of,
    each_version,
    honestly,
    hosted,
)
from tests.support.client import ApiError, Client, Json, forbidden
from tests.support.lying_peer import V2, Asked, LyingPeer, quote
from tests.support.peer_rooms import PeerRoom
from tests.support.server import HomeServer

# Lies about coming and going.


def changed_join(**content: Any) -> Callable[[Scene, PeerRoom, Pdu], Pdu]:
    return lambda scene, room, template: room.complete({**template, "content": content})


def join_of(user: Callable[[Scene], str]) -> Callable[[Scene, PeerRoom, Pdu], Pdu]:
    def lie(scene: Scene, room: PeerRoom, template: Pdu) -> Pdu:
        sender = "user_id" if "user_id" in template else "sender"
        return room.complete({**template, sender: user(scene), "state_key": user(scene)})

    return lie


@pytest.mark.parametrize("version", ["spec-2014", "11"])
@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(changed_join(membership="leave"), id="a leave"),
        pytest.param(changed_join(membership="ban"), id="a ban"),
        pytest.param(changed_join(), id="nothing"),
        pytest.param(join_of(lambda scene: scene.alice.user_id), id="join of a user here"),
        pytest.param(join_of(lambda scene: scene.third.user("tom")), id="join of a third server's user"),
        pytest.param(
            lambda scene, room, template: {**room.complete(template), "signatures": {}},
            id="unsigned",
        ),
        pytest.param(
            lambda scene, room, template: room.complete(
                {**template, "pdu_type" if "pdu_type" in template else "type": "m.room.name"}
            ),
            id="another event",
        ),
        pytest.param(lambda scene, room, template: room.complete({**template, "state_key": ""}), id="no user"),
    ],
)
def test_only_an_honest_join_lets_a_server_in(
    scene: Scene, lie: Callable[[Scene, PeerRoom, Pdu], Pdu], version: str
) -> None:
    """FED-7, SEC-3, SEC-8."""
    mickey = scene.peer.user("mickey")
    room, template = scene.peer.begin(scene.server, "join", scene.room_id, mickey)
    before = scene.sees()
    with pytest.raises(ApiError) as error:
        scene.peer.finish(scene.server, "join", room, lie(scene, room, template))
    assert error.value.status in (400, 401, 403)
    assert scene.sees() == before
    scene.works_on()


def test_join_under_another_name_is_refused(old_scene: Scene, unique: Unique) -> None:
    """FED-7: path and event must say the same."""
    scene = old_scene
    room, template = scene.peer.begin(scene.server, "join", scene.room_id, scene.peer.user("mickey"))
    join = room.complete(template)
    other = scene.alice.create_room(visibility="public")
    for room_id, event_id in ((other, room.id_of(join)), (scene.room_id, f"$other:{scene.peer.name}")):
        with pytest.raises(ApiError) as error:
            scene.peer.ask(scene.server, "PUT", f"/send_join/{quote(room_id)}/{quote(event_id)}", join, prefix=V2)
        assert error.value.status in (400, 403, 404)
    scene.works_on()


@pytest.mark.parametrize("version", ["spec-2014", "11"])
def test_banned_user_gets_neither_template_nor_in(scene: Scene, version: str) -> None:
    """FED-7, SEC-6, MEM-3: though the template was given before the ban."""
    mickey = scene.peer.user("mickey")
    room, template = scene.peer.begin(scene.server, "join", scene.room_id, mickey)
    scene.alice.ban(scene.room_id, mickey)
    with forbidden():
        scene.peer.begin(scene.server, "join", scene.room_id, mickey)
    with forbidden():
        scene.peer.finish(scene.server, "join", room, room.complete(template))
    assert scene.alice.members(scene.room_id)[mickey] == "ban"
    scene.works_on()


Template = Callable[[Client, Json], Json]


def template_with(**fields: Any) -> Template:
    return lambda alice, template: (
        template
        | {name: value(alice) if callable(value) else value for name, value in fields.items() if name in template}
    )


@pytest.mark.parametrize("version", ["spec-2014", "11"])
@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(template_with(context="!else:x.example", room_id="!else:x.example"), id="another room"),
        pytest.param(template_with(pdu_type="m.room.name", type="m.room.name"), id="another type"),
        pytest.param(template_with(state_key="@x:y.example"), id="another state key"),
        pytest.param(
            template_with(
                user_id=lambda alice: f"@x:{alice.server.name}", sender=lambda alice: f"@x:{alice.server.name}"
            ),
            id="another user",
        ),
        pytest.param(template_with(content={"membership": "leave"}), id="a leave"),
        pytest.param(template_with(prev_pdus=[], prev_events=[]), id="after nothing"),
        pytest.param(template_with(depth=2**63), id="depth"),
        pytest.param(lambda alice, template: {}, id="nothing"),
    ],
)
def test_nothing_is_signed_but_what_was_asked_for(
    alice: Client, peer: LyingPeer, unique: Unique, lie: Template, version: str
) -> None:
    """FED-7, SEC-8: a template cannot make us say something else."""
    room = hosted(peer, unique, version)

    def lying(asked: Asked) -> object:
        answer = honestly(peer, asked)
        return {**answer, "event": lie(alice, answer["event"])}

    peer.answers["make_join"] = lying
    with pytest.raises(ApiError) as error:
        alice.join(alias_of(peer, room))
    assert 400 <= error.value.status < 600
    assert not peer.requests("send_join"), "it was signed and handed over"


@pytest.mark.parametrize("version", ["spec-2014", "11"])
def test_words_put_into_a_template_are_not_taken_over(
    alice: Client, peer: LyingPeer, unique: Unique, version: str
) -> None:
    """FED-7, SEC-8."""
    room = hosted(peer, unique, version)

    def lying(asked: Asked) -> object:
        answer = honestly(peer, asked)
        answer["event"] |= {"org.example.oath": "I owe mallory", "unsigned": {"x": 1}}
        answer["event"]["content"] |= {"org.example.oath": "I owe mallory", "displayname": "Evil"}
        return answer

    peer.answers["make_join"] = lying
    alice.join(alias_of(peer, room))
    [asked] = peer.requests("send_join")
    assert "oath" not in str(asked.content)
    assert "Evil" not in str(asked.content)


def state_lies(pdus: Sequence[Pdu]) -> Mapping[str, object]:
    """Answers to a join that cannot be."""
    return {
        "nothing": {},
        "no list": {"state": {}, "auth_chain": {}},
        "numbers": {"state": [1, 2], "auth_chain": [3]},
        "empty": {"state": [], "auth_chain": []},
        "no JSON": iter([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"]),
        "no HTTP": iter([b"hello\r\n\r\n"]),
        "an error": (500, {}),
        "a redirection": iter([b"HTTP/1.1 302 Found\r\nLocation: https://localhost/\r\nContent-Length: 0\r\n\r\n"]),
    }


@pytest.mark.parametrize("lie", sorted(state_lies([])))
def test_join_that_is_answered_with_nonsense_fails_with_a_reason(
    alice: Client, peer: LyingPeer, unique: Unique, lie: str
) -> None:
    """FED-7, SEC-3, API-3."""
    room = hosted(peer, unique, "spec-2014")
    peer.answers["send_join"] = lambda asked: state_lies([])[lie]
    with pytest.raises(ApiError) as error:
        alice.join(alias_of(peer, room))
    assert error.value.status in (400, 403, 404, 502, 504)
    assert error.value.sentence
    assert room.room_id not in alice.synced_rooms()
    peer.forget_answers()
    alice.join(alias_of(peer, room))
    assert alice.user_id in alice.members(room.room_id)


@each_version
def test_false_state_that_is_told_to_who_joins_is_left_out(
    alice: Client, peer: LyingPeer, third: LyingPeer, unique: Unique, version: str
) -> None:
    """FED-7, SEC-3, SEC-8: of the state that another server tells, only what it can prove is taken over."""
    room = hosted(peer, unique, version)
    victim = third.user("tess")
    forged = [
        # Words of a third server's user, which it has not signed; and an unauthorised ban, and a fake name.
        room.make(victim, "m.room.member", {"membership": "join"}, victim),
        room.make(peer.user("nobody"), "m.room.member", {"membership": "ban"}, alice.user_id),
        room.make(peer.user("nobody"), "m.room.name", {"name": "forged"}, ""),
    ]

    def lying(asked: Asked) -> object:
        answer = honestly(peer, asked)
        return {**answer, "state": [*answer["state"], *forged]}

    peer.answers["send_join"] = lying
    assert alice.join(alias_of(peer, room)) == room.room_id
    members = alice.members(room.room_id)
    assert members == {peer.user("mallory"): "join", alice.user_id: "join"}
    assert "forged" not in str(alice.state(room.room_id))


@each_version
def test_room_without_a_creation_is_not_joined(
    alice: Client, peer: LyingPeer, honest: HomeServer, unique: Unique, version: str
) -> None:
    """SEC-3, FED-7."""
    room = hosted(peer, unique, version)
    create = room.pdus[room.state["m.room.create", ""]]

    def without_creation(asked: Asked) -> object:
        answer = honestly(peer, asked)
        answer["state"] = [pdu for pdu in answer["state"] if pdu != create]
        answer["auth_chain"] = [pdu for pdu in answer["auth_chain"] if pdu != create]
        return answer

    peer.answers["send_join"] = without_creation
    with pytest.raises(ApiError) as error:
        alice.join(alias_of(peer, room))
    assert 400 <= error.value.status < 600
    assert room.room_id not in alice.synced_rooms()
