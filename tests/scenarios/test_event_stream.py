"""News as they come: the long poll, who sees what in it, and what an event looks like."""

from __future__ import annotations

import contextlib
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.scenarios.conftest import FreshServer, People, any_process, every_room_version, of_2014
from tests.support.client import ApiError, Client, Json, Pipeline, ids, not_found, quote, refused, texts
from tests.support.server import HomeServer

pytestmark = every_room_version

TEXT = {"msgtype": "m.text", "body": "hello"}


# The long poll.


@any_process
def test_what_is_new_already_is_answered_at_once(alice: Client, bob: Client, room: str) -> None:
    """EVS-1."""
    bob.join(room)
    since = bob.present()
    sent = [alice.send(room, text) for text in ("one", "two", "three")]
    page = bob.poll(since, timeout=60_000).json(within=10)
    assert page["start"] == since
    # What another process has taken just now may come with the next answer.
    rest = bob.events(page["end"])
    assert page["chunk"]
    assert ids(page["chunk"] + rest["chunk"]) == sent
    assert bob.events(rest["end"])["chunk"] == []


@any_process
def test_waiting_poll_is_woken_by_what_happens(alice: Client, bob: Client, room: str) -> None:
    """EVS-1."""
    bob.join(room)
    poll = bob.poll(bob.present(), timeout=60_000)
    bob.messages(room)
    assert poll.is_waiting()
    event_id = alice.send(room, "wake up")
    page = poll.json(within=10)
    assert ids(page["chunk"]) == [event_id]
    poll = bob.poll(page["end"], timeout=60_000)
    next_id = alice.send(room, "go on")
    assert ids(poll.json(within=10)["chunk"]) == [next_id]


def test_poll_in_which_nothing_happens_ends_at_its_timeout(alice: Client, room: str) -> None:
    """EVS-1."""
    since = alice.present()
    began = time.monotonic()
    page = alice.poll(since, timeout=400).json(within=20)
    assert 0.4 <= time.monotonic() - began < 10
    assert page["chunk"] == []
    event_id = alice.send(room, "later")
    assert ids(alice.events(page["end"])["chunk"]) == [event_id]


def test_poll_without_waiting_is_answered_at_once(alice: Client) -> None:
    """EVS-1."""
    since = alice.present()
    began = time.monotonic()
    assert alice.events(since, timeout=0)["chunk"] == []
    assert time.monotonic() - began < 5


def test_poll_without_a_token_starts_at_the_present(alice: Client, bob: Client, room: str) -> None:
    """EVS-9."""
    bob.join(room)
    alice.send(room, "long ago")
    assert bob.events(timeout=0)["chunk"] == []
    poll = bob.poll(timeout=60_000)
    bob.messages(room)
    assert poll.is_waiting()
    event_id = alice.send(room, "now")
    assert ids(poll.json(within=10)["chunk"]) == [event_id]


def test_poll_sleeps_through_what_is_not_for_it(alice: Client, bob: Client, room: str) -> None:
    """EVS-1, EVS-2."""
    bob.join(room)
    other_room = alice.create_room()
    poll = bob.poll(bob.present(), timeout=60_000)
    alice.send(other_room, "not for bob")
    alice.send(other_room, "nor this")
    bob.messages(room)
    assert poll.is_waiting()
    event_id = alice.send(room, "for bob")
    assert ids(poll.json(within=10)["chunk"]) == [event_id]


def test_all_of_a_users_clients_are_told(alice: Client, bob: Client, room: str) -> None:
    """EVS-1."""
    bob.join(room)
    phone = Client(bob.server).login(bob.user_id)
    polls = [client.poll(client.present(), timeout=60_000) for client in (bob, phone, alice)]
    event_id = alice.send(room, "hello everyone")
    assert [ids(poll.json(within=10)["chunk"]) for poll in polls] == [[event_id]] * 3


@any_process
def test_many_waiting_polls_are_all_woken(alice: Client, people: People, room: str) -> None:
    """EVS-1."""
    listeners = [people("listener") for _ in range(25)]
    for listener in listeners:
        listener.join(room)
    polls = [listener.poll(listener.present(), timeout=60_000) for listener in listeners]
    event_id = alice.send(room, "hello everyone")
    assert [ids(poll.json(within=20)["chunk"]) for poll in polls] == [[event_id]] * 25


