"""What our users are to rooms that this server is not in: invited, or knocking, and what becomes of that (FED-7).

Such a membership is an event without a state around it. The user sees it in the event stream; there is nothing else of
the room to see but what the server that sent it wants to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from synapse_like.handlers.event_checks import CheckedEvent, Lacking, Verdict
from synapse_like.handlers.event_persistence import StoredEvent
from synapse_like.handlers.outliers import check_claim
from synapse_like.protocol.errors import AuthError
from synapse_like.protocol.identifiers import domain_of
from synapse_like.protocol.membership import BAN, LEAVE
from synapse_like.storage import events, gaps, membership, outside_memberships, rooms, state
from synapse_like.storage.event_news import EventPersisted
from synapse_like.storage.events import Standing
from synapse_like.storage.membership import MembershipChange
from synapse_like.storage.state import MEMBER
from synapse_like.storage.transactions import Transaction

#: What an invited user is shown of a room.
SHOWN_TYPES = (
    "m.room.create",
    "m.room.join_rules",
    "m.room.name",
    "m.room.topic",
    "m.room.aliases",
    "m.room.canonical_alias",
    "m.room.avatar",
    "m.room.encryption",
)


def begin(txn: Transaction, item: CheckedEvent, *, server: str, shown: Sequence[dict[str, Any]]) -> StoredEvent:
    """A user of ours was invited to a room, or knocks on it.

    :param item: the m.room.member event.
    :param server: one that is in the room.
    """
    txn.hold_room(item.event.room_id)
    room_nid = rooms.know(txn, item.event.room_id, item.rules)
    stored = _show(txn, room_nid, item)
    outside_memberships.put(
        txn, room_nid, item.event.state_slot[1], event_nid=stored.event_nid, server=server, shown=list(shown)
    )
    return stored


def end(txn: Transaction, item: CheckedEvent) -> StoredEvent:
    """The user has turned the invite down or taken the knock back, or somebody else has."""
    txn.hold_room(item.event.room_id)
    room_nid = rooms.know(txn, item.event.room_id, item.rules)
    stored = _show(txn, room_nid, item)
    outside_memberships.delete(txn, room_nid, item.event.state_slot[1])
    return stored


def end_by_others(txn: Transaction, server_name: str, item: CheckedEvent) -> Verdict | Lacking | None:
    """Another server says that an invite or knock of one of ours is over: believed if what it rests on allows it.

    :return: None if the event says nothing of the kind.
    """
    event = item.event
    if event.type != MEMBER or event.content.get("membership") not in (LEAVE, BAN) or event.state_key is None:
        return None
    room = rooms.find(txn, event.room_id)
    if room is None or ":" not in event.state_key or domain_of(event.state_key) != server_name:
        return None
    if outside_memberships.find(txn, room.room_nid, event.state_key) is None:
        return None
    known = events.known(txn, {event.event_id, *event.auth_events})
    if event.event_id in known:
        return Verdict(event.event_id)
    missing = tuple(auth for auth in event.auth_events if auth not in known)
    if missing:
        return Lacking((), missing)
    try:
        check_claim(txn, item.rules, event, known)
    except AuthError as error:
        return Verdict(event.event_id, error.message, Standing.REJECTED)
    end(txn, item)
    return Verdict(event.event_id)


def _show(txn: Transaction, room_nid: int, item: CheckedEvent) -> StoredEvent:
    """Put a change of membership into the event stream of its user, and nowhere else."""
    event = item.event
    user_id, now = event.state_slot[1], event.content["membership"]
    place = events.next_place(txn)
    stored, _ = events.insert(txn, room_nid, event, item.pdu, place=place, snapshot_before=None, snapshot_after=None)
    # What was before it will be of interest if somebody comes into the room.
    gaps.add(txn, room_nid, stored.event_nid, event.prev_events, is_news=False)
    slot = state.make_slot_id(txn, event.state_slot)
    state.set_current(txn, room_nid, [(slot, stored.event_nid, now)])
    head = rooms.head(txn, event.room_id)
    if head is not None:
        head.missing = None
        rooms.remember_state(txn, head, event.state_slot, stored)
    membership.record_change(txn, user_id, MembershipChange(stored.position, room_nid, stored.event_nid, now))
    txn.announce(EventPersisted(event.room_id, stored.position, stored, {user_id: now}))
    return stored
