"""What a server says of its own keys: the JSON in which it publishes them, signed by each of them (FED-9).

{"server_name": "a.example", "valid_until_ts": …, "verify_keys": {"ed25519:1": {"key": …}},
 "old_verify_keys": {"ed25519:0": {"key": …, "expired_ts": …}}, "signatures": {"a.example": {"ed25519:1": …}}}
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from signedjson.key import decode_verify_key_bytes, encode_verify_key_base64
from signedjson.types import SigningKey, VerifyKey
from unpaddedbase64 import decode_base64

from synapse_like.protocol.errors import MatrixError, SignatureError
from synapse_like.protocol.request_signing import is_key_id
from synapse_like.protocol.signing import sign_json, verify_json

MOST_KEYS = 50
"""How many keys, and as many old ones, one server may have; of more, the rest does not count."""

_LATEST = 2**53 - 1


class ServerKeys(Struct, frozen=True):
    """The keys of a server.

    :ivar valid_until: when it wants to be asked again at the latest, in milliseconds since 1970.
    :ivar current: what it signs with, by ID.
    :ivar old: what it signed with once, and when it stopped.
    """

    server_name: str
    valid_until: int
    current: Mapping[str, VerifyKey]
    old: Mapping[str, tuple[VerifyKey, int]]


def publish(keys: ServerKeys, signing_key: SigningKey) -> dict[str, Any]:
    """The JSON that tells our keys.

    :param signing_key: the one current key.
    """
    answer = {
        "server_name": keys.server_name,
        "valid_until_ts": keys.valid_until,
        "verify_keys": {key_id: {"key": encode_verify_key_base64(key)} for key_id, key in keys.current.items()},
        "old_verify_keys": {
            key_id: {"key": encode_verify_key_base64(key), "expired_ts": expired}
            for key_id, (key, expired) in keys.old.items()
        },
    }
    return sign_json(answer, keys.server_name, signing_key)


def read(answer: Mapping[str, Any], server_name: str) -> ServerKeys:
    """What a server tells of itself, so far as it can be believed: current keys without their own signature are not.

    :raises SignatureError: it is about another server, it makes no sense, or no key has signed it.
    """
    if answer.get("server_name") != server_name:
        raise SignatureError(f"These are not the keys of {server_name}.")
    valid_until = _time(answer.get("valid_until_ts"))
    if valid_until is None:
        raise SignatureError(f"{server_name} does not say how long its keys are valid.")
    current = {
        key_id: key
        for key_id, (key, _) in _keys(answer.get("verify_keys")).items()
        if _has_signed(answer, server_name, key)
    }
    if not current:
        raise SignatureError(f"{server_name} has signed its keys with none of them.")
    old = {
        key_id: (key, ended)
        for key_id, (key, said) in _keys(answer.get("old_verify_keys")).items()
        if key_id not in current and (ended := _time(said.get("expired_ts"))) is not None
    }
    return ServerKeys(server_name, valid_until, current, old)


def verify_key(key_id: str, key: bytes) -> VerifyKey:
    """A public key.

    :raises ValueError: it is not one.
    """
    return decode_verify_key_bytes(key_id, key)


def _keys(said: object) -> dict[str, tuple[VerifyKey, Mapping[str, Any]]]:
    """The keys that can be read among those that are told, each with what else is told of it."""
    keys: dict[str, tuple[VerifyKey, Mapping[str, Any]]] = {}
    for key_id, about in list(said.items())[:MOST_KEYS] if isinstance(said, dict) else ():
        match about:
            case {"key": str(encoded)} if is_key_id(key_id):
                try:
                    keys[key_id] = verify_key(key_id, decode_base64(encoded)), about
                except (ValueError, TypeError):
                    continue
    return keys


def _has_signed(answer: Mapping[str, Any], server_name: str, key: VerifyKey) -> bool:
    try:
        verify_json(answer, server_name, key)
    except MatrixError:
        return False
    return True


def _time(value: object) -> int | None:
    """Milliseconds since 1970, if a value can be that."""
    return min(value, _LATEST) if type(value) is int and value >= 0 else None
