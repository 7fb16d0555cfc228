"""Events that lie about what was before them."""

from __future__ import annotations

import pytest

from synapse_like.protocol.events import Pdu
from tests.scenarios.federation.lying_peer.scene import (
    Lie,
    Scene,
    each_version,
    more_power,
)
from tests.support.client import ids
from tests.support.federation import whole_history

# Lies about what was before.


@each_version
def test_power_that_was_taken_away_does_not_come_back_by_a_fork(scene: Scene) -> None:
    """FED-8, SEC-2, SEC-6: whoever pretends not to have heard of it is heard by nobody."""
    scene.give_power(50)
    past = scene.room.fork()
    scene.give_power(0)
    ban = past.make(scene.mallory, "m.room.member", {"membership": "ban"}, scene.tess)
    topic = past.make(scene.mallory, "m.room.topic", {"topic": "mine"}, "")
    scene.hides(ban)
    scene.hides(topic)
    # Nor by an event that brings the two together.
    scene.room.add(ban)
    scene.room.add(topic)
    both = scene.message("together")
    scene.peer.send(scene.server, [both])
    assert scene.alice.members(scene.room_id)[scene.tess] == "join"
    assert scene.alice.state_content(scene.room_id, "m.room.topic") == {"topic": "Tea"}
    scene.works_on()
    assert scene.alice.members(scene.room_id)[scene.tess] == "join"


@each_version
def test_banned_user_does_not_go_on_in_a_past_without_the_ban(scene: Scene) -> None:
    """SEC-2, SEC-6: what is said there is seen by nobody, and the ban stands."""
    past = scene.room.fork()
    scene.alice.ban(scene.room_id, scene.mallory)
    for number in range(3):
        said = past.text(scene.mallory, f"not banned {number}")
        scene.hides(said)
    assert scene.alice.members(scene.room_id)[scene.mallory] == "ban"


@each_version
def test_invitation_of_the_past_does_not_let_anybody_in(scene: Scene) -> None:
    """SEC-2, MEM-1: the room was closed since."""
    past = scene.room.fork()
    scene.learn(scene.alice.set_state(scene.room_id, "m.room.join_rules", {"join_rule": "invite"}))
    scene.hides(
        past.make(scene.peer.user("mickey"), "m.room.member", {"membership": "join"}, scene.peer.user("mickey"))
    )
    assert scene.peer.user("mickey") not in scene.alice.members(scene.room_id)


def test_events_that_follow_each_other_in_a_circle_lead_nowhere(old_scene: Scene) -> None:
    """SEC-1, SEC-3, FED-6: where servers choose the IDs, they can make circles."""
    scene = old_scene
    here = scene.peer.name
    one = scene.message("one", event_id=f"$one:{here}", prev_events=(f"$two:{here}",))
    two = scene.message("two", event_id=f"$two:{here}", prev_events=(f"$one:{here}",))
    scene.peer.answers["get_missing_events"] = lambda asked: {"events": [one, two], "pdus": [one, two]}
    scene.peer.answers["backfill"] = lambda asked: {"pdus": [one, two]}
    for event_id in (f"$one:{here}", f"$two:{here}"):
        scene.room.before[event_id] = scene.room.state
    scene.peer.send(scene.server, [one, two])
    scene.peer.send(scene.server, [two, one])
    scene.works_on()
    history = ids(whole_history(scene.alice, scene.room_id))
    assert len(history) == len(set(history))
    assert len(scene.peer.asked) < 60


def test_events_that_rest_on_each_other_are_refused(old_scene: Scene) -> None:
    """SEC-3, FED-6."""
    scene = old_scene
    here = scene.peer.name
    names = [f"$rest-{number}:{here}" for number in range(2)]
    usual = scene.room.read(scene.message()).auth_events
    circle = [
        scene.room.make(
            scene.mallory,
            "m.room.member",
            {"membership": "join"},
            scene.mallory,
            event_id=names[number],
            auth_events=(*usual[:-1], names[1 - number]),
        )
        for number in range(2)
    ]
    scene.peer.answers["event_auth"] = lambda asked: {"auth_chain": circle}
    scene.peer.answers["event"] = scene.peer.answers["pdu"] = lambda asked: {"pdus": circle}
    scene.refuses(*circle)


def resting_on(*slots: tuple[str, str]) -> Lie:
    """A message that names only these as what allows it."""
    return lambda scene: scene.message(auth_events=tuple(scene.room.state[slot] for slot in slots))


def resting_on_nothing(scene: Scene) -> Pdu:
    return scene.message(auth_events=())


def resting_on_a_message(scene: Scene) -> Pdu:
    usual = scene.room.read(scene.message()).auth_events
    said = scene.learn(scene.alice.send(scene.room_id, "hello"))
    return scene.message(auth_events=(*usual, said))


def resting_on_two_memberships(scene: Scene) -> Pdu:
    usual = scene.room.read(scene.message()).auth_events
    return scene.message(auth_events=(*usual, scene.room.state["m.room.member", scene.tess]))


def resting_on_another_room(scene: Scene) -> Pdu:
    other = scene.alice.create_room(visibility="public", room_version=scene.room.rules.name)
    view = scene.peer.join(scene.server, other, scene.mallory)
    scene.room.events |= view.events
    scene.room.pdus |= view.pdus
    pdu = view.make(scene.mallory, "m.room.message", {"msgtype": "m.text", "body": "x"})
    return scene.message(auth_events=view.read(pdu).auth_events)


def following_another_room(scene: Scene) -> Pdu:
    other = scene.alice.create_room(visibility="public", room_version=scene.room.rules.name)
    view = scene.peer.join(scene.server, other, scene.mallory)
    scene.room.events |= view.events
    scene.room.pdus |= view.pdus
    return scene.message(prev_events=view.heads)


def following_nothing(scene: Scene) -> Pdu:
    return scene.message(prev_events=())


def following_ten_thousand(scene: Scene) -> Pdu:
    form = f":{scene.peer.name}" if scene.room.rules.event_id_form == "chosen-by-origin" else ""
    names = [f"${number:043}{form}" for number in range(10_000)]
    return scene.message(prev_events=tuple(names))


def resting_on_ten_thousand(scene: Scene) -> Pdu:
    usual = scene.room.read(scene.message()).auth_events
    return scene.message(auth_events=usual * 2500)


@each_version
@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(resting_on(("m.room.create", "")), id="resting on the creation alone"),
        pytest.param(resting_on(("m.room.join_rules", "")), id="resting on something else"),
        resting_on_nothing,
        resting_on_a_message,
        resting_on_two_memberships,
        resting_on_another_room,
        following_another_room,
        following_nothing,
        following_ten_thousand,
        resting_on_ten_thousand,
    ],
)
def test_event_with_a_false_past_is_refused(scene: Scene, lie: Lie) -> None:
    """SEC-1, SEC-2, SEC-3, FED-6."""
    scene.refuses(lie(scene))


@each_version
def test_event_that_rests_on_a_refused_one_is_refused(scene: Scene) -> None:
    """SEC-3, FED-8."""
    power = more_power(scene)
    scene.refuses(power)
    scene.room.add(power)
    scene.refuses(scene.room.make(scene.mallory, "m.room.member", {"membership": "ban"}, scene.tess))
