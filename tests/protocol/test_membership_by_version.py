"""Coming and going in the Matrix room versions: every change, in every version, held against a second reading of the
specification; and beside that the rules that came with a version, each on both of its sides."""

from itertools import product
from typing import Any

import pytest
from msgspec.structs import replace

from synapse_like.protocol.events import Event
from synapse_like.protocol.join_rules import join_rules_of
from synapse_like.protocol.room_versions import SPEC_2014, V6, V7, V8, V9, V10, V11, V12, RoomRules
from tests.protocol import literal_rules
from tests.protocol.room import ALICE, BOB, CAROL, VERSIONS, Room, since, until

BEFORE = ("none", "invite", "join", "leave", "ban", "knock")
AFTER = ("invite", "join", "leave", "ban", "knock")
CHANGES = list(product(BEFORE, AFTER))
WORDS = ("public", "invite", "knock", "private", "restricted", "knock_restricted")
VOUCHER = "join_authorised_via_users_server"


def by_name(rules: RoomRules) -> str:
    return rules.name


def change(room: Room, target: str, membership: str, *, sender: str, **content: Any) -> Event:
    return room.unchecked("m.room.member", {"membership": membership, **content}, target, sender=sender)


def room_with(rules: RoomRules, bob: str, **levels: Any) -> Room:
    """A room with Carol in it, and Bob, who is of some membership."""
    room = Room({"users": {BOB: 50, CAROL: 50}, **levels}, rules)
    room.member(CAROL, "join")
    if bob != "none":
        member = room.unchecked("m.room.member", {"membership": bob}, BOB, sender=ALICE)
        room.state[member.state_slot] = member
    return room


def set_join_rule(room: Room, word: str) -> None:
    event = room.unchecked("m.room.join_rules", {"join_rule": word}, "")
    room.state[event.state_slot] = event


def judged_alike(room: Room, event: Event) -> bool:
    """See that the verdict is that of the specification, and say it."""
    allowed = room.allows(event)
    assert allowed == literal_rules.allows(int(room.rules.name), event, room.state)
    return allowed


@pytest.mark.parametrize("rules", VERSIONS, ids=by_name)
@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_people_may_do_for_themselves_what_the_specification_says(rules: RoomRules, before: str, after: str) -> None:
    room = room_with(rules, before)
    for word in (None, *WORDS):
        if word is not None:
            set_join_rule(room, word)
        judged_alike(room, change(room, BOB, after, sender=BOB))
        judged_alike(room, change(room, BOB, after, sender=BOB, **{VOUCHER: CAROL}))


@pytest.mark.parametrize("rules", VERSIONS, ids=by_name)
@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_others_may_do_to_them_what_the_specification_says(rules: RoomRules, before: str, after: str) -> None:
    levels = {"ban": 60, "kick": 40, "invite": 30}
    for sender_level, target_level in product((29, 30, 39, 40, 41, 59, 60, 61), (0, 30, 40, 60)):
        room = room_with(rules, before, users={CAROL: sender_level, BOB: target_level}, **levels)
        judged_alike(room, change(room, BOB, after, sender=CAROL))
        room.member(CAROL, "leave")
        assert not judged_alike(room, change(room, BOB, after, sender=CAROL))


@pytest.mark.parametrize("rules", VERSIONS, ids=by_name)
class TestCreatorsFirstJoin:
    """The founder comes in directly after the creation ("Authorization rules", 5.3.1 of room version 12)."""

    def room(self, rules: RoomRules) -> Room:
        room = Room(rules=rules)
        room.member(ALICE, "none")
        set_join_rule(room, "private")
        return room

    def test_takes_no_invite(self, rules: RoomRules) -> None:
        room = self.room(rules)
        after_creation = (room.state["m.room.create", ""].event_id,)
        assert judged_alike(room, replace(change(room, ALICE, "join", sender=ALICE), prev_events=after_creation))
        assert not judged_alike(room, replace(change(room, BOB, "join", sender=BOB), prev_events=after_creation))
        assert not judged_alike(room, replace(change(room, ALICE, "leave", sender=ALICE), prev_events=after_creation))

    def test_is_directly_after_it(self, rules: RoomRules) -> None:
        room = self.room(rules)
        join = change(room, ALICE, "join", sender=ALICE)
        assert not judged_alike(room, join)
        create_id = room.state["m.room.create", ""].event_id
        assert not judged_alike(room, replace(join, prev_events=(create_id, "$other:a.example")))


