"""A server that lies, and the one that must not believe it.

Alice lives on the honest server, mallory on the lying one; a third server, where tess lives, is there to be lied about.
Whatever is tried: it is refused and logged, nobody sees anything of it, nothing fails within, and the room works on.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from signedjson.key import generate_signing_key, get_verify_key

from synapse_like.protocol.events import Pdu
from synapse_like.protocol.server_keys import ServerKeys, publish
from synapse_like.protocol.signing import sign_json, sign_pdu
from tests.scenarios.conftest import Unique
from tests.scenarios.federation.conftest import FederationOf, in_good_order
from tests.support import databases
from tests.support.client import ApiError, Client, Json, forbidden, ids, refused, texts
from tests.support.federation import Federation, state_of, whole_history
from tests.support.lying_peer import KEYS, V1, V2, Asked, LyingPeer, quote
from tests.support.peer_rooms import PeerRoom, now_ms
from tests.support.processes import wait_until
from tests.support.server import HomeServer

#: How long the honest server waits for an answer, and for what concerns a whole room, in seconds.
PATIENCE = 2.0
LONG_PATIENCE = 5 * PATIENCE

VERSIONS = ("spec-2014", "1", "6", "11")
each_version = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture(scope="module")
def lone(federation_of: FederationOf) -> Iterator[Federation]:
    """One honest server, which soon loses its patience."""
    patience = {"federation__answer_timeout": PATIENCE, "federation__body_timeout": PATIENCE}
    with federation_of("sqlite", **patience) as federation:
        yield federation


@pytest.fixture
def honest(lone: Federation) -> Iterator[HomeServer]:
    with in_good_order(lone) as federation:
        yield federation.servers[0]


@contextmanager
def good_peer(federation: Federation, host: str) -> Iterator[LyingPeer]:
    """A peer to whom no request may come that is not signed as it should be."""
    with LyingPeer(federation.authority, host) as peer:
        yield peer
        assert not peer.faults


@pytest.fixture
def peer(lone: Federation, honest: HomeServer) -> Iterator[LyingPeer]:
    with good_peer(lone, "localhost") as peer:
        yield peer


@pytest.fixture
def third(lone: Federation, honest: HomeServer) -> Iterator[LyingPeer]:
    with good_peer(lone, "127.0.0.1") as peer:
        yield peer


@pytest.fixture
def alice(honest: HomeServer, unique: Unique) -> Client:
    return Client(honest).register(unique("alice"))


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
        assert {answer, self.tess_room.id_of(said)} <= set(ids(self.alice.history(self.room_id)))
        self.third.wait_for_pdu(self.tess_room, answer)


@contextmanager
def scene_of(alice: Client, peer: LyingPeer, third: LyingPeer, version: str) -> Iterator[Scene]:
    room_id = alice.create_room(visibility="public", room_version=version, topic="Tea")
    mallory, tess = peer.user("mallory"), third.user("tess")
    tess_room = third.join(alice.server, room_id, tess)
    room = peer.join(alice.server, room_id, mallory)
    yield Scene(alice.server, alice, peer, third, room, tess_room, mallory, tess)


@pytest.fixture
def scene(alice: Client, peer: LyingPeer, third: LyingPeer, version: str) -> Iterator[Scene]:
    with scene_of(alice, peer, third, version) as scene:
        yield scene


@pytest.fixture
def old_scene(alice: Client, peer: LyingPeer, third: LyingPeer) -> Iterator[Scene]:
    """For what does not depend on the room's version."""
    with scene_of(alice, peer, third, "spec-2014") as scene:
        yield scene


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


# Lies about who said it, and what.

Lie = Callable[[Scene], Pdu]


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


def for_tess(scene: Scene) -> Pdu:
    return scene.room.make(scene.tess, "m.room.message", {"msgtype": "m.text", "body": "I am evil"})


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


def more_power(scene: Scene) -> Pdu:
    levels = {scene.mallory: 100}
    content: Json = levels if scene.room.rules.name == "spec-2014" else {"users": levels}
    return scene.room.make(scene.mallory, "m.room.power_levels", content, "")


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
    scene.peer.send(scene.server, [scene.room.member(scene.mallory, "leave")])
    said = scene.alice.send(scene.room_id, "they are gone")
    scene.alice.set_state(scene.room_id, "m.room.topic", {"topic": "they are gone"})
    for method, uri, content in fetches(scene.room_id, said):
        answer = scene.peer.request(scene.server, method, uri, content)
        assert b"they are gone" not in answer.body, uri
        assert answer.status != 200 or "/state" not in uri or said not in uri
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


