"""Third-party identifiers: e-mail addresses and phone numbers, and what an identity server says of them (ID-1).

Every address has one spelling in which it is stored, compared, hashed and signed. An *association* is an identity
server's signed word that an address belongs to a user:

{"medium": "email", "address": "alice@example.org", "mxid": "@alice:example.org", "ts": …, "not_before": …,
 "not_after": …, "signatures": {"id.example.org": {"ed25519:0": …}}}
"""

import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from signedjson.key import decode_verify_key_bytes
from signedjson.types import VerifyKey
from unpaddedbase64 import decode_base64

from synapse_like.protocol.email_addresses import canonical_email
from synapse_like.protocol.errors import BadJson, MatrixError, SignatureError
from synapse_like.protocol.signing import verify_json

EMAIL, PHONE = "email", "msisdn"
_LONGEST_PHONE = 40

_COUNTRY = re.compile(r"[A-Z]{2}")
_SHOWN_OF_WORD = 1


class ThirdPartyId(NamedTuple):
    """An address in its one spelling.

    :ivar medium: `email` or `msisdn`.
    """

    medium: str
    address: str

    def hashed(self, pepper: str) -> str:
        """What it is looked up by, where it is not to be told: a SHA-256 in URL-safe base64."""
        text = f"{self.address} {self.medium} {pepper}"
        return urlsafe_b64encode(sha256(text.encode()).digest()).rstrip(b"=").decode()

    def hinted(self) -> str:
        """A name for it that others may see: its owner knows it again, and nobody else learns it."""
        if self.medium == PHONE:
            return f"+{self.address[:2]}…{self.address[-2:]}"
        return "@".join(f"{part[:_SHOWN_OF_WORD]}…" for part in self.address.split("@"))


def third_party_id(medium: str, address: str) -> ThirdPartyId:
    """An address of a medium.

    :param address: of a phone number the digits in international form, with or without a plus.
    :raises BadJson: it is none.
    """
    if medium == EMAIL:
        return ThirdPartyId(EMAIL, canonical_email(address))
    if medium == PHONE:
        return ThirdPartyId(PHONE, phone_number(f"+{address.removeprefix('+')}"))
    raise BadJson("'medium' must be email or msisdn.")


def phone_number(text: str, country: str | None = None) -> str:
    """A phone number as its digits in international form, without a plus.

    :param country: the two letters of the country from which it is dialled as it stands; None if it begins with a plus.
    :raises BadJson: there can be no such number.
    """
    if len(text) > _LONGEST_PHONE or (country is not None and not _COUNTRY.fullmatch(country)):
        raise BadJson("This is not a phone number.")
    # Loaded with the first number: it knows every country's, and most servers never see one.
    import phonenumbers

    try:
        number = phonenumbers.parse(text, country)
    except phonenumbers.NumberParseException as error:
        raise BadJson("This is not a phone number.", reason=str(error)) from error
    if not phonenumbers.is_valid_number(number):
        raise BadJson("There can be no such phone number.")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164).removeprefix("+")


def public_key(key_id: str, encoded: str) -> VerifyKey:
    """A public key of an identity server.

    :param key_id: such as `ed25519:0`.
    :param encoded: in base64, of either alphabet.
    :raises BadJson: it is none.
    """
    try:
        return decode_verify_key_bytes(key_id, decode_base64(encoded))
    except (TypeError, ValueError) as error:
        raise BadJson("This is not a public key.", reason=str(error)) from error


def check_signed_by(statement: Mapping[str, Any], name: str, keys: Iterable[VerifyKey]) -> None:
    """See that somebody has signed a statement, with one of their keys.

    :raises SignatureError: they have not.
    """
    for key in keys:
        try:
            verify_json(statement, name, key)
        except MatrixError:
            continue
        return
    raise SignatureError(f"{name} has not signed this.")


def owner_in(association: Mapping[str, Any], threepid: ThirdPartyId, now_ms: int) -> str | None:
    """The user to whom an association, whose signature was checked, gives an address; None if it does not now.

    :raises BadJson: it makes no sense, or speaks of another address.
    """
    match association:
        case {
            "medium": threepid.medium,
            "address": threepid.address,
            "mxid": str(mxid),
            "not_before": int(begin),
            "not_after": int(end),
        }:
            return mxid if begin <= now_ms <= end else None
    raise BadJson("The association speaks of another address, or makes no sense.")
