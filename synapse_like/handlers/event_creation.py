"""Making an event of what one of our users wants to say: its place in the graph, its right to be there, its
signature."""

from __future__ import annotations

import secrets

from msgspec import Struct
from msgspec.structs import replace
from signedjson.types import SigningKey

from synapse_like.clock import Clock
from synapse_like.handlers import room_state
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.protocol import canonical_json
from synapse_like.protocol.authorisation import auth_events_for, auth_types_for, authorise, required_power_level_for
from synapse_like.protocol.building import build, depth_after
from synapse_like.protocol.contents import check_content, check_event_type, check_state_key
from synapse_like.protocol.events import Event, EventDraft, StateSlot
from synapse_like.protocol.hashes import ALGORITHM, reference_hash
from synapse_like.protocol.power_levels import PowerLevels
from synapse_like.protocol.room_creation import create_event
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.wire_formats import encode_pdu, to_pdu
from synapse_like.storage import events, profiles, rooms
from synapse_like.storage.events import StoredEvent
from synapse_like.storage.rooms import Extremity, RoomHead
from synapse_like.storage.shared.lanes import Where
from synapse_like.storage.state import MEMBER, Snapshot, name_of_slot
from synapse_like.storage.transactions import Transaction

#: Bytes of randomness in the local part of an event or room ID.
ID_BYTES = 12
#: How many of a room's newest events a new one follows at the most; the deepest, if there are more.
MOST_FOLLOWED = 10


def where_of_member(room_id: str, user_id: str) -> Where:
    """Where it is written what a user has become in a room."""
    return Where(room_id, (profiles.name_of_profile(user_id), name_of_slot((MEMBER, user_id))))


class Place(Struct, frozen=True):
    """Where a new event stands in its room.

    :ivar follows: the events right before it.
    :ivar before: the state that it sees.
    :ivar state: the part of that which decides on it, and what it replaces.
    """

    follows: tuple[Extremity, ...]
    before: Snapshot
    state: dict[StateSlot, StoredEvent]
    depth: int


class MadeEvent(Struct, frozen=True):
    """A finished and authorised event.

    :ivar pdu: its wire form.
    :ivar replaced: the state event that it replaces.
    :ivar before: the state that it saw.
    """

    event: Event
    pdu: bytes
    replaced: StoredEvent | None
    before: Snapshot


