"""Changing JSON by chance, in places where a reader looks."""

from __future__ import annotations

import json
from random import Random
from typing import Any

_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 50, 100, 2**53 - 1, 2**53, -(2**53), 2**63, 2**64, 10**30, 0.5, -0.0, 1e308),
    *("", "@", "@bob:b.example", "!room:a.example", "$1:a.example", "100", " +007 ", "\ud800", "\0", "é" * 130),
    *([], {}, [[]], [{}], {"": None}, {"sha256": "x"}, ["a.example", "1"], {"a.example": {"ed25519:1": "x"}}),
    *({"signed": {"mxid": "@bob:b.example", "token": "t", "signatures": {"x": {"ed25519:1": "x"}}}}, {"allow": [{}]}),
)
_WORDS: tuple[str, ...] = (
    *("join", "leave", "invite", "ban", "knock", "public", "private", "restricted", "knock_restricted"),
    *("m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules", "m.room.redaction"),
    *(
        "m.room.aliases",
        "m.room.third_party_invite",
        "m.room.history_visibility",
        "m.room.ops_levels",
        "m.room.message",
    ),
)
_KEYS: tuple[str, ...] = (
    *("content", "state_key", "sender", "user_id", "room_id", "context", "type", "pdu_type", "is_state", "redacts"),
    *("depth", "prev_events", "auth_events", "hashes", "signatures", "unsigned", "event_id", "origin", "prev_state_id"),
    *("membership", "users", "users_default", "events", "notifications", "invite", "creator", "additional_creators"),
    *("join_rule", "third_party_invite", "join_authorised_via_users_server", "signed", "m.federate", "room_version"),
    *("aliases", "level", "default", "public_key", "public_keys", "required_power_level", "power_level", "\0", ""),
)


def mutate(value: Any, random: Random) -> Any:
    """Change some JSON somewhere, in place, and return it."""
    holder: Any = [value]
    place, key = holder, 0
    while isinstance(place[key], list | dict) and place[key] and random.random() < 0.85:
        place = place[key]
        key = random.choice(list(place)) if isinstance(place, dict) else random.randrange(len(place))
    random.choice((_replace, _replace, _bend, _bend, _remove, _add, _double))(place, key, random)
    return holder[0] if holder else None


def _replace(place: Any, key: Any, random: Random) -> None:
    # A copy, since it may be changed in its turn.
    place[key] = json.loads(json.dumps(random.choice(random.choice((_ODD, _WORDS)))))


def _bend(place: Any, key: Any, random: Random) -> None:
    """Change a value into one that is much like it."""
    value = place[key]
    if isinstance(value, str):
        at = random.randint(0, len(value))
        place[key] = (
            value[:at] + random.choice((*"@!$#:.[]-_=/ 09Aé\0", "", "\ud800")) + value[at + random.randint(0, 2) :]
        )
    elif isinstance(value, int):
        place[key] = random.choice((value + 1, value - 1, -value, value * 2**32, str(value), float(value % 10**9)))
    else:
        place[key] = random.choice(([value], {"": value}))


def _remove(place: Any, key: Any, random: Random) -> None:
    del place[key]


def _add(place: Any, key: Any, random: Random) -> None:
    """Put something beside or into a value."""
    inside = place[key]
    if isinstance(inside, dict):
        inside[random.choice(_KEYS)] = random.choice(_WORDS)
        _replace(inside, random.choice(list(inside)), random)
    elif isinstance(inside, list):
        inside.insert(random.randint(0, len(inside)), random.choice(_WORDS))
    elif isinstance(place, dict):
        place[random.choice(_KEYS)] = inside


def _double(place: Any, key: Any, random: Random) -> None:
    """Let a value stand in another place, too."""
    if isinstance(place, list):
        place.insert(random.randint(0, len(place)), place[key])
    else:
        place[random.choice(list(place))] = place[key]
