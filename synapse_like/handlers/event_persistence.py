"""The one door by which any event enters a room.

Everything that an event changes is written in the transaction that stores it: the event, the snapshot of the state
after it, the newest events of its room and the state where they meet, the log of our users' memberships, the servers in
the room, the redaction it carries out.

Nearly always an event follows all the newest events of its room: then what it changes is what it says. One that
comes from a fork of the history leaves several newest events, whose states are resolved; what that changes is found
by comparing the state of the room before with the one after.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from msgspec import Struct

from synapse_like.handlers import room_state
from synapse_like.handlers.unwanted import is_kept_from
from synapse_like.protocol.authorisation import redaction_applies
from synapse_like.protocol.events import Event, StateSlot
from synapse_like.protocol.identifiers import domain_of
from synapse_like.protocol.membership import BAN, JOIN, LEAVE
from synapse_like.protocol.power_levels import PowerLevels
from synapse_like.protocol.redaction import redact
from synapse_like.protocol.wire_formats import encode_pdu, to_pdu
from synapse_like.storage import destinations, events, membership, room_servers, rooms, state, unwanted
from synapse_like.storage.event_news import EventPersisted, EventRedacted
from synapse_like.storage.events import Standing
from synapse_like.storage.events import StoredEvent as StoredEvent  # what the floors above read events as
from synapse_like.storage.membership import MembershipChange
from synapse_like.storage.rooms import Extremity, RoomHead
from synapse_like.storage.state import MEMBER, Snapshot
from synapse_like.storage.transactions import Transaction

REDACTION = "m.room.redaction"

#: Changes of a state that are kept in memory; those of somebody who comes into a large room are not.
MOST_REMEMBERED = 100

#: What most events are sent to: one for all of them.
_NOWHERE: frozenset[str] = frozenset()


class Change(Struct, frozen=True):
    """What holds in a slot of a room's state, before an event and after it."""

    before: StoredEvent | None
    after: StoredEvent | None

    @property
    def is_none(self) -> bool:
        """Does the same hold before and after?"""
        before, after = self.before, self.after
        return before is not None and after is not None and before.event_nid == after.event_nid

    @property
    def memberships(self) -> tuple[str | None, str | None]:
        """The memberships that the two say, if they are m.room.member events."""
        return _membership(self.before), _membership(self.after)


Changes = Mapping[StateSlot, Change]


