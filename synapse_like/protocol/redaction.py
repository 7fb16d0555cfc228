"""Stripping an event to what the protocol needs (RED-2; section "Redactions" of every room version).

What stays is said by the room's rules. A redacted event keeps its place in the graph, its part in the room's
rules and its signatures, since these are made over the redacted form from the start. Redacting twice is the same as
redacting once.
"""

from msgspec.structs import replace

from synapse_like.protocol.events import NOTHING, Event, Pdu
from synapse_like.protocol.room_versions import ContentKeys, RoomRules

_NOTHING = ContentKeys()


def redact_pdu(rules: RoomRules, pdu: Pdu) -> Pdu:
    """The stripped form of a PDU, as a new dictionary."""
    stripped = {key: value for key, value in pdu.items() if key in rules.redaction_keeps}
    stripped["content"] = _kept_of(rules, pdu[rules.type_key]).strip(pdu["content"])
    return stripped


def redact(rules: RoomRules, event: Event) -> Event:
    """The stripped form of an event: the one that its stripped PDU stands for."""
    keeps_target = rules.redacts_in_content or "redacts" in rules.redaction_keeps
    return replace(
        event,
        content=_kept_of(rules, event.type).strip(event.content),
        redacts=event.redacts if keeps_target else None,
        unsigned=NOTHING,
        extra={key: value for key, value in event.extra.items() if key in rules.redaction_keeps} or NOTHING,
    )


def _kept_of(rules: RoomRules, event_type: str) -> ContentKeys:
    return rules.redaction_content_keeps.get(event_type, _NOTHING)
