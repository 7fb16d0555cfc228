"""Making an event of what one of our users wants to say: its place in the graph, its right to be there, its
signature."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

import orjson
from signedjson.types import SigningKey

from synapse_like.clock import Clock
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.protocol import canonical_json
from synapse_like.protocol.authorisation import auth_events_for, auth_types_for, authorise, required_power_level_for
from synapse_like.protocol.building import build, depth_after
from synapse_like.protocol.contents import check_content, check_event_type, check_state_key
from synapse_like.protocol.events import Event, EventDraft, StateMap
from synapse_like.protocol.hashes import reference_hash
from synapse_like.protocol.power_levels import PowerLevels
from synapse_like.protocol.room_creation import create_event
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.wire_formats import to_pdu
from synapse_like.storage import events, rooms
from synapse_like.storage.database import Transaction
from synapse_like.storage.events import StoredEvent
from synapse_like.storage.rooms import RoomHead

#: Bytes of randomness in the local part of an event or room ID.
ID_BYTES = 12


@dataclass(slots=True)
class EventCreation:
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
        event, pdu, _ = self._make(txn, nowhere, create_event(rules, room_id, creator))
        room = rooms.create(txn, event.room_id, rules, is_public=is_public)
        self.persistence.persist(txn, room, event, pdu, None)
        return room

    def say(self, txn: Transaction, room: RoomHead, draft: EventDraft) -> StoredEvent:
        """Create an event at the head of a room and persist it.

        :raises BadJson: the content is not what its type demands.
        :raises AuthError: the rules of the room do not allow it.
        :raises TooLarge: over 64 KiB.
        """
        return self.persistence.persist(txn, room, *self._make(txn, room, draft))

    def _make(self, txn: Transaction, room: RoomHead, draft: EventDraft) -> tuple[Event, bytes, StoredEvent | None]:
        """A finished and authorised event, its wire form, and the state event that it replaces."""
        rules = room.rules
        if draft.redacts is not None and rules.redacts_in_content:
            draft = replace(draft, content={**draft.content, "redacts": draft.redacts})
        check_event_type(draft.type)
        if draft.state_key is not None:
            check_state_key(draft.state_key)
        canonical_json.check(draft.content)
        check_content(rules, draft.type, draft.content, state_key=draft.state_key)

        own_slot = {draft.state_slot} if draft.is_state and room.extremities else set()
        known = rooms.stored_state_at_head(txn, room, own_slot.union(auth_types_for(rules, draft)))
        state = {slot: stored.event for slot, stored in known.items()}
        replaced = known.get(draft.state_slot) if draft.is_state else None
        if draft.state_key is not None and draft.required_power_level is None:
            draft = replace(draft, required_power_level=required_power_level_for(rules, draft, state))
        event, pdu = build(
            rules,
            draft,
            local_id=secrets.token_urlsafe(ID_BYTES),
            origin=self.server_name,
            origin_server_ts=self.clock.now_ms(),
            depth=depth_after(rules, (extremity.depth for extremity in room.extremities)),
            prev_events=[extremity.event_id for extremity in room.extremities],
            auth_events=auth_events_for(rules, draft, state),
            replaces=replaced.event if replaced is not None else None,
            power_level=PowerLevels.from_state(rules, state).user(draft.sender),
            key=self.signing_key,
            reference_hashes=self._reference_hashes(txn, room, state),
        )
        authorise(rules, event, state)
        return event, orjson.dumps(pdu), replaced

    def _reference_hashes(self, txn: Transaction, room: RoomHead, state: StateMap) -> dict[str, str]:
        """The hashes of the events that a new one may name, where the wire format wants them told."""
        rules = room.rules
        if rules.pdu_format != "ids-with-hashes":
            return {}
        newest = events.load(txn, [extremity.event_nid for extremity in room.extremities])
        named = [*state.values(), *(stored.event for stored in newest)]
        return {event.event_id: reference_hash(rules, to_pdu(rules, event)) for event in named}
