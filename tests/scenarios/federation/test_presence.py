"""Presence across servers (PRES-3, PRES-4, PRES-5)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import NewDatabase
from tests.scenarios.conftest import Unique
from tests.scenarios.federation.conftest import FederationOf, Meet, in_good_order
from tests.support.client import Client, forbidden
from tests.support.federation import Federation
from tests.support.presence import Ears, change_list, list_of, presence_in, requests_in, set_status, status_of
from tests.support.processes import wait_until


@pytest.fixture(scope="module")
def present_servers(federation_of: FederationOf, new_database: NewDatabase) -> Iterator[Federation]:
    with ExitStack() as stack:
        urls = [stack.enter_context(new_database()) for _ in range(3)]
        yield stack.enter_context(federation_of(*urls, presence__enabled=True))


@pytest.fixture
def three(present_servers: Federation) -> Iterator[Federation]:
    """Servers that know who is there."""
    with in_good_order(present_servers) as federation:
        yield federation


def befriend(observer: Client, observed: Client) -> None:
    """Have one allowed to see another."""
    change_list(observer, invite=[observed.user_id])
    wait_until("the request", lambda: bool(requests_in(observed.initial_sync()["presence"])))
    change_list(observed, accept=[observer.user_id])
    wait_until("the answer", lambda: list_of(observer)[observed.user_id]["accepted"])


def test_those_who_share_a_room_see_each_other(alice: Client, bob: Client, meet: Meet) -> None:
    for_alice, for_bob = Ears(alice), Ears(bob)
    meet(alice, bob)
    assert for_bob.until_it_is(alice, "online") == ["online"]
    assert for_alice.until_it_is(bob, "online") == ["online"]
    set_status(alice, "unavailable", "Tea ☕")
    assert for_bob.until_it_is(alice, "unavailable") == ["online", "unavailable"]
    status = status_of(bob, alice)
    assert (status["presence"], status["status_msg"]) == ("unavailable", "Tea ☕")
    assert status["last_active_ago"] >= 0
    assert presence_in(for_alice.for_a_while(1.5), bob) == ["online"]


def test_members_of_a_room_elsewhere_are_seen_as_soon_as_one_is_in(
    alice: Client, bob: Client, carol: Client, meet: Meet
) -> None:
    """Alice is known here already, through bob, when a neighbour of his comes into a room of hers."""
    for_bob = Ears(bob)
    meet(alice, bob)
    set_status(alice, "free_for_chat")
    for_bob.until_it_is(alice, "free_for_chat")
    neighbour = Client(bob.server).register("neighbour-of-" + bob.user_id[1:].partition(":")[0])
    ears = Ears(neighbour)
    meet(alice, carol, neighbour)
    assert ears.until_it_is(alice, "free_for_chat", seconds=5) == ["free_for_chat"]
    assert presence_in(ears.for_a_while(1), alice) == ["free_for_chat"]


def test_hidden_is_offline_elsewhere(alice: Client, bob: Client, meet: Meet) -> None:
    ears = Ears(bob)
    meet(alice, bob)
    set_status(alice, "online")
    ears.until_it_is(alice, "online")
    set_status(alice, "hidden", "secret")
    ears.until_it_is(alice, "offline")
    assert "secret" not in str(ears.heard)
    assert status_of(bob, alice)["presence"] == "offline"


def test_one_who_comes_online_later_is_told_how_it_stands(alice: Client, bob: Client, meet: Meet) -> None:
    """PRES-5: a poll is answered at once with a push."""
    meet(alice, bob)
    set_status(alice, "free_for_chat")
    ears = Ears(bob)
    ears.until_it_is(alice, "free_for_chat", seconds=5)


def test_request_is_answered_across_servers(alice: Client, bob: Client) -> None:
    set_status(alice, "free_for_chat")
    ears, asked = Ears(bob), Ears(alice)
    change_list(bob, invite=[alice.user_id])
    asked.until(requests_in)
    assert requests_in(asked.for_a_while(1)) == [bob.user_id]
    assert list_of(bob)[alice.user_id] == {"user_id": alice.user_id, "accepted": False}
    assert presence_in(ears.for_a_while(0.5), alice) == []
    with forbidden():
        status_of(bob, alice)
    change_list(alice, accept=[bob.user_id])
    assert ears.until_it_is(alice, "free_for_chat") == ["free_for_chat"]
    assert list_of(bob)[alice.user_id]["presence"] == "free_for_chat"
    set_status(alice, "unavailable")
    assert ears.until_it_is(alice, "unavailable") == ["free_for_chat", "unavailable"]
    with forbidden():
        status_of(alice, bob)


def test_denied_request_is_gone_on_both_sides(alice: Client, bob: Client) -> None:
    change_list(bob, invite=[alice.user_id])
    wait_until("the request", lambda: bool(requests_in(alice.initial_sync()["presence"])))
    change_list(alice, deny=[bob.user_id])
    wait_until("the answer", lambda: not list_of(bob))


def test_request_to_nobody_is_denied(alice: Client, bob: Client, unique: Unique) -> None:
    change_list(bob, invite=[f"@{unique('nobody')}:{alice.server.name}"])
    wait_until("the answer", lambda: not list_of(bob))


def test_reverse_subscription_is_accepted_by_itself(alice: Client, bob: Client) -> None:
    befriend(bob, alice)
    change_list(alice, invite=[bob.user_id])
    wait_until("the answer", lambda: list_of(alice)[bob.user_id]["accepted"])


def test_request_to_a_server_that_is_down_arrives_when_it_is_back(
    three: Federation, alice: Client, bob: Client
) -> None:
    alice.server.terminate()
    change_list(bob, invite=[alice.user_id])
    bob.server.restart()
    alice.server.start()
    wait_until("the request", lambda: bool(requests_in(alice.initial_sync()["presence"])), seconds=40)
    alice.server.terminate()
    alice.server.start()
    change_list(alice, accept=[bob.user_id])
    wait_until("the answer", lambda: list_of(bob)[alice.user_id]["accepted"], seconds=40)


def test_strangers_on_other_servers_see_nothing(
    three: Federation, alice: Client, bob: Client, carol: Client, meet: Meet
) -> None:
    room = meet(alice, bob, carol)
    stranger = Client(bob.server).register("stranger" + bob.user_id[1:].partition(":")[0])
    ears = {user.user_id: Ears(user) for user in (bob, carol, stranger)}
    carol.leave(room)
    wait_until("her leave", lambda: alice.members(room)[carol.user_id] == "leave")
    for ear in ears.values():
        ear.heard.clear()
    set_status(alice, "free_for_chat")
    ears[bob.user_id].until_it_is(alice, "free_for_chat")
    assert [presence_in(ears[user.user_id].for_a_while(0.7), alice) for user in (carol, stranger)] == [[], []]


def test_states_are_right_again_after_a_restart_of_either_side(
    three: Federation, alice: Client, bob: Client, meet: Meet
) -> None:
    ears = Ears(bob)
    meet(alice, bob)
    set_status(alice, "unavailable", "one")
    ears.until_it_is(alice, "unavailable")
    bob.server.kill9()
    set_status(alice, "free_for_chat", "two")
    bob.server.start()
    ears.until_it_is(alice, "free_for_chat", seconds=60)
    alice.server.kill9()
    alice.server.start()
    set_status(alice, "online", "three")
    ears.until_it_is(alice, "online", seconds=60)


def test_states_are_right_again_after_the_line_was_cut(
    three: Federation, alice: Client, bob: Client, meet: Meet
) -> None:
    ears = Ears(bob)
    meet(alice, bob)
    set_status(alice, "unavailable")
    ears.until_it_is(alice, "unavailable")
    three.cut(three.servers[0])
    set_status(alice, "free_for_chat")
    ears.for_a_while(3)
    three.heal()
    ears.until_it_is(alice, "free_for_chat", seconds=60)
