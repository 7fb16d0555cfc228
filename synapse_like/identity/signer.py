"""The server's name and key, and what is made with them: signatures, and the tokens that prove an address."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from signedjson.key import encode_verify_key_base64, get_verify_key
from signedjson.types import SigningKey, VerifyKey
from unpaddedbase64 import decode_base64

from synapse_like.protocol.signing import sign_json

_TOKEN_CHARACTERS = 32
_CODE_DIGITS = 6


class Signer(Struct, frozen=True):
    """Signs in the name of this identity server.

    :ivar name: of the server, as it stands in signatures.
    :ivar old: the keys by which it signed once, by ID.
    """

    name: str
    key: SigningKey
    old: Mapping[str, VerifyKey]

    @property
    def key_id(self) -> str:
        """The ID of the key that signs."""
        return f"{self.key.alg}:{self.key.version}"

    @property
    def public_key(self) -> str:
        """Its public half, in base64."""
        return encode_verify_key_base64(get_verify_key(self.key))

    def sign(self, statement: Mapping[str, Any]) -> dict[str, Any]:
        """A statement with our signature."""
        return sign_json(statement, self.name, self.key)

    def known_key(self, key_id: str) -> str | None:
        """A public key of ours, also one that signs no more; None if there is no such."""
        if key_id == self.key_id:
            return self.public_key
        old = self.old.get(key_id)
        return encode_verify_key_base64(old) if old is not None else None

    def signs_with(self, public_key: str) -> bool:
        """Whether this is the key that signs, in whatever alphabet of base64."""
        return _bytes_of(public_key) == get_verify_key(self.key).encode()

    def token(self, sid: str) -> str:
        """What is in the link of a mail, for one validation. It need not be stored: nobody else can make it."""
        return urlsafe_b64encode(self._secret("mail", sid)).decode()[:_TOKEN_CHARACTERS]

    def code(self, sid: str) -> str:
        """What is in a text message, to be typed."""
        return str(int.from_bytes(self._secret("text", sid)) % 10**_CODE_DIGITS).zfill(_CODE_DIGITS)

    def _secret(self, purpose: str, sid: str) -> bytes:
        return hmac.digest(self.key.encode(), f"validation by {purpose} {sid}".encode(), "sha256")


def _bytes_of(public_key: str) -> bytes | None:
    try:
        return decode_base64(public_key)
    except ValueError:
        return None
