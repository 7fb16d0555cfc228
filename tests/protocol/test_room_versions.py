"""Room versions: frozen tables of rules."""

import dataclasses

import pytest

from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.room_versions import DEFAULT_VERSION, SPEC_2014, rules_for


def test_default_version_is_known() -> None:
    assert rules_for(DEFAULT_VERSION) is SPEC_2014


def test_unknown_version_is_refused() -> None:
    with pytest.raises(BadJson, match="does not know the room version 'x'"):
        rules_for("x")


def test_rules_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC_2014.knock_allowed = False  # type: ignore[misc]  # that it cannot be set is the point
    with pytest.raises(TypeError):
        SPEC_2014.redaction_content_keeps["x"] = SPEC_2014  # type: ignore[index]  # likewise
