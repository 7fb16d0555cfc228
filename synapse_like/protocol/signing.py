"""Signatures on JSON: who said this, and was it altered on the way (FED-9, SEC-7, SEC-8)?

A signature is made over the canonical JSON of an object without its keys `signatures` and `unsigned`, and put under
`signatures` by the name of the signer and the ID of the key. PDUs are signed in their redacted form, so that a
redaction does not spoil the signature; the content hash inside it vouches for the rest.
"""

from collections.abc import Mapping
from typing import Any

from nacl.exceptions import CryptoError
from signedjson.types import SigningKey, VerifyKey
from unpaddedbase64 import decode_base64, encode_base64

from synapse_like.protocol import canonical_json
from synapse_like.protocol.errors import SignatureError
from synapse_like.protocol.redaction import redact_pdu
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.wire_formats import Pdu

_NOT_SIGNED = frozenset({"signatures", "unsigned"})


def sign_json(obj: Mapping[str, Any], name: str, key: SigningKey) -> dict[str, Any]:
    """The object with one signature more.

    :param name: of the signer: a server, mostly.
    :raises CanonicalJsonError: there is no canonical JSON for the object.
    """
    return _with_signature(obj, _signed_bytes(obj), name, key)


def verify_json(obj: Mapping[str, Any], name: str, key: VerifyKey) -> None:
    """See that an object was signed by somebody with a certain key.

    :raises SignatureError: there is no such signature, or it is false.
    :raises CanonicalJsonError: there is no canonical JSON for the object.
    """
    _verify(obj, _signed_bytes(obj), name, key)


def sign_pdu(rules: RoomRules, pdu: Pdu, server_name: str, key: SigningKey) -> Pdu:
    """The PDU with the signature of a server. Its hashes must be in it already."""
    return _with_signature(pdu, _signed_bytes(redact_pdu(rules, pdu)), server_name, key)


def verify_pdu(rules: RoomRules, pdu: Pdu, server_name: str, verify_key: VerifyKey) -> None:
    """See that a PDU, redacted or not, was signed by a server.

    :raises SignatureError: there is no such signature, or it is false.
    """
    _verify(pdu, _signed_bytes(redact_pdu(rules, pdu)), server_name, verify_key)


def _signed_bytes(obj: Mapping[str, Any]) -> bytes:
    return canonical_json.encode({name: value for name, value in obj.items() if name not in _NOT_SIGNED})


def _with_signature(obj: Mapping[str, Any], signed: bytes, name: str, key: SigningKey) -> dict[str, Any]:
    signatures = dict(obj.get("signatures", {}))
    signatures[name] = {**signatures.get(name, {}), _key_id(key): encode_base64(key.sign(signed).signature)}
    return {**obj, "signatures": signatures}


def _verify(obj: Mapping[str, Any], signed: bytes, name: str, key: VerifyKey) -> None:
    key_id = _key_id(key)
    match obj.get("signatures"):
        case {**signers} if isinstance(of_signer := signers.get(name), dict):
            signature = of_signer.get(key_id)
        case _:
            signature = None
    if not isinstance(signature, str):
        raise SignatureError(f"There is no signature of {name} with the key {key_id}.")
    try:
        key.verify(signed, decode_base64(signature))
    except (CryptoError, ValueError) as error:
        raise SignatureError(f"The signature of {name} is false.", reason=repr(error)) from error


def _key_id(key: SigningKey | VerifyKey) -> str:
    return f"{key.alg}:{key.version}"
