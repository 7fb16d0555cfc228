"""Who may do what in a room."""

from __future__ import annotations

import pytest

from tests.scenarios.conftest import People, Unique
from tests.support.client import Client, bad_json, forbidden, ids, quote, state_path, texts

LEVEL_EVENTS = {
    "m.room.power_levels": {"default": 0},
    "m.room.join_rules": {"join_rule": "public"},
    "m.room.add_state_level": {"level": 0},
    "m.room.send_event_level": {"level": 0},
    "m.room.ops_levels": {"ban_level": 50, "kick_level": 50, "redact_level": 50},
}


class Levels:
    """A public room of alice's with bob and carol in it, and the power of them all."""

    def __init__(self, alice: Client, bob: Client, carol: Client) -> None:
        self.alice, self.bob, self.carol = alice, bob, carol
        self.room = alice.create_room(visibility="public")
        bob.join(self.room)
        carol.join(self.room)

    def content(self, bob: int | None = None, carol: int | None = None, default: int | None = 0) -> dict[str, int]:
        """A content of m.room.power_levels in which alice has 100."""
        levels = {self.alice.user_id: 100, self.bob.user_id: bob, self.carol.user_id: carol, "default": default}
        return {name: level for name, level in levels.items() if level is not None}

    def grant(self, bob: int | None = None, carol: int | None = None, default: int | None = 0) -> None:
        """Let alice set everybody's power; those left out are not listed."""
        self.alice.set_state(self.room, "m.room.power_levels", self.content(bob, carol, default))

    def open_to_changes(self, level: int = 50) -> None:
        """Let users with that power change the powers."""
        self.alice.set_state(self.room, "m.room.power_levels", self.content(), required_power_level=level)


@pytest.fixture
def levels(alice: Client, bob: Client, carol: Client) -> Levels:
    return Levels(alice, bob, carol)


# How much power somebody has.


def test_creator_has_100_and_others_have_none(levels: Levels) -> None:
    """PERM-1."""
    assert levels.alice.state_content(levels.room, "m.room.power_levels")[levels.alice.user_id] == 100
    with forbidden():
        levels.bob.kick(levels.room, levels.carol)
    levels.alice.kick(levels.room, levels.carol)


def test_unlisted_users_have_the_default(levels: Levels) -> None:
    """PERM-1."""
    levels.grant(carol=10, default=50)
    levels.bob.kick(levels.room, levels.carol)


def test_listed_users_have_their_level_not_the_default(levels: Levels) -> None:
    """PERM-1."""
    levels.grant(bob=49, carol=10, default=60)
    with forbidden():
        levels.bob.kick(levels.room, levels.carol)


def test_without_a_default_it_is_0(levels: Levels) -> None:
    """PERM-1."""
    levels.grant(default=None)
    levels.alice.set_state(levels.room, "m.room.send_event_level", {"level": 1})
    with forbidden():
        levels.bob.send(levels.room, "hello?")
    levels.alice.set_state(levels.room, "m.room.send_event_level", {"level": 0})
    levels.bob.send(levels.room, "hello!")


def test_power_is_kept_by_those_who_left(levels: Levels) -> None:
    """PERM-1: power levels are of a room, whoever is in it just now."""
    levels.grant(bob=50)
    levels.bob.leave(levels.room)
    levels.bob.join(levels.room)
    levels.bob.kick(levels.room, levels.carol)


# Granting power.


@pytest.mark.parametrize("level", ["50", 50.5, True, None, [50], {}, 2**53])
def test_levels_are_integers(levels: Levels, level: object) -> None:
    """PERM-2."""
    for name in (levels.bob.user_id, "default"):
        with bad_json():
            levels.alice.set_state(levels.room, "m.room.power_levels", {levels.alice.user_id: 100, name: level})


@pytest.mark.parametrize("name", ["bob", "", "Default", "users", "#a:b"])
def test_levels_are_of_users(levels: Levels, name: str) -> None:
    """PERM-1, EVT-2."""
    with bad_json():
        levels.alice.set_state(levels.room, "m.room.power_levels", {levels.alice.user_id: 100, name: 50})


