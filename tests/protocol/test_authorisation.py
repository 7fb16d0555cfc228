"""The rules of a room: each on both of its sides (PERM-1 to PERM-5, RED-1).

Changes of membership are in test_membership.
"""

from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from synapse_like.protocol.authorisation import auth_types_for, required_power_level_for
from synapse_like.protocol.events import Event, EventDraft
from synapse_like.protocol.power_levels import PowerLevels
from synapse_like.protocol.room_versions import SPEC_2014
from tests.protocol.room import ALICE, BOB, CAROL, DAVE, ROOM_ID, Room

LEVELS = {ALICE: 100, BOB: 50}
RULE_TYPES: dict[str, dict[str, Any]] = {
    "m.room.power_levels": LEVELS,
    "m.room.join_rules": {"join_rule": "invite"},
    "m.room.add_state_level": {"level": 0},
    "m.room.send_event_level": {"level": 0},
    "m.room.ops_levels": {"ban_level": 0, "kick_level": 0, "redact_level": 0},
}


def full_room(levels: dict[str, int] | None = None) -> Room:
    """Alice (100) and Bob (50) and Carol (0) and Dave (0, of Alice's server) are in the room."""
    room = Room(LEVELS if levels is None else levels)
    for user_id in (BOB, CAROL, DAVE):
        room.member(user_id, "join")
    return room


def message(room: Room, sender: str) -> Event:
    return room.event("m.room.message", {"msgtype": "m.text", "body": "hello"}, sender=sender)


def topic(room: Room, sender: str, **fields: Any) -> Event:
    return room.event("m.room.topic", {"topic": "x"}, "", sender=sender, **fields)


class TestCreation:
    """m.room.create is first, once, and its sender's own (PERM-5)."""

    @staticmethod
    def creation(sender: str = ALICE, **fields: Any) -> tuple[Room, Event]:
        room = Room()
        room.state.clear()
        return room, replace(room.event("m.room.create", {"creator": sender}, "", sender=sender), **fields)

    def test_room_begins_with_it(self) -> None:
        room, event = self.creation()
        assert room.allows(event)

    def test_nothing_may_come_before_it(self) -> None:
        room, event = self.creation(prev_events=("$earlier:a.example",))
        room.refuses(event, "created only once")

    def test_there_is_only_one(self) -> None:
        room = Room()
        room.refuses(room.event("m.room.create", {"creator": ALICE}, ""), "created only once")

    def test_its_state_key_is_empty(self) -> None:
        room, event = self.creation(state_key="x")
        room.refuses(event, "empty state key")

    def test_nobody_creates_for_somebody_else(self) -> None:
        room, event = self.creation(content={"creator": BOB})
        room.refuses(event, "for somebody else")

    def test_room_id_names_the_creators_server(self) -> None:
        room, event = self.creation(sender=BOB)
        room.refuses(event, "must name the server")
        room.rules = replace(SPEC_2014, room_id_form="create-event-hash")
        assert room.allows(event)


class TestBeingInside:
    """Only members in `join` send anything but their own membership (PERM-5)."""

    @pytest.mark.parametrize("membership", ["none", "invite", "leave", "ban", "knock"])
    def test_who_is_not_in_the_room_says_nothing(self, membership: str) -> None:
        room = full_room({ALICE: 100, BOB: 100})
        room.member(BOB, membership)
        sentence = "You are banned" if membership == "ban" else "You are not in this room"
        room.refuses(message(room, BOB), sentence)
        room.refuses(topic(room, BOB), sentence)
        room.refuses(room.event("m.room.aliases", {"aliases": []}, "b.example", sender=BOB), sentence)
        room.member(BOB, "join")
        assert room.allows(message(room, BOB))
        assert room.allows(topic(room, BOB))

    def test_nothing_is_said_before_the_room_exists(self) -> None:
        room = full_room()
        event = message(room, ALICE)
        del room.state["m.room.create", ""]
        room.refuses(event, "no such room")

    def test_nothing_is_allowed_by_the_state_of_another_room(self) -> None:
        room = full_room()
        room.refuses(replace(message(room, ALICE), room_id="!other:a.example"), "no such room")


