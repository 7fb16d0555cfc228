"""May this event be said in this room, in the state that it claims?

A function of the room's rules, the event and the state before it, and of nothing else: every server that asks
comes to the same answer (SEC-3, SEC-6). `auth_types_for` names the part of the state that the answer can depend
on; the events in it become the event's `auth_events`.

Contents are trusted to have the shapes that `contents` checks. Changes of membership are decided in `membership`.
"""

from synapse_like.protocol.errors import AuthError
from synapse_like.protocol.events import Event, EventDraft, StateMap, StateSlot
from synapse_like.protocol.identifiers import domain_of
from synapse_like.protocol.membership import (
    BAN,
    INVITE,
    JOIN,
    JOIN_RULES,
    KNOCK,
    MEMBER,
    check_joined,
    check_transition,
)
from synapse_like.protocol.power_levels import (
    ADD_STATE_LEVEL,
    CREATE,
    OPS_LEVELS,
    POWER_LEVELS,
    SEND_EVENT_LEVEL,
    PowerLevels,
)
from synapse_like.protocol.room_versions import RoomRules

ALIASES = "m.room.aliases"
REDACTION = "m.room.redaction"

RULE_EVENTS = frozenset(slot[0] for slot in (POWER_LEVELS, JOIN_RULES, ADD_STATE_LEVEL, SEND_EVENT_LEVEL, OPS_LEVELS))
"""The types of the state events that make a room's rules."""

RULE_EVENT_LEVEL = 50
"""What it takes at least to set one of them (PERM-3)."""


def auth_types_for(rules: RoomRules, event: EventDraft | Event) -> tuple[StateSlot, ...]:
    """The part of the state that decides on an event: as little as can be, in a fixed order.

    For a state event that includes the one it replaces.

    :param rules: of the event's room.
    """
    if event.type == CREATE[0]:
        return ()
    slots = [CREATE, POWER_LEVELS, (MEMBER, event.sender)]
    if event.is_state:
        slots.append(event.state_slot)
    if event.type == MEMBER:
        if event.content["membership"] in (JOIN, INVITE, KNOCK):
            slots.append(JOIN_RULES)
        elif event.sender != event.state_key:
            slots.append(OPS_LEVELS)
    elif not event.is_state:
        slots.append(SEND_EVENT_LEVEL)
    elif event.type != ALIASES or not rules.aliases_by_server:
        slots.append(ADD_STATE_LEVEL)
    if event.type == REDACTION:
        slots.append(OPS_LEVELS)
    return tuple(dict.fromkeys(slots))


def required_power_level_for(rules: RoomRules, draft: EventDraft, state: StateMap) -> int | None:
    """What replacing a state event is to need, if its sender did not say (PERM-3, MEM-3).

    A ban asks for more than the banned user has. Any other change of membership asks for nothing. Other state asks
    for what the event that it replaces did.

    :param state: of the room before the draft; the part named by `auth_types_for` suffices.
    """
    if not draft.is_state:
        return None
    if draft.type == MEMBER:
        if draft.content["membership"] != BAN:
            return None
        return PowerLevels.from_state(rules, state).user(draft.state_slot[1]) + 1
    replaced = state.get(draft.state_slot)
    return replaced.required_power_level if replaced is not None else None


def authorise(rules: RoomRules, event: Event, state: StateMap) -> None:
    """See that an event is allowed.

    :param rules: of the event's room.
    :param state: of the room before the event; the part named by `auth_types_for` suffices.
    :raises AuthError: it is not allowed, with the reason for the person who sent it.
    """
    # 1. A room begins with its creation, and is created once (PERM-5).
    if event.type == CREATE[0]:
        _check_creation(rules, event, state)
        return
    # 2. Everything else happens in a room that exists.
    if CREATE not in state or state[CREATE].room_id != event.room_id:
        raise AuthError("There is no such room.")
    # 3. A server tells its aliases by any of its users in the room, whatever their level (PERM-3, ROOM-4).
    if event.type == ALIASES and event.is_state and rules.aliases_by_server:
        _check_aliases(event, state)
        return
    levels = PowerLevels.from_state(rules, state)
    # 4. No one asks of others what they do not have themself (PERM-3).
    if event.required_power_level is not None and event.required_power_level > levels.user(event.sender):
        raise AuthError("You cannot require more power than you have.")
    # 5. Changes of membership have their own rules (MEM-1 to MEM-4).
    if event.type == MEMBER:
        check_transition(rules, event, state, levels)
        return
    # 6. Everything else is said from inside (PERM-5).
    check_joined(state, event.sender)
    # 7. State, and the rules of the room in particular (PERM-2, PERM-3).
    if event.is_state:
        _check_state(rules, event, state, levels)
    # 8. What is not state (PERM-3).
    elif levels.user(event.sender) < levels.send_event:
        raise AuthError(f"You need power level {levels.send_event} to send anything to this room.")
    # 9. Redactions (RED-1).
    if event.type == REDACTION:
        _check_redaction(rules, event, levels)


