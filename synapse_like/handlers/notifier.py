"""Wakes those who wait for news: the long polls.

For each user who looks (or did lately) there is a `Watcher`: the rooms they are in, and the position of the newest
event that may concern them. News of an event finds the watchers of its room by a look-up, so nothing here grows
with users who are not looking, and a poll that begins when nothing new has happened asks the database nothing.

The newest events of the whole server are kept for a while, so that a woken poll can be answered from memory. They are
the same objects for all who read them, encoded once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from twisted.internet.defer import Deferred

from synapse_like.background import run_in_background
from synapse_like.clock import Clock
from synapse_like.handlers.stream_tokens import StreamToken
from synapse_like.protocol.errors import BadPagination
from synapse_like.storage import events, membership, unwanted
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.event_news import EventPersisted, EventRedacted, Unread
from synapse_like.storage.events import StoredEvent
from synapse_like.storage.membership import RoomMembership
from synapse_like.storage.news import CommitInDoubt
from synapse_like.storage.transactions import Transaction
from synapse_like.storage.unwanted import IgnoredChanged

#: How many of the newest events are kept in memory, and how many bytes of them.
MOST_RECENT = 1000
MOST_RECENT_BYTES = 4 * 1024 * 1024
#: How long a watcher outlives the last poll of its user.
IDLE_SECONDS = 120.0


class Watcher:
    """One user's view of the news.

    :ivar since: it knows of every event after this position that may concern the user.
    :ivar newest: the position of the newest of them.
    :ivar newest_membership: the position of the newest change of the user's own memberships.
    :ivar rooms: the rooms the user is joined to.
    :ivar newest_presence: the position of the newest presence that may concern the user; None if not known.
    :ivar ignored: whom the user ignores; None if it is not known yet.
    :ivar wake_ups: how often there was news, of whatever stream.
    """

    __slots__ = (
        "_waiting",
        "ignored",
        "last_used",
        "newest",
        "newest_membership",
        "newest_presence",
        "rooms",
        "since",
        "user_id",
        "wake_ups",
    )

    def __init__(self, user_id: str, since: int) -> None:
        self.user_id = user_id
        self.since = since
        self.newest = since
        self.newest_membership = since
        self.rooms: set[str] = set()
        self.newest_presence: int | None = None
        self.ignored: frozenset[str] | None = None
        self.last_used = 0.0
        self.wake_ups = 0
        self._waiting: tuple[Deferred[None], ...] = ()

    @property
    def is_waiting(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    def wait(self) -> Deferred[None]:
        """A Deferred that fires with the next news; cancel it to wait no longer."""
        waiting: Deferred[None] = Deferred(self._wait_no_longer)
        self._waiting += (waiting,)
        return waiting

    def _wait_no_longer(self, cancelled: Deferred[None]) -> None:
        self._waiting = tuple([waiting for waiting in self._waiting if waiting is not cancelled])

    def wake(self) -> None:
        """Fire for everybody who waits."""
        waiting, self._waiting = self._waiting, ()
        for deferred in waiting:
            deferred.callback(None)


class RecentEvents:
    """The newest events of the server, in stream order, as far back as `since`."""

    def __init__(self, since: int) -> None:
        self.since = since
        self._events: deque[EventPersisted] = deque()
        self._bytes = 0

    @property
    def size(self) -> tuple[int, int, float]:
        """How many events there are, how many bytes they have, and how full that is."""
        return len(self._events), self._bytes, max(len(self._events) / MOST_RECENT, self._bytes / MOST_RECENT_BYTES)

    def add(self, news: EventPersisted) -> None:
        """Append the newest event."""
        self._events.append(news)
        self._bytes += _size(news)
        while len(self._events) > MOST_RECENT or self._bytes > MOST_RECENT_BYTES:
            oldest = self._events.popleft()
            self._bytes -= _size(oldest)
            self.since = oldest.position

    def forget(self, up_to: int) -> None:
        """Drop everything up to a position: it is no longer what the database has."""
        self._events.clear()
        self._bytes = 0
        self.since = up_to

    def after(self, position: int) -> list[EventPersisted] | None:
        """The events after a position, oldest first; None if that is further back than is kept."""
        if position < self.since:
            return None
        found = []
        for news in reversed(self._events):
            if news.position <= position:
                break
            found.append(news)
        found.reverse()
        return found


class Notifier:
    """See the head of this file.

    :param position: the newest position when the server started.
    :ivar position: the newest position that everybody can read.
    """

    def __init__(self, database: Database, bus: Bus, clock: Clock, position: int) -> None:
        self._database = database
        self._clock = clock
        self.position = position
        self.recent = RecentEvents(position)
        self._watchers: dict[str, Watcher] = {}
        self._by_room: dict[str, set[Watcher]] = {}
        self._loading: dict[str, list[Deferred[None]]] = {}
        self._to_wake: set[Watcher] = set()
        self._behind: list[tuple[int, Deferred[None]]] = []
        database.read_events_of(self._is_watched)
        bus.subscribe(EventPersisted, self._on_event)
        bus.subscribe(EventRedacted, self._on_redaction)
        bus.subscribe(CommitInDoubt, self._on_doubt)
        bus.subscribe(IgnoredChanged, self._on_ignored)

    def _is_watched(self, room_id: str, user_ids: Iterable[str]) -> bool:
        return room_id in self._by_room or not self._watchers.keys().isdisjoint(user_ids)

    async def catch_up(self, position: int) -> None:
        """Wait until a position that somebody has read in the database has been announced, too.

        A commit can be read a moment before it is announced. A token must not be handed out in that moment.
        """
        while position > self.position:
            announced: Deferred[None] = Deferred()
            self._behind.append((position, announced))
            await announced

    async def place_of(self, token: str | None) -> StreamToken | None:
        """Where a client stands by its token; None if it has none, and is to be told of the present.

        Another process may have told it of what is not known here yet: that is waited for.

        :raises BadPagination: the token is not one of ours.
        """
        if token is not None:
            try:
                return StreamToken.parse(token, newest=self.position)
            except BadPagination:
                if not self._database.is_shared:
                    raise
        await self._database.come_up_to_date()
        return None if token is None else StreamToken.parse(token, newest=self.position)

    async def watch(self, user_id: str) -> Watcher:
        """The watcher of a user, made if there is none."""
        while user_id in self._loading:
            turn: Deferred[None] = Deferred()
            self._loading[user_id].append(turn)
            await turn
        watcher = self._watchers.get(user_id)
        if watcher is None:
            watcher = await self._make_watcher(user_id)
        watcher.last_used = self._clock.monotonic()
        return watcher

    async def _make_watcher(self, user_id: str) -> Watcher:
        self._loading[user_id] = []
        try:
            while True:
                # Known before its rooms are, so that no change of membership in between is missed.
                watcher = self._watchers[user_id] = Watcher(user_id, self.position)
                joined, ignored = await self._database.read("joined-rooms", _rooms_and_ignored, user_id)
                if watcher.ignored is None:
                    watcher.ignored = ignored
                if watcher.newest_membership == watcher.since:
                    break
            for room in joined:
                self._enter(watcher, room.room_id)
            # What happened in those rooms while they were being read was not noticed.
            watcher.newest = watcher.since = watcher.newest_membership = self.position
            return watcher
        except BaseException:
            self._watchers.pop(user_id, None)
            raise
        finally:
            for turn in self._loading.pop(user_id):
                if not turn.called:
                    turn.callback(None)

    def _enter(self, watcher: Watcher, room_id: str) -> None:
        watcher.rooms.add(room_id)
        self._by_room.setdefault(room_id, set()).add(watcher)

    def _leave(self, watcher: Watcher, room_id: str) -> None:
        watcher.rooms.discard(room_id)
        watchers = self._by_room.get(room_id)
        if watchers is not None:
            watchers.discard(watcher)
            if not watchers:
                del self._by_room[room_id]

    def _on_event(self, news: EventPersisted) -> None:
        if news.position <= self.position:
            # Another process has committed it while this one began.
            return
        self.position = news.position
        self.recent.add(news)
        self._touch(self._by_room.get(news.room_id, ()), news.position)
        for user_id, now in news.memberships.items():
            watcher = self._watchers.get(user_id)
            if watcher is not None:
                self._on_own_membership(watcher, news, now)
        if self._behind:
            self._let_those_behind_go_on()

    def _let_those_behind_go_on(self) -> None:
        reached = [waiting for waiting in self._behind if waiting[0] <= self.position]
        self._behind = [waiting for waiting in self._behind if waiting[0] > self.position]
        for _, announced in reached:
            if not announced.called:
                announced.callback(None)

    def _on_own_membership(self, watcher: Watcher, news: EventPersisted, now: str) -> None:
        watcher.newest_membership = news.position
        if now == "join":
            self._enter(watcher, news.room_id)
        else:
            self._leave(watcher, news.room_id)
        self._touch((watcher,), news.position)

    def _touch(self, watchers: Iterable[Watcher], position: int) -> None:
        for watcher in watchers:
            watcher.newest = position
            self._wake_soon(watcher)

    def _wake_soon(self, watcher: Watcher) -> None:
        watcher.wake_ups += 1
        if watcher.is_waiting:
            if not self._to_wake:
                # All news of one commit comes in one go: let it be delivered in one answer.
                self._clock.call_later(0, self._wake)
            self._to_wake.add(watcher)

    def wake_room(self, room_id: str) -> None:
        """Wake those who look and are in a room: there is news of another stream than that of events."""
        for watcher in self._by_room.get(room_id, ()):
            self._wake_soon(watcher)

    def tell_presence(self, room_ids: Iterable[str], user_ids: Iterable[str], position: int) -> None:
        """There is presence at a position that concerns those in some rooms, and some users."""
        for room_id in room_ids:
            for watcher in self._by_room.get(room_id, ()):
                watcher.newest_presence = position
                self._wake_soon(watcher)
        for user_id in user_ids:
            found = self._watchers.get(user_id)
            if found is not None:
                found.newest_presence = position
                self._wake_soon(found)

    def _wake(self) -> None:
        to_wake, self._to_wake = self._to_wake, set()
        for watcher in to_wake:
            watcher.wake()

    def _on_ignored(self, news: IgnoredChanged) -> None:
        watcher = self._watchers.get(news.user_id)
        if watcher is not None:
            watcher.ignored = news.ignored

    def _on_redaction(self, news: EventRedacted) -> None:
        # An event in memory may still have, or show as replaced, what the redaction took away.
        self.forget_recent()

    def forget_recent(self) -> None:
        """Drop the events in memory: they may no longer be what the database has."""
        self.recent.forget(self.position)

    def _on_doubt(self, _: CommitInDoubt) -> None:
        run_in_background("look-after-doubt", self._look_again)

    async def _look_again(self) -> None:
        """Find out where the stream stands, when there may be events that nobody was told of."""
        position = await self._database.read("current-position", events.current_position)
        if position > self.position:
            self.position = position
            self.forget_recent()
        # What the watchers know of rooms may be wrong: those who look get new ones.
        forgotten, self._watchers, self._by_room = self._watchers, {}, {}
        self._let_those_behind_go_on()
        for watcher in forgotten.values():
            watcher.wake()

    def drop_idle(self) -> None:
        """Forget the watchers of users who have not looked for a while."""
        oldest = self._clock.monotonic() - IDLE_SECONDS
        for watcher in list(self._watchers.values()):
            if not watcher.is_waiting and watcher.last_used < oldest and watcher.user_id not in self._loading:
                del self._watchers[watcher.user_id]
                for room_id in list(watcher.rooms):
                    self._leave(watcher, room_id)

    def wake_all(self) -> None:
        """Wake everybody, news or not: the server is about to stop."""
        for watcher in list(self._watchers.values()):
            watcher.wake()


def _rooms_and_ignored(txn: Transaction, user_id: str) -> tuple[list[RoomMembership], frozenset[str]]:
    return membership.of_user(txn, user_id), unwanted.ignored_by(txn, user_id)


def visible_from_memory(watcher: Watcher, after: int, recent: RecentEvents) -> list[StoredEvent] | None:
    """What a user is to see of the events after a position, if memory alone can tell.

    It can while the user's memberships have not changed since: then it is what happened in the rooms they are in.
    """
    if after < watcher.since or after < watcher.newest_membership:
        return None
    news = recent.after(after)
    if news is None:
        return None
    found = [item.stored for item in news if item.room_id in watcher.rooms]
    # Nobody was in the room, of those who look here, when another process stored it.
    read = [stored for stored in found if not isinstance(stored, Unread)]
    return read if len(read) == len(found) else None


def _size(news: EventPersisted) -> int:
    return 0 if isinstance(news.stored, Unread) else news.stored.size
