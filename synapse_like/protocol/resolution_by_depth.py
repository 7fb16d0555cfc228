"""The first way of resolving a room's state: by the depth of its events (room version 1, "State resolution").

Depths are what servers claim, so what was replaced long ago can come back, and lost power with it. It is here for the
rooms that were made with it.
"""

from collections.abc import Callable, Sequence
from hashlib import sha1

from synapse_like.protocol.events import Event, StateSlot
from synapse_like.protocol.join_rules import JOIN_RULES
from synapse_like.protocol.membership import MEMBER
from synapse_like.protocol.power_levels import POWER_LEVELS
from synapse_like.protocol.state_conflicts import Conflict, Explain, KnownEvents, StateIds, Step, ids_of

_PASSES: tuple[tuple[str, Callable[[StateSlot], bool]], ...] = (
    ("power levels", lambda slot: slot == POWER_LEVELS),
    ("join rules", lambda slot: slot[0] == JOIN_RULES[0]),
    ("members", lambda slot: slot[0] == MEMBER),
)


def by_depth(known: KnownEvents, conflict: Conflict, explain: Explain) -> StateIds:
    """Room version 1, "State resolution"."""
    events = {slot: sorted(known.load(holders), key=_age) for slot, holders in conflict.disputed.items()}
    known.load_needed((event for rivals in events.values() for event in rivals), conflict.agreed)
    state = conflict.agreed
    for name, is_due in _PASSES:
        due = [slot for slot in events if is_due(slot)]
        # What is decided in the same pass does not see each other.
        decided = [_oldest_and_what_may_follow(known, events.pop(slot), state, name, explain) for slot in due]
        state.update((event.state_slot, event.event_id) for event in decided)
    decided = [_youngest_that_may_be(known, rivals, state, explain) for rivals in events.values()]
    state.update((event.state_slot, event.event_id) for event in decided)
    return state


def _age(event: Event) -> tuple[int, int]:
    """Sorts events from the oldest to the youngest: by depth, then by the SHA-1 of their ID, backwards."""
    digest = sha1(event.event_id.encode(), usedforsecurity=False).digest()
    return event.depth, -int.from_bytes(digest)


def _oldest_and_what_may_follow(
    known: KnownEvents, rivals: Sequence[Event], state: StateIds, name: str, explain: Explain
) -> Event:
    """Begin with the oldest event and go on as long as the rules let the next one replace it."""
    chosen = [rivals[0]]
    refused = {}
    for event in rivals[1:]:
        refusal = known.refusal(event, ({event.state_slot: chosen[-1].event_id}, state), {})
        if refusal is not None:
            refused[event.event_id] = refusal
            break
        chosen.append(event)
    explain(Step(name, ids_of(rivals), ids_of(chosen), refused))
    return chosen[-1]


def _youngest_that_may_be(known: KnownEvents, rivals: Sequence[Event], state: StateIds, explain: Explain) -> Event:
    """The youngest event that the rules allow. The specification does not say what holds if they allow none; here,
    as on other servers, it is the oldest."""
    refused = {}
    for event in reversed(rivals):
        refusal = known.refusal(event, (state,), {})
        if refusal is None:
            break
        refused[event.event_id] = refusal
    else:
        event = rivals[0]
    explain(Step("other events", ids_of(rivals[::-1]), (event.event_id,), refused))
    return event