# Lies about what is missing, and answers without end.


def test_gaps_that_never_end_are_given_up(old_scene: Scene) -> None:
    """SEC-1, FED-6: each answer tells of more that is missing."""
    scene = old_scene

    def more(asked: Asked) -> object:
        made = []
        for event_id in asked.content["latest_events"]:
            event = scene.room.events.get(event_id)
            for prev in event.prev_events if event is not None else ():
                unknown = tuple(f"$gap-{len(scene.room.events)}-{n}:{scene.peer.name}" for n in range(20))
                pdu = scene.message("gap", event_id=prev, prev_events=unknown, depth=5)
                made.append(pdu)
                scene.room.events[prev], scene.room.pdus[prev] = scene.room.read(pdu), pdu
        return {"events": made, "pdus": made}

    scene.peer.answers["get_missing_events"] = more
    first = scene.message("end of the gap", prev_events=(f"$gap:{scene.peer.name}",), depth=6)
    scene.room.events[scene.room.id_of(first)] = scene.room.read(first)
    scene.room.before[scene.room.id_of(first)] = scene.room.state
    begun = time.monotonic()
    scene.peer.send(scene.server, [first])
    assert time.monotonic() - begun < 15
    assert len(scene.peer.requests("get_missing_events")) <= 20
    assert len(scene.peer.asked) < 400
    scene.works_on()


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(lambda scene: {}, id="nothing"),
        pytest.param(lambda scene: {"pdus": [], "auth_chain": []}, id="empty"),
        pytest.param(lambda scene: {"pdus": [{}] * 10, "auth_chain": [1]}, id="nonsense"),
        pytest.param(lambda scene: (403, {"errcode": "M_FORBIDDEN", "error": "No."}), id="a refusal"),
    ],
)
def test_gap_that_is_bridged_with_nonsense_changes_nothing(old_scene: Scene, state: Callable[[Scene], object]) -> None:
    """FED-6, SEC-3: what cannot be placed does not get in, and who was let in stays."""
    scene = old_scene
    for kind in ("state", "state_ids"):
        scene.peer.answers[kind] = lambda asked: state(scene)
    scene.peer.answers["get_missing_events"] = lambda asked: {"events": [], "pdus": []}
    before = scene.sees()
    scene.peer.send(scene.server, [scene.message("lost", prev_events=(f"$lost:{scene.peer.name}",))])
    assert scene.sees()[0] == before[0]
    scene.works_on()


def test_state_told_to_bridge_a_gap_gives_nobody_power(old_scene: Scene) -> None:
    """FED-6, FED-8, SEC-2, SEC-6: though all of it was true once, or is signed by who may not say it."""
    scene = old_scene
    power = more_power(scene)
    ban = scene.room.make(scene.mallory, "m.room.member", {"membership": "ban"}, scene.tess)
    told = [*scene.room.told(scene.room.state.values()), power, ban]
    told = [pdu for pdu in told if scene.room.id_of(pdu) != scene.room.state["m.room.power_levels", ""]]
    chain = scene.room.told(scene.room.auth_chain(scene.room.state.values()))
    scene.peer.answers["state"] = lambda asked: {"pdus": told, "auth_chain": chain}
    scene.peer.answers["get_missing_events"] = lambda asked: {"events": [], "pdus": []}
    before = state_of(scene.alice, scene.room_id)
    lost = (f"$lost:{scene.peer.name}",)
    scene.peer.send(scene.server, [scene.message("bridge", prev_events=lost)])
    scene.peer.send(
        scene.server, [scene.room.make(scene.mallory, "m.room.topic", {"topic": "mine"}, "", prev_events=lost)]
    )
    assert state_of(scene.alice, scene.room_id) == before
    scene.works_on()


def endless_body(asked: Asked) -> Iterator[bytes]:
    """An answer as fast as it goes, without an end."""
    yield b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"x": "'
    while True:
        yield b"x" * 65536


def endless_head(asked: Asked) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    while True:
        yield b"X-More: " + b"x" * 8000 + b"\r\n"


def drop_by_drop(asked: Asked) -> Iterator[bytes]:
    yield b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"x": "'
    while True:
        time.sleep(0.2)
        yield b"x"


def silence(asked: Asked) -> Iterator[bytes]:
    while not asked.is_over.wait(0.2):
        yield b""


