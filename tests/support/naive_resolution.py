"""State resolution as the specification tells it, word for word, at whatever cost.

A second opinion for the tests of `state_resolution`, with which it shares nothing but the rules of rooms. Every set
that the specification defines is a set here, made anew each time somebody asks; every order is found by looking for
the smallest. All events must be there, and nothing is said about how the result came about.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cmp_to_key
from itertools import permutations

from synapse_like.protocol.authorisation import auth_types_for, authorise
from synapse_like.protocol.errors import AuthError
from synapse_like.protocol.events import Event, StateSlot
from synapse_like.protocol.power_levels import PowerLevels
from synapse_like.protocol.room_versions import RoomRules

Ids = Mapping[StateSlot, str]

CREATE = ("m.room.create", "")
POWER_LEVELS = ("m.room.power_levels", "")
TYPES_OF_2014 = ("m.room.add_state_level", "m.room.send_event_level", "m.room.ops_levels")


def resolve_naively(rules: RoomRules, state_sets: Sequence[Ids], events: Mapping[str, Event]) -> dict[StateSlot, str]:
    """The state of a room where several states of it meet; the arguments are those of `state_resolution.resolve`."""
    states = [{slot: events[event_id] for slot, event_id in state.items()} for state in state_sets]
    room = _Room(rules, events)
    resolved = room.version_1(states) if rules.state_resolution == "v1" else room.version_2(states)
    return {slot: event.event_id for slot, event in resolved.items()}


State = dict[StateSlot, Event]


class _Room:
    def __init__(self, rules: RoomRules, events: Mapping[str, Event]) -> None:
        self.rules = rules
        self.events = events

    def allowed(self, event: Event, state: State) -> bool:
        try:
            authorise(self.rules, event, state)
        except AuthError:
            return False
        return True

    # Room version 1.

    def version_1(self, states: list[State]) -> State:
        union = {slot: {state[slot] for state in states if slot in state} for state in states for slot in state}
        result = {slot: next(iter(found)) for slot, found in union.items() if len(found) == 1}
        conflicts = {slot: found for slot, found in union.items() if len(found) > 1}

        def is_of(*types: str) -> dict[StateSlot, set[Event]]:
            return {slot: found for slot, found in conflicts.items() if slot[0] in types}

        result |= self._chains(result, {slot: found for slot, found in conflicts.items() if slot == POWER_LEVELS})
        result |= self._chains(result, is_of("m.room.join_rules"))
        result |= self._chains(result, is_of("m.room.member"))
        others = {slot: found for slot, found in conflicts.items() if slot not in result}
        return result | {slot: self._last_allowed(result, found) for slot, found in others.items()}

    def _chains(self, before: State, conflicts: dict[StateSlot, set[Event]]) -> State:
        decided = {}
        for slot, found in conflicts.items():
            first, *later = self._by_age(found)
            decided[slot] = first
            for event in later:
                if not self.allowed(event, {**before, slot: decided[slot]}):
                    break
                decided[slot] = event
        return decided

    def _last_allowed(self, state: State, found: set[Event]) -> Event:
        by_age = self._by_age(found)
        allowed = [event for event in by_age if self.allowed(event, state)]
        return (allowed or by_age[:1])[-1]

    @staticmethod
    def _by_age(events: set[Event]) -> list[Event]:
        def compare(one: Event, other: Event) -> int:
            if one.depth != other.depth:
                return one.depth - other.depth
            sha1_of_one, sha1_of_other = (hashlib.sha1(event.event_id.encode()).hexdigest() for event in (one, other))
            return -1 if sha1_of_one > sha1_of_other else 1

        return sorted(events, key=cmp_to_key(compare))

    # Room version 2, and 12.

    def version_2(self, states: list[State]) -> State:
        slots = {slot for state in states for slot in state}
        unconflicted = {slot: states[0][slot] for slot in slots if len({state.get(slot) for state in states}) == 1}
        conflicted = {event for state in states for slot, event in state.items() if slot not in unconflicted}
        if not conflicted:
            return unconflicted
        chains = [self.auth_chain(state.values()) for state in states]
        full = conflicted | (chains[0].union(*chains) - chains[0].intersection(*chains))
        if self.rules.state_resolution == "v2.1":
            full |= self.subgraph(conflicted)

        # 1.
        picked = {event for event in full if self.is_power_event(event)}
        while more := {auth for event in picked for auth in self.auths(event) if auth in full} - picked:
            picked |= more
        by_power = self.reverse_topological_power_ordering(picked)
        # 2.
        start = {} if self.rules.state_resolution == "v2.1" else unconflicted
        partial = self.iterative_auth_checks(start, by_power)
        # 3.
        by_mainline = self.mainline_ordering(partial.get(POWER_LEVELS), full - picked)
        # 4.
        resolved = self.iterative_auth_checks(partial, by_mainline)
        # 5.
        return resolved | unconflicted

    def auths(self, event: Event) -> list[Event]:
        return [self.events[event_id] for event_id in event.auth_events]

    def auth_chain(self, events: Iterable[Event]) -> set[Event]:
        chain: set[Event] = set()
        waiting = list(events)
        while waiting:
            for auth in self.auths(waiting.pop()):
                if auth not in chain:
                    chain.add(auth)
                    waiting.append(auth)
        return chain

    def subgraph(self, conflicted: set[Event]) -> set[Event]:
        found = set()
        for start, end in permutations(conflicted, 2):
            for event in self.auth_chain([start]):
                if end in self.auth_chain([event]):
                    found.add(event)
        return found

    def is_power_event(self, event: Event) -> bool:
        if event.type == "m.room.member":
            return event.content["membership"] in ("leave", "ban") and event.sender != event.state_key
        if event.type in TYPES_OF_2014:
            return self.rules.power_level_family == "one-event-per-level"
        return event.type in ("m.room.power_levels", "m.room.join_rules")

    def claimed(self, event: Event) -> State:
        claimed = {auth.state_slot: auth for auth in self.auths(event)}
        if not self.rules.create_in_auth_events and event.type != "m.room.create":
            claimed[CREATE] = self.events[event.room_id.replace("!", "$")]
        return claimed

    def power(self, event: Event) -> int:
        return PowerLevels.from_state(self.rules, self.claimed(event)).user(event.sender)

    def reverse_topological_power_ordering(self, events: set[Event]) -> list[Event]:
        left = set(events)
        ordered = []
        while left:
            ready = [event for event in left if left.isdisjoint(self.auths(event))]
            first = min(ready, key=lambda event: (-self.power(event), event.origin_server_ts, event.event_id))
            ordered.append(first)
            left.remove(first)
        return ordered

    def mainline(self, power_levels: Event | None) -> list[Event]:
        if power_levels is None:
            return []
        return [power_levels, *self.mainline(self.claimed(power_levels).get(POWER_LEVELS))]

    def mainline_ordering(self, power_levels: Event | None, events: set[Event]) -> list[Event]:
        mainline = self.mainline(power_levels)

        def position(event: Event) -> float:
            for passed in self.mainline(self.claimed(event).get(POWER_LEVELS)):
                if passed in mainline:
                    return mainline.index(passed)
            return float("inf")

        def compare(one: Event, other: Event) -> int:
            if position(one) != position(other):
                return -1 if position(one) > position(other) else 1
            if one.origin_server_ts != other.origin_server_ts:
                return one.origin_server_ts - other.origin_server_ts
            return -1 if one.event_id < other.event_id else 1

        return sorted(events, key=cmp_to_key(compare))

    def iterative_auth_checks(self, start: State, events: list[Event]) -> State:
        state = dict(start)
        for event in events:
            claimed = self.claimed(event)
            found = {slot: state.get(slot, claimed.get(slot)) for slot in auth_types_for(self.rules, event)}
            if self.allowed(event, {slot: held for slot, held in found.items() if held is not None}):
                state[event.state_slot] = event
        return state
