"""A room on two servers: alice's, who makes it, and bob's."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.scenarios.conftest import Unique
from tests.scenarios.federation.conftest import Meet, each_version
from tests.support import databases
from tests.support.client import ApiError, Client, Json, forbidden, ids, not_found, quote, texts
from tests.support.federation import Federation, state_of, wait_for_event, wait_until_agree, whole_history
from tests.support.processes import wait_until
from tests.support.server import HomeServer

# Coming in.


def test_room_is_joined_by_its_alias(alice: Client, bob: Client, unique: Unique) -> None:
    """ROOM-3, ROOM-6, FED-4, FED-7."""
    name = unique("pub")
    room = alice.create_room(visibility="public", room_alias_name=name, name="The pub")
    assert bob.join(f"#{name}:{alice.server.name}") == room
    assert bob.state_content(room, "m.room.name") == {"name": "The pub"}
    assert bob.members(room) == {alice.user_id: "join", bob.user_id: "join"}
    assert list(bob.synced_rooms()) == [room]
    wait_until_agree(room, alice, bob)


def test_room_is_joined_by_its_id(alice: Client, bob: Client, room: str) -> None:
    """ROOM-6: the room's ID names a server that is in it."""
    assert bob.join(room) == room
    wait_until_agree(room, alice, bob)


@pytest.mark.parametrize("way", ["rooms", "state"])
def test_every_way_to_join_reaches_a_remote_room(alice: Client, bob: Client, room: str, way: str) -> None:
    """ROOM-6, ROOM-7."""
    if way == "rooms":
        bob.call("POST", f"/rooms/{quote(room)}/join", {})
    else:
        bob.set_state(room, "m.room.member", {"membership": "join"}, bob.user_id)
    wait_until_agree(room, alice, bob)
    assert alice.members(room)[bob.user_id] == "join"


def test_joins_are_idempotent(alice: Client, bob: Client, room: str) -> None:
    """API-4."""
    for _ in range(2):
        assert bob.call("PUT", f"/join/{quote(room)}/1", {})["room_id"] == room
    assert bob.join(room) == room
    wait_until_agree(room, alice, bob)
    joins = [event for event in whole_history(alice, room) if event.get("state_key") == bob.user_id]
    assert len(joins) == 1


@each_version
def test_invited_user_learns_of_it_and_joins(alice: Client, bob: Client, version: str) -> None:
    """FED-7, EVS-2, EVS-4, ROOM-6: the invite says where the room is, also where its ID does not."""
    since = bob.present()
    room = alice.create_room(room_version=version, name="Secret")
    alice.invite(room, bob)
    [invite] = bob.events(since, timeout=10_000)["chunk"]
    assert (invite["type"], invite["content"]["membership"]) == ("m.room.member", "invite")
    assert (invite["user_id"], invite["state_key"]) == (alice.user_id, bob.user_id)
    [synced] = bob.initial_sync()["rooms"]
    assert (synced["room_id"], synced["membership"], synced["inviter"]) == (room, "invite", alice.user_id)
    bob.join(room)
    wait_until_agree(room, alice, bob)
    assert bob.state_content(room, "m.room.name") == {"name": "Secret"}
    assert alice.members(room)[bob.user_id] == "join"


def test_room_is_made_with_guests_from_elsewhere(alice: Client, bob: Client) -> None:
    """ROOM-1, FED-7."""
    room = alice.create_room(invite=[bob.user_id])
    wait_until("the invite", lambda: bob.synced_rooms().get(room))
    bob.join(room)
    wait_until_agree(room, alice, bob)


def test_room_one_is_not_invited_to_stays_closed(alice: Client, bob: Client, private_room: str) -> None:
    """ROOM-6, MEM-1."""
    with forbidden():
        bob.join(private_room)
    assert bob.user_id not in alice.members(private_room)
    assert not bob.synced_rooms()


