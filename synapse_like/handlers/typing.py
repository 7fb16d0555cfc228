"""Who is typing at the moment (TYP-1).

It is worth nothing after a minute, so it is in memory only: for each room the users who type, each until a time that
their client names. What changes is told to those who look, a few times a second at the most, and to the other servers
in the room. These are told the time, too, and again before it is up: so who types on a server that dies is forgotten
soon after it. In the same way each process of a server that has several tells the others what it hears.

**Positions.** A position in a token says when its client was told who types, and, by a few bits of a hash, what it
believes since; 0 says: that nobody does. Whoever believes what is so, is told nothing. Who does not is told the rooms
that have changed since. A process knows of its own positions which those are. Of another's it knows when that was, and
the two may not have heard the same by then: so the client is told what has changed a little before that, too. If
nothing has, either what the other had heard is still to come, and is waited for; or somebody has missed something, and
the client is told how it stands in each of its rooms, as it is if it was told by a process that is no more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from hashlib import blake2b
from typing import Any

import orjson
from msgspec import Struct, field
from twisted.internet.interfaces import IDelayedCall

from synapse_like.background import run_in_background
from synapse_like.clock import Clock
from synapse_like.federation.destinations import DestinationQueues
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.notifier import Notifier, Watcher
from synapse_like.handlers.room_access import room_to_read
from synapse_like.handlers.streams import Arrivals, Json
from synapse_like.protocol.errors import BadJson, Forbidden
from synapse_like.protocol.identifiers import canonical_user_id, domain_of, parse_room_id
from synapse_like.protocol.membership import JOIN
from synapse_like.storage import membership, room_servers, rooms
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.event_news import EventPersisted
from synapse_like.storage.news import for_others
from synapse_like.storage.transactions import Transaction

EDU_TYPE = "m.typing"

#: For how long somebody types who does not say for how long, and at the most.
USUAL_MS = 30_000
LONGEST_MS = 120_000
#: After how many seconds other servers are told again that somebody is still typing.
REPEAT_SECONDS = 25
#: For how much longer than it says a user of another server types: until it would have said so again.
REMOTE_GRACE_SECONDS = REPEAT_SECONDS + 5
#: After how many seconds a user of another server is forgotten of whom nothing was heard, if it does not say.
REMOTE_SECONDS = LONGEST_MS / 1000 + 10
#: How often those who look are told of one room at the most, in seconds.
TELL_SECONDS = 0.25
#: Users who type in one room, and rooms that are remembered.
MOST_USERS = 100
MOST_ROOMS = 10_000
#: Positions of which it is known what had been told at them.
MOST_POSITIONS = 10_000
#: For how long what another process has told may be still to come here, in ms; and by how much what is known at two
#: processes at the same time is apart.
FRESH_MS = 1000
APART_MS = 250
#: Bits of a position that tell what is believed; the others are the time, in ms.
_HASHED = 18


@for_others
class TypingHeard(Struct, frozen=True):
    """News: a user types for so many seconds if nothing more is heard, or does no longer (None)."""

    room_id: str
    user_id: str
    seconds: float | None


class _Typist(Struct):
    """Somebody who types.

    :ivar servers: the other servers that were told so.
    :ivar told_at: when they were.
    :ivar told_until: until when the user types, as they were told.
    """

    end: IDelayedCall
    servers: Sequence[str] = ()
    told_at: float = float("-inf")
    told_until: float = float("-inf")


class _Room(Struct):
    """Who types in a room, and since when it is so.

    :ivar changes: how many changes there were by then, in all rooms.
    :ivar changed_ms: the time.
    :ivar woken_at: when those who look were last told.
    :ivar is_waking: they are about to be.
    """

    changes: int = 0
    changed_ms: int = 0
    typists: dict[str, _Typist] = field(default_factory=dict)
    woken_at: float = float("-inf")
    is_waking: bool = False


class Typing:
    """Knows who types, and tells.

    :param queues: by which other servers are told; None without federation.
    """

    def __init__(
        self,
        database: Database,
        notifier: Notifier,
        bus: Bus,
        clock: Clock,
        queues: DestinationQueues | None,
        name: str,
    ) -> None:
        self._database = database
        self._notifier = notifier
        self._clock = clock
        self._queues = queues
        self._server_name = name
        self._changes = 0
        #: Of what was before, not everything is known any more: the number of changes, and the time in ms.
        self._since, self._since_ms = 0, clock.now_ms()
        #: How many changes there had been when a position was given out.
        self._given: OrderedDict[int, int] = OrderedDict()
        #: By their last change, oldest first.
        self._rooms: OrderedDict[str, _Room] = OrderedDict()
        self._active: set[str] = set()
        bus.subscribe(EventPersisted, self._on_event)
        bus.subscribe(TypingHeard, self._on_heard)

    # What clients and other servers say.

    async def update(self, requester: Requester, room_id: str, user_id: str, *, typing: bool, timeout_ms: int) -> None:
        """A user says that they type, or that they do no longer.

        :raises Forbidden: it is somebody else, or somebody who is not in the room.
        """
        if canonical_user_id(user_id) != requester.user_id:
            raise Forbidden("You can only say of yourself that you are typing.")
        room_id = parse_room_id(room_id)
        servers = await self._database.read("typing", self._servers, room_id, requester.user_id)
        if not typing:
            self._hear(TypingHeard(room_id, requester.user_id, None))
            return
        timeout_ms = min(timeout_ms, LONGEST_MS)
        typist = self._hear(TypingHeard(room_id, requester.user_id, timeout_ms / 1000))
        now = self._clock.monotonic()
        until = now + timeout_ms / 1000
        if typist is None or (now - typist.told_at < REPEAT_SECONDS and until < typist.told_until + REPEAT_SECONDS):
            return
        typist.servers, typist.told_at, typist.told_until = servers, now, until
        self._tell(room_id, requester.user_id, servers, timeout_ms=timeout_ms)

    def _servers(self, txn: Transaction, room_id: str, user_id: str) -> list[str]:
        return room_servers.in_room(txn, room_to_read(txn, room_id, user_id).room_nid)

    async def receive(self, origin: str, content: Mapping[str, Any]) -> None:
        """Another server says who of its users types in a room: all of them (`user_ids`), or how it is with one.

        :raises MatrixError: it does not say so in any form that is known.
        """
        room_id, everybody = content.get("room_id"), content.get("user_ids")
        if not isinstance(room_id, str) or "\0" in room_id:
            raise BadJson("'room_id' must name a room.")
        if isinstance(everybody, list):
            now = await self._members(origin, room_id, everybody[:MOST_USERS])
            before = self._rooms.get(room_id)
            gone = [user for user in before.typists if domain_of(user) == origin] if before is not None else []
            stopped: Iterable[str] = set(gone) - now
        else:
            user_id, typing = content.get("user_id"), content.get("typing")
            if not isinstance(typing, bool):
                raise BadJson("'typing' must be true or false.")
            users = await self._members(origin, room_id, [user_id])
            now, stopped = (users, ()) if typing else (frozenset(), users)
        # What is said of the time is said of one of them; the others type until the time that was said of them.
        timeout, named = content.get("timeout"), content.get("user_id")
        for user_id in now:
            if timeout is None or user_id == named:
                self._hear(TypingHeard(room_id, user_id, _seconds(timeout)))
            elif not self._is_typing(room_id, user_id):
                self._hear(TypingHeard(room_id, user_id, REMOTE_SECONDS))
        for user_id in stopped:
            self._hear(TypingHeard(room_id, user_id, None))

    async def _members(self, origin: str, room_id: str, named: Sequence[object]) -> frozenset[str]:
        """Those of the named who are users of a server and joined to a room."""
        users = {user for user in named if isinstance(user, str) and ":" in user and "\0" not in user}
        users = {user for user in users if domain_of(user) == origin}
        return await self._joined(room_id, users) if users else frozenset()

    async def _joined(self, room_id: str, users: Iterable[str]) -> frozenset[str]:
        return await self._database.read("typing-members", _joined, room_id, users)

    def _hear(self, news: TypingHeard) -> _Typist | None:
        """Take over what was said to this process, and tell the others."""
        self._database.tell_others(news)
        return self._on_heard(news)

    def _on_heard(self, news: TypingHeard) -> _Typist | None:
        if news.seconds is not None:
            return self._begin(news.room_id, news.user_id, news.seconds)
        self._stop(news.room_id, news.user_id)
        return None

    # What is known.

    def _begin(self, room_id: str, user_id: str, seconds: float) -> _Typist | None:
        """Somebody types from now on; None if there are too many already."""
        room = self._rooms.get(room_id)
        typist = room.typists.get(user_id) if room is not None else None
        if typist is not None:
            typist.end.reset(seconds)
            return typist
        if room is None:
            if not self._make_place():
                return None
            room = self._rooms[room_id] = _Room()
        if len(room.typists) >= MOST_USERS:
            return None
        end = self._clock.call_later(seconds, self._stop, room_id, user_id)
        typist = room.typists[user_id] = _Typist(end)
        self._note_change(room_id, room)
        return typist

    def _is_typing(self, room_id: str, user_id: str) -> bool:
        room = self._rooms.get(room_id)
        return room is not None and user_id in room.typists

    def _make_place(self) -> bool:
        """Forget the rooms that have been silent for longest; False if somebody types in all of them."""
        if len(self._rooms) < MOST_ROOMS:
            return True
        silent = next((room_id for room_id in self._rooms if room_id not in self._active), None)
        if silent is None:
            return False
        forgotten = self._rooms.pop(silent)
        self._since, self._since_ms = forgotten.changes, forgotten.changed_ms
        return True

    def _stop(self, room_id: str, user_id: str) -> None:
        """Somebody does not type any longer."""
        room = self._rooms.get(room_id)
        typist = room.typists.pop(user_id, None) if room is not None else None
        if room is None or typist is None:
            return
        if typist.end.active():
            typist.end.cancel()
        self._note_change(room_id, room)
        self._tell(room_id, user_id, typist.servers, timeout_ms=None)

    def _note_change(self, room_id: str, room: _Room) -> None:
        self._changes += 1
        room.changes, room.changed_ms = self._changes, self._clock.now_ms()
        self._rooms.move_to_end(room_id)
        if room.typists:
            self._active.add(room_id)
        else:
            self._active.discard(room_id)
        if not room.is_waking:
            pause = room.woken_at + TELL_SECONDS - self._clock.monotonic()
            if pause <= 0:
                self._wake(room_id, room)
            else:
                room.is_waking = True
                self._clock.call_later(pause, self._wake, room_id, room)

    def _wake(self, room_id: str, room: _Room) -> None:
        room.is_waking = False
        room.woken_at = self._clock.monotonic()
        self._notifier.wake_room(room_id)

    def _on_event(self, news: EventPersisted) -> None:
        for user_id, now in news.memberships.items():
            if now != JOIN:
                self._stop(news.room_id, user_id)

    # What others are told.

    def _tell(self, room_id: str, user_id: str, servers: Sequence[str], *, timeout_ms: int | None) -> None:
        """Tell other servers how it stands with one of our users.

        :param timeout_ms: for how long they type if nothing else is heard; None if they do no longer.
        """
        if servers and self._queues is not None:
            room = self._rooms[room_id]
            ours = sorted(user for user in room.typists if domain_of(user) == self._server_name)
            content: Json = {"room_id": room_id, "user_id": user_id, "typing": timeout_ms is not None, "user_ids": ours}
            if timeout_ms is not None:
                content["timeout"] = timeout_ms
            run_in_background("tell-typing", self._send, servers, content, f"{room_id}/{user_id}")

    async def _send(self, servers: Sequence[str], content: Json, key: str) -> None:
        assert self._queues is not None
        for server in servers:
            await self._queues.send_edu(server, EDU_TYPE, content, key=key)

    # The stream.

    def present(self) -> int:
        return 0

    async def settled(self) -> None:
        """What is announced is known at once."""

    def may_have_news(self, watcher: Watcher, after: int) -> bool:
        return after != 0 or not watcher.rooms.isdisjoint(self._active)

    async def news(self, watcher: Watcher, after: int, arrivals: Arrivals) -> tuple[int, Sequence[Json]]:
        ignored = watcher.ignored or frozenset()
        seen = {room_id: self._rooms[room_id].typists.keys() - ignored for room_id in watcher.rooms & self._active}
        active = {room_id: users for room_id, users in seen.items() if users}
        believed, position = after & ((1 << _HASHED) - 1) if after else None, self._position(active)
        if believed == (position & ((1 << _HASHED) - 1) if position else None):
            return after, ()
        told = active.keys() if after == 0 else self._changed_since(watcher, after)
        if told is None:
            # The client knows what has not come here yet. If it does not come, the client was told something else.
            self._clock.call_later(FRESH_MS / 1000, watcher.wake)
            return after, ()
        told = told | (arrivals.entered & active.keys())
        if position:
            self._given[position] = self._changes
            if len(self._given) > MOST_POSITIONS:
                self._given.popitem(last=False)
        return position, [self._event(room_id, ignored) for room_id in sorted(told)]

    def _position(self, active: Mapping[str, Set[str]]) -> int:
        """The position of a client that is told now who types."""
        if not active:
            return 0
        text = orjson.dumps(sorted((room_id, sorted(users)) for room_id, users in active.items()))
        hashed = int.from_bytes(blake2b(text, digest_size=8).digest(), "big") & ((1 << _HASHED) - 1)
        return self._clock.now_ms() << _HASHED | hashed

    def _changed_since(self, watcher: Watcher, after: int) -> Set[str] | None:
        """The rooms that may not be what a client believes since a position; None if that cannot be told yet."""
        given, then, now_ms = self._given.get(after), after >> _HASHED, self._clock.now_ms()
        if given is not None and given >= self._since:
            return self._changed(watcher, lambda room: room.changes > given)
        if self._since_ms < then - APART_MS and then < now_ms + FRESH_MS:
            changed = self._changed(watcher, lambda room: room.changed_ms >= then - APART_MS)
            if changed:
                return changed
            if now_ms < then + FRESH_MS:
                return None
        return watcher.rooms

    def _changed(self, watcher: Watcher, has_changed: Callable[[_Room], bool]) -> set[str]:
        changed = set()
        for room_id in reversed(self._rooms):
            if not has_changed(self._rooms[room_id]):
                break
            if room_id in watcher.rooms:
                changed.add(room_id)
        return changed

    def _event(self, room_id: str, ignored: frozenset[str]) -> Json:
        room = self._rooms.get(room_id)
        users = sorted(room.typists.keys() - ignored) if room is not None else []
        return {"type": EDU_TYPE, "room_id": room_id, "content": {"user_ids": users}}


def _seconds(timeout_ms: object) -> float:
    """For how long a user of another server types if nothing more is heard, by what it says."""
    if not isinstance(timeout_ms, int) or not 0 <= timeout_ms <= LONGEST_MS:
        return REMOTE_SECONDS
    return timeout_ms / 1000 + REMOTE_GRACE_SECONDS


def _joined(txn: Transaction, room_id: str, users: Iterable[str]) -> frozenset[str]:
    """Those of some users who are joined to a room."""
    room = rooms.find(txn, room_id)
    if room is None:
        return frozenset()
    return frozenset(user for user in users if membership.in_room(txn, room.room_nid, user) == JOIN)