def test_clients_that_go_away_while_they_wait_are_forgotten(alice: Client, bob: Client, room: str) -> None:
    """EVS-1, SEC-1."""
    bob.join(room)
    since = bob.present()
    for _ in range(100):
        bob.poll(since, timeout=60_000).abandon()
    event_id = alice.send(room, "hello")
    assert ids(bob.poll(since).json(within=10)["chunk"]) == [event_id]


@of_2014
@pytest.mark.parametrize("how", [HomeServer.restart, lambda server: (server.kill9(), server.start())])
def test_stream_goes_on_after_a_restart(fresh_server: FreshServer, how: Any) -> None:
    """EVS-1: where it was left, without gap or repeat."""
    server = fresh_server()
    alice, bob = Client(server).register("alice"), Client(server).register("bob")
    room = alice.create_room(visibility="public")
    bob.join(room)
    before = bob.present()
    _, since = bob.events_until(before, alice.send(room, "seen"))
    unseen = alice.send(room, "not yet seen")
    how(server)
    later = alice.send(room, "after the restart")
    assert ids(bob.events(since)["chunk"]) == [unseen, later]


# Who sees what.


def test_stranger_sees_nothing(alice: Client, bob: Client, room: str) -> None:
    """EVS-2: not even of a public room."""
    since = bob.present()
    alice.send(room, "among ourselves")
    alice.set_state(room, "m.room.topic", {"topic": "secret"})
    assert bob.events(since)["chunk"] == []


def _memberships(events: list[Json], client: Client) -> list[str]:
    """What a user saw become of themself."""
    own = [event for event in events if (event["type"], event.get("state_key")) == ("m.room.member", client.user_id)]
    return [event["content"]["membership"] for event in own]


def test_invited_user_sees_the_invitation_and_nothing_else(
    alice: Client, bob: Client, carol: Client, private_room: str
) -> None:
    """EVS-2."""
    since = bob.present()
    alice.send(private_room, "before")
    alice.invite(private_room, bob)
    alice.send(private_room, "after")
    alice.invite(private_room, carol)
    [event] = bob.events(since)["chunk"]
    assert (event["type"], event["state_key"]) == ("m.room.member", bob.user_id)
    assert (event["content"]["membership"], event["user_id"]) == ("invite", alice.user_id)


@any_process
def test_invitation_wakes_the_invited(alice: Client, bob: Client) -> None:
    """EVS-1, EVS-2: also one that comes with a new room."""
    since = bob.present()
    for options in ({}, {"visibility": "public"}):
        poll = bob.poll(since, timeout=60_000)
        room = alice.create_room(invite=[bob.user_id], **options)
        page = poll.json(within=10)
        [event] = page["chunk"]
        assert (event["room_id"], event["state_key"]) == (room, bob.user_id)
        since = page["end"]


def test_member_sees_everything_from_the_join_on(alice: Client, bob: Client, room: str) -> None:
    """EVS-2."""
    since = bob.present()
    alice.send(room, "before")
    bob.join(room)
    after = alice.send(room, "after")
    own = bob.send(room, "my own")
    events = bob.events(since)["chunk"]
    assert _memberships(events, bob) == ["join"]
    assert ids(events)[1:] == [after, own]


@any_process
@pytest.mark.parametrize(("end", "membership"), [("leave", "leave"), ("kick", "leave"), ("ban", "ban")])
def test_who_goes_sees_their_going_and_nothing_after_it(
    alice: Client, bob: Client, room: str, end: str, membership: str
) -> None:
    """EVS-2: what was said while they were there is theirs, though they ask later."""
    bob.join(room)
    since = bob.present()
    poll = bob.poll(since, timeout=60_000)
    before = alice.send(room, "before")
    assert ids(poll.json(within=10)["chunk"]) == [before]
    if end == "leave":
        bob.leave(room)
    else:
        getattr(alice, end)(room, bob, "because")
    alice.send(room, "after")
    alice.set_state(room, "m.room.topic", {"topic": "after"})
    events = bob.events(since)["chunk"]
    assert ids(events)[:1] == [before]
    assert _memberships(events, bob) == [membership]
    assert len(events) == 2
    assert bob.events(bob.present())["chunk"] == []


