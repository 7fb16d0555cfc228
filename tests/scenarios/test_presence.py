"""Who is there: states, lists, and who may see them (PRES-1 to PRES-4, EVS-2, EVS-4, EVS-5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import pytest

from tests.conftest import NewDatabase
from tests.scenarios.conftest import FreshServer, People, Unique, any_process, known, must_not_have_failed
from tests.support.client import Client, bad_json, forbidden, not_found, quote
from tests.support.presence import Ears, change_list, list_of, presence_in, requests_in, set_status, status_of
from tests.support.processes import wait_until
from tests.support.server import HomeServer

PRESENT = {"presence.enabled": True}


@pytest.fixture(scope="module")
def presence_server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    new_database: NewDatabase,
    usual_settings: Mapping[str, object],
) -> Iterator[HomeServer]:
    folder = tmp_path_factory.mktemp("home") / "data"
    with new_database() as url, known(request, HomeServer(folder, url, {**usual_settings, **PRESENT})) as server:
        yield server.start()


@pytest.fixture
def server(presence_server: HomeServer) -> Iterator[HomeServer]:
    """A server that knows who is there."""
    presence_server.forget_log()
    yield presence_server
    must_not_have_failed(presence_server)


# States.


@any_process
def test_open_stream_makes_one_online(alice: Client, bob: Client, room: str) -> None:
    bob.join(room)
    ears = Ears(bob)
    assert status_of(bob, alice)["presence"] == "offline"
    alice.present()
    assert ears.until_it_is(alice, "online") == ["online"]
    status = status_of(bob, alice)
    assert status["presence"] == "online"
    assert 0 <= status["last_active_ago"] < 10_000


@pytest.mark.parametrize("state", ["online", "unavailable", "free_for_chat", "offline"])
def test_states_are_seen_with_their_messages(alice: Client, bob: Client, room: str, state: str) -> None:
    bob.join(room)
    ears = Ears(bob)
    set_status(alice, state, "Tea ☕")
    ears.until_it_is(alice, state)
    [event] = [event for event in ears.heard if event["content"].get("user_id") == alice.user_id]
    assert event["type"] == "m.presence"
    assert event["content"]["status_msg"] == "Tea ☕"
    for looking in (alice, bob):
        status = status_of(looking, alice)
        assert (status["presence"], status["status_msg"]) == (state, "Tea ☕")


@any_process
def test_hidden_is_offline_to_others_and_hidden_to_oneself(alice: Client, bob: Client, room: str) -> None:
    bob.join(room)
    alice.present()
    ears = Ears(bob)
    set_status(alice, "online")
    wait_until("alice", lambda: status_of(bob, alice)["presence"] == "online")
    ears.listen()
    before = status_of(bob, alice)["last_active_ago"]
    set_status(alice, "hidden", "secret")
    ears.until_it_is(alice, "offline")
    alice.send(room, "boo")
    alice.present()
    seen = status_of(bob, alice)
    assert seen["presence"] == "offline"
    assert "status_msg" not in seen
    assert seen["last_active_ago"] >= before, "that somebody hidden does something is not seen"
    assert status_of(alice, alice)["presence"] == "hidden"
    assert "hidden" not in str(ears.for_a_while(1.5))


def test_each_change_comes_once_and_not_stale(alice: Client, bob: Client, room: str) -> None:
    bob.join(room)
    ears = Ears(bob)
    for state in ("online", "unavailable", "free_for_chat", "unavailable"):
        set_status(alice, state)
    ears.until_it_is(alice, "unavailable")
    states = presence_in(ears.for_a_while(), alice)
    assert all(one != next_one for one, next_one in pairwise(states)), "the same twice"
    assert states[-1] == "unavailable"
    again = Ears(bob, ears.since)
    assert presence_in(again.for_a_while(1.5), alice) == []


def test_most_available_device_counts(alice: Client, bob: Client, room: str) -> None:
    bob.join(room)
    phone = Client(alice.server).login(alice.user_id)
    set_status(alice, "unavailable")
    assert status_of(bob, alice)["presence"] == "unavailable"
    set_status(phone, "free_for_chat", device_type="mobile")
    assert status_of(bob, alice)["presence"] == "free_for_chat"
    set_status(phone, "offline")
    assert status_of(bob, alice)["presence"] == "unavailable"


def test_other_device_of_a_user_learns_what_was_chosen(alice: Client) -> None:
    phone = Client(alice.server).login(alice.user_id)
    ears = Ears(phone)
    set_status(alice, "hidden")
    assert ears.until_it_is(alice, "hidden") == ["hidden"]


def test_own_coming_online_is_no_news(alice: Client) -> None:
    ears = Ears(alice)
    assert ears.for_a_while(1.5) == []


def test_shortest_idle_time_counts(alice: Client, bob: Client, room: str) -> None:
    bob.join(room)
    phone = Client(alice.server).login(alice.user_id)
    set_status(alice, "online", idle=600_000)
    assert 600_000 <= status_of(bob, alice)["last_active_ago"] < 630_000
    set_status(phone, "online", idle=60_000, device_type="mobile")
    assert 60_000 <= status_of(bob, alice)["last_active_ago"] < 90_000
    set_status(alice, "online", idle=600_000)
    assert 60_000 <= status_of(bob, alice)["last_active_ago"] < 90_000


def test_sending_is_an_activity(alice: Client, bob: Client, room: str) -> None:
    bob.join(room)
    set_status(alice, "online", idle=3_600_000)
    ears = Ears(bob)
    assert status_of(bob, alice)["last_active_ago"] >= 3_600_000
    alice.send(room, "back")
    ears.until(lambda heard: presence_in(heard, alice))
    # What she said before may be heard first.
    wait_until("her to be active", lambda: status_of(bob, alice)["last_active_ago"] < 10_000)


def test_less_available_is_no_activity_and_more_is(alice: Client, bob: Client, room: str) -> None:
    bob.join(room)
    set_status(alice, "free_for_chat", idle=3_600_000)
    set_status(alice, "unavailable")
    assert status_of(bob, alice)["last_active_ago"] >= 3_600_000
    set_status(alice, "online")
    assert status_of(bob, alice)["last_active_ago"] < 10_000


def test_one_sets_ones_own_presence_only(alice: Client, bob: Client) -> None:
    with forbidden():
        bob.call("PUT", f"/presence/{quote(alice.user_id)}/status", {"presence": "offline"})


def test_malformed_states_are_refused(alice: Client) -> None:
    path = f"/presence/{quote(alice.user_id)}/status"
    for body in ({}, {"presence": "asleep"}, {"presence": 1}, {"presence": "online", "status_msg": 5}):
        with bad_json():
            alice.call("PUT", path, body)
    with bad_json():
        alice.call("PUT", path, {"presence": "online", "idle": -1})


@pytest.mark.parametrize("text", ["\u202e☕\n\x7f\\", "x" * 1000, "\U0001f9ff" * 500])
def test_any_text_says_how_one_is(alice: Client, bob: Client, room: str, text: str) -> None:
    """PRES-1."""
    bob.join(room)
    ears = Ears(bob)
    set_status(alice, "unavailable", text)
    ears.until_it_is(alice, "unavailable")
    [event] = [event for event in ears.heard if event["content"].get("user_id") == alice.user_id]
    assert event["content"]["status_msg"] == status_of(alice, alice)["status_msg"] == text


@pytest.mark.parametrize("text", ["a\0b", "x" * 1001])
def test_text_that_cannot_be_kept_is_refused(alice: Client, text: str) -> None:
    """PRES-1: PostgreSQL does not store a NUL, and one of them made all presence of the server stand still."""
    set_status(alice, "unavailable", "Tea")
    with bad_json():
        set_status(alice, "online", text)
    set_status(alice, "free_for_chat")
    assert status_of(alice, alice)["presence"] == "free_for_chat"


# Who may see.


def test_everybody_sees_just_whom_they_should(alice: Client, people: People, private_room: str) -> None:
    """A matrix: members and observers see alice once for each change, nobody else ever does (PRES-4)."""
    names = ("member", "observer", "waiting", "denied", "dropped", "invited", "left", "banned", "stranger")
    users = {name: people(name) for name in names}
    for name in ("member", "left", "banned"):
        alice.invite(private_room, users[name])
        users[name].join(private_room)
    users["left"].leave(private_room)
    alice.ban(private_room, users["banned"])
    alice.invite(private_room, users["invited"])
    for name in ("observer", "waiting", "denied", "dropped"):
        change_list(users[name], invite=[alice.user_id])
    change_list(alice, accept=[users["observer"].user_id, users["denied"].user_id, users["dropped"].user_id])
    change_list(alice, deny=[users["denied"].user_id])
    change_list(users["dropped"], drop=[alice.user_id])
    ears = {name: Ears(user) for name, user in users.items()}
    set_status(alice, "free_for_chat", "hello")
    ears["member"].until_it_is(alice, "free_for_chat")
    seen = {name: presence_in(ears[name].for_a_while(0.6), alice) for name in names}
    allowed = {"member", "observer"}
    assert seen == {name: ["free_for_chat"] if name in allowed else [] for name in names}
    for name, user in users.items():
        shown = [
            event["content"]["user_id"] for event in user.initial_sync()["presence"] if "user_id" in event["content"]
        ]
        assert (alice.user_id in shown) is (name in allowed), name
        if name in allowed:
            assert status_of(user, alice)["presence"] == "free_for_chat"
        else:
            with forbidden():
                status_of(user, alice)


@any_process
def test_who_comes_into_a_room_sees_who_is_there_and_is_seen(alice: Client, bob: Client, room: str) -> None:
    for_alice, for_bob = Ears(alice), Ears(bob)
    wait_until("alice", lambda: status_of(alice, alice)["presence"] == "online")
    bob.join(room)
    assert for_bob.until_it_is(alice, "online") == ["online"]
    assert for_alice.until_it_is(bob, "online") == ["online"]
    assert presence_in(for_alice.for_a_while(1.5), bob) == ["online"]
    assert presence_in(for_bob.for_a_while(1.5), alice) == ["online"]


def test_who_has_left_is_seen_no_more(alice: Client, bob: Client, room: str) -> None:
    bob.join(room)
    ears = Ears(alice)
    bob.leave(room)
    set_status(bob, "unavailable")
    assert presence_in(ears.for_a_while(), bob) == []


def test_initial_sync_shows_who_is_there(alice: Client, bob: Client, carol: Client, room: str) -> None:
    """EVS-4, EVS-5: and the stream goes on from there without a repeat."""
    for user in (bob, carol):
        user.join(room)
    set_status(bob, "unavailable", "at lunch")
    sync = alice.initial_sync()
    [event] = [event for event in sync["presence"] if event["content"]["user_id"] == bob.user_id]
    assert (event["content"]["presence"], event["content"]["status_msg"]) == ("unavailable", "at lunch")
    assert presence_in(sync["presence"], carol) == []
    assert presence_in(alice.room_initial_sync(room)["presence"], bob) == ["unavailable"]
    ears = Ears(alice, sync["end"])
    assert presence_in(ears.for_a_while(1.5), bob) == []
    set_status(bob, "online")
    assert ears.until_it_is(bob, "online") == ["online"]


# Lists.


def test_request_is_told_once_and_stays_until_it_is_answered(alice: Client, bob: Client) -> None:
    ears = Ears(alice)
    change_list(bob, invite=[alice.user_id])
    change_list(bob, invite=[alice.user_id])
    ears.until(requests_in)
    assert requests_in(ears.for_a_while(1.5)) == [bob.user_id]
    assert requests_in(alice.initial_sync()["presence"]) == [bob.user_id]
    assert list_of(bob) == {alice.user_id: {"user_id": alice.user_id, "accepted": False}}
    change_list(alice, accept=[bob.user_id])
    assert requests_in(alice.initial_sync()["presence"]) == []
    # That her stream is open is told within a few seconds.
    entry = wait_until("alice", lambda: next((e for e in list_of(bob).values() if e["presence"] == "online"), None))
    assert (entry["user_id"], entry["accepted"]) == (alice.user_id, True)


def test_accepted_request_shows_who_is_there(alice: Client, bob: Client) -> None:
    set_status(alice, "free_for_chat")
    ears = Ears(bob)
    change_list(bob, invite=[alice.user_id])
    assert presence_in(ears.for_a_while(1), alice) == []
    change_list(alice, accept=[bob.user_id])
    assert ears.until_it_is(alice, "free_for_chat") == ["free_for_chat"]
    with forbidden():
        status_of(alice, bob)


def test_new_name_is_told_to_those_who_see_one(alice: Client, bob: Client, room: str) -> None:
    """PROF-2: with the new values, and once."""
    bob.join(room)
    set_status(alice, "free_for_chat")
    ears = Ears(bob)
    alice.call("PUT", f"/profile/{quote(alice.user_id)}/displayname", {"displayname": "Alice ☕"})
    told = [event["content"] for event in ears.for_a_while() if event["type"] == "m.presence"]
    assert [content.get("displayname") for content in told if content["user_id"] == alice.user_id] == ["Alice ☕"]
    assert told[0]["presence"] == "free_for_chat"


def test_name_is_shown_with_presence_whenever_it_was_set(alice: Client, bob: Client, room: str) -> None:
    """PROF-2."""
    alice.call("PUT", f"/profile/{quote(alice.user_id)}/displayname", {"displayname": "Alice"})
    bob.join(room)
    ears = Ears(bob)
    set_status(alice, "free_for_chat")
    ears.until_it_is(alice, "free_for_chat")
    told = [event["content"] for event in ears.heard if event["content"].get("user_id") == alice.user_id]
    assert [content["displayname"] for content in told] == ["Alice"]


def test_what_is_open_to_the_presence_list_is_seen_by_those_whom_one_has_let(alice: Client, bob: Client) -> None:
    """PROF-3."""
    path = f"/profile/{quote(alice.user_id)}/age"
    alice.call("PUT", path, {"age": 36, "visibility": "presence-list"})
    change_list(bob, invite=[alice.user_id])
    with not_found():
        bob.call("GET", path)
    change_list(alice, accept=[bob.user_id])
    assert bob.call("GET", path) == {"age": 36}


def test_change_of_a_list_that_is_repeated_is_made_once(alice: Client, bob: Client) -> None:
    """API-4: the second time, there is no request any more that could be accepted."""
    change_list(bob, invite=[alice.user_id])
    for _ in range(2):
        alice.call("PUT", f"/presence/list/{quote(alice.user_id)}/txn1", {"accept": [bob.user_id]})
        change_list(bob, drop=[alice.user_id])
    assert list_of(bob) == {}


def test_denied_request_is_gone(alice: Client, bob: Client) -> None:
    change_list(bob, invite=[alice.user_id])
    change_list(alice, deny=[bob.user_id])
    assert list_of(bob) == {}
    with not_found():
        change_list(alice, accept=[bob.user_id])


def test_reverse_subscription_is_accepted_by_itself(alice: Client, bob: Client) -> None:
    change_list(bob, invite=[alice.user_id])
    change_list(alice, accept=[bob.user_id])
    change_list(alice, invite=[bob.user_id])
    assert list_of(alice)[bob.user_id]["accepted"] is True


@pytest.mark.parametrize(("setting", "accepted"), [("nobody", False), ("local", True), ("everyone", True)])
def test_settings_accept_requests(fresh_server: FreshServer, unique: Unique, setting: str, *, accepted: bool) -> None:
    server = fresh_server({**PRESENT, "presence.auto_accept": setting})
    alice, bob = (Client(server).register(unique(name)) for name in ("alice", "bob"))
    change_list(bob, invite=[alice.user_id])
    assert list_of(bob)[alice.user_id]["accepted"] is accepted


def test_list_is_ones_own(alice: Client, bob: Client) -> None:
    path = f"/presence/list/{quote(alice.user_id)}"
    with forbidden():
        bob.call("GET", path)
    with forbidden():
        bob.call("POST", path, {"drop": [bob.user_id]})
    assert alice.call("GET", path) == []


def test_list_of_nonsense_changes_nothing(alice: Client, bob: Client) -> None:
    with not_found():
        change_list(alice, invite=[bob.user_id, f"@nobody:{alice.server.name}"])
    assert list_of(alice) == {}
    for change in ({"invite": "x"}, {"invite": ["bob"]}, {"groups": {"": []}}, {"groups": {"x": ["y"]}}, {"drop": [5]}):
        with bad_json():
            change_list(alice, **change)


def test_groups_are_kept_and_invited_together(alice: Client, bob: Client, carol: Client) -> None:
    """PRES-3: createRoom's invite takes `group:name`."""
    users = [bob.user_id, carol.user_id]
    change_list(alice, invite=users, groups={"friends ☕": users})
    assert list_of(alice)[bob.user_id]["groups"] == ["friends ☕"]
    room = alice.create_room(invite=["group:friends ☕"])
    assert {user: alice.members(room)[user] for user in users} == dict.fromkeys(users, "invite")
    with not_found():
        alice.create_room(invite=["group:foes"])
    change_list(alice, drop=[bob.user_id])
    room = alice.create_room(invite=["group:friends ☕"])
    assert bob.user_id not in alice.members(room)


