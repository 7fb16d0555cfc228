"""Presence across servers (PRES-3, PRES-4, PRES-5)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import NewDatabase
from tests.scenarios.conftest import Unique, above_storage
from tests.scenarios.federation.conftest import FederationOf, Meet, in_good_order
from tests.scenarios.test_typing import types, typing_in
from tests.support.client import Client, forbidden
from tests.support.federation import Federation
from tests.support.presence import Ears, change_list, list_of, presence_in, requests_in, set_status, status_of
from tests.support.processes import wait_until

# What presence has to do with the database is tried on both kinds in tests/handlers, and in tests/scenarios.
pytestmark = above_storage


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


def test_what_was_not_heard_before_a_kill_is_said_again(
    three: Federation, alice: Client, bob: Client, meet: Meet
) -> None:
    """It waited in memory only, and bob's server was not told for twenty minutes."""
    ears = Ears(bob)
    meet(alice, bob)
    set_status(alice, "unavailable")
    ears.until_it_is(alice, "unavailable")
    three.cut(three.servers[1])
    set_status(alice, "free_for_chat")
    ears.for_a_while(1.5)
    alice.server.kill9()
    three.heal()
    alice.server.start()
    ears.until_it_is(alice, "free_for_chat", seconds=25)


def test_who_was_there_when_their_server_died_is_offline_soon_after_it_is_back(
    three: Federation, alice: Client, bob: Client, meet: Meet
) -> None:
    """And who comes back in time was there all along."""
    ears = Ears(bob)
    neighbour = Client(alice.server).register("neighbour-of-" + alice.user_id[1:].partition(":")[0])
    meet(alice, bob, neighbour)
    for client in (alice, neighbour):
        set_status(client, "free_for_chat")
        ears.until_it_is(client, "free_for_chat")
    ears.heard.clear()
    alice.server.kill9()
    alice.server.start()
    back = neighbour.poll(timeout=120_000)
    ears.until_it_is(alice, "offline", seconds=60)
    assert presence_in(ears.heard, alice) == ["offline"]
    assert presence_in(ears.heard, neighbour) == []
    back.abandon()


def test_what_happened_while_no_room_was_shared_is_known_after(alice: Client, bob: Client, meet: Meet) -> None:
    """Whoever came back saw the others as they had been, for up to twenty minutes."""
    ears = Ears(bob)
    room = meet(alice, bob)
    set_status(alice, "unavailable")
    ears.until_it_is(alice, "unavailable")
    bob.leave(room)
    wait_until("his leave", lambda: alice.members(room)[bob.user_id] == "leave")
    set_status(alice, "free_for_chat")
    assert presence_in(ears.for_a_while(1.5), alice)[-1] == "unavailable"
    bob.join(room)
    ears.until_it_is(alice, "free_for_chat", seconds=10)


def test_who_left_while_they_could_not_be_reached_is_not_seen(
    three: Federation, alice: Client, bob: Client, meet: Meet
) -> None:
    """SEC-11: a server that could not be reached was told what it had missed, whether it still might know it or not."""
    ears = Ears(bob)
    room = meet(alice, bob)
    set_status(alice, "unavailable")
    ears.until_it_is(alice, "unavailable")
    three.cut(three.servers[0])
    alice.leave(room)
    set_status(alice, "free_for_chat", "secret")
    ears.for_a_while(1.5)
    three.heal()
    wait_until("her leave", lambda: bob.members(room)[alice.user_id] == "leave", seconds=40)
    ears.for_a_while(12)
    assert "secret" not in str(ears.heard)
    assert presence_in(ears.heard, alice)[-1] == "unavailable"
    with forbidden():
        status_of(bob, alice)


def test_somebody_hidden_sees_those_of_other_servers(alice: Client, bob: Client, meet: Meet) -> None:
    set_status(bob, "hidden")
    meet(alice, bob)
    ears, watching = Ears(bob), Ears(alice)
    set_status(alice, "free_for_chat")
    ears.until_it_is(alice, "free_for_chat", seconds=5)
    assert presence_in(watching.for_a_while(1), bob) == []


# Settings.


@pytest.mark.parametrize(("setting", "accepted"), [("nobody", False), ("local", False), ("everyone", True)])
def test_settings_accept_requests_of_other_servers(
    federation_of: FederationOf, new_database: NewDatabase, setting: str, *, accepted: bool
) -> None:
    """PRES-3: those of this server's own users are accepted by `local`, too."""
    with ExitStack() as stack:
        urls = [stack.enter_context(new_database()) for _ in range(2)]
        settings = {"presence__enabled": True, "presence__auto_accept": setting}
        here, there = stack.enter_context(federation_of(*urls, **settings)).servers
        alice, ann = Client(here).register("alice"), Client(here).register("ann")
        bob = Client(there).register("bob")
        for observer in (ann, bob):
            change_list(observer, invite=[alice.user_id])
        if accepted:
            wait_until("the answer", lambda: list_of(bob)[alice.user_id]["accepted"])
            assert requests_in(alice.initial_sync()["presence"]) == []
        else:
            wait_until("the request", lambda: bob.user_id in requests_in(alice.initial_sync()["presence"]))
            assert list_of(bob)[alice.user_id]["accepted"] is False
        assert list_of(ann)[alice.user_id]["accepted"] is (setting != "nobody")


@pytest.mark.parametrize("setting", ["enabled", "federation"])
def test_presence_turned_off_leaves_everything_else(
    federation_of: FederationOf, new_database: NewDatabase, meet: Meet, setting: str
) -> None:
    """PRES-5: wholly, or between servers; then one sees those of one's own server."""
    with ExitStack() as stack:
        urls = [stack.enter_context(new_database()) for _ in range(2)]
        settings = {"presence__enabled": True, f"presence__{setting}": False}
        here, there = stack.enter_context(federation_of(*urls, **settings)).servers
        alice, ann, bob = (
            Client(server).register(name) for name, server in zip("cab", (here, here, there), strict=True)
        )
        room = meet(alice, ann, bob)
        ears = {client.user_id: Ears(client) for client in (ann, bob)}
        with forbidden():
            change_list(bob, invite=[alice.user_id])
        if setting == "federation":
            set_status(alice, "free_for_chat")
            ears[ann.user_id].until_it_is(alice, "free_for_chat")
        types(alice, room)
        said = alice.send(room, "hello")
        heard = ears[bob.user_id].until(lambda heard: typing_in(heard) and said in [e.get("event_id") for e in heard])
        heard = ears[bob.user_id].for_a_while(1.5)
        assert presence_in(heard, alice) == []
        shown = bob.initial_sync()["presence"] if setting == "enabled" else presence_in(heard, ann)
        assert shown == []
