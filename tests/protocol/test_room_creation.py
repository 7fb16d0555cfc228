"""What a room begins with (ROOM-2): the same order and the same powers in every version."""

from __future__ import annotations

import pytest

from synapse_like.protocol.contents import check_content
from synapse_like.protocol.errors import AuthError
from synapse_like.protocol.events import EventDraft
from synapse_like.protocol.room_creation import create_event, description, opening_events
from synapse_like.protocol.room_versions import ALL_RULES, SPEC_2014, RoomRules
from tests.protocol.room import BOB, VERSIONS
from tests.support.forking_rooms import CREATOR, Branch, ForkingRoom

every_version = pytest.mark.parametrize("rules", ALL_RULES, ids=lambda rules: rules.name)


def opened(rules: RoomRules, *, is_public: bool = False) -> tuple[Branch, list[EventDraft]]:
    """A room after its opening; each event was allowed in its turn, and has the content that its type demands."""
    given_id = "!room:a.example" if rules.room_id_names_server else ""
    branch = Branch(ForkingRoom(rules), given_id)
    create = create_event(rules, given_id, CREATOR)
    branch.room_id = branch.say_draft(create).room_id
    opening = opening_events(rules, branch.room_id, CREATOR, is_public=is_public)
    for draft in opening:
        check_content(rules, draft.type, draft.content, state_key=draft.state_key)
        branch.say_draft(draft)
    return branch, [create, *opening]


def test_opening_tells_its_story_in_order() -> None:
    _, drafts = opened(SPEC_2014)
    assert [(draft.type, draft.required_power_level) for draft in drafts] == [
        ("m.room.create", None),
        ("m.room.member", None),
        ("m.room.power_levels", 100),
        ("m.room.join_rules", 100),
        ("m.room.add_state_level", 100),
        ("m.room.send_event_level", 100),
        ("m.room.ops_levels", 100),
    ]
    assert drafts[0].content == {"creator": CREATOR}


@pytest.mark.parametrize("rules", VERSIONS, ids=lambda rules: rules.name)
def test_opening_of_a_room_of_today(rules: RoomRules) -> None:
    _, drafts = opened(rules)
    assert [draft.type.removeprefix("m.room.") for draft in drafts] == [
        *("create", "member", "power_levels", "join_rules", "history_visibility"),
    ]
    assert drafts[0].content["room_version"] == rules.name
    assert {draft.required_power_level for draft in drafts} == {None}


@every_version
def test_public_rooms_let_everybody_in_and_others_those_who_were_invited(rules: RoomRules) -> None:
    public, _ = opened(rules, is_public=True)
    public.member(BOB, "join")
    private, _ = opened(rules)
    with pytest.raises(AuthError, match="invite"):
        private.member(BOB, "join")
    private.member(CREATOR, "invite", BOB)
    private.member(BOB, "join")


@every_version
def test_everybody_talks_operators_describe_and_the_creator_rules(rules: RoomRules) -> None:
    branch, _ = opened(rules, is_public=True)
    branch.member(BOB, "join")
    branch.say(BOB, "m.room.message", {"msgtype": "m.text", "body": "Hello"}, None)
    name = branch.say_draft(description(rules, branch.room_id, CREATOR, "m.room.name", {"name": "Tea"}))
    assert name.required_power_level == (50 if rules.required_power_levels else None)
    with pytest.raises(AuthError, match="power"):
        branch.say(BOB, "m.room.name", {"name": "Coffee"})
    give_level(branch, 50)
    branch.say(BOB, "m.room.name", {"name": "Coffee"})
    with pytest.raises(AuthError, match="power"):
        branch.say(BOB, "m.room.join_rules", {"join_rule": "invite"})
    give_level(branch, 100)
    branch.say(BOB, "m.room.join_rules", {"join_rule": "invite"})


def give_level(branch: Branch, level: int) -> None:
    """The creator gives Bob a level."""
    levels = branch.event("m.room.power_levels")
    assert levels is not None
    content = dict(levels.content)
    users = content if branch.room.rules.power_level_family == "one-event-per-level" else content["users"]
    changed = {**users, BOB: level}
    branch.say(CREATOR, "m.room.power_levels", changed if users is content else {**content, "users": changed})