class TestFounder:
    """Whom the creation names until room version 10, and its sender from 11 on."""

    @staticmethod
    def first_join(rules: RoomRules, user_id: str) -> tuple[Room, Event]:
        room = Room(rules=rules, creation={"creator": BOB})
        room.member(ALICE, "none")
        after_creation = (room.state["m.room.create", ""].event_id,)
        return room, replace(change(room, user_id, "join", sender=user_id), prev_events=after_creation)

    @pytest.mark.parametrize("rules", until(10), ids=by_name)
    def test_is_named(self, rules: RoomRules) -> None:
        for user_id, allowed in ((BOB, True), (ALICE, False)):
            room, join = self.first_join(rules, user_id)
            assert judged_alike(room, join) == allowed

    @pytest.mark.parametrize("rules", since(11), ids=by_name)
    def test_is_the_sender(self, rules: RoomRules) -> None:
        for user_id, allowed in ((BOB, False), (ALICE, True)):
            room, join = self.first_join(rules, user_id)
            assert judged_alike(room, join) == allowed

    def test_of_several_creators_is_one(self) -> None:
        room = Room(rules=V12, creation={"additional_creators": [BOB]})
        after_creation = (room.state["m.room.create", ""].event_id,)
        join = replace(change(room, BOB, "join", sender=BOB), prev_events=after_creation)
        assert not judged_alike(room, join)


class TestKnocking:
    """Since room version 7."""

    @pytest.mark.parametrize("rules", VERSIONS, ids=by_name)
    def test_takes_a_version_and_a_join_rule_that_hear_it(self, rules: RoomRules) -> None:
        room = room_with(rules, "none")
        for word in WORDS:
            set_join_rule(room, word)
            heard = (word == "knock" and rules in since(7)) or (word == "knock_restricted" and rules in since(10))
            assert judged_alike(room, change(room, BOB, "knock", sender=BOB)) == heard

    def test_is_no_membership_before(self) -> None:
        room = room_with(V6, "none")
        room.refuses(change(room, BOB, "knock", sender=BOB), "must be one of invite, join, leave, ban")

    def test_may_be_repeated_and_taken_back(self) -> None:
        room = room_with(V7, "knock")
        set_join_rule(room, "knock")
        assert room.allows(change(room, BOB, "knock", sender=BOB))
        assert room.allows(change(room, BOB, "leave", sender=BOB))

    def test_is_turned_down_by_the_kick_level_only(self) -> None:
        room = room_with(V7, "knock", users={CAROL: 49})
        room.refuses(change(room, BOB, "leave", sender=CAROL), "You need power level 50 to kick")


class TestRestrictedJoins:
    """Joining on the word of a member ("Authorization rules", 4.3.5 of room version 8)."""

    @staticmethod
    def room(rules: RoomRules, word: str = "restricted", **levels: Any) -> Room:
        room = room_with(rules, "none", **levels)
        set_join_rule(room, word)
        return room

    @pytest.mark.parametrize("rules", VERSIONS, ids=by_name)
    def test_takes_a_version_that_knows_it(self, rules: RoomRules) -> None:
        for word, versions in (("restricted", since(8)), ("knock_restricted", since(10))):
            room = self.room(rules, word)
            assert judged_alike(room, change(room, BOB, "join", sender=BOB, **{VOUCHER: CAROL})) == (rules in versions)

    @pytest.mark.parametrize("rules", [V8, V9, V10, V11, V12], ids=by_name)
    @pytest.mark.parametrize(("invite", "allowed"), [(0, True), (50, True), (51, False)])
    def test_takes_a_member_who_could_invite(self, rules: RoomRules, invite: int, allowed: bool) -> None:
        room = self.room(rules, invite=invite)
        assert judged_alike(room, change(room, BOB, "join", sender=BOB, **{VOUCHER: CAROL})) == allowed

    @pytest.mark.parametrize("membership", ["none", "invite", "leave", "ban", "knock"])
    def test_takes_a_member_who_is_in(self, membership: str) -> None:
        room = self.room(V10)
        room.member(CAROL, membership)
        room.refuses(
            change(room, BOB, "join", sender=BOB, **{VOUCHER: CAROL}), "@carol:c.example cannot let people into"
        )

    def test_takes_a_word(self) -> None:
        room = self.room(V10)
        room.refuses(change(room, BOB, "join", sender=BOB), "a member's server that lets you in")
        room.refuses(change(room, BOB, "join", sender=BOB, **{VOUCHER: None}), "must be a string")
        room.refuses(change(room, BOB, "join", sender=BOB, **{VOUCHER: "carol"}), "does not start with '@'")

    def test_takes_no_word_with_an_invite(self) -> None:
        room = self.room(V10)
        room.member(BOB, "invite", sender=CAROL)
        assert room.allows(change(room, BOB, "join", sender=BOB))

    def test_does_not_lift_a_ban(self) -> None:
        room = self.room(V10)
        room.member(BOB, "ban", sender=CAROL)
        room.refuses(change(room, BOB, "join", sender=BOB, **{VOUCHER: CAROL}), "You are banned")

    @pytest.mark.parametrize("rules", until(7), ids=by_name)
    def test_is_unheard_of_before(self, rules: RoomRules) -> None:
        room = Room(rules=rules)
        room.join_rule("public")
        assert room.allows(change(room, BOB, "join", sender=BOB, **{VOUCHER: 7}))


