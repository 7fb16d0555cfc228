"""E-mail addresses and phone numbers: their spelling, their hashes, and what identity servers say of them (ID-1)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signedjson.key import encode_verify_key_base64, generate_signing_key, get_verify_key

from synapse_like.protocol.errors import BadJson, MatrixError, SignatureError
from synapse_like.protocol.signing import sign_json
from synapse_like.protocol.third_party_ids import (
    ThirdPartyId,
    check_signed_by,
    owner_in,
    phone_number,
    public_key,
    third_party_id,
)
from tests.protocol.strategies import any_values

NAME = "id.example.org"
KEY, OTHER = generate_signing_key("1"), generate_signing_key("2")
ALICE = ThirdPartyId("email", "alice@example.org")


def association(**changes: Any) -> dict[str, Any]:
    return {**ALICE._asdict(), "mxid": "@alice:a", "ts": 10, "not_before": 5, "not_after": 20} | changes


def test_addresses_have_one_spelling() -> None:
    assert third_party_id("email", "Alice@Example.ORG") == ALICE
    assert third_party_id("msisdn", "+44 20 7946 0018") == ("msisdn", "442079460018")
    assert third_party_id("msisdn", "442079460018") == ("msisdn", "442079460018")


@pytest.mark.parametrize(
    ("medium", "address"),
    [
        ("email", "alice"),
        ("email", "alice@"),
        ("email", "a b@example.org"),
        ("email", "alice@example.org\r\nBcc: all@example.org"),
        ("email", "a" * 65 + "@example.org"),
        ("msisdn", "12"),
        ("msisdn", "alice"),
        ("msisdn", "+" + "4" * 100),
        ("msisdn", ""),
        ("facebook", "alice"),
    ],
)
def test_what_is_no_address_is_refused(medium: str, address: str) -> None:
    with pytest.raises(BadJson):
        third_party_id(medium, address)


@given(st.text(), st.text())
def test_any_text_is_an_address_or_refused(medium: str, address: str) -> None:
    for kind in (medium, "email", "msisdn"):
        try:
            found = third_party_id(kind, address)
        except BadJson:
            continue
        assert third_party_id(*found) == found


def test_number_is_read_as_it_is_dialled_in_its_country() -> None:
    assert phone_number("020 7946 0018", "GB") == "442079460018"
    assert phone_number("+49 30 901820", "GB") == "4930901820"
    for number, country in (("020 7946 0018", "XX"), ("020 7946 0018", "gb"), ("020 7946 0018", None), ("5", "GB")):
        with pytest.raises(BadJson):
            phone_number(number, country)


def test_hash_is_that_of_the_later_api() -> None:
    """The example in the identity service API, "Hashing": sha256 of address, medium and pepper, in URL-safe base64."""
    alice = ThirdPartyId("email", "alice@example.com")
    assert alice.hashed("matrixrocks") == "4kenr7N9drpCJ4AfalmlGQVsOn3o2RHjkADUpXJWZUc"


def test_hint_gives_no_address_away() -> None:
    assert ALICE.hinted() == "a…@e…"
    assert ThirdPartyId("msisdn", "442079460018").hinted() == "+44…18"


def test_association_says_whose_an_address_is_while_it_holds() -> None:
    assert owner_in(association(), ALICE, 10) == "@alice:a"
    assert owner_in(association(), ALICE, 4) is None
    assert owner_in(association(), ALICE, 21) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "bob@example.org"},
        {"medium": "msisdn"},
        {"mxid": None},
        {"mxid": 5},
        {"not_before": "5"},
        {"not_after": None},
    ],
)
def test_association_of_another_address_or_without_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadJson):
        owner_in(association(**changes), ALICE, 10)


@given(any_values)
def test_anything_is_an_association_or_refused(value: Any) -> None:
    said = value if isinstance(value, dict) else {"address": value}
    with pytest.raises(BadJson):
        owner_in(said, ALICE, 10)


def test_signature_must_be_of_the_server_and_its_key() -> None:
    signed = sign_json(association(), NAME, KEY)
    check_signed_by(signed, NAME, [get_verify_key(OTHER), get_verify_key(KEY)])
    altered = signed | {"mxid": "@mallory:a"}
    for statement, name, keys in (
        (signed, NAME, [get_verify_key(OTHER)]),
        (signed, NAME, []),
        (signed, "other.example", [get_verify_key(KEY)]),
        (altered, NAME, [get_verify_key(KEY)]),
        (association(), NAME, [get_verify_key(KEY)]),
    ):
        with pytest.raises(SignatureError):
            check_signed_by(statement, name, keys)


def test_key_is_read_from_either_alphabet_of_base64() -> None:
    encoded = encode_verify_key_base64(get_verify_key(KEY))
    for text in (encoded, encoded.replace("+", "-").replace("/", "_")):
        assert public_key("ed25519:1", text).encode() == get_verify_key(KEY).encode()


@pytest.mark.parametrize(
    ("key_id", "encoded"), [("ed25519:1", "AAAA"), ("rsa:1", "A" * 43), ("ed25519:1", "é"), ("", "")]
)
def test_what_is_no_key_is_refused(key_id: str, encoded: str) -> None:
    with pytest.raises(MatrixError):
        public_key(key_id, encoded)
