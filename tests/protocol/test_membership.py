"""Coming and going: every change of membership, under every rule that bears on it (MEM-1 to MEM-4).

`SELF` and `OTHERS` say once more who may do what, in another way than the code's table does.
"""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from synapse_like.protocol.events import Event
from synapse_like.protocol.membership import LAWS, By
from synapse_like.protocol.room_versions import SPEC_2014
from tests.protocol import membership_table
from tests.protocol.room import ALICE, BOB, CAROL, Room

MEMBERSHIPS = ("none", "invite", "join", "leave", "ban", "knock")
AFTER = ("invite", "join", "leave", "ban", "knock")
CHANGES = list(product(MEMBERSHIPS, AFTER))
JOIN_RULES = ("public", "invite", "knock", "private")

SELF = {
    # (before, after): the join rules under which people may do it for themselves.
    ("none", "join"): {"public"},
    ("leave", "join"): {"public"},
    ("knock", "join"): {"public"},
    ("invite", "join"): {"public", "invite", "knock"},
    ("join", "join"): set(JOIN_RULES),
    ("none", "knock"): {"knock"},
    ("leave", "knock"): {"knock"},
    ("invite", "leave"): set(JOIN_RULES),
    ("join", "leave"): set(JOIN_RULES),
    ("knock", "leave"): set(JOIN_RULES),
}

OTHERS = {
    # (before, after): the join rules under which an operator may do it to others.
    ("none", "invite"): {"public", "invite", "knock"},
    ("leave", "invite"): {"public", "invite", "knock"},
    ("invite", "invite"): {"public", "invite", "knock"},
    ("knock", "invite"): {"public", "invite", "knock"},
    ("invite", "leave"): set(JOIN_RULES),
    ("join", "leave"): set(JOIN_RULES),
    ("knock", "leave"): set(JOIN_RULES),
    ("ban", "leave"): set(JOIN_RULES),
    **{(before, "ban"): set(JOIN_RULES) for before in MEMBERSHIPS},
}


def change(room: Room, target: str, membership: str, *, sender: str, **fields: Any) -> Event:
    """The event of a change of membership. A ban asks for 1, which is enough against a target without power."""
    if membership == "ban":
        fields.setdefault("required_power_level", 1)
    return room.event("m.room.member", {"membership": membership}, target, sender=sender, **fields)


def room_with(membership: str, join_rule: str = "invite", /, **levels: int) -> Room:
    """A room with an operator (Alice) and one user of some membership (Bob); others by their levels."""
    room = Room({ALICE: 100, **{f"@{name}:{name[0]}.example": level for name, level in levels.items()}})
    room.join_rule(join_rule)
    if membership == "ban":
        room.member(BOB, "ban", sender=ALICE, required_power_level=1)
    else:
        room.member(BOB, membership)
    return room


@pytest.mark.parametrize(("before", "after"), CHANGES)
@pytest.mark.parametrize("join_rule", JOIN_RULES)
def test_people_may_do_for_themselves_what_the_join_rule_allows(before: str, after: str, join_rule: str) -> None:
    room = room_with(before, join_rule)
    allowed = join_rule in SELF.get((before, after), set())
    event = change(room, BOB, after, sender=BOB, required_power_level=None)
    assert room.allows(event) == allowed


@pytest.mark.parametrize(("before", "after"), CHANGES)
@pytest.mark.parametrize("join_rule", JOIN_RULES)
def test_operators_may_do_to_others_what_the_join_rule_allows(before: str, after: str, join_rule: str) -> None:
    room = room_with(before, join_rule)
    allowed = join_rule in OTHERS.get((before, after), set())
    assert room.allows(change(room, BOB, after, sender=ALICE)) == allowed


@pytest.mark.parametrize(("before", "after"), CHANGES)
@pytest.mark.parametrize("sender", [membership for membership in MEMBERSHIPS if membership != "join"])
def test_who_is_not_in_the_room_may_do_nothing_to_others(before: str, after: str, sender: str) -> None:
    room = room_with(before, "public", carol=100)
    room.member(CAROL, sender)
    assert not room.allows(change(room, BOB, after, sender=CAROL))
    room.member(CAROL, "join")
    assert room.allows(change(room, BOB, after, sender=CAROL)) == ((before, after) in OTHERS)