def test_ending_wakes_the_one_it_is_about(alice: Client, bob: Client, room: str) -> None:
    """EVS-1, EVS-2: kicked or banned, one is told at once."""
    bob.join(room)
    poll = bob.poll(bob.present(), timeout=60_000)
    alice.kick(room, bob)
    page = poll.json(within=10)
    assert _memberships(page["chunk"], bob) == ["leave"]
    poll = bob.poll(page["end"], timeout=60_000)
    alice.ban(room, bob)
    assert _memberships(poll.json(within=10)["chunk"], bob) == ["ban"]


def test_who_comes_back_does_not_see_in_the_stream_what_was_missed(alice: Client, bob: Client, room: str) -> None:
    """EVS-2."""
    bob.join(room)
    since = bob.present()
    first = alice.send(room, "first stay")
    bob.leave(room)
    alice.send(room, "absent")
    bob.join(room)
    second = alice.send(room, "second stay")
    alice.ban(room, bob)
    alice.send(room, "absent again")
    alice.unban(room, bob)
    alice.send(room, "still absent")
    bob.join(room)
    third = alice.send(room, "third stay")
    events = bob.events(since)["chunk"]
    assert texts(events) == ["first stay", "second stay", "third stay"]
    assert _memberships(events, bob) == ["leave", "join", "ban", "leave", "join"]
    assert [event_id for event_id in ids(events) if event_id in (first, second, third)] == [first, second, third]


def test_declined_invitation_is_seen_by_its_own_user_only_as_that(
    alice: Client, bob: Client, private_room: str
) -> None:
    """EVS-2."""
    since = bob.present()
    alice.invite(private_room, bob)
    bob.leave(private_room)
    alice.send(private_room, "what a pity")
    events = bob.events(since)["chunk"]
    assert _memberships(events, bob) == ["invite", "leave"]
    assert len(events) == 2


def test_members_see_others_come_and_go(alice: Client, bob: Client, carol: Client, room: str) -> None:
    """EVS-2."""
    since = alice.present()
    bob.join(room)
    alice.invite(room, carol)
    carol.leave(room)
    bob.leave(room)
    events = alice.events(since)["chunk"]
    assert _memberships(events, bob) == ["join", "leave"]
    assert _memberships(events, carol) == ["invite", "leave"]


# Once, and in order.


def _say_much(client: Client, room: str, count: int) -> list[str]:
    mine = client.another_connection()
    name = client.user_id.split(":")[0]
    return [mine.send_event(room, "m.room.message", {**TEXT, "body": f"{name} {n}"}, f"much-{n}") for n in range(count)]


@any_process
def test_concurrent_senders_are_heard_once_and_by_all_in_one_order(
    alice: Client, bob: Client, carol: Client, people: People, room: str
) -> None:
    """EVS-9, EVS-1."""
    listeners = [bob, people("listener")]
    speakers = [alice, carol, bob]
    for client in {bob, carol, *listeners}:
        client.join(room)
    since = {listener: listener.present() for listener in listeners}
    heard: dict[Client, list[str]] = {listener: [] for listener in listeners}
    with ThreadPoolExecutor(len(speakers)) as threads:
        saying = [threads.submit(_say_much, speaker, room, 30) for speaker in speakers]
        deadline = time.monotonic() + 60
        while any(len(so_far) < 90 for so_far in heard.values()):
            assert time.monotonic() < deadline, "not everything was heard"
            for listener, so_far in heard.items():
                page = listener.events(since[listener], timeout=50)
                so_far += ids(page["chunk"])
                since[listener] = page["end"]
        sent = [task.result() for task in saying]
    orders = list(heard.values())
    assert sorted(orders[0]) == sorted(event_id for mine in sent for event_id in mine)
    assert orders[0] == orders[1]
    for mine in sent:
        assert [event_id for event_id in orders[0] if event_id in set(mine)] == mine
    assert ids(alice.history(room))[-90:] == orders[0]
    assert all(listener.events(since[listener])["chunk"] == [] for listener in listeners)


