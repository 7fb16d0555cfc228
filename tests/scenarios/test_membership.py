"""Who comes in, who goes, who is sent away: the same rules by every way in."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.scenarios.conftest import People, every_room_version, of_2014
from tests.support.client import ApiError, Client, bad_json, forbidden, id_of, not_found, quote, refused, state_path

pytestmark = every_room_version

#: The three ways in which membership is changed (ROOM-7).
WAYS = ["post", "put", "state"]

every_way = pytest.mark.parametrize("way", WAYS)

#: The membership that each action is about, as the m.room.member event has it.
MEMBERSHIP = {"join": "join", "leave": "leave", "invite": "invite", "kick": "leave", "ban": "ban", "unban": "leave"}


def act(
    way: str, client: Client, action: str, room: str, target: Client | str | None = None, reason: str | None = None
) -> Any:
    """Change a membership by one of the three ways, and return the answer.

    :param target: who it is about; needed for invite, kick, ban and unban.
    """
    why = {} if reason is None else {"reason": reason}
    if way == "state":
        user_id = client.user_id if target is None else id_of(target)
        content = {"membership": MEMBERSHIP[action], **why}
        return client.call("PUT", state_path(room, "m.room.member", user_id), content)
    body = why if target is None else {"user_id": id_of(target), **why}
    path = f"/rooms/{quote(room)}/{action}"
    return client.call("POST", path, body) if way == "post" else client.call("PUT", f"{path}/{client.new_txn()}", body)


# What is answered.


def test_answers_are_as_documented(alice: Client, bob: Client, private_room: str) -> None:
    """ROOM-6, ROOM-7."""
    room = private_room
    for way in ("post", "put"):
        assert act(way, alice, "invite", room, bob) == {}
        assert act(way, bob, "join", room) == {"room_id": room}
        assert act(way, bob, "leave", room) == {}
        assert act(way, alice, "invite", room, bob) == {}
        assert act(way, alice, "kick", room, bob) == {}
        assert act(way, alice, "ban", room, bob) == {}
        assert act(way, alice, "unban", room, bob) == {}
    answer = act("state", alice, "invite", room, bob)
    assert set(answer) == {"event_id"}
    assert alice.event(answer["event_id"])["content"]["membership"] == "invite"


# Joining.


@every_way
def test_anyone_joins_a_public_room(bob: Client, room: str, way: str) -> None:
    """MEM-1."""
    act(way, bob, "join", room)
    assert bob.members(room)[bob.user_id] == "join"


@every_way
def test_stranger_does_not_join_an_invite_only_room(alice: Client, bob: Client, private_room: str, way: str) -> None:
    """MEM-1."""
    with forbidden():
        act(way, bob, "join", private_room)
    assert bob.user_id not in alice.members(private_room)


@every_way
def test_invited_user_joins_an_invite_only_room(alice: Client, bob: Client, private_room: str, way: str) -> None:
    """MEM-1, ROOM-7."""
    act(way, alice, "invite", private_room, bob)
    assert alice.members(private_room)[bob.user_id] == "invite"
    act(way, bob, "join", private_room)
    assert alice.members(private_room)[bob.user_id] == "join"


@every_way
def test_joining_twice_does_no_harm(alice: Client, bob: Client, private_room: str, way: str) -> None:
    """MEM-1: also where one could not join newly."""
    alice.invite(private_room, bob)
    bob.join(private_room)
    act(way, bob, "join", private_room)
    assert bob.members(private_room)[bob.user_id] == "join"


def test_nobody_joins_for_another(alice: Client, bob: Client, carol: Client, room: str) -> None:
    """MEM-1: not even for those who are invited, nor one who rules the room."""
    alice.invite(room, bob)
    for target in (bob, carol):
        with forbidden():
            act("state", alice, "join", room, target)
    assert alice.members(room) == {alice.user_id: "join", bob.user_id: "invite"}


def test_join_by_path_takes_room_id_or_alias(alice: Client, bob: Client, carol: Client, room: str) -> None:
    """ROOM-6."""
    alias = f"#{room[1:9].lower()}-door:{alice.server.name}"
    alice.call("PUT", f"/directory/room/{quote(alias)}", {"room_id": room})
    assert bob.call("POST", f"/join/{quote(room)}", {}) == {"room_id": room}
    assert carol.call("PUT", f"/join/{quote(alias)}/1", {}) == {"room_id": room}


def test_body_of_a_join_may_be_null_or_nothing(bob: Client, carol: Client, room: str) -> None:
    """EVS-10."""
    assert bob.call("POST", f"/join/{room}", b"null") == {"room_id": room}
    assert carol.call("POST", f"/join/{room}") == {"room_id": room}


def test_unknown_rooms_cannot_be_joined(alice: Client) -> None:
    """ROOM-6."""
    unknown = f"!nowhere:{alice.server.name}"
    with not_found():
        alice.join(unknown)
    with not_found():
        alice.join(f"#nowhere:{alice.server.name}")
    for way in ("post", "put"):
        with not_found():
            act(way, alice, "join", unknown)
    for action in ("leave", "invite", "kick", "ban", "unban"):
        with forbidden():
            act("post", alice, action, unknown, None if action == "leave" else alice.user_id)


def test_private_room_takes_nobody_new(alice: Client, bob: Client, private_room: str) -> None:
    """MEM-1: whatever invitation they have; those inside stay."""
    room = private_room
    alice.invite(room, bob)
    alice.set_state(room, "m.room.join_rules", {"join_rule": "private"})
    for way in WAYS:
        with forbidden():
            act(way, bob, "join", room)
    alice.join(room)
    assert alice.members(room)[alice.user_id] == "join"
    bob.leave(room)


@every_way
@of_2014
def test_private_room_invites_nobody_new(alice: Client, bob: Client, private_room: str, way: str) -> None:
    """MEM-1."""
    alice.set_state(private_room, "m.room.join_rules", {"join_rule": "private"})
    with forbidden():
        act(way, alice, "invite", private_room, bob)


def test_closing_a_public_room_keeps_new_people_out(alice: Client, bob: Client, carol: Client, room: str) -> None:
    """MEM-1."""
    bob.join(room)
    alice.set_state(room, "m.room.join_rules", {"join_rule": "invite"})
    with forbidden():
        carol.join(room)
    bob.join(room)


# Inviting.


@every_way
def test_only_members_invite(alice: Client, bob: Client, carol: Client, room: str, people: People, way: str) -> None:
    """MEM-2: not strangers, not the invited, not those who left or are banned."""
    dave = people("dave")
    with forbidden():
        act(way, bob, "invite", room, dave)
    alice.invite(room, bob)
    with forbidden():
        act(way, bob, "invite", room, dave)
    bob.join(room)
    bob.leave(room)
    with forbidden():
        act(way, bob, "invite", room, dave)
    alice.ban(room, carol)
    with forbidden():
        act(way, carol, "invite", room, dave)
    assert dave.user_id not in alice.members(room)


@every_way
def test_any_member_invites(alice: Client, bob: Client, carol: Client, private_room: str, way: str) -> None:
    """MEM-2: it needs no power."""
    alice.invite(private_room, bob)
    bob.join(private_room)
    act(way, bob, "invite", private_room, carol)
    carol.join(private_room)


@every_way
def test_member_is_not_invited(alice: Client, bob: Client, room: str, way: str) -> None:
    """MEM-2."""
    bob.join(room)
    for target in (bob, alice):
        with forbidden():
            act(way, alice, "invite", room, target)
    assert alice.members(room)[bob.user_id] == "join"


@every_way
def test_banned_user_is_not_invited(alice: Client, bob: Client, room: str, way: str) -> None:
    """MEM-2, MEM-3."""
    alice.ban(room, bob)
    with forbidden():
        act(way, alice, "invite", room, bob)
    assert alice.members(room)[bob.user_id] == "ban"


@every_way
def test_inviting_twice_does_no_harm(alice: Client, bob: Client, private_room: str, way: str) -> None:
    """MEM-2."""
    alice.invite(private_room, bob)
    act(way, alice, "invite", private_room, bob)
    bob.join(private_room)


def test_invited_user_finds_the_invitation(alice: Client, bob: Client, private_room: str) -> None:
    """MEM-2, EVS-4."""
    alice.invite(private_room, bob)
    [invited] = bob.initial_sync()["rooms"]
    assert (invited["room_id"], invited["membership"]) == (private_room, "invite")
    assert invited["inviter"] == alice.user_id


def test_user_of_another_server_can_be_invited_by_id(alice: Client, private_room: str) -> None:
    """MEM-2, FED-7: only if the other server hears of it; who cannot be reached cannot be invited."""
    with refused(502, "M_UNREACHABLE"):
        alice.invite(private_room, "@eve:elsewhere.example")


# Leaving.


@every_way
def test_member_leaves(alice: Client, bob: Client, room: str, way: str) -> None:
    """MEM-2."""
    bob.join(room)
    act(way, bob, "leave", room)
    assert alice.members(room)[bob.user_id] == "leave"


@every_way
def test_invitation_is_declined_by_leaving(alice: Client, bob: Client, private_room: str, way: str) -> None:
    """MEM-2."""
    alice.invite(private_room, bob)
    act(way, bob, "leave", private_room)
    assert alice.members(private_room)[bob.user_id] == "leave"
    assert bob.initial_sync()["rooms"] == []
    with forbidden():
        act(way, bob, "join", private_room)


@every_way
def test_who_is_not_in_a_room_does_not_leave_it(alice: Client, bob: Client, room: str, way: str) -> None:
    """MEM-2: a stranger, one who left before, one who is banned."""
    with forbidden():
        act(way, bob, "leave", room)
    bob.join(room)
    bob.leave(room)
    with forbidden():
        act(way, bob, "leave", room)
    alice.ban(room, bob)
    with forbidden():
        act(way, bob, "leave", room)
    assert alice.members(room)[bob.user_id] == "ban"


# Kicking.


@every_way
def test_kicked_user_is_out_but_may_come_back(alice: Client, bob: Client, room: str, way: str) -> None:
    """MEM-3, ROOM-7: the reason is told."""
    bob.join(room)
    act(way, alice, "kick", room, bob, "too loud")
    content = alice.state_content(room, "m.room.member", bob.user_id)
    assert (content["membership"], content["reason"]) == ("leave", "too loud")
    with forbidden():
        bob.send(room, "hello?")
    bob.join(room)


@every_way
def test_invitation_is_withdrawn_by_kicking(alice: Client, bob: Client, private_room: str, way: str) -> None:
    """MEM-3."""
    alice.invite(private_room, bob)
    act(way, alice, "kick", private_room, bob)
    with forbidden():
        bob.join(private_room)


@every_way
def test_kicking_needs_the_level_and_more_power_than_the_target(
    alice: Client, bob: Client, carol: Client, people: People, room: str, way: str
) -> None:
    """MEM-3, PERM-4."""
    dave = people("dave")
    for client in (bob, carol, dave):
        client.join(room)
    alice.give_power(room, {bob.user_id: 49, carol.user_id: 50, dave.user_id: 50})
    for kicker, target in ((bob, alice), (bob, carol), (carol, alice), (carol, dave)):
        with forbidden():
            act(way, kicker, "kick", room, target)
    alice.give_power(room, {bob.user_id: 49, carol.user_id: 50, dave.user_id: 49})
    with forbidden():
        act(way, bob, "kick", room, dave)
    act(way, carol, "kick", room, bob)
    act(way, carol, "kick", room, dave)
    assert alice.members(room)[bob.user_id] == "leave"


@every_way
def test_only_members_kick(alice: Client, bob: Client, carol: Client, room: str, way: str) -> None:
    """MEM-3, PERM-5: power alone is not enough."""
    bob.join(room)
    alice.give_power(room, {carol.user_id: 90})
    with forbidden():
        act(way, carol, "kick", room, bob)
    assert alice.members(room)[bob.user_id] == "join"


@pytest.mark.parametrize("way", ["post", "put"])
def test_who_is_not_there_is_not_kicked(alice: Client, bob: Client, room: str, way: str) -> None:
    """MEM-2, ROOM-7: an endpoint does what its name says."""
    with forbidden():
        act(way, alice, "kick", room, bob)
    bob.join(room)
    bob.leave(room)
    with forbidden():
        act(way, alice, "kick", room, bob)


@of_2014
def test_who_is_not_there_is_not_made_to_leave(alice: Client, bob: Client, room: str) -> None:
    """MEM-2: the rules of today's rooms let it happen."""
    with forbidden():
        act("state", alice, "kick", room, bob)
    bob.join(room)
    bob.leave(room)
    with forbidden():
        act("state", alice, "kick", room, bob)