def test_room_that_nobody_has_is_not_found(alice: Client, bob: Client, unique: Unique) -> None:
    """ROOM-3, ROOM-6."""
    there = alice.server.name
    for room in (f"#{unique('none')}:{there}", f"!none:{there}"):
        with pytest.raises(ApiError) as error:
            bob.join(room)
        assert error.value.status in (403, 404)
    with not_found():
        bob.call("GET", f"/directory/room/{quote(f'#none:{there}')}")


def test_room_of_a_server_that_is_not_there_is_refused_with_a_reason(bob: Client) -> None:
    """ROOM-6, API-3: and in good time."""
    for room in ("#room:localhost:1", "!room:localhost:1"):
        with pytest.raises(ApiError) as error:
            bob.join(room)
        assert error.value.status in (404, 502, 504)
        assert error.value.sentence


def test_second_user_of_a_server_joins_without_asking_another(
    three: Federation, alice: Client, bob: Client, unique: Unique, room: str
) -> None:
    """ROOM-6."""
    bob.join(room)
    wait_until_agree(room, alice, bob)
    three.cut(three.servers[0])
    bobby = Client(bob.server).register(unique("bobby"))
    bobby.join(room)
    said = bobby.send(room, "alone here?")
    assert ids(bob.history(room))[-1] == said
    three.heal()
    wait_for_event(alice, room, said)
    wait_until_agree(room, alice, bob, bobby)


# Talking.


@each_version
def test_messages_go_both_ways(alice: Client, bob: Client, meet: Meet, version: str) -> None:
    """FED-2, FED-5, EVS-1."""
    room = meet(alice, bob, room_version=version, name="Tea")
    from_a, from_b = alice.present(), bob.present()
    asked = alice.send(room, "Tea, Bob? ☕ \x07")
    seen, _ = bob.events_until(from_b, asked)
    assert texts(seen) == ["Tea, Bob? ☕ \x07"]
    answered = bob.send(room, "Yes please")
    seen, _ = alice.events_until(from_a, answered)
    assert texts(seen) == ["Tea, Bob? ☕ \x07", "Yes please"]
    alice.set_state(room, "m.room.topic", {"topic": "Cake"})
    state = wait_until_agree(room, alice, bob)
    assert ("m.room.topic", "") in state
    wait_until("the same history", lambda: ids(whole_history(alice, room)) == ids(whole_history(bob, room)))
    for event_id in (asked, answered):
        ours, theirs = alice.event(event_id), bob.event(event_id)
        assert {**ours, "age": 0} == {**theirs, "age": 0}
        assert 0 <= theirs["age"] < 60_000


def test_many_messages_both_ways_at_once_come_whole_and_once(alice: Client, bob: Client, meet: Meet) -> None:
    """FED-2, FED-3, EVS-9."""
    room = meet(alice, bob)
    since = {client: client.present() for client in (alice, bob)}

    def talk(client: Client) -> list[str]:
        return [client.send(room, f"{client.user_id} {number}") for number in range(60)]

    with ThreadPoolExecutor(2) as threads:
        of_alice, of_bob = threads.map(talk, (alice, bob))
    last = alice.send(room, "the end")
    wait_for_event(alice, room, of_bob[-1])
    wait_for_event(bob, room, last)
    for client in (alice, bob):
        seen, end = client.events_until(since[client], last)
        seen += client.events(end)["chunk"]
        streamed = [event["event_id"] for event in seen if event["event_id"] != last]
        assert Counter(streamed).most_common(1)[0][1] == 1
        assert set(streamed) == {*of_alice, *of_bob}
        assert [event_id for event_id in streamed if event_id in of_alice] == of_alice
        assert [event_id for event_id in streamed if event_id in of_bob] == of_bob
    wait_until_agree(room, alice, bob)
    assert sorted(ids(whole_history(alice, room))) == sorted(ids(whole_history(bob, room)))


def test_largest_event_passes(alice: Client, bob: Client, meet: Meet) -> None:
    """FED-5, EVT-1."""
    room = meet(alice, bob)
    sizes = [60_000] * 40
    sent = [alice.send(room, "x" * size) for size in sizes]
    wait_for_event(bob, room, sent[-1])
    assert [len(text) for text in texts(whole_history(bob, room))] == sizes