@any_process
def test_nothing_is_missed_or_repeated_between_initial_sync_and_the_stream(
    alice: Client, bob: Client, carol: Client, room: str
) -> None:
    """EVS-4, EVS-9: while people go on talking."""
    bob.join(room)
    carol.join(room)
    with ThreadPoolExecutor(2) as threads:
        saying = [threads.submit(_say_much, speaker, room, 40) for speaker in (alice, bob)]
        syncs = []
        for _ in range(20):
            syncs.append(carol.initial_sync(limit=1000))
            carol.events(syncs[-1]["end"])
        sent = {event_id for task in saying for event_id in task.result()}
    last = alice.send(room, "the end")
    for sync in syncs:
        [synced] = sync["rooms"]
        followed, _ = carol.events_until(sync["end"], last)
        all_seen = ids(synced["messages"]["chunk"]) + ids(followed)
        assert len(all_seen) == len(set(all_seen))
        assert sent <= set(all_seen)


class Walk:
    """Somebody who comes, talks and goes at random, and listens all the while."""

    def __init__(self, client: Client, rooms: list[str], seed: int) -> None:
        self.client = client
        self.began = self._since = client.present()
        self.heard: list[str] = []
        self._rooms = rooms
        self._dice = random.Random(seed)

    def wander(self, steps: int) -> None:
        """Do some of this and that; what the rules of the room forbid just now is not done."""
        for _ in range(steps):
            room = self._dice.choice(self._rooms)
            step = self._dice.choice((self.client.join, self.client.leave, self._talk, self._talk, self._listen))
            with contextlib.suppress(ApiError):
                step(room)

    def listen_to_the_end(self) -> None:
        """Listen until nothing new comes."""
        self.heard += ids(_everything_since(self.client, self._since))

    def _talk(self, room: str) -> None:
        self.client.send(room, "hello")

    def _listen(self, _: str) -> None:
        page = self.client.events(self._since)
        self.heard += ids(page["chunk"])
        self._since = page["end"]


def _everything_since(client: Client, since: str) -> list[Json]:
    events: list[Json] = []
    while True:
        page = client.events(since)
        if not page["chunk"]:
            return events
        events += page["chunk"]
        since = page["end"]


def _ought_to_see(client: Client, history: list[Json]) -> list[str]:
    """The events of a room that a user should have seen, by the rule: what came while they were in, and their own."""
    seen, joined = [], False
    for event in history:
        own = (event["type"], event.get("state_key")) == ("m.room.member", client.user_id)
        if joined or own:
            seen.append(event["event_id"])
        if own:
            joined = event["membership"] == "join"
    return seen


@any_process
def test_everybody_sees_just_what_they_should_whatever_goes_on(alice: Client, people: People) -> None:
    """EVS-2, EVS-9: live as in hindsight, in the order of the rooms."""
    rooms = [alice.create_room(visibility="public") for _ in range(2)]
    walks = [Walk(people("walker"), rooms, seed) for seed in range(5)]
    with ThreadPoolExecutor(len(walks)) as threads:
        list(threads.map(lambda walk: walk.wander(150), walks))
    histories = [alice.history(room) for room in rooms]
    assert all(len(history) > 100 for history in histories)
    for walk in walks:
        walk.listen_to_the_end()
        assert walk.heard == ids(_everything_since(walk.client, walk.began)), "live as in hindsight"
        for history in histories:
            ought_to_see = _ought_to_see(walk.client, history)
            assert [event_id for event_id in walk.heard if event_id in set(ids(history))] == ought_to_see


def test_backlog_of_any_length_arrives_whole(alice: Client, bob: Client, room: str) -> None:
    """EVS-1, EVS-9: in as many pages as it takes."""
    bob.join(room)
    since = bob.present()
    sent = _say_much(alice, room, 620)
    events, _ = bob.events_until(since, sent[-1])
    assert ids(events) == sent