@pytest.mark.parametrize("action", ["kick", "unban"])
def test_who_is_not_in_a_room_learns_of_nobody_that_they_are(
    alice: Client, bob: Client, carol: Client, private_room: str, action: str
) -> None:
    """EVS-2."""
    told = []
    for target in (alice, bob):
        with pytest.raises(ApiError) as refusal:
            act("post", carol, action, private_room, target)
        told.append((refusal.value.status, refusal.value.sentence))
    assert told[0] == told[1]


def test_kicking_does_not_lift_a_ban(alice: Client, bob: Client, room: str) -> None:
    """MEM-3: an endpoint does what its name says."""
    alice.ban(room, bob)
    for way in ("post", "put"):
        with forbidden():
            act(way, alice, "kick", room, bob)
    assert alice.members(room)[bob.user_id] == "ban"


def test_unbanning_does_not_kick(alice: Client, bob: Client, room: str) -> None:
    """ROOM-7: an endpoint does what its name says."""
    bob.join(room)
    for way in ("post", "put"):
        with forbidden():
            act(way, alice, "unban", room, bob)
    assert alice.members(room)[bob.user_id] == "join"


# Banning.


@every_way
def test_banned_user_cannot_rejoin(alice: Client, bob: Client, room: str, way: str) -> None:
    """MEM-3, ROOM-7."""
    bob.join(room)
    act(way, alice, "ban", room, bob, "spam")
    content = alice.state_content(room, "m.room.member", bob.user_id)
    assert (content["membership"], content["reason"]) == ("ban", "spam")
    for way_in in WAYS:
        with forbidden():
            act(way_in, bob, "join", room)
    with forbidden():
        bob.send(room, "hello?")
    assert bob.initial_sync()["rooms"] == []