# Restarts and settings.


def test_choices_lists_and_groups_outlive_a_restart(fresh_server: FreshServer, unique: Unique) -> None:
    server = fresh_server(PRESENT)
    alice, bob = (Client(server).register(unique(name)) for name in ("alice", "bob"))
    room = alice.create_room(visibility="public")
    bob.join(room)
    change_list(bob, invite=[alice.user_id], groups={"all": [alice.user_id]})
    set_status(alice, "unavailable", "away")
    ears = Ears(bob)
    ears.listen()
    server.kill9()
    server.start()
    assert status_of(bob, alice)["presence"] == "unavailable"
    alice.present()
    assert presence_in(ears.for_a_while(2), alice) == [], "nothing has changed"
    assert status_of(bob, alice)["status_msg"] == "away"
    assert list_of(bob) == {alice.user_id: {"user_id": alice.user_id, "accepted": False, "groups": ["all"]}}
    assert requests_in(alice.initial_sync()["presence"]) == [bob.user_id]


def test_presence_can_be_turned_off(fresh_server: FreshServer, unique: Unique) -> None:
    server = fresh_server({"presence.enabled": False})
    alice, bob = (Client(server).register(unique(name)) for name in ("alice", "bob"))
    room = alice.create_room(visibility="public")
    bob.join(room)
    ears = Ears(bob)
    alice.present()
    with forbidden():
        set_status(alice, "online")
    with forbidden():
        change_list(alice, invite=[bob.user_id])
    assert ears.for_a_while(1.5) == []
    assert bob.initial_sync()["presence"] == []


def test_presence_can_be_kept_from_other_servers(fresh_server: FreshServer, unique: Unique) -> None:
    alice = Client(fresh_server({**PRESENT, "presence.federation": False})).register(unique("alice"))
    with forbidden():
        change_list(alice, invite=["@zoe:elsewhere.example"])
    assert list_of(alice) == {}
    set_status(alice, "unavailable")
    assert status_of(alice, alice)["presence"] == "unavailable"