class EventCreation(Struct):
    """Creates events in the name of this server.

    :ivar server_name: goes into the events' IDs and signatures.
    :ivar signing_key: this server's Ed25519 key.
    :ivar persistence: where finished events go.
    """

    server_name: str
    signing_key: SigningKey
    clock: Clock
    persistence: EventPersistence

    def found_room(self, txn: Transaction, rules: RoomRules, creator: str, *, is_public: bool) -> RoomHead:
        """Create the first event of a new room, and with it the room."""
        room_id = f"!{secrets.token_urlsafe(ID_BYTES)}:{self.server_name}" if rules.room_id_names_server else ""
        nowhere = RoomHead(0, room_id, rules)
        made = self.make(txn, nowhere, create_event(rules, room_id, creator))
        room = rooms.create(txn, made.event.room_id, rules, is_public=is_public)
        self.persistence.persist(txn, room, made.event, made.pdu, None)
        return room

    def say(self, txn: Transaction, room: RoomHead, draft: EventDraft) -> StoredEvent:
        """Create an event at the head of a room and persist it.

        :raises BadJson: the content is not what its type demands.
        :raises AuthError: the rules of the room do not allow it.
        :raises TooLarge: over 64 KiB.
        """
        made = self.make(txn, room, draft)
        return self.persistence.persist(txn, room, made.event, made.pdu, made.replaced, before=made.before)

    def make(self, txn: Transaction, room: RoomHead, draft: EventDraft) -> MadeEvent:
        """Create an event at the head of a room, allowed and signed, without persisting it; raises what `say` does."""
        rules = room.rules
        if draft.redacts is not None and rules.redacts_in_content:
            draft = replace(draft, content={**draft.content, "redacts": draft.redacts})
        if draft.type == MEMBER and draft.state_key is not None and draft.state_key.endswith(f":{self.server_name}"):
            # PROF-2. What the client says itself counts for more. A profile that changes at this moment is told to the
            # rooms that its user is in: this may be one of them, or has the new one.
            txn.hold_names(*where_of_member(draft.room_id, draft.state_key).names)
            profile = profiles.find(txn, draft.state_key)
            draft = replace(draft, content={**profile.content(), **draft.content})
        check_event_type(draft.type)
        if draft.state_key is not None:
            check_state_key(draft.state_key)
        canonical_json.check(draft.content)
        check_content(rules, draft.type, draft.content, state_key=draft.state_key)

        place = self.place_for(txn, room, draft)
        state = {slot: stored.event for slot, stored in place.state.items()}
        replaced = place.state.get(draft.state_slot) if draft.is_state else None
        if draft.state_key is not None and draft.required_power_level is None:
            draft = replace(draft, required_power_level=required_power_level_for(rules, draft, state))
        event, pdu = build(
            rules,
            draft,
            local_id=secrets.token_urlsafe(ID_BYTES),
            origin=self.server_name,
            origin_server_ts=self.clock.now_ms(),
            depth=place.depth,
            prev_events=[extremity.event_id for extremity in place.follows],
            auth_events=auth_events_for(rules, draft, state),
            replaces=replaced.event.event_id if replaced is not None else None,
            power_level=PowerLevels.from_state(rules, state).user(draft.sender) if draft.is_state else None,
            key=self.signing_key,
            reference_hashes=reference_hashes(txn, room, place),
        )
        authorise(rules, event, state)
        return MadeEvent(event, encode_pdu(pdu), replaced, place.before)

    def outline(self, txn: Transaction, room: RoomHead, draft: EventDraft) -> Event:
        """What an event that another server is to make for this room would be, without hash and signature.

        :raises AuthError: the rules of the room do not allow it.
        """
        place = self.place_for(txn, room, draft)
        state = {slot: stored.event for slot, stored in place.state.items()}
        hashes = reference_hashes(txn, room, place)
        prev_events = tuple(extremity.event_id for extremity in place.follows)
        auth_events = auth_events_for(room.rules, draft, state)
        replaced = state.get(draft.state_slot)
        level = PowerLevels.from_state(room.rules, state).user(draft.sender)
        event = Event(
            event_id=f"$outline:{self.server_name}",
            room_id=room.room_id,
            type=draft.type,
            sender=draft.sender,
            content=draft.content,
            origin_server_ts=self.clock.now_ms(),
            depth=place.depth,
            prev_events=prev_events,
            auth_events=auth_events,
            state_key=draft.state_key,
            power_level=level if room.rules.required_power_levels else None,
            replaces_state=replaced.event_id if replaced and room.rules.required_power_levels else None,
            prev_hashes=tuple({ALGORITHM: hashes[event_id]} for event_id in prev_events if hashes),
            auth_hashes=tuple({ALGORITHM: hashes[event_id]} for event_id in auth_events if hashes),
        )
        authorise(room.rules, event, state)
        return event

    def place_for(self, txn: Transaction, room: RoomHead, draft: EventDraft) -> Place:
        """Where a new event would stand in a room."""
        follows, before = room.extremities, room.snapshot
        if len(follows) > MOST_FOLLOWED:
            follows = tuple(sorted(follows, key=lambda extremity: extremity.depth)[-MOST_FOLLOWED:])
            before = room_state.merge(txn, room, [extremity.after for extremity in follows])
        own_slot = {draft.state_slot} if draft.is_state and room.extremities else set()
        slots = own_slot.union(auth_types_for(room.rules, draft))
        depth = depth_after(room.rules, (extremity.depth for extremity in follows))
        return Place(follows, before, rooms.stored_state_at(txn, room, before, slots), depth)


def reference_hashes(txn: Transaction, room: RoomHead, place: Place) -> dict[str, str]:
    """The hashes of the events that a new one may name, where the wire format wants them told."""
    rules = room.rules
    if rules.pdu_format != "ids-with-hashes":
        return {}
    newest = events.load(txn, [extremity.event_nid for extremity in place.follows])
    named = [stored.event for stored in (*place.state.values(), *newest)]
    return {event.event_id: reference_hash(rules, to_pdu(rules, event)) for event in named}
