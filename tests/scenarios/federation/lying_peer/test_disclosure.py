"""What is told to whom: nothing to a server that is not in the room."""

from __future__ import annotations

import pytest

from tests.scenarios.conftest import Unique
from tests.scenarios.federation.lying_peer.scene import (
    Scene,
    each_version,
)
from tests.support.client import ApiError, Client, Json
from tests.support.lying_peer import V1, LyingPeer, quote

# What is told to whom.


def fetches(room_id: str, event_id: str) -> list[tuple[str, str, Json | None]]:
    """Every request by which something of a room can be had."""
    room, event = quote(room_id), quote(event_id)
    pdu_id, _, origin = event_id[1:].partition(":")
    between = {"earliest_events": [], "latest_events": [event_id], "limit": 10, "min_depth": 0}
    paths = [
        f"/state/{room}/",
        f"/state/{room}",
        f"/state/{room}/?event_id={event}",
        f"/state_ids/{room}?event_id={event}",
        f"/event/{event}",
        f"/event_auth/{room}/{event}",
        f"/backfill/{room}/?v={event}&limit=10",
        f"/backfill/{room}?v={event}&limit=10",
    ]
    if origin:
        paths.append(f"/pdu/{quote(origin)}/{quote(pdu_id)}/")
    asked: list[tuple[str, str, Json | None]] = [("GET", V1 + path, None) for path in paths]
    return [*asked, ("POST", f"{V1}/get_missing_events/{room}", between)]


@each_version
def test_room_is_shown_to_no_server_that_is_not_in_it(alice: Client, peer: LyingPeer, version: str) -> None:
    """SEC-11, FED-4: and no answer tells whether it exists."""
    room_id = alice.create_room(visibility="public", room_version=version)
    said = alice.send(room_id, "between us")
    for method, uri, content in fetches(room_id, said):
        answer = peer.request(alice.server, method, uri, content)
        assert answer.status in (403, 404), uri
        assert b"between us" not in answer.body
        assert peer.request(alice.server, method, uri, content, header="").status == 401, uri
    nothing = fetches(f"!nothing:{alice.server.name}", f"$nothing:{alice.server.name}")
    for (method, uri, content), (_, other_uri, other_content) in zip(fetches(room_id, said), nothing, strict=False):
        answers = [
            peer.request(alice.server, method, asked, body)
            for asked, body in ((uri, content), (other_uri, other_content))
        ]
        if uri.split("/")[4] == other_uri.split("/")[4]:
            assert answers[0].status == answers[1].status


@each_version
def test_room_is_shown_to_the_servers_in_it(scene: Scene) -> None:
    """FED-4: or the test above would prove nothing."""
    said = scene.learn(scene.alice.send(scene.room_id, "between us"))
    for method, uri, content in fetches(scene.room_id, said):
        answer = scene.peer.request(scene.server, method, uri, content)
        assert answer.status == 200, uri


@each_version
def test_server_that_has_left_learns_nothing_more(scene: Scene) -> None:
    """SEC-11."""
    scene.learn(scene.alice.send(scene.room_id, "they are still here"))
    scene.peer.send(scene.server, [scene.room.member(scene.mallory, "leave")])
    said = scene.alice.send(scene.room_id, "they are gone")
    scene.alice.set_state(scene.room_id, "m.room.topic", {"topic": "they are gone"})
    for method, uri, content in fetches(scene.room_id, said):
        answer = scene.peer.request(scene.server, method, uri, content)
        assert b"they are gone" not in answer.body, uri
        # What was before their end they may have; those requests that begin with the later event get nothing at all.
        if quote(said) in uri or "/pdu/" in uri:
            assert answer.status in (403, 404) or answer.json["pdus"] == [], uri
    scene.third.wait_for_pdu(scene.tess_room, said)
    assert "they are gone" not in str(scene.peer.received())


def test_events_of_another_room_are_not_to_be_had_by_naming_ones_own(old_scene: Scene) -> None:
    """SEC-11."""
    scene = old_scene
    other = scene.alice.create_room()
    secret = scene.alice.send(other, "between us")
    for method, uri, content in fetches(scene.room_id, secret):
        answer = scene.peer.request(scene.server, method, uri, content)
        assert b"between us" not in answer.body, uri


def test_redacted_event_is_handed_out_bare(old_scene: Scene, unique: Unique) -> None:
    """RED-2, SEC-11."""
    scene = old_scene
    offence = unique("offence")
    said = scene.alice.send(scene.room_id, offence)
    scene.alice.redact(scene.room_id, said)
    for method, uri, content in fetches(scene.room_id, said):
        assert offence.encode() not in scene.peer.request(scene.server, method, uri, content).body, uri


@pytest.mark.parametrize("path", ["/make_join", "/make_leave", "/make_knock"])
def test_closed_room_gives_nobody_a_template(alice: Client, peer: LyingPeer, path: str) -> None:
    """SEC-11, FED-7."""
    room_id = alice.create_room()
    for room, user in (
        (room_id, peer.user("mallory")),
        (room_id, alice.user_id),
        (f"!none:{alice.server.name}", "@x:y"),
    ):
        with pytest.raises(ApiError) as error:
            peer.ask(alice.server, "GET", f"{path}/{quote(room)}/{quote(user)}", ver=["spec-2014"])
        assert error.value.status in (400, 403, 404)
