"""One state out of several, where the history of a room has forked (FED-8, SEC-2).

Each server must come to the same state, in whatever order it heard the news. So `resolve` is a function of the
states at the ends of the forks and of the events behind them, and of nothing else. It touches no storage: an event
that it needs and was not given is named (`MissingEvents`), and the caller loads it and asks again.

How it is done is a rule of the room: by depth ("v1") or by power ("v2", and "v2.1", which forgets less). `spec-2014`
says that conflicts must be resolved but not how; it does it by power, with its own kinds of power levels.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from synapse_like.protocol.events import Event
from synapse_like.protocol.resolution_by_depth import by_depth
from synapse_like.protocol.resolution_by_power import by_power
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.state_conflicts import (
    Conflict,
    Explain,
    KnownEvents,
    MissingEvents,
    StateIds,
    Step,
    compare,
)

__all__ = ["MissingEvents", "StateIds", "Step", "resolve"]


def resolve(
    rules: RoomRules,
    state_sets: Sequence[StateIds],
    events: Mapping[str, Event],
    *,
    explain: Explain | None = None,
) -> StateIds:
    """The state of a room where several states of it meet.

    :param rules: of the room.
    :param state_sets: the states; neither their order nor repetitions matter.
    :param events: by ID, those that are known; all of them accepted by this server when it received them.
    :param explain: is told each step, if there is any conflict at all; anew whenever the state is asked for anew.
    :raises MissingEvents: `events` lacks some that matter.
    """
    conflict = compare(state_sets, absence_counts=rules.state_resolution != "v1")
    if not conflict.disputed:
        return conflict.agreed
    explain = explain or (lambda step: None)
    explain(Step("in conflict", tuple(sorted(conflict.event_ids))))
    return _ALGORITHMS[rules.state_resolution](KnownEvents(rules, events), conflict, explain)


_Algorithm = Callable[[KnownEvents, Conflict, Explain], StateIds]

_ALGORITHMS: Mapping[str, _Algorithm] = MappingProxyType(
    {"v1": by_depth, "v2": by_power, "v2.1": partial(by_power, anew=True)}
)
