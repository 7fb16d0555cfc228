"""Inviting somebody of whom no more is known than an address (room version 1, "Authorization rules", 5.3.1).

A member invites the address: m.room.third_party_invite holds the public keys of the identity server that knows it, and
its state key is a token. Whoever turns out to have the address lets that server sign their user ID and the token; with
the signature any server may turn the invite into a real one, in the name of the member.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, product
from typing import Any

from signedjson.key import decode_verify_key_bytes
from signedjson.types import VerifyKey
from unpaddedbase64 import decode_base64

from synapse_like.protocol.errors import AuthError, BadJson, SignatureError
from synapse_like.protocol.events import Event, EventDraft, StateMap
from synapse_like.protocol.signing import verify_json

THIRD_PARTY_INVITE = "m.room.third_party_invite"

MAX_TRIES = 64
"""How many pairs of a signature and a key are tried; an honest invite has one signature and two keys at most."""


def claims_address(event: EventDraft | Event) -> bool:
    """Does an invite (an m.room.member) claim to turn that of an address into a real one?"""
    return "third_party_invite" in event.content


def token_of(event: EventDraft | Event) -> str | None:
    """The state key of the m.room.third_party_invite that an invite refers to."""
    token = _signed(event).get("token")
    return token if isinstance(token, str) else None


def check_address_invite(event: Event, state: StateMap) -> None:
    """See that an invite follows from one of an address, by steps 2 to 8 of the rule above.

    :param event: for which `claims_address` holds.
    :raises AuthError: it does not.
    """
    signed = _signed(event)
    # 2 and 3. It brings what the identity server signed.
    token = token_of(event)
    if token is None or "mxid" not in signed:
        raise AuthError("The invite does not bring what an identity server has signed.")
    # 4. That is about the same user.
    if signed["mxid"] != event.state_key:
        raise AuthError("The identity server spoke of another user.")
    # 5. The address was invited, and may still come.
    invite = state.get((THIRD_PARTY_INVITE, token))
    if invite is None:
        raise AuthError("Nobody invited this address, or the invite was taken back.")
    # 6. In the same member's name.
    if invite.sender != event.sender:
        raise AuthError("Somebody else invited this address.")
    # 7 and 8. And it was indeed signed.
    if not is_signed_by_any(signed, keys_in(invite.content)):
        raise AuthError("No identity server that was named in the invite has signed this.")


def keys_in(content: Mapping[str, Any]) -> Iterator[str]:
    """The public keys that an m.room.third_party_invite names, in base64."""
    listed = content.get("public_keys")
    entries = listed if isinstance(listed, list) else []
    for entry in (content, *entries):
        if isinstance(entry, Mapping) and isinstance(entry.get("public_key"), str):
            yield entry["public_key"]


def is_signed_by_any(signed: Mapping[str, Any], public_keys: Iterable[str]) -> bool:
    """Does any signature of an object belong to any of these keys, whoever the signer says they are?

    :param public_keys: Ed25519, in base64.
    """
    # The order of keys in JSON means nothing, so it may not decide which pairs are tried.
    pairs = product(sorted(_signatures(signed)), dict.fromkeys(public_keys))
    return any(_is_signed(signed, signer, key_id, key) for (signer, key_id), key in islice(pairs, MAX_TRIES))


def _signatures(signed: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    signatures = signed.get("signatures")
    for signer, keys in signatures.items() if isinstance(signatures, Mapping) else ():
        for key_id in keys if isinstance(keys, Mapping) else ():
            yield signer, key_id


def _is_signed(signed: Mapping[str, Any], signer: str, key_id: str, public_key: str) -> bool:
    key = _verify_key(key_id, public_key)
    if key is None:
        return False
    try:
        verify_json(signed, signer, key)
    except (SignatureError, BadJson):
        # What has no canonical JSON was not signed either.
        return False
    return True


def _verify_key(key_id: str, public_key: str) -> VerifyKey | None:
    try:
        return decode_verify_key_bytes(key_id, decode_base64(public_key))
    except (TypeError, ValueError):
        # Another algorithm, or no key at all.
        return None


def _signed(event: EventDraft | Event) -> Mapping[str, Any]:
    invite = event.content.get("third_party_invite")
    signed = invite.get("signed") if isinstance(invite, Mapping) else None
    return signed if isinstance(signed, Mapping) else {}
