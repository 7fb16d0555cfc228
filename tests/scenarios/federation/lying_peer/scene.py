"""Where the lies are told: a room on an honest server, with a liar in it, and one who is lied about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from synapse_like.protocol.events import Pdu
from tests.scenarios.conftest import Unique
from tests.support.client import Client, Json, ids
from tests.support.federation import state_of, whole_history
from tests.support.lying_peer import Asked, LyingPeer
from tests.support.peer_rooms import PeerRoom
from tests.support.processes import wait_until
from tests.support.server import HomeServer

#: How long the honest server waits for an answer, and for what concerns a whole room, in seconds.
PATIENCE = 2.0
LONG_PATIENCE = 5 * PATIENCE

#: One for each form in which events travel.
VERSIONS = ("spec-2014", "1", "11")
each_version = pytest.mark.parametrize("version", VERSIONS)


@dataclass
class Scene:
    """A public room of alice's about tea, with tess and mallory in it.

    :ivar room: as the peer, mallory's server, knows it.
    :ivar tess_room: as the third server knows it.
    """

    server: HomeServer
    alice: Client
    peer: LyingPeer
    third: LyingPeer
    room: PeerRoom
    tess_room: PeerRoom
    mallory: str
    tess: str

    @property
    def room_id(self) -> str:
        return self.room.room_id

    def learn(self, event_id: str) -> str:
        """Wait until the peer has heard of something that was said on the honest server."""
        wait_until(f"{event_id} to be heard", lambda: event_id in self.room.after)
        return event_id

    def give_power(self, level: int) -> None:
        """Let alice give mallory some power."""
        levels = self.alice.state_content(self.room_id, "m.room.power_levels")
        if self.room.rules.power_level_family == "one-event-per-level":
            levels = {**levels, self.mallory: level}
        else:
            levels = {**levels, "users": {**levels["users"], self.mallory: level}}
        self.learn(self.alice.set_state(self.room_id, "m.room.power_levels", levels))

    def message(self, body: str = "hello", **lies: Any) -> Pdu:
        """A message of mallory's that nobody has seen yet."""
        return self.room.make(self.mallory, "m.room.message", {"msgtype": "m.text", "body": body}, **lies)

    def sees(self) -> tuple[object, list[str]]:
        """What alice sees of the room."""
        return state_of(self.alice, self.room_id), ids(whole_history(self.alice, self.room_id))

    def refuses(self, *pdus: Pdu, by: LyingPeer | None = None) -> None:
        """See that events are refused, and change nothing."""
        before = self.sees()
        self.server.forget_log()
        results = (by or self.peer).send(self.server, pdus)
        assert all("error" in result for result in results.values()), results
        assert self.sees() == before
        log = self.server.recent_log()
        assert any(word in log for word in ("refused", "left out", "ignored", "rejected")), log
        self.works_on()

    def hides(self, *pdus: Pdu) -> None:
        """See that events change nothing that anybody sees, whatever they are answered."""
        before = self.sees()
        self.peer.send(self.server, pdus)
        assert self.sees() == before
        self.works_on()

    def works_on(self) -> None:
        """See that honest people can still talk."""
        said = self.tess_room.text(self.tess, "never mind")
        assert self.third.send(self.server, [said]) == {self.tess_room.id_of(said): {}}
        answer = self.alice.send(self.room_id, "indeed")
        # What a slow server has not received in time it has acknowledged, and goes on with.
        both = {answer, self.tess_room.id_of(said)}
        wait_until("both to be read", lambda: both <= set(ids(self.alice.history(self.room_id))))
        self.third.wait_for_pdu(self.tess_room, answer)


def scene_of(alice: Client, peer: LyingPeer, third: LyingPeer, version: str) -> Scene:
    """A new scene, whose room is of some version."""
    room_id = alice.create_room(visibility="public", room_version=version, topic="Tea")
    mallory, tess = peer.user("mallory"), third.user("tess")
    tess_room = third.join(alice.server, room_id, tess)
    room = peer.join(alice.server, room_id, mallory)
    return Scene(alice.server, alice, peer, third, room, tess_room, mallory, tess)


#: Makes an event that must not be believed.
Lie = Callable[[Scene], Pdu]


def for_tess(scene: Scene) -> Pdu:
    return scene.room.make(scene.tess, "m.room.message", {"msgtype": "m.text", "body": "I am evil"})


def more_power(scene: Scene) -> Pdu:
    levels = {scene.mallory: 100}
    content: Json = levels if scene.room.rules.name == "spec-2014" else {"users": levels}
    return scene.room.make(scene.mallory, "m.room.power_levels", content, "")


def hosted(peer: LyingPeer, unique: Unique, version: str) -> PeerRoom:
    """A public room of the peer's, with an alias."""
    room = peer.host(version, peer.user("mallory"))
    peer.aliases[f"#{unique('trap')}:{peer.name}"] = room.room_id
    return room


def alias_of(peer: LyingPeer, room: PeerRoom) -> str:
    return next(alias for alias, room_id in peer.aliases.items() if room_id == room.room_id)


def honestly(peer: LyingPeer, asked: Asked) -> Any:
    """What an honest peer answers."""
    changed = dict(peer.answers)
    peer.forget_answers()
    answer = peer.answers[asked.kind](asked)
    peer.answers.update(changed)
    return answer


def endless_body(asked: Asked) -> Iterator[bytes]:
    """An answer as fast as it goes, without an end."""
    yield b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"x": "'
    while True:
        yield b"x" * 65536
