"""Events that were not said by whom they name, not as they stand, or not by somebody who may."""

from __future__ import annotations

import pytest
from signedjson.key import generate_signing_key

from synapse_like.protocol.events import Pdu
from synapse_like.protocol.signing import sign_pdu
from tests.scenarios.conftest import Unique
from tests.scenarios.federation.lying_peer.scene import (
    Lie,
    Scene,
    each_version,
    for_tess,
    more_power,
)
from tests.support import databases
from tests.support.client import Json
from tests.support.federation import whole_history

# What is true passes, or the rest would prove nothing.


@each_version
def test_honest_peer_is_believed(scene: Scene) -> None:
    """FED-2, FED-5, FED-9."""
    said = scene.message("hello")
    assert scene.peer.send(scene.server, [said]) == {scene.room.id_of(said): {}}
    assert scene.alice.event(scene.room.id_of(said))["content"]["body"] == "hello"
    scene.give_power(50)
    named = scene.room.say(scene.mallory, "m.room.topic", {"topic": "mine"}, "")
    assert scene.peer.send(scene.server, [named]) == {scene.room.id_of(named): {}}
    assert scene.alice.state_content(scene.room_id, "m.room.topic") == {"topic": "mine"}
    relayed = scene.tess_room.text(scene.tess, "by another's hand")
    assert scene.peer.send(scene.server, [relayed]) == {scene.tess_room.id_of(relayed): {}}
    scene.works_on()


@each_version
def test_what_the_honest_server_says_reaches_the_others(scene: Scene) -> None:
    """FED-2, FED-3, FED-9: signed, hashed, and by a request that is signed for the one it goes to."""
    said = scene.alice.send(scene.room_id, "hello")
    for peer, room in ((scene.peer, scene.room), (scene.third, scene.tess_room)):
        pdu = peer.wait_for_pdu(room, said)
        assert pdu["content"] == {"msgtype": "m.text", "body": "hello"}
        [asked] = [asked for asked in peer.requests("send") if pdu in asked.content["pdus"]]
        assert asked.origin == scene.server.name
        assert asked.content["origin"] == scene.server.name
        assert asked.parameters == [asked.content["transaction_id"]] or "transaction_id" not in asked.content


@each_version
def test_what_only_clients_read_may_have_any_shape(scene: Scene) -> None:
    """EVT-4, SEC-2: other servers let such events in, so that they are in the room."""
    said = [
        scene.room.say(scene.mallory, "m.call.invite", {"call_id": 5}),
        scene.room.say(scene.mallory, "m.call.candidates", {"candidates": "x"}),
    ]
    assert scene.peer.send(scene.server, said) == {scene.room.id_of(pdu): {} for pdu in said}
    assert scene.alice.event(scene.room.id_of(said[0]))["content"] == {"call_id": 5}
    scene.works_on()


# Lies about who said it, and what.


def for_alice(scene: Scene) -> Pdu:
    return scene.room.make(scene.alice.user_id, "m.room.message", {"msgtype": "m.text", "body": "I am evil"})


def for_alice_in_her_servers_name(scene: Scene) -> Pdu:
    pdu = scene.room.make(
        scene.alice.user_id,
        "m.room.message",
        {"msgtype": "m.text", "body": "I am evil"},
        event_id=f"$forged:{scene.server.name}",
    )
    return scene.room.seal(pdu, server_name=scene.server.name)


def for_tess_in_her_servers_name(scene: Scene) -> Pdu:
    pdu = scene.room.make(
        scene.tess,
        "m.room.message",
        {"msgtype": "m.text", "body": "I am evil"},
        event_id=f"$forged:{scene.third.name}",
    )
    return scene.room.seal(pdu, server_name=scene.third.name)


def with_two_signatures_of_the_same_key(scene: Scene) -> Pdu:
    pdu = for_tess_in_her_servers_name(scene)
    return sign_pdu(scene.room.rules, pdu, scene.peer.name, scene.peer.key)


def with_the_signature_of_another_event(scene: Scene) -> Pdu:
    return {**scene.message("one"), "signatures": scene.message("two")["signatures"]}


def without_signatures(scene: Scene) -> Pdu:
    return {**scene.message(), "signatures": {}}


def with_a_key_that_was_never_published(scene: Scene) -> Pdu:
    return scene.room.seal(scene.message(), key=generate_signing_key("new"))


def with_another_key_of_the_same_name(scene: Scene) -> Pdu:
    return scene.room.seal(scene.message(), key=generate_signing_key("lie"))


def with_signatures_that_are_none(scene: Scene) -> Pdu:
    pdu = scene.message()
    return {**pdu, "signatures": {scene.peer.name: dict.fromkeys(pdu["signatures"][scene.peer.name], "ed25519")}}


def with_another_hash_than_was_signed(scene: Scene) -> Pdu:
    return {**scene.message("one"), "hashes": scene.message("two")["hashes"]}


def with_levels_altered_on_the_way(scene: Scene) -> Pdu:
    scene.give_power(50)
    own = {scene.mallory: 50} if scene.room.rules.name == "spec-2014" else {"users": {scene.mallory: 50}}
    pdu = scene.room.make(scene.mallory, "m.room.power_levels", own, "")
    return {**pdu, "content": {}}


@each_version
@pytest.mark.parametrize(
    "lie",
    [
        for_alice,
        for_alice_in_her_servers_name,
        for_tess,
        for_tess_in_her_servers_name,
        with_two_signatures_of_the_same_key,
        with_the_signature_of_another_event,
        without_signatures,
        with_a_key_that_was_never_published,
        with_another_key_of_the_same_name,
        with_signatures_that_are_none,
        with_another_hash_than_was_signed,
        with_levels_altered_on_the_way,
    ],
)
def test_event_that_its_sender_has_not_signed_is_refused(scene: Scene, lie: Lie) -> None:
    """SEC-8, SEC-7, FED-9."""
    scene.refuses(lie(scene))