@every_way
def test_anyone_can_be_banned_before_they_come(alice: Client, bob: Client, carol: Client, room: str, way: str) -> None:
    """MEM-3: strangers and the invited too."""
    alice.invite(room, carol)
    for target in (bob, carol):
        act(way, alice, "ban", room, target)
        with forbidden():
            target.join(room)


@every_way
@of_2014
def test_ban_stands_above_the_banned_user(alice: Client, bob: Client, room: str, way: str) -> None:
    """MEM-3."""
    bob.join(room)
    alice.give_power(room, {bob.user_id: 70})
    act(way, alice, "ban", room, bob)
    assert alice.state_event(room, "m.room.member", bob.user_id)["required_power_level"] > 70


@of_2014
def test_ban_cannot_be_made_to_stand_lower(alice: Client, bob: Client, room: str) -> None:
    """MEM-3."""
    bob.join(room)
    alice.give_power(room, {bob.user_id: 70})
    for level in (0, 70):
        with forbidden():
            alice.set_state(room, "m.room.member", {"membership": "ban"}, bob.user_id, required_power_level=level)
    alice.set_state(room, "m.room.member", {"membership": "ban"}, bob.user_id, required_power_level=71)


@of_2014
def test_ban_is_lifted_only_by_who_has_what_it_asks_for(alice: Client, bob: Client, carol: Client, room: str) -> None:
    """MEM-3, PERM-3."""
    carol.join(room)
    alice.give_power(room, {carol.user_id: 80})
    alice.set_state(room, "m.room.member", {"membership": "ban"}, bob.user_id, required_power_level=81)
    for way in WAYS:
        with forbidden():
            act(way, carol, "unban", room, bob)
    alice.give_power(room, {carol.user_id: 81})
    carol.unban(room, bob)