class TestSending:
    """What is not state takes the send_event_level (PERM-3)."""

    @pytest.mark.parametrize(("sender", "allowed"), [(BOB, True), (CAROL, False)])
    def test_it_takes_50_where_the_room_is_silent(self, sender: str, allowed: bool) -> None:
        room = full_room()
        assert room.allows(message(room, sender)) == allowed

    @pytest.mark.parametrize(("level", "allowed"), [(0, True), (1, False)])
    def test_it_takes_what_the_room_says(self, level: int, allowed: bool) -> None:
        room = full_room()
        room.put("m.room.send_event_level", {"level": level})
        assert room.allows(message(room, CAROL)) == allowed

    def test_one_user_can_be_muted(self) -> None:
        room = full_room({ALICE: 100, CAROL: -1})
        room.put("m.room.send_event_level", {"level": 0})
        assert room.allows(message(room, DAVE))
        room.refuses(message(room, CAROL), "You need power level 0")


class TestState:
    """New state, existing state, and whose state it is (PERM-3)."""

    @pytest.mark.parametrize(("sender", "allowed"), [(BOB, True), (CAROL, False)])
    def test_new_state_takes_50_where_the_room_is_silent(self, sender: str, allowed: bool) -> None:
        room = full_room()
        assert room.allows(topic(room, sender)) == allowed

    @pytest.mark.parametrize(("level", "allowed"), [(50, True), (51, False)])
    def test_new_state_takes_the_level_for_new_state(self, level: int, allowed: bool) -> None:
        room = full_room()
        room.put("m.room.add_state_level", {"level": level})
        assert room.allows(topic(room, BOB)) == allowed

    @pytest.mark.parametrize(("required", "allowed"), [(50, True), (51, False)])
    def test_existing_state_takes_what_it_requires(self, required: int, allowed: bool) -> None:
        room = full_room()
        room.put("m.room.topic", {"topic": "old"}, required_power_level=required)
        assert room.allows(topic(room, BOB)) == allowed

    def test_existing_state_that_requires_nothing_is_open_to_all_members(self) -> None:
        room = full_room({ALICE: 100, CAROL: -10})
        room.put("m.room.topic", {"topic": "old"})
        room.put("m.room.add_state_level", {"level": 100})
        assert room.allows(topic(room, CAROL))

    def test_existing_state_with_another_key_does_not_count(self) -> None:
        room = full_room()
        room.put("org.example.colour", {}, "wall")
        assert room.allows(room.event("org.example.colour", {}, "wall", sender=CAROL))
        assert not room.allows(room.event("org.example.colour", {}, "floor", sender=CAROL))

    @pytest.mark.parametrize(("required", "allowed"), [(-5, True), (50, True), (51, False)])
    def test_nobody_requires_more_than_they_have(self, required: int, allowed: bool) -> None:
        room = full_room()
        assert room.allows(topic(room, BOB, required_power_level=required)) == allowed

    def test_state_with_a_users_key_is_theirs_alone(self) -> None:
        room = full_room({ALICE: 100, BOB: 50, CAROL: 50})
        event = room.event("org.example.animal", {"animal": "cat"}, BOB, sender=BOB)
        assert room.allows(event)
        room.refuses(replace(event, sender=CAROL), "by that user only")
        room.refuses(replace(event, sender=ALICE), "by that user only")
        room.refuses(replace(event, state_key="@"), "by that user only")

    def test_rules_may_leave_users_keys_to_everybody(self) -> None:
        room = full_room()
        room.rules = replace(SPEC_2014, own_user_state_keys=False)
        assert room.allows(room.event("org.example.animal", {}, BOB, sender=ALICE))

    def test_a_users_own_state_still_takes_the_level_for_new_state(self) -> None:
        room = full_room()
        room.refuses(room.event("org.example.animal", {}, CAROL, sender=CAROL), "You need power level 50")


