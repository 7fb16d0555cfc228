"""Power levels: what a room says, and what holds where it is silent (PERM-1, PERM-3, PERM-4)."""

from typing import Any, ClassVar

import pytest

from synapse_like.protocol.power_levels import CREATORS_LEVEL, PowerLevels, level_needed
from synapse_like.protocol.room_versions import SPEC_2014, V1, V6, V10, V11, V12, RoomRules
from tests.protocol.room import ALICE, BOB, CAROL, DAVE, VERSIONS, Room, until


def by_name(rules: RoomRules) -> str:
    return rules.name


def levels_of(room: Room) -> PowerLevels:
    return PowerLevels.from_state(room.rules, room.state)


def test_creator_has_100_as_long_as_nobody_was_given_power() -> None:
    levels = levels_of(Room())
    assert levels.user(ALICE) == 100
    assert levels.user(BOB) == 0


def test_creator_has_nothing_of_their_own_once_power_was_given() -> None:
    levels = levels_of(Room({BOB: 70}))
    assert levels.user(ALICE) == 0
    assert levels.user(BOB) == 70


def test_unlisted_users_have_the_default() -> None:
    levels = levels_of(Room({ALICE: 100, "default": -5}))
    assert levels.user(BOB) == -5
    assert levels.users == {ALICE: 100}


def test_a_level_of_zero_is_not_the_default() -> None:
    assert levels_of(Room({BOB: 0, "default": 50})).user(BOB) == 0


def test_everything_takes_50_where_the_room_is_silent() -> None:
    levels = levels_of(Room())
    assert (levels.ban, levels.kick, levels.redact, levels.send_event, levels.add_state) == (50,) * 5


def test_everybody_may_invite() -> None:
    assert levels_of(Room({BOB: -1})).may_invite(BOB)


def test_the_room_sets_every_level() -> None:
    room = Room()
    room.put("m.room.ops_levels", {"ban_level": 1, "kick_level": 2, "redact_level": 3})
    room.put("m.room.send_event_level", {"level": 0})
    room.put("m.room.add_state_level", {"level": 5})
    levels = levels_of(room)
    assert (levels.ban, levels.kick, levels.redact, levels.send_event, levels.add_state) == (1, 2, 3, 0, 5)


def test_operations_that_are_not_named_keep_their_default() -> None:
    room = Room()
    room.put("m.room.ops_levels", {"ban_level": 1})
    levels = levels_of(room)
    assert (levels.ban, levels.kick, levels.redact) == (1, 50, 50)


def test_before_there_is_a_room_nobody_has_power() -> None:
    assert PowerLevels.from_state(SPEC_2014, {}).user(ALICE) == 0


def test_slots_are_all_that_levels_are_read_from() -> None:
    room = Room({ALICE: 80})
    room.put("m.room.ops_levels", {"ban_level": 1, "kick_level": 2, "redact_level": 3})
    room.put("m.room.send_event_level", {"level": 0})
    room.put("m.room.add_state_level", {"level": 5})
    part = {slot: room.state[slot] for slot in PowerLevels.slots(room.rules)}
    assert PowerLevels.from_state(room.rules, part) == levels_of(room)


