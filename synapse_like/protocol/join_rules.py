"""How people may come into a room (MEM-1; "m.room.join_rules" in today's specification).

A join rule is a word in the room's state. Which words there are depends on the room's version; a word that a version
does not know lets nobody in, as `private` does (room version 1, "Authorization rules", 5.2.6).
"""

from collections.abc import Mapping
from typing import NamedTuple

from synapse_like.protocol.events import StateMap
from synapse_like.protocol.room_versions import RoomRules

JOIN_RULES = ("m.room.join_rules", "")

VOUCHER = "join_authorised_via_users_server"
"""The key of a join's content that names the member who vouches for the user."""


class JoinRule(NamedTuple):
    """What a join rule lets happen.

    :ivar anybody: everybody may join who is not banned.
    :ivar invited: those may join who were invited.
    :ivar vouched_for: those may join for whom a member vouches who could invite them.
    :ivar knocks: people may ask to be let in.
    """

    anybody: bool = False
    invited: bool = True
    vouched_for: bool = False
    knocks: bool = False


_BY_INVITE = JoinRule()
_CLOSED = JoinRule(invited=False)


def join_rules_of(rules: RoomRules) -> Mapping[str, JoinRule]:
    """The join rules that a room version knows, by their words."""
    known = {"public": JoinRule(anybody=True), "invite": _BY_INVITE, "private": _CLOSED}
    if rules.knock_allowed:
        known["knock"] = JoinRule(knocks=True)
    if rules.restricted_joins:
        known["restricted"] = JoinRule(vouched_for=True)
    if rules.knock_restricted_joins:
        known["knock_restricted"] = JoinRule(vouched_for=True, knocks=True)
    return known


def join_rule_in(rules: RoomRules, state: StateMap) -> JoinRule:
    """The join rule of a room; by invite where its state is silent."""
    event = state.get(JOIN_RULES)
    if event is None or "join_rule" not in event.content:
        return _BY_INVITE
    word = event.content["join_rule"]
    return join_rules_of(rules).get(word, _CLOSED) if isinstance(word, str) else _CLOSED
