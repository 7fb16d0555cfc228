"""Rooms as a server of the tests knows them, which can say in them whatever it likes, true or not.

Honest events are made by the functions of the project's protocol core. For a lie, `make` takes what an honest event
would not say, and `PeerRoom.seal` puts a good hash and signature under a PDU that was changed by hand.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from threading import RLock
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace
from signedjson.types import SigningKey

from synapse_like.protocol.authorisation import auth_events_for, required_power_level_for
from synapse_like.protocol.events import Event, EventDraft, Pdu, StateSlot
from synapse_like.protocol.hashes import content_hash, reference_hash
from synapse_like.protocol.power_levels import PowerLevels
from synapse_like.protocol.room_creation import create_event, opening_events
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.signing import sign_pdu
from synapse_like.protocol.state_resolution import resolve
from synapse_like.protocol.wire_formats import read_pdu, to_pdu

State = dict[StateSlot, str]

#: What a template leaves to whoever completes it.
LEFT_TO_THE_MAKER = ("pdu_id", "event_id", "ts", "origin_server_ts", "hashes", "signatures")
_NO_HASH = "A" * 43


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class PeerRoom(Struct):
    """A room as one server sees it: a branch of its graph.

    :ivar server_name: of the server that speaks, and `key` what it signs with.
    :ivar events: all that are known, by ID; shared with the forks of this room, as are `pdus`, `before` and `after`.
    :ivar before: the state before an event, by its ID.
    :ivar after: likewise the state after it.
    :ivar heads: the IDs of the latest events.
    :ivar state: what holds after them.
    """

    rules: RoomRules
    room_id: str
    server_name: str
    key: SigningKey
    events: dict[str, Event] = field(default_factory=dict)
    pdus: dict[str, Pdu] = field(default_factory=dict)
    before: dict[str, State] = field(default_factory=dict)
    after: dict[str, State] = field(default_factory=dict)
    heads: tuple[str, ...] = ()
    state: State = field(default_factory=dict)
    _lock: RLock = field(default_factory=RLock)

    @classmethod
    def create(
        cls, rules: RoomRules, creator: str, server_name: str, key: SigningKey, *, is_public: bool = True
    ) -> PeerRoom:
        """A new room with its creator in it."""
        given = f"!{secrets.token_hex(8)}:{server_name}" if rules.room_id_names_server else ""
        room = cls(rules, given, server_name, key)
        room._say(create_event(rules, given, creator))
        for draft in opening_events(rules, room.room_id, creator, is_public=is_public):
            room._say(draft)
        return room

    # Saying things.

    def say(
        self, sender: str, event_type: str, content: Mapping[str, Any], state_key: str | None = None, **lies: Any
    ) -> Pdu:
        """Make an event that follows on the latest ones, and go on from it."""
        with self._lock:
            pdu = self.make(sender, event_type, content, state_key, **lies)
            self.add(pdu)
        return pdu

    def text(self, sender: str, body: str, **lies: Any) -> Pdu:
        """Say a message."""
        return self.say(sender, "m.room.message", {"msgtype": "m.text", "body": body}, **lies)

    def member(self, sender: str, membership: str, target: str | None = None, **lies: Any) -> Pdu:
        """Change a membership: one's own, if nobody else is named."""
        return self.say(sender, "m.room.member", {"membership": membership}, target or sender, **lies)

    def make(
        self, sender: str, event_type: str, content: Mapping[str, Any], state_key: str | None = None, **lies: Any
    ) -> Pdu:
        """Make an event, and keep it to oneself.

        :param lies: what it shall say instead of the truth: fields of an `Event`; or `state`, in which it is said.
        """
        redacts = lies.pop("redacts", None)
        return self._make(EventDraft(self.room_id, event_type, sender, content, state_key, redacts), **lies)

    def seal(self, pdu: Mapping[str, Any], *, server_name: str | None = None, key: SigningKey | None = None) -> Pdu:
        """A PDU with a new hash, and nothing but a new signature: ours, if no other is given."""
        pdu = {**pdu, "signatures": {}}
        pdu["hashes"] = {"sha256": content_hash(self._lenient, pdu)}
        return sign_pdu(self._lenient, pdu, server_name or self.server_name, key or self.key)

    def change(self, pdu: Mapping[str, Any], **fields: Any) -> Pdu:
        """Another PDU with some fields changed, sealed anew."""
        return self.seal({**pdu, **fields})

    def complete(self, template: Mapping[str, Any]) -> Pdu:
        """The event that a template begins."""
        pdu = {name: value for name, value in template.items() if name not in LEFT_TO_THE_MAKER}
        match self.rules.pdu_format:
            case "id-pairs":
                pdu |= {"pdu_id": secrets.token_hex(8), "origin": self.server_name, "ts": now_ms()}
            case "ids-with-hashes":
                pdu |= {"event_id": f"${secrets.token_hex(8)}:{self.server_name}", "origin_server_ts": now_ms()}
            case _:
                pdu |= {"origin_server_ts": now_ms()}
        return self.seal(pdu)

    def template(self, user_id: str, membership: str) -> Pdu:
        """What a user's server must know to make an event of theirs about their own membership."""
        pdu = self.make(user_id, "m.room.member", {"membership": membership}, user_id)
        return {name: value for name, value in pdu.items() if name not in LEFT_TO_THE_MAKER}

    # Hearing things.

    def enter(self, join: Pdu, state: Iterable[Pdu], auth_chain: Iterable[Pdu]) -> None:
        """Begin to know a room: by the state before a join, and what it rests on."""
        for pdu in [*auth_chain, *state]:
            event = self._know(pdu)
            self.before.setdefault(event.event_id, {})
        held = [self.read(pdu) for pdu in state]
        self.state = {event.state_slot: event.event_id for event in held}
        self.add(join, before=self.state)

    def add(self, pdu: Pdu, *, before: State | None = None) -> Event:
        """Know an event, and go on from it.

        :param before: the state before it, if it does not follow from the events before it.
        """
        with self._lock:
            event = self._know(pdu)
            if before is None:
                states = [self.after[prev] for prev in event.prev_events if prev in self.after]
                before = dict(resolve(self.rules, states, self.events)) if states else dict(self.state)
            own = {event.state_slot: event.event_id} if event.is_state else {}
            self.before[event.event_id], self.after[event.event_id] = before, before | own
            self.heads = (*(head for head in self.heads if head not in event.prev_events), event.event_id)
            self.state = dict(resolve(self.rules, [self.after[head] for head in self.heads], self.events))
        return event

    def fork(self) -> PeerRoom:
        """The same room, going on by itself."""
        return replace(self, state=dict(self.state))

    def read(self, pdu: Pdu) -> Event:
        """The event that a PDU stands for."""
        return read_pdu(self._lenient, pdu)

    @property
    def _deepest(self) -> int:
        return 2**53 - 1 if self.rules.strict_canonical_json else 2**63 - 1

    @property
    def _lenient(self) -> RoomRules:
        """The room's rules without the limits of canonical JSON, which a liar does not respect."""
        return replace(self.rules, strict_canonical_json=False)

    def id_of(self, pdu: Pdu) -> str:
        """The ID of the event that a PDU stands for."""
        return self.read(pdu).event_id

    # Telling others.

    def told(self, event_ids: Iterable[str]) -> list[Pdu]:
        """The PDUs of those events that are known."""
        return [self.pdus[event_id] for event_id in event_ids if event_id in self.pdus]

    def auth_chain(self, event_ids: Iterable[str]) -> list[str]:
        """What some events rest on, and what this rests on, and so on; without the events themselves."""
        given = list(event_ids)
        return [event_id for event_id in self._closure(given, "auth_events") if event_id not in given]

    def history(self, event_ids: Iterable[str], limit: int = 100) -> list[str]:
        """Some events and what was before them, as far as it is known, newest first."""
        return self._closure(event_ids, "prev_events")[:limit]

    def between(self, earliest: Iterable[str], latest: Iterable[str], limit: int = 100) -> list[str]:
        """What comes before some events and after others, oldest first."""
        latest = list(latest)
        left_out = {*self._closure(earliest, "prev_events"), *latest}
        found = [event_id for event_id in self._closure(latest, "prev_events") if event_id not in left_out]
        return found[:limit][::-1]

    def _closure(self, event_ids: Iterable[str], edges: str) -> list[str]:
        """Events and all that they lead to, the deepest first."""
        found: set[str] = set()
        waiting = list(event_ids)
        while waiting:
            event_id = waiting.pop()
            if event_id in self.events and event_id not in found:
                found.add(event_id)
                waiting += getattr(self.events[event_id], edges)
        return sorted(found, key=lambda event_id: (-self.events[event_id].depth, event_id))

    def _know(self, pdu: Pdu) -> Event:
        event = self.read(pdu)
        self.events[event.event_id], self.pdus[event.event_id] = event, pdu
        return event

    def _say(self, draft: EventDraft) -> None:
        pdu = self._make(draft)
        self.room_id = self.room_id or self.read(pdu).room_id
        self.add(pdu)

    def _make(self, draft: EventDraft, *, state: State | None = None, **lies: Any) -> Pdu:
        rules = self.rules
        holding = {slot: self.events[event_id] for slot, event_id in (self.state if state is None else state).items()}
        if draft.required_power_level is None:
            draft = draft.with_required_power_level(required_power_level_for(rules, draft, holding))
        content = dict(draft.content)
        if draft.redacts is not None and rules.redacts_in_content:
            content["redacts"] = draft.redacts
        event = Event(
            event_id=f"${secrets.token_hex(8)}:{self.server_name}",
            room_id=draft.room_id,
            type=draft.type,
            sender=draft.sender,
            content=content,
            state_key=draft.state_key,
            redacts=draft.redacts,
            origin_server_ts=now_ms(),
            depth=min(1 + max((self.events[head].depth for head in self.heads), default=0), self._deepest),
            prev_events=self.heads,
            auth_events=auth_events_for(rules, draft, holding),
        )
        if rules.required_power_levels and draft.is_state:
            replaced = holding.get(draft.state_slot)
            event = replace(
                event,
                required_power_level=draft.required_power_level,
                power_level=PowerLevels.from_state(rules, holding).user(draft.sender),
                replaces_state=replaced.event_id if replaced is not None else None,
            )
        event = replace(event, **lies)
        if rules.pdu_format == "ids-with-hashes":
            event = replace(
                event, prev_hashes=self._hashes(event.prev_events), auth_hashes=self._hashes(event.auth_events)
            )
        return self.seal(to_pdu(rules, event))

    def _hashes(self, event_ids: Sequence[str]) -> tuple[dict[str, str], ...]:
        return tuple(
            {"sha256": reference_hash(self.rules, self.pdus[event_id]) if event_id in self.pdus else _NO_HASH}
            for event_id in event_ids
        )
