"""Fingerprints of events: one over everything that was said, one over what a redaction leaves.

The content hash travels inside the PDU. It tells whether anything in it was altered (SEC-7), and since it is signed
and outlives a redaction, it goes on vouching for the full event. The reference hash is a name for the event that
cannot be given to another one. Both are SHA-256 in unpadded base64 (FED-9).
"""

import hashlib
from typing import Any

from unpaddedbase64 import encode_base64

from synapse_like.protocol import canonical_json
from synapse_like.protocol.redaction import redact_pdu
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.wire_formats import Pdu

ALGORITHM = "sha256"

_NOT_IN_CONTENT_HASH = frozenset({"hashes", "signatures", "unsigned"})
_NOT_IN_REFERENCE_HASH = frozenset({"signatures", "unsigned"})


def hashed_bytes(pdu: Pdu) -> bytes:
    """The canonical JSON that the content hash is made over."""
    return canonical_json.encode(_without(pdu, _NOT_IN_CONTENT_HASH))


def digest(encoded: bytes) -> str:
    """The SHA-256 of some bytes, in unpadded base64."""
    return encode_base64(hashlib.sha256(encoded).digest())


def content_hash(pdu: Pdu) -> str:
    """The hash over everything but hashes, signatures and unsigned data."""
    return digest(hashed_bytes(pdu))


def check_content_hash(pdu: Pdu) -> bool:
    """Is the PDU what its origin hashed? If not, only its redacted form can be trusted."""
    hashes = pdu.get("hashes")
    return isinstance(hashes, dict) and hashes.get(ALGORITHM) == content_hash(pdu)


def reference_hash(rules: RoomRules, pdu: Pdu) -> str:
    """The hash over the redacted form, which names the event whether it was redacted or not."""
    return digest(canonical_json.encode(_without(redact_pdu(rules, pdu), _NOT_IN_REFERENCE_HASH)))


def _without(pdu: Pdu, keys: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in pdu.items() if key not in keys}
