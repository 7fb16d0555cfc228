"""May this event be said in this room, in the state that it claims?

A function of the room's rules, the event and the state before it, and of nothing else: every server that asks
comes to the same answer (SEC-3, SEC-6). `auth_types_for` names the part of the state that the answer can depend
on; `auth_events_for` picks from it what becomes the event's `auth_events`, and `claimed_state` makes of these, when
they come back with an event from elsewhere, the state that it claims.

The state is trusted to be made of events that were allowed. Of the event itself nothing is taken for granted but what
`wire_formats.from_pdu` checks. Changes of membership are decided in `membership`, changes of levels in `power_levels`.

The steps are those of "Authorization rules" in the Matrix room versions, and hold for spec-2014 as well where its rules
say so.
"""

from collections.abc import Collection, Iterable

from synapse_like.protocol.contents import check_ruling_content
from synapse_like.protocol.errors import AuthError, BadJson
from synapse_like.protocol.events import Event, EventDraft, StateMap, StateSlot
from synapse_like.protocol.identifiers import domain_of
from synapse_like.protocol.membership import BAN, MEMBER, check_joined, check_transition, member_slots_for
from synapse_like.protocol.power_levels import (
    CREATE,
    POWER_LEVELS,
    PowerLevels,
    check_levels,
    level_needed,
    level_slots_for,
)
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.third_party_invites import THIRD_PARTY_INVITE

ALIASES = "m.room.aliases"
REDACTION = "m.room.redaction"


def auth_types_for(rules: RoomRules, event: EventDraft | Event) -> tuple[StateSlot, ...]:
    """The part of the state that decides on an event: as little as can be, in a fixed order.

    Where state events say what replacing them needs, that includes the one that this event replaces. The creation of
    the room is always part of it, also where it is not among the auth events.

    :param rules: of the event's room.
    """
    if event.type == CREATE[0]:
        return ()
    slots = [CREATE, POWER_LEVELS, (MEMBER, event.sender)]
    if event.is_state and rules.required_power_levels:
        slots.append(event.state_slot)
    if event.type == MEMBER:
        slots += member_slots_for(rules, event)
    if event.type != ALIASES or rules.aliases_by_server is None:
        slots += level_slots_for(rules, event)
    return tuple(dict.fromkeys(slots))


def auth_events_for(rules: RoomRules, event: EventDraft | Event, state: StateMap) -> tuple[str, ...]:
    """The IDs of the events that an event must name as its `auth_events`.

    :param state: of the room before it; the part named by `auth_types_for` suffices.
    """
    named = (slot for slot in auth_types_for(rules, event) if slot != CREATE or rules.create_in_auth_events)
    return tuple(state[slot].event_id for slot in named if slot in state)


def claimed_state(
    rules: RoomRules,
    event: Event,
    auth_events: Iterable[Event],
    *,
    create: Event | None = None,
    rejected: Collection[str] = (),
) -> StateMap:
    """The state that an event claims by its auth events (room version 12, "Authorization rules", 3).

    :param auth_events: all of those it names.
    :param create: the creation of the room, where that is not among them.
    :param rejected: the IDs of those that were not allowed themselves.
    :raises AuthError: it must not name one of them.
    """
    if event.type == CREATE[0]:
        return {}
    claimable = set(auth_types_for(rules, event))
    state: dict[StateSlot, Event] = {}
    if not rules.create_in_auth_events:
        claimable.discard(CREATE)
        if create is not None:
            state[CREATE] = create
    for claimed in auth_events:
        # 3.2. Only what decides on it may be named …
        if not claimed.is_state or claimed.state_slot not in claimable:
            raise AuthError(f"The event rests on {claimed.event_id}, which has no say in it.")
        # 3.1. … and each but once.
        if claimed.state_slot in state:
            raise AuthError(f"The event rests on two events in the place of {claimed.event_id}.")
        # 3.3. What was refused allows nothing.
        if claimed.event_id in rejected:
            raise AuthError(f"The event rests on {claimed.event_id}, which was not allowed itself.")
        # 3.5. Nor does what was said elsewhere. (3.4, that the creation is there, is seen to by `authorise`.)
        if claimed.room_id != event.room_id:
            raise AuthError(f"The event rests on {claimed.event_id}, which is of another room.")
        state[claimed.state_slot] = claimed
    return state


