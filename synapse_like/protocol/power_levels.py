"""How much power everybody in a room has, how much it takes to do things, and who may change that.

There are two families of room versions. In the family "one-event-per-level" (PERM-1 to PERM-4) five events hold the
levels, and every state event says what replacing it needs. In the family "power-levels-event" m.room.power_levels
holds them all, by type of event. What levels mean is the same in both, and so is `PowerLevels`.

What a state says is trusted to have the shapes that `contents.check_ruling_content` checks: no event becomes state
without that.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from msgspec import Struct, field

from synapse_like.protocol.canonical_json import LARGEST_INTEGER
from synapse_like.protocol.errors import AuthError
from synapse_like.protocol.events import Event, EventDraft, StateMap, StateSlot
from synapse_like.protocol.identifiers import historical_user_id
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.shapes import integer, integer_or_text, number_or_text, object_with

CREATE = ("m.room.create", "")
POWER_LEVELS = ("m.room.power_levels", "")
ADD_STATE_LEVEL = ("m.room.add_state_level", "")
SEND_EVENT_LEVEL = ("m.room.send_event_level", "")
OPS_LEVELS = ("m.room.ops_levels", "")

CREATORS_LEVEL = LARGEST_INTEGER + 1
"""The level of creators where they stand above all: one more than any that can be given."""

RULE_EVENT_LEVEL = 50
"""What it takes at least to set one of the five level and rule events (PERM-3)."""

_RULE_EVENTS = frozenset({POWER_LEVELS[0], "m.room.join_rules", ADD_STATE_LEVEL[0], SEND_EVENT_LEVEL[0], OPS_LEVELS[0]})


class PowerLevels(Struct, frozen=True, kw_only=True):
    """The power levels of a room at one point of its history.

    :ivar users: those who were given a level of their own.
    :ivar default: the level of everybody else.
    :ivar invite: what it takes to invite somebody; None if being in the room is enough.
    :ivar send_event: what it takes to send an event that is not state.
    :ivar add_state: what it takes to set state; in the family of five events, where none was.
    :ivar events: by type of event, what it takes in place of these two.
    :ivar creators: those who stand above all levels.
    """

    users: Mapping[str, int]
    default: int
    ban: int
    kick: int
    redact: int
    invite: int | None
    send_event: int
    add_state: int
    events: Mapping[str, int] = field(default_factory=dict)
    creators: frozenset[str] = frozenset()

    @classmethod
    def from_state(cls, rules: RoomRules, state: StateMap) -> "PowerLevels":
        """The levels that a room's state sets; the defaults of its version where it is silent."""
        return _FAMILIES[rules.power_level_family].read(rules, state)

    @staticmethod
    def slots(rules: RoomRules) -> tuple[StateSlot, ...]:
        """The part of the state that `from_state` reads."""
        return _FAMILIES[rules.power_level_family].slots

    def user(self, user_id: str) -> int:
        """The level of a user, whether in the room or not."""
        return CREATORS_LEVEL if user_id in self.creators else self.users.get(user_id, self.default)

    def may_invite(self, user_id: str) -> bool:
        """Is a user's level enough to invite somebody?"""
        return self.invite is None or self.user(user_id) >= self.invite


def founder_of(rules: RoomRules, create: Event) -> object:
    """Who made a room, by the event that began it: a user ID.

    Until room version 10 the rules do not ask whether it is a user who is named, so it may be anything.
    """
    return create.content["creator"] if rules.create_names_creator else create.sender


def creators_of(rules: RoomRules, create: Event) -> frozenset[str]:
    """Everybody who counts as a room's creator (room version 12, "Authorization rules")."""
    others = create.content.get("additional_creators", ()) if rules.creators_above_all else ()
    return frozenset(user for user in (founder_of(rules, create), *others) if isinstance(user, str))


def level_slots_for(rules: RoomRules, event: EventDraft | Event) -> tuple[StateSlot, ...]:
    """The part of the state that says what this event takes, the levels of users aside."""
    return _FAMILIES[rules.power_level_family].slots_for(event)


def level_needed(rules: RoomRules, levels: PowerLevels, event: Event, replaced: Event | None) -> int | None:
    """What it takes to send an event (PERM-3; room version 1, "Authorization rules", 8).

    :param replaced: the state event in whose place it would come.
    :return: None if everybody may who is in the room.
    """
    return _FAMILIES[rules.power_level_family].needed(levels, event, replaced)


