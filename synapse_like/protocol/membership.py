"""Who may come, go, invite, kick, ban and knock.

`LAWS` holds the law for each family of power levels: one row for each way in which somebody's membership may change,
with the conditions that must hold. What has no row is refused. `NONE` stands for a user who never had a membership
here. The law of 2014 is MEM-1 to MEM-4; that of today is "Authorization rules" 5.3 to 5.7 of room version 12, and
since its conditions ask the rules of the room, of all versions before.

docs/membership.md shows the tables.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from msgspec import Struct

from synapse_like.protocol.errors import AuthError
from synapse_like.protocol.events import Event, EventDraft, StateMap, StateSlot
from synapse_like.protocol.join_rules import JOIN_RULES, VOUCHER, JoinRule, join_rule_in
from synapse_like.protocol.power_levels import CREATE, PowerLevels, founder_of
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.third_party_invites import (
    THIRD_PARTY_INVITE,
    check_address_invite,
    claims_address,
    token_of,
)

MEMBER = "m.room.member"

NONE, INVITE, JOIN, LEAVE, BAN, KNOCK = "none", "invite", "join", "leave", "ban", "knock"

NOT_HERE = "You are not in this room."
BANNED = "You are banned from this room."


def membership_of(state: StateMap, user_id: str) -> str:
    """The membership of a user in a room's state."""
    event = state.get((MEMBER, user_id))
    return event.content["membership"] if event is not None else NONE


def check_joined(state: StateMap, user_id: str) -> None:
    """See that somebody is in the room (PERM-5; room version 1, "Authorization rules", 6).

    :raises AuthError: they are not.
    """
    membership = membership_of(state, user_id)
    if membership != JOIN:
        raise AuthError(BANNED if membership == BAN else NOT_HERE)


def member_slots_for(rules: RoomRules, event: EventDraft | Event) -> tuple[StateSlot, ...]:
    """The part of the state that decides on an m.room.member, what `authorisation.auth_types_for` says of all aside.

    :return: server-server API, "Auth events selection".
    """
    if event.state_key is None:
        return ()
    slots: list[StateSlot] = [event.state_slot]
    after = event.content.get("membership")
    if after in (JOIN, INVITE, KNOCK):
        slots.append(JOIN_RULES)
    if after == INVITE and rules.third_party_invites and (token := token_of(event)) is not None:
        slots.append((THIRD_PARTY_INVITE, token))
    voucher = event.content.get(VOUCHER)
    if after == JOIN and rules.restricted_joins and isinstance(voucher, str):
        slots.append((MEMBER, voucher))
    return tuple(slots)


def check_transition(rules: RoomRules, event: Event, state: StateMap, levels: PowerLevels) -> None:
    """See that a change of membership is allowed.

    :param event: an m.room.member.
    :param state: of the room before it.
    :param levels: as of `state`.
    :raises AuthError: it is not.
    """
    attempt = Attempt(rules, event, state, levels)
    law = LAWS[rules.power_level_family]
    if any(settles(attempt) for settles in law.beforehand):
        return
    conditions = law.table.get((attempt.before, attempt.after, attempt.by))
    if conditions is None:
        raise AuthError(f"The membership of {attempt.target} cannot go from {attempt.before} to {attempt.after}.")
    for condition in conditions:
        condition(attempt)


class By(Enum):
    """Whose hand changes a membership."""

    SELF = "the user themself"
    OTHER = "another user"


class Attempt(Struct, frozen=True):
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
    def join_rule(self) -> JoinRule:
        """How people may come in."""
        return join_rule_in(self.rules, self.state)


# What settles the matter before the table is asked.

Settles = Callable[[Attempt], bool]
"""True if the change is allowed; False if the table shall say. Raises AuthError if it is refused."""


def creators_first_step(attempt: Attempt) -> bool:
    """Directly after its creation, the room's creator joins."""
    create = attempt.state[CREATE]
    is_next = attempt.event.prev_events == (create.event_id,)
    return attempt.after == JOIN and is_next and attempt.target == founder_of(attempt.rules, create)


