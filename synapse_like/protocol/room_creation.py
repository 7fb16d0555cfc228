"""What a room begins with (ROOM-2).

The first event makes the room, the second lets its maker in; the rest say who may do what. Where a room version keeps
all levels in one event, that event says what the five of 2014 would: the maker may do everything, operators with 50
name the room and see to order, everybody may talk and invite.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from synapse_like.protocol.events import EventDraft
from synapse_like.protocol.room_versions import RoomRules

Content = Mapping[str, Any]

RULES_LEVEL = 100
"""What it takes to change the rules of a room."""
DESCRIPTION_LEVEL = 50
"""What it takes to change its name and topic."""


def create_event(rules: RoomRules, room_id: str, creator: str) -> EventDraft:
    """The event that makes a room.

    :param room_id: empty where the ID will follow from this event.
    """
    content: dict[str, Any] = {"creator": creator} if rules.create_names_creator else {}
    if rules.power_level_family != "one-event-per-level":
        content["room_version"] = rules.name
    return EventDraft(room_id=room_id, type="m.room.create", sender=creator, content=content, state_key="")


def opening_events(rules: RoomRules, room_id: str, creator: str, *, is_public: bool) -> list[EventDraft]:
    """The events that follow it, in their order: the creator's join and the rules."""
    opening = _OPENINGS[rules.power_level_family]
    join = _state(rules, room_id, creator, "m.room.member", {"membership": "join"}, creator)
    return [
        join,
        *(
            _state(rules, room_id, creator, event_type, content, level=RULES_LEVEL)
            for event_type, content in opening(rules, creator, is_public)
        ),
    ]


def description(rules: RoomRules, room_id: str, sender: str, event_type: str, content: Content) -> EventDraft:
    """A new room's name or topic."""
    return _state(rules, room_id, sender, event_type, content, level=DESCRIPTION_LEVEL)


def _state(
    rules: RoomRules,
    room_id: str,
    sender: str,
    event_type: str,
    content: Content,
    state_key: str = "",
    *,
    level: int | None = None,
) -> EventDraft:
    return EventDraft(
        room_id=room_id,
        type=event_type,
        sender=sender,
        content=content,
        state_key=state_key,
        # Elsewhere the level of a state event stands in m.room.power_levels.
        required_power_level=level if rules.power_level_family == "one-event-per-level" else None,
    )


_Opening = list[tuple[str, Content]]


def _join_rules(is_public: bool) -> tuple[str, Content]:
    return "m.room.join_rules", {"join_rule": "public" if is_public else "invite"}


def _one_event_per_level(rules: RoomRules, creator: str, is_public: bool) -> _Opening:
    return [
        ("m.room.power_levels", {creator: 100, "default": 0}),
        _join_rules(is_public),
        ("m.room.add_state_level", {"level": 100}),
        ("m.room.send_event_level", {"level": 0}),
        ("m.room.ops_levels", {"ban_level": 50, "kick_level": 50, "redact_level": 50}),
    ]


def _power_levels_event(rules: RoomRules, creator: str, is_public: bool) -> _Opening:
    levels = {
        # Who stands above all levels must not be given one.
        "users": {} if rules.creators_above_all else {creator: 100},
        "users_default": 0,
        "events": {
            "m.room.name": DESCRIPTION_LEVEL,
            "m.room.topic": DESCRIPTION_LEVEL,
            "m.room.power_levels": RULES_LEVEL,
            "m.room.join_rules": RULES_LEVEL,
            "m.room.history_visibility": RULES_LEVEL,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 0,
    }
    return [
        ("m.room.power_levels", levels),
        _join_rules(is_public),
        ("m.room.history_visibility", {"history_visibility": "shared"}),
    ]


_OPENINGS: Mapping[str, Callable[[RoomRules, str, bool], _Opening]] = MappingProxyType(
    {"one-event-per-level": _one_event_per_level, "power-levels-event": _power_levels_event}
)