def test_answers_come_after_what_they_answer(alice: Client, bob: Client, meet: Meet) -> None:
    """FED-6: in every client's stream and pages."""
    room = meet(alice, bob)
    start = {client: client.present() for client in (alice, bob)}
    conversation: list[str] = []
    for number in range(10):
        speaker, listener = (alice, bob) if number % 2 == 0 else (bob, alice)
        conversation.append(speaker.send(room, str(number)))
        wait_for_event(listener, room, conversation[-1])
    for client in (alice, bob):
        seen, _ = client.events_until(start[client], conversation[-1])
        assert ids(seen) == conversation
        assert ids(whole_history(client, room))[-10:] == conversation


# Going.


@each_version
def test_who_leaves_is_gone_everywhere_and_hears_nothing_more(
    alice: Client, bob: Client, meet: Meet, version: str
) -> None:
    """ROOM-8, EVS-2, SEC-11: nor does their server, if nobody else there is in the room."""
    room = meet(alice, bob, room_version=version)
    since = bob.present()
    bob.leave(room)
    wait_until("the leave to arrive", lambda: alice.members(room)[bob.user_id] == "leave")
    alice.send(room, f"they are gone, {room}")
    other = meet(alice, bob)
    wait_for_event(bob, other, alice.send(other, "in another room"))
    seen = bob.events(since)["chunk"]
    assert "they are gone" not in str(seen)
    assert room not in bob.synced_rooms()
    assert not databases.contains(bob.server.database, bob.server.data_dir, f"they are gone, {room}")


def test_last_member_of_a_server_comes_back_and_reads_what_was_said_meanwhile(
    alice: Client, bob: Client, meet: Meet
) -> None:
    """ROOM-6, FED-6, FED-10."""
    room = meet(alice, bob)
    bob.leave(room)
    wait_until("the leave to arrive", lambda: alice.members(room)[bob.user_id] == "leave")
    said = [alice.send(room, f"without him {number}") for number in range(5)]
    alice.set_state(room, "m.room.topic", {"topic": "changed"})
    bob.join(room)
    wait_until_agree(room, alice, bob)
    assert bob.state_content(room, "m.room.topic") == {"topic": "changed"}
    history = ids(whole_history(bob, room))
    assert [event_id for event_id in history if event_id in said] == said
    wait_for_event(bob, room, alice.send(room, "welcome back"))


@pytest.mark.parametrize("version", ["spec-2014", "11"])
def test_kicked_user_is_out_until_they_come_back(alice: Client, bob: Client, meet: Meet, version: str) -> None:
    """ROOM-7, MEM-3."""
    room = meet(alice, bob, room_version=version)
    since = bob.present()
    alice.kick(room, bob, "Out!")
    [kick] = bob.events(since, timeout=10_000)["chunk"]
    assert (kick["content"]["membership"], kick["user_id"]) == ("leave", alice.user_id)
    assert kick["content"]["reason"] == "Out!"
    assert room not in bob.synced_rooms()
    with forbidden():
        bob.send(room, "But!")
    bob.join(room)
    wait_until_agree(room, alice, bob)
    wait_for_event(alice, room, bob.send(room, "sorry"))


@pytest.mark.parametrize("version", ["spec-2014", "11"])
def test_banned_user_stays_out_until_they_are_unbanned(alice: Client, bob: Client, meet: Meet, version: str) -> None:
    """ROOM-7, MEM-3, SEC-6."""
    room = meet(alice, bob, room_version=version)
    since = bob.present()
    alice.ban(room, bob)
    [ban] = bob.events(since, timeout=10_000)["chunk"]
    assert ban["content"]["membership"] == "ban"
    with forbidden():
        bob.join(room)
    with forbidden():
        bob.send(room, "Let me in")
    assert alice.members(room)[bob.user_id] == "ban"
    alice.unban(room, bob)
    bob.join(room)
    wait_until_agree(room, alice, bob)


