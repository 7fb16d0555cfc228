"""How much power everybody in a room has, and how much it takes to do things (PERM-1, PERM-3, PERM-4).

Where the levels are kept differs between room versions, what they mean does not: `PowerLevels` is the same for all.
Contents are trusted to have the shapes that `contents` checks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from synapse_like.protocol.events import StateMap, StateSlot
from synapse_like.protocol.room_versions import LevelDefaults, RoomRules

CREATE = ("m.room.create", "")
POWER_LEVELS = ("m.room.power_levels", "")
ADD_STATE_LEVEL = ("m.room.add_state_level", "")
SEND_EVENT_LEVEL = ("m.room.send_event_level", "")
OPS_LEVELS = ("m.room.ops_levels", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLevels:
    """The power levels of a room at one point of its history.

    :ivar users: those who were given a level of their own.
    :ivar default: the level of everybody else.
    :ivar send_event: what it takes to send an event that is not state.
    :ivar add_state: what it takes to set state where none was.
    """

    users: Mapping[str, int]
    default: int
    ban: int
    kick: int
    redact: int
    send_event: int
    add_state: int

    @classmethod
    def from_state(cls, rules: RoomRules, state: StateMap) -> "PowerLevels":
        """The levels that a room's state sets; the defaults of its version where it is silent."""
        return _FAMILIES[rules.power_level_family].read(rules.level_defaults, state)

    @staticmethod
    def slots(rules: RoomRules) -> tuple[StateSlot, ...]:
        """The part of the state that `from_state` reads."""
        return _FAMILIES[rules.power_level_family].slots

    def user(self, user_id: str) -> int:
        """The level of a user, whether in the room or not."""
        return self.users.get(user_id, self.default)


def _read_one_event_per_level(defaults: LevelDefaults, state: StateMap) -> PowerLevels:
    ops = _content(state, OPS_LEVELS)
    return PowerLevels(
        users=_users(defaults, state),
        default=_content(state, POWER_LEVELS).get("default", defaults.user),
        ban=ops.get("ban_level", defaults.ban),
        kick=ops.get("kick_level", defaults.kick),
        redact=ops.get("redact_level", defaults.redact),
        send_event=_content(state, SEND_EVENT_LEVEL).get("level", defaults.send_event),
        add_state=_content(state, ADD_STATE_LEVEL).get("level", defaults.add_state),
    )


def _users(defaults: LevelDefaults, state: StateMap) -> Mapping[str, int]:
    if POWER_LEVELS in state:
        return {user: level for user, level in state[POWER_LEVELS].content.items() if user != "default"}
    if CREATE in state:
        return {state[CREATE].content["creator"]: defaults.creator}
    return {}


def _content(state: StateMap, slot: StateSlot) -> Mapping[str, Any]:
    event = state.get(slot)
    return event.content if event is not None else {}


class _Family(NamedTuple):
    slots: tuple[StateSlot, ...]
    read: Callable[[LevelDefaults, StateMap], PowerLevels]


_FAMILIES = MappingProxyType(
    {
        "one-event-per-level": _Family(
            (CREATE, POWER_LEVELS, ADD_STATE_LEVEL, SEND_EVENT_LEVEL, OPS_LEVELS), _read_one_event_per_level
        )
    }
)
