"""The second way of resolving a room's state: by the power of those who changed it (room version 2).

First what can take power from somebody is put into an order in which the greater power comes first, and each such
event passes the rules of the room anew. Everything else follows in the order of the power levels that are left when
that is done. So who was stripped of their power cannot win it back by a fork that does not know of it.

Quoted are the headings of the section "State resolution" of room version 2; `anew` marks what room version 12 does
otherwise. Where events are ordered by who cites whom, only citations within what is being ordered count. Events that
cite each other in a circle, which no server accepts, never become state.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush

from synapse_like.protocol.authorisation import auth_types_for
from synapse_like.protocol.events import Event, StateSlot
from synapse_like.protocol.join_rules import JOIN_RULES
from synapse_like.protocol.membership import BAN, LEAVE, MEMBER
from synapse_like.protocol.power_levels import CREATE, POWER_LEVELS, PowerLevels
from synapse_like.protocol.state_conflicts import Conflict, Explain, KnownEvents, StateIds, Step, ids_of


def by_power(known: KnownEvents, conflict: Conflict, explain: Explain, *, anew: bool = False) -> StateIds:
    """Room version 2, "State resolution", "Algorithm".

    :param anew: begin with an empty state, and look at what lies between the events in conflict, too (room version
        12, "State resolution").
    """
    in_question = _full_conflicted_set(known, conflict, with_subgraph=anew)
    explain(Step("also in question", tuple(sorted(in_question.keys() - conflict.event_ids))))
    state: dict[StateSlot, str] = {}
    given = {} if anew else conflict.agreed
    known.load_needed(in_question.values(), given)
    # 1. What can take power, and what it rests on.
    of_power = _with_cited(in_question, [event for event in in_question.values() if _is_power_event(known, event)])
    ordered = _in_order_of_power(known, of_power)
    # 2. passes the rules again, the greatest power first.
    _pass_rules(known, ordered, state, given, "power events", explain)
    # 3. All else, in the order of the power levels that are left,
    others = [event for event in in_question.values() if event.event_id not in of_power]
    ordered = _in_order_of_mainline(known, others, state.get(POWER_LEVELS, given.get(POWER_LEVELS)))
    # 4. passes the rules again.
    _pass_rules(known, ordered, state, given, "other events", explain)
    # 5. What was never in conflict stays. It may be large, so it is not copied.
    for slot, event_id in state.items():
        conflict.agreed.setdefault(slot, event_id)
    return conflict.agreed


def _full_conflicted_set(known: KnownEvents, conflict: Conflict, *, with_subgraph: bool) -> dict[str, Event]:
    """The events that are in conflict and those that only a part of the states rests on, by ID and in its order."""
    conflicted = conflict.event_ids
    chain = known.with_auth_chains(sorted(conflicted))
    # Which states have an event in their auth chains, as far as the conflict shows it.
    reach = dict.fromkeys(ids_of(chain), 0)
    held = {event_id: bits for holders in conflict.disputed.values() for event_id, bits in holders.items()}
    for event in reversed(chain):
        for cited in event.auth_events:
            reach[cited] |= reach[event.event_id] | held.get(event.event_id, 0)
    everywhere = (1 << conflict.states) - 1
    in_all = {event_id for event_id, states in reach.items() if states == everywhere}
    # Nothing but state can become state, whatever was cited.
    in_some = {event.event_id for event in chain if event.is_state and reach[event.event_id]}
    in_question = set(conflicted)
    if with_subgraph:
        in_question |= in_some & _leading_to(conflicted, chain)
    in_question |= _not_behind_agreed(known, conflict.agreed, in_question, in_some - in_all - in_question, in_all)
    return {event_id: known.events[event_id] for event_id in sorted(in_question)}


def _leading_to(goals: set[str], chain: Iterable[Event]) -> set[str]:
    """Those events of a chain, in its order, that have one of the goals in their own auth chain, and the goals."""
    found = set(goals)
    for event in chain:
        if not found.isdisjoint(event.auth_events):
            found.add(event.event_id)
    return found


def _not_behind_agreed(
    known: KnownEvents, agreed: StateIds, in_question: set[str], wanted: set[str], in_all: set[str]
) -> set[str]:
    """Those of some events that are in no auth chain of the agreed state, and so not in the chains of all states.

    Looked at first is what is known anyway, and last the members, who are many; and no more than matters.

    :param in_question: the events that are in question whatever is found here.
    :param wanted: the events to be found.
    :param in_all: events that are known to be in the chains of all states; there is no need to look behind them.
    """
    known_anyway = {event_id for event_id in wanted if agreed.get(known.event(event_id).state_slot) == event_id}
    wanted = _not_behind(known, known_anyway, wanted, in_all)
    for are_members in (False, True):
        if not wanted or _cannot_matter(known, agreed, in_question, wanted):
            break
        edge = {event_id for slot, event_id in agreed.items() if (slot[0] == MEMBER) == are_members}
        wanted = _not_behind(known, edge, wanted, in_all)
    return wanted


def _not_behind(known: KnownEvents, edge: set[str], wanted: set[str], in_all: set[str]) -> set[str]:
    """Those of the wanted events that are in no auth chain of the events at an edge."""
    seen = set(in_all)
    edge = edge - in_all
    while edge and wanted:
        edge = {cited for event in known.load(edge) for cited in event.auth_events} - seen
        seen |= edge
        wanted = wanted - edge
    return wanted


def _cannot_matter(known: KnownEvents, agreed: StateIds, in_question: set[str], wanted: set[str]) -> bool:
    """Is the outcome the same, whether or not the wanted events are in question, too?

    It is if nobody's power is in question, and if the wanted events are what all states agree on and what everything
    else takes for granted: then the order of the others is the same, and each of them finds the same state.
    """
    others = known.load(in_question)
    extra = {event.state_slot: event for event in known.load(wanted)}
    return (
        not any(_is_power_event(known, event) or event.state_slot in extra for event in others)
        and POWER_LEVELS not in extra
        and wanted <= {agreed.get(slot) for slot in extra}
        and all(in_question.isdisjoint(event.auth_events) for event in extra.values())
        and all(
            extra[slot].event_id in event.auth_events
            for event in (*others, *extra.values())
            for slot in auth_types_for(known.rules, event)
            if slot in extra and slot != event.state_slot
        )
    )


def _is_power_event(known: KnownEvents, event: Event) -> bool:
    """Can this event take somebody's power to do something? "Definitions", "Power events"."""
    if event.type == MEMBER:
        return event.sender != event.state_key and event.content.get("membership") in (LEAVE, BAN)
    slots = (*PowerLevels.slots(known.rules), JOIN_RULES)
    return any(event.type == slot[0] for slot in slots if slot != CREATE)


