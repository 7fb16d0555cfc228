"""The "Authorization rules" of the Matrix room versions 1 to 12 once more, read out as they stand there.

It knows versions by number, has one long function per section and no tables, and does without anything of the code that
it is held against. The numbers of steps are those of room version 12, save where a version is named. What is asked of
auth events (step 3) and of signatures (5.2.1, 5.4.1.7) is not in it.
"""

import math
import re
import sys
from collections.abc import Mapping
from typing import Any

from synapse_like.protocol.events import Event

State = Mapping[tuple[str, str], Event]

LARGEST = 2**53 - 1
DEFAULTS = {
    "users_default": 0,
    "events_default": 0,
    "state_default": 50,
    "ban": 50,
    "redact": 50,
    "kick": 50,
    "invite": 0,
}


def allows(version: int, event: Event, state: State, *, address_proven: bool = False) -> bool:
    """What the specification says of an event.

    :param address_proven: does a signature in the content match a key of m.room.third_party_invite?
    """
    try:
        return _Reader(version, event, state, address_proven).allowed()
    except ValueError:
        return False


def level(version: int, value: object) -> int:
    """A level, or ValueError."""
    # Until room version 5, JSON holds integers of any size; levels end where doubles do.
    largest = LARGEST if version >= 6 else int(sys.float_info.max)
    if version < 6 and isinstance(value, float) and math.isfinite(value):
        value = math.trunc(value)
    if version < 10 and isinstance(value, str):
        digits = value.strip(" \t\n\r\f\v")
        if not re.match(r"^[-+]?[0-9]+\Z", digits) or len(digits.lstrip("+-").lstrip("0")) > len(str(largest)):
            raise ValueError(value)
        value = int(digits)
    if type(value) is not int or not -largest <= value <= largest:
        raise ValueError(value)
    return value


