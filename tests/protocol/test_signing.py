"""Signatures: those of the specification, and no others (FED-9, SEC-7, SEC-8)."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import signedjson.sign
from hypothesis import assume, given
from hypothesis import strategies as st
from signedjson.key import decode_signing_key_base64, generate_signing_key, get_verify_key

from synapse_like.protocol import canonical_json
from synapse_like.protocol.errors import SignatureError
from synapse_like.protocol.hashes import content_hash
from synapse_like.protocol.redaction import redact_pdu
from synapse_like.protocol.room_versions import SPEC_2014
from synapse_like.protocol.signing import sign_json, sign_pdu, verify_json, verify_pdu
from tests.protocol.strategies import canonical_values, contents, pdus, texts

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "signing.json").read_text())
KEY = decode_signing_key_base64("ed25519", "1", VECTORS["seed"])
VERIFY_KEY = get_verify_key(KEY)
OTHER_KEY = generate_signing_key("1")

SIGNED = sign_json({"one": 1}, "a.example", KEY)
SIGNATURE = SIGNED["signatures"]["a.example"]["ed25519:1"]

objects = contents.map(lambda obj: {key: value for key, value in obj.items() if key not in ("signatures", "unsigned")})


@pytest.mark.parametrize("vector", VECTORS["json"])
def test_signed_json_of_the_specification(vector: dict[str, Any]) -> None:
    signed = sign_json(vector["unsigned_object"], VECTORS["signer"], KEY)
    signatures = {VECTORS["signer"]: {VECTORS["key_id"]: vector["signature"]}}
    assert signed == vector["unsigned_object"] | {"signatures": signatures}
    verify_json(signed, VECTORS["signer"], VERIFY_KEY)


@pytest.mark.parametrize("vector", VECTORS["events"])
def test_signed_events_of_the_specification(vector: dict[str, Any]) -> None:
    event = vector["event"] | {"content": vector["content_after_redaction"]}
    signed = sign_json(event | {"hashes": {"sha256": vector["sha256"]}}, VECTORS["signer"], KEY)
    assert signed["signatures"] == {VECTORS["signer"]: {VECTORS["key_id"]: vector["signature"]}}


@given(objects, texts)
def test_signature_is_that_of_the_reference_library(obj: dict[str, Any], name: str) -> None:
    signed = sign_json(obj, name, KEY)
    assert signed == signedjson.sign.sign_json(copy.deepcopy(obj), name, KEY)
    signedjson.sign.verify_signed_json(signed, name, VERIFY_KEY)
    verify_json(signed, name, VERIFY_KEY)


@given(objects, st.data())
def test_any_change_breaks_the_signature(obj: dict[str, Any], data: st.DataObject) -> None:
    signed = sign_json(obj, "a.example", KEY)
    keys = texts.filter(lambda key: key not in ("signatures", "unsigned"))
    key = data.draw(st.sampled_from(sorted(obj)) | keys if obj else keys)
    changed = signed | {key: data.draw(canonical_values)}
    assume(canonical_json.encode(changed) != canonical_json.encode(signed))
    with pytest.raises(SignatureError):
        verify_json(changed, "a.example", VERIFY_KEY)


def test_signing_changes_nothing_and_keeps_other_signatures() -> None:
    before: dict[str, Any] = {
        "one": 1,
        "signatures": {"a.example": {"ed25519:0": "x"}, "b.example": {"ed25519:1": "y"}},
    }
    original = copy.deepcopy(before)
    signed = sign_json(before, "a.example", KEY)
    assert before == original
    assert signed["signatures"] == {
        "a.example": {"ed25519:0": "x", "ed25519:1": SIGNATURE},
        "b.example": {"ed25519:1": "y"},
    }


def test_unsigned_data_may_change() -> None:
    verify_json(SIGNED | {"unsigned": {"age": 1}}, "a.example", VERIFY_KEY)


@pytest.mark.parametrize(
    "signatures",
    [
        None,
        [],
        "x",
        {},
        {"b.example": {"ed25519:1": SIGNATURE}},
        {"a.example": None},
        {"a.example": "ed25519:1"},
        {"a.example": {"ed25519:2": SIGNATURE}},
        {"a.example": {"ed25519:1": None}},
        {"a.example": {"ed25519:1": 7}},
        {"a.example": {"ed25519:1": ""}},
        {"a.example": {"ed25519:1": "?"}},
        {"a.example": {"ed25519:1": "ünicode"}},
        {"a.example": {"ed25519:1": SIGNATURE[:-4]}},
        {"a.example": {"ed25519:1": SIGNATURE + "AAAA"}},
        {"a.example": {"ed25519:1": "B" + SIGNATURE[1:]}},
    ],
)
def test_absent_unreadable_or_false_signature_is_refused(signatures: object) -> None:
    with pytest.raises(SignatureError):
        verify_json(SIGNED | {"signatures": signatures}, "a.example", VERIFY_KEY)


def test_object_without_signatures_is_refused() -> None:
    with pytest.raises(SignatureError, match="no signature of"):
        verify_json({"one": 1}, "a.example", VERIFY_KEY)


def test_signature_of_another_key_is_refused() -> None:
    with pytest.raises(SignatureError, match="is false"):
        verify_json(SIGNED, "a.example", get_verify_key(OTHER_KEY))


def signed_pdu(pdu: dict[str, Any]) -> dict[str, Any]:
    return sign_pdu(SPEC_2014, pdu | {"hashes": {"sha256": content_hash(pdu)}}, pdu["origin"], KEY)


@given(pdus())
def test_redaction_keeps_the_signature_good(pdu: dict[str, Any]) -> None:
    signed = signed_pdu(pdu)
    verify_pdu(SPEC_2014, signed, pdu["origin"], VERIFY_KEY)
    verify_pdu(SPEC_2014, redact_pdu(SPEC_2014, signed), pdu["origin"], VERIFY_KEY)


@given(pdus(), st.data())
def test_change_of_anything_that_outlives_redaction_breaks_the_signature(
    pdu: dict[str, Any], data: st.DataObject
) -> None:
    signed = signed_pdu(pdu)
    lasting = sorted(key for key in signed if key in SPEC_2014.redaction_keeps - {"signatures", "content", "pdu_type"})
    key = data.draw(st.sampled_from(lasting))
    changed = signed | {key: data.draw(canonical_values)}
    assume(canonical_json.encode(changed) != canonical_json.encode(signed))
    with pytest.raises(SignatureError):
        verify_pdu(SPEC_2014, changed, pdu["origin"], VERIFY_KEY)


def test_forged_content_of_state_breaks_the_signature_where_the_rules_read_it() -> None:
    pdu = {
        "pdu_type": "m.room.member",
        "origin": "a.example",
        "content": {"membership": "join", "displayname": "Alice"},
    }
    signed = signed_pdu(pdu)
    with pytest.raises(SignatureError):
        verify_pdu(SPEC_2014, signed | {"content": {"membership": "ban"}}, "a.example", VERIFY_KEY)