@any_process
def test_one_token_may_be_used_again(alice: Client, bob: Client, room: str) -> None:
    """EVS-1: by a client whose answer was lost on the way."""
    bob.join(room)
    since = bob.present()
    event_id = alice.send(room, "hello")
    assert ids(bob.events(since)["chunk"]) == ids(bob.events(since)["chunk"]) == [event_id]


# Many requests on one connection.


@any_process
def test_long_poll_does_not_hold_up_what_is_pipelined_behind_it(
    server: HomeServer, alice: Client, bob: Client, room: str
) -> None:
    """EVS-9: the second request even wakes the first; the answers keep the order of the requests."""
    bob.join(room)
    with Pipeline(server) as pipeline:
        pipeline.send(alice, "GET", "/events", timeout=60_000, **{"from": alice.present()})
        pipeline.send(alice, "PUT", f"/rooms/{quote(room)}/send/m.room.message/piped", TEXT)
        pipeline.send(alice, "GET", f"/rooms/{quote(room)}/state/m.room.join_rules")
        pipeline.send(alice, "GET", "/nowhere")
        answers = [pipeline.answer() for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 404]
    assert ids(answers[0].json["chunk"]) == [answers[1].json["event_id"]]
    assert answers[2].json == {"join_rule": "public"}


@any_process
def test_what_is_pipelined_behind_a_long_poll_is_done_at_once(
    server: HomeServer, alice: Client, bob: Client, room: str
) -> None:
    """EVS-9: seen from another connection, while the first still waits for something else."""
    with Pipeline(server) as pipeline:
        pipeline.send(bob, "GET", "/events", timeout=60_000, **{"from": bob.present()})
        since = alice.present()
        poll = alice.poll(since, timeout=60_000)
        for number in range(3):
            pipeline.send(alice, "PUT", f"/rooms/{quote(room)}/send/m.room.message/{number}", TEXT)
        assert poll.json(within=10)["chunk"]
        alice.invite(room, bob)
        first, *others = [pipeline.answer() for _ in range(4)]
    assert _memberships(first.json["chunk"], bob) == ["invite"]
    assert ids(alice.history(room))[-4:-1] == [answer.json["event_id"] for answer in others]


def test_long_pipeline_is_answered_in_order(server: HomeServer, alice: Client, room: str) -> None:
    """EVS-9."""
    with Pipeline(server) as pipeline:
        for number in range(40):
            pipeline.send(alice, "PUT", f"/rooms/{quote(room)}/state/org.example/{number}", {"number": number})
            pipeline.send(alice, "GET", "/pushrules/")
        answers = [pipeline.answer() for _ in range(80)]
    assert [answer.status for answer in answers] == [200] * 80
    written = [answer.json["event_id"] for answer in answers[::2]]
    assert [alice.event(event_id)["content"]["number"] for event_id in written] == list(range(40))


# The form of an event.


def _assert_times(event: Json) -> None:
    now = time.time() * 1000
    assert isinstance(event["origin_server_ts"], int)
    assert abs(event["origin_server_ts"] - now) < 60_000
    assert event["ts"] == event["origin_server_ts"]
    assert isinstance(event["age"], int)
    assert 0 <= event["age"] < 60_000


def test_message_has_its_shape_wherever_it_is_read(alice: Client, bob: Client, room: str) -> None:
    """EVS-8."""
    bob.join(room)
    since = bob.present()
    event_id = alice.send(room, "hello")
    synced = bob.synced_rooms()[room]["messages"]["chunk"]
    for event in (bob.event(event_id), *bob.events(since)["chunk"], bob.messages(room)["chunk"][0], synced[-1]):
        _assert_times(event)
        assert event == {
            "event_id": event_id,
            "type": "m.room.message",
            "room_id": room,
            "user_id": alice.user_id,
            "content": TEXT,
            "origin_server_ts": event["origin_server_ts"],
            "ts": event["ts"],
            "age": event["age"],
        }


