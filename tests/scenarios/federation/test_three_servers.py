"""A room on three servers: alice's, who makes it, bob's and carol's."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from synapse_like.handlers.missing_events import MOST_EVENTS
from tests.scenarios.conftest import Unique
from tests.scenarios.federation.conftest import Meet, each_version
from tests.support import databases
from tests.support.client import Client, forbidden, ids, quote, texts
from tests.support.federation import Federation, wait_for_event, wait_until_agree, whole_history
from tests.support.processes import wait_until
from tests.support.server import HomeServer


@each_version
def test_everybody_hears_everybody_once(alice: Client, bob: Client, carol: Client, meet: Meet, version: str) -> None:
    """FED-2, FED-3: an event goes from its server to each of the others."""
    room = meet(alice, bob, carol, room_version=version)
    wait_until_agree(room, alice, bob, carol)
    people = (alice, bob, carol)
    since = {client: client.present() for client in people}
    said = [client.send(room, f"{client.user_id} {number}") for number in range(5) for client in people]
    for client in people:
        for event_id in said:
            wait_for_event(client, room, event_id)
    wait_until_agree(room, *people)
    for client in people:
        streamed = ids(client.events(since[client])["chunk"])
        assert Counter(streamed) == Counter(said)
    histories = [Counter(ids(whole_history(client, room))) for client in people]
    assert histories[0] == histories[1] == histories[2]


def test_slow_server_delays_no_other(
    three: Federation, server_c: HomeServer, alice: Client, bob: Client, carol: Client, meet: Meet
) -> None:
    """FED-3."""
    room = meet(alice, bob, carol)
    since = bob.present()
    three.slow(server_c, 1.5)
    begun = time.monotonic()
    said = [alice.send(room, str(number)) for number in range(5)]
    bob.events_until(since, said[-1], seconds=5)
    assert time.monotonic() - begun < 1.5
    assert said[-1] not in ids(carol.history(room))
    wait_for_event(carol, room, said[-1])
    assert [event_id for event_id in ids(carol.history(room)) if event_id in said] == said


def test_answer_waits_for_the_question_that_takes_longer(
    three: Federation, server_a: HomeServer, server_c: HomeServer, alice: Client, bob: Client, carol: Client, meet: Meet
) -> None:
    """FED-6: what is missing is fetched from whoever has it, and shown in its order."""
    room = meet(alice, bob, carol)
    since = carol.present()
    three.part([server_a], [server_c])
    questions = [alice.send(room, f"question {number}") for number in range(3)]
    wait_for_event(bob, room, questions[-1])
    answer = bob.send(room, "answer")
    seen, end = carol.events_until(since, answer)
    assert ids(seen) == [*questions, answer]
    three.heal()
    after = alice.send(room, "so there")
    seen, _ = carol.events_until(end, after, seconds=60)
    assert ids(seen) == [after], "what the slow line brings at last was there already"


def test_long_gap_is_filled_before_its_end_is_shown(
    three: Federation, server_a: HomeServer, server_c: HomeServer, alice: Client, bob: Client, carol: Client, meet: Meet
) -> None:
    """FED-6: everything in its order, in the stream, too."""
    room = meet(alice, bob, carol)
    since = carol.present()
    three.part([server_a], [server_c])
    said = [alice.send(room, str(number)) for number in range(300)]
    wait_for_event(bob, room, said[-1])
    answer = bob.send(room, "phew")
    seen, _ = carol.events_until(since, answer, seconds=30)
    assert ids(seen) == [*said, answer]


def test_gap_that_is_too_long_is_bridged_and_filled_later(
    three: Federation, server_a: HomeServer, server_c: HomeServer, alice: Client, bob: Client, carol: Client, meet: Meet
) -> None:
    """FED-6, FED-10: what is more than is worth asking for at once is told late, and stands where it belongs."""
    room = meet(alice, bob, carol)
    since = carol.present()
    three.part([server_a], [server_c])
    said = [alice.send(room, str(number)) for number in range(MOST_EVENTS + 100)]
    alice.set_state(room, "m.room.topic", {"topic": "far on"})
    wait_for_event(bob, room, said[-1], seconds=60)
    wait_until_agree(room, alice, bob)
    answer = bob.send(room, "phew")
    seen, since = carol.events_until(since, answer, seconds=60)
    assert carol.state_content(room, "m.room.topic") == {"topic": "far on"}
    told = [event_id for event_id in ids(seen) if event_id in said]

    def all_is_told() -> bool:
        nonlocal since
        news = carol.events(since)
        since = news["end"]
        told.extend(ids(news["chunk"]))
        return len(told) >= len(said)

    wait_until("carol to be told of all of it", all_is_told, seconds=60)
    assert Counter(told) == Counter(said)
    assert [event_id for event_id in ids(whole_history(carol, room)) if event_id in {*said, answer}] == [*said, answer]
    three.heal()
    after = alice.send(room, "so there")
    seen, _ = carol.events_until(since, after, seconds=60)
    assert ids(seen) == [after], "what the slow line brings at last was there already"


def test_room_is_joined_through_whoever_is_there(
    three: Federation,
    server_a: HomeServer,
    alice: Client,
    bob: Client,
    carol: Client,
    meet: Meet,
    unique: Unique,
) -> None:
    """ROOM-6: the alias names several servers, and the first of them is down."""
    room = meet(alice, bob)
    said = alice.send(room, "before I go")
    wait_for_event(bob, room, said)
    alias = f"#{unique('bobs')}:{bob.server.name}"
    bob.call("PUT", f"/directory/room/{quote(alias)}", {"room_id": room})
    server_a.terminate()
    assert carol.join(alias) == room
    wait_until_agree(room, bob, carol)
    assert said in ids(whole_history(carol, room))
    meanwhile = carol.send(room, "she is gone")
    wait_for_event(bob, room, meanwhile)
    server_a.start()
    wait_for_event(alice, room, meanwhile, seconds=60)
    wait_until_agree(room, alice, bob, carol)


@each_version
def test_guest_invites_a_guest(alice: Client, bob: Client, carol: Client, version: str) -> None:
    """FED-7: the invite is told to the room and to the one who is invited."""
    room = alice.create_room(room_version=version, invite=[bob.user_id])
    bob.join(room)
    bob.invite(room, carol)
    wait_until("the invite", lambda: alice.members(room).get(carol.user_id) == "invite")
    carol.join(room)
    wait_until_agree(room, alice, bob, carol)
    wait_for_event(alice, room, carol.send(room, "hello"))


def test_invited_user_joins_through_another_member_when_the_inviter_is_down(
    three: Federation, server_b: HomeServer, alice: Client, bob: Client, carol: Client
) -> None:
    """ROOM-6, FED-7."""
    room = alice.create_room(invite=[bob.user_id])
    bob.join(room)
    bob.invite(room, carol)
    wait_until("the invite", lambda: carol.synced_rooms().get(room))
    wait_until("the invite", lambda: alice.members(room).get(carol.user_id) == "invite")
    server_b.terminate()
    carol.join(room)
    wait_until_agree(room, alice, carol)
    server_b.start()
    wait_until_agree(room, alice, bob, carol, seconds=60)


@each_version
def test_redaction_reaches_all(
    alice: Client, bob: Client, carol: Client, meet: Meet, unique: Unique, version: str
) -> None:
    """RED-1, RED-2: also where the redaction comes before what it redacts."""
    room = meet(alice, bob, carol, room_version=version)
    offence = unique("offence")
    said = bob.send(room, offence)
    for client in (alice, carol):
        wait_for_event(client, room, said)
    alice.redact(room, said)
    for client in (bob, carol):
        wait_until("the redaction", lambda client=client: client.event(said)["content"] == {})
        assert not databases.contains(client.server.database, client.server.data_dir, offence)


def test_redaction_that_comes_first_is_kept_in_mind(
    three: Federation,
    server_b: HomeServer,
    server_c: HomeServer,
    alice: Client,
    bob: Client,
    carol: Client,
    meet: Meet,
    unique: Unique,
) -> None:
    """RED-2, FED-6: nobody ever sees what it takes away."""
    room = meet(alice, bob, carol)
    offence = unique("offence")
    since = carol.present()
    three.part([server_b], [server_c])
    said = bob.send(room, offence)
    wait_for_event(alice, room, said)
    redaction = alice.redact(room, said)
    seen, end = carol.events_until(since, redaction)
    three.heal()
    last = bob.send(room, "I see")
    seen += carol.events_until(end, last, seconds=60)[0]
    assert carol.event(said)["content"] == {}
    assert offence not in str(whole_history(carol, room))
    assert not databases.contains(carol.server.database, carol.server.data_dir, offence)


def test_server_outside_of_a_room_learns_nothing_of_it(
    alice: Client, bob: Client, carol: Client, meet: Meet, unique: Unique
) -> None:
    """SEC-11: though its users talk with the others elsewhere."""
    secret = unique("secret")
    private = alice.create_room(invite=[bob.user_id], name=secret)
    bob.join(private)
    wait_until_agree(private, alice, bob)
    wait_for_event(bob, private, alice.send(private, secret))
    everybody = meet(alice, bob, carol)
    wait_for_event(carol, everybody, bob.send(everybody, "hello"))
    wait_for_event(carol, everybody, alice.send(everybody, "hello"))
    for thing in (secret, private):
        assert not databases.contains(carol.server.database, carol.server.data_dir, thing)
    with forbidden():
        carol.join(private)
    with pytest.raises(AssertionError, match="40"):
        carol.messages(private)


@pytest.mark.parametrize("version", ["spec-2014", "11"])
def test_banned_from_one_server_is_banned_on_all(
    alice: Client, bob: Client, carol: Client, meet: Meet, version: str
) -> None:
    """MEM-3, SEC-6: whichever server they ask to let them in."""
    room = meet(alice, bob, carol, room_version=version)
    alice.ban(room, carol)
    for client in (bob, carol):
        wait_until("the ban", lambda client=client: room not in carol.synced_rooms())
    wait_until_agree(room, alice, bob)
    with forbidden():
        carol.join(room)
    with forbidden():
        carol.send(room, "still here")
    said = bob.send(room, "peace")
    wait_for_event(alice, room, said)
    assert "still here" not in texts(whole_history(alice, room))


@pytest.mark.parametrize("version", ["spec-2014", "11"])
def test_banned_user_does_not_come_back_through_a_server_that_has_not_heard_of_it(
    three: Federation, alice: Client, bob: Client, carol: Client, meet: Meet, version: str
) -> None:
    """MEM-3, SEC-6: though that server would let them in."""
    room = meet(alice, bob, carol, room_version=version)
    alias = f"#{room[1:9].lower()}:{bob.server.name}"
    bob.call("PUT", f"/directory/room/{quote(alias)}", {"room_id": room})
    wait_until_agree(room, alice, bob, carol)
    three.part([alice.server], [bob.server])
    alice.ban(room, carol)
    wait_until("carol to be out", lambda: room not in carol.synced_rooms())
    with forbidden():
        carol.join(alias)
    assert bob.members(room)[carol.user_id] == "join", "bob's server has heard of it after all"
    three.heal()
    wait_until_agree(room, alice, bob, seconds=60)
    assert alice.members(room)[carol.user_id] == bob.members(room)[carol.user_id] == "ban"
    alice.unban(room, carol)
    wait_until_agree(room, alice, bob)
    assert carol.join(alias) == room
    wait_until_agree(room, alice, bob, carol)


@pytest.mark.parametrize("version", ["spec-2014", "11"])
def test_who_comes_back_at_once_comes_back_after_they_left(
    three: Federation, server_c: HomeServer, alice: Client, bob: Client, carol: Client, meet: Meet, version: str
) -> None:
    """FED-8, ROOM-8: on all servers, though the one that lets them in again has not heard yet that they left."""
    room = meet(alice, bob, carol, room_version=version)
    alias = f"#{room[1:9].lower()}:{bob.server.name}"
    bob.call("PUT", f"/directory/room/{quote(alias)}", {"room_id": room})
    wait_until_agree(room, alice, bob, carol)
    three.cut(server_c)
    carol.leave(room)
    three.heal()
    assert carol.join(alias) == room
    wait_until_agree(room, alice, bob, carol)
    assert bob.state_event(room, "m.room.member", carol.user_id)["prev_content"]["membership"] == "leave"
    wait_for_event(alice, room, carol.send(room, "I am back"))


@pytest.mark.parametrize("version", ["spec-2014", "11"])
def test_ban_reaches_a_server_that_has_missed_what_was_before_it(
    three: Federation, alice: Client, bob: Client, carol: Client, meet: Meet, version: str
) -> None:
    """FED-6, SEC-6: by then it is out of the room, and is told all the same how it came to that."""
    room = meet(alice, bob, carol, room_version=version)
    three.part([carol.server], [alice.server, bob.server])
    for number in range(3):
        wait_for_event(alice, room, bob.send(room, f"bob {number}"))
        wait_for_event(bob, room, alice.send(room, f"alice {number}"))
    alice.ban(room, carol)
    alice.send(room, "she must not hear this")
    three.heal()
    three.part([carol.server], [bob.server])
    wait_until("carol to be out", lambda: room not in carol.synced_rooms())
    assert not databases.contains(carol.server.database, carol.server.data_dir, "she must not hear this")


def test_everyone_but_one_leaves_and_returns(alice: Client, bob: Client, carol: Client, meet: Meet) -> None:
    """ROOM-6, ROOM-8, FED-6."""
    room = meet(alice, bob, carol)
    for client in (alice, bob):
        client.leave(room)
    wait_until("both to be gone", lambda: set(carol.members(room).values()) == {"join", "leave"})
    wait_until(
        "both to be gone",
        lambda: [carol.members(room)[client.user_id] for client in (alice, bob)] == ["leave", "leave"],
    )
    said = carol.send(room, "Echo?")
    dora_alias = f"#{room[1:9].lower()}-again:{carol.server.name}"
    carol.call("PUT", f"/directory/room/{quote(dora_alias)}", {"room_id": room})
    for client in (alice, bob):
        client.join(dora_alias)
    wait_until_agree(room, alice, bob, carol)
    for client in (alice, bob):
        assert said in ids(whole_history(client, room))
        wait_for_event(client, room, said)


def test_silence_of_one_server_is_made_up_for_without_the_others(
    three: Federation, server_b: HomeServer, alice: Client, bob: Client, carol: Client, meet: Meet
) -> None:
    """FED-3, SEC-4: the one that was away hears from all who spoke, though they are silent by now."""
    room = meet(alice, bob, carol)
    server_b.kill9()
    said = []
    for number in range(10):
        for client, other in ((alice, carol), (carol, alice)):
            said.append(client.send(room, f"{client.user_id} {number}"))
            wait_for_event(other, room, said[-1])
    server_b.start()
    for event_id in (said[-1], said[-2]):
        wait_for_event(bob, room, event_id, seconds=60)
    assert [event_id for event_id in ids(whole_history(bob, room)) if event_id in said] == said