class EventPersistence(Struct):
    """Stores events.

    :ivar server_name: whose users' memberships are logged.
    """

    server_name: str

    def persist(
        self,
        txn: Transaction,
        room: RoomHead,
        event: Event,
        pdu: bytes,
        replaced: StoredEvent | None,
        *,
        before: Snapshot | None = None,
        standing: Standing = Standing.ACCEPTED,
        is_ours: bool = True,
        late_place: int | None = None,
    ) -> StoredEvent:
        """Store an event that has been judged.

        :param pdu: its wire form.
        :param replaced: the state event it replaces.
        :param before: the state that it saw; None for the state of the room.
        :param is_ours: does this server see to it that the other servers in the room get it?
        :param late_place: where it belongs, if that is before what is here already.
        """
        before = room.snapshot if before is None else before
        is_accepted = standing is Standing.ACCEPTED
        new = None
        if event.is_state and standing is not Standing.REJECTED:
            new = state.place_snapshot(txn, room.room_nid, after=before)
        after = new.snapshot if new is not None else before
        destinations = self._destinations(txn, room, event) if is_ours and is_accepted else _NOWHERE
        place, told_at = None, None
        if is_accepted:
            told_at = events.next_position(txn)
            place = late_place or told_at * events.GAP
        stored, is_awaited = events.insert(
            txn,
            room.room_nid,
            event,
            pdu,
            place=place,
            told_at=told_at if late_place is not None else None,
            snapshot_before=before.snapshot_id,
            snapshot_after=after.snapshot_id,
            replaced=replaced,
            standing=standing,
            is_outgoing=bool(destinations),
        )
        if new is not None:
            state.fill_snapshot(txn, new, {state.make_slot_id(txn, event.state_slot): stored.event_nid})
        if not is_accepted:
            txn.changes(room.room_id)
            return stored
        changes = self._move_head(txn, room, stored, replaced, before, after)
        self._apply(txn, room, changes, stored.position, _heard_up_to(txn, room, event))
        for server in destinations - room_servers.present(txn, room).keys():
            if is_about(event, server):
                room_servers.add_passing(txn, room, server, position=stored.position)
        if event.type == REDACTION and event.redacts is not None:
            carry_out_redaction(txn, room, stored, event.redacts, before)
        if event.domain != self.server_name:
            arrived(txn, room, stored, is_awaited=is_awaited)
        memberships = {slot[1]: change.memberships[1] or LEAVE for slot, change in changes.items() if slot[0] == MEMBER}
        if is_ours and late_place is None and self._only_moves(event, changes):
            txn.moves(room.room_id, changes)
        else:
            txn.changes(room.room_id)
        sent = pdu if destinations else None
        txn.announce(EventPersisted(room.room_id, stored.position, stored, memberships, destinations, sent))
        return stored

    def enter(
        self,
        txn: Transaction,
        room: RoomHead,
        event: Event,
        pdu: bytes,
        before: Snapshot,
        now: Mapping[StateSlot, StoredEvent],
    ) -> StoredEvent:
        """Come into a room by the join of one of our users, which another server has let in.

        :param before: the state of the room, as that server told it. What this server knew of it before is past.
        :param now: the events of that state.
        """
        present = events.load(txn, state.current(txn, room.room_nid), remember=False)
        was = {stored.event.state_slot: stored for stored in present}
        both = {slot: Change(was.get(slot), now.get(slot)) for slot in was.keys() | now.keys()}
        changes = {slot: change for slot, change in both.items() if not change.is_none}
        self._apply(txn, room, changes, events.next_place(txn) // events.GAP)
        room.entered_depth = event.depth
        rooms.advance(txn, room, (), before)
        return self.persist(txn, room, event, pdu, now.get(event.state_slot), before=before, is_ours=False)

    def _destinations(self, txn: Transaction, room: RoomHead, event: Event) -> frozenset[str]:
        """The other servers that get an event: those in the room, and that of somebody who is put out of it."""
        servers = frozenset(room_servers.present(txn, room)) or _NOWHERE
        if event.type == MEMBER and event.content["membership"] in (LEAVE, BAN):
            server = _server_of(event.state_key)
            if server is not None and server != self.server_name and event.state_key != event.sender:
                return servers | {server}
        return servers

    def _move_head(
        self,
        txn: Transaction,
        room: RoomHead,
        stored: StoredEvent,
        replaced: StoredEvent | None,
        before: Snapshot,
        after: Snapshot,
    ) -> Changes:
        """Make an event one of the newest of its room; what that changes in the state of the room.

        One that comes after what follows it is none of them: what it did is in the state that its followers saw.
        """
        event = stored.event
        left = _not_followed(txn, room, event)
        was = room.snapshot
        newest = [*left, Extremity(stored.event_nid, event.event_id, event.depth, after)]
        if left and rooms.is_followed(txn, room, event.event_id):
            newest = left
        head = newest[0].after
        if len(newest) > 1:
            head = was if newest == [*room.extremities] else room_state.merge(txn, room, [one.after for one in newest])
        rooms.advance(txn, room, tuple(newest), head)
        if not left and before == was:
            return {event.state_slot: Change(replaced, stored)} if event.is_state else {}
        return _difference(txn, was, head)

    def _only_moves(self, event: Event, changes: Changes) -> bool:
        """Whether an event does nothing to what is in memory of a room but move it, and change some of its state."""
        # One of another server may fill a gap; and which servers are in a room is not only a matter of its state.
        return (
            event.domain == self.server_name
            and event.type != REDACTION
            and len(changes) <= MOST_REMEMBERED
            and all(slot[0] != MEMBER or _server_of(slot[1]) == self.server_name for slot in changes)
        )

    def _apply(
        self, txn: Transaction, room: RoomHead, changes: Changes, position: int, heard_up_to: int | None = None
    ) -> None:
        """Change the current state of a room, and what follows from it.

        :param position: of the event by which it changes.
        :param heard_up_to: what other servers that come in have heard of the room; up to that position if left out.
        """
        if len(changes) > MOST_REMEMBERED:
            rooms.forget_state(room)
        numbers = state.make_slot_ids(txn, changes.keys())
        state.set_current(
            txn,
            room.room_nid,
            [
                (numbers[slot], change.after.event_nid, change.memberships[1])
                for slot, change in changes.items()
                if change.after is not None
            ],
        )
        joined: Counter[str] = Counter()
        for slot, change in changes.items():
            was, now = change.memberships
            if change.after is None:
                state.unset_current(txn, room.room_nid, numbers[slot])
            if len(changes) <= MOST_REMEMBERED:
                rooms.remember_state(txn, room, slot, change.after)
            if slot[0] != MEMBER or (was, now) == (JOIN, JOIN):
                continue
            server = _server_of(slot[1])
            if server == self.server_name:
                room.is_inhabited = True if now == JOIN else None
                self._log_membership(txn, room, slot[1], change, position)
            elif server is not None and JOIN in (was, now):
                joined[server] += (now == JOIN) - (was == JOIN)
        if joined:
            since = position if heard_up_to is None else heard_up_to
            room_servers.change(txn, room, joined, position=position, since=since)
            if since < position:
                for server in joined.keys() & room_servers.present(txn, room).keys():
                    destinations.rewind(txn, server, since)

    def _log_membership(self, txn: Transaction, room: RoomHead, user_id: str, change: Change, position: int) -> None:
        """Log that one of our own users came or went."""
        held = change.after or change.before
        assert held is not None
        was, now = change.memberships[0], change.memberships[1] or LEAVE
        if change.after is not None and change.after.event.sender != user_id:
            before = change.before.event_nid if change.before is not None else None
            if is_kept_from(txn, change.after.event, was=was, before=before):
                unwanted.hide(txn, change.after.event_nid)
        membership.record_change(txn, user_id, MembershipChange(position, room.room_nid, held.event_nid, now))


def is_about(event: Event, server: str) -> bool:
    """Is an event a change of the membership of a user of a server?"""
    return event.type == MEMBER and _server_of(event.state_key) == server


def arrived(txn: Transaction, room: RoomHead, stored: StoredEvent, *, is_awaited: bool) -> None:
    """An event from elsewhere has got its place: close the gaps that it fills, and do what was waiting for it.

    :param is_awaited: whether redactions were.
    """
    rooms.close_gaps(txn, room, stored.event.event_id)
    if not is_awaited:
        return
    for redaction in events.redactions_ahead(txn, stored.event.event_id):
        before, _ = events.snapshots_of(txn, redaction.event_nid)
        seen = None if before is None else state.snapshot(txn, before)
        # What it said itself may be gone by now: it may have been redacted, too.
        carry_out_redaction(txn, room, redaction, stored.event.event_id, seen)


def carry_out_redaction(
    txn: Transaction, room: RoomHead, redaction: StoredEvent, target_id: str, before: Snapshot | None
) -> None:
    """RED-1, RED-2: strip what a redaction names, if its sender may; as soon as it is here.

    :param target_id: the ID of what it names.
    :param before: the state that the redaction saw; None if only what it rests on is known of that.
    """
    target = events.find(txn, target_id)
    if target is None:
        events.wait_for_target(txn, redaction, target_id)
        return
    if target.room_nid != room.room_nid or target.redacted_because is not None:
        return
    if before is None:
        cited = events.by_ids(txn, redaction.event.auth_events).values()
        seen = {stored.event.state_slot: stored for stored in cited if stored.event.is_state}
    else:
        seen = rooms.stored_state_at(txn, room, before, PowerLevels.slots(room.rules))
    levels = PowerLevels.from_state(room.rules, {slot: stored.event for slot, stored in seen.items()})
    if not redaction_applies(room.rules, redaction.event, target.event, levels):
        return
    stripped = redact(room.rules, target.event)
    events.redact(txn, target, encode_pdu(to_pdu(room.rules, stripped)), because=redaction)
    rooms.forget_redacted(txn, room, target)
    txn.announce(EventRedacted(target.event_nid))


def _not_followed(txn: Transaction, room: RoomHead, event: Event) -> list[Extremity]:
    """Those of the newest events of a room that an event does not come after."""
    followed = set(event.prev_events)
    left = [extremity for extremity in room.extremities if extremity.event_id not in followed]
    waiting = followed - {extremity.event_id for extremity in room.extremities} if left else set()
    while waiting and left:
        # What was soft-failed is not among the newest events, but what comes after it comes after what it followed.
        known = events.known(txn, waiting)
        hidden = [event_id for event_id, item in known.items() if item.standing is Standing.SOFT_FAILED]
        waiting = {prev for stored in events.by_ids(txn, hidden).values() for prev in stored.event.prev_events}
        waiting -= followed
        followed |= waiting
        left = [extremity for extremity in left if extremity.event_id not in followed]
    return left


def _difference(txn: Transaction, was: Snapshot, now: Snapshot) -> Changes:
    """What differs between two states of a room."""
    if was == now:
        return {}
    before, after = state.ids_at(txn, was.snapshot_id), state.ids_at(txn, now.snapshot_id)
    differing = sorted({slot for slot, _ in before.items() ^ after.items()})
    ids = [side[slot] for slot in differing for side in (before, after) if slot in side]
    found = events.by_ids(txn, ids)
    return {slot: Change(found.get(before.get(slot, "")), found.get(after.get(slot, ""))) for slot in differing}


def _heard_up_to(txn: Transaction, room: RoomHead, event: Event) -> int | None:
    """Up to which position a server that comes into a room by an event knows what was said before; None for all of it.

    It came in through another server, which may not have heard yet what was said here.
    """
    if event.type != MEMBER or event.content["membership"] != JOIN or len(room.extremities) == 1:
        return None
    places = [item.place for item in events.known(txn, event.prev_events).values() if item.place is not None]
    return min(places) // events.GAP if places else None


def _membership(stored: StoredEvent | None) -> str | None:
    if stored is None or stored.event.type != MEMBER:
        return None
    said: str = stored.event.content["membership"]
    return said


def _server_of(user_id: str | None) -> str | None:
    """The server of a user; None for what is no user ID."""
    return domain_of(user_id) if user_id is not None and ":" in user_id else None
