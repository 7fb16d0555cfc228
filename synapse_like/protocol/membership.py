"""Who may come, go, invite, kick, ban and knock (MEM-1 to MEM-4).

`TRANSITIONS` is the whole law: one row for each way in which somebody's membership may change, with the conditions
that must hold. What has no row is refused. `NONE` stands for a user who never had a membership here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from synapse_like.protocol.errors import AuthError
from synapse_like.protocol.events import Event, StateMap
from synapse_like.protocol.power_levels import CREATE, PowerLevels
from synapse_like.protocol.room_versions import RoomRules

MEMBER = "m.room.member"
JOIN_RULES = ("m.room.join_rules", "")

NONE, INVITE, JOIN, LEAVE, BAN, KNOCK = "none", "invite", "join", "leave", "ban", "knock"

NOT_HERE = "You are not in this room."
BANNED = "You are banned from this room."

_DEFAULT_JOIN_RULE = "invite"


def membership_of(state: StateMap, user_id: str) -> str:
    """The membership of a user in a room's state."""
    event = state.get((MEMBER, user_id))
    return event.content["membership"] if event is not None else NONE


def check_joined(state: StateMap, user_id: str) -> None:
    """See that somebody is in the room (PERM-5).

    :raises AuthError: they are not.
    """
    membership = membership_of(state, user_id)
    if membership != JOIN:
        raise AuthError(BANNED if membership == BAN else NOT_HERE)


def check_transition(rules: RoomRules, event: Event, state: StateMap, levels: PowerLevels) -> None:
    """See that a change of membership is allowed.

    :param event: an m.room.member.
    :param state: of the room before it.
    :param levels: as of `state`.
    :raises AuthError: it is not.
    """
    attempt = Attempt(rules, event, state, levels)
    conditions = _TABLE.get((attempt.before, attempt.after, attempt.by))
    if conditions is None:
        raise AuthError(f"The membership of {attempt.target} cannot go from {attempt.before} to {attempt.after}.")
    for condition in conditions:
        condition(attempt)


class By(Enum):
    """Whose hand changes a membership."""

    SELF = "the user themself"
    OTHER = "another user"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A change of membership that somebody asks for."""

    rules: RoomRules
    event: Event
    state: StateMap
    levels: PowerLevels

    @property
    def sender(self) -> str:
        """Who asks."""
        return self.event.sender

    @property
    def target(self) -> str:
        """Whose membership is to change."""
        return self.event.state_slot[1]

    @property
    def by(self) -> By:
        """Do they ask for themself?"""
        return By.SELF if self.sender == self.target else By.OTHER

    @property
    def before(self) -> str:
        """What the target is now."""
        return membership_of(self.state, self.target)

    @property
    def after(self) -> str:
        """What the target shall become."""
        membership: str = self.event.content["membership"]
        return membership

    @property
    def join_rule(self) -> str:
        """How people may come in."""
        event = self.state.get(JOIN_RULES)
        return event.content["join_rule"] if event is not None else _DEFAULT_JOIN_RULE


Condition = Callable[[Attempt], None]
"""Raises AuthError if it does not hold."""


# The conditions, named as the table reads them.


def never(sentence: str) -> Condition:
    """Cannot be met: the row is there for the sake of its sentence."""

    def condition(attempt: Attempt) -> None:
        raise AuthError(sentence.format(target=attempt.target))

    return condition


def open_to_all(attempt: Attempt) -> None:
    """The room is public, or this is its creator's first step into it, directly after its creation."""
    if attempt.join_rule == "public":
        return
    create = attempt.state[CREATE]
    is_first_step = attempt.before == NONE and attempt.event.prev_events == (create.event_id,)
    if is_first_step and attempt.sender == create.content["creator"]:
        return
    not_private(attempt)
    raise AuthError("You need an invite to join this room.")


def not_private(attempt: Attempt) -> None:
    """The room takes new people in some way."""
    if attempt.join_rule == "private":
        raise AuthError("This room is closed: nobody new can be invited or join.")


def open_to_knocks(attempt: Attempt) -> None:
    """The room hears knocks."""
    if not attempt.rules.knock_allowed or attempt.join_rule != "knock":
        raise AuthError("One cannot knock on this room.")


def sender_is_in(attempt: Attempt) -> None:
    """Whoever asks is a joined member."""
    check_joined(attempt.state, attempt.sender)


def may_kick(attempt: Attempt) -> None:
    """Whoever asks has the kick level, and more power than the target."""
    _check_level(attempt, attempt.levels.kick, "kick somebody from this room")
    _check_outranks_target(attempt)