def test_state_event_says_what_it_replaced(alice: Client, bob: Client, room: str) -> None:
    """EVS-8."""
    bob.join(room)
    first = alice.set_state(room, "m.room.topic", {"topic": "one"})
    event = bob.event(first)
    assert event["state_key"] == ""
    assert "prev_content" not in event
    since = bob.present()
    second = alice.set_state(room, "m.room.topic", {"topic": "two"})
    for event in (bob.event(second), *bob.events(since)["chunk"], bob.state_event(room, "m.room.topic")):
        _assert_times(event)
        assert event["content"] == {"topic": "two"}
        assert event["prev_content"] == {"topic": "one"}
        assert first in str(event["prev_state"])


@of_2014
def test_state_event_says_what_replacing_it_needs(alice: Client, room: str) -> None:
    """EVS-8."""
    topic = alice.set_state(room, "m.room.topic", {"topic": "one"}, required_power_level=40)
    assert alice.event(topic)["required_power_level"] == 40


def test_membership_is_shown_in_the_ways_of_the_day(alice: Client, bob: Client, private_room: str) -> None:
    """EVS-8, EVS-10: at the top level, and with the one it replaced."""
    since = alice.present()
    alice.invite(private_room, bob)
    bob.join(private_room)
    bob.leave(private_room)
    events = alice.events(since)["chunk"]
    assert [event["membership"] for event in events] == ["invite", "join", "leave"]
    assert [event["content"]["membership"] for event in events] == ["invite", "join", "leave"]
    assert [event["content"].get("prev") for event in events[1:]] == ["invite", "join"]
    assert bob.user_id in {event["state_key"] for event in events}


def test_age_grows(alice: Client, room: str) -> None:
    """EVS-8."""
    event_id = alice.send(room, "hello")
    young = alice.event(event_id)["age"]
    deadline = time.monotonic() + 10
    while alice.event(event_id)["age"] <= young:
        assert time.monotonic() < deadline, "it does not age"


# One event.


def test_event_is_shown_to_who_may_see_it_and_to_nobody_else(
    alice: Client, bob: Client, carol: Client, people: People, private_room: str
) -> None:
    """EVS-3."""
    alice.invite(private_room, bob)
    bob.join(private_room)
    event_id = alice.send(private_room, "among ourselves")
    assert alice.event(event_id)["event_id"] == bob.event(event_id)["event_id"] == event_id
    with not_found():
        carol.event(event_id)
    alice.invite(private_room, carol)
    with not_found():
        carol.event(event_id)
    alice.ban(private_room, carol)
    with not_found():
        carol.event(event_id)
    bob.leave(private_room)
    after = alice.send(private_room, "bob has gone")
    with not_found():
        bob.event(after)
    assert bob.event(event_id)["content"]["body"] == "among ourselves", "what one was there for one may keep"


def test_late_member_may_see_what_was_said_before(alice: Client, bob: Client, room: str) -> None:
    """EVS-3: as in the pages of history."""
    event_id = alice.send(room, "before")
    bob.join(room)
    assert bob.event(event_id)["content"] == TEXT | {"body": "before"}


def test_invited_user_may_see_the_invitation(alice: Client, bob: Client, private_room: str) -> None:
    """EVS-3, EVS-2."""
    alice.invite(private_room, bob)
    event_id = alice.state_event(private_room, "m.room.member", bob.user_id)["event_id"]
    assert bob.event(event_id)["content"]["membership"] == "invite"


def test_unknown_event_is_not_found(alice: Client) -> None:
    """EVS-3: in the same words as one that is not for one's eyes."""
    with not_found():
        alice.event(f"$nothing:{alice.server.name}")
    with not_found():
        alice.event("$nothing:elsewhere.org")


# What clients of the day send.


def test_get_with_the_body_null_is_answered(alice: Client, room: str) -> None:
    """EVS-10."""
    for path in ("/initialSync", "/events?timeout=0", "/publicRooms", f"/rooms/{room}/messages"):
        assert alice.request("GET", path, b"null").status == 200


def test_there_are_no_push_rules_yet(alice: Client) -> None:
    """EVS-10."""
    kinds = ("override", "content", "room", "sender", "underride")
    assert alice.call("GET", "/pushrules/") == {"global": {kind: [] for kind in kinds}}


def test_stream_needs_a_token_of_a_user(server: HomeServer) -> None:
    """API-2."""
    with refused(401, "M_MISSING_TOKEN"):
        Client(server).events()
