"""Who may see an event (client-server API, "Room History Visibility").

What counts is the room as it was when the event was said: how visible its history was then, and what the user was
then. Rooms that cannot say how visible their history is share it with their members.
"""

from collections.abc import Mapping
from typing import Any

from synapse_like.protocol.events import Event, StateMap, StateSlot
from synapse_like.protocol.membership import INVITE, JOIN, MEMBER, NONE
from synapse_like.protocol.room_versions import RoomRules

HISTORY_VISIBILITY = ("m.room.history_visibility", "")

WORLD_READABLE, SHARED, INVITED, JOINED = HISTORY_VISIBILITIES = ("world_readable", "shared", "invited", "joined")


def visibility_slots_for(user_id: str) -> tuple[StateSlot, ...]:
    """The part of the state that decides what a user may see."""
    return HISTORY_VISIBILITY, (MEMBER, user_id)


def may_see(rules: RoomRules, event: Event, state: StateMap, user_id: str, *, joined_since: bool) -> bool:
    """May a user see an event?

    :param rules: of the event's room.
    :param state: of the room before the event; the part named by `visibility_slots_for` suffices.
    :param joined_since: has the user joined the room at any point after the event?
    """
    visibility = _visibility(rules, state.get(HISTORY_VISIBILITY))
    membership = _membership(state.get((MEMBER, user_id)))
    if _allows(visibility, membership, joined_since):
        return True
    # What changes what the user may see is seen by those who could see before it, and by those who can after.
    if not event.is_state:
        return False
    if event.state_slot == HISTORY_VISIBILITY:
        return _allows(_visibility(rules, event), membership, joined_since)
    if event.state_slot == (MEMBER, user_id):
        return _allows(visibility, _membership(event), joined_since)
    return False


def _allows(visibility: str, membership: str, joined_since: bool) -> bool:
    return (
        # 1. Everybody may.
        visibility == WORLD_READABLE
        # 2. They were there.
        or membership == JOIN
        # 3. They came later, and members share the history.
        or (visibility == SHARED and joined_since)
        # 4. They were invited already.
        or (visibility == INVITED and membership == INVITE)
    )


def _visibility(rules: RoomRules, event: Event | None) -> str:
    said = _said(event).get("history_visibility") if rules.history_visibility else None
    return said if said in HISTORY_VISIBILITIES else SHARED


def _membership(event: Event | None) -> str:
    return str(_said(event).get("membership", NONE))


def _said(event: Event | None) -> Mapping[str, Any]:
    return event.content if event is not None else {}