def larger_than_told(asked: Asked) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n{"
    while True:
        time.sleep(0.2)
        yield b" "


@pytest.mark.parametrize("answer", [endless_body, endless_head, drop_by_drop, silence, larger_than_told])
@pytest.mark.parametrize("kind", ["make_join", "send_join"])
def test_answer_that_never_ends_is_given_up(
    alice: Client, peer: LyingPeer, unique: Unique, kind: str, answer: Callable[[Asked], Iterator[bytes]]
) -> None:
    """SEC-1, FED-1: in good time, in little memory, and with a reason."""
    room = hosted(peer, unique, "spec-2014")
    peer.answers[kind] = answer
    before = alice.server.resident_bytes()
    begun = time.monotonic()
    with pytest.raises(ApiError) as error:
        alice.join(alias_of(peer, room))
    assert error.value.status in (502, 504)
    assert time.monotonic() - begun < 3 * LONG_PATIENCE
    assert alice.server.resident_bytes() - before < 350_000_000
    assert Client(alice.server).request("GET", "/health").status == 200


def test_server_that_never_tells_what_is_missing_keeps_no_other_room_waiting(
    old_scene: Scene, third: LyingPeer
) -> None:
    """SEC-1, FED-2, FED-6."""
    scene = old_scene
    for kind in ("get_missing_events", "state", "state_ids", "event_auth", "event", "pdu", "backfill"):
        scene.peer.answers[kind] = silence
    other = scene.alice.create_room(visibility="public")
    there = third.join(scene.server, other, scene.tess)
    with ThreadPoolExecutor(1) as threads:
        lost = scene.message("lost", prev_events=(f"$lost:{scene.peer.name}",))
        waiting = threads.submit(scene.peer.send, scene.server, [lost])
        time.sleep(0.3)
        begun = time.monotonic()
        said = there.text(scene.tess, "meanwhile")
        assert third.send(scene.server, [said]) == {there.id_of(said): {}}
        assert scene.alice.send(scene.room_id, "also here")
        assert time.monotonic() - begun < 1
        waiting.result(timeout=40)


def test_paging_back_into_lies_shows_none_of_them(
    alice: Client, peer: LyingPeer, third: LyingPeer, unique: Unique
) -> None:
    """EVS-6, FED-10, SEC-7, SEC-8: history is checked like everything else."""
    room = hosted(peer, unique, "spec-2014")
    mallory = peer.user("mallory")
    true = [room.text(mallory, f"true {number}") for number in range(5)]
    forged = room.make(third.user("tess"), "m.room.message", {"msgtype": "m.text", "body": "forged"})
    stranger = room.make(peer.user("stranger"), "m.room.message", {"msgtype": "m.text", "body": "stranger"})
    altered = {**true[2], "content": {"msgtype": "m.text", "body": "altered"}}

    def lying(asked: Asked) -> object:
        answer = honestly(peer, asked)
        pdus = [altered if pdu == true[2] else pdu for pdu in answer["pdus"]]
        return {**answer, "pdus": [forged, *pdus, stranger, {}]}

    peer.answers["backfill"] = lying
    alice.join(alias_of(peer, room))
    shown = texts(whole_history(alice, room.room_id))
    assert not {"forged", "altered", "stranger"} & set(shown)
    assert [text for text in shown if text] == [f"true {number}" for number in (0, 1, 3, 4)]


def test_paging_back_comes_to_an_end_though_nobody_helps(alice: Client, peer: LyingPeer, unique: Unique) -> None:
    """EVS-6, FED-10, SEC-1."""
    room = hosted(peer, unique, "spec-2014")
    for number in range(5):
        room.text(peer.user("mallory"), str(number))
    for answer in (lambda asked: {"pdus": []}, lambda asked: (403, {}), lambda asked: {}, silence, endless_body):
        peer.answers["backfill"] = answer
        peer.answers["get_missing_events"] = answer
        if room.room_id not in alice.synced_rooms():
            alice.join(alias_of(peer, room))
        begun = time.monotonic()
        assert alice.user_id in [event.get("state_key") for event in whole_history(alice, room.room_id)]
        assert time.monotonic() - begun < 2 * LONG_PATIENCE


# Lies about keys.


def test_keys_of_another_server_are_not_believed(
    alice: Client, peer: LyingPeer, third: LyingPeer, honest: HomeServer
) -> None:
    """FED-9, SEC-8: neither from the liar itself, nor on the way."""
    room_id = alice.create_room(visibility="public")
    third.answers["keys"] = lambda asked: peer.published_keys()
    with refused(401, "M_UNAUTHORIZED"):
        third.join(honest, room_id, third.user("tess"))
    third.answers["keys"] = lambda asked: sign_json(
        {**peer.published_keys(), "server_name": third.name}, third.name, generate_signing_key("lie")
    )
    with refused(401, "M_UNAUTHORIZED"):
        third.join(honest, room_id, third.user("tess"))


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(lambda peer: {}, id="nothing"),
        pytest.param(lambda peer: [], id="no object"),
        pytest.param(lambda peer: {**peer.published_keys(), "signatures": {}}, id="unsigned"),
        pytest.param(lambda peer: {**peer.published_keys(), "valid_until_ts": "x"}, id="valid until when"),
        pytest.param(lambda peer: {**peer.published_keys(), "verify_keys": []}, id="no keys"),
        pytest.param(
            lambda peer: publish(
                ServerKeys(peer.name, now_ms() - 3_600_000, {"ed25519:lie": get_verify_key(peer.key)}, {}), peer.key
            ),
            id="expired",
        ),
    ],
)
def test_server_without_good_keys_is_not_believed(
    alice: Client, peer: LyingPeer, honest: HomeServer, keys: Callable[[LyingPeer], Any]
) -> None:
    """FED-9."""
    room_id = alice.create_room(visibility="public")
    peer.answers["keys"] = lambda asked: keys(peer)
    with refused(401, "M_UNAUTHORIZED"):
        peer.join(honest, room_id, peer.user("mallory"))


