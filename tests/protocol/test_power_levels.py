"""Power levels: what a room says, and what holds where it is silent (PERM-1, PERM-3, PERM-4)."""

from synapse_like.protocol.power_levels import PowerLevels
from synapse_like.protocol.room_versions import SPEC_2014
from tests.protocol.room import ALICE, BOB, Room


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