@every_way
def test_banning_needs_the_level_and_more_power_than_the_target(
    alice: Client, bob: Client, carol: Client, room: str, way: str
) -> None:
    """MEM-3, SEC-6."""
    bob.join(room)
    carol.join(room)
    alice.set_operators_levels(room, ban=60, kick=30)
    alice.give_power(room, {bob.user_id: 59, carol.user_id: 30})
    with forbidden():
        act(way, bob, "ban", room, carol)
    with forbidden():
        act(way, carol, "ban", room, bob)
    alice.give_power(room, {bob.user_id: 60, carol.user_id: 60})
    with forbidden():
        act(way, bob, "ban", room, carol)
    with forbidden():
        act(way, bob, "ban", room, alice)
    alice.give_power(room, {bob.user_id: 60, carol.user_id: 59})
    act(way, bob, "ban", room, carol)
    assert alice.members(room)[carol.user_id] == "ban"


@every_way
def test_only_members_ban(alice: Client, bob: Client, carol: Client, room: str, way: str) -> None:
    """MEM-3, SEC-6: not strangers, the invited or those who have left, whatever their power."""
    bob.join(room)
    alice.give_power(room, {carol.user_id: 90})
    with forbidden():
        act(way, carol, "ban", room, bob)
    alice.invite(room, carol)
    with forbidden():
        act(way, carol, "ban", room, bob)
    carol.join(room)
    carol.leave(room)
    with forbidden():
        act(way, carol, "ban", room, bob)
    assert alice.members(room)[bob.user_id] == "join"


