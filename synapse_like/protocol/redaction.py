"""Stripping an event to what the protocol needs (RED-2).

What stays is said by the room's rules. A redacted event keeps its place in the graph, its part in the room's
rules and its signatures, since these are made over the redacted form from the start. Redacting twice is the same as
redacting once.
"""

from typing import Any

from synapse_like.protocol.events import Event
from synapse_like.protocol.room_versions import ContentKeys, RoomRules
from synapse_like.protocol.wire_formats import Pdu, read_pdu, to_pdu, type_of

_NOTHING = ContentKeys()


def redact_pdu(rules: RoomRules, pdu: Pdu) -> Pdu:
    """The stripped form of a PDU, as a new dictionary."""
    stripped: dict[str, Any] = {key: value for key, value in pdu.items() if key in rules.redaction_keeps}
    keys = rules.redaction_content_keeps.get(type_of(rules, pdu), _NOTHING)
    stripped["content"] = {key: value for key, value in pdu["content"].items() if keys.keeps(key)}
    return stripped


def redact(rules: RoomRules, event: Event) -> Event:
    """The stripped form of an event."""
    return read_pdu(rules, redact_pdu(rules, to_pdu(rules, event)))
