"""Wire formats: whatever the room version, nothing is lost on the way and nothing strange gets in (FED-5)."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synapse_like.protocol import canonical_json
from synapse_like.protocol.errors import BadJson, CanonicalJsonError, TooLarge
from synapse_like.protocol.room_versions import ALL_RULES, RoomRules
from synapse_like.protocol.wire_formats import MAX_PDU_BYTES, from_pdu, read_pdu, to_pdu
from tests.protocol.refusals import refusal_of
from tests.protocol.strategies import any_values, lenient_values, rules_and_pdus
from tests.protocol.test_pdu_id_pairs import MESSAGE as MESSAGE_OF_2014
from tests.protocol.test_pdu_ids import message_of

every_version = pytest.mark.parametrize("rules", ALL_RULES, ids=lambda rules: f"version-{rules.name}")


def message_in(rules: RoomRules) -> dict[str, Any]:
    """A message as the format of these rules has it."""
    return MESSAGE_OF_2014 if rules.pdu_format == "id-pairs" else message_of(rules)


@settings(max_examples=400)
@given(rules_and_pdus)
def test_a_pdu_comes_back_as_it_was(rules_and_pdu: tuple[RoomRules, dict[str, Any]]) -> None:
    rules, pdu = rules_and_pdu
    before = copy.deepcopy(pdu)
    event = from_pdu(rules, pdu)
    assert to_pdu(rules, event) == before
    assert pdu == before
    assert read_pdu(rules, to_pdu(rules, event)) == event
    assert read_pdu(rules, pdu, event.event_id) == event


@every_version
def test_unknown_keys_are_kept(rules: RoomRules) -> None:
    event = from_pdu(rules, message_in(rules) | {"org.example.new": [1]})
    assert event.extra == {"org.example.new": [1]}
    assert to_pdu(rules, event)["org.example.new"] == [1]


@every_version
def test_empty_unsigned_is_the_same_as_none(rules: RoomRules) -> None:
    event = from_pdu(rules, message_in(rules) | {"unsigned": {}})
    assert event == from_pdu(rules, message_in(rules))
    assert "unsigned" not in to_pdu(rules, event)


@given(st.sampled_from(ALL_RULES), any_values | lenient_values)
def test_no_value_fails_otherwise_than_by_a_matrix_error(rules: RoomRules, value: object) -> None:
    error = refusal_of(from_pdu, rules, value)
    assert error is None or error.status in (400, 413)


@settings(max_examples=400)
@given(rules_and_pdus, st.data())
def test_a_pdu_with_one_wrong_field_fails_by_a_matrix_error_or_not_at_all(
    rules_and_pdu: tuple[RoomRules, dict[str, Any]], data: st.DataObject
) -> None:
    rules, pdu = rules_and_pdu
    name = data.draw(st.sampled_from(sorted({*pdu, "room_id", "event_id", "redacts"})))
    wrong = pdu | {name: data.draw(any_values | st.lists(any_values, min_size=2, max_size=2).map(lambda pair: [pair]))}
    error = refusal_of(from_pdu, rules, wrong)
    if error is not None:
        assert error.status in (400, 413)
    else:
        written = to_pdu(rules, from_pdu(rules, wrong))
        assert written == {key: value for key, value in wrong.items() if (key, value) != ("unsigned", {})}


@every_version
def test_missing_field_is_named(rules: RoomRules) -> None:
    message = message_in(rules)
    for name in message:
        with pytest.raises(BadJson, match=name):
            from_pdu(rules, {key: value for key, value in message.items() if key != name})


@every_version
def test_size_is_bounded_to_the_byte(rules: RoomRules) -> None:
    def of_size(size: int) -> dict[str, Any]:
        filler = size - len(canonical_json.encode(message_in(rules) | {"content": {"body": ""}}))
        return message_in(rules) | {"content": {"body": "x" * filler}}

    from_pdu(rules, of_size(MAX_PDU_BYTES))
    with pytest.raises(TooLarge, match="65537 bytes"):
        from_pdu(rules, of_size(MAX_PDU_BYTES + 1))


@every_version
def test_content_may_be_as_deep_as_a_client_may_send_it(rules: RoomRules) -> None:
    content: dict[str, Any] = {}
    for _ in range(canonical_json.MAX_DEPTH - 1):
        content = {"x": content}
    canonical_json.check(content)
    from_pdu(rules, message_in(rules) | {"content": content})
    with pytest.raises(CanonicalJsonError):
        from_pdu(rules, message_in(rules) | {"content": {"x": content}})


@every_version
@pytest.mark.parametrize("number", [0.5, 1e300, 2**53, -(2**70)])
def test_only_rooms_whose_rules_are_not_strict_take_numbers_without_canonical_form(
    rules: RoomRules, number: float
) -> None:
    pdu = message_in(rules) | {"content": {"level": number}}
    if rules.strict_canonical_json:
        with pytest.raises(CanonicalJsonError):
            from_pdu(rules, pdu)
    else:
        assert from_pdu(rules, pdu).content == {"level": number}