class _Reader:
    def __init__(self, version: int, event: Event, state: State, address_proven: bool) -> None:
        self.version = version
        self.event = event
        self.state = state
        self.address_proven = address_proven
        self.create = state.get(("m.room.create", ""))
        levels = state.get(("m.room.power_levels", ""))
        self.levels = levels.content if levels is not None else None

    def membership(self, user: str) -> str | None:
        member = self.state.get(("m.room.member", user))
        return member.content["membership"] if member is not None else None

    def creators(self) -> list[Any]:
        assert self.create is not None
        if self.version >= 12:
            return [self.create.sender, *self.create.content.get("additional_creators", [])]
        return [self.create.sender if self.version == 11 else self.create.content["creator"]]

    def power(self, user: str) -> float:
        if self.version >= 12 and user in self.creators():
            return math.inf
        if self.levels is None:
            return 100 if self.version < 12 and user in self.creators() else 0
        users = self.levels.get("users", {})
        return level(self.version, users[user]) if user in users else self.setting("users_default")

    def setting(self, name: str) -> int:
        if self.levels is None or name not in self.levels:
            return DEFAULTS[name]
        return level(self.version, self.levels[name])

    def allowed(self) -> bool:
        event, version = self.event, self.version
        domain = event.sender.split(":", 1)[1]
        if event.type == "m.room.create":
            return self.creation(domain)
        if self.create is None:
            return False
        if self.create.content.get("m.federate") is False and self.create.sender.split(":", 1)[1] != domain:
            return False
        if version < 6 and event.type == "m.room.aliases":
            return event.state_key == domain
        if event.type == "m.room.member":
            return self.member()
        if event.type == "m.room.power_levels":
            self.check_levels(event.content)
        if self.membership(event.sender) != "join":
            return False
        power = self.power(event.sender)
        if event.type == "m.room.third_party_invite":
            return power >= self.setting("invite")
        if self.required() > power:
            return False
        if event.state_key is not None and event.state_key.startswith("@") and event.state_key != event.sender:
            return False
        if event.type == "m.room.power_levels":
            return self.power_levels(power)
        if version < 3 and event.type == "m.room.redaction":
            named = event.redacts.split(":", 1)[1:] if event.redacts is not None else []
            return power >= self.setting("redact") or named == event.event_id.split(":", 1)[1:]
        return True

    def creation(self, domain: str) -> bool:
        event = self.event
        # That its state key is empty is taken for granted there.
        if event.prev_events or self.state or event.state_key != "":
            return False
        if self.version < 12 and event.room_id.split(":", 1)[1] != domain:
            return False
        if self.version < 11 and "creator" not in event.content:
            return False
        if event.content.get("room_version", "1") != str(self.version):
            return False
        if self.version >= 12 and "additional_creators" in event.content:
            others = event.content["additional_creators"]
            return isinstance(others, list) and all(is_user(other) for other in others)
        return True

    def member(self) -> bool:
        event, state_key, content = self.event, self.event.state_key, self.event.content
        if state_key is None or "membership" not in content:
            return False
        voucher = content.get("join_authorised_via_users_server")
        if self.version >= 8 and "join_authorised_via_users_server" in content and not is_user(voucher):
            return False
        sender, target = self.membership(event.sender), self.membership(state_key)
        power, targets_power = self.power(event.sender), self.power(state_key)
        match content["membership"]:
            case "join":
                assert self.create is not None
                founder = self.create.content["creator"] if self.version < 11 else self.create.sender
                if list(event.prev_events) == [self.create.event_id] and founder == state_key:
                    return True
                return event.sender == state_key and target != "ban" and self.may_come(target, voucher)
            case "invite":
                if "third_party_invite" in content:
                    return target != "ban" and self.address_invited(content["third_party_invite"])
                return sender == "join" and target not in ("join", "ban") and power >= self.setting("invite")
            case "leave":
                if event.sender == state_key:
                    return target in ("invite", "join", "knock")
                if sender != "join" or (target == "ban" and power < self.setting("ban")):
                    return False
                return power >= self.setting("kick") and targets_power < power
            case "ban":
                return sender == "join" and power >= self.setting("ban") and targets_power < power
            case "knock" if self.version >= 7:
                rules = ["knock", "knock_restricted"] if self.version >= 10 else ["knock"]
                knocks = self.join_rule() in rules
                return knocks and event.sender == state_key and target not in ("ban", "invite", "join")
            case _:
                return False

    def join_rule(self) -> object:
        rule = self.state.get(("m.room.join_rules", ""))
        return "invite" if rule is None else rule.content.get("join_rule", "invite")

    def may_come(self, membership: str | None, voucher: Any) -> bool:
        rule = self.join_rule()
        if rule == "invite" or (rule == "knock" and self.version >= 7):
            return membership in ("invite", "join")
        if (rule == "restricted" and self.version >= 8) or (rule == "knock_restricted" and self.version >= 10):
            if membership in ("join", "invite"):
                return True
            if voucher is None:
                return False
            return self.membership(voucher) == "join" and self.power(voucher) >= self.setting("invite")
        return rule == "public"

    def address_invited(self, claim: Any) -> bool:
        signed = claim.get("signed") if isinstance(claim, dict) else None
        if not isinstance(signed, dict) or "mxid" not in signed or not isinstance(signed.get("token"), str):
            return False
        invite = self.state.get(("m.room.third_party_invite", signed["token"]))
        if signed["mxid"] != self.event.state_key or invite is None or invite.sender != self.event.sender:
            return False
        return self.address_proven

    def required(self) -> int:
        events = (self.levels or {}).get("events", {})
        if self.event.type in events:
            return level(self.version, events[self.event.type])
        return self.setting("events_default" if self.event.state_key is None else "state_default")

    def check_levels(self, content: Mapping[str, Any]) -> None:
        for name in DEFAULTS:
            if name in content:
                level(self.version, content[name])
        for group in self.groups():
            if not isinstance(content.get(group, {}), dict):
                raise ValueError(group)
            for value in content.get(group, {}).values():
                level(self.version, value)
        if not all(is_user(user) for user in content.get("users", {})):
            raise ValueError("users")

    def groups(self) -> list[str]:
        return ["users", "events", "notifications"] if self.version >= 6 else ["users", "events"]

    def power_levels(self, power: float) -> bool:
        new = self.event.content
        if self.version >= 12 and any(creator in new.get("users", {}) for creator in self.creators()):
            return False
        old = self.levels
        if old is None:
            return True
        pairs = [("", name, old, new) for name in DEFAULTS]
        for group in self.groups():
            before, after = old.get(group, {}), new.get(group, {})
            pairs += [(group, name, before, after) for name in {*before, *after}]
        return all(self.may_change(group, name, before, after, power) for group, name, before, after in pairs)

    def may_change(
        self, group: str, name: str, before: Mapping[str, Any], after: Mapping[str, Any], power: float
    ) -> bool:
        current = level(self.version, before[name]) if name in before else None
        new = level(self.version, after[name]) if name in after else None
        if current == new:
            return True
        if new is not None and new > power:
            return False
        if current is None:
            return True
        if group == "users":
            return name == self.event.sender or current < power
        return current <= power


def is_user(value: object) -> bool:
    """Is this a user ID, of those that the tests use?"""
    return isinstance(value, str) and re.match(r"^@[^:\0]*:[a-z.]+\Z", value) is not None
