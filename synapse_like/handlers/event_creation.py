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
from synapse_like.protocol.authorisation import auth_types_for, authorise, required_power_level_for
from synapse_like.protocol.building import build
from synapse_like.protocol.contents import check_content, check_event_type, check_state_key
from synapse_like.protocol.events import EventDraft
from synapse_like.protocol.power_levels import PowerLevels
from synapse_like.storage import rooms
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

    def say(self, txn: Transaction, room: RoomHead, draft: EventDraft) -> StoredEvent:
        """Create an event at the head of a room and persist it.

        :raises BadJson: the content is not what its type demands.
        :raises AuthError: the rules of the room do not allow it.
        :raises TooLarge: over 64 KiB.
        """
        rules = room.rules
        check_event_type(draft.type)
        if draft.state_key is not None:
            check_state_key(draft.state_key)
        canonical_json.check(draft.content)
        check_content(rules, draft.type, draft.content, state_key=draft.state_key)

        known = rooms.stored_state_at_head(txn, room, auth_types_for(rules, draft))
        state = {slot: stored.event for slot, stored in known.items()}
        replaced = None if draft.state_key is None else known.get((draft.type, draft.state_key))
        if draft.state_key is not None and draft.required_power_level is None:
            draft = replace(draft, required_power_level=required_power_level_for(rules, draft, state))
        event, pdu = build(
            rules,
            draft,
            local_id=secrets.token_urlsafe(ID_BYTES),
            origin=self.server_name,
            origin_server_ts=self.clock.now_ms(),
            depth=max((extremity.depth for extremity in room.extremities), default=0) + 1,
            prev_events=[extremity.event_id for extremity in room.extremities],
            auth_events=[event.event_id for event in state.values()],
            replaces=replaced.event if replaced is not None else None,
            power_level=PowerLevels.from_state(rules, state).user(draft.sender),
            key=self.signing_key,
        )
        authorise(rules, event, state)
        return self.persistence.persist(txn, room, event, orjson.dumps(pdu), replaced)