def test_nobody_grants_more_than_they_have(levels: Levels) -> None:
    """PERM-2."""
    levels.open_to_changes()
    levels.grant(bob=60)
    for carols in (61, 100, 1000):
        with forbidden():
            levels.bob.set_state(levels.room, "m.room.power_levels", levels.content(bob=60, carol=carols))
    with forbidden():
        levels.bob.set_state(levels.room, "m.room.power_levels", levels.content(bob=60, default=61))
    levels.bob.set_state(levels.room, "m.room.power_levels", levels.content(bob=60, carol=60))


def test_not_even_the_creator_grants_more_than_they_have(levels: Levels) -> None:
    """PERM-2."""
    with forbidden():
        levels.grant(bob=101)


def test_nobody_raises_themself(levels: Levels) -> None:
    """PERM-2."""
    levels.open_to_changes()
    levels.grant(bob=60)
    with forbidden():
        levels.bob.set_state(levels.room, "m.room.power_levels", levels.content(bob=61))
    with forbidden():
        levels.alice.set_state(levels.room, "m.room.power_levels", {levels.alice.user_id: 101})


def test_nobody_raises_themself_by_way_of_the_default(levels: Levels) -> None:
    """PERM-2: being taken from the list must not be a way up."""
    levels.open_to_changes()
    levels.grant(bob=60, default=70)
    with forbidden():
        levels.bob.set_state(levels.room, "m.room.power_levels", levels.content(default=70))


def test_those_with_as_much_power_are_not_lowered_or_removed(levels: Levels) -> None:
    """PERM-2."""
    levels.open_to_changes()
    levels.grant(bob=60, carol=60)
    for carols in (59, 0, None):
        with forbidden():
            levels.bob.set_state(levels.room, "m.room.power_levels", levels.content(bob=60, carol=carols))
    with forbidden():
        levels.bob.set_state(levels.room, "m.room.power_levels", {levels.bob.user_id: 60, levels.carol.user_id: 60})


def test_those_with_less_power_are_lowered_and_removed(levels: Levels) -> None:
    """PERM-2."""
    levels.open_to_changes()
    levels.grant(bob=60, carol=59)
    levels.bob.set_state(levels.room, "m.room.power_levels", levels.content(bob=60, carol=10))
    levels.bob.set_state(levels.room, "m.room.power_levels", levels.content(bob=60))


def test_everyone_may_lower_themself(levels: Levels) -> None:
    """PERM-2: for good, too."""
    levels.open_to_changes()
    levels.grant(bob=60)
    levels.bob.set_state(levels.room, "m.room.power_levels", levels.content(bob=50))
    with forbidden():
        levels.bob.set_state(levels.room, "m.room.power_levels", levels.content(bob=60))


def test_powers_are_not_changed_without_the_required_level(levels: Levels) -> None:
    """PERM-2, ROOM-2: which is 100 from the start."""
    levels.grant(bob=99)
    with forbidden():
        levels.bob.set_state(levels.room, "m.room.power_levels", levels.content(bob=98))


# Sending messages.


def test_sending_needs_the_send_event_level(levels: Levels) -> None:
    """PERM-3: by every way of sending."""
    levels.alice.set_state(levels.room, "m.room.send_event_level", {"level": 10})
    levels.grant(bob=9, carol=10)
    history = ids(levels.alice.history(levels.room))
    path = f"/rooms/{quote(levels.room)}/send/m.room.message"
    for method, target in (("POST", path), ("PUT", f"{path}/1")):
        with forbidden():
            levels.bob.call(method, target, {"msgtype": "m.text", "body": "hello?"})
    assert ids(levels.alice.history(levels.room)) == history
    levels.carol.send(levels.room, "hello!")


def test_single_users_can_be_muted(levels: Levels) -> None:
    """PERM-3: by a level below that of sending."""
    levels.grant(bob=-1)
    with forbidden():
        levels.bob.send(levels.room, "hello?")
    levels.carol.send(levels.room, "hello!")


