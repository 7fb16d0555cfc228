"""Rooms in which much is said by chance: forks, promotions, demotions, bans, kicks, rejoins, renames, and merges.

The dice are a `random.Random`: that of hypothesis, which finds the smallest room that shows a fault, or one with a
seed, which makes the same rooms everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from synapse_like.protocol.errors import AuthError
from tests.support.forking_rooms import CREATOR, START_MS, Branch, ForkingRoom

BOB = "@bob:b.example"
CAROL = "@carol:c.example"
DAVE = "@dave:a.example"
USERS = (CREATOR, BOB, CAROL, DAVE)
LEVELS = (0, 25, 50, 75, 100)

MOST_BRANCHES = 5


def grow(room: ForkingRoom, random: Random, steps: int) -> list[Branch]:
    """Let a room be created, people come in and power be given, and then anything happen.

    :param steps: how many things are tried; what the rules refuse does not happen.
    :return: what the servers know of the room in the end.
    """
    first = room.begin()
    for user in (BOB, CAROL):
        first.member(user, "join")
    first.levels(CREATOR, {CREATOR: 100, BOB: random.choice(LEVELS), CAROL: random.choice(LEVELS)})
    branches = [first, first.fork()]
    for _ in range(steps):
        branch = random.choice(branches)
        what = random.randrange(12)
        if what == 0 and len(branches) < MOST_BRANCHES:
            branches.append(branch.fork())
        elif what == 1 and len(branches) > 1:
            other = random.choice([one for one in branches if one is not branch])
            branches[branches.index(other)] = branch.merge(other)
        else:
            something_happens(branch, random, USERS)
    return branches


def something_happens(branch: Branch, random: Random, actors: tuple[str, ...]) -> None:
    """Let one of some people try something."""
    try:
        random.choice(_DEEDS)(branch, random, random.choice(actors))
    except AuthError:
        return


def _any_time(random: Random) -> int:
    # So few that two events often come at the same time.
    return START_MS + 1000 * random.randrange(6)


def _give_level(branch: Branch, random: Random, sender: str) -> None:
    levels = {user: branch.level(user) for user in USERS if branch.level(user)}
    levels[random.choice(USERS)] = random.choice(LEVELS)
    branch.levels(sender, levels, ts=_any_time(random))


def _change_other(branch: Branch, random: Random, sender: str) -> None:
    membership = random.choice(("ban", "ban", "leave", "leave", "invite"))
    branch.member(sender, membership, random.choice(USERS), ts=_any_time(random))


def _change_self(branch: Branch, random: Random, sender: str) -> None:
    name = random.choice(("Ann", "Ben"))
    membership = random.choice(("join", "join", "join", "leave"))
    branch.member(sender, membership, content={"displayname": name}, ts=_any_time(random))


def _describe(branch: Branch, random: Random, sender: str) -> None:
    event_type, key = random.choice((("m.room.name", "name"), ("m.room.topic", "topic")))
    required = random.choice((None, None, 50, 75)) if branch.room.rules.required_power_levels else None
    text = random.choice(("here", "there"))
    branch.say(sender, event_type, {key: text}, ts=_any_time(random), required_power_level=required)


def _change_rules(branch: Branch, random: Random, sender: str) -> None:
    event_type, content = random.choice(
        (
            ("m.room.join_rules", {"join_rule": "public"}),
            ("m.room.join_rules", {"join_rule": "invite"}),
            ("m.room.ops_levels", {"ban_level": 75, "kick_level": 25, "redact_level": 50}),
            ("m.room.add_state_level", {"level": 25}),
        )
    )
    branch.say(sender, event_type, content, ts=_any_time(random))


def _talk(branch: Branch, random: Random, sender: str) -> None:
    branch.say(sender, "m.room.message", {"msgtype": "m.text", "body": "hello"}, None, ts=_any_time(random))


_DEEDS: tuple[Callable[[Branch, Random, str], None], ...] = (
    _give_level,
    _give_level,
    _change_other,
    _change_other,
    _change_self,
    _change_self,
    _describe,
    _change_rules,
    _talk,
)