class TestRuleEvents:
    """The five level and rule events always take at least 50 (PERM-3)."""

    @pytest.mark.parametrize("event_type", sorted(RULE_TYPES))
    @pytest.mark.parametrize(("level", "allowed"), [(49, False), (50, True)])
    @pytest.mark.parametrize("required", [None, 0, 49, 50])
    def test_replacing_them_takes_50(self, event_type: str, level: int, allowed: bool, required: int | None) -> None:
        room = full_room({ALICE: 100, BOB: level})
        content = {ALICE: 100, BOB: level} if event_type == "m.room.power_levels" else RULE_TYPES[event_type]
        room.put(event_type, content, required_power_level=required)
        assert room.allows(room.event(event_type, content, "", sender=BOB)) == allowed

    @pytest.mark.parametrize("event_type", sorted(RULE_TYPES))
    @pytest.mark.parametrize(("level", "allowed"), [(79, False), (80, True)])
    def test_replacing_them_takes_more_where_more_is_required(self, event_type: str, level: int, allowed: bool) -> None:
        room = full_room({ALICE: 100, BOB: level})
        content = {ALICE: 100, BOB: level} if event_type == "m.room.power_levels" else RULE_TYPES[event_type]
        room.put(event_type, content, required_power_level=80)
        assert room.allows(room.event(event_type, content, "", sender=BOB)) == allowed

    @pytest.mark.parametrize("event_type", sorted(RULE_TYPES.keys() - {"m.room.power_levels"}))
    @pytest.mark.parametrize(("sender", "allowed"), [(BOB, True), (CAROL, False)])
    def test_setting_them_takes_50_even_where_new_state_is_free(
        self, event_type: str, sender: str, allowed: bool
    ) -> None:
        room = full_room()
        room.put("m.room.add_state_level", {"level": 0})
        room.state = {slot: event for slot, event in room.state.items() if slot[0] != event_type}
        content = {"level": 0} if event_type.endswith("level") else RULE_TYPES[event_type]
        assert room.allows(room.event(event_type, content, "", sender=sender)) == allowed
        assert room.allows(room.event("org.example.other", {}, "", sender=CAROL)) == (
            event_type != "m.room.add_state_level"
        )


class TestLevels:
    """Nobody moves a level that is, or would be, above their own (PERM-2)."""

    @pytest.mark.parametrize("event_type", ["m.room.add_state_level", "m.room.send_event_level"])
    @pytest.mark.parametrize(
        ("old", "new", "allowed"),
        [
            (None, 50, True),
            (None, 51, False),
            (None, 0, True),
            (10, 50, True),
            (10, 51, False),
            (50, 0, True),
            (51, 0, False),
            (51, 50, False),
            (100, 100, True),
            (-5, -10, True),
        ],
    )
    def test_single_level(self, event_type: str, old: int | None, new: int, allowed: bool) -> None:
        room = full_room()
        if old is not None:
            room.put(event_type, {"level": old})
        assert room.allows(room.event(event_type, {"level": new}, "", sender=BOB)) == allowed

    @pytest.mark.parametrize("key", ["ban_level", "kick_level", "redact_level"])
    @pytest.mark.parametrize(
        ("old", "new", "allowed"),
        [
            (None, 50, True),
            (None, 51, False),
            (50, 0, True),
            (51, 0, False),
            (51, None, False),
            (0, 51, False),
            (80, 80, True),
        ],
    )
    def test_level_of_an_operation(self, key: str, old: int | None, new: int | None, allowed: bool) -> None:
        room = full_room()
        room.put("m.room.ops_levels", {} if old is None else {key: old})
        content = {} if new is None else {key: new}
        assert room.allows(room.event("m.room.ops_levels", content, "", sender=BOB)) == allowed

    def test_level_events_with_another_state_key_rule_nothing(self) -> None:
        room = full_room()
        assert room.allows(room.event("m.room.send_event_level", {"level": 100}, "x", sender=BOB))