# Adding and changing state.


def test_adding_state_needs_the_add_state_level(levels: Levels) -> None:
    """PERM-3: for each type and each key anew."""
    levels.alice.set_state(levels.room, "m.room.add_state_level", {"level": 20})
    levels.grant(bob=19, carol=20)
    levels.carol.set_state(levels.room, "org.example", {}, "one")
    for event_type, key in (("org.example", "two"), ("org.other", "one"), ("m.room.topic", "")):
        with forbidden():
            levels.bob.set_state(levels.room, event_type, {"topic": "x"}, key)


def test_existing_state_without_a_required_level_is_anyones(levels: Levels) -> None:
    """PERM-3: of the members."""
    levels.alice.set_state(levels.room, "org.example", {"by": "alice"})
    levels.bob.set_state(levels.room, "org.example", {"by": "bob"})
    assert levels.alice.state_content(levels.room, "org.example") == {"by": "bob"}


def test_existing_state_needs_its_required_level(levels: Levels) -> None:
    """PERM-3."""
    levels.grant(bob=29, carol=30)
    levels.alice.set_state(levels.room, "org.example", {"by": "alice"}, required_power_level=30)
    assert levels.alice.state_event(levels.room, "org.example")["required_power_level"] == 30
    with forbidden():
        levels.bob.set_state(levels.room, "org.example", {"by": "bob"})
    levels.carol.set_state(levels.room, "org.example", {"by": "carol"})


def test_required_level_carries_over(levels: Levels) -> None:
    """PERM-3: if the new event says nothing else."""
    levels.grant(bob=29, carol=30)
    levels.alice.set_state(levels.room, "org.example", {"n": 1}, required_power_level=30)
    levels.carol.set_state(levels.room, "org.example", {"n": 2})
    assert levels.alice.state_event(levels.room, "org.example")["required_power_level"] == 30
    with forbidden():
        levels.bob.set_state(levels.room, "org.example", {"n": 3})
    levels.carol.set_state(levels.room, "org.example", {"n": 4}, required_power_level=0)
    levels.bob.set_state(levels.room, "org.example", {"n": 5})


def test_nobody_requires_more_than_they_have(levels: Levels) -> None:
    """PERM-3."""
    levels.alice.set_state(levels.room, "m.room.add_state_level", {"level": 0})
    levels.grant(bob=30)
    for level in (31, 100):
        with forbidden():
            levels.bob.set_state(levels.room, "org.example", {}, required_power_level=level)
    with forbidden():
        levels.alice.set_state(levels.room, "org.example", {}, required_power_level=101)
    levels.bob.set_state(levels.room, "org.example", {}, required_power_level=30)


@pytest.mark.parametrize("level", ["much", "1.5", "", "9" * 30])
def test_required_level_is_an_integer(levels: Levels, level: str) -> None:
    """PERM-3."""
    path = state_path(levels.room, "org.example")
    assert levels.alice.request("PUT", path, {}, required_power_level=level).status == 400
    assert not [event for event in levels.alice.state(levels.room) if event["type"] == "org.example"]


@pytest.mark.parametrize("event_type", LEVEL_EVENTS)
def test_rules_of_a_room_need_50_whatever_they_say_themselves(levels: Levels, event_type: str) -> None:
    """PERM-3."""
    content = LEVEL_EVENTS[event_type]
    if event_type == "m.room.power_levels":
        content = levels.content(bob=49, carol=50)
    levels.grant(bob=49, carol=50)
    levels.alice.set_state(levels.room, event_type, content, required_power_level=0)
    with forbidden():
        levels.bob.set_state(levels.room, event_type, content)
    levels.carol.set_state(levels.room, event_type, content)


def test_state_under_a_user_id_is_that_users_alone(levels: Levels) -> None:
    """PERM-3."""
    levels.alice.set_state(levels.room, "m.room.add_state_level", {"level": 0})
    levels.bob.set_state(levels.room, "org.example", {"by": "bob"}, levels.bob.user_id)
    for client in (levels.alice, levels.carol):
        with forbidden():
            client.set_state(levels.room, "org.example", {"by": "another"}, levels.bob.user_id)
    with forbidden():
        levels.alice.set_state(levels.room, "org.example", {}, "@nobody:elsewhere.org")
    levels.bob.set_state(levels.room, "org.example", {"by": "bob again"}, levels.bob.user_id)