def test_keys_without_end_are_given_up(alice: Client, peer: LyingPeer, honest: HomeServer) -> None:
    """FED-9, SEC-1."""
    room_id = alice.create_room(visibility="public")
    peer.answers["keys"] = endless_body
    begun = time.monotonic()
    with refused(401, "M_UNAUTHORIZED"):
        peer.join(honest, room_id, peer.user("mallory"))
    assert time.monotonic() - begun < 30


def test_notary_vouches_only_for_keys_that_their_server_has_signed(
    peer: LyingPeer, third: LyingPeer, honest: HomeServer
) -> None:
    """FED-9, SEC-8."""
    for name in (third.name, peer.name):
        answer = peer.request(honest, "GET", f"{KEYS}/query/{quote(name)}", header="")
        [told] = answer.json["server_keys"]
        assert told["server_name"] == name
        assert {name, honest.name} == set(told["signatures"])
    third.answers["keys"] = lambda asked: peer.published_keys()
    answer = peer.request(honest, "GET", f"{KEYS}/query/{quote('localhost:1')}", header="")
    assert answer.json["server_keys"] == []


# Connections that do nothing, slowly.


def test_slow_and_silent_connections_keep_nobody_else_waiting(old_scene: Scene) -> None:
    """SEC-1: hundreds that begin a handshake, or a request, and do not go on."""
    scene = old_scene
    host, _, port = scene.server.name.partition(":")
    context = ssl.create_default_context(cafile=str(scene.peer._authority.file))
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection((host, int(port)), timeout=5)) for _ in range(150)]
        slow = [
            stack.enter_context(
                context.wrap_socket(socket.create_connection((host, int(port)), timeout=5), server_hostname=host)
            )
            for _ in range(50)
        ]
        for number, connection in enumerate(slow):
            begun = [b"P", b"PUT ", b"PUT /_matrix/federation/v1/send/1/ HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nX-A: "]
            connection.sendall(begun[number % len(begun)])
        for connection in silent[:50]:
            connection.sendall(b"\x16\x03\x01")
        begun_at = time.monotonic()
        scene.works_on()
        assert time.monotonic() - begun_at < 2
        for _ in range(3):
            for connection in slow:
                connection.sendall(b"x")
            scene.works_on()


def test_plain_http_on_the_port_for_tls_is_no_request(honest: HomeServer) -> None:
    """SEC-10, FED-1: nothing is said in the clear."""
    host, _, port = honest.name.partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"GET /_matrix/key/v2/server HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            heard = connection.recv(1000)
        except ConnectionError:
            heard = b""
        assert b"HTTP" not in heard
        assert b"verify_keys" not in heard


def test_old_versions_of_tls_are_refused(lone: Federation, honest: HomeServer) -> None:
    """SEC-10, FED-1."""
    host, _, port = honest.name.partition(":")
    context = ssl.create_default_context(cafile=str(lone.authority.file))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLS"):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname=host)


def test_server_with_the_wrong_certificate_is_told_nothing(lone: Federation, alice: Client, unique: Unique) -> None:
    """SEC-10, FED-1: its name is 127.0.0.1, its certificate is for localhost."""
    with LyingPeer(lone.authority, "localhost") as impostor:
        room = hosted(impostor, unique, "spec-2014")
        port = impostor.name.partition(":")[2]
        with pytest.raises(ApiError) as error:
            alice.join(f"#{unique('x')}:127.0.0.1:{port}")
        assert error.value.status in (404, 502, 504)
        assert not impostor.asked, room