class TestGivingAndTakingPower:
    """m.room.power_levels (PERM-1, PERM-2). The sender has 50; Alice has 100, Carol 50, Dave 20."""

    OLD: ClassVar = {ALICE: 100, BOB: 50, CAROL: 50, DAVE: 20, "default": 0}

    @pytest.mark.parametrize(
        ("changes", "allowed"),
        [
            ({}, True),
            # Giving.
            ({DAVE: 50}, True),
            ({DAVE: 51}, False),
            ({"@new:a.example": 50}, True),
            ({"@new:a.example": 51}, False),
            # Taking.
            ({DAVE: 0}, True),
            ({DAVE: None}, True),
            ({DAVE: -100}, True),
            ({CAROL: 49}, False),
            ({CAROL: None}, False),
            ({CAROL: 60}, False),
            ({ALICE: 99}, False),
            ({ALICE: None}, False),
            ({ALICE: 101}, False),
            # Oneself.
            ({BOB: 51}, False),
            ({BOB: 49}, True),
            ({BOB: None}, True),
            # Everybody else.
            ({"default": 50}, True),
            ({"default": 51}, False),
            ({"default": -10}, True),
            ({"default": None}, True),
            # What is said anew but stays the same.
            ({"@new:a.example": 0}, True),
            # One good change does not excuse a bad one.
            ({DAVE: 10, CAROL: 10}, False),
        ],
    )
    def test_who_has_50(self, changes: dict[str, int | None], allowed: bool) -> None:
        room = full_room(self.OLD)
        new = {user: level for user, level in (self.OLD | changes).items() if level is not None}
        assert room.allows(room.event("m.room.power_levels", new, "", sender=BOB)) == allowed

    @pytest.mark.parametrize(("new", "allowed"), [(49, False), (51, False), (50, True)])
    def test_default_that_is_as_high_as_the_senders_level_cannot_be_moved(self, new: int, allowed: bool) -> None:
        old = {ALICE: 100, BOB: 50, "default": 50}
        room = full_room(old)
        assert room.allows(room.event("m.room.power_levels", old | {"default": new}, "", sender=BOB)) == allowed

    def test_taking_somebodys_entry_away_cannot_raise_them_above_the_sender(self) -> None:
        old = {ALICE: 100, BOB: 50, CAROL: 0, "default": 90}
        room = full_room(old)
        room.refuses(
            room.event("m.room.power_levels", {ALICE: 100, BOB: 50, "default": 90}, "", sender=BOB),
            "give more power than you have",
        )

    def test_giving_up_ones_entry_cannot_raise_oneself(self) -> None:
        room = full_room({ALICE: 100, BOB: 50, "default": 90})
        event = room.event("m.room.power_levels", {ALICE: 100, "default": 90}, "", sender=BOB)
        room.refuses(event, "give more power than you have")

    def test_first_power_levels_come_from_the_creator(self) -> None:
        room = Room()
        assert room.allows(room.event("m.room.power_levels", {ALICE: 100}, ""))
        room.refuses(room.event("m.room.power_levels", {ALICE: 101}, ""), "give more power")
        room.member(BOB, "join")
        assert not room.allows(room.event("m.room.power_levels", {BOB: 100}, "", sender=BOB))

    levels = st.dictionaries(
        st.sampled_from([ALICE, BOB, CAROL, DAVE, "default"]), st.sampled_from([0, 20, 49, 50, 51, 100])
    )

    @given(levels, levels)
    def test_nobody_ever_gains_and_no_equal_ever_loses(self, old: dict[str, int], new: dict[str, int]) -> None:
        room = full_room(old)
        event = room.event("m.room.power_levels", new, "", sender=BOB)
        before = PowerLevels.from_state(room.rules, room.state)
        after = PowerLevels.from_state(room.rules, {event.state_slot: event})
        own = before.user(BOB)
        if not room.allows(event):
            return
        assert own >= 50
        for user in (ALICE, BOB, CAROL, DAVE, "@stranger:a.example"):
            if before.user(user) != after.user(user):
                assert after.user(user) <= own
                assert user == BOB or before.user(user) < own


