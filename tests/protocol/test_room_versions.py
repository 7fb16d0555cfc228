"""Room versions: frozen tables of rules, and which rule holds in which."""

import pytest

from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.room_versions import (
    ALL_RULES,
    DEFAULT_VERSION,
    SPEC_2014,
    V1,
    V12,
    RoomRules,
    rules_for,
)

EVER = frozenset(range(1, 13))


def since(version: int) -> frozenset[int]:
    return EVER & frozenset(range(version, 13))


def until(version: int) -> frozenset[int]:
    return EVER - since(version + 1)


def versions_where(name: str, value: object) -> set[int]:
    """The Matrix room versions that have this value in this field."""
    return {int(rules.name) for rules in ALL_RULES if rules is not SPEC_2014 and getattr(rules, name) == value}


# What the page of each room version says, read the other way round: for a rule, where it holds.


@pytest.mark.parametrize(
    ("rule", "versions"),
    [
        ("strict_canonical_json", since(6)),
        ("key_validity_enforced", since(5)),
        ("redacts_in_content", since(11)),
        ("redaction_by_own_server", EVER),
        ("required_power_levels", frozenset()),
        ("strict_integer_levels", since(10)),
        ("notification_levels_checked", since(6)),
        ("creators_above_all", since(12)),
        ("create_names_creator", until(10)),
        ("creator_must_be_sender", frozenset()),
        ("create_in_auth_events", until(11)),
        ("unfederated_rooms", EVER),
        ("knock_allowed", since(7)),
        ("restricted_joins", since(8)),
        ("knock_restricted_joins", since(10)),
        ("third_party_invites", EVER),
        ("history_visibility", EVER),
        ("own_user_state_keys", EVER),
        ("room_id_names_server", until(11)),
    ],
)
def test_rule_holds_in_these_versions(rule: str, versions: frozenset[int]) -> None:
    assert versions_where(rule, True) == versions
    assert versions_where(rule, False) == EVER - versions


@pytest.mark.parametrize(
    ("name", "value", "versions"),
    [
        ("pdu_format", "ids-with-hashes", until(2)),
        ("pdu_format", "ids", since(3)),
        ("event_id_form", "chosen-by-origin", until(2)),
        ("event_id_form", "hash", {3}),
        ("event_id_form", "url-safe-hash", since(4)),
        ("room_id_form", "chosen-by-creator", until(11)),
        ("room_id_form", "create-event-hash", {12}),
        ("redaction_checked", "when-authorised", until(2)),
        ("redaction_checked", "when-applied", since(3)),
        ("power_level_family", "power-levels-event", EVER),
        ("aliases_by_server", "users", until(5)),
        ("aliases_by_server", None, since(6)),
        ("state_resolution", "v1", {1}),
        ("state_resolution", "v2", until(11) - {1}),
        ("state_resolution", "v2.1", {12}),
        ("level_defaults", V1.level_defaults, EVER),
        ("type_key", "type", EVER),
    ],
)
def test_field_has_this_value_in_these_versions(name: str, value: object, versions: set[int]) -> None:
    assert versions_where(name, value) == versions


def test_levels_of_today_default_to_what_the_specification_says() -> None:
    assert V12.level_defaults._asdict() == {
        "user": 0,
        "creator": 100,
        "send_event": 0,
        "add_state": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 0,
    }


def test_spec_2014_is_as_strict_as_the_latest() -> None:
    strict = ("strict_canonical_json", "key_validity_enforced", "strict_integer_levels", "own_user_state_keys")
    assert all(getattr(SPEC_2014, rule) and getattr(V12, rule) for rule in strict)


def test_default_version_is_known() -> None:
    assert rules_for(DEFAULT_VERSION) is SPEC_2014


@pytest.mark.parametrize("rules", ALL_RULES, ids=lambda rules: rules.name)
def test_every_version_is_found_by_its_name(rules: RoomRules) -> None:
    assert rules_for(rules.name) is rules


@pytest.mark.parametrize("name", ["x", "", "0", "13", "01", "12 "])
def test_unknown_version_is_refused(name: str) -> None:
    with pytest.raises(BadJson, match=f"does not know the room version '{name}'"):
        rules_for(name)


@pytest.mark.parametrize("rules", ALL_RULES, ids=lambda rules: rules.name)
def test_rules_cannot_be_changed(rules: RoomRules) -> None:
    with pytest.raises(AttributeError):
        rules.knock_allowed = False  # type: ignore[misc]  # that it cannot be set is the point
    with pytest.raises(TypeError):
        rules.redaction_content_keeps["x"] = rules  # type: ignore[index]  # likewise