def test_aliases_are_told_by_any_member_of_their_server(levels: Levels, unique: Unique) -> None:
    """PERM-3: whatever their power."""
    levels.grant(bob=-10)
    server_name = levels.bob.server.name
    levels.bob.set_state(levels.room, "m.room.aliases", {"aliases": [f"#{unique('a')}:{server_name}"]}, server_name)
    with forbidden():
        levels.bob.set_state(levels.room, "m.room.aliases", {"aliases": ["#a:elsewhere.org"]}, "elsewhere.org")
    with forbidden():
        levels.alice.set_state(levels.room, "m.room.aliases", {"aliases": ["#a:elsewhere.org"]}, "elsewhere.org")


# The levels of operators.


@pytest.mark.parametrize("operation", ["kick", "ban", "redact"])
@pytest.mark.parametrize("set_to", [None, 20, 70])
def test_each_operation_has_its_level(levels: Levels, operation: str, set_to: int | None) -> None:
    """PERM-4: 50 unless set."""
    others = {f"{name}_level": 99 for name in ("kick", "ban", "redact") if name != operation}
    content = others if set_to is None else {**others, f"{operation}_level": set_to}
    levels.alice.set_state(levels.room, "m.room.ops_levels", content)
    needed = 50 if set_to is None else set_to
    event_id = levels.carol.send(levels.room, "hello")

    def operate() -> None:
        if operation == "redact":
            levels.bob.redact(levels.room, event_id)
        else:
            getattr(levels.bob, operation)(levels.room, levels.carol)

    levels.grant(bob=needed - 1)
    with forbidden():
        operate()
    levels.grant(bob=needed)
    operate()


# What nobody may do.


def test_creation_cannot_be_changed_or_repeated(levels: Levels) -> None:
    """PERM-5."""
    for client in (levels.alice, levels.bob):
        for key in (None, "again"):
            with forbidden():
                client.set_state(levels.room, "m.room.create", {"creator": client.user_id}, key)
    assert levels.alice.state_content(levels.room, "m.room.create") == {"creator": levels.alice.user_id}


@pytest.mark.parametrize("standing", ["stranger", "invited", "left", "kicked", "banned"])
def test_only_members_send_anything(levels: Levels, people: People, standing: str) -> None:
    """PERM-5: whatever their power, and whatever they send."""
    levels.alice.set_state(levels.room, "m.room.add_state_level", {"level": 0})
    levels.alice.set_state(levels.room, "org.example", {"by": "alice"})
    event_id = levels.alice.send(levels.room, "hello")
    dave = people("dave")
    levels.alice.set_state(levels.room, "m.room.power_levels", {levels.alice.user_id: 100, dave.user_id: 90})
    if standing in ("left", "kicked"):
        dave.join(levels.room)
    match standing:
        case "invited":
            levels.alice.invite(levels.room, dave)
        case "left":
            dave.leave(levels.room)
        case "kicked":
            levels.alice.kick(levels.room, dave)
        case "banned":
            levels.alice.ban(levels.room, dave)
    history = ids(levels.alice.history(levels.room))
    with forbidden():
        dave.send(levels.room, "hello?")
    with forbidden():
        dave.set_state(levels.room, "org.example", {"by": "dave"})
    with forbidden():
        dave.set_state(levels.room, "org.example", {"by": "dave"}, dave.user_id)
    with forbidden():
        dave.redact(levels.room, event_id)
    with forbidden():
        dave.call(
            "PUT", f"/directory/room/{quote('#x-' + standing + ':' + dave.server.name)}", {"room_id": levels.room}
        )
    assert ids(levels.alice.history(levels.room)) == history
    assert texts(levels.alice.history(levels.room)) == ["hello"]