@pytest.mark.parametrize(
    ("before", "after", "without_power"),
    [
        ("none", "invite", True),
        ("leave", "invite", True),
        ("knock", "invite", True),
        ("knock", "leave", True),
        ("invite", "leave", False),
        ("join", "leave", False),
        ("ban", "leave", False),
        ("none", "ban", False),
        ("join", "ban", False),
        ("ban", "ban", False),
    ],
)
def test_inviting_and_answering_knocks_take_no_power_and_the_rest_does(
    before: str, after: str, without_power: bool
) -> None:
    room = room_with(before, carol=0)
    room.member(CAROL, "join")
    event = change(room, BOB, after, sender=CAROL, required_power_level=None)
    assert room.allows(event) == without_power


@pytest.mark.parametrize("before", ["none", "leave", "knock"])
def test_room_without_a_join_rule_is_joined_by_invite(before: str) -> None:
    room = room_with(before)
    del room.state["m.room.join_rules", ""]
    room.refuses(change(room, BOB, "join", sender=BOB), "You need an invite")
    room.member(BOB, "invite", sender=ALICE)
    assert room.allows(change(room, BOB, "join", sender=BOB))


class TestCreatorsFirstJoin:
    """The creator comes in directly after the creation, when there is nobody to invite them."""

    @staticmethod
    def new_room(join_rule: str | None = None) -> Room:
        room = Room()
        room.member(ALICE, "none")
        if join_rule is not None:
            room.join_rule(join_rule)
        return room

    @staticmethod
    def first_join(room: Room, user_id: str = ALICE) -> Event:
        after_creation = (room.state["m.room.create", ""].event_id,)
        return change(room, user_id, "join", sender=user_id, prev_events=after_creation)

    def test_creator_joins_without_an_invite(self) -> None:
        room = self.new_room()
        assert room.allows(self.first_join(room))

    def test_nobody_else_does(self) -> None:
        room = self.new_room()
        room.refuses(self.first_join(room, BOB), "You need an invite")

    def test_later_the_creator_does_not_either(self) -> None:
        room = self.new_room()
        room.refuses(change(room, ALICE, "join", sender=ALICE), "You need an invite")

    @pytest.mark.parametrize("before", ["leave", "ban"])
    def test_creator_who_was_in_the_room_cannot_claim_a_first_join(self, before: str) -> None:
        room = self.new_room()
        room.member(ALICE, before, sender=BOB)
        assert not room.allows(self.first_join(room))


class TestKickAndBan:
    """Power over others (MEM-3)."""

    @pytest.mark.parametrize(("level", "allowed"), [(29, False), (30, True)])
    @pytest.mark.parametrize("before", ["join", "invite"])
    def test_kick_takes_the_kick_level(self, before: str, level: int, allowed: bool) -> None:
        room = room_with(before, carol=level)
        room.member(CAROL, "join")
        room.put("m.room.ops_levels", {"kick_level": 30})
        assert room.allows(change(room, BOB, "leave", sender=CAROL)) == allowed

    @pytest.mark.parametrize(("level", "allowed"), [(29, False), (30, True)])
    @pytest.mark.parametrize("before", ["join", "invite", "none", "leave", "knock", "ban"])
    def test_ban_takes_the_ban_level(self, before: str, level: int, allowed: bool) -> None:
        room = room_with(before, carol=level)
        room.member(CAROL, "join")
        room.put("m.room.ops_levels", {"ban_level": 30})
        assert room.allows(change(room, BOB, "ban", sender=CAROL)) == allowed

    @pytest.mark.parametrize(("bob", "allowed"), [(59, True), (60, False), (61, False)])
    @pytest.mark.parametrize("after", ["leave", "ban"])
    def test_kick_and_ban_take_more_power_than_the_target_has(self, after: str, bob: int, allowed: bool) -> None:
        room = room_with("join", carol=60, bob=bob)
        room.member(CAROL, "join")
        event = change(room, BOB, after, sender=CAROL, required_power_level=60 if after == "ban" else None)
        assert room.allows(event) == allowed

    @pytest.mark.parametrize(("required", "allowed"), [(None, False), (0, False), (20, False), (21, True), (100, True)])
    def test_ban_must_require_more_power_than_the_target_has(self, required: int | None, allowed: bool) -> None:
        room = room_with("join", bob=20)
        event = change(room, BOB, "ban", sender=ALICE, required_power_level=required)
        assert room.allows(event) == allowed

    def test_ban_cannot_require_more_than_its_sender_has(self) -> None:
        room = room_with("join")
        event = change(room, BOB, "ban", sender=ALICE, required_power_level=101)
        room.refuses(event, "You cannot require more power than you have")

    @pytest.mark.parametrize(("level", "allowed"), [(49, False), (50, True)])
    def test_unban_takes_the_ban_level(self, level: int, allowed: bool) -> None:
        room = room_with("ban", carol=level)
        room.member(CAROL, "join")
        assert room.allows(change(room, BOB, "leave", sender=CAROL)) == allowed

    @pytest.mark.parametrize(("level", "allowed"), [(79, False), (80, True)])
    @pytest.mark.parametrize("after", ["leave", "ban"])
    def test_ban_is_lifted_or_changed_by_whom_it_requires(self, after: str, level: int, allowed: bool) -> None:
        room = room_with("none", carol=level)
        room.member(CAROL, "join")
        room.member(BOB, "ban", sender=ALICE, required_power_level=80)
        assert room.allows(change(room, BOB, after, sender=CAROL)) == allowed

    def test_ban_that_requires_less_than_the_ban_level_is_lifted_by_the_ban_level_only(self) -> None:
        room = room_with("none", carol=49)
        room.member(CAROL, "join")
        for required in (None, 0, 10):
            room.member(BOB, "ban", sender=ALICE, required_power_level=required)
            assert not room.allows(change(room, BOB, "leave", sender=CAROL))

    @pytest.mark.parametrize("after", ["join", "invite", "leave", "knock"])
    def test_banned_user_can_change_nothing_about_it(self, after: str) -> None:
        room = room_with("ban", "public", bob=100)
        assert not room.allows(change(room, BOB, after, sender=BOB))


