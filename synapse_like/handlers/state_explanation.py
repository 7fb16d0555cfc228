"""Why the state of a room is what it is, for an operator who asks (`explain-state`).

The states after the newest events of a room are resolved once more, this time telling every step. A room whose history
is one line has one newest event and nothing in conflict; then what is told is who set what, and what allowed it.
"""

from __future__ import annotations

from collections.abc import Iterable

from synapse_like.protocol.errors import NotFound
from synapse_like.protocol.events import Event, StateSlot
from synapse_like.protocol.state_resolution import MissingEvents, StateIds, Step, resolve
from synapse_like.storage import events, rooms, state
from synapse_like.storage.rooms import RoomHead
from synapse_like.storage.state import Snapshot
from synapse_like.storage.transactions import Transaction


def explain(txn: Transaction, room_id: str, slot: StateSlot | None) -> list[str]:
    """The explanation, line by line.

    :param slot: the one piece of state that is asked for; None for all of it.
    :raises NotFound: this server does not know the room, or it has no such state.
    """
    room = rooms.head(txn, room_id)
    if room is None:
        raise NotFound(f"This server does not know the room {room_id}.")
    known: dict[str, Event] = {}
    ends = [_state_after(txn, extremity.after, known) for extremity in room.extremities]
    newest = ", ".join(extremity.event_id for extremity in room.extremities)
    lines = [f"{room_id} has room version {room.rules.name}.", f"Its newest events: {newest}."]
    steps: list[Step] = []
    resolved = _resolve(txn, room, ends, known, steps)
    lines += [line for step in steps for line in _told(step, known)] or ["Nothing is in conflict."]
    return [*lines, "", *_describe(resolved, known, slot)]


def _state_after(txn: Transaction, snapshot: Snapshot, known: dict[str, Event]) -> StateIds:
    by_slot = state.at_snapshot(txn, snapshot.snapshot_id)
    found = events.load(txn, list(by_slot.values()), remember=False)
    known.update({stored.event.event_id: stored.event for stored in found})
    return {stored.event.state_slot: stored.event.event_id for stored in found}


def _resolve(
    txn: Transaction, room: RoomHead, ends: list[StateIds], known: dict[str, Event], steps: list[Step]
) -> StateIds:
    while True:
        steps.clear()
        try:
            return resolve(room.rules, ends, known, explain=steps.append)
        except MissingEvents as missing:
            loaded = [stored for event_id in missing.ids if (stored := events.find(txn, event_id)) is not None]
            if len(loaded) < len(missing.ids):
                raise NotFound(f"The explanation needs {len(missing.ids)} events that are not here.") from missing
            known.update({stored.event.event_id: stored.event for stored in loaded})


def _told(step: Step, known: dict[str, Event]) -> Iterable[str]:
    yield f"Step: {step.name}"
    for event_id in step.considered:
        verdict = ""
        if event_id in step.refused:
            verdict = f" - refused: {step.refused[event_id]}"
        elif event_id in step.chosen:
            verdict = " - chosen"
        yield f"  {_summary(known.get(event_id), event_id)}{verdict}"


def _describe(resolved: StateIds, known: dict[str, Event], slot: StateSlot | None) -> Iterable[str]:
    wanted = sorted(resolved) if slot is None else [slot]
    for each in wanted:
        if each not in resolved:
            raise NotFound(f"The room has no state {each[0]} with the key '{each[1]}'.")
        event = known[resolved[each]]
        yield _summary(event, event.event_id)
        if slot is not None:
            yield from (f"  allowed by {_summary(known.get(each), each)}" for each in event.auth_events)


def _summary(event: Event | None, event_id: str) -> str:
    if event is None:
        return event_id
    key = f" '{event.state_key}'" if event.state_key else ""
    return f"{event_id} {event.type}{key} by {event.sender}"