def address_invited(attempt: Attempt) -> bool:
    """An address was invited, and the target, who is not banned, proves that it is theirs."""
    if attempt.after != INVITE or not attempt.rules.third_party_invites or not claims_address(attempt.event):
        return False
    if attempt.before == BAN:
        raise AuthError(f"{attempt.target} is banned from this room.")
    check_address_invite(attempt.event, attempt.state)
    return True


# The conditions, named as the tables read them.

Condition = Callable[[Attempt], None]
"""Raises AuthError if it does not hold."""


def never(sentence: str) -> Condition:
    """Cannot be met: the row is there for the sake of its sentence."""

    def condition(attempt: Attempt) -> None:
        raise AuthError(sentence.format(target=attempt.target))

    condition.__doc__ = f"Never: “{sentence.format(target='…')}”"
    return condition


def open_to_all(attempt: Attempt) -> None:
    """The join rule lets everybody in, or those for whom a member vouches, as one does."""
    rule = attempt.join_rule
    if rule.anybody:
        return
    if rule.vouched_for:
        _check_voucher(attempt)
        return
    open_to_invited(attempt)
    raise AuthError("You need an invite to join this room.")


def open_to_all_or_new(attempt: Attempt) -> None:
    """The join rule lets everybody in, or this is the creator's first step, directly after the creation."""
    if attempt.before != NONE or not creators_first_step(attempt):
        open_to_all(attempt)


def open_to_invited(attempt: Attempt) -> None:
    """The join rule lets the invited in."""
    if not attempt.join_rule.invited:
        raise AuthError("This room is closed: nobody new can be invited or join.")


def open_to_knocks(attempt: Attempt) -> None:
    """The join rule lets people knock."""
    if not attempt.join_rule.knocks:
        raise AuthError("One cannot knock on this room.")


def sender_is_in(attempt: Attempt) -> None:
    """Whoever asks is a joined member."""
    check_joined(attempt.state, attempt.sender)


def may_invite(attempt: Attempt) -> None:
    """Whoever asks has the invite level."""
    if not attempt.levels.may_invite(attempt.sender):
        raise AuthError(f"You need power level {attempt.levels.invite} to invite somebody to this room.")


def may_kick(attempt: Attempt) -> None:
    """Whoever asks has the kick level, and more power than the target."""
    _check_level(attempt, attempt.levels.kick, "kick somebody from this room")
    _check_outranks_target(attempt)


def may_ban(attempt: Attempt) -> None:
    """Whoever asks has the ban level, and more power than the target."""
    _check_level(attempt, attempt.levels.ban, "ban somebody from this room")
    _check_outranks_target(attempt)


def may_lift_bans(attempt: Attempt) -> None:
    """Whoever asks has the ban level."""
    _check_level(attempt, attempt.levels.ban, "lift a ban from this room")


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


def _check_voucher(attempt: Attempt) -> None:
    # Whether that member's server has signed the join is for `signing.signers_of` to say.
    voucher = attempt.event.content.get(VOUCHER)
    if voucher is None:
        raise AuthError("You need an invite to join this room, or a member's server that lets you in.")
    if membership_of(attempt.state, voucher) != JOIN or not attempt.levels.may_invite(voucher):
        raise AuthError(f"{voucher} cannot let people into this room.")


def _check_level(attempt: Attempt, needed: int, deed: str) -> None:
    if attempt.levels.user(attempt.sender) < needed:
        raise AuthError(f"You need power level {needed} to {deed}.")


def _check_outranks_target(attempt: Attempt) -> None:
    if attempt.levels.user(attempt.sender) <= attempt.levels.user(attempt.target):
        raise AuthError(f"You need more power than {attempt.target} has.")


class Transition(NamedTuple):
    """A row of a table: from any of `before` to `after`, by `by`, if every condition holds."""

    before: tuple[str, ...]
    after: str
    by: By
    conditions: tuple[Condition, ...]


class Law(NamedTuple):
    """What is asked of a change of membership: first what may settle it beforehand, then the table."""

    beforehand: tuple[Settles, ...]
    transitions: tuple[Transition, ...]
    table: Mapping[tuple[str, str, By], tuple[Condition, ...]]


def _law(beforehand: tuple[Settles, ...], transitions: tuple[Transition, ...]) -> Law:
    rows = {(before, row.after, row.by): row.conditions for row in transitions for before in row.before}
    return Law(beforehand, transitions, MappingProxyType(rows))


