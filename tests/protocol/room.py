"""A room made by hand: its state is what a test puts there, and its rules say what may come next."""

from collections.abc import Mapping
from itertools import count
from typing import Any

import pytest
from msgspec.structs import replace

from synapse_like.protocol.authorisation import auth_types_for, authorise
from synapse_like.protocol.contents import check_content
from synapse_like.protocol.errors import AuthError
from synapse_like.protocol.events import Event, StateSlot
from synapse_like.protocol.room_versions import ALL_RULES, SPEC_2014, RoomRules
from tests.protocol.refusals import refusal_of

ROOM_ID = "!room:a.example"
ALICE = "@alice:a.example"
BOB = "@bob:b.example"
CAROL = "@carol:c.example"
DAVE = "@dave:a.example"


VERSIONS = tuple(rules for rules in ALL_RULES if rules is not SPEC_2014)
"""The room versions of the Matrix specification, 1 to 12."""


def since(version: int) -> tuple[RoomRules, ...]:
    """The room versions of the Matrix specification from this one on."""
    return VERSIONS[version - 1 :]


def until(version: int) -> tuple[RoomRules, ...]:
    """The room versions of the Matrix specification up to this one."""
    return VERSIONS[:version]


class Room:
    """A room with Alice in it, who made it.

    :param levels: the content of m.room.power_levels; without any there is no such event.
    :param creation: more keys for the content of m.room.create.
    """

    def __init__(
        self,
        levels: Mapping[str, Any] | None = None,
        rules: RoomRules = SPEC_2014,
        creation: Mapping[str, Any] | None = None,
    ) -> None:
        self.rules = rules
        self.state: dict[StateSlot, Event] = {}
        self._numbers = count()
        creator = {"creator": ALICE} if rules.create_names_creator else {}
        create = self.unchecked("m.room.create", {**creator, **(creation or {})}, "", prev_events=())
        self.state[create.state_slot] = create
        self.member(ALICE, "join")
        if levels is not None:
            self.put("m.room.power_levels", levels)

    def event(
        self,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        sender: str = ALICE,
        **fields: Any,
    ) -> Event:
        """An event whose content has the right shape, and that is not in the room yet."""
        check_content(self.rules, event_type, content, state_key=state_key)
        return self.unchecked(event_type, content, state_key, sender=sender, **fields)

    def unchecked(
        self,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        sender: str = ALICE,
        **fields: Any,
    ) -> Event:
        """The same, whatever the content is."""
        number = next(self._numbers)
        event = Event(
            event_id=f"${number}:{sender.partition(':')[2]}",
            room_id=ROOM_ID,
            type=event_type,
            sender=sender,
            content=content,
            origin_server_ts=number,
            depth=number,
            prev_events=("$latest:a.example",) if event_type != "m.room.create" else (),
            auth_events=(),
            state_key=state_key,
        )
        return replace(event, **fields)

    def put(
        self, event_type: str, content: Mapping[str, Any], state_key: str = "", *, sender: str = ALICE, **fields: Any
    ) -> Event:
        """Make something state, whether that is allowed or not."""
        event = self.event(event_type, content, state_key, sender=sender, **fields)
        self.state[event.state_slot] = event
        return event

    def member(self, user_id: str, membership: str, *, sender: str | None = None, **fields: Any) -> None:
        """Give somebody a membership; `none` takes it from them."""
        if membership == "none":
            self.state.pop(("m.room.member", user_id), None)
        else:
            self.put("m.room.member", {"membership": membership}, user_id, sender=sender or user_id, **fields)

    def join_rule(self, join_rule: str, **more: Any) -> None:
        """Say how people may come in."""
        self.put("m.room.join_rules", {"join_rule": join_rule, **more})

    def decide(self, event: Event) -> None:
        """Ask the rules, once with the whole state and once with what they say they need; both must agree."""
        needed = auth_types_for(self.rules, event)
        assert len(set(needed)) == len(needed)
        part = {slot: self.state[slot] for slot in needed if slot in self.state}
        whole = refusal_of(authorise, self.rules, event, self.state)
        partial = refusal_of(authorise, self.rules, event, part)
        if event.type != "m.room.create":
            assert str(whole) == str(partial)
        if whole is not None:
            raise whole

    def allows(self, event: Event) -> bool:
        """Is this event allowed?"""
        return refusal_of(self.decide, event) is None

    def refuses(self, event: Event, sentence: str) -> None:
        """See that this event is refused, with a sentence that says this."""
        with pytest.raises(AuthError, match=sentence):
            self.decide(event)
