"""Hashes: any change shows, and a redaction is told from a forgery (FED-9, SEC-7)."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from canonicaljson import encode_canonical_json
from hypothesis import given
from hypothesis import strategies as st

from synapse_like.protocol import canonical_json
from synapse_like.protocol.hashes import (
    check_content_hash,
    content_hash,
    digest,
    event_id_from,
    reference_bytes,
    reference_hash,
)
from synapse_like.protocol.redaction import redact_pdu
from synapse_like.protocol.room_versions import SPEC_2014, V1, V3, V4, RoomRules
from tests.protocol.strategies import canonical_values, pdus, rules_and_pdus
from tests.protocol.test_pdu_id_pairs import MESSAGE

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "signing.json").read_text())["events"]


RulesAndPdu = tuple[RoomRules, dict[str, Any]]


@pytest.mark.parametrize("vector", VECTORS)
def test_content_hashes_of_the_specification(vector: dict[str, Any]) -> None:
    assert content_hash(V1, vector["event"]) == vector["sha256"]


def test_hash_is_unpadded_base64_of_sha256_over_what_was_said() -> None:
    said = {key: value for key, value in MESSAGE.items() if key not in ("hashes", "signatures")}
    expected = base64.b64encode(hashlib.sha256(encode_canonical_json(said)).digest()).decode()
    assert content_hash(SPEC_2014, MESSAGE) == expected.rstrip("=")
    assert len(content_hash(SPEC_2014, MESSAGE)) == 43


def hashed(rules: RoomRules, pdu: dict[str, Any]) -> dict[str, Any]:
    return pdu | {"hashes": {"sha256": content_hash(rules, pdu)}}


@given(pdus(), st.data())
def test_any_change_of_what_was_said_breaks_the_content_hash(pdu: dict[str, Any], data: st.DataObject) -> None:
    pdu = hashed(SPEC_2014, pdu)
    assert check_content_hash(SPEC_2014, pdu)
    key = data.draw(st.sampled_from(sorted(pdu.keys() - {"hashes", "signatures", "unsigned"})))
    other = data.draw(
        canonical_values.filter(lambda value: canonical_json.encode(value) != canonical_json.encode(pdu[key]))
    )
    assert not check_content_hash(SPEC_2014, pdu | {key: other})
    assert not check_content_hash(SPEC_2014, pdu | {"another key": other})


@given(rules_and_pdus)
def test_content_hash_is_good_in_every_version(rules_and_pdu: RulesAndPdu) -> None:
    rules, pdu = rules_and_pdu
    assert check_content_hash(rules, hashed(rules, pdu))
    assert not check_content_hash(rules, hashed(rules, pdu) | {"depth": -1})


@given(rules_and_pdus)
def test_content_hash_is_made_as_the_reference_library_would(rules_and_pdu: RulesAndPdu) -> None:
    rules, pdu = rules_and_pdu
    said = {key: value for key, value in pdu.items() if key not in ("hashes", "signatures", "unsigned")}
    expected = base64.b64encode(hashlib.sha256(encode_canonical_json(said)).digest()).decode()
    assert content_hash(rules, pdu) == expected.rstrip("=")


def test_fractions_are_hashed_as_all_servers_write_them() -> None:
    said = {"type": "x", "content": {"level": 1e16}}
    assert content_hash(V1, said) == digest(b'{"content":{"level":1e+16},"type":"x"}')


def test_signatures_and_unsigned_data_are_not_hashed() -> None:
    assert check_content_hash(SPEC_2014, hashed(SPEC_2014, MESSAGE) | {"signatures": {}, "unsigned": {"age": 1}})


def test_hash_in_another_spelling_of_base64_is_the_same_hash() -> None:
    sha256 = base64.b64decode(content_hash(SPEC_2014, MESSAGE) + "=")
    for spelling in (base64.b64encode(sha256), base64.urlsafe_b64encode(sha256)):
        assert check_content_hash(SPEC_2014, MESSAGE | {"hashes": {"sha256": spelling.decode()}})


@pytest.mark.parametrize(
    "hashes",
    [None, {}, {"sha256": None}, {"sha256": ""}, {"sha256": "x"}, {"sha256": "ü"}, {"md5": "x"}, [], "x"],
)
def test_absent_or_false_hash_does_not_pass(hashes: object) -> None:
    assert not check_content_hash(SPEC_2014, MESSAGE | {"hashes": hashes})


@given(rules_and_pdus)
def test_reference_hash_survives_redaction_and_further_signatures(rules_and_pdu: RulesAndPdu) -> None:
    rules, pdu = rules_and_pdu
    before = reference_hash(rules, pdu)
    assert reference_hash(rules, redact_pdu(rules, pdu)) == before
    assert reference_hash(rules, pdu | {"signatures": {"x": {}}, "unsigned": {"age": 1}}) == before


@given(rules_and_pdus)
def test_reference_hash_is_made_as_the_reference_library_would(rules_and_pdu: RulesAndPdu) -> None:
    rules, pdu = rules_and_pdu
    stripped = redact_pdu(rules, pdu)
    for key in ("signatures", "unsigned"):
        stripped.pop(key, None)
    expected = base64.b64encode(hashlib.sha256(encode_canonical_json(stripped)).digest()).decode()
    assert reference_hash(rules, pdu) == expected.rstrip("=")


def test_reference_hash_covers_the_content_by_its_hash() -> None:
    other = hashed(SPEC_2014, MESSAGE | {"content": {"body": "forged"}})
    assert reference_hash(SPEC_2014, other) != reference_hash(SPEC_2014, hashed(SPEC_2014, MESSAGE))


def test_event_id_is_the_reference_hash_in_the_spelling_of_the_version() -> None:
    # This one has characters in its hash that the two spellings write differently.
    encoded = reference_bytes(SPEC_2014, MESSAGE | {"depth": 2})
    hash_of_it = base64.b64encode(hashlib.sha256(encoded).digest()).decode().rstrip("=")
    assert set(hash_of_it) & set("+/")
    assert event_id_from(V3, encoded) == f"${hash_of_it}"
    assert event_id_from(V4, encoded) == "$" + hash_of_it.replace("+", "-").replace("/", "_")
