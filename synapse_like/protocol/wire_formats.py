"""Events as servers send them to each other, and back.

A room's rules name its wire format. What goes out by `to_pdu` comes back by `from_pdu` as the same event, with
nothing lost: keys that we do not know are kept, too, because the hash covers them. The formats themselves stand in
`pdu_id_pairs` (2014) and `pdu_ids` (the Matrix room versions).
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

from synapse_like.protocol import canonical_json, pdu_id_pairs, pdu_ids
from synapse_like.protocol.errors import BadJson, TooLarge
from synapse_like.protocol.events import Event, Pdu
from synapse_like.protocol.hashes import event_id_from, reference_bytes
from synapse_like.protocol.request_signing import encode_content
from synapse_like.protocol.room_versions import RoomRules

MAX_PDU_BYTES = 65536
"""The largest PDU, in bytes of canonical JSON, signatures included."""


def to_pdu(rules: RoomRules, event: Event) -> Pdu:
    """The wire form of an event. The dictionaries inside are the event's own: do not change them."""
    return _FORMATS[rules.pdu_format].write(rules, event)


def from_pdu(rules: RoomRules, pdu: object) -> Event:
    """The event that a stranger's PDU stands for, after a check of every field.

    Neither the content hash nor signatures nor the content's shape are looked into here.

    :param pdu: any JSON value.
    :raises BadJson: it is no PDU.
    :raises TooLarge: over 65536 bytes.
    """
    if not isinstance(pdu, dict):
        raise BadJson("A PDU must be a JSON object.")
    # The PDU around it adds one level to the depth that a content may have.
    canonical_json.check(pdu, max_depth=canonical_json.MAX_DEPTH + 1, strict=rules.strict_canonical_json)
    check_size(len(canonical_json.encode(pdu, strict=rules.strict_canonical_json)))
    _FORMATS[rules.pdu_format].check(rules, pdu)
    return read_pdu(rules, pdu)


def read_pdu(rules: RoomRules, pdu: Pdu, event_id: str | None = None) -> Event:
    """The event that a PDU stands for, if it was checked before: one from our own tables.

    :param event_id: the event's ID, if it is known; that saves a hash where the ID follows from the PDU.
    """
    wire_format = _FORMATS[rules.pdu_format]
    return wire_format.read(rules, pdu, event_id or wire_format.identify(rules, pdu))


def encode_pdu(pdu: Pdu) -> bytes:
    """A PDU as it is stored: so that it can stand as it is in a body that is signed, never encoded again.

    :raises CanonicalJsonError: there is no JSON for it.
    """
    return encode_content(pdu)


def check_size(size: int) -> None:
    """See that a PDU is not too large.

    :param size: its bytes of canonical JSON.
    :raises TooLarge: over 65536.
    """
    if size > MAX_PDU_BYTES:
        raise TooLarge(f"The event is too large: {size} bytes, where {MAX_PDU_BYTES} are allowed.")


def _hash_as_id(rules: RoomRules, pdu: Pdu) -> str:
    return event_id_from(rules, reference_bytes(rules, pdu))


class _WireFormat(NamedTuple):
    write: Callable[[RoomRules, Event], Pdu]
    identify: Callable[[RoomRules, Pdu], str]
    read: Callable[[RoomRules, Pdu, str], Event]
    check: Callable[[RoomRules, Pdu], None]


_FORMATS = MappingProxyType(
    {
        "id-pairs": _WireFormat(pdu_id_pairs.write, pdu_id_pairs.identify, pdu_id_pairs.read, pdu_id_pairs.check),
        "ids-with-hashes": _WireFormat(pdu_ids.write, pdu_ids.identify, pdu_ids.read, pdu_ids.check),
        "ids": _WireFormat(pdu_ids.write, _hash_as_id, pdu_ids.read, pdu_ids.check),
    }
)
