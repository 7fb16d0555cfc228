"""The neutral event."""

import pytest
from msgspec.structs import replace

from synapse_like.protocol.events import Event, EventDraft

EVENT = Event(
    event_id="$1:a.example",
    room_id="!r:b.example",
    type="m.room.name",
    sender="@alice:a.example:8448",
    content={"name": "Pub"},
    origin_server_ts=1,
    depth=2,
    prev_events=("$0:a.example",),
    auth_events=(),
    state_key="",
)
DRAFT = EventDraft("!r:b.example", "m.room.name", "@alice:a.example", {"name": "Pub"}, "")


@pytest.mark.parametrize("said", [EVENT, DRAFT])
def test_state_event_has_a_slot(said: Event | EventDraft) -> None:
    assert said.is_state
    assert said.state_slot == ("m.room.name", "")


@pytest.mark.parametrize("said", [EVENT, DRAFT])
def test_event_without_state_key_has_no_slot(said: Event | EventDraft) -> None:
    said = replace(said, state_key=None)
    assert not said.is_state
    with pytest.raises(ValueError, match="without a state key"):
        _ = said.state_slot


def test_event_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        EVENT.depth = 3  # type: ignore[misc]  # that it cannot be set is the point


def test_events_can_be_put_into_sets() -> None:
    assert {EVENT, replace(EVENT)} == {EVENT}
    assert len({EVENT, replace(EVENT, depth=3)}) == 2


def test_event_knows_the_servers_it_comes_from() -> None:
    assert EVENT.domain == "a.example:8448"
    assert EVENT.origin == "a.example"


def test_event_whose_id_names_no_server_comes_from_that_of_its_sender() -> None:
    assert replace(EVENT, event_id="$" + "x" * 43).origin == "a.example:8448"


def test_draft_takes_another_required_power_level() -> None:
    assert DRAFT.with_required_power_level(50) == replace(DRAFT, required_power_level=50)
