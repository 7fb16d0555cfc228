"""Rooms that grow in forks: what several servers say without hearing of each other, finished, signed and authorised.

A `Branch` is a room as one of these servers sees it. `say` lets somebody say something there, if the rules of the
room allow it; `fork` is another server that knows the same so far; `merge` is what happens when they hear of each
other. All events of all branches are in `ForkingRoom.events`.

Nothing here depends on chance or on the time: keys, IDs and timestamps follow from what is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from signedjson.key import decode_signing_key_base64

from synapse_like.protocol.authorisation import auth_events_for, auth_types_for, authorise, required_power_level_for
from synapse_like.protocol.building import build
from synapse_like.protocol.events import Event, EventDraft, StateSlot
from synapse_like.protocol.hashes import reference_hash
from synapse_like.protocol.power_levels import PowerLevels
from synapse_like.protocol.room_creation import create_event
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.state_resolution import StateIds, resolve

CREATOR = "@alice:a.example"
START_MS = 1_412_600_000_000
"""When the room was created, in milliseconds since 1970: an evening in October 2014."""

_KEY = decode_signing_key_base64("ed25519", "1", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")

Resolve = Callable[[RoomRules, Sequence[StateIds], Mapping[str, Event]], StateIds]


@dataclass(slots=True)
class ForkingRoom:
    """A room of a given version, and every event of it.

    :ivar resolve: what finds the state where branches meet.
    :ivar events: by ID, in the order in which they were said.
    """

    rules: RoomRules
    resolve: Resolve = resolve
    events: dict[str, Event] = field(default_factory=dict)
    _hashes: dict[str, str] = field(default_factory=dict)

    def begin(self) -> Branch:
        """Create the room, public, with its creator in it; whoever has 50 may do everything there."""
        given_id = "!room:a.example" if self.rules.room_id_names_server else ""
        nowhere = Branch(self, given_id)
        create = nowhere.say_draft(create_event(self.rules, given_id, CREATOR))
        branch = Branch(self, create.room_id, nowhere.heads, nowhere.state, nowhere.depth)
        branch.member(CREATOR, "join")
        branch.levels(CREATOR, {CREATOR: 100})
        branch.say(CREATOR, "m.room.join_rules", {"join_rule": "public"})
        return branch

    def add(self, draft: EventDraft, state: StateIds, *, heads: Sequence[str], depth: int, ts: int) -> Event:
        """Finish and authorise an event, and remember it.

        :param state: of the room before it.
        :raises AuthError: the rules do not allow it.
        """
        rules = self.rules
        needed = auth_types_for(rules, draft)
        part = {slot: self.events[state[slot]] for slot in needed if slot in state}
        if draft.required_power_level is None:
            draft = draft.with_required_power_level(required_power_level_for(rules, draft, part))
        event, pdu = build(
            rules,
            draft,
            local_id=f"{len(self.events):04}",
            origin=draft.sender.partition(":")[2],
            origin_server_ts=ts,
            depth=depth,
            prev_events=heads,
            auth_events=auth_events_for(rules, draft, part),
            replaces=state.get((draft.type, draft.state_key)) if draft.state_key is not None else None,
            power_level=PowerLevels.from_state(rules, part).user(draft.sender),
            key=_KEY,
            reference_hashes=self._hashes,
        )
        authorise(rules, event, part)
        self.events[event.event_id] = event
        self._hashes[event.event_id] = reference_hash(rules, pdu)
        return event


@dataclass(slots=True)
class Branch:
    """A room as one server sees it.

    :ivar heads: the IDs of the latest events, sorted.
    :ivar state: what holds after them.
    :ivar depth: the greatest of theirs.
    """

    room: ForkingRoom
    room_id: str
    heads: tuple[str, ...] = ()
    state: dict[StateSlot, str] = field(default_factory=dict)
    depth: int = 0

    def say(
        self,
        sender: str,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None = "",
        *,
        ts: int | None = None,
        required_power_level: int | None = None,
    ) -> Event:
        """Let somebody say something.

        :param ts: when they claim to have said it, in milliseconds since 1970; otherwise a second for each step of
            depth has passed since the room was created.
        :raises AuthError: the rules of the room do not allow it; then nothing has happened.
        """
        draft = EventDraft(self.room_id, event_type, sender, content, state_key, None, required_power_level)
        return self.say_draft(draft, ts=ts)

    def say_draft(self, draft: EventDraft, *, ts: int | None = None) -> Event:
        """Let somebody say what stands in a draft."""
        depth = self.depth + 1
        at = START_MS + 1000 * depth if ts is None else ts
        event = self.room.add(draft, self.state, heads=self.heads, depth=depth, ts=at)
        self.heads = (event.event_id,)
        self.depth = depth
        if event.is_state:
            self.state[event.state_slot] = event.event_id
        return event

    def member(self, sender: str, membership: str, user_id: str | None = None, **more: Any) -> Event:
        """Let somebody change a membership: their own, if nobody else is named."""
        content = {"membership": membership, **more.pop("content", {})}
        return self.say(sender, "m.room.member", content, user_id or sender, **more)

    def levels(self, sender: str, users: Mapping[str, int], **more: Any) -> Event:
        """Let somebody give users their levels. Where the creator stands above all levels, they get none."""
        if self.room.rules.creators_above_all:
            users = {user: level for user, level in users.items() if user != CREATOR}
        one_event = self.room.rules.power_level_family == "one-event-per-level"
        return self.say(sender, "m.room.power_levels", users if one_event else {"users": users}, **more)

    def level(self, user_id: str) -> int:
        """The level of a user."""
        state = {slot: self.room.events[event_id] for slot, event_id in self.state.items()}
        return PowerLevels.from_state(self.room.rules, state).user(user_id)

    def event(self, event_type: str, state_key: str = "") -> Event | None:
        """The state event in a slot."""
        event_id = self.state.get((event_type, state_key))
        return None if event_id is None else self.room.events[event_id]

    def membership(self, user_id: str) -> str:
        """What somebody is in this room; `none` if they never were anything."""
        event = self.event("m.room.member", user_id)
        return "none" if event is None else event.content["membership"]

    def fork(self) -> Branch:
        """Another server that knows as much."""
        return Branch(self.room, self.room_id, self.heads, dict(self.state), self.depth)

    def merge(self, *others: Branch) -> Branch:
        """A server that has heard what these know; its next event follows on all of them."""
        branches = (self, *others)
        return Branch(
            self.room,
            self.room_id,
            tuple(sorted({head for branch in branches for head in branch.heads})),
            dict(self.room.resolve(self.room.rules, [branch.state for branch in branches], self.room.events)),
            max(branch.depth for branch in branches),
        )
