"""The event stream: what is new for a user, at once or as soon as there is something (EVS-1, EVS-2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct, field
from twisted.internet.defer import CancelledError, Deferred

from synapse_like.background import run_in_background
from synapse_like.clock import Clock
from synapse_like.handlers.authentication import Requester, TokensEnded
from synapse_like.handlers.notifier import Notifier, Watcher, visible_from_memory
from synapse_like.handlers.stream_tokens import StreamToken
from synapse_like.handlers.streams import NO_ARRIVALS, Attendance, News, Stream, arrivals
from synapse_like.handlers.unwanted import has_ignored, without_ignored
from synapse_like.protocol.errors import UnknownToken
from synapse_like.storage import accounts, events, membership, timeline, unwanted
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.events import StoredEvent
from synapse_like.storage.membership import MembershipChange
from synapse_like.storage.news import CommitInDoubt
from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import batched

#: Events in one answer at the most, and bytes of them, but for the last one.
MOST_EVENTS = 500
MOST_BYTES = 8 * 1024 * 1024
#: Events that are loaded at a time.
LOADED_AT_ONCE = 128
#: Polls of one user that wait at the same time, where nobody says so.
MOST_POLLS = 64


class StreamChunk(Struct, frozen=True):
    """A piece of the stream: what is new after `start` up to `end` and the user may see.

    :ivar others: the news of the other streams, as clients see it.
    """

    start: StreamToken
    end: StreamToken
    events: Sequence[StoredEvent]
    others: Sequence[News]


class _Poll(Struct, eq=False):
    """A request for news under way.

    :ivar token: how far it has got.
    :ivar events: what it has found.
    :ivar others: the same of the other streams.
    :ivar waiting: what it waits for, while it does.
    :ivar token_ended: its access token has been ended meanwhile.
    """

    requester: Requester
    token: StreamToken
    events: Sequence[StoredEvent] = ()
    others: list[News] = field(default_factory=list)
    waiting: Deferred[None] | None = None
    timed_out: bool = False
    token_ended: bool = False

    def check(self) -> None:
        """Go on only with a token that is still valid.

        :raises UnknownToken: it was ended.
        """
        if self.token_ended:
            raise UnknownToken("This access token has been ended. Please log in again.")

    def time_out(self) -> None:
        """Its time is up."""
        self.timed_out = True
        self.stop_waiting()

    def stop_waiting(self) -> None:
        """Wait no longer."""
        if self.waiting is not None:
            self.waiting.cancel()


class EventStream:
    """Long polls.

    :param presence: a stream that polls tell beside the events.
    :param attendance: is told of the polls.
    :param typing: another.
    :param most_polls: how many of one user wait at the same time; the one that has waited longest makes room.
    """

    def __init__(
        self,
        database: Database,
        notifier: Notifier,
        bus: Bus,
        clock: Clock,
        *,
        presence: Stream,
        attendance: Attendance,
        typing: Stream,
        most_polls: int = MOST_POLLS,
    ) -> None:
        self._most_polls = most_polls
        self._by_user: dict[str, list[_Poll]] = {}
        self._database = database
        self._notifier = notifier
        self._clock = clock
        self._presence = presence
        self._attendance = attendance
        self._typing = typing
        self._polls: set[_Poll] = set()
        self._closing = False
        bus.subscribe(TokensEnded, self._on_tokens_ended)
        bus.subscribe(CommitInDoubt, lambda _: run_in_background("end-revoked", self.end_revoked))

    async def next_chunk(self, requester: Requester, since: str | None, timeout_ms: int) -> StreamChunk:
        """The user's news after a token, waiting for some for a while.

        :param since: a token; None for the present.
        :param timeout_ms: how long to wait if there is nothing.
        :raises BadPagination: the token is not one of ours.
        :raises UnknownToken: the access token was ended while the poll waited.
        """
        if not timeout_ms and since is not None:
            # Who does not wait is told of what was done before at other processes, too.
            await self._database.come_up_to_date()
            await self._presence.settled()
        start = await self._notifier.place_of(since)
        if start is None:
            start = self._now()
        poll = _Poll(requester, StreamToken(start.place // events.GAP, 0, start.presence, start.typing))
        self._polls.add(poll)
        self._make_room_for(poll)
        self._attendance.opened(requester)
        try:
            await self._find(poll, self._clock.monotonic() + timeout_ms / 1000)
        finally:
            self._polls.discard(poll)
            self._forget(poll)
            self._attendance.closed(requester)
        return StreamChunk(start, poll.token, poll.events, poll.others)

    @property
    def polls(self) -> int:
        """How many are under way."""
        return len(self._polls)

    def _make_room_for(self, poll: _Poll) -> None:
        """Of too many polls of a user, answer the oldest as if its time was up: its client has mostly gone."""
        polls = self._by_user.setdefault(poll.requester.user_id, [])
        polls.append(poll)
        if len(polls) > self._most_polls:
            oldest = polls.pop(0)
            oldest.time_out()

    def _forget(self, poll: _Poll) -> None:
        polls = self._by_user[poll.requester.user_id]
        if poll in polls:
            polls.remove(poll)
        if not polls:
            del self._by_user[poll.requester.user_id]

    def _now(self) -> StreamToken:
        return StreamToken(self._notifier.position, 0, self._presence.present(), self._typing.present())

    async def _find(self, poll: _Poll, deadline: float) -> None:
        """Find the news after the token of a poll; none if there is none until the deadline."""
        while True:
            watcher = await self._notifier.watch(poll.requester.user_id)
            poll.check()
            wake_ups = watcher.wake_ups
            await self._look_at_events(poll, watcher)
            await self._look_at_others(poll, watcher)
            if poll.events or poll.others:
                return
            if poll.token.events < self._notifier.position or watcher.wake_ups != wake_ups:
                continue
            left = deadline - self._clock.monotonic()
            if left <= 0 or self._closing or poll.timed_out:
                return
            await self._wait(poll, watcher, left)

    async def _look_at_events(self, poll: _Poll, watcher: Watcher) -> None:
        token = poll.token
        reached = position = self._notifier.position
        if token.events < max(watcher.since, watcher.newest):
            reached, poll.events = await self._read(poll.requester, watcher, token.events, position)
            poll.check()
        if reached > token.events:
            poll.token = StreamToken(reached, 0, token.presence, token.typing)

    async def _look_at_others(self, poll: _Poll, watcher: Watcher) -> None:
        token = poll.token
        arrived = arrivals(poll.requester.user_id, poll.events) if poll.events else NO_ARRIVALS
        presence, typing = token.presence, token.typing
        if arrived or self._presence.may_have_news(watcher, presence):
            presence, found = await self._presence.news(watcher, presence, arrived)
            poll.others += found
            poll.check()
        else:
            # Nothing up to here concerned the user.
            presence = max(presence, self._presence.present())
        if arrived or self._typing.may_have_news(watcher, typing):
            typing, found = await self._typing.news(watcher, typing, arrived)
            poll.others += found
        if (presence, typing) != (token.presence, token.typing):
            poll.token = StreamToken(token.events, 0, presence, typing)

    async def _read(
        self, requester: Requester, watcher: Watcher, after: int, position: int
    ) -> tuple[int, Sequence[StoredEvent]]:
        """What the user may and wants to see after a position, from memory if that can tell; and how far that goes."""
        remembered = visible_from_memory(watcher, after, self._notifier.recent)
        found: Sequence[StoredEvent] = remembered or ()
        reached = position
        if remembered is None or len(remembered) > MOST_EVENTS:
            reached, found = await self._database.read(
                "event-stream", visible_since, requester.user_id, after, position, MOST_EVENTS
            )
        ignored = watcher.ignored or frozenset()
        if has_ignored(ignored, found):
            found = await self._database.read("ignored-events", without_ignored, ignored, found)
        return reached, found

    async def _wait(self, poll: _Poll, watcher: Watcher, seconds: float) -> None:
        """Wait for news, at most some seconds."""
        timer = self._clock.call_later(seconds, poll.time_out)
        poll.waiting = watcher.wait()
        try:
            await poll.waiting
        except CancelledError:
            poll.check()
            if not poll.timed_out:
                raise
        finally:
            poll.waiting = None
            if timer.active():
                timer.cancel()

    def _on_tokens_ended(self, news: TokensEnded) -> None:
        self._end(news.covers)

    async def end_revoked(self) -> None:
        """End the polls whose access tokens were ended by somebody else than this process."""
        token_ids = {poll.requester.token_id for poll in self._polls}
        if token_ids:
            valid = await self._database.read("valid-tokens", accounts.valid_tokens, token_ids)
            self._end(lambda requester: requester.token_id in token_ids - valid)

    def _end(self, is_ended: Callable[[Requester], bool]) -> None:
        for poll in list(self._polls):
            if is_ended(poll.requester):
                poll.token_ended = True
                poll.stop_waiting()

    def close(self) -> None:
        """Answer all waiting polls; from now on none waits."""
        self._closing = True
        self._notifier.wake_all()


def visible_since(
    txn: Transaction, user_id: str, after: int, up_to: int, limit: int
) -> tuple[int, Sequence[StoredEvent]]:
    """What a user is to see of the events with after < position <= up_to: how far it goes, and the events.

    In a room whose membership has not changed since, a joined user sees everything. In the others an event is seen if
    the user was joined just before it, or if it is about their own membership; but not if it is one that
    they are not told of.
    """
    joined = {room.room_nid for room in membership.of_user(txn, user_id)}
    # Also the changes after `up_to`: a room joined later is joined now, but was not then.
    changed: dict[int, list[MembershipChange]] = {}
    for change in membership.changes(txn, user_id, after=after, up_to=2**62):
        changed.setdefault(change.room_nid, []).append(change)
    rows = timeline.since(txn, joined | changed.keys(), after=after, up_to=up_to, limit=limit)
    own = [change.event_nid for held in changed.values() for change in held]
    hidden = unwanted.hidden_among(txn, own)
    histories = {room_nid: membership.changes_in_room(txn, user_id, room_nid) for room_nid in changed}
    seen = [
        event_nid
        for position, room_nid, event_nid in rows
        if (room_nid not in changed or sees(histories[room_nid], position)) and event_nid not in hidden
    ]
    reached = rows[-1][0] if len(rows) == limit else up_to
    found: list[StoredEvent] = []
    size = 0
    for part in batched(seen, LOADED_AT_ONCE):
        for stored in events.load(txn, part):
            found.append(stored)
            size += stored.size
            if size >= MOST_BYTES:
                return stored.position, found
    return reached, found


def sees(history: Sequence[MembershipChange], position: float) -> bool:
    """Whether a user with these changes of membership of a room was to see the event at a position of it.

    :param position: a fraction for an event that stands between two positions.
    """
    before = None
    for change in history:
        if change.position == position:
            return True
        if change.position > position:
            break
        before = change.membership
    return before == "join"
