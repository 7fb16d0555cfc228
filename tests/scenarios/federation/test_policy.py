"""Policy servers and what other servers send (POL-1)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import NewDatabase
from tests.scenarios.conftest import Unique
from tests.scenarios.federation.conftest import FederationOf, Meet, each_version, in_good_order
from tests.scenarios.test_unwanted import invited_to
from tests.support.client import ApiError, Client, texts
from tests.support.federation import Federation, wait_for_event, wait_until_agree, whole_history
from tests.support.policy_server import Json, PolicyServer
from tests.support.processes import wait_until


@pytest.fixture(scope="session")
def shared_policy() -> Iterator[PolicyServer]:
    server = PolicyServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_three(
    federation_of: FederationOf, new_database: NewDatabase, shared_policy: PolicyServer
) -> Iterator[Federation]:
    """Three servers that have a policy server asked about what comes from the others."""
    asked = {"url": shared_policy.url, "hooks": ["invites", "remote_sends"], "timeout": 2.0, "on_failure": "closed"}
    with ExitStack() as stack:
        urls = [stack.enter_context(new_database()) for _ in range(3)]
        yield stack.enter_context(federation_of(*urls, policy__servers=[asked]))


@pytest.fixture
def three(shared_three: Federation, policy: PolicyServer) -> Iterator[Federation]:
    with in_good_order(shared_three) as federation:
        yield federation


@pytest.fixture
def policy(shared_policy: PolicyServer) -> PolicyServer:
    shared_policy.reset()
    return shared_policy


def refuse_on(policy: PolicyServer, client: Client, word: str, seconds: float = 0) -> None:
    """Let one server's policy refuse what holds a word, after a while."""

    def verdict(question: Json) -> Json:
        if question["server_name"] != client.server.name or word not in repr(question):
            return {"allow": True}
        time.sleep(seconds)
        return {"allow": False, "reason": "No gambling here."}

    policy.verdict = verdict


@each_version
def test_unwanted_message_is_shown_to_nobody_here_and_the_room_goes_on(
    policy: PolicyServer, alice: Client, bob: Client, carol: Client, meet: Meet, version: str
) -> None:
    """POL-1: soft-failed on the one server, there on the others; what comes after it comes, and all agree."""
    refuse_on(policy, bob, "casino")
    room = meet(alice, bob, carol, room_version=version)
    refused = alice.send(room, "come to my casino")
    topic = alice.set_state(room, "m.room.topic", {"topic": "casino"})
    after = alice.send(room, "how are you?")
    for client in (bob, carol):
        wait_for_event(client, room, after)
    assert texts(whole_history(bob, room)) == ["how are you?"]
    assert texts(whole_history(carol, room)) == ["come to my casino", "how are you?"]
    with pytest.raises(ApiError):
        bob.event(refused)
    # State is not asked about: a room has one state.
    assert bob.state_event(room, "m.room.topic")["event_id"] == topic
    answer = bob.send(room, "fine")
    for client in (alice, carol):
        wait_for_event(client, room, answer)
    wait_until_agree(room, alice, bob, carol)
    assert texts(whole_history(alice, room))[-1] == "fine"
    questions = [item for item in policy.questions("remote_sends") if item["event"]["event_id"] == refused]
    assert {item["server_name"] for item in questions} == {bob.server.name, carol.server.name}
    assert questions[0]["user_id"] == alice.user_id
    assert questions[0]["event"]["content"]["body"] == "come to my casino"


def test_redaction_of_another_server_is_never_refused(
    policy: PolicyServer, alice: Client, bob: Client, meet: Meet
) -> None:
    """POL-1, RED-1: what is taken away elsewhere is taken away here."""
    room = meet(alice, bob)
    sent = alice.send(room, "rude")
    wait_for_event(bob, room, sent)
    refuse_on(policy, bob, "user_id")
    redaction = alice.redact(room, sent)
    wait_for_event(bob, room, redaction)
    assert bob.event(sent)["content"] == {}


