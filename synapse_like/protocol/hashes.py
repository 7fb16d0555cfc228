"""Fingerprints of events: one over everything that was said, one over what a redaction leaves.

The content hash travels inside the PDU. It tells whether anything in it was altered (SEC-7), and since it is signed
and outlives a redaction, it goes on vouching for the full event. The reference hash is a name for the event that
cannot be given to another one; in the later room versions it is the event's ID. Both are SHA-256 in unpadded base64
(FED-9; server-server API, "Calculating the content hash for an event" and "… the reference hash …").
"""

import hashlib
from typing import Any

from unpaddedbase64 import decode_base64, encode_base64

from synapse_like.protocol import canonical_json
from synapse_like.protocol.events import Pdu
from synapse_like.protocol.redaction import redact_pdu
from synapse_like.protocol.room_versions import RoomRules

ALGORITHM = "sha256"

_NOT_IN_CONTENT_HASH = frozenset({"hashes", "signatures", "unsigned"})
_NOT_IN_REFERENCE_HASH = frozenset({"signatures", "unsigned"})


def content_bytes(rules: RoomRules, pdu: Pdu) -> bytes:
    """The canonical JSON that the content hash is made over: all but hashes, signatures and unsigned data."""
    return _encoded(rules, pdu, _NOT_IN_CONTENT_HASH)


def reference_bytes(rules: RoomRules, pdu: Pdu) -> bytes:
    """The canonical JSON that the reference hash and the signatures are made over.

    It is the same whether the event was redacted or not.
    """
    return _encoded(rules, redact_pdu(rules, pdu), _NOT_IN_REFERENCE_HASH)


def digest(encoded: bytes) -> str:
    """The SHA-256 of some bytes, in unpadded base64."""
    return encode_base64(hashlib.sha256(encoded).digest())


def content_hash(rules: RoomRules, pdu: Pdu) -> str:
    """The hash over everything that was said."""
    return digest(content_bytes(rules, pdu))


def check_content_hash(rules: RoomRules, pdu: Pdu) -> bool:
    """Is the PDU what its origin hashed? If not, only its redacted form can be trusted."""
    match pdu.get("hashes"):
        case {"sha256": str(claimed)}:
            try:
                return decode_base64(claimed) == hashlib.sha256(content_bytes(rules, pdu)).digest()
            except ValueError:
                return False
    return False


def reference_hash(rules: RoomRules, pdu: Pdu) -> str:
    """The hash over the redacted form, which names the event whether it was redacted or not."""
    return digest(reference_bytes(rules, pdu))


def event_id_from(rules: RoomRules, encoded: bytes) -> str:
    """The ID of an event, where it is the event's reference hash.

    :param encoded: the event's `reference_bytes`.
    """
    url_safe = rules.event_id_form == "url-safe-hash"
    return "$" + encode_base64(hashlib.sha256(encoded).digest(), urlsafe=url_safe)


def _encoded(rules: RoomRules, pdu: Pdu, left_out: frozenset[str]) -> bytes:
    rest: dict[str, Any] = {key: value for key, value in pdu.items() if key not in left_out}
    return canonical_json.encode(rest, strict=rules.strict_canonical_json)