class TestAliases:
    """A server tells its own aliases, by any of its members (PERM-3, ROOM-4)."""

    @staticmethod
    def aliases(room: Room, server: str, sender: str, **fields: Any) -> Event:
        return room.event("m.room.aliases", {"aliases": []}, server, sender=sender, **fields)

    def test_any_member_will_do_whatever_their_level(self) -> None:
        room = full_room({ALICE: 100, CAROL: -100})
        assert room.allows(self.aliases(room, "c.example", CAROL))
        room.put("m.room.aliases", {"aliases": []}, "c.example", required_power_level=100)
        assert room.allows(self.aliases(room, "c.example", CAROL))

    def test_no_power_is_enough_to_speak_for_another_server(self) -> None:
        room = full_room()
        room.refuses(self.aliases(room, "c.example", ALICE), "only its own aliases")

    def test_elsewhere_they_may_be_state_like_any_other(self) -> None:
        room = full_room()
        room.rules = replace(SPEC_2014, aliases_by_server=None)
        assert room.allows(self.aliases(room, "c.example", BOB))
        assert not room.allows(self.aliases(room, "c.example", CAROL))


class TestRedactions:
    """By level, or from the server of what is redacted (RED-1)."""

    @staticmethod
    def redaction(room: Room, sender: str, target: str | None) -> Event:
        room.put("m.room.send_event_level", {"level": 0})
        return room.event("m.room.redaction", {}, sender=sender, redacts=target)

    @pytest.mark.parametrize(("level", "allowed"), [(50, True), (51, False)])
    def test_what_others_said_takes_the_redact_level(self, level: int, allowed: bool) -> None:
        room = full_room()
        room.put("m.room.ops_levels", {"redact_level": level})
        assert room.allows(self.redaction(room, BOB, "$x:a.example")) == allowed

    def test_what_was_said_on_ones_own_server_takes_no_power(self) -> None:
        room = full_room()
        assert room.allows(self.redaction(room, CAROL, "$x:c.example"))
        room.refuses(self.redaction(room, CAROL, "$x:a.example"), "You need power level 50 to redact")

    def test_elsewhere_it_may_take_the_level_always(self) -> None:
        room = full_room()
        room.rules = replace(SPEC_2014, redaction_by_own_server=False)
        assert not room.allows(self.redaction(room, CAROL, "$x:c.example"))
        assert room.allows(self.redaction(room, BOB, "$x:c.example"))

    def test_redaction_without_a_target_is_refused(self) -> None:
        room = full_room()
        room.refuses(self.redaction(room, ALICE, None), "does not say what")

    def test_redaction_takes_the_level_for_sending_too(self) -> None:
        room = full_room()
        event = self.redaction(room, CAROL, "$x:c.example")
        room.put("m.room.send_event_level", {"level": 1})
        room.refuses(event, "You need power level 1 to send")


