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
from synapse_like.protocol.events import Event, Pdu
from synapse_like.protocol.hashes import reference_bytes
from synapse_like.protocol.identifiers import domain_of, historical_user_id
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.shapes import map_of, object_with, string

TRUSTED_AHEAD = 7 * 24 * 60 * 60 * 1000
"""How far into the future a key's own word on its validity counts, in milliseconds."""

_NOT_SIGNED = frozenset({"signatures", "unsigned"})
_SIGNATURES = map_of(object_with())


def sign_json(obj: Mapping[str, Any], name: str, key: SigningKey) -> dict[str, Any]:
    """The object with one signature more.

    :param name: of the signer: a server, mostly.
    :raises CanonicalJsonError: there is no canonical JSON for the object.
    :raises BadJson: it has `signatures` already, but they do not look like some.
    """
    return add_signature(obj, _signed_bytes(obj), name, key)


def verify_json(obj: Mapping[str, Any], name: str, key: VerifyKey) -> None:
    """See that an object was signed by somebody with a certain key.

    :raises SignatureError: there is no such signature, or it is false.
    :raises CanonicalJsonError: there is no canonical JSON for the object.
    """
    _verify(obj, _signed_bytes(obj), name, key)


def sign_pdu(rules: RoomRules, pdu: Pdu, server_name: str, key: SigningKey) -> Pdu:
    """The PDU with the signature of a server. Its hashes must be in it already."""
    return add_signature(pdu, reference_bytes(rules, pdu), server_name, key)


def verify_pdu(rules: RoomRules, pdu: Pdu, server_name: str, verify_key: VerifyKey) -> None:
    """See that a PDU, redacted or not, was signed by a server.

    :raises SignatureError: there is no such signature, or it is false.
    """
    _verify(pdu, reference_bytes(rules, pdu), server_name, verify_key)


def add_signature(obj: Mapping[str, Any], signed: bytes, name: str, key: SigningKey) -> dict[str, Any]:
    """The object with one signature more, if the bytes to sign are known already.

    :param signed: the object in canonical JSON; for a PDU its `reference_bytes`.
    :param name: of the signer.
    :raises BadJson: it has `signatures` already, but they do not look like some.
    """
    signatures = obj.get("signatures", {})
    _SIGNATURES("signatures", signatures)
    of_signer = {**signatures.get(name, {}), _key_id(key): encode_base64(key.sign(signed).signature)}
    return {**obj, "signatures": {**signatures, name: of_signer}}


def signers_of(rules: RoomRules, event: Event) -> frozenset[str]:
    """The servers that must have signed an event (server-server API, "Validating hashes and signatures").

    :param rules: of the event's room.
    :raises BadJson: the content names a user who let somebody in, but not by a user ID.
    """
    signers = set()
    is_member = event.type == "m.room.member"
    # 1. The sender's, unless an address was invited: then the invite comes from the server of the one who has it.
    is_invite = is_member and event.content.get("membership") == "invite"
    if not (rules.third_party_invites and is_invite and "third_party_invite" in event.content):
        signers.add(event.domain)
    # 2. Where a server chose the event's ID, that server.
    if rules.event_id_form == "chosen-by-origin":
        signers.add(event.origin)
    # 3. That of the member who let somebody in (room version 8, section "Authorization rules", 4.2).
    if rules.restricted_joins and is_member and _LET_IN_BY in event.content:
        member = string(f"content.{_LET_IN_BY}", event.content[_LET_IN_BY])
        signers.add(domain_of(historical_user_id(member)))
    return frozenset(signers)


def key_vouches_for(rules: RoomRules, event: Event, *, valid_until: int, now: int) -> bool:
    """Was a key still valid when an event was made (room version 5, section "Signing key validity period")?

    :param valid_until: what the key's server says, in milliseconds since 1970.
    :param now: likewise; no server's word counts for more than a week ahead.
    """
    return not rules.key_validity_enforced or event.origin_server_ts <= min(valid_until, now + TRUSTED_AHEAD)


_LET_IN_BY = "join_authorised_via_users_server"


def _signed_bytes(obj: Mapping[str, Any]) -> bytes:
    return canonical_json.encode({name: value for name, value in obj.items() if name not in _NOT_SIGNED})


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
