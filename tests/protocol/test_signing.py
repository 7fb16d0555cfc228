"""Signatures: those of the specification, and no others (FED-9, SEC-7, SEC-8)."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import signedjson.sign
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace
from signedjson.key import decode_signing_key_base64, generate_signing_key, get_verify_key

from synapse_like.protocol import canonical_json
from synapse_like.protocol.errors import BadJson, SignatureError
from synapse_like.protocol.hashes import content_hash
from synapse_like.protocol.redaction import redact_pdu
from synapse_like.protocol.room_versions import ALL_RULES, SPEC_2014, V1, V2, V3, V4, V5, V7, V8, V12, RoomRules
from synapse_like.protocol.signing import (
    TRUSTED_AHEAD,
    key_vouches_for,
    sign_json,
    sign_pdu,
    signers_of,
    verify_json,
    verify_pdu,
)
from tests.protocol.refusals import refusal_of
from tests.protocol.strategies import any_values, canonical_values, contents, rules_and_pdus, texts
from tests.protocol.test_events import EVENT

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
    event = vector["event"] | {"hashes": {"sha256": content_hash(V1, vector["event"])}}
    signed = sign_pdu(V1, event, VECTORS["signer"], KEY)
    assert signed == event | {"signatures": {VECTORS["signer"]: {VECTORS["key_id"]: vector["signature"]}}}
    verify_pdu(V1, redact_pdu(V1, signed), VECTORS["signer"], VERIFY_KEY)


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


RulesAndPdu = tuple[RoomRules, dict[str, Any]]


def signed_pdu(rules: RoomRules, pdu: dict[str, Any]) -> dict[str, Any]:
    return sign_pdu(rules, pdu | {"hashes": {"sha256": content_hash(rules, pdu)}}, "a.example", KEY)


@given(rules_and_pdus)
def test_redaction_keeps_the_signature_good(rules_and_pdu: RulesAndPdu) -> None:
    rules, pdu = rules_and_pdu
    signed = signed_pdu(rules, pdu)
    verify_pdu(rules, signed, "a.example", VERIFY_KEY)
    verify_pdu(rules, redact_pdu(rules, signed), "a.example", VERIFY_KEY)


@given(rules_and_pdus, st.data())
def test_change_of_anything_that_outlives_redaction_breaks_the_signature(
    rules_and_pdu: RulesAndPdu, data: st.DataObject
) -> None:
    rules, pdu = rules_and_pdu
    signed = signed_pdu(rules, pdu)
    lasting = rules.redaction_keeps & signed.keys() - {"signatures", "content", rules.type_key}
    key = data.draw(st.sampled_from(sorted(lasting)))
    changed = signed | {key: data.draw(canonical_values)}
    assume(canonical_json.encode(changed, strict=False) != canonical_json.encode(signed, strict=False))
    with pytest.raises(SignatureError):
        verify_pdu(rules, changed, "a.example", VERIFY_KEY)


@pytest.mark.parametrize("rules", ALL_RULES, ids=lambda rules: f"version-{rules.name}")
def test_forged_content_of_state_breaks_the_signature_where_the_rules_read_it(rules: RoomRules) -> None:
    pdu = {rules.type_key: "m.room.member", "content": {"membership": "join", "displayname": "Alice"}}
    signed = signed_pdu(rules, pdu)
    verify_pdu(rules, signed | {"content": {"membership": "join"}}, "a.example", VERIFY_KEY)
    with pytest.raises(SignatureError):
        verify_pdu(rules, signed | {"content": {"membership": "ban"}}, "a.example", VERIFY_KEY)


# Who must have signed, and with which keys.

MEMBER = replace(EVENT, type="m.room.member", sender="@alice:a.example", event_id="$x:b.example")
BY_ADDRESS = {"membership": "invite", "third_party_invite": {"signed": {}}}
LET_IN = {"membership": "join", "join_authorised_via_users_server": "@Carol:c.example:1"}


@pytest.mark.parametrize(
    ("rules", "content", "signers"),
    [
        # The sender's server, and the one that the event's ID names, if it names one.
        (SPEC_2014, {"membership": "join"}, {"a.example", "b.example"}),
        (V2, {"membership": "join"}, {"a.example", "b.example"}),
        (V3, {"membership": "join"}, {"a.example"}),
        (V12, {"membership": "join"}, {"a.example"}),
        # The invite of an address comes from whoever has it.
        (V2, BY_ADDRESS, {"b.example"}),
        (V3, BY_ADDRESS, set()),
        (SPEC_2014, BY_ADDRESS, {"a.example", "b.example"}),
        # No one speaks for others by calling something else an invite of an address.
        (V3, BY_ADDRESS | {"membership": "join"}, {"a.example"}),
        # The server of the member who let somebody in.
        (V7, LET_IN, {"a.example"}),
        (V8, LET_IN, {"a.example", "c.example:1"}),
        (V12, LET_IN, {"a.example", "c.example:1"}),
    ],
)
def test_change_of_membership_is_signed_by(rules: RoomRules, content: dict[str, Any], signers: set[str]) -> None:
    assert signers_of(rules, replace(MEMBER, content=content)) == signers


@pytest.mark.parametrize("content", [BY_ADDRESS, LET_IN])
def test_only_changes_of_membership_have_other_signers(content: dict[str, Any]) -> None:
    assert signers_of(V8, replace(MEMBER, type="m.room.message", content=content)) == {"a.example"}


@pytest.mark.parametrize("member", [None, 7, "", "carol", "@carol:", ["@carol:c.example"]])
def test_who_let_somebody_in_must_be_a_user(member: object) -> None:
    with pytest.raises(BadJson):
        signers_of(V8, replace(MEMBER, content=LET_IN | {"join_authorised_via_users_server": member}))


@given(st.sampled_from(ALL_RULES), st.dictionaries(st.sampled_from(sorted(BY_ADDRESS | LET_IN)), any_values))
def test_signers_are_told_or_refused_by_a_matrix_error(rules: RoomRules, content: dict[str, Any]) -> None:
    error = refusal_of(signers_of, rules, replace(MEMBER, content=content))
    assert error is None or isinstance(error, BadJson)


def test_key_vouches_for_what_was_made_while_it_was_valid() -> None:
    event = replace(EVENT, origin_server_ts=1000)
    assert key_vouches_for(V5, event, valid_until=1000, now=5000)
    assert not key_vouches_for(V5, event, valid_until=999, now=5000)
    assert key_vouches_for(V4, event, valid_until=999, now=5000)


def test_no_key_is_trusted_for_more_than_a_week_ahead() -> None:
    now, for_ever = 5000, 2**53
    in_a_week = replace(EVENT, origin_server_ts=now + 7 * 24 * 3600 * 1000)
    assert key_vouches_for(V5, in_a_week, valid_until=for_ever, now=now)
    later = replace(in_a_week, origin_server_ts=now + TRUSTED_AHEAD + 1)
    assert not key_vouches_for(V5, later, valid_until=for_ever, now=now)