def check_levels(rules: RoomRules, event: Event, state: StateMap, levels: PowerLevels) -> None:
    """See that an event, if it sets levels, gives or takes nothing that is not its sender's to give or take.

    :param levels: as of `state`.
    :raises AuthError: it does.
    """
    _FAMILIES[rules.power_level_family].check(rules, event, state, levels)


def _content(state: StateMap, slot: StateSlot) -> Mapping[str, Any]:
    event = state.get(slot)
    return event.content if event is not None else {}


def _creators_levels(rules: RoomRules, state: StateMap) -> Mapping[str, int]:
    """What users have before anybody was given power."""
    if CREATE not in state:
        return {}
    return dict.fromkeys(creators_of(rules, state[CREATE]), rules.level_defaults.creator)


# The family "one-event-per-level".


def _read_events(rules: RoomRules, state: StateMap) -> PowerLevels:
    defaults = rules.level_defaults
    given = _content(state, POWER_LEVELS)
    ops = _content(state, OPS_LEVELS)
    return PowerLevels(
        users={user: level for user, level in given.items() if user != "default"}
        if POWER_LEVELS in state
        else _creators_levels(rules, state),
        default=given.get("default", defaults.user),
        ban=ops.get("ban_level", defaults.ban),
        kick=ops.get("kick_level", defaults.kick),
        redact=ops.get("redact_level", defaults.redact),
        invite=defaults.invite,
        send_event=_content(state, SEND_EVENT_LEVEL).get("level", defaults.send_event),
        add_state=_content(state, ADD_STATE_LEVEL).get("level", defaults.add_state),
    )


def _slots_among_events(event: EventDraft | Event) -> tuple[StateSlot, ...]:
    if event.type == "m.room.member":
        by_power = event.sender != event.state_key and event.content.get("membership") in ("leave", "ban")
        return (OPS_LEVELS,) if by_power else ()
    if event.is_state:
        return (ADD_STATE_LEVEL,)
    return (SEND_EVENT_LEVEL, OPS_LEVELS) if event.type == "m.room.redaction" else (SEND_EVENT_LEVEL,)


def _needed_by_events(levels: PowerLevels, event: Event, replaced: Event | None) -> int | None:
    if not event.is_state:
        return levels.send_event
    # New state needs the level for new state; other state needs what it asks for, if it does.
    needed = levels.add_state if replaced is None else replaced.required_power_level
    # The rules of the room always need some power.
    if event.type in _RULE_EVENTS:
        return RULE_EVENT_LEVEL if needed is None else max(needed, RULE_EVENT_LEVEL)
    return needed


def _check_events(rules: RoomRules, event: Event, state: StateMap, old: PowerLevels) -> None:
    """No level changes that was, or would be, out of the sender's reach (PERM-2)."""
    if not event.is_state or event.state_slot not in PowerLevels.slots(rules):
        return
    new = PowerLevels.from_state(rules, {**state, event.state_slot: event})
    own = old.user(event.sender)
    # 1. What it takes to do things.
    for deed in ("ban", "kick", "redact", "send_event", "add_state"):
        before, after = getattr(old, deed), getattr(new, deed)
        if before != after and max(before, after) > own:
            raise AuthError(_OUT_OF_REACH)
    # 2. Power that is given; to oneself, too.
    users = old.users.keys() | new.users.keys()
    changed = {user for user in users if old.user(user) != new.user(user)}
    default_changed = old.default != new.default
    if any(new.user(user) > own for user in changed) or (default_changed and new.default > own):
        raise AuthError(_TOO_GENEROUS)
    # 3. Power that is taken; everybody may give up their own.
    if any(old.user(user) >= own for user in changed - {event.sender}) or (default_changed and old.default >= own):
        raise AuthError(_TOO_STRICT)


_OUT_OF_REACH = "You cannot change a level that is above your own, or set one above it."
_TOO_GENEROUS = "You cannot give more power than you have."
_TOO_STRICT = "You cannot take power from somebody who has as much as you."


# The family "power-levels-event".

_SINGLE = ("users_default", "events_default", "state_default", "ban", "redact", "kick", "invite")

_Entry = tuple[str, str]
"""Where a level stands in m.room.power_levels: a key of it and a key in that, or "" and a key of it."""


def levels_said(rules: RoomRules, content: Mapping[str, Any]) -> Mapping[_Entry, int]:
    """Every level that an m.room.power_levels of this family says, and where.

    :raises BadJson: one is no level in this room version, or what should be a user is none (room version 1,
        "Authorization rules", 10.1, and "m.room.power_levels events accept values as strings"; room version 10,
        "Authorization rules", 9.1 to 9.3).
    """
    level = _level_in(rules)
    said: dict[_Entry, int] = {("", key): level(f"content.{key}", content[key]) for key in _SINGLE if key in content}
    groups = ("users", "events", "notifications") if rules.notification_levels_checked else ("users", "events")
    for group in groups:
        entries = content.get(group, {})
        _GROUP(f"content.{group}", entries)
        for key, value in entries.items():
            said[group, key] = level(f"content.{group}.{key[:64]}", value)
    for user_id in content.get("users", {}):
        historical_user_id(user_id)
    return said


