"""From a draft to a finished event: its place in the graph, its hash, its signature, its ID (FED-5, FED-9).

Every event that is sent passes here, so what is costly happens once: one encoding for the content hash, one (of the
redacted form) for the signature, which also gives the event its ID where that is the reference hash. The size of the
whole follows from the parts.
"""

from collections.abc import Iterable, Mapping, Sequence
from sys import intern
from types import MappingProxyType

from msgspec.structs import replace
from signedjson.types import SigningKey

from synapse_like.protocol import canonical_json, hashes
from synapse_like.protocol.events import Event, EventDraft, Pdu, pack_seals
from synapse_like.protocol.pdu_ids import LARGEST_STORED
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.signing import add_signature
from synapse_like.protocol.wire_formats import check_size, read_pdu, to_pdu

_NO_HASHES: Mapping[str, str] = MappingProxyType({})


def depth_after(rules: RoomRules, depths: Iterable[int]) -> int:
    """The depth of an event whose predecessors have these: one more than the greatest, as far as it can be told.

    A stranger may have claimed the greatest that there is. Then the room stays at it and goes on (room version 1,
    "Event format", `depth`; room version 6, likewise).
    """
    largest = canonical_json.LARGEST_INTEGER if rules.strict_canonical_json else LARGEST_STORED
    return min(max(depths, default=0) + 1, largest)


def build(
    rules: RoomRules,
    draft: EventDraft,
    *,
    local_id: str,
    origin: str,
    origin_server_ts: int,
    depth: int,
    prev_events: Sequence[str],
    auth_events: Sequence[str],
    replaces: str | None,
    power_level: int | None,
    key: SigningKey,
    reference_hashes: Mapping[str, str] = _NO_HASHES,
) -> tuple[Event, Pdu]:
    """The event that a draft becomes, and its PDU.

    :param rules: of the draft's room. Where they take a room's ID from its create event, that draft's is ignored.
    :param local_id: what makes the event's ID unique on this server; without ':'. Ignored where the ID is a hash.
    :param origin: the name of this server.
    :param origin_server_ts: milliseconds since 1970.
    :param depth: by `depth_after`.
    :param prev_events: IDs of the latest events of the room.
    :param auth_events: IDs of the events that allow this one.
    :param replaces: the ID of the state event in whose place this one comes.
    :param power_level: what the sender has; told with state only, and only where the rules want it told: None will do
        elsewhere.
    :param key: this server's.
    :param reference_hashes: of the events in `prev_events` and `auth_events`, by their IDs; needed where the wire
        format tells them.
    :raises CanonicalJsonError: there is no canonical JSON for the content.
    :raises TooLarge: over 65536 bytes.
    """
    event = Event(
        event_id=f"${local_id}:{origin}",
        room_id=intern(draft.room_id),
        type=intern(draft.type),
        sender=intern(draft.sender),
        content=_content(rules, draft),
        origin_server_ts=origin_server_ts,
        depth=depth,
        prev_events=tuple(prev_events),
        auth_events=tuple(map(intern, auth_events)),
        state_key=draft.state_key,
        redacts=draft.redacts,
    )
    if rules.required_power_levels and draft.is_state:
        event = replace(
            event,
            required_power_level=draft.required_power_level,
            power_level=power_level,
            replaces_state=replaces,
        )
    if rules.pdu_format == "ids-with-hashes":
        event = replace(
            event,
            prev_hashes=tuple([{hashes.ALGORITHM: reference_hashes[event_id]} for event_id in prev_events]),
            auth_hashes=tuple([{hashes.ALGORITHM: reference_hashes[event_id]} for event_id in auth_events]),
        )
    return _sealed(rules, event, origin, key)


def _content(rules: RoomRules, draft: EventDraft) -> Mapping[str, object]:
    if draft.redacts is None or not rules.redacts_in_content:
        return draft.content
    return {**draft.content, "redacts": draft.redacts}


def _sealed(rules: RoomRules, event: Event, origin: str, key: SigningKey) -> tuple[Event, Pdu]:
    """An event and its PDU with hash and signature, and with the ID that follows from them."""
    pdu = to_pdu(rules, event)
    said = hashes.content_bytes(rules, pdu)
    check_size(len(said))
    pdu["hashes"] = {hashes.ALGORITHM: hashes.digest(said)}
    signed = hashes.reference_bytes(rules, pdu)
    pdu = add_signature(pdu, signed, origin, key)
    seals = canonical_json.encode({"hashes": pdu["hashes"], "signatures": pdu["signatures"]})
    # Put into one object, the two lose a pair of braces and gain a comma.
    check_size(len(said) + len(seals) - 1)
    if rules.event_id_form == "chosen-by-origin":
        return replace(event, seals=pack_seals(pdu)), pdu
    return read_pdu(rules, pdu, hashes.event_id_from(rules, signed)), pdu