def test_operator_from_elsewhere_keeps_order(alice: Client, bob: Client, meet: Meet, unique: Unique) -> None:
    """ROOM-7, PERM-4, FED-8."""
    room = meet(alice, bob)
    levels = alice.state_content(room, "m.room.power_levels")
    alice.set_state(room, "m.room.power_levels", {**levels, bob.user_id: 50})
    wait_until_agree(room, alice, bob)
    mallory = Client(alice.server).register(unique("mallory"))
    mallory.join(room)
    wait_for_event(bob, room, mallory.send(room, "boo"))
    bob.ban(room, mallory)
    wait_until("the ban to arrive", lambda: alice.members(room)[mallory.user_id] == "ban")
    with forbidden():
        mallory.send(room, "boo")
    with forbidden():
        bob.kick(room, alice)


# Invites that come to nothing.


@each_version
def test_declined_invite_is_seen_by_who_invited(alice: Client, bob: Client, version: str) -> None:
    """FED-7, MEM-2."""
    room = alice.create_room(room_version=version, invite=[bob.user_id])
    wait_until("the invite", lambda: bob.synced_rooms().get(room))
    bob.leave(room)
    wait_until("the refusal", lambda: alice.members(room)[bob.user_id] == "leave")
    assert room not in bob.synced_rooms()
    with pytest.raises(ApiError) as error:
        bob.join(room)
    assert error.value.status in (403, 404)


@each_version
def test_withdrawn_invite_disappears(alice: Client, bob: Client, version: str) -> None:
    """FED-7, MEM-2: though his server is not in the room."""
    room = alice.create_room(room_version=version, invite=[bob.user_id])
    wait_until("the invite", lambda: bob.synced_rooms().get(room))
    since = bob.present()
    alice.kick(room, bob)
    [withdrawn] = bob.events(since, timeout=10_000)["chunk"]
    assert (withdrawn["content"]["membership"], withdrawn["user_id"]) == ("leave", alice.user_id)
    assert room not in bob.synced_rooms()
    with pytest.raises(ApiError) as error:
        bob.join(room)
    assert error.value.status in (403, 404)


def test_invite_to_a_server_that_cannot_be_reached_is_refused(
    three: Federation, alice: Client, bob: Client, private_room: str
) -> None:
    """FED-7, API-3: for then nobody knows whether it would arrive."""
    three.cut(three.servers[1])
    with pytest.raises(ApiError) as error:
        alice.invite(private_room, bob)
    assert error.value.status in (502, 503, 504)
    assert bob.user_id not in alice.members(private_room)
    three.heal()
    alice.invite(private_room, bob)
    bob.join(private_room)


def test_invite_to_a_user_who_does_not_exist_is_refused(alice: Client, bob: Client, private_room: str) -> None:
    """FED-7, MEM-2."""
    with pytest.raises(ApiError) as error:
        alice.invite(private_room, f"@nobody-at-all:{bob.server.name}")
    assert error.value.status in (403, 404)


# Taking back.


@each_version
def test_redaction_takes_the_data_out_of_the_other_database(
    alice: Client, bob: Client, meet: Meet, unique: Unique, version: str
) -> None:
    """RED-2, RED-1."""
    room = meet(alice, bob, room_version=version)
    offence = unique("offence")
    said = alice.send(room, offence)
    assert wait_for_event(bob, room, said)["content"]["body"] == offence
    server = bob.server
    assert databases.contains(server.database, server.data_dir, offence)
    redaction = alice.redact(room, said, "Sorry")
    shown = wait_until("the redaction", lambda: (event := bob.event(said)).get("redacted_because") and event)
    assert shown["content"] == {}
    assert shown["redacted_because"]["event_id"] == redaction
    assert not databases.contains(server.database, server.data_dir, offence)
    assert offence not in str(whole_history(bob, room))


