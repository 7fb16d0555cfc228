"""Rooms that let in the members of other rooms (room version 8, "Authorization rules", 4.2; join rule `restricted`)."""

from __future__ import annotations

from synapse_like.protocol.events import StateSlot
from synapse_like.protocol.identifiers import domain_of
from synapse_like.protocol.join_rules import JOIN_RULES, VOUCHER, join_rule_in
from synapse_like.protocol.membership import INVITE, JOIN, MEMBER, membership_of
from synapse_like.protocol.power_levels import PowerLevels
from synapse_like.storage import membership, rooms
from synapse_like.storage.rooms import RoomHead
from synapse_like.storage.transactions import Transaction

#: How many of the rooms that a join rule names are looked at.
MOST_ALLOWED = 100


def voucher_for(txn: Transaction, room: RoomHead, user_id: str, server_name: str) -> dict[str, str]:
    """What the content of a user's join must say, where somebody has to vouch for the user: a member of this server.

    :return: empty if nobody has to, or if nobody can.
    """
    rules = room.rules
    if not rules.restricted_joins:
        return {}
    slots: list[StateSlot] = [JOIN_RULES, (MEMBER, user_id), *PowerLevels.slots(rules)]
    state = rooms.state_at_head(txn, room, slots)
    if not join_rule_in(rules, state).vouched_for or membership_of(state, user_id) in (INVITE, JOIN):
        return {}
    allow = state[JOIN_RULES].content.get("allow")
    named = [entry.get("room_id") for entry in allow if isinstance(entry, dict)] if isinstance(allow, list) else []
    for room_id in [name for name in named if isinstance(name, str)][:MOST_ALLOWED]:
        other = rooms.find(txn, room_id)
        if other is not None and membership.in_room(txn, other.room_nid, user_id) == JOIN:
            break
    else:
        return {}
    levels = PowerLevels.from_state(rules, state)
    able = [
        member
        for member in membership.users_in_room(txn, room.room_nid)
        if domain_of(member) == server_name and levels.may_invite(member)
    ]
    return {VOUCHER: max(able, key=lambda member: (levels.user(member), member))} if able else {}