class TestInviting:
    """The invite level, which is 0 where the room is silent."""

    @pytest.mark.parametrize("rules", VERSIONS, ids=by_name)
    @pytest.mark.parametrize(("invite", "allowed"), [(None, True), (50, True), (51, False)])
    def test_takes_the_invite_level(self, rules: RoomRules, invite: int | None, allowed: bool) -> None:
        room = room_with(rules, "none", **({} if invite is None else {"invite": invite}))
        assert judged_alike(room, change(room, BOB, "invite", sender=CAROL)) == allowed

    def test_refusal_says_what_power_is_missing(self) -> None:
        room = room_with(V11, "none", invite=51)
        room.refuses(change(room, BOB, "invite", sender=CAROL), "You need power level 51 to invite")

    def test_an_address_takes_it_too(self) -> None:
        room = room_with(V11, "none", invite=51)
        event = room.unchecked("m.room.third_party_invite", {}, "token", sender=CAROL)
        room.refuses(event, "You need power level 51 to invite")
        assert not room.allows(replace(event, sender=ALICE))
        room.put("m.room.power_levels", {"users": {CAROL: 51}, "invite": 51, "state_default": 100})
        assert room.allows(event)

    def test_in_2014_an_address_is_state_like_any_other(self) -> None:
        room = Room()
        room.member(CAROL, "join")
        event = room.unchecked("m.room.third_party_invite", {}, "token", sender=CAROL)
        room.refuses(event, "You need power level 50 to set m.room.third_party_invite")


class TestUnbanning:
    """It takes the ban level, the kick level and more power than the target."""

    @pytest.mark.parametrize("rules", VERSIONS, ids=by_name)
    @pytest.mark.parametrize(
        ("ban", "kick", "target", "allowed"),
        [(50, 50, 49, True), (51, 50, 0, False), (50, 51, 0, False), (50, 50, 50, False), (0, 0, 0, True)],
    )
    def test_takes_all_three(self, rules: RoomRules, ban: int, kick: int, target: int, allowed: bool) -> None:
        room = room_with(rules, "ban", users={CAROL: 50, BOB: target}, ban=ban, kick=kick)
        assert judged_alike(room, change(room, BOB, "leave", sender=CAROL)) == allowed


class TestCreatorsAboveAll:
    """Nobody removes a creator ("Authorization rules" of room version 12)."""

    @pytest.mark.parametrize("after", ["leave", "ban"])
    @pytest.mark.parametrize("target", [ALICE, BOB])
    def test_not_even_another_one(self, after: str, target: str) -> None:
        room = Room({}, V12, {"additional_creators": [BOB]})
        room.member(BOB, "join")
        sender = BOB if target == ALICE else ALICE
        room.refuses(change(room, target, after, sender=sender), f"more power than {target} has")

    def test_but_they_remove_everybody_else(self) -> None:
        room = Room({"users": {CAROL: 2**53 - 1}, "ban": 2**53 - 1}, V12, {"additional_creators": [BOB]})
        for user_id in (BOB, CAROL):
            room.member(user_id, "join")
        assert room.allows(change(room, CAROL, "ban", sender=BOB))


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (SPEC_2014, {"public", "invite", "private", "knock"}),
        (V6, {"public", "invite", "private"}),
        (V7, {"public", "invite", "private", "knock"}),
        (V9, {"public", "invite", "private", "knock", "restricted"}),
        (V10, {"public", "invite", "private", "knock", "restricted", "knock_restricted"}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_versions_know_more_and_more_join_rules(rules: RoomRules, words: set[str]) -> None:
    assert join_rules_of(rules).keys() == words


@pytest.mark.parametrize("content", [{"join_rule": "org.example.other"}, {"join_rule": None}, {"join_rule": {}}])
def test_join_rule_that_nobody_knows_lets_nobody_in(content: dict[str, Any]) -> None:
    room = room_with(V11, "invite")
    event = room.unchecked("m.room.join_rules", content, "")
    room.state[event.state_slot] = event
    room.refuses(change(room, BOB, "join", sender=BOB), "This room is closed")
    room.refuses(change(room, CAROL, "join", sender=CAROL), "This room is closed")


def test_join_rule_that_says_nothing_is_by_invite() -> None:
    room = room_with(V11, "invite")
    event = room.unchecked("m.room.join_rules", {}, "")
    room.state[event.state_slot] = event
    assert room.allows(change(room, BOB, "join", sender=BOB))
    room.member(BOB, "none")
    room.refuses(change(room, BOB, "join", sender=BOB), "You need an invite")
