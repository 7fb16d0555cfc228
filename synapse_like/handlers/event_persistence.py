"""The one door by which any event enters a room.

Everything that an event changes is written in the transaction that stores it: the event, the snapshot of the state
after it, the current state, the log of our users' memberships, the redaction it carries out, the head of the room.
"""

from __future__ import annotations

from dataclasses import dataclass

from synapse_like.protocol.canonical_json import encode_in_any_order
from synapse_like.protocol.events import Event
from synapse_like.protocol.identifiers import domain_of
from synapse_like.protocol.power_levels import PowerLevels
from synapse_like.protocol.redaction import redact
from synapse_like.protocol.wire_formats import to_pdu
from synapse_like.storage import events, membership, rooms, state
from synapse_like.storage.database import Transaction
from synapse_like.storage.events import StoredEvent as StoredEvent  # what the floors above read events as
from synapse_like.storage.membership import MembershipChange
from synapse_like.storage.rooms import Extremity, RoomHead
from synapse_like.storage.state import MEMBER

REDACTION = "m.room.redaction"


@dataclass(frozen=True, slots=True)
class EventPersisted:
    """News: an event stands in its room and in the stream of events."""

    room_id: str
    position: int
    stored: StoredEvent


@dataclass(frozen=True, slots=True)
class EventRedacted:
    """News: an event has been stripped of its content."""

    event_nid: int


@dataclass(slots=True)
class EventPersistence:
    """Stores events.

    :ivar server_name: whose users' memberships are logged.
    """

    server_name: str

    def persist(
        self, txn: Transaction, room: RoomHead, event: Event, pdu: bytes, replaced: StoredEvent | None
    ) -> StoredEvent:
        """Store an event that has been authorised and follows all the newest events of its room.

        :param pdu: its wire form.
        :param replaced: the state event it replaces.
        """
        before = room.snapshot_id
        snapshot_id, height = before, room.snapshot_height
        snapshot = None
        if event.is_state:
            snapshot = state.place_snapshot(txn, room.room_nid, parent_id=before, parent_height=height)
            snapshot_id, height = snapshot.snapshot_id, snapshot.height
        stored = events.insert(
            txn,
            room.room_nid,
            event,
            pdu,
            snapshot_before=before,
            snapshot_after=snapshot_id,
            replaced=replaced,
        )
        if snapshot is not None:
            self._change_state(txn, room, stored, snapshot)
        newest = (Extremity(stored.event_nid, event.event_id, event.depth),)
        rooms.advance(txn, room, newest, snapshot_id, height)
        if event.type == REDACTION and event.redacts is not None:
            self._carry_out_redaction(txn, room, stored, event.redacts)
        assert stored.position is not None
        txn.announce(EventPersisted(room.room_id, stored.position, stored))
        return stored

    def _change_state(self, txn: Transaction, room: RoomHead, stored: StoredEvent, snapshot: state.NewSnapshot) -> None:
        event = stored.event
        slot = state.make_slot_id(txn, event.state_slot)
        state.fill_snapshot(txn, snapshot, {slot: stored.event_nid})
        now = event.content["membership"] if event.type == MEMBER else None
        state.set_current(txn, room.room_nid, slot, stored.event_nid, now)
        rooms.remember_state(room, stored)
        if now is not None:
            self._log_membership(txn, stored, now)

    def _log_membership(self, txn: Transaction, stored: StoredEvent, now: str) -> None:
        user_id = stored.event.state_key
        assert user_id is not None
        assert stored.position is not None
        if domain_of(user_id) != self.server_name:
            return
        before = stored.replaced.content["membership"] if stored.replaced is not None else None
        if (before, now) != ("join", "join"):
            change = MembershipChange(stored.position, stored.room_nid, stored.event_nid, now)
            membership.record_change(txn, user_id, change)

    def _carry_out_redaction(self, txn: Transaction, room: RoomHead, redaction: StoredEvent, redacts: str) -> None:
        """RED-1, RED-2: strip the target, if the redaction's sender may: by level, or because it is their own."""
        target = events.find(txn, redacts)
        if target is None or target.room_nid != room.room_nid or target.redacted_because is not None:
            return
        sender = redaction.event.sender
        if target.event.sender != sender:
            levels = PowerLevels.from_state(room.rules, rooms.state_at_head(txn, room, PowerLevels.slots(room.rules)))
            if levels.user(sender) < levels.redact:
                return
        stripped = redact(room.rules, target.event)
        events.redact(txn, target, encode_in_any_order(to_pdu(room.rules, stripped)), because=redaction)
        rooms.forget_redacted(room, target)
        txn.announce(EventRedacted(target.event_nid))
