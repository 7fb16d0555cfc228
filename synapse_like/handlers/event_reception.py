"""How an event from another server gets into its room (FED-2, FED-6, SEC-2, SEC-3, SEC-6, SEC-7, SEC-8).

The steps, of which 1 to 3 are in `event_checks`:

1. The format: is it a PDU of its room's version? 2. The signatures of its origin. 3. The content hash; if it is
   wrong, only the redacted form is kept.
4. Is it here already? Then it is not judged again. Does it name events of another room, or none before it? Then it has
   no place in this one: nothing can be said of the state before it, and what follows on it is like what follows on an
   event that is not here.
5. Are the events here that it follows and that it rests on? If not, they are fetched (`missing_events`).
6. Do the events that it rests on allow it? If not, it is rejected.
7. Does the state before it allow it? If not, it is rejected.
8. Does the room allow it as it is now? If not, it is soft-failed: kept for those who build on it, but shown to nobody
   (server-server API, "Soft failure"). Who was banned cannot go on by pretending not to have heard of it. But state
   that holds its own when the forks are resolved is accepted: it holds on all servers that heard of it in time, and so
   it must here (FED-8).
   Messages that the policy servers of this server do not want are soft-failed, too, and invites are not told (POL-1).
9. It enters the room by the one door, `event_persistence`.

Steps 4 to 9 are one function of a transaction; nothing can come between them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from synapse_like.handlers import late_events, outside_memberships, room_state
from synapse_like.handlers.event_checks import CheckedEvent, Lacking, Verdict
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.handlers.outliers import as_stored, check_claim
from synapse_like.handlers.room_access import is_inhabited
from synapse_like.logs import get_logger
from synapse_like.protocol.authorisation import auth_types_for, authorise
from synapse_like.protocol.errors import AuthError
from synapse_like.protocol.events import Event
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.state_resolution import StateIds
from synapse_like.storage import events, rooms, state, unwanted
from synapse_like.storage.events import Known, Standing, StoredEvent
from synapse_like.storage.rooms import RoomHead
from synapse_like.storage.state import Snapshot
from synapse_like.storage.transactions import Transaction

_log = get_logger(__name__)


def receive(
    txn: Transaction, persistence: EventPersistence, item: CheckedEvent, *, bridge: StateIds | None = None
) -> Verdict | Lacking:
    """Steps 4 to 9, for what other servers send us.

    Of a room that this server was never in, only the end of an invite is taken. If none of our users is in it any more,
    those who go on sending do so because for them somebody is. They may be right: the forks of the room may meet in
    another state than it had here so far. So they are heard.
    """
    room = rooms.head(txn, item.event.room_id)
    if room is None or not is_inhabited(txn, room):
        ended = outside_memberships.end_by_others(txn, persistence.server_name, item)
        if ended is not None:
            return ended
    if room is None:
        return Verdict(item.event.event_id, "This server is not in the room.", Standing.REJECTED)
    return admit(txn, persistence, room, item, bridge=bridge)


def named_by(event: Event) -> set[str]:
    """The IDs of an event and of those that it names: of which must be known whether they are here."""
    return {event.event_id, *event.prev_events, *event.auth_events}


def admit(
    txn: Transaction,
    persistence: EventPersistence,
    room: RoomHead,
    checked: CheckedEvent,
    *,
    bridge: StateIds | None = None,
    is_ours: bool = False,
) -> Verdict | Lacking:
    """Steps 4 to 9.

    :param bridge: the state before the event as another server tells it, where events before it are missing; all of
        its events are here.
    :param is_ours: does this server see to it that the others in the room get it?
    """
    event = checked.event
    if checked.rules is not room.rules:
        # Its ID may not be its own, so it is not remembered by that.
        return Verdict(event.event_id, "The event is of another room version.", Standing.REJECTED)
    known = events.known(txn, named_by(event))
    # 4.
    own = known.get(event.event_id)
    if own is not None and own.is_judged:
        refusal = "It was rejected before." if own.standing is Standing.REJECTED else None
        return Verdict(event.event_id, refusal, own.standing)
    if own is not None and own.room_nid == room.room_nid:
        checked = as_stored(txn, checked, own)
        event = checked.event
        known = events.known(txn, named_by(event))
    misplaced = _why_misplaced(room, event, known)
    if misplaced is not None:
        _log.warning("an event was refused", event_id=event.event_id, room=room.room_id, reason=misplaced)
        if own is None:
            events.insert_outliers(txn, room.room_nid, [(event, checked.pdu, Standing.REJECTED)])
        return Verdict(event.event_id, misplaced, Standing.REJECTED)
    # 5.
    lacking = Lacking(
        tuple(prev for prev in event.prev_events if prev not in known or known[prev].snapshot_after is None),
        tuple(auth for auth in event.auth_events if auth not in known),
    )
    if lacking.auth or (lacking.before and bridge is None):
        return lacking
    before = _state_before(txn, room, [known[prev] for prev in event.prev_events if prev in known], bridge)
    # 6 to 8.
    standing, refusal = _judge(txn, room, event, known, before)
    if standing is Standing.ACCEPTED and not checked.is_welcome and not event.is_state:
        standing, refusal = Standing.SOFT_FAILED, "A policy server does not want it."
    if refusal is not None:
        _log.warning("an event was refused", event_id=event.event_id, standing=standing.name, reason=refusal)
    # 9.
    slots = [event.state_slot] if event.is_state else []
    replaced = rooms.stored_state_at(txn, room, before, slots).get(event.state_slot) if event.is_state else None
    late_place = None
    if standing is Standing.ACCEPTED and not is_ours and event.domain != persistence.server_name:
        late_place = late_events.place_of(txn, room, event, known)
    stored = persistence.persist(
        txn,
        room,
        event,
        checked.pdu,
        replaced,
        before=before,
        standing=standing,
        is_ours=is_ours,
        late_place=late_place,
    )
    if event.is_state and not checked.is_welcome:
        # A room has one state; but whom somebody invites need not be told.
        unwanted.hide(txn, stored.event_nid)
    if standing is Standing.ACCEPTED and lacking.before:
        missing = events.unplaced(txn, lacking.before)
        rooms.add_gaps(txn, room, stored.event_nid, missing, is_news=late_events.lacks_news(room, event))
    return Verdict(event.event_id, refusal if standing is Standing.REJECTED else None, standing)


def _why_misplaced(room: RoomHead, event: Event, known: Mapping[str, Known]) -> str | None:
    """4. Why an event has no place in its room; None if it has one."""
    if any(item.room_nid != room.room_nid for item in known.values()):
        return "The event names events of another room."
    if not event.prev_events:
        return "Only the creation of a room comes after nothing."
    return None


def _state_before(txn: Transaction, room: RoomHead, before: Sequence[Known], bridge: StateIds | None) -> Snapshot:
    """The state that an event sees: where those of the events before it meet."""
    snapshots = [
        room_state.snapshot_by_id(txn, room, item.snapshot_after) for item in before if item.snapshot_after is not None
    ]
    if bridge is not None:
        snapshots.append(room_state.keep(txn, room, bridge, [room.snapshot]))
    return room_state.merge(txn, room, snapshots) if snapshots else room.snapshot


def _judge(
    txn: Transaction, room: RoomHead, event: Event, known: dict[str, Known], before: Snapshot
) -> tuple[Standing, str | None]:
    """Steps 6 to 8: the standing of an event, and why it is no better."""
    rules = room.rules
    try:
        slots = auth_types_for(rules, event)
        seen = rooms.stored_state_at(txn, room, before, slots)
        # 6. Most events rest on just what they see: then 7 is the same question.
        if not _rests_on(rules, event, seen.values()):
            check_claim(txn, rules, event, known)
        # 7.
        authorise(rules, event, {slot: stored.event for slot, stored in seen.items()})
    except AuthError as error:
        return Standing.REJECTED, error.message
    if before == room.snapshot:
        return Standing.ACCEPTED, None
    try:
        # 8.
        seen = rooms.stored_state_at_head(txn, room, slots)
        authorise(rules, event, {slot: stored.event for slot, stored in seen.items()})
    except AuthError as error:
        # By depth, resolution lets old forks win; so where it goes by depth, whoever came too late came too late.
        by_depth = rules.state_resolution == "v1"
        if not event.is_state or by_depth or not _holds_its_own(txn, room, event, before):
            return Standing.SOFT_FAILED, error.message
    return Standing.ACCEPTED, None


def _rests_on(rules: RoomRules, event: Event, seen: Collection[StoredEvent]) -> bool:
    """Whether an event rests on just these events of the state before it, which are those that decide on it."""
    claimed = event.auth_events
    if not rules.create_in_auth_events or len(claimed) != len(seen):
        return False
    return {stored.event.event_id for stored in seen} == set(claimed)


def _holds_its_own(txn: Transaction, room: RoomHead, event: Event, before: Snapshot) -> bool:
    """Would the state of the room be another one with an event among its newest?"""
    after = {**state.ids_at(txn, before.snapshot_id), event.state_slot: event.event_id}
    ends = [state.ids_at(txn, extremity.after.snapshot_id) for extremity in room.extremities]
    together = room_state.resolve_ids(txn, room.rules, [*ends, after], also=event)
    return together != state.ids_at(txn, room.snapshot.snapshot_id)
