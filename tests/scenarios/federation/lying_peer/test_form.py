"""Events of a form that is none."""

from __future__ import annotations

import pytest

from tests.scenarios.federation.lying_peer.scene import (
    Lie,
    Scene,
    each_version,
)
from tests.support.client import ids, texts
from tests.support.federation import whole_history

# Lies about the form of things.


@each_version
@pytest.mark.parametrize("depth", [2**63, 2**200, -1, 1.5, "7", True, None, [1]], ids=repr)
def test_depth_that_is_none_is_refused(scene: Scene, depth: object) -> None:
    """SEC-3, SEC-1."""
    scene.refuses(scene.room.change(scene.message(), depth=depth))


@pytest.mark.parametrize("version", ["1", "6", "11"])
def test_greatest_depth_there_is_stops_nobody(scene: Scene, version: str) -> None:
    """SEC-3: whoever comes after it must still be able to say something."""
    greatest = 2**53 - 1 if scene.room.rules.strict_canonical_json else 2**63 - 1
    scene.peer.send(scene.server, [scene.message(depth=greatest)])
    scene.works_on()
    scene.works_on()


def with_field(name: str, value: object) -> Lie:
    return lambda scene: scene.room.change(scene.message(), **{name: value})


@each_version
@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(lambda scene: {**scene.message(), "content": []}, id="content"),
        pytest.param(lambda scene: {**scene.message(), "content": None}, id="no content"),
        pytest.param(with_field("state_key", {}), id="state key"),
        pytest.param(with_field("auth_events", {}), id="auth events"),
        pytest.param(with_field("prev_events", "x"), id="prev events"),
        pytest.param(with_field("sender", "mallory"), id="sender"),
        pytest.param(with_field("type", "x" * 300), id="type"),
        pytest.param(with_field("room_id", 7), id="room"),
        pytest.param(with_field("content", {"body": "x" * 70_000}), id="more than 64 KiB"),
        pytest.param(lambda scene: {**scene.message(), "hashes": {}}, id="no hash"),
        pytest.param(lambda scene: {**scene.message(), "hashes": []}, id="hashes"),
        pytest.param(lambda scene: {**scene.message(), "signatures": []}, id="signatures"),
        pytest.param(lambda scene: {}, id="nothing"),
    ],
)
def test_event_of_another_shape_is_refused(scene: Scene, lie: Lie) -> None:
    """SEC-3, FED-5."""
    names = {"auth_events": "auth_pdus", "prev_events": "prev_pdus", "sender": "user_id", "type": "pdu_type"}
    pdu = lie(scene)
    if scene.room.rules.pdu_format == "id-pairs":
        names["room_id"] = "context"
        renamed = {names[name]: value for name, value in pdu.items() if name in names}
        pdu = {name: value for name, value in pdu.items() if name not in names} | renamed
    scene.refuses(pdu)


def test_second_event_of_the_same_id_does_not_replace_the_first(old_scene: Scene) -> None:
    """SEC-3, SEC-7, RED-2: where servers choose the IDs."""
    scene = old_scene
    event_id = f"$twice:{scene.peer.name}"
    first, second = scene.message("first", event_id=event_id), scene.message("second", event_id=event_id)
    for pdu in (first, second):
        scene.peer.send(scene.server, [pdu])
        assert scene.alice.event(event_id)["content"]["body"] == "first"
    scene.peer.send(scene.server, [first, second])
    assert ids(whole_history(scene.alice, scene.room_id)).count(event_id) == 1
    assert "second" not in texts(whole_history(scene.alice, scene.room_id))
    scene.works_on()