@each_version
@pytest.mark.parametrize("hashed", [True, False], ids=["altered", "hashed falsely"])
def test_altered_words_are_never_shown(scene: Scene, unique: Unique, hashed: bool) -> None:
    """SEC-7: of what was altered on the way, nothing is left but what was signed."""
    word = unique("altered")
    if hashed:
        pdu = {**scene.message("true words"), "content": {"msgtype": "m.text", "body": word}}
    else:
        pdu = {**scene.message(word), "hashes": scene.message("other words")["hashes"], "signatures": {}}
        pdu = sign_pdu(scene.room.rules, pdu, scene.peer.name, scene.peer.key)
    scene.peer.send(scene.server, [pdu])
    event_id = scene.room.id_of(pdu)
    shown = {event["event_id"]: event["content"] for event in whole_history(scene.alice, scene.room_id)}
    assert shown.get(event_id, {}) == {}
    assert not databases.contains(scene.server.database, scene.server.data_dir, word)
    scene.works_on()


# Lies about what one may do.


def state(event_type: str, content: Json, key: str | None = "") -> Lie:
    """Something that mallory has no power to set."""
    return lambda scene: scene.room.make(scene.mallory, event_type, content, key)


def member(membership: str, who: str) -> Lie:
    """Something that mallory may not do to somebody, in mallory's own name."""

    def lie(scene: Scene) -> Pdu:
        target = {"alice": scene.alice.user_id, "tess": scene.tess, "mickey": scene.peer.user("mickey")}[who]
        return scene.room.make(scene.mallory, "m.room.member", {"membership": membership}, target)

    return lie


def from_outside(event_type: str, content: Json, key: str | None) -> Lie:
    """Something that a user says who is not in the room."""
    return lambda scene: scene.room.make(scene.peer.user("mickey"), event_type, content, key)


def false_power_level(scene: Scene) -> Pdu:
    """By its own account, mallory has the power; by the room's, not."""
    return scene.room.make(scene.mallory, "m.room.topic", {"topic": "mine"}, "", power_level=100)


def second_creation(scene: Scene) -> Pdu:
    return scene.room.make(scene.mallory, "m.room.create", {"creator": scene.mallory}, "")


def new_beginning(scene: Scene) -> Pdu:
    return scene.room.make(
        scene.mallory, "m.room.create", {"creator": scene.mallory}, "", prev_events=(), auth_events=(), depth=1
    )


def ban_mallory(scene: Scene) -> None:
    scene.alice.ban(scene.room_id, scene.mallory)
    ban = scene.alice.state_event(scene.room_id, "m.room.member", scene.mallory)["event_id"]
    scene.peer.wait_for_pdu(scene.room, ban)


def by_the_banned(scene: Scene) -> Pdu:
    ban_mallory(scene)
    return scene.message("still here")


def joining_though_banned(scene: Scene) -> Pdu:
    ban_mallory(scene)
    return scene.room.make(scene.mallory, "m.room.member", {"membership": "join"}, scene.mallory)


def by_who_has_left(scene: Scene) -> Pdu:
    scene.peer.send(scene.server, [scene.room.member(scene.mallory, "leave")])
    return scene.message("still here")


@each_version
@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(member("ban", "alice"), id="ban of the creator"),
        pytest.param(member("ban", "tess"), id="ban of an equal"),
        pytest.param(member("leave", "tess"), id="kick"),
        pytest.param(member("join", "mickey"), id="join of somebody else"),
        pytest.param(member("join", "alice"), id="join of somebody who is there"),
        pytest.param(member("knock", "mickey"), id="knock of somebody else"),
        pytest.param(member("gone", "tess"), id="membership that is none"),
        pytest.param(state("m.room.name", {"name": "mine"}), id="name"),
        pytest.param(state("m.room.join_rules", {"join_rule": "invite"}), id="join rules"),
        pytest.param(state("org.example.note", {}, "@alice:elsewhere.example"), id="state of another user"),
        pytest.param(from_outside("m.room.message", {"msgtype": "m.text", "body": "x"}, None), id="outsider's message"),
        pytest.param(from_outside("m.room.topic", {"topic": "x"}, ""), id="outsider's topic"),
        more_power,
        false_power_level,
        second_creation,
        new_beginning,
        by_the_banned,
        joining_though_banned,
        by_who_has_left,
    ],
)
def test_event_that_is_not_allowed_is_refused(scene: Scene, lie: Lie) -> None:
    """SEC-3, SEC-6, PERM-2, PERM-3, MEM-1, MEM-3."""
    scene.refuses(lie(scene))


@each_version
def test_redaction_without_power_takes_nothing_away(scene: Scene) -> None:
    """RED-1, SEC-6: by whom, and of what room, does not matter."""
    said = scene.learn(scene.alice.send(scene.room_id, "mine"))
    elsewhere = scene.alice.create_room()
    secret = scene.alice.send(elsewhere, "elsewhere")
    for target in (said, secret):
        redaction = scene.room.make(scene.mallory, "m.room.redaction", {}, redacts=target)
        scene.peer.send(scene.server, [redaction])
        assert scene.alice.event(target)["content"]["body"] in ("mine", "elsewhere")
        assert "redacted_because" not in scene.alice.event(target)
    scene.works_on()