_ANY = (NONE, INVITE, JOIN, LEAVE, BAN, KNOCK)

_ALIKE = (
    # What is refused everywhere.
    Transition((BAN,), JOIN, By.SELF, (never(BANNED),)),
    Transition(_ANY, JOIN, By.OTHER, (never("Nobody can join a room for somebody else."),)),
    Transition((JOIN,), INVITE, By.OTHER, (sender_is_in, never("{target} is in this room already."))),
    Transition((BAN,), INVITE, By.OTHER, (sender_is_in, never("{target} is banned from this room."))),
    Transition(_ANY, INVITE, By.SELF, (never("Nobody can invite themself."),)),
    Transition((NONE, LEAVE), LEAVE, By.SELF, (never(NOT_HERE),)),
    Transition((BAN,), LEAVE, By.SELF, (never(BANNED),)),
    Transition(_ANY, BAN, By.SELF, (never("Nobody can ban themself."),)),
    Transition((BAN,), KNOCK, By.SELF, (never(BANNED),)),
    Transition(_ANY, KNOCK, By.OTHER, (never("Nobody can knock for somebody else."),)),
    # What everybody may do for themself: leave, turn down an invite, take back a knock.
    Transition((JOIN, INVITE, KNOCK), LEAVE, By.SELF, ()),
)

_LAW_OF_2014 = _law(
    (),
    (
        # Joining, and telling the room a new name or picture.
        Transition((NONE, LEAVE, KNOCK), JOIN, By.SELF, (open_to_all_or_new,)),
        Transition((INVITE,), JOIN, By.SELF, (open_to_invited,)),
        Transition((JOIN,), JOIN, By.SELF, ()),
        # Inviting, once more too, and answering a knock.
        Transition((NONE, INVITE, LEAVE, KNOCK), INVITE, By.OTHER, (sender_is_in, open_to_invited)),
        # Kicking, taking back an invite, turning down a knock, lifting a ban.
        Transition((JOIN, INVITE), LEAVE, By.OTHER, (sender_is_in, may_kick)),
        Transition((KNOCK,), LEAVE, By.OTHER, (sender_is_in,)),
        Transition((BAN,), LEAVE, By.OTHER, (sender_is_in, may_touch_ban)),
        Transition((NONE, LEAVE), LEAVE, By.OTHER, (sender_is_in, never("{target} is not in this room."))),
        # Banning, and changing a ban.
        Transition((NONE, INVITE, JOIN, LEAVE, KNOCK), BAN, By.OTHER, (sender_is_in, may_ban, ban_is_above_target)),
        Transition((BAN,), BAN, By.OTHER, (sender_is_in, may_ban, may_touch_ban, ban_is_above_target)),
        # Knocking.
        Transition((NONE, LEAVE), KNOCK, By.SELF, (open_to_knocks,)),
        *_ALIKE,
    ),
)

_LAW_OF_TODAY = _law(
    (creators_first_step, address_invited),
    (
        # 5.3. Joining, and telling the room a new name or picture.
        Transition((NONE, LEAVE, KNOCK), JOIN, By.SELF, (open_to_all,)),
        Transition((INVITE, JOIN), JOIN, By.SELF, (open_to_invited,)),
        # 5.4. Inviting, once more too, and answering a knock.
        Transition((NONE, INVITE, LEAVE, KNOCK), INVITE, By.OTHER, (sender_is_in, may_invite)),
        # 5.5. Kicking, taking back an invite, turning down a knock, lifting a ban.
        Transition((NONE, INVITE, JOIN, LEAVE, KNOCK), LEAVE, By.OTHER, (sender_is_in, may_kick)),
        Transition((BAN,), LEAVE, By.OTHER, (sender_is_in, may_lift_bans, may_kick)),
        # 5.6. Banning, once more too.
        Transition(_ANY, BAN, By.OTHER, (sender_is_in, may_ban)),
        # 5.7. Knocking, once more too.
        Transition((NONE, LEAVE, KNOCK), KNOCK, By.SELF, (open_to_knocks,)),
        *_ALIKE,
    ),
)

LAWS: Mapping[str, Law] = MappingProxyType({"one-event-per-level": _LAW_OF_2014, "power-levels-event": _LAW_OF_TODAY})
