"""What a user does not want: messages of those they ignore, and invites of those from whom they take none (SEC-9).

**Ignored users.** What they say is not delivered, neither in the event stream nor in history, and neither is it told
when they type or come and go. What a room *is* cannot depend on who looks, so their state events are delivered, and so
is that they have taken away what somebody else had said. Their invites are dropped: nobody is told of them, and who
invited does not learn that.

**Invites.** A user takes those of everyone, of who is in a room with them, of their contacts, or nobody's. Others are
refused with 403 where there is somebody to refuse to: our own users, and servers that ask. Where an invite stands in
its room already, as when it comes with the other events of a room that this server is in, it is left there and the user
is not told of it, nor that it was taken back. An answer to a user's own knock is always wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from synapse_like.handlers.authentication import Requester
from synapse_like.protocol.errors import BadJson, Forbidden
from synapse_like.protocol.events import Event
from synapse_like.protocol.identifiers import canonical_user_id
from synapse_like.protocol.membership import INVITE, JOIN, KNOCK
from synapse_like.storage import contacts, events, membership, unwanted
from synapse_like.storage.database import Database
from synapse_like.storage.events import StoredEvent
from synapse_like.storage.transactions import Transaction

Policy = Literal["everyone", "shared_rooms", "contacts", "nobody"]

#: Users that somebody may ignore.
MOST_IGNORED = 1000
REDACTION = "m.room.redaction"


class Unwanted:
    """The settings of users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ignored(self, requester: Requester) -> list[str]:
        """Whom the requester ignores, sorted."""
        return sorted(await self._database.read("ignored-users", unwanted.ignored_by, requester.user_id))

    async def ignore(self, requester: Requester, user_ids: Iterable[str]) -> None:
        """Ignore these users from now on, and nobody else.

        :raises BadJson: they are too many, one is no user, or one is the requester.
        """
        named = {canonical_user_id(user_id) for user_id in user_ids}
        if len(named) > MOST_IGNORED:
            raise BadJson(f"At most {MOST_IGNORED} users can be ignored.")
        if requester.user_id in named:
            raise BadJson("You cannot ignore yourself.")
        await self._database.write("ignore-users", unwanted.ignore, requester.user_id, named)

    async def policy(self, requester: Requester) -> str:
        """Whose invites the requester takes."""
        return await self._database.read("invite-policy", unwanted.policy_of, requester.user_id)

    async def set_policy(self, requester: Requester, policy: Policy) -> None:
        """Take the invites of these from now on."""
        await self._database.write("set-invite-policy", unwanted.set_policy, requester.user_id, policy)


# Invites.


def check_invite(txn: Transaction, inviter: str, user_id: str, *, present: str | None) -> None:
    """See that a user of ours takes the invites of somebody; those of ignored users are no concern of this.

    :param present: the user's membership of the room.
    :raises Forbidden: they do not.
    """
    if not _takes(txn, inviter, user_id, present):
        raise Forbidden(f"{user_id} does not take invites from you.")


def is_kept_from(txn: Transaction, event: Event, *, was: str | None, before: int | None) -> bool:
    """Whether a user of ours is not to be told that somebody else has changed their membership.

    Not only of an invite: who may put somebody out of a room may give a reason, and could so say anything to everybody.

    :param was: the user's membership before.
    :param before: the number of the event that made it that.
    """
    sender, user_id = event.sender, event.state_slot[1]
    if event.content.get("membership") == INVITE:
        return unwanted.ignores(txn, user_id, sender) or not _takes(txn, sender, user_id, was)
    if was == INVITE and before is not None:
        return before in unwanted.hidden_among(txn, [before])
    return was not in (JOIN, KNOCK) and unwanted.ignores(txn, user_id, sender)


def _takes(txn: Transaction, inviter: str, user_id: str, present: str | None) -> bool:
    if inviter == user_id or present == KNOCK:
        return True
    match unwanted.policy_of(txn, user_id):
        case "nobody":
            return False
        case "contacts":
            return contacts.has_user(txn, user_id, inviter)
        case "shared_rooms":
            return membership.share_a_room(txn, user_id, inviter)
    return True


# What ignored users say.


def without_ignored(txn: Transaction, ignored: frozenset[str], found: Sequence[StoredEvent]) -> Sequence[StoredEvent]:
    """Events without those of ignored users that are not to be delivered."""
    if not has_ignored(ignored, found):
        return found
    return [
        stored
        for stored in found
        if stored.event.sender not in ignored or stored.event.is_state or _takes_away_from_others(txn, stored.event)
    ]


def has_ignored(ignored: frozenset[str], found: Sequence[StoredEvent]) -> bool:
    """Whether there may be anything among some events that is not to be delivered."""
    return bool(ignored) and any(not one.event.is_state and one.event.sender in ignored for one in found)


def _takes_away_from_others(txn: Transaction, event: Event) -> bool:
    if event.type != REDACTION or event.redacts is None:
        return False
    target = events.find(txn, event.redacts)
    return target is not None and target.event.sender != event.sender
