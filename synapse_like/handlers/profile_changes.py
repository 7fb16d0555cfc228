"""Telling rooms that one of our users has another name or avatar (PROF-2).

Every room that the user is joined to gets an m.room.member event with the new values. The first rooms get it in the
transaction that changes the profile; the others follow in small transactions, so that nobody's message waits for
somebody's thousand rooms. How far that has come stands in the tables, in the same transactions: a restart in the middle
goes on there. A second change before the end of the first begins anew, with the newest values; a room that has them
already is told nothing.
"""

from __future__ import annotations

from synapse_like.handlers.event_creation import EventCreation
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import MatrixError
from synapse_like.protocol.events import EventDraft
from synapse_like.protocol.join_rules import VOUCHER
from synapse_like.protocol.membership import JOIN
from synapse_like.protocol.profiles import SHOWN
from synapse_like.storage import membership, profiles, rooms
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.news import CommitInDoubt
from synapse_like.storage.profiles import Profile, ProfileChanged, RoomsUntold
from synapse_like.storage.state import MEMBER
from synapse_like.storage.transactions import Transaction

#: Rooms that are told in one transaction.
ROOMS_AT_ONCE = 10
#: Transactions in one turn.
MOST_AT_ONCE = 10
#: The pause between two turns, in seconds.
PAUSE_SECONDS = 0.5

_log = get_logger(__name__)


class ProfileChanges:
    """Tells rooms of changes of profiles."""

    def __init__(self, database: Database, bus: Bus, creation: EventCreation) -> None:
        self._database = database
        self._creation = creation
        #: Whether there may be rooms that have yet to be told: after a start nobody knows.
        self._may_be_untold = True
        bus.subscribe(RoomsUntold, self._remember)
        bus.subscribe(CommitInDoubt, self._remember)

    def _remember(self, _: object) -> None:
        self._may_be_untold = True

    def begin(self, txn: Transaction, user_id: str) -> None:
        """A profile has changed: announce it, and tell the first rooms.

        While rooms are being told of an earlier change, it is left to the following transactions to begin anew: who
        changes their name all the time makes no more events than these do.
        """
        txn.hold_names(profiles.name_of_profile(user_id))
        profile = profiles.find(txn, user_id)
        txn.announce(ProfileChanged(user_id, profile.displayname, profile.avatar_url))
        is_first = profiles.untold(txn, user_id) is None
        profiles.begin_telling(txn, user_id)
        if is_first:
            self._tell_some(txn, user_id)

    async def go_on(self) -> None:
        """Tell more rooms, if there are any that have yet to be told; to be called every so often."""
        for _ in range(MOST_AT_ONCE):
            if not self._may_be_untold:
                return
            self._may_be_untold = False
            try:
                self._may_be_untold = await self._database.write("tell-rooms", self._tell_some) or self._may_be_untold
            except BaseException:
                self._may_be_untold = True
                raise

    def _tell_some(self, txn: Transaction, user_id: str | None = None) -> bool:
        """Tell the next rooms of a user, of anybody if left out; False if there was nobody whose rooms to tell."""
        waiting = profiles.untold(txn, user_id)
        if waiting is None:
            return False
        user_id, told_up_to = waiting
        profile = profiles.find(txn, user_id)
        found = membership.joined_after(txn, user_id, told_up_to, ROOMS_AT_ONCE)
        for _, room_id in found:
            try:
                self._tell(txn, user_id, room_id, profile)
            except MatrixError as error:
                _log.warning("a room cannot be told of a profile", room=room_id, reason=error.reason or error.message)
        profiles.told(txn, user_id, found[-1][0] if len(found) == ROOMS_AT_ONCE else None)
        return True

    def _tell(self, txn: Transaction, user_id: str, room_id: str, profile: Profile) -> None:
        room = rooms.head(txn, room_id)
        assert room is not None, "somebody is in it"
        present = rooms.state_at_head(txn, room, [(MEMBER, user_id)])[MEMBER, user_id].content
        if Profile(*(present.get(key) for key in SHOWN)) == profile:
            return
        # Who has been let in needs nobody to vouch any more; and whoever did so would have to sign again.
        kept = {key: value for key, value in present.items() if key not in (*SHOWN, VOUCHER)}
        content = {**kept, "membership": JOIN, **profile.content()}
        self._creation.say(txn, room, EventDraft(room_id, MEMBER, user_id, content, user_id))
