"""From a draft to a finished event: its place in the graph, its hash, its signature (FED-5, FED-9).

Every event that is sent passes here, so what is costly happens once: one encoding for the hash, one (of the
redacted form) for the signature. The size of the whole follows from the parts.
"""

from collections.abc import Sequence
from dataclasses import replace

from signedjson.types import SigningKey

from synapse_like.protocol import canonical_json, hashes
from synapse_like.protocol.events import Event, EventDraft
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.signing import sign_pdu
from synapse_like.protocol.wire_formats import Pdu, check_size, to_pdu


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
    replaces: Event | None,
    power_level: int,
    key: SigningKey,
) -> tuple[Event, Pdu]:
    """The event that a draft becomes, and its PDU.

    :param rules: of the draft's room.
    :param local_id: what makes the event's ID unique on this server; without ':'.
    :param origin: the name of this server.
    :param origin_server_ts: milliseconds since 1970.
    :param depth: one more than the greatest depth among `prev_events`.
    :param prev_events: IDs of the latest events of the room.
    :param auth_events: IDs of the events that allow this one.
    :param replaces: the state event in whose place this one comes.
    :param power_level: what the sender has; told with state only.
    :param key: this server's.
    :raises CanonicalJsonError: there is no canonical JSON for the content.
    :raises TooLarge: over 65536 bytes.
    """
    event = Event(
        event_id=f"${local_id}:{origin}",
        room_id=draft.room_id,
        type=draft.type,
        sender=draft.sender,
        content=draft.content,
        origin_server_ts=origin_server_ts,
        depth=depth,
        prev_events=tuple(prev_events),
        auth_events=tuple(auth_events),
        state_key=draft.state_key,
        redacts=draft.redacts,
        required_power_level=draft.required_power_level if draft.is_state else None,
        power_level=power_level if draft.is_state else None,
        replaces_state=replaces.event_id if replaces is not None else None,
    )
    pdu = to_pdu(rules, event)
    encoded = hashes.hashed_bytes(pdu)
    check_size(len(encoded))
    pdu["hashes"] = {hashes.ALGORITHM: hashes.digest(encoded)}
    pdu = sign_pdu(rules, pdu, origin, key)
    seals = {"hashes": pdu["hashes"], "signatures": pdu["signatures"]}
    # Put into one object, the two lose a pair of braces and gain a comma.
    check_size(len(encoded) + len(canonical_json.encode(seals)) - 1)
    return replace(event, **seals), pdu