class TestOneEventForAll:
    """The family "power-levels-event": m.room.power_levels of the Matrix room versions."""

    @pytest.mark.parametrize("rules", VERSIONS, ids=by_name)
    def test_silent_room_lets_everybody_talk_and_invite_and_few_do_more(self, rules: RoomRules) -> None:
        for room in (Room(rules=rules), Room({}, rules)):
            levels = levels_of(room)
            assert (levels.ban, levels.kick, levels.redact, levels.add_state) == (50,) * 4
            assert (levels.invite, levels.send_event) == (0, 0)
            assert levels.user(BOB) == 0

    @pytest.mark.parametrize("rules", until(11), ids=by_name)
    def test_creator_has_100_as_long_as_nobody_was_given_power(self, rules: RoomRules) -> None:
        assert levels_of(Room(rules=rules)).user(ALICE) == 100
        assert levels_of(Room({}, rules)).user(ALICE) == 0

    @pytest.mark.parametrize(("rules", "creator"), [(V1, BOB), (V10, BOB), (V11, ALICE)])
    def test_creator_is_who_is_named_and_later_who_sent(self, rules: RoomRules, creator: str) -> None:
        levels = levels_of(Room(rules=rules, creation={"creator": BOB}))
        assert {user: levels.user(user) for user in (ALICE, BOB)} == {ALICE: 0, BOB: 0} | {creator: 100}

    @pytest.mark.parametrize("named", [None, 7, [], {}])
    def test_creator_may_be_nobody(self, named: object) -> None:
        assert levels_of(Room(rules=V1, creation={"creator": named})).users == {}

    def test_creators_stand_above_all_that_can_be_given(self) -> None:
        room = Room({"users": {CAROL: 2**53 - 1}, "users_default": 10}, V12, {"additional_creators": [BOB]})
        levels = levels_of(room)
        assert levels.user(ALICE) == levels.user(BOB) == CREATORS_LEVEL > levels.user(CAROL)
        assert levels.user(DAVE) == 10
        assert levels_of(Room(rules=V12)).user(ALICE) == CREATORS_LEVEL

    def test_additional_creators_mean_nothing_before_version_12(self) -> None:
        for levels in ({}, None):
            assert levels_of(Room(levels, V11, {"additional_creators": [BOB]})).user(BOB) == 0

    @pytest.mark.parametrize("rules", VERSIONS, ids=by_name)
    def test_room_sets_every_level(self, rules: RoomRules) -> None:
        said = {"ban": 1, "kick": 2, "redact": 3, "invite": 4, "events_default": 5, "state_default": 6}
        room = Room({**said, "users": {BOB: 7}, "users_default": 8, "events": {"m.room.name": 9}}, rules)
        levels = levels_of(room)
        assert (levels.ban, levels.kick, levels.redact, levels.invite) == (1, 2, 3, 4)
        assert (levels.send_event, levels.add_state) == (5, 6)
        assert (levels.user(BOB), levels.user(CAROL)) == (7, 8)
        assert levels.may_invite(BOB)
        for state_key in (None, ""):
            event = room.unchecked("m.room.name", {}, state_key)
            assert level_needed(rules, levels, event, None) == 9
            event = room.unchecked("m.room.topic", {}, state_key)
            assert level_needed(rules, levels, event, None) == (5 if state_key is None else 6)

    @pytest.mark.parametrize("rules", until(9), ids=by_name)
    def test_levels_may_be_text_until_version_9(self, rules: RoomRules) -> None:
        room = Room(
            {"ban": " +070 ", "users": {BOB: "-5"}, "users_default": "3", "events": {"m.room.name": "9"}}, rules
        )
        levels = levels_of(room)
        assert (levels.ban, levels.user(BOB), levels.user(CAROL), levels.events) == (70, -5, 3, {"m.room.name": 9})

    @pytest.mark.parametrize("rules", until(5), ids=by_name)
    def test_levels_may_be_fractions_until_version_5(self, rules: RoomRules) -> None:
        levels = levels_of(Room({"ban": 70.9, "users": {BOB: -5.5}}, rules))
        assert (levels.ban, levels.user(BOB)) == (70, -5)

    @pytest.mark.parametrize("rules", VERSIONS, ids=by_name)
    def test_slots_are_all_that_levels_are_read_from(self, rules: RoomRules) -> None:
        room = Room({"users": {BOB: 80}}, rules)
        part = {slot: room.state[slot] for slot in PowerLevels.slots(rules)}
        assert PowerLevels.from_state(rules, part) == levels_of(room)
        assert PowerLevels.from_state(rules, {}).user(ALICE) == 0


