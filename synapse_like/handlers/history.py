"""Looking into rooms: pages of their history, their state, single events (EVS-3, EVS-6, EVS-7).

Who is joined to a room sees its shared history, also from before they came. Who is not sees no room from inside; single
events they can still fetch if they were there when those happened, or if it is their own membership.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from synapse_like.clock import Clock
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.backfill import Backfill
from synapse_like.handlers.event_stream import sees
from synapse_like.handlers.notifier import Notifier
from synapse_like.handlers.room_access import room_to_read
from synapse_like.handlers.stream_tokens import StreamToken
from synapse_like.handlers.unwanted import without_ignored
from synapse_like.protocol.contents import check_event_type, check_state_key
from synapse_like.protocol.errors import NotFound
from synapse_like.protocol.identifiers import canonical_state_key, parse_event_id, parse_room_id
from synapse_like.storage import events, gaps, membership, state, timeline, unwanted
from synapse_like.storage.database import Database
from synapse_like.storage.events import StoredEvent
from synapse_like.storage.gaps import Gap
from synapse_like.storage.state import MEMBER
from synapse_like.storage.transactions import Transaction


class Page(Struct, frozen=True):
    """A page of a room's history.

    :ivar events: newest first if it was read backwards, oldest first otherwise.
    :ivar end: where the next page in the same direction starts.
    :ivar is_cut: whether so many events of ignored users were left out that it ends before it is full.
    :ivar is_full: whether there is no room for another event in it.
    """

    start: StreamToken
    end: StreamToken
    events: Sequence[StoredEvent]
    is_cut: bool = False
    is_full: bool = False

    @property
    def size(self) -> int:
        """Bytes of its events."""
        return sum(stored.size for stored in self.events)


#: Bytes of the events of a page: with so many it is full, however few they are. As many large events as most clients
#: ask for fit in (SEC-1).
MOST_BYTES = 8 * 1024 * 1024
#: Events that are loaded for a page at a time, so that no more than this many are loaded in vain.
LOADED_AT_ONCE = 128
#: Events that are looked at for one page in one transaction at the most, and at the least if it is not full at once.
MOST_LOOKED_AT, FEWEST_LOOKED_AT = 2000, 100
#: How often older history is fetched for one page, and how long a client waits for that, in seconds.
MOST_FETCHES = 6
FETCH_SECONDS = 15.0


class History:
    """Reads what has happened."""

    def __init__(self, database: Database, notifier: Notifier, backfill: Backfill, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._notifier = notifier
        self._backfill = backfill

    async def page(
        self,
        requester: Requester,
        room_id: str,
        *,
        start: str | None,
        end: str | None,
        backwards: bool,
        limit: int,
    ) -> Page:
        """A page of a room's history.

        :param start: the token to read from; None for the newest (backwards) or the oldest event.
        :param end: the token to stop at, if any.
        :raises BadPagination: a token is not one of ours.
        :raises Forbidden: the requester is not in the room.
        """
        tokens: set[str | None] = {token for token in (start, end) if token is not None}
        if (start if backwards else end) is None:
            # From the present or up to it.
            tokens.add(None)
        for token in tokens:
            await self._notifier.place_of(token)
        newest = self._notifier.position
        first = (
            StreamToken.parse(start, newest=newest) if start is not None else StreamToken(newest if backwards else 0)
        )
        default_last = StreamToken(0 if backwards else newest)
        last = StreamToken.parse(end, newest=newest) if end is not None else default_last
        walk = page_back if backwards else page_forward
        room_id = parse_room_id(room_id)
        begin, found = first, list[StoredEvent]()
        fetches = 0
        deadline = self._clock.monotonic() + FETCH_SECONDS
        while True:
            wanted = limit - len(found)
            read = partial(walk, first=begin, last=last, limit=wanted, remember=start is None)
            page, gap = await self._database.read(
                "page", self._page, requester.user_id, room_id, read, backwards, wanted
            )
            left = deadline - self._clock.monotonic()
            if gap is not None and fetches < MOST_FETCHES and left > 0:
                fetches += 1
                if await self._backfill.fill(room_id, gap, limit, within=left):
                    continue
                fetches = MOST_FETCHES
            found += page.events
            if not page.is_cut or sum(stored.size for stored in found) >= MOST_BYTES:
                return replace(page, start=first, events=found)
            # A page that is shorter than its limit says that history has ended (EVS-10), so it is filled up.
            begin = page.end

    def _page(
        self,
        txn: Transaction,
        user_id: str,
        room_id: str,
        read: Callable[..., Page],
        backwards: bool,
        limit: int,
    ) -> tuple[Page, Gap | None]:
        """A page, and a gap in it: something that it should show, and that is not here."""
        room_nid = room_to_read(txn, room_id, user_id).room_nid
        page = read(txn, room_nid, ignored=unwanted.ignored_by(txn, user_id))
        if not backwards:
            return page, None
        # One place more: if the page before ended with an event before which something is missing, this begins there.
        gap = gaps.newest(txn, room_nid, after=page.end.place, before_or_at=page.start.place + 1)
        if gap is not None and page.is_full and gap.place == page.events[-1].place:
            gap = None
        return page, gap

    async def state(self, requester: Requester, room_id: str) -> list[StoredEvent]:
        """The whole current state of a room."""
        return await self._database.read("state", self._state, requester.user_id, parse_room_id(room_id))

    def _state(self, txn: Transaction, user_id: str, room_id: str) -> list[StoredEvent]:
        room = room_to_read(txn, room_id, user_id)
        return events.load_whole(txn, state.current(txn, room.room_nid))

    async def state_content(
        self, requester: Requester, room_id: str, event_type: str, state_key: str
    ) -> Mapping[str, Any]:
        """The content of one current state event.

        :raises NotFound: there is none.
        """
        check_event_type(event_type)
        check_state_key(state_key)
        slot = (event_type, canonical_state_key(state_key))
        return await self._database.read(
            "state-content",
            self._state_content,
            requester.user_id,
            parse_room_id(room_id),
            slot,
        )

    def _state_content(self, txn: Transaction, user_id: str, room_id: str, slot: tuple[str, str]) -> Mapping[str, Any]:
        room = room_to_read(txn, room_id, user_id)
        found = state.current_in_slots(txn, [room.room_nid], [slot])
        if not found:
            raise NotFound("The room has no such state.")
        return events.load(txn, list(found.values()))[0].event.content

    async def members(self, requester: Requester, room_id: str) -> Page:
        """The m.room.member events of a room."""
        return await self._database.read("members", self._members, requester.user_id, parse_room_id(room_id))

    def _members(self, txn: Transaction, user_id: str, room_id: str) -> Page:
        room = room_to_read(txn, room_id, user_id)
        found = events.load_whole(txn, state.current_of_type(txn, room.room_nid, MEMBER))
        return Page(StreamToken(0), StreamToken(self._notifier.position), found)

    async def event(self, requester: Requester, event_id: str) -> StoredEvent:
        """One event.

        :raises NotFound: there is none, or the requester may not see it.
        """
        return await self._database.read("event", self._event, requester.user_id, parse_event_id(event_id))

    def _event(self, txn: Transaction, user_id: str, event_id: str) -> StoredEvent:
        stored = events.find(txn, event_id)
        if stored is None or stored.place is None or not _may_see(txn, user_id, stored):
            raise NotFound("There is no such event, or you may not see it.")
        return stored


def _may_see(txn: Transaction, user_id: str, stored: StoredEvent) -> bool:
    if membership.in_room(txn, stored.room_nid, user_id) == "join":
        return True
    assert stored.place is not None
    return sees(membership.changes_in_room(txn, user_id, stored.room_nid), stored.place / events.GAP)


def page_back(
    txn: Transaction,
    room_nid: int,
    first: StreamToken,
    last: StreamToken,
    limit: int,
    *,
    ignored: frozenset[str],
    remember: bool,
    most_bytes: int = MOST_BYTES,
) -> Page:
    """A page of a room, newest first, from a token down to another.

    :param ignored: whose messages are left out.
    :param remember: keep copies of its events: for pages at the present, which everybody reads.
    :param most_bytes: of its events, but for the last one.
    """

    def rows_from(place: int, many: int) -> list[tuple[int, int]]:
        return timeline.page_back(txn, room_nid, before_or_at=place, after=last.place, limit=many)

    return _fill(txn, first, min(first.place, last.place), -1, limit, rows_from, ignored, remember, most_bytes)


def page_forward(
    txn: Transaction,
    room_nid: int,
    first: StreamToken,
    last: StreamToken,
    limit: int,
    *,
    ignored: frozenset[str],
    remember: bool,
) -> Page:
    """A page of a room, oldest first, from a token up to another; `ignored` and `remember` as in `page_back`."""

    def rows_from(place: int, many: int) -> list[tuple[int, int]]:
        return timeline.page_forward(txn, room_nid, after=place, before_or_at=last.place, limit=many)

    page = _fill(txn, first, max(first.place, last.place), 0, limit, rows_from, ignored, remember, MOST_BYTES)
    if page.is_cut or page.is_full:
        return page
    return replace(page, end=StreamToken.at(max(first.place, last.place)))


def _fill(
    txn: Transaction,
    first: StreamToken,
    none_left: int,
    step: int,
    limit: int,
    rows_from: Callable[[int, int], list[tuple[int, int]]],
    ignored: frozenset[str],
    remember: bool,
    most_bytes: int,
) -> Page:
    """Read on until a page is full, nothing is left, or enough was looked at.

    :param none_left: the place to go on from if there is no event at all.
    :param step: from the place of the last event to the one to go on from.
    :param rows_from: place and number of so many events from a place on.
    """
    found: list[StoredEvent] = []
    place, looked_at, many, size = first.place, 0, min(limit, LOADED_AT_ONCE), 0
    while True:
        rows = rows_from(place, many)
        kept = without_ignored(txn, ignored, events.load(txn, [row[1] for row in rows], remember=remember))
        for index, stored in enumerate(kept):
            found.append(stored)
            size += stored.size
            is_full = len(found) == limit or size >= most_bytes
            if is_full and index + 1 < len(kept) and stored.place is not None:
                return Page(first, StreamToken.at(stored.place + step), found, is_full=True)
        place = rows[-1][0] + step if rows else none_left
        looked_at += len(rows)
        is_full = len(found) == limit or size >= most_bytes
        if len(rows) < many or is_full:
            return Page(first, StreamToken.at(place), found, is_full=is_full)
        if looked_at >= MOST_LOOKED_AT:
            return Page(first, StreamToken.at(place), found, is_cut=True)
        many = min(max(limit - len(found), FEWEST_LOOKED_AT), LOADED_AT_ONCE)
