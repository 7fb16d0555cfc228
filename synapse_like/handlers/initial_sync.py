"""Where a client begins: its rooms as they are now, and the token from which the event stream goes on (EVS-4,
EVS-5)."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from synapse_like.handlers import history
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.history import Page
from synapse_like.handlers.notifier import Notifier
from synapse_like.handlers.presence import Presence
from synapse_like.handlers.room_access import room_to_read
from synapse_like.handlers.stream_tokens import StreamToken
from synapse_like.handlers.streams import Json, News
from synapse_like.protocol.identifiers import parse_room_id
from synapse_like.storage import events, membership, rooms, state, unwanted
from synapse_like.storage.database import Database
from synapse_like.storage.events import StoredEvent
from synapse_like.storage.rooms import Room
from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import batched

OLDEST = StreamToken(0)
#: Rooms whose state is looked up at a time; some of them may have many thousands of members.
ROOMS_AT_ONCE = 20


class JoinedRoom(Struct, frozen=True):
    """A room that the user is in.

    :ivar messages: its newest events, oldest first; `start` pages further back, `end` is where the stream goes on.
    """

    room_id: str
    is_public: bool
    messages: Page
    state: Sequence[StoredEvent]


class InvitedRoom(Struct, frozen=True):
    """A room that the user is invited to: who by, and no more."""

    room_id: str
    inviter: str


class Snapshot(Struct, frozen=True):
    """All rooms of a user, as of `end`.

    :ivar presence: of those whom the user may see, and who asks to see the user, as clients see it.
    """

    end: StreamToken
    joined: Sequence[JoinedRoom]
    invited: Sequence[InvitedRoom]
    presence: Sequence[News] = ()


class InitialSync:
    """Takes snapshots for clients that begin.

    :param people: None if presence is turned off.
    """

    def __init__(self, database: Database, notifier: Notifier, people: Presence | None) -> None:
        self._database = database
        self._notifier = notifier
        self._people = people

    async def all_rooms(self, requester: Requester, limit: int) -> Snapshot:
        """Every room of the requester, with at most `limit` of the newest events of each."""
        snapshot = await self._database.read("initial-sync", self._all_rooms, requester.user_id, limit)
        await self._notifier.catch_up(snapshot.end.events)
        if self._people is None:
            return snapshot
        position, presence = await self._people.everybody(requester)
        return replace(snapshot, end=StreamToken(snapshot.end.events, presence=position), presence=presence)

    def _all_rooms(self, txn: Transaction, user_id: str, limit: int) -> Snapshot:
        now = _now(txn)
        mine = membership.of_user(txn, user_id, ("join", "invite"))
        joined = [room for room in mine if room.membership == "join"]
        found = rooms.by_nids(txn, [room.room_nid for room in joined])
        ignored = unwanted.ignored_by(txn, user_id)
        invites = [room.event_nid for room in mine if room.membership == "invite"]
        hidden = unwanted.hidden_among(txn, invites)
        told = [nid for nid in invites if nid not in hidden]
        shown: list[JoinedRoom] = []
        left, left_for_state = history.MOST_BYTES, events.MOST_WHOLE_BYTES
        for part in batched([found[room.room_nid] for room in joined], ROOMS_AT_ONCE):
            held = state.current_of_rooms(txn, [room.room_nid for room in part])
            for room in part:
                shown.append(_joined_room(txn, room, held[room.room_nid], now, limit, ignored, left, left_for_state))
                left -= shown[-1].messages.size
                left_for_state -= sum(stored.size for stored in shown[-1].state)
        return Snapshot(
            now,
            shown,
            [
                InvitedRoom(invite.event.room_id, invite.event.sender)
                for invite in events.load(txn, told)
                if invite.event.sender not in ignored
            ],
        )

    async def one_room(self, requester: Requester, room_id: str, limit: int) -> tuple[JoinedRoom, list[Json]]:
        """One room, and the presence of its members.

        :raises Forbidden: the requester is not in it.
        """
        room = await self._database.read(
            "room-initial-sync", self._one_room, requester.user_id, parse_room_id(room_id), limit
        )
        await self._notifier.catch_up(room.messages.end.events)
        return room, await self._people.of_room(requester, room.room_id) if self._people is not None else []

    def _one_room(self, txn: Transaction, user_id: str, room_id: str, limit: int) -> JoinedRoom:
        room = room_to_read(txn, room_id, user_id)
        held = state.current(txn, room.room_nid)
        return _joined_room(txn, room, held, _now(txn), limit, unwanted.ignored_by(txn, user_id))


def _now(txn: Transaction) -> StreamToken:
    """The present of this transaction's snapshot: what it reads is all that happened up to this position."""
    return StreamToken(events.current_position(txn))


def _joined_room(
    txn: Transaction,
    room: Room,
    held: Sequence[int],
    now: StreamToken,
    limit: int,
    ignored: frozenset[str],
    most_bytes: int = history.MOST_BYTES,
    most_of_state: int = events.MOST_WHOLE_BYTES,
) -> JoinedRoom:
    """A room with its newest events: as many as `limit`, or as fit into so many bytes, but one at the least.

    :param held: the numbers of the events of its state.
    :param most_of_state: bytes of its state at the most; where there is more, the newest is left out. What a room
        begins with, on which all else rests, is shown in any case.
    """
    newest_first = history.page_back(
        txn, room.room_nid, now, OLDEST, limit, ignored=ignored, remember=True, most_bytes=most_bytes
    )
    messages = Page(newest_first.end, now, newest_first.events[::-1])
    return JoinedRoom(room.room_id, room.is_public, messages, events.load_within(txn, held, max(most_of_state, 1)))