# Unbanning.


@every_way
def test_unbanned_user_may_come_back(alice: Client, bob: Client, room: str, way: str) -> None:
    """MEM-3, ROOM-7: but is not brought back."""
    bob.join(room)
    alice.ban(room, bob)
    act(way, alice, "unban", room, bob)
    assert alice.members(room)[bob.user_id] == "leave"
    bob.join(room)


@every_way
def test_unbanning_needs_the_level_of_banning(alice: Client, bob: Client, carol: Client, room: str, way: str) -> None:
    """MEM-3."""
    carol.join(room)
    alice.set_operators_levels(room, ban=60, kick=30)
    alice.ban(room, bob)
    alice.give_power(room, {carol.user_id: 59})
    with forbidden():
        act(way, carol, "unban", room, bob)
    alice.give_power(room, {carol.user_id: 60})
    act(way, carol, "unban", room, bob)
    assert alice.members(room)[bob.user_id] == "leave"


@every_way
def test_nobody_lifts_their_own_ban(alice: Client, bob: Client, room: str, way: str) -> None:
    """MEM-3: however powerful they were."""
    bob.join(room)
    alice.give_power(room, {bob.user_id: 90})
    alice.ban(room, bob)
    with forbidden():
        act(way, bob, "unban", room, bob)
    assert alice.members(room)[bob.user_id] == "ban"


def test_only_the_banned_are_unbanned(alice: Client, bob: Client, private_room: str) -> None:
    """ROOM-7."""
    for way in ("post", "put"):
        with forbidden():
            act(way, alice, "unban", private_room, bob)
    alice.invite(private_room, bob)
    for way in ("post", "put"):
        with forbidden():
            act(way, alice, "unban", private_room, bob)
    bob.join(private_room)


# Knocking.

where_one_knocks = pytest.mark.room_versions("spec-2014", "11", "12")


@pytest.fixture
def knock_room(alice: Client, private_room: str) -> str:
    """A room of alice's on whose door one may knock."""
    alice.set_state(private_room, "m.room.join_rules", {"join_rule": "knock"})
    return private_room


def _knock(client: Client, room: str) -> None:
    client.set_state(room, "m.room.member", {"membership": "knock"}, client.user_id)


@every_way
@where_one_knocks
def test_knock_is_answered_by_an_invitation(
    alice: Client, bob: Client, carol: Client, knock_room: str, way: str
) -> None:
    """MEM-1: by any member who may invite."""
    alice.invite(knock_room, carol)
    carol.join(knock_room)
    _knock(bob, knock_room)
    assert alice.members(knock_room)[bob.user_id] == "knock"
    with forbidden():
        act(way, bob, "join", knock_room)
    act(way, carol, "invite", knock_room, bob)
    act(way, bob, "join", knock_room)


@where_one_knocks
def test_knock_is_turned_down_by_an_operator(alice: Client, bob: Client, knock_room: str) -> None:
    """MEM-1."""
    _knock(bob, knock_room)
    alice.kick(knock_room, bob)
    assert alice.members(knock_room)[bob.user_id] == "leave"
    with forbidden():
        bob.join(knock_room)