def may_ban(attempt: Attempt) -> None:
    """Whoever asks has the ban level, and more power than the target."""
    _check_level(attempt, attempt.levels.ban, "ban somebody from this room")
    _check_outranks_target(attempt)


def ban_is_above_target(attempt: Attempt) -> None:
    """The ban itself asks for more power than the target has, so that they cannot lift it."""
    required = attempt.event.required_power_level
    if required is None or required <= attempt.levels.user(attempt.target):
        raise AuthError(f"A ban must require more power to lift it than {attempt.target} has.")


def may_touch_ban(attempt: Attempt) -> None:
    """Whoever asks has the ban level, and what the ban in force requires."""
    ban = attempt.state[attempt.event.state_slot]
    needed = max(attempt.levels.ban, ban.required_power_level or attempt.levels.ban)
    _check_level(attempt, needed, "lift or change this ban")


def _check_level(attempt: Attempt, needed: int, deed: str) -> None:
    if attempt.levels.user(attempt.sender) < needed:
        raise AuthError(f"You need power level {needed} to {deed}.")


def _check_outranks_target(attempt: Attempt) -> None:
    if attempt.levels.user(attempt.sender) <= attempt.levels.user(attempt.target):
        raise AuthError(f"You need more power than {attempt.target} has.")


class Transition(NamedTuple):
    """A row of the table: from any of `before` to `after`, by `by`, if every condition holds."""

    before: tuple[str, ...]
    after: str
    by: By
    conditions: tuple[Condition, ...]


_ANY = (NONE, INVITE, JOIN, LEAVE, BAN, KNOCK)

TRANSITIONS: tuple[Transition, ...] = (
    # Joining, and telling the room a new name or picture.
    Transition((NONE, LEAVE, KNOCK), JOIN, By.SELF, (open_to_all,)),
    Transition((INVITE,), JOIN, By.SELF, (not_private,)),
    Transition((JOIN,), JOIN, By.SELF, ()),
    Transition((BAN,), JOIN, By.SELF, (never(BANNED),)),
    Transition(_ANY, JOIN, By.OTHER, (never("Nobody can join a room for somebody else."),)),
    # Inviting, once more too, and answering a knock.
    Transition((NONE, INVITE, LEAVE, KNOCK), INVITE, By.OTHER, (sender_is_in, not_private)),
    Transition((JOIN,), INVITE, By.OTHER, (sender_is_in, never("{target} is in this room already."))),
    Transition((BAN,), INVITE, By.OTHER, (sender_is_in, never("{target} is banned from this room."))),
    Transition(_ANY, INVITE, By.SELF, (never("Nobody can invite themself."),)),
    # Leaving, turning down an invite, taking back a knock.
    Transition((JOIN, INVITE, KNOCK), LEAVE, By.SELF, ()),
    Transition((NONE, LEAVE), LEAVE, By.SELF, (never(NOT_HERE),)),
    Transition((BAN,), LEAVE, By.SELF, (never(BANNED),)),
    # Kicking, taking back an invite, turning down a knock, lifting a ban.
    Transition((JOIN, INVITE), LEAVE, By.OTHER, (sender_is_in, may_kick)),
    Transition((KNOCK,), LEAVE, By.OTHER, (sender_is_in,)),
    Transition((BAN,), LEAVE, By.OTHER, (sender_is_in, may_touch_ban)),
    Transition((NONE, LEAVE), LEAVE, By.OTHER, (sender_is_in, never("{target} is not in this room."))),
    # Banning, and changing a ban.
    Transition((NONE, INVITE, JOIN, LEAVE, KNOCK), BAN, By.OTHER, (sender_is_in, may_ban, ban_is_above_target)),
    Transition((BAN,), BAN, By.OTHER, (sender_is_in, may_ban, may_touch_ban, ban_is_above_target)),
    Transition(_ANY, BAN, By.SELF, (never("Nobody can ban themself."),)),
    # Knocking.
    Transition((NONE, LEAVE), KNOCK, By.SELF, (open_to_knocks,)),
    Transition((BAN,), KNOCK, By.SELF, (never(BANNED),)),
    Transition(_ANY, KNOCK, By.OTHER, (never("Nobody can knock for somebody else."),)),
)

_TABLE: Mapping[tuple[str, str, By], tuple[Condition, ...]] = MappingProxyType(
    {(before, row.after, row.by): row.conditions for row in TRANSITIONS for before in row.before}
)