def test_what_was_redacted_before_the_join_is_never_fetched(
    alice: Client, bob: Client, meet: Meet, unique: Unique
) -> None:
    """RED-2, FED-10."""
    offence = unique("offence")
    room = meet(alice)
    said = alice.send(room, offence)
    alice.send(room, "later")
    alice.redact(room, said)
    bob.join(room)
    shown = {event["event_id"]: event for event in whole_history(bob, room)}
    assert shown[said]["content"] == {}
    assert not databases.contains(bob.server.database, bob.server.data_dir, offence)


# Aliases.


def test_aliases_of_each_server_lead_to_the_room(alice: Client, bob: Client, meet: Meet, unique: Unique) -> None:
    """ROOM-3, ROOM-4, FED-4."""
    room = meet(alice, bob)
    alias = f"#{unique('bobs')}:{bob.server.name}"
    bob.call("PUT", f"/directory/room/{quote(alias)}", {"room_id": room})
    found = alice.call("GET", f"/directory/room/{quote(alias)}")
    assert found["room_id"] == room
    assert {alice.server.name, bob.server.name} <= set(found["servers"])
    wait_until_agree(room, alice, bob)
    assert alice.state_content(room, "m.room.aliases", bob.server.name) == {"aliases": [alias]}
    bob.call("DELETE", f"/directory/room/{quote(alias)}")
    with not_found():
        alice.call("GET", f"/directory/room/{quote(alias)}")
    wait_until_agree(room, alice, bob)
    assert alice.state_content(room, "m.room.aliases", bob.server.name) == {"aliases": []}


def test_alias_is_made_on_its_own_server_only(alice: Client, bob: Client, meet: Meet, unique: Unique) -> None:
    """ROOM-3."""
    room = meet(alice, bob)
    alias = f"#{unique('theirs')}:{alice.server.name}"
    with pytest.raises(ApiError) as error:
        bob.call("PUT", f"/directory/room/{quote(alias)}", {"room_id": room})
    assert 400 <= error.value.status < 500


# History from before the join.


@each_version
def test_history_from_before_the_join_is_fetched_page_by_page(
    alice: Client, bob: Client, unique: Unique, version: str
) -> None:
    """EVS-6, FED-10: without gap or repeat, to the creation of the room."""
    name = unique("old")
    room = alice.create_room(visibility="public", room_alias_name=name, room_version=version)
    for number in range(40):
        alice.send(room, str(number))
    bob.join(f"#{name}:{alice.server.name}")
    after = alice.send(room, "welcome")
    wait_for_event(bob, room, after)
    fetched = whole_history(bob, room, page=7)
    assert ids(fetched) == ids(whole_history(alice, room))
    assert fetched[0]["type"] == "m.room.create"
    assert texts(fetched) == [*map(str, range(40)), "welcome"]
    assert ids(whole_history(bob, room)) == ids(fetched), "the second time it is all there"


def test_long_history_is_fetched_and_walked_both_ways(alice: Client, bob: Client, room: str) -> None:
    """EVS-6, FED-10."""
    for number in range(250):
        alice.send(room, str(number))
    bob.join(room)
    assert texts(whole_history(bob, room)) == [*map(str, range(250))]
    forwards: list[Json] = []
    start = bob.messages(room, dir="b", limit=1000)["end"]
    page = bob.messages(room, dir="f", limit=90, from_=start)
    while page["chunk"]:
        forwards += page["chunk"]
        page = bob.messages(room, dir="f", limit=90, from_=page["end"])
    assert ids(forwards) == ids(whole_history(alice, room))


def test_paging_back_while_the_other_server_is_gone_ends_in_good_time(
    three: Federation, alice: Client, bob: Client, room: str
) -> None:
    """EVS-6, FED-10: it shows what there is, and the rest when the other is back."""
    said = [alice.send(room, str(number)) for number in range(30)]
    bob.join(room)
    three.cut(three.servers[0])
    here = bob.messages(room, dir="b", limit=100)
    assert bob.user_id in [event.get("state_key") for event in here["chunk"]]
    three.heal()
    history = wait_until(
        "the history", lambda: (found := ids(whole_history(bob, room))) and set(said) <= set(found) and found
    )
    assert [event_id for event_id in history if event_id in said] == said