def _check_creation(rules: RoomRules, event: Event, state: StateMap) -> None:
    # 1.1. Nothing comes before it.
    if event.prev_events or state:
        raise AuthError("A room can be created only once.")
    # 1.2. It is the one state event that everybody will look for.
    if event.state_key != CREATE[1]:
        raise AuthError("The creation of a room must have an empty state key.")
    # 1.3. No one creates a room in somebody else's name, or in that of somebody else's server.
    if event.content["creator"] != event.sender:
        raise AuthError("Nobody can create a room for somebody else.")
    if rules.room_id_names_server and domain_of(event.room_id) != event.domain:
        raise AuthError("The room's ID must name the server of its creator.")


def _check_aliases(event: Event, state: StateMap) -> None:
    # 3.1. Only of its own.
    if event.state_key != event.domain:
        raise AuthError("A server can tell only its own aliases.")
    # 3.2. From inside.
    check_joined(state, event.sender)


def _check_state(rules: RoomRules, event: Event, state: StateMap, levels: PowerLevels) -> None:
    event_type, state_key = event.state_slot
    # 7.1. A user's own state is theirs alone.
    if rules.own_user_state_keys and state_key.startswith("@") and state_key != event.sender:
        raise AuthError(f"State with the key {state_key} can be set by that user only.")
    # 7.2. New state needs the level for new state; other state needs what it asks for, if it does.
    replaced = state.get(event.state_slot)
    needed = levels.add_state if replaced is None else replaced.required_power_level
    # 7.3. The rules of the room always need some power.
    if event_type in RULE_EVENTS:
        needed = RULE_EVENT_LEVEL if needed is None else max(needed, RULE_EVENT_LEVEL)
    if needed is not None and levels.user(event.sender) < needed:
        raise AuthError(f"You need power level {needed} to set {event_type} here.")
    # 7.4. No one gives or takes what is not theirs to give.
    if event.state_slot in PowerLevels.slots(rules):
        _check_levels(levels, PowerLevels.from_state(rules, {**state, event.state_slot: event}), event.sender)


def _check_levels(old: PowerLevels, new: PowerLevels, sender: str) -> None:
    """No level changes that was, or would be, out of the sender's reach (PERM-2)."""
    own = old.user(sender)
    # 7.4.1. What it takes to do things.
    for deed in ("ban", "kick", "redact", "send_event", "add_state"):
        before, after = getattr(old, deed), getattr(new, deed)
        if before != after and max(before, after) > own:
            raise AuthError("You cannot change a level that is above your own, or set one above it.")
    # 7.4.2. Power that is given; to oneself, too.
    users = old.users.keys() | new.users.keys()
    changed = {user for user in users if old.user(user) != new.user(user)}
    default_changed = old.default != new.default
    if any(new.user(user) > own for user in changed) or (default_changed and new.default > own):
        raise AuthError("You cannot give more power than you have.")
    # 7.4.3. Power that is taken; everybody may give up their own.
    if any(old.user(user) >= own for user in changed - {sender}) or (default_changed and old.default >= own):
        raise AuthError("You cannot take power from somebody who has as much as you.")


def _check_redaction(rules: RoomRules, event: Event, levels: PowerLevels) -> None:
    if event.redacts is None:
        raise AuthError("The redaction does not say what it redacts.")
    if levels.user(event.sender) >= levels.redact:
        return
    # Which of its users sent the other event is for their server to see to.
    if rules.redaction_by_own_server and domain_of(event.redacts) == event.domain:
        return
    raise AuthError(f"You need power level {levels.redact} to redact what others said.")