def _with_cited(among: Mapping[str, Event], events: Iterable[Event]) -> dict[str, Event]:
    """Some events and what they rest on among others."""
    found = {}
    waiting = list(events)
    while waiting:
        event = waiting.pop()
        if event.event_id not in found:
            found[event.event_id] = event
            waiting.extend(among[cited] for cited in event.auth_events if cited in among)
    return found


def _in_order_of_power(known: KnownEvents, events: Mapping[str, Event]) -> list[Event]:
    """ "Definitions", "Reverse topological power ordering": of all that rests on nothing which is still to come, the
    event of the most powerful sender, then the earliest, then that with the lowest ID."""
    waits_for = {event.event_id: {cited for cited in event.auth_events if cited in events} for event in events.values()}
    followers: dict[str, list[str]] = {event_id: [] for event_id in events}
    for event_id, cited in waits_for.items():
        for other in cited:
            followers[other].append(event_id)

    def rank(event_id: str) -> tuple[int, int, str]:
        event = events[event_id]
        return -_power_behind(known, event), event.origin_server_ts, event_id

    free = [rank(event_id) for event_id, cited in waits_for.items() if not cited]
    heapify(free)
    ordered = []
    while free:
        *_, event_id = heappop(free)
        ordered.append(events[event_id])
        for follower in followers[event_id]:
            waits_for[follower].discard(event_id)
            if not waits_for[follower]:
                heappush(free, rank(follower))
    return ordered


def _power_behind(known: KnownEvents, event: Event) -> int:
    """The power level of an event's sender in the state that the event itself claims."""
    return PowerLevels.from_state(known.rules, known.cited_by(event)).user(event.sender)


def _in_order_of_mainline(known: KnownEvents, events: Iterable[Event], power_levels: str | None) -> list[Event]:
    """ "Definitions", "Mainline ordering": by how far back in the history of the power levels an event stands.

    :param power_levels: the ID of those that hold now.
    """
    # Where each power levels event stands that was met; circles end where they were begun.
    positions: dict[str, float] = {}

    def cited_by(event: Event) -> Event | None:
        return known.cited_by(event).get(POWER_LEVELS)

    at = known.event(power_levels) if power_levels is not None else None
    while at is not None and at.event_id not in positions:
        positions[at.event_id] = len(positions)
        at = cited_by(at)

    def position(event: Event) -> float:
        passed = []
        at = cited_by(event)
        while at is not None and at.event_id not in positions:
            positions[at.event_id] = math.inf
            passed.append(at.event_id)
            at = cited_by(at)
        found = positions[at.event_id] if at is not None else math.inf
        positions.update(dict.fromkeys(passed, found))
        return found

    return sorted(events, key=lambda event: (-position(event), event.origin_server_ts, event.event_id))


def _pass_rules(
    known: KnownEvents,
    events: Sequence[Event],
    state: dict[StateSlot, str],
    given: StateIds,
    name: str,
    explain: Explain,
) -> None:
    """ "Definitions", "Iterative auth checks": let each event become state that the rules allow by then.

    :param state: what became state so far; it grows.
    :param given: the state to begin with.
    """
    chosen = []
    refused = {}
    for event in events:
        refusal = known.refusal(event, (state, given), known.cited_by(event))
        if refusal is None:
            state[event.state_slot] = event.event_id
            chosen.append(event)
        else:
            refused[event.event_id] = refusal
    explain(Step(name, ids_of(events), ids_of(chosen), refused))
