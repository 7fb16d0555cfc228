"""What all ways of resolving a room's state work on: where its states differ, and the events behind them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from msgspec import Struct, field

from synapse_like.protocol.authorisation import auth_types_for, authorise
from synapse_like.protocol.errors import AuthError
from synapse_like.protocol.events import Event, StateMap, StateSlot
from synapse_like.protocol.power_levels import CREATE
from synapse_like.protocol.room_versions import RoomRules

StateIds = Mapping[StateSlot, str]
"""A room's state by the IDs of its events."""


class MissingEvents(Exception):
    """The state depends on events that were not given.

    Their auth chains will be needed, too: who loads them along is asked fewer times.

    :ivar ids: those of the events, sorted.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids = tuple(sorted(set(ids)))
        super().__init__(f"{len(self.ids)} events are missing, {self.ids[0]} among them")


class Step(Struct, frozen=True):
    """A step on the way to a state, for those who ask how it came about.

    :ivar name: what was done.
    :ivar considered: IDs of the events that it was about, in the order in which it dealt with them.
    :ivar chosen: IDs of those that became state then; later ones replace earlier ones.
    :ivar refused: by event ID, what the rules of the room had against it.
    """

    name: str
    considered: tuple[str, ...]
    chosen: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


Explain = Callable[[Step], None]


def ids_of(events: Iterable[Event]) -> tuple[str, ...]:
    """The IDs of events, in their order."""
    return tuple([event.event_id for event in events])


class Conflict(Struct, frozen=True):
    """What several states agree on, and what not.

    :ivar states: how many they are.
    :ivar agreed: the state that is in no conflict; nobody else has it, so resolution may complete it.
    :ivar disputed: by slot, in order, and event ID: which states hold the event there, a bit for each.
    """

    states: int
    agreed: dict[StateSlot, str]
    disputed: Mapping[StateSlot, Mapping[str, int]]

    @property
    def event_ids(self) -> set[str]:
        """All events that are in conflict."""
        return {event_id for holders in self.disputed.values() for event_id in holders}


def compare(state_sets: Sequence[StateIds], *, absence_counts: bool) -> Conflict:
    """Find what the states agree on.

    :param absence_counts: do states with nothing in a slot disagree with those that have something there?
    """
    first, *others = state_sets or [{}]
    differing: set[StateSlot] = set()
    for state in others:
        differing.update(slot for slot, _ in first.items() ^ state.items())
    agreed = dict(first)
    disputed = {}
    for slot in sorted(differing):
        agreed.pop(slot, None)
        holders: dict[str, int] = {}
        for number, state in enumerate(state_sets):
            if slot in state:
                holders[state[slot]] = holders.get(state[slot], 0) | 1 << number
        if absence_counts or len(holders) > 1:
            disputed[slot] = holders
        else:
            agreed[slot] = next(iter(holders))
    return Conflict(len(state_sets), agreed, disputed)


class KnownEvents(Struct, frozen=True):
    """The events that were given, and what the rules of their room make of them."""

    rules: RoomRules
    events: Mapping[str, Event]
    _cited: dict[str, StateMap] = field(default_factory=dict)

    def event(self, event_id: str) -> Event:
        """The event with this ID.

        :raises MissingEvents: it is not there.
        """
        event = self.events.get(event_id)
        if event is None:
            raise MissingEvents([event_id])
        return event

    def load(self, ids: Collection[str]) -> list[Event]:
        """The events with these IDs.

        :raises MissingEvents: naming all that are not there.
        """
        missing = [event_id for event_id in ids if event_id not in self.events]
        if missing:
            raise MissingEvents(missing)
        return [self.events[event_id] for event_id in ids]

    def with_auth_chains(self, ids: Iterable[str]) -> list[Event]:
        """These events and their auth chains, what is cited before what cites it.

        :raises MissingEvents: naming all that can be named without them.
        """
        ordered, seen, missing = [], set(), []
        waiting = [(event_id, False) for event_id in ids]
        while waiting:
            event_id, is_after_its_chain = waiting.pop()
            if is_after_its_chain:
                ordered.append(self.events[event_id])
            elif event_id not in seen:
                seen.add(event_id)
                event = self.events.get(event_id)
                if event is None:
                    missing.append(event_id)
                    continue
                waiting.append((event_id, True))
                waiting.extend((cited, False) for cited in event.auth_events if cited not in seen)
        if missing:
            raise MissingEvents(missing)
        return ordered

    def cited_by(self, event: Event) -> StateMap:
        """The state that an event itself claims: its auth events, and the room's creation if the room's ID tells it."""
        cited = self._cited.get(event.event_id)
        if cited is None:
            cited = {auth.state_slot: auth for auth in self.load(event.auth_events) if auth.is_state}
            if not self.rules.create_in_auth_events and event.type != CREATE[0]:
                cited[CREATE] = self.event("$" + event.room_id[1:])
            self._cited[event.event_id] = cited
        return cited

    def load_needed(self, events: Iterable[Event], state: StateIds) -> None:
        """See that all is there that a state holds of what decides on some events.

        :raises MissingEvents: naming all that is not.
        """
        self.load({state[slot] for event in events for slot in auth_types_for(self.rules, event) if slot in state})

    def refusal(self, event: Event, states: Sequence[StateIds], claimed: StateMap) -> str | None:
        """What the rules of the room have against an event; None if they allow it.

        :param states: what holds; where one has nothing, the next.
        :param claimed: what holds where none has anything.
        """
        part = {}
        for slot in auth_types_for(self.rules, event):
            holding = next((state[slot] for state in states if slot in state), None)
            if holding is not None:
                part[slot] = self.event(holding)
            elif slot in claimed:
                part[slot] = claimed[slot]
        try:
            authorise(self.rules, event, part)
        except AuthError as error:
            return error.message
        return None
