"""The neutral event: the waist of the program.

Below it are the formats in which servers exchange events, above it the dialects that clients speak.
Everything between knows an event only as it is here. An event never changes: a redacted one, say, is another
value. The dictionaries inside are shared and must be treated as frozen, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from sys import intern
from types import MappingProxyType
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from synapse_like.protocol.identifiers import domain_of

Pdu = dict[str, Any]
"""An event as servers send it to each other, in the form that its room's version gives it."""

StateSlot = tuple[str, str]
"""What a state event replaces: the event of the same type and state key."""

Seals = tuple[str, ...] | Pdu
"""`hashes` and `signatures` of a PDU. Where there is one of each, as nearly always: the algorithm and the hash, the
signer, the name of the key and the signature. Otherwise both as the PDU has them; or nothing of either."""

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""An object without keys, one for all that have none."""


class EventDraft(Struct, frozen=True):
    """What somebody wants to say, before it has a place in a room's graph.

    :ivar state_key: None for an event that is not state.
    :ivar redacts: the ID of the event that a redaction strips.
    :ivar required_power_level: what replacing this state event is to need (PERM-3); None if nothing was asked.
    """

    room_id: str
    type: str
    sender: str
    content: Mapping[str, Any]
    state_key: str | None = None
    redacts: str | None = None
    required_power_level: int | None = None

    @property
    def is_state(self) -> bool:
        """Does this replace what was said before under the same type and state key?"""
        return self.state_key is not None

    @property
    def state_slot(self) -> StateSlot:
        """The type and state key of a state event.

        :raises ValueError: it is not state.
        """
        return _state_slot(self.type, self.state_key)

    def with_required_power_level(self, level: int | None) -> EventDraft:
        """The same draft, with the power level that replacing it is to need."""
        return replace(self, required_power_level=level)


class Event(Struct, frozen=True, kw_only=True):
    """Something that was said in a room.

    :ivar room_id, type, sender: interned by who makes it, as are `auth_events`: many events have the same.
    :ivar origin_server_ts: milliseconds since 1970 by the clock of the server that made it.
    :ivar depth: one more than the greatest depth among `prev_events`.
    :ivar prev_events: IDs of the latest events that its server knew.
    :ivar auth_events: IDs of the events that allow this one.
    :ivar state_key: None for an event that is not state.
    :ivar redacts: the ID of the event that this one strips.
    :ivar required_power_level: what replacing this state event needs (PERM-3); None if nothing was asked.
    :ivar power_level: what the sender of this state event had, by their own account.
    :ivar replaces_state: the ID of the state event that this one replaced.
    :ivar prev_hashes: the reference hashes of `prev_events`, by algorithm, where the wire format tells them.
    :ivar auth_hashes: likewise those of `auth_events`.
    :ivar seals: the content hash and the signatures, as `pack_seals` has them. Only who writes the PDU again looks at
        them, and as dictionaries they would take a third of the memory that an event takes.
    :ivar unsigned: what servers add in passing; neither hashed nor signed.
    :ivar extra: keys of the PDU that we do not know, kept because the hash covers them.
    """

    event_id: str
    room_id: str
    type: str
    sender: str
    content: Mapping[str, Any]
    origin_server_ts: int
    depth: int
    prev_events: tuple[str, ...]
    auth_events: tuple[str, ...]
    state_key: str | None = None
    redacts: str | None = None
    required_power_level: int | None = None
    power_level: int | None = None
    replaces_state: str | None = None
    prev_hashes: tuple[Mapping[str, str], ...] = ()
    auth_hashes: tuple[Mapping[str, str], ...] = ()
    seals: Seals = ()
    unsigned: Mapping[str, Any] = NOTHING
    extra: Mapping[str, Any] = NOTHING

    def __hash__(self) -> int:
        return hash(self.event_id)

    @property
    def is_state(self) -> bool:
        """Does this replace what was said before under the same type and state key?"""
        return self.state_key is not None

    @property
    def state_slot(self) -> StateSlot:
        """The type and state key of a state event.

        :raises ValueError: it is not state.
        """
        return _state_slot(self.type, self.state_key)

    @property
    def domain(self) -> str:
        """The server of the sender."""
        return domain_of(self.sender)

    @property
    def origin(self) -> str:
        """The server that made the event: the one that its ID names, else that of the sender."""
        return domain_of(self.event_id if ":" in self.event_id else self.sender)


def pack_seals(pdu: Pdu) -> Seals:
    """The `hashes` and `signatures` of a PDU, as an event keeps them."""
    hashes, signatures = pdu["hashes"], pdu["signatures"]
    if len(hashes) == len(signatures) == 1:
        [(signer, by_key)] = signatures.items()
        if len(by_key) == 1:
            [(algorithm, digest)], [(key_id, signature)] = hashes.items(), by_key.items()
            # Other keys are shared already: those that are read, by orjson.
            return algorithm, digest, signer, intern(key_id), signature
    return {"hashes": hashes, "signatures": signatures}


def unpack_seals(seals: Seals) -> Pdu:
    """The `hashes` and `signatures` of a PDU, from what an event keeps of them."""
    if isinstance(seals, dict):
        return seals
    if not seals:
        return {"hashes": {}, "signatures": {}}
    algorithm, digest, signer, key_id, signature = seals
    return {"hashes": {algorithm: digest}, "signatures": {signer: {key_id: signature}}}


StateMap = Mapping[StateSlot, Event]
"""A room's state: for every type and state key the event that holds."""


def _state_slot(event_type: str, state_key: str | None) -> StateSlot:
    if state_key is None:
        raise ValueError(f"an event of type {event_type} without a state key holds no place in the state")
    return event_type, state_key