_GROUP = object_with()


def _level_in(rules: RoomRules) -> Callable[[str, object], int]:
    """What reads a level. Text was let through at first, and fractions as long as JSON was not checked."""
    if rules.strict_integer_levels:
        return integer
    return integer_or_text if rules.strict_canonical_json else number_or_text


def _read_event(rules: RoomRules, state: StateMap) -> PowerLevels:
    defaults = rules.level_defaults
    content = _content(state, POWER_LEVELS)

    def single(key: str, default: int | None) -> Any:
        return _level_in(rules)(key, content[key]) if key in content else default

    return PowerLevels(
        users=_group(rules, content, "users") if POWER_LEVELS in state else _creators_levels(rules, state),
        default=single("users_default", defaults.user),
        ban=single("ban", defaults.ban),
        kick=single("kick", defaults.kick),
        redact=single("redact", defaults.redact),
        invite=single("invite", defaults.invite),
        send_event=single("events_default", defaults.send_event),
        add_state=single("state_default", defaults.add_state),
        events=_group(rules, content, "events"),
        creators=creators_of(rules, state[CREATE]) if rules.creators_above_all and CREATE in state else frozenset(),
    )


def _group(rules: RoomRules, content: Mapping[str, Any], key: str) -> Mapping[str, int]:
    entries: Mapping[str, Any] = content.get(key, {})
    if rules.strict_integer_levels:
        return entries
    level = _level_in(rules)
    return {name: level(name, value) for name, value in entries.items()}


def _needed_by_event(levels: PowerLevels, event: Event, _: Event | None) -> int:
    return levels.events.get(event.type, levels.add_state if event.is_state else levels.send_event)


def _check_event(rules: RoomRules, event: Event, state: StateMap, levels: PowerLevels) -> None:
    """Room version 12, "Authorization rules", 10.4 to 10.10; without 10.4, those of all versions before."""
    if event.type != POWER_LEVELS[0]:
        return
    # 10.4. Who stands above all levels is not given one.
    if not levels.creators.isdisjoint(event.content.get("users", {})):
        raise AuthError("The creators of this room stand above all levels and cannot be given one.")
    # 10.5. The first levels are free.
    if POWER_LEVELS not in state:
        return
    own = levels.user(event.sender)
    for entry, old, new in _changes(levels_said(rules, state[POWER_LEVELS].content), levels_said(rules, event.content)):
        # 10.6 to 10.8. What it takes to do things.
        if entry[0] != "users":
            if max(level for level in (old, new) if level is not None) > own:
                raise AuthError(_OUT_OF_REACH)
            continue
        # 10.9. Power that is taken; everybody may give up their own.
        if old is not None and old >= own and entry[1] != event.sender:
            raise AuthError(_TOO_STRICT)
        # 10.10. Power that is given; to oneself, too.
        if new is not None and new > own:
            raise AuthError(_TOO_GENEROUS)


def _changes(old: Mapping[_Entry, int], new: Mapping[_Entry, int]) -> Iterator[tuple[_Entry, int | None, int | None]]:
    """Every entry that is not in both alike, in a fixed order, with what it said and says."""
    for entry in sorted(old.keys() | new.keys()):
        before, after = old.get(entry), new.get(entry)
        if before != after:
            yield entry, before, after


class _Family(NamedTuple):
    slots: tuple[StateSlot, ...]
    read: Callable[[RoomRules, StateMap], PowerLevels]
    slots_for: Callable[[EventDraft | Event], tuple[StateSlot, ...]]
    needed: Callable[[PowerLevels, Event, Event | None], int | None]
    check: Callable[[RoomRules, Event, StateMap, PowerLevels], None]


_FAMILIES = MappingProxyType(
    {
        "one-event-per-level": _Family(
            (CREATE, POWER_LEVELS, ADD_STATE_LEVEL, SEND_EVENT_LEVEL, OPS_LEVELS),
            _read_events,
            _slots_among_events,
            _needed_by_events,
            _check_events,
        ),
        "power-levels-event": _Family(
            (CREATE, POWER_LEVELS), _read_event, lambda event: (), _needed_by_event, _check_event
        ),
    }
)
