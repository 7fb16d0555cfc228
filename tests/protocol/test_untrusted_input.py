"""Whatever a stranger sends, the core answers or refuses; it never fails in another way (SEC-1, SEC-3).

`tests.support.untrusted` leads it through everything that reads it, and asserts besides that it comes out as it went
in. The fuzzer (`tests/fuzz`) does the same for as long as one likes.
"""

from __future__ import annotations

import json
from functools import cache
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synapse_like.protocol.authorisation import authorise
from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.room_versions import ALL_RULES, RoomRules, rules_for
from synapse_like.protocol.signing import sign_json
from synapse_like.protocol.wire_formats import from_pdu, to_pdu
from tests.fuzz.make_corpus import small_room
from tests.fuzz.mutations import mutate
from tests.protocol.refusals import refusal_of
from tests.protocol.strategies import (
    any_values,
    broken_texts,
    canonical_values,
    event_ids,
    json_texts,
    lenient_values,
    rules_and_pdus,
)
from tests.support.forking_rooms import ForkingRoom
from tests.support.generated_rooms import grow
from tests.support.untrusted import (
    KEY,
    ask,
    read_input,
    read_pdu_of_stranger,
    read_room,
    read_text,
    read_value,
)

all_rules = st.sampled_from(ALL_RULES)
dice = st.randoms(use_true_random=False)
almost_identifiers = st.tuples(st.sampled_from("@!$#"), broken_texts, st.sampled_from(["", ":", ":a.example:0"])).map(
    "".join
)


def copy_of(value: Any) -> Any:
    """Another value with nothing in common, so that it may be changed."""
    return json.loads(json.dumps(value))


@given(all_rules, broken_texts | almost_identifiers | event_ids)
def test_text(rules: RoomRules, text: str) -> None:
    read_text(rules, text)


@given(st.binary(max_size=60) | json_texts.map(lambda text: b"A" + text))
def test_bytes(data: bytes) -> None:
    read_input(data)


@given(all_rules, any_values | lenient_values)
def test_values(rules: RoomRules, value: object) -> None:
    read_value(rules, value)


@given(all_rules, st.dictionaries(st.sampled_from(["signatures", "signed", "token", "x"]), any_values))
def test_objects_with_something_like_signatures(rules: RoomRules, value: object) -> None:
    read_value(rules, value)


@settings(max_examples=200)
@given(rules_and_pdus, dice, st.integers(0, 4))
def test_pdus_that_are_almost_good(rules_and_pdu: tuple[RoomRules, Any], random: Random, changes: int) -> None:
    rules, pdu = rules_and_pdu
    changed = copy_of(pdu)
    for _ in range(changes):
        changed = mutate(changed, random)
    read_pdu_of_stranger(rules, changed)


@cache
def _small_room(version: str) -> str:
    return json.dumps(small_room(rules_for(version)))


@settings(max_examples=300, deadline=None)
@given(all_rules, dice, canonical_values)
def test_rooms_where_a_good_event_says_anything(rules: RoomRules, random: Random, said: object) -> None:
    """What the rules read of a content can be of any kind, where nobody asks for its shape."""
    pdus = json.loads(_small_room(rules.name))
    place = random.choice(pdus)["content"]
    while True:
        key = random.choice([*place, "users", "third_party_invite", "redacts"])
        if not isinstance(place.get(key), dict) or random.random() < 0.3:
            break
        place = place[key]
    place[key] = said
    read_room(rules, pdus)


@settings(max_examples=150, deadline=None)
@given(all_rules, dice, st.integers(0, 6))
def test_rooms_that_are_almost_good(rules: RoomRules, random: Random, changes: int) -> None:
    """Power, membership, invites of addresses and state resolution, where single events are not what they were."""
    room = ForkingRoom(rules)
    grow(room, random, steps=12)
    pdus = [copy_of(to_pdu(rules, event)) for event in room.events.values()]
    for _ in range(changes):
        place = random.randrange(len(pdus))
        pdus[place] = mutate(pdus[place], random)
    read_room(rules, pdus)


def test_what_strangers_send_does_reach_the_rules() -> None:
    """Were all of it refused at the door, the tests above would prove little."""
    reached = 0
    for seed in range(100):
        random = Random(seed)
        rules = random.choice(ALL_RULES)
        room = ForkingRoom(rules)
        grow(room, random, steps=4)
        pdu = mutate(copy_of(to_pdu(rules, random.choice(list(room.events.values())))), random)
        event = ask(from_pdu, rules, pdu)
        if event is not None:
            refusal_of(authorise, rules, event, {})
            reached += 1
    assert reached > 30


@pytest.mark.parametrize("signatures", [None, 7, "x", ["a"], {"a.example": 7}, {"a.example": ["x"]}])
def test_signing_what_only_looks_signed_is_refused(signatures: object) -> None:
    """Found by the fuzzer: signing an object whose `signatures` were none of that failed by a ValueError."""
    with pytest.raises(BadJson, match="signatures"):
        sign_json({"one": 1, "signatures": signatures}, "a.example", KEY)
