"""Presence across servers (PRES-5).

A server is told of those of our users for whom it has asked (`poll`), for as long as it may see them, and until its
interest lapses. In turn we ask for those whom our users who look may see, and ask again before that. What happens to
all our users within a second goes to each server together.

What is said is worth nothing a minute later, so it is not stored. A server to whom something was lost, since it could
not be reached or since we were stopped, is told how it stands with everybody once it can be, and is asked how it stands
with its own; of one that is silent for too long, everybody is offline.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from msgspec import Struct

from synapse_like.background import run_in_background
from synapse_like.clock import Clock
from synapse_like.federation.destinations import DestinationQueues
from synapse_like.federation.lots import SenderLost, lot_of
from synapse_like.federation.sending import PassingEdusLost
from synapse_like.handlers.presence_keeping import LookersChanged, PresenceKeeper
from synapse_like.handlers.presence_persons import Persons
from synapse_like.handlers.presence_states import AVAILABILITY, HIDDEN
from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.identifiers import canonical_user_id, domain_of
from synapse_like.protocol.profiles import SHOWN
from synapse_like.storage import presence
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.event_news import EventPersisted
from synapse_like.storage.presence import OFFLINE, PresenceRecorded
from synapse_like.storage.presence_lists import ListChanged

EDU_TYPE = "m.presence"

#: For how long a server is told of a user after it asked, and after how long we ask again, in seconds.
INTEREST_SECONDS = 30 * 60.0
ASK_AGAIN_SECONDS = 20 * 60.0
#: After how long one asks again who got no answer; twice as long each time, up to `ASK_AGAIN_SECONDS`.
NO_ANSWER_SECONDS = 30.0
#: After how long without a word a user of another server is offline, in seconds.
SILENT_SECONDS = 25 * 60.0
#: How often it is seen to all this, in seconds.
SWEEP_SECONDS = 10.0
#: Users of other servers for whom we ask, of all servers and of one.
MOST_ASKED = 50_000
MOST_ASKED_OF_ONE_SERVER = 20_000
#: Users in one EDU.
MOST_AT_ONCE = 100
#: Users that one EDU may name; what is beyond is ignored.
MOST_NAMED = 1000


class _Asked(Struct):
    """A user of another server whom we want to know of; the times are those of the monotonic clock.

    :ivar at: when we asked last.
    :ivar heard: when we last heard of them, or began to ask.
    :ivar wait: how long to wait before we ask again.
    """

    at: float
    heard: float
    wait: float = NO_ANSWER_SECONDS


class PresenceFederation:
    """Tells other servers of our users, and asks them for theirs; in the process that keeps presence."""

    def __init__(
        self,
        database: Database,
        persons: Persons,
        keeper: PresenceKeeper,
        queues: DestinationQueues,
        bus: Bus,
        clock: Clock,
        server_name: str,
    ) -> None:
        self._database = database
        self._persons = persons
        self._keeper = keeper
        self._queues = queues
        self._clock = clock
        self._server_name = server_name
        #: By server, and by user.
        self._asked: defaultdict[str, dict[str, _Asked]] = defaultdict(dict)
        #: Our users who look, for whom we have asked.
        self._curious: set[str] = set()
        #: The servers that may believe what is not so any more, and what of us they were told or asked is lost.
        self._behind: set[str] = set()
        self._reviewed = clock.monotonic()
        bus.subscribe(PresenceRecorded, self._on_recorded)
        bus.subscribe(LookersChanged, self._on_lookers)
        bus.subscribe(PassingEdusLost, self._on_lost)
        bus.subscribe(SenderLost, self._on_sender_lost)
        bus.subscribe(EventPersisted, self._on_event)
        bus.subscribe(ListChanged, self._on_list)

    async def start(self) -> None:
        """Say how it stands now, and ask how it stands with those of whom we knew before this run."""
        now = self._clock.monotonic()
        there = await self._database.read("presence-there", presence.there)
        for row in there:
            if not self._is_ours(row.user_id):
                asked = self._asked[domain_of(row.user_id)]
                asked.setdefault(row.user_id, _Asked(float("-inf"), now))
        before = {row.user_id for row in there if self._is_ours(row.user_id)} - self._curious
        self._curious |= before
        await self._ask_for_company(before)
        # What they were to be told when we stopped may be lost.
        await self._tell_all(None)

    def _is_ours(self, user_id: str) -> bool:
        return domain_of(user_id) == self._server_name

    # Telling.

    def _on_recorded(self, news: PresenceRecorded) -> None:
        if not self._persons.keeps:
            return
        ours = [user_id for user_id in news.user_ids if self._is_ours(user_id)]
        if ours:
            run_in_background("push-presence", self._push, ours)

    def _is_there(self, user_id: str) -> bool:
        person = self._persons.known(user_id)
        return person is not None and person.told.state != OFFLINE

    async def _push(self, user_ids: Sequence[str]) -> None:
        now_ms = self._clock.now_ms()
        interested = await self._database.read("presence-interest", presence.interested, user_ids, now_ms=now_ms)
        for server, users in interested.items():
            await self._push_to(server, users)

    async def _push_to(self, server: str, user_ids: Sequence[str]) -> None:
        """Tell a server of some users of whom it may know."""
        if self._queues.is_left_alone(server):
            self._behind.add(server)
            return
        rows = await self._database.read("presence-of-users", presence.of_users, user_ids)
        now_ms = self._clock.now_ms()
        said = [self._persons.told(name, rows.get(name)).event(name, now_ms)["content"] for name in user_ids]
        await self._send(server, "push", said)

    async def _tell_all(self, servers: Collection[str] | None) -> None:
        """Tell some servers of all of whom they want to know, and may.

        :param servers: None for all that want to know anything.
        """
        now_ms = self._clock.now_ms()
        interest = await self._database.read("presence-interest-of", presence.interest_of, servers, now_ms=now_ms)
        for server, users in interest.items():
            await self._push_to(server, users)

    def _on_lost(self, news: PassingEdusLost) -> None:
        self._behind.add(news.server)

    def _on_sender_lost(self, news: SenderLost) -> None:
        if self._persons.keeps:
            run_in_background("presence-lost", self._note_lost, frozenset(news.lots))

    async def _note_lost(self, lots: Collection[str]) -> None:
        """Something may be lost to any of some lots of servers."""
        now_ms = self._clock.now_ms()
        interest = await self._database.read("presence-interest-of", presence.interest_of, None, now_ms=now_ms)
        self._behind.update(server for server in {*interest, *self._asked} if lot_of(server) in lots)

    async def _catch_up(self) -> None:
        """Tell those who can be reached again what they have missed, and ask them what we have."""
        reachable = {server for server in self._behind if not self._queues.is_left_alone(server)}
        if reachable:
            self._behind -= reachable
            await self._tell_all(reachable)
            for server in sorted(reachable):
                await self._ask(list(self._asked.get(server, ())), anew=True)

    async def _send(self, server: str, key: str, items: Sequence[object]) -> None:
        for start in range(0, len(items), MOST_AT_ONCE):
            await self._queues.send_edu(server, EDU_TYPE, {key: list(items[start : start + MOST_AT_ONCE])})

    # Asking.

    def _on_lookers(self, news: LookersChanged) -> None:
        if not self._persons.keeps:
            return
        self._curious.difference_update(news.went)
        new = [user_id for user_id in news.came if user_id not in self._curious]
        self._curious.update(new)
        if new:
            run_in_background("poll-presence", self._ask_for_company, new)

    def _on_event(self, news: EventPersisted) -> None:
        if not self._persons.keeps:
            return
        newcomers = news.arrivals
        lookers = [user_id for user_id in newcomers if user_id in self._curious]
        if lookers and not self._persons.has_lookers(news.room_id, but=lookers):
            run_in_background("poll-presence", self._ask_in_room, news.room_id)
        others = [user_id for user_id in newcomers if ":" in user_id and not self._is_ours(user_id)]
        if others and self._persons.has_lookers(news.room_id):
            # Also those of whom we knew: their server has not told us of them in the meantime.
            run_in_background("poll-presence", self._ask, others, anew=True)

    def _on_list(self, news: ListChanged) -> None:
        if not self._persons.keeps:
            return
        if news.is_accepted and self._is_ours(news.observer) and not self._is_ours(news.observed):
            # The other server has only now become willing to tell.
            run_in_background("poll-presence", self._ask, [news.observed], anew=True)

    async def _ask_for_company(self, user_ids: Collection[str]) -> None:
        """Ask for all whom some of our users may see."""
        company = await self._database.read("presence-company", presence.company, user_ids, self._server_name)
        await self._ask(company)

    async def _ask_in_room(self, room_id: str) -> None:
        """Ask for all in a room that nobody of ours has looked into for a while."""
        others = await self._database.read("presence-in-room", presence.strangers_in, room_id, self._server_name)
        await self._ask(others, anew=True)

    async def _ask(self, user_ids: Iterable[str], *, anew: bool = False) -> None:
        """Ask for those for whom we have not asked lately.

        :param anew: also for those for whom we have.
        """
        now = self._clock.monotonic()
        wanted: defaultdict[str, list[str]] = defaultdict(list)
        left = MOST_ASKED - sum(map(len, self._asked.values()))
        for user_id in user_ids:
            server = domain_of(user_id)
            of_server = self._asked[server]
            asked = of_server.get(user_id)
            if asked is None:
                if left <= 0 or len(of_server) >= MOST_ASKED_OF_ONE_SERVER:
                    continue
                left -= 1
                of_server[user_id] = _Asked(now, now)
            elif anew:
                asked.at = now
                asked.wait = NO_ANSWER_SECONDS
            elif now - asked.at < asked.wait:
                continue
            else:
                asked.at = now
                asked.wait = min(2 * asked.wait, ASK_AGAIN_SECONDS)
            wanted[server].append(user_id)
        for server, users in wanted.items():
            await self._send(server, "poll", sorted(users))

    async def sweep(self) -> None:
        """Catch up with servers that can be reached again, ask again, and believe nobody who has long been silent."""
        if not self._persons.keeps:
            return
        await self._catch_up()
        now = self._clock.monotonic()
        if now - self._reviewed >= ASK_AGAIN_SECONDS:
            self._reviewed = now
            await self._review()
        for of_server in self._asked.values():
            for user_id, asked in of_server.items():
                if now - asked.heard >= SILENT_SECONDS:
                    self._lose(user_id)
        if self._curious:
            await self._ask([user_id for of_server in self._asked.values() for user_id in of_server])

    def _lose(self, user_id: str) -> None:
        """Take a user for offline of whom nothing is heard."""
        if self._is_there(user_id):
            self._keeper.heard(user_id, OFFLINE)

    async def _review(self) -> None:
        """Tell other servers whom we do not want to know of any more, and forget for whom interest has lapsed."""
        company = await self._database.read("presence-company", presence.company, self._curious, self._server_name)
        for server, of_server in list(self._asked.items()):
            ended = sorted(of_server.keys() - company)
            for user_id in ended:
                del of_server[user_id]
                self._lose(user_id)
            if not of_server:
                del self._asked[server]
            if ended:
                await self._send(server, "unpoll", ended)
        await self._database.write("presence-interest", presence.forget_interest, now_ms=self._clock.now_ms())

    # What other servers say.

    async def receive(self, origin: str, content: Mapping[str, Any]) -> None:
        """Another server tells of its users, and asks for ours."""
        for item in _list(content, "push"):
            self._hear(origin, item)
        polled, unpolled = self._own_users(content, "poll"), self._own_users(content, "unpoll")
        if unpolled:
            await self._database.write("presence-unpoll", presence.end_interest, origin, unpolled)
        if not polled:
            return
        # Nothing is written for a server that asks for what it may not know.
        allowed = await self._database.read("presence-may-know", presence.may_know, origin, polled)
        if allowed:
            until = self._clock.now_ms() + int(INTEREST_SECONDS * 1000)
            await self._database.write("presence-poll", presence.add_interest, origin, allowed, until=until)
            await self._push_to(origin, allowed)

    def _own_users(self, content: Mapping[str, Any], key: str) -> list[str]:
        """Those of our users whom a list names, whatever else stands in it."""
        found = set()
        for name in _list(content, key):
            if isinstance(name, str):
                with suppress(BadJson):
                    found.add(canonical_user_id(name))
        return sorted(user_id for user_id in found if self._is_ours(user_id))

    def _hear(self, origin: str, item: object) -> None:
        """Take over what a server says of one of its users, if we want to know."""
        if not isinstance(item, dict):
            return
        user_id, state = item.get("user_id"), item.get("presence")
        if not isinstance(user_id, str) or not isinstance(state, str) or state not in (*AVAILABILITY, HIDDEN):
            return
        # Only its own users are among these.
        asked = self._asked.get(origin, {}).get(user_id)
        if asked is None:
            return
        asked.heard = self._clock.monotonic()
        asked.wait = ASK_AGAIN_SECONDS
        if state == HIDDEN:
            # What else it says of somebody hidden is not to be seen, either.
            state, item = OFFLINE, {key: item[key] for key in SHOWN if key in item}
        self._keeper.heard(user_id, state, item)


def _list(content: Mapping[str, Any], key: str) -> list[Any]:
    found = content.get(key)
    return found[:MOST_NAMED] if isinstance(found, list) else []