def test_member_cannot_ask_more_of_others_than_they_have() -> None:
    room = room_with("invite")
    assert room.allows(change(room, BOB, "join", sender=BOB, required_power_level=0))
    room.refuses(change(room, BOB, "join", sender=BOB, required_power_level=1), "require more power")


def test_rooms_whose_rules_know_no_knock_hear_none() -> None:
    room = room_with("none", "knock")
    knock = change(room, BOB, "knock", sender=BOB)
    assert room.allows(knock)
    room.rules = replace(SPEC_2014, knock_allowed=False)
    room.refuses(knock, "'content.membership' must be one of invite, join, leave, ban")


@pytest.mark.parametrize(
    ("bob", "join_rule", "sender", "after", "sentence"),
    [
        ("ban", "public", BOB, "join", r"^You are banned from this room\.$"),
        ("none", "invite", BOB, "join", r"^You need an invite to join this room\.$"),
        ("none", "private", BOB, "join", r"^This room is closed"),
        ("invite", "private", BOB, "join", r"^This room is closed"),
        ("none", "public", ALICE, "join", r"^Nobody can join a room for somebody else\.$"),
        ("join", "public", ALICE, "invite", r"^@bob:b\.example is in this room already\.$"),
        ("ban", "public", ALICE, "invite", r"^@bob:b\.example is banned from this room\.$"),
        ("none", "private", ALICE, "invite", r"^This room is closed"),
        ("leave", "public", BOB, "leave", r"^You are not in this room\.$"),
        ("none", "public", ALICE, "leave", r"^@bob:b\.example is not in this room\.$"),
        ("none", "public", BOB, "knock", r"^One cannot knock on this room\.$"),
        ("join", "knock", BOB, "knock", r"^The membership of @bob:b\.example cannot go from join to knock\.$"),
    ],
)
def test_refusal_says_why(bob: str, join_rule: str, sender: str, after: str, sentence: str) -> None:
    room = room_with(bob, join_rule)
    room.refuses(change(room, BOB, after, sender=sender), sentence)


def test_refusal_says_what_power_is_missing() -> None:
    room = room_with("join", carol=10)
    room.member(CAROL, "join")
    room.refuses(change(room, BOB, "leave", sender=CAROL), "You need power level 50 to kick")
    room.refuses(change(room, ALICE, "leave", sender=BOB), "You need power level 50 to kick")
    room.put("m.room.ops_levels", {"kick_level": 0})
    room.refuses(change(room, ALICE, "leave", sender=CAROL), "You need more power than @alice:a.example has")


@pytest.mark.parametrize("family", sorted(LAWS))
def test_table_has_no_two_rows_for_one_change(family: str) -> None:
    law = LAWS[family]
    changes = [(before, row.after, row.by) for row in law.transitions for before in row.before]
    assert len(changes) == len(set(changes)) == len(law.table)
    assert {by for _, _, by in changes} == set(By)


def test_documentation_shows_the_tables() -> None:
    document = Path(__file__).parents[2] / "docs" / "membership.md"
    assert document.read_text() == membership_table.document(), (
        "make it anew: python -m tests.protocol.membership_table"
    )
