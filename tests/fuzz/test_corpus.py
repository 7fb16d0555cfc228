"""The fuzzer's corpus, read again without the fuzzer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from synapse_like.protocol.room_versions import ALL_RULES
from synapse_like.protocol.wire_formats import from_pdu
from tests.fuzz.make_corpus import CORPUS, inputs
from tests.support.untrusted import read_input

FILES = sorted(CORPUS.iterdir())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nothing_in_the_corpus_fails_otherwise_than_by_a_refusal(file: Path) -> None:
    read_input(file.read_bytes())


def test_corpus_is_what_its_script_makes_and_what_was_found() -> None:
    made = dict(inputs())
    assert {file.name: file.read_bytes() for file in FILES if not file.name.startswith("found-")} == made


@pytest.mark.parametrize("rules", ALL_RULES, ids=lambda rules: rules.name)
def test_rooms_in_the_corpus_are_good_ones(rules: object) -> None:
    """Else the fuzzer would begin with what is refused at the door, and go no further."""
    number = ALL_RULES.index(rules)
    data = (CORPUS / f"room-{ALL_RULES[number].name}").read_bytes()
    assert data[:1] == bytes([ord("A") + number])
    for pdu in json.loads(data[1:]):
        from_pdu(ALL_RULES[number], pdu)