class TestChangingLevels:
    """ "Authorization rules", 10 of room version 12. Bob, who has 50, changes something."""

    OLD: ClassVar = {
        "users": {BOB: 50, CAROL: 50, DAVE: 20},
        "events": {"m.room.topic": 50, "m.room.name": 51},
        "ban": 50,
        "kick": 51,
        "state_default": 0,
    }

    def allows(self, rules: RoomRules, changes: dict[str, Any]) -> bool:
        room = Room(self.OLD, rules)
        room.member(BOB, "join")
        new = dict(self.OLD)
        for path, value in changes.items():
            group, _, key = path.rpartition("/")
            target = new
            if group:
                target = new[group] = dict(new.get(group, {}))
            if value is None:
                del target[key]
            else:
                target[key] = value
        return room.allows(room.event("m.room.power_levels", new, "", sender=BOB))

    @pytest.mark.parametrize("rules", VERSIONS, ids=by_name)
    @pytest.mark.parametrize(
        ("changes", "allowed"),
        [
            ({}, True),
            # What it takes to do things.
            ({"ban": 0}, True),
            ({"ban": 51}, False),
            ({"ban": None}, True),
            ({"kick": 50}, False),
            ({"kick": None}, False),
            ({"redact": 50}, True),
            # A level that was never said is no current level, whatever holds in its place.
            ({"redact": 51}, False),
            ({"state_default": 50}, True),
            ({"events_default": 51}, False),
            ({"users_default": 50}, True),
            ({"users_default": 51}, False),
            ({"invite": 51}, False),
            ({"events/m.room.topic": 0}, True),
            ({"events/m.room.topic": None}, True),
            ({"events/m.room.topic": 51}, False),
            ({"events/m.room.name": 50}, False),
            ({"events/m.room.name": None}, False),
            ({"events/org.example.new": 50}, True),
            ({"events/org.example.new": 51}, False),
            # Power that is given and taken.
            ({f"users/{DAVE}": 50}, True),
            ({f"users/{DAVE}": 51}, False),
            ({f"users/{DAVE}": None}, True),
            ({f"users/{CAROL}": 49}, False),
            ({f"users/{CAROL}": None}, False),
            ({f"users/{CAROL}": 60}, False),
            ({f"users/{BOB}": 49}, True),
            ({f"users/{BOB}": None}, True),
            ({f"users/{BOB}": 51}, False),
            ({"users/@new:a.example": 50}, True),
            ({"users/@new:a.example": 51}, False),
            # One good change does not excuse a bad one.
            ({"ban": 0, f"users/{CAROL}": 0}, False),
        ],
    )
    def test_takes_the_level_of_what_is_changed(self, rules: RoomRules, changes: dict[str, Any], allowed: bool) -> None:
        assert self.allows(rules, changes) == allowed

    @pytest.mark.parametrize("rules", VERSIONS, ids=by_name)
    def test_levels_of_notifications_count_since_version_6(self, rules: RoomRules) -> None:
        assert self.allows(rules, {"notifications/room": 50})
        assert self.allows(rules, {"notifications/room": 51}) == (rules in until(5))

    @pytest.mark.parametrize("rules", until(9), ids=by_name)
    def test_text_that_says_the_same_number_changes_nothing(self, rules: RoomRules) -> None:
        assert self.allows(rules, {"kick": "51", f"users/{CAROL}": "+50"})
        assert not self.allows(rules, {"kick": "52"})

    def test_first_levels_are_free(self) -> None:
        for rules in VERSIONS:
            room = Room(rules=rules)
            assert room.allows(room.event("m.room.power_levels", {"users": {BOB: 1000}, "ban": 1000}, ""))

    @pytest.mark.parametrize("user", [ALICE, BOB])
    def test_creators_above_all_are_given_none(self, user: str) -> None:
        for room in (Room(rules=V12, creation=self.TWO), Room({}, V12, self.TWO)):
            room.refuses(room.event("m.room.power_levels", {"users": {user: 100}}, ""), "stand above all levels")
            assert room.allows(room.event("m.room.power_levels", {"users": {CAROL: 100}}, ""))

    TWO: ClassVar = {"additional_creators": [BOB]}

    def test_creator_above_all_moves_every_level(self) -> None:
        room = Room({"users": {CAROL: 2**53 - 1}, "ban": 2**53 - 1}, V12)
        assert room.allows(room.event("m.room.power_levels", {"users": {CAROL: 0}}, ""))

    @pytest.mark.parametrize(
        ("rules", "content"),
        [
            (V1, {"users": None}),
            (V1, {"users": {"alice": 1}}),
            (V1, {"users": {ALICE: "many"}}),
            (V1, {"users": {ALICE: True}}),
            (V1, {"users": {ALICE: 1e400}}),
            (V1, {"ban": "many"}),
            (V1, {"events": []}),
            (V6, {"users": {ALICE: 1.5}}),
            (V6, {"notifications": []}),
            (V6, {"notifications": {"room": "many"}}),
            (V10, {"users": {ALICE: "1"}}),
            (V10, {"ban": "1"}),
            (V10, {"invite": None}),
            (V10, {"events": {"m.room.name": "1"}}),
            (V10, {"notifications": {"room": "1"}}),
        ],
    )
    def test_what_is_no_level_is_refused(self, rules: RoomRules, content: dict[str, Any]) -> None:
        room = Room(rules=rules)
        assert not room.allows(room.unchecked("m.room.power_levels", content, ""))

    def test_notifications_are_not_looked_at_until_version_5(self) -> None:
        for rules in until(5):
            room = Room({}, rules)
            assert not room.allows(room.unchecked("m.room.power_levels", {"notifications": "x"}, "", sender=BOB))
            room.state["m.room.power_levels", ""] = room.unchecked("m.room.power_levels", {"users": {ALICE: 50}}, "")
            new = {"users": {ALICE: 50}, "notifications": "x"}
            assert room.allows(room.unchecked("m.room.power_levels", new, ""))