class TestAuthTypes:
    """What decides on an event, and no more."""

    @pytest.mark.parametrize(
        ("draft", "types"),
        [
            (EventDraft(ROOM_ID, "m.room.create", ALICE, {"creator": ALICE}, ""), []),
            (
                EventDraft(ROOM_ID, "m.room.message", ALICE, {}),
                ["m.room.create", "m.room.power_levels", "m.room.member", "m.room.send_event_level"],
            ),
            (
                EventDraft(ROOM_ID, "m.room.redaction", ALICE, {}, redacts="$x:a.example"),
                [
                    "m.room.create",
                    "m.room.power_levels",
                    "m.room.member",
                    "m.room.send_event_level",
                    "m.room.ops_levels",
                ],
            ),
            (
                EventDraft(ROOM_ID, "m.room.topic", ALICE, {}, ""),
                ["m.room.create", "m.room.power_levels", "m.room.member", "m.room.topic", "m.room.add_state_level"],
            ),
            (
                EventDraft(ROOM_ID, "m.room.power_levels", ALICE, {}, ""),
                ["m.room.create", "m.room.power_levels", "m.room.member", "m.room.add_state_level"],
            ),
            (
                EventDraft(ROOM_ID, "m.room.aliases", ALICE, {}, "a.example"),
                ["m.room.create", "m.room.power_levels", "m.room.member", "m.room.aliases"],
            ),
            (
                EventDraft(ROOM_ID, "m.room.member", ALICE, {"membership": "join"}, ALICE),
                ["m.room.create", "m.room.power_levels", "m.room.member", "m.room.join_rules"],
            ),
            (
                EventDraft(ROOM_ID, "m.room.member", ALICE, {"membership": "leave"}, ALICE),
                ["m.room.create", "m.room.power_levels", "m.room.member"],
            ),
            (
                EventDraft(ROOM_ID, "m.room.member", ALICE, {"membership": "invite"}, BOB),
                ["m.room.create", "m.room.power_levels", "m.room.member", "m.room.member", "m.room.join_rules"],
            ),
            (
                EventDraft(ROOM_ID, "m.room.member", ALICE, {"membership": "ban"}, BOB),
                ["m.room.create", "m.room.power_levels", "m.room.member", "m.room.member", "m.room.ops_levels"],
            ),
        ],
    )
    def test_for_each_kind_of_event(self, draft: EventDraft, types: list[str]) -> None:
        slots = auth_types_for(SPEC_2014, draft)
        assert [event_type for event_type, _ in slots] == types
        assert len(set(slots)) == len(slots)

    def test_members_are_the_sender_and_the_target(self) -> None:
        slots = auth_types_for(SPEC_2014, EventDraft(ROOM_ID, "m.room.member", ALICE, {"membership": "ban"}, BOB))
        assert {key for event_type, key in slots if event_type == "m.room.member"} == {ALICE, BOB}


class TestRequiredPowerLevel:
    """What replacing an event is to need, if its sender did not say (PERM-3, MEM-3)."""

    @staticmethod
    def required(room: Room, event_type: str, content: dict[str, Any], state_key: str | None) -> int | None:
        draft = EventDraft(ROOM_ID, event_type, ALICE, content, state_key)
        part = {slot: room.state[slot] for slot in auth_types_for(room.rules, draft) if slot in room.state}
        return required_power_level_for(room.rules, draft, part)

    @pytest.mark.parametrize("required", [None, 0, 70])
    def test_it_carries_over_from_the_replaced_event(self, required: int | None) -> None:
        room = full_room()
        room.put("m.room.topic", {"topic": "old"}, required_power_level=required)
        assert self.required(room, "m.room.topic", {"topic": "new"}, "") == required

    def test_new_state_requires_nothing(self) -> None:
        assert self.required(full_room(), "m.room.topic", {"topic": "new"}, "") is None

    def test_what_is_not_state_requires_nothing(self) -> None:
        assert self.required(full_room(), "m.room.message", {}, None) is None

    @pytest.mark.parametrize(("target", "level"), [(BOB, 51), (CAROL, 1)])
    def test_ban_requires_one_more_than_the_target_has(self, target: str, level: int) -> None:
        room = full_room()
        assert self.required(room, "m.room.member", {"membership": "ban"}, target) == level

    @pytest.mark.parametrize("membership", ["leave", "invite", "join", "knock"])
    def test_a_lifted_ban_leaves_no_requirement_behind(self, membership: str) -> None:
        room = full_room()
        room.member(CAROL, "ban", sender=ALICE, required_power_level=80)
        assert self.required(room, "m.room.member", {"membership": membership}, CAROL) is None