def required_power_level_for(rules: RoomRules, draft: EventDraft, state: StateMap) -> int | None:
    """What replacing a state event is to need, if its sender did not say (PERM-3, MEM-3).

    A ban asks for more than the banned user has. Any other change of membership asks for nothing. Other state asks
    for what the event that it replaces did.

    :param state: of the room before the draft; the part named by `auth_types_for` suffices.
    :return: None if it needs nothing of its own, as always where state events do not say.
    """
    if not draft.is_state or not rules.required_power_levels:
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
    # 0. What the rules read is where they look for it (5.1, 5.8, 10.1 to 10.3, and EVT-2).
    _check_content(rules, event)
    # 1. A room begins with its creation, and is created once (PERM-5).
    if event.type == CREATE[0]:
        _check_creation(rules, event, state)
        return
    # 2 and 3. Everything else happens in a room that exists.
    if CREATE not in state or state[CREATE].room_id != event.room_id:
        raise AuthError("There is no such room.")
    # 4. It may be closed to other servers.
    if rules.unfederated_rooms and not _is_open_to(event.domain, state[CREATE]):
        raise AuthError("This room is closed to other servers.")
    # 4, until room version 5. A server tells its aliases, whatever the level of its users (PERM-3, ROOM-4).
    if event.type == ALIASES and rules.aliases_by_server is not None:
        _check_aliases(rules, event, state)
        return
    levels = PowerLevels.from_state(rules, state)
    # No one asks of others what they do not have themself (PERM-3).
    if event.required_power_level is not None and event.required_power_level > levels.user(event.sender):
        raise AuthError("You cannot require more power than you have.")
    # 5. Changes of membership have their own rules (MEM-1 to MEM-4).
    if event.type == MEMBER:
        check_transition(rules, event, state, levels)
        return
    # 6. Everything else is said from inside (PERM-5).
    check_joined(state, event.sender)
    _check_saying(rules, event, state, levels)


def _check_content(rules: RoomRules, event: Event) -> None:
    try:
        check_ruling_content(rules, event.type, event.content, state_key=event.state_key)
    except BadJson as error:
        raise AuthError(error.message, reason=error.reason) from error


def _check_creation(rules: RoomRules, event: Event, state: StateMap) -> None:
    # 1.1. Nothing comes before it.
    if event.prev_events or state:
        raise AuthError("A room can be created only once.")
    # It is the one state event that everybody will look for.
    if event.state_key != CREATE[1]:
        raise AuthError("The creation of a room must have an empty state key.")
    # 1.2. No one creates a room in the name of somebody else's server. An ID that follows from this event names none.
    if rules.room_id_names_server and domain_of(event.room_id) != event.domain:
        raise AuthError("The room's ID must name the server of its creator.")
    # 1.3. It says by which rules the room lives.
    version_if_untold = rules.name if rules.create_may_omit_version else None
    if event.content.get("room_version", version_if_untold) != rules.name:
        raise AuthError("The room was created for other rules.")
    if rules.creator_must_be_sender and event.content["creator"] != event.sender:
        raise AuthError("Nobody can create a room for somebody else.")


def _is_open_to(server: str, create: Event) -> bool:
    return create.content.get("m.federate") is not False or create.domain == server


def _check_aliases(rules: RoomRules, event: Event, state: StateMap) -> None:
    # 4.1 and 4.2. Only of its own.
    if event.state_key != event.domain:
        raise AuthError("A server can tell only its own aliases.")
    # In 2014, from inside.
    if rules.aliases_by_server == "members":
        check_joined(state, event.sender)


def _check_saying(rules: RoomRules, event: Event, state: StateMap, levels: PowerLevels) -> None:
    """What is asked of a member who says something, their own membership aside."""
    own = levels.user(event.sender)
    # 7. Inviting an address is inviting.
    if event.type == THIRD_PARTY_INVITE and rules.third_party_invites:
        if not levels.may_invite(event.sender):
            raise AuthError(f"You need power level {levels.invite} to invite somebody to this room.")
        return
    # 8. It takes some power (PERM-3).
    replaced = state.get(event.state_slot) if event.is_state else None
    needed = level_needed(rules, levels, event, replaced)
    if needed is not None and own < needed:
        deed = f"set {event.type} here" if event.is_state else "send this to the room"
        raise AuthError(f"You need power level {needed} to {deed}.")
    # 9. A user's own state is theirs alone.
    if rules.own_user_state_keys and event.state_key is not None:
        _check_owner(event, event.state_key)
    # 10. No one gives or takes what is not theirs to give (PERM-2).
    check_levels(rules, event, state, levels)
    # 11, until room version 2. Redactions (RED-1).
    if event.type == REDACTION and rules.redaction_checked == "when-authorised":
        _check_redaction(rules, event, levels)


def _check_owner(event: Event, state_key: str) -> None:
    if state_key.startswith("@") and state_key != event.sender:
        raise AuthError(f"State with the key {state_key} can be set by that user only.")


def _check_redaction(rules: RoomRules, event: Event, levels: PowerLevels) -> None:
    # Where that outlives a redaction, it always says what it redacts.
    if event.redacts is None and "redacts" in rules.redaction_keeps:
        raise AuthError("The redaction does not say what it redacts.")
    # 11.1. Elsewhere it may have been redacted itself.
    if levels.user(event.sender) >= levels.redact:
        return
    # 11.2. Which of its users sent the other event is for their server to see to.
    if rules.redaction_by_own_server and event.redacts is not None and event.redacts.partition(":")[2] == event.origin:
        return
    raise AuthError(f"You need power level {levels.redact} to redact what others said.")


def redaction_applies(rules: RoomRules, redaction: Event, target: Event, levels: PowerLevels) -> bool:
    """Does a redaction that was allowed into the room strip its target (room version 3, "Handling redactions")?

    Where redactions are authorised like all events, nothing is left to ask but that both are of one room.

    :param levels: of the room before the redaction.
    """
    if redaction.room_id != target.room_id:
        return False
    if rules.redaction_checked == "when-authorised" or levels.user(redaction.sender) >= levels.redact:
        return True
    return rules.redaction_by_own_server and redaction.domain == target.domain