# Silence, and catching up.


def test_server_that_was_stopped_catches_up_by_itself(
    three: Federation, alice: Client, bob: Client, meet: Meet
) -> None:
    """FED-3, SEC-4: all of it, in order, though nobody says anything more."""
    room = meet(alice, bob)
    since = bob.present()
    three.servers[1].terminate()
    said = [alice.send(room, str(number)) for number in range(120)]
    three.servers[1].start()
    seen, _ = bob.events_until(since, said[-1], seconds=60)
    assert [event["event_id"] for event in seen if event["type"] == "m.room.message"] == said


def test_what_waits_to_be_sent_outlives_its_server(three: Federation, alice: Client, bob: Client, meet: Meet) -> None:
    """FED-3: it was stored before it was acknowledged."""
    room = meet(alice, bob)
    since = bob.present()
    three.cut(three.servers[1])
    said = [alice.send(room, str(number)) for number in range(10)]
    three.servers[0].kill9()
    three.servers[0].start()
    three.heal()
    seen, _ = bob.events_until(since, said[-1], seconds=60)
    assert [event["event_id"] for event in seen if event["type"] == "m.room.message"] == said


@pytest.mark.parametrize("silently", [False, True], ids=["refused", "lost"])
def test_cut_line_is_made_up_for_when_it_is_healed(
    three: Federation, alice: Client, bob: Client, meet: Meet, silently: bool
) -> None:
    """SEC-4, FED-3: both ways, and nothing comes twice."""
    room = meet(alice, bob)
    since = {client: client.present() for client in (alice, bob)}
    three.part([three.servers[0]], [three.servers[1]], silently=silently)
    of_alice = [alice.send(room, f"a{number}") for number in range(5)]
    of_bob = [bob.send(room, f"b{number}") for number in range(5)]
    assert not set(of_alice) & set(ids(bob.history(room)))
    three.heal()
    for client, last in ((alice, of_bob[-1]), (bob, of_alice[-1])):
        seen, _ = client.events_until(since[client], last, seconds=60)
        messages = [event["event_id"] for event in seen if event["type"] == "m.room.message"]
        assert sorted(messages) == sorted([*of_alice, *of_bob])
    assert state_of(alice, room) == state_of(bob, room)
    after = alice.send(room, "together again")
    wait_for_event(bob, room, after)


def test_room_goes_on_when_its_creator_has_left(alice: Client, bob: Client, meet: Meet, unique: Unique) -> None:
    """ROOM-6, ROOM-8: it belongs to no server."""
    room = meet(alice, bob)
    alias = f"#{unique('bobs')}:{bob.server.name}"
    bob.call("PUT", f"/directory/room/{quote(alias)}", {"room_id": room})
    alice.leave(room)
    wait_until("the leave to arrive", lambda: bob.members(room)[alice.user_id] == "leave")
    said = bob.send(room, "Anybody?")
    alison = Client(alice.server).register(unique("alison"))
    assert alison.join(alias) == room
    assert said in ids(whole_history(alison, room))
    wait_until_agree(room, alison, bob)


def test_keys_may_be_rotated_at_any_time(server_a: HomeServer, alice: Client, bob: Client, meet: Meet) -> None:
    """FED-9: what was signed with the old key stays good, what is signed with the new one is believed."""
    room = meet(alice, bob)
    before = alice.send(room, "with the old key")
    wait_for_event(bob, room, before)
    server_a.terminate()
    rotated = server_a.command("rotate-key")
    assert rotated.returncode == 0, rotated.stderr
    server_a.start()
    after = alice.send(room, "with the new key")
    wait_for_event(bob, room, after)
    wait_for_event(alice, room, bob.send(room, "good"))
    wait_until_agree(room, alice, bob)
