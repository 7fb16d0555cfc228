"""Hashes: any change shows, and a redaction is told from a forgery (FED-9, SEC-7)."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse_like.protocol import canonical_json
from synapse_like.protocol.hashes import check_content_hash, content_hash, reference_hash
from synapse_like.protocol.redaction import redact_pdu
from synapse_like.protocol.room_versions import SPEC_2014
from tests.protocol.strategies import canonical_values, pdus
from tests.protocol.test_wire_formats import MESSAGE

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "signing.json").read_text())["events"]


@pytest.mark.parametrize("vector", VECTORS)
def test_content_hashes_of_the_specification(vector: dict[str, Any]) -> None:
    assert content_hash(vector["event"]) == vector["sha256"]


def test_hash_is_unpadded_base64_of_sha256_over_what_was_said() -> None:
    said = {key: value for key, value in MESSAGE.items() if key not in ("hashes", "signatures")}
    expected = base64.b64encode(hashlib.sha256(canonical_json.encode(said)).digest()).decode()
    assert content_hash(MESSAGE) == expected.rstrip("=")
    assert len(content_hash(MESSAGE)) == 43


def hashed(pdu: dict[str, Any]) -> dict[str, Any]:
    return pdu | {"hashes": {"sha256": content_hash(pdu)}}


@given(pdus(), st.data())
def test_any_change_of_what_was_said_breaks_the_content_hash(pdu: dict[str, Any], data: st.DataObject) -> None:
    pdu = hashed(pdu)
    assert check_content_hash(pdu)
    key = data.draw(st.sampled_from(sorted(pdu.keys() - {"hashes", "signatures", "unsigned"})))
    other = data.draw(
        canonical_values.filter(lambda value: canonical_json.encode(value) != canonical_json.encode(pdu[key]))
    )
    assert not check_content_hash(pdu | {key: other})
    assert not check_content_hash(pdu | {"another key": other})


def test_signatures_and_unsigned_data_are_not_hashed() -> None:
    assert check_content_hash(hashed(MESSAGE) | {"signatures": {}, "unsigned": {"age": 1}})


@pytest.mark.parametrize("hashes", [None, {}, {"sha256": None}, {"sha256": "x"}, {"md5": "x"}, [], "x"])
def test_absent_or_false_hash_does_not_pass(hashes: object) -> None:
    assert not check_content_hash(MESSAGE | {"hashes": hashes})


@given(pdus())
def test_reference_hash_survives_redaction_and_further_signatures(pdu: dict[str, Any]) -> None:
    before = reference_hash(SPEC_2014, pdu)
    assert reference_hash(SPEC_2014, redact_pdu(SPEC_2014, pdu)) == before
    assert reference_hash(SPEC_2014, pdu | {"signatures": {"x": {}}, "unsigned": {"age": 1}}) == before


def test_reference_hash_covers_the_content_by_its_hash() -> None:
    other = MESSAGE | {"content": {"body": "forged"}}
    assert reference_hash(SPEC_2014, hashed(other)) != reference_hash(SPEC_2014, hashed(MESSAGE))
