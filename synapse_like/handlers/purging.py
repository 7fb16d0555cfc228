"""Taking out old history, and what a user has said; for commands that run beside the server, or without it.

Both go step by step, each step in a transaction of its own that says what it has freed. Who is interrupted begins anew:
what is done is not found again.
"""

from __future__ import annotations

from typing import cast

from msgspec import Struct

from synapse_like.protocol.canonical_json import decode
from synapse_like.protocol.errors import NotFound
from synapse_like.protocol.events import Event, Pdu
from synapse_like.protocol.redaction import redact_pdu
from synapse_like.protocol.room_versions import RoomRules, rules_for
from synapse_like.protocol.wire_formats import encode_pdu, read_pdu
from synapse_like.storage import events, purging, rooms
from synapse_like.storage import verification as heads
from synapse_like.storage.events import Standing
from synapse_like.storage.purging import Row
from synapse_like.storage.state import MEMBER
from synapse_like.storage.transactions import Transaction

#: Events that are looked at in one step.
STEP = 500
REDACTION = "m.room.redaction"
#: A place behind all others.
_END = 2**62


class Freed(Struct):
    """What a step has freed.

    :ivar after: where the next step begins; None at the end.
    """

    after: int | None
    events: int = 0
    bytes: int = 0


class HistoryPurge(Struct):
    """Takes old messages of a room out. What is state stays, and so do the newest events, on which the next will rest.

    :ivar before_ms: what was said before, as its sender says, goes; in ms since 1970.
    :ivar before_event: what stands before this event in the timeline goes. Without either, all that can goes.
    """

    room_id: str
    before_ms: int | None = None
    before_event: str | None = None
    _place: int = _END
    _number: int = _END

    def begin(self, txn: Transaction) -> None:
        """See whether there is such a room, and such an event.

        :raises NotFound: there is not.
        """
        room = rooms.find(txn, self.room_id)
        if room is None:
            raise NotFound(f"This server does not know the room {self.room_id}.")
        if self.before_event is not None:
            found = purging.place_of(txn, room.room_nid, self.before_event)
            if found is None:
                raise NotFound(f"There is no event {self.before_event} in the timeline of {self.room_id}.")
            self._number, self._place = found

    def step(self, txn: Transaction, after: int) -> Freed:
        """Take some more out of the timeline.

        :param after: the place behind which to go on; 0 at first.
        """
        room = rooms.find(txn, self.room_id)
        if room is None:
            return Freed(None)
        rooms.lock(txn, room)
        rows = purging.shown(txn, room.room_nid, after=after, before=self._place, limit=STEP)
        freed = self._take_out(txn, room.room_nid, rows)
        if freed.events:
            # What is missing before here is not to be fetched again.
            purging.delete_gaps(txn, room.room_nid, before=rows[-1].place or 0)
        freed.after = rows[-1].place if len(rows) == STEP else None
        return freed

    def step_unshown(self, txn: Transaction, after: int) -> Freed:
        """Take some more of what never was in the timeline, since it was not allowed there.

        :param after: the number behind which to go on; 0 at first.
        """
        room = rooms.find(txn, self.room_id)
        if room is None:
            return Freed(None)
        rooms.lock(txn, room)
        rows = purging.of_room(txn, room.room_nid, after=after, limit=STEP)
        hidden = [row for row in rows if row.place is None and row.event_nid < self._number]
        hidden = [row for row in hidden if row.standing is not Standing.ACCEPTED]
        freed = self._take_out(txn, room.room_nid, hidden)
        freed.after = rows[-1].event_nid if len(rows) == STEP else None
        return freed

    def _take_out(self, txn: Transaction, room_nid: int, rows: list[Row]) -> Freed:
        rules = rules_of(txn, self.room_id)
        head = heads.head_of(txn, room_nid)
        kept = set(head.extremities if head is not None else ())
        going = {}
        for row in rows:
            if row.event_nid in kept:
                continue
            event, _ = read(rules, row)
            if not event.is_state and (self.before_ms is None or event.origin_server_ts < self.before_ms):
                going[row.event_nid] = (row, event)
        redactions = [nid for nid, (_, event) in going.items() if event.type == REDACTION]
        targets = {row.event_id for row, _ in going.values()}
        for nid in redactions:
            redacts = going[nid][1].redacts
            # What it has stripped, and stays, says because of what.
            if redacts is not None and redacts not in targets and events.known(txn, [redacts]):
                del going[nid]
        freed = Freed(None, len(going), sum(len(row.pdu) for row, _ in going.values()))
        newest = purging.newest_number(txn)
        if newest in going:
            # Its number would be given out again; another time it is not the newest any more.
            row, _ = going.pop(newest)
            purging.strip(txn, [(newest, encode_pdu(redact_pdu(rules, cast(Pdu, decode(row.pdu)))))])
        purging.delete(txn, list(going))
        return freed


class WordsOfUser(Struct, frozen=True):
    """What a user has said in a room: read for them, or taken out for good.

    Their messages are stripped as a redaction does it, so that the room's history stays whole; so are the changes of
    their membership, in which their names stand. What they have set for a room, its name for instance, is the room's.
    """

    user_id: str
    room_nid: int
    rules: RoomRules

    def read_some(self, txn: Transaction, after: int) -> tuple[list[tuple[str, Pdu]], int | None]:
        """What they said, with its ID, behind a number of events; and where to go on, None at the end."""
        rows = purging.of_room(txn, self.room_nid, after=after, limit=STEP)
        found = []
        for row in rows:
            event, pdu = read(self.rules, row)
            if event.sender == self.user_id:
                found.append((row.event_id, pdu))
        return found, rows[-1].event_nid if len(rows) == STEP else None

    def strip_some(self, txn: Transaction, after: int) -> Freed:
        """Strip what they said behind a number of events."""
        rows = purging.of_room(txn, self.room_nid, after=after, limit=STEP)
        freed = Freed(rows[-1].event_nid if len(rows) == STEP else None)
        stripped = []
        for row in rows:
            event, pdu = read(self.rules, row)
            is_theirs = event.sender == self.user_id and (not event.is_state or event.type == MEMBER)
            if not is_theirs and not (event.is_state and event.state_slot == (MEMBER, self.user_id)):
                continue
            left = redact_pdu(self.rules, pdu)
            if left != pdu:
                encoded = encode_pdu(left)
                stripped.append((row.event_nid, encoded))
                freed.events += 1
                freed.bytes += len(row.pdu) - len(encoded)
        purging.strip(txn, stripped)
        return freed


def rules_of(txn: Transaction, room_id: str) -> RoomRules:
    """The rules of a room that is known to be here."""
    rules = rooms.rules_of(txn, room_id)
    assert rules is not None, "the room is known"
    return rules


def read(rules: RoomRules, row: Row) -> tuple[Event, Pdu]:
    """An event as it stands in its table."""
    pdu = cast(Pdu, decode(row.pdu))
    return read_pdu(rules, pdu, row.event_id), pdu


def words_of(txn: Transaction, user_id: str, rooms_of_user: list[tuple[int, str, str]]) -> list[WordsOfUser]:
    """What a user has said, room by room."""
    return [WordsOfUser(user_id, room_nid, rules_for(version)) for room_nid, _, version in rooms_of_user]
