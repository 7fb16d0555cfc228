"""Who may see an event (client-server API, "Room History Visibility")."""

from typing import Any

import pytest
from hypothesis import given

from synapse_like.protocol.events import Event
from synapse_like.protocol.room_versions import ALL_RULES, SPEC_2014, V1, V11, RoomRules
from synapse_like.protocol.visibility import HISTORY_VISIBILITIES, may_see, visibility_slots_for
from tests.protocol.room import ALICE, BOB, Room
from tests.protocol.strategies import any_values

MEMBERSHIPS = ("none", "invite", "join", "leave", "ban", "knock")

SEEN = {
    # visibility: the memberships that see at once, and whether those see who join later
    "world_readable": (set(MEMBERSHIPS), True),
    "shared": ({"join"}, True),
    "invited": ({"join", "invite"}, False),
    "joined": ({"join"}, False),
}


def room_with(membership: str, visibility: Any, rules: RoomRules = V11) -> Room:
    room = Room(rules=rules)
    room.member(BOB, membership)
    set_visibility(room, visibility)
    return room


def set_visibility(room: Room, visibility: Any) -> Event:
    event = room.unchecked("m.room.history_visibility", {"history_visibility": visibility}, "")
    room.state[event.state_slot] = event
    return event


def sees(room: Room, event: Event, *, joined_since: bool = False) -> bool:
    part = {slot: room.state[slot] for slot in visibility_slots_for(BOB) if slot in room.state}
    whole = may_see(room.rules, event, room.state, BOB, joined_since=joined_since)
    assert whole == may_see(room.rules, event, part, BOB, joined_since=joined_since)
    return whole


def message(room: Room) -> Event:
    return room.unchecked("m.room.message", {})


@pytest.mark.parametrize("visibility", HISTORY_VISIBILITIES)
@pytest.mark.parametrize("membership", MEMBERSHIPS)
def test_message_is_seen_by_whom_the_room_lets(visibility: str, membership: str) -> None:
    at_once, later = SEEN[visibility]
    room = room_with(membership, visibility)
    assert sees(room, message(room)) == (membership in at_once)
    assert sees(room, message(room), joined_since=True) == (membership in at_once or later)


@pytest.mark.parametrize("rules", ALL_RULES, ids=lambda rules: rules.name)
def test_silent_room_shares_its_history_with_its_members(rules: RoomRules) -> None:
    room = Room(rules=rules)
    assert sees(room, message(room), joined_since=True)
    assert not sees(room, message(room))
    room.member(BOB, "join")
    assert sees(room, message(room))


def test_room_of_2014_cannot_say_otherwise() -> None:
    room = room_with("none", "joined", SPEC_2014)
    assert sees(room, message(room), joined_since=True)
    set_visibility(room, "world_readable")
    assert not sees(room, message(room))


@given(any_values)
def test_visibility_that_nobody_knows_is_shared(visibility: Any) -> None:
    room = room_with("none", visibility)
    assert sees(room, message(room), joined_since=True)
    assert not sees(room, message(room))


@pytest.mark.parametrize(
    ("before", "after", "seen"),
    [
        ("joined", "world_readable", True),
        ("world_readable", "joined", True),
        ("joined", "invited", True),
        ("joined", "shared", False),
        ("shared", "joined", False),
    ],
)
def test_change_of_visibility_is_seen_by_those_of_before_and_of_after(before: str, after: str, seen: bool) -> None:
    room = room_with("invite", before)
    change = room.event("m.room.history_visibility", {"history_visibility": after}, "")
    assert sees(room, change) == seen


def test_change_of_visibility_elsewhere_than_in_the_state_of_the_room_counts_as_any_event() -> None:
    room = room_with("none", "joined")
    assert not sees(room, room.unchecked("m.room.history_visibility", {"history_visibility": "world_readable"}, "x"))
    assert not sees(room, room.unchecked("m.room.history_visibility", {"history_visibility": "world_readable"}))


@pytest.mark.parametrize(
    ("before", "after", "seen"),
    [("none", "join", True), ("join", "leave", True), ("join", "ban", True), ("invite", "leave", False)],
)
def test_change_of_ones_own_membership_is_seen_by_who_was_in_or_is(before: str, after: str, seen: bool) -> None:
    room = room_with(before, "joined")
    assert sees(room, room.event("m.room.member", {"membership": after}, BOB, sender=BOB)) == seen


def test_ones_own_invite_is_seen_where_the_invited_see() -> None:
    for visibility, seen in (("invited", True), ("joined", False), ("shared", False)):
        room = room_with("none", visibility, V1)
        assert sees(room, room.event("m.room.member", {"membership": "invite"}, BOB)) == seen


def test_change_of_anothers_membership_counts_as_any_event() -> None:
    room = room_with("none", "joined")
    assert not sees(room, room.event("m.room.member", {"membership": "join"}, ALICE))