def test_what_was_missed_is_asked_about(
    three: Federation, policy: PolicyServer, alice: Client, bob: Client, carol: Client, meet: Meet
) -> None:
    """POL-1: events that are fetched, because they were missed or from before, are no way around the policy."""
    refuse_on(policy, bob, "casino")
    room = meet(alice, carol)
    alice.send(room, "casino before")
    alice.send(room, "word before")
    bob.join(room)
    wait_until_agree(room, alice, bob, carol)
    three.part([three.servers[1]], [three.servers[0]])
    alice.send(room, "casino meanwhile")
    seen = alice.send(room, "word meanwhile")
    wait_for_event(carol, room, seen)
    last = carol.send(room, "word after")
    wait_for_event(bob, room, last)
    three.heal()
    expected = ["word before", "word meanwhile", "word after"]
    wait_until("history", lambda: texts(whole_history(bob, room)) == expected)
    assert texts(whole_history(bob, room, page=1000)) == expected
    assert texts(whole_history(carol, room))[-3:] == ["casino meanwhile", "word meanwhile", "word after"]
    wait_until_agree(room, alice, bob, carol)


def test_invite_of_another_server_is_refused_with_the_reason(policy: PolicyServer, alice: Client, bob: Client) -> None:
    """POL-1: who invites is told what the policy of the other server says."""
    refuse_on(policy, bob, alice.user_id)
    room = alice.create_room()
    with pytest.raises(ApiError) as refusal:
        alice.invite(room, bob)
    assert (refusal.value.status, refusal.value.errcode) == (403, "M_FORBIDDEN")
    assert "No gambling here." in refusal.value.sentence
    assert invited_to(bob) == []
    policy.reset()
    alice.invite(room, bob)
    assert invited_to(bob) == [room]


def test_invite_that_comes_with_the_room_is_not_told(
    policy: PolicyServer, alice: Client, bob: Client, meet: Meet, unique: Unique
) -> None:
    """POL-1: it stands in the room, which has one state everywhere; the invited user hears nothing of it."""
    room = meet(alice, bob)
    dave = Client(bob.server).register(unique("dave"))
    refuse_on(policy, bob, dave.user_id)
    since = dave.present()
    alice.invite(room, dave)
    wait_until("the invite", lambda: bob.members(room).get(dave.user_id) == "invite" or None)
    assert dave.events(since, timeout=300)["chunk"] == []
    assert invited_to(dave) == []
    wait_until_agree(room, alice, bob)
    policy.reset()
    alice.kick(room, dave)
    alice.invite(room, dave)
    wait_until("the other invite", lambda: invited_to(dave) or None)


def test_slow_policy_server_holds_up_neither_other_rooms_nor_the_queue(
    policy: PolicyServer, alice: Client, bob: Client, meet: Meet, unique: Unique
) -> None:
    """POL-1: and what it does not answer in time is refused, where it is to fail closed."""
    room, other = meet(alice, bob), meet(alice, bob)
    refuse_on(policy, bob, "slow", seconds=3.5)
    began = time.monotonic()
    alice.send(room, "slow")
    quick = bob.present(), alice.send(other, "quick")
    bob.events_until(quick[0], quick[1])
    mine = bob.send(room, "mine")
    assert mine in [event["event_id"] for event in bob.history(room)]
    assert time.monotonic() - began < 2.0, "it waited for the policy server"
    after = alice.send(room, "after")
    wait_for_event(bob, room, after)
    assert texts(bob.history(room)) == ["mine", "after"]
    policy.stop()
    try:
        lost = alice.send(room, "nobody says that this is allowed")
        # It comes after the other, on which nothing may hang any more when the policy server is back.
        gone = alice.set_state(room, "m.room.topic", {"topic": "still here"})
        wait_for_event(bob, room, gone)
    finally:
        policy.start()
    policy.reset()
    last = alice.send(room, "last")
    wait_for_event(bob, room, last)
    assert lost not in [event["event_id"] for event in bob.history(room)]
    wait_until_agree(room, alice, bob)