@of_2014
def test_knock_is_turned_down_by_a_member(alice: Client, bob: Client, carol: Client, knock_room: str) -> None:
    """MEM-1."""
    alice.invite(knock_room, carol)
    carol.join(knock_room)
    _knock(bob, knock_room)
    act("state", carol, "leave", knock_room, bob)
    assert alice.members(knock_room)[bob.user_id] == "leave"
    with forbidden():
        bob.join(knock_room)


@every_way
@where_one_knocks
def test_knock_is_withdrawn_by_leaving(alice: Client, bob: Client, knock_room: str, way: str) -> None:
    """MEM-2."""
    _knock(bob, knock_room)
    act(way, bob, "leave", knock_room)
    assert alice.members(knock_room)[bob.user_id] == "leave"


@where_one_knocks
def test_knocking_gives_no_sight_of_the_room(alice: Client, bob: Client, knock_room: str) -> None:
    """EVS-2."""
    token = bob.present()
    _knock(bob, knock_room)
    alice.send(knock_room, "who is it?")
    assert "m.room.message" not in [event["type"] for event in bob.events(token)["chunk"]]
    with forbidden():
        bob.messages(knock_room)
    with forbidden():
        bob.send(knock_room, "it is bob")


@where_one_knocks
def test_one_knocks_for_oneself_and_only_where_it_is_allowed(
    alice: Client, bob: Client, carol: Client, knock_room: str
) -> None:
    """MEM-1."""
    with forbidden():
        alice.set_state(knock_room, "m.room.member", {"membership": "knock"}, bob.user_id)
    with forbidden():
        _knock(alice, knock_room)
    alice.ban(knock_room, carol)
    with forbidden():
        _knock(carol, knock_room)
    for rule in ("invite", "private", "public"):
        alice.set_state(knock_room, "m.room.join_rules", {"join_rule": rule})
        with forbidden():
            _knock(bob, knock_room)
    assert bob.user_id not in alice.members(knock_room)


# Many at once.


def test_room_that_many_enter_and_leave_at_once_counts_right(alice: Client, people: People, room: str) -> None:
    """MEM-1, MEM-2, ROOM-5: every view of it agrees with every other."""
    crowd = [people("dave") for _ in range(6)]
    since = alice.present()

    def come_and_go(client: Client) -> None:
        for _ in range(5):
            client.join(room)
            client.leave(room)
        if client is not crowd[0]:
            client.join(room)

    with ThreadPoolExecutor(len(crowd)) as threads:
        list(threads.map(come_and_go, crowd))

    expected = {client.user_id: "join" for client in (alice, *crowd[1:])} | {crowd[0].user_id: "leave"}
    assert alice.members(room) == expected
    seen = alice.events(since)["chunk"]
    assert len(seen) == 6 * 10 + 5
    assert {event["state_key"]: event["membership"] for event in seen} | {alice.user_id: "join"} == expected
    assert [room in client.synced_rooms() for client in crowd] == [False] + [True] * 5


# What is no membership.


@pytest.mark.parametrize("membership", ["here", "", "JOIN", None, 5, ["join"], {}])
def test_unknown_membership_is_refused(alice: Client, bob: Client, room: str, membership: object) -> None:
    """MEM-4."""
    for client in (alice, bob):
        with bad_json():
            client.set_state(room, "m.room.member", {"membership": membership}, bob.user_id)
    with bad_json():
        bob.set_state(room, "m.room.member", {}, bob.user_id)
    assert bob.user_id not in alice.members(room)


@pytest.mark.parametrize("key", [None, "", "bob", "!room:x", "@", "@nobody"])
def test_membership_is_always_of_a_user(alice: Client, room: str, key: str | None) -> None:
    """MEM-4, API-7."""
    with bad_json():
        alice.set_state(room, "m.room.member", {"membership": "invite"}, key)


def test_membership_is_state_and_nothing_else(alice: Client, bob: Client, room: str) -> None:
    """MEM-4: sent as a message it changes nothing."""
    bob.join(room)
    answer = alice.request("POST", f"/rooms/{room}/send/m.room.member", {"membership": "ban"})
    assert 400 <= answer.status < 500
    assert alice.members(room)[bob.user_id] == "join"
