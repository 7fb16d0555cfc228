"""Presence across servers (PRES-5).

A server is told of those of our users for whom it has asked (`poll`), for as long as it may see them, and until its
interest lapses. In turn we ask for those whom our users who are there may see, and ask again before that. What
happens to all our users within a second goes to each server together.

What is said is worth nothing a minute later, so it is not stored. A server that could not be reached is told how it
stands once it can be; of one that is silent for too long, everybody is offline.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synapse_like.background import run_in_background
from synapse_like.clock import Clock
from synapse_like.federation.destinations import DestinationQueues
from synapse_like.handlers.presence import Presence
from synapse_like.handlers.presence_states import AVAILABILITY, HIDDEN
from synapse_like.protocol.identifiers import canonical_user_id, domain_of
from synapse_like.protocol.membership import JOIN
from synapse_like.storage import presence
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.events import EventPersisted
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
#: Users of other servers for whom we ask.
MOST_ASKED = 50_000
#: Users in one EDU.
MOST_AT_ONCE = 100
#: Users that one EDU may name; what is beyond is ignored.
MOST_NAMED = 1000


@dataclass(slots=True)
class _Asked:
    """A user of another server whom we want to know of; the times are those of the monotonic clock.

    :ivar at: when we asked last.
    :ivar heard: when we last heard of them, or began to ask.
    :ivar wait: how long to wait before we ask again.
    """

    at: float
    heard: float
    wait: float = NO_ANSWER_SECONDS


class PresenceFederation:
    """Tells other servers of our users, and asks them for theirs."""

    def __init__(
        self,
        database: Database,
        people: Presence,
        queues: DestinationQueues,
        bus: Bus,
        clock: Clock,
        server_name: str,
    ) -> None:
        self._database = database
        self._people = people
        self._queues = queues
        self._clock = clock
        self._server_name = server_name
        self._asked: dict[str, _Asked] = {}
        #: Our users who are there, for whom we have asked.
        self._curious: set[str] = set()
        self._missed: defaultdict[str, set[str]] = defaultdict(set)
        self._reviewed = clock.monotonic()
        bus.subscribe(PresenceRecorded, self._on_recorded)
        bus.subscribe(EventPersisted, self._on_event)
        bus.subscribe(ListChanged, self._on_list)

    async def start(self) -> None:
        """Ask how it stands now with those of whom we knew before this run."""
        now = self._clock.monotonic()
        there = await self._database.read("presence-there", presence.there)
        for row in there:
            if not self._is_ours(row.user_id):
                self._asked[row.user_id] = _Asked(float("-inf"), now)
        self._curious = {row.user_id for row in there if self._is_ours(row.user_id)}
        await self._ask_for_company(self._curious)

    def _is_ours(self, user_id: str) -> bool:
        return domain_of(user_id) == self._server_name

    # Telling.

    def _on_recorded(self, news: PresenceRecorded) -> None:
        ours = [user_id for user_id in news.user_ids if self._is_ours(user_id)]
        if not ours:
            return
        there = {user_id for user_id in ours if self._is_there(user_id)}
        came = there - self._curious
        self._curious = (self._curious - set(ours)) | there
        run_in_background("push-presence", self._push, ours)
        if came:
            run_in_background("poll-presence", self._ask_for_company, came)

    def _is_there(self, user_id: str) -> bool:
        person = self._people.known(user_id)
        return person is not None and person.told.state != OFFLINE

    async def _push(self, user_ids: Sequence[str]) -> None:
        now_ms = self._clock.now_ms()
        interested = await self._database.read("presence-interest", presence.interested, user_ids, now_ms=now_ms)
        for server, users in interested.items():
            await self._push_to(server, users)

    async def _push_to(self, server: str, user_ids: Sequence[str]) -> None:
        if self._queues.is_left_alone(server):
            self._missed[server].update(user_ids)
            return
        rows = await self._database.read("presence-of-users", presence.of_users, user_ids)
        now_ms = self._clock.now_ms()
        said = [self._people.told(name, rows.get(name)).event(name, now_ms)["content"] for name in user_ids]
        await self._send(server, "push", said)

    async def _send(self, server: str, key: str, items: Sequence[object]) -> None:
        for start in range(0, len(items), MOST_AT_ONCE):
            await self._queues.send_edu(server, EDU_TYPE, {key: list(items[start : start + MOST_AT_ONCE])})

    # Asking.

    def _on_event(self, news: EventPersisted) -> None:
        for user_id, membership in news.memberships.items():
            if membership != JOIN:
                continue
            if user_id in self._curious:
                run_in_background("poll-presence", self._ask_for_company, [user_id])
            elif ":" in user_id and not self._is_ours(user_id) and self._people.has_own_there(news.room_id):
                run_in_background("poll-presence", self._ask, [user_id])

    def _on_list(self, news: ListChanged) -> None:
        if news.is_accepted and self._is_ours(news.observer) and not self._is_ours(news.observed):
            # The other server has only now become willing to tell.
            self._asked.pop(news.observed, None)
            run_in_background("poll-presence", self._ask, [news.observed])

    async def _ask_for_company(self, user_ids: Collection[str]) -> None:
        """Ask for all whom some of our users may see."""
        company = await self._database.read("presence-company", presence.company, user_ids, self._server_name)
        await self._ask(company)

    async def _ask(self, user_ids: Iterable[str]) -> None:
        """Ask for those for whom we have not asked lately."""
        now = self._clock.monotonic()
        wanted: defaultdict[str, list[str]] = defaultdict(list)
        for user_id in user_ids:
            asked = self._asked.get(user_id)
            if asked is not None and now - asked.at < asked.wait:
                continue
            if asked is None and len(self._asked) >= MOST_ASKED:
                break
            if asked is None:
                self._asked[user_id] = _Asked(now, now)
            else:
                asked.at = now
                asked.wait = min(2 * asked.wait, ASK_AGAIN_SECONDS)
            wanted[domain_of(user_id)].append(user_id)
        for server, users in wanted.items():
            await self._send(server, "poll", sorted(users))

    async def sweep(self) -> None:
        """Catch up with servers that can be reached again, ask again, and believe nobody who has long been silent."""
        missed, self._missed = self._missed, defaultdict(set)
        for server, users in missed.items():
            await self._push_to(server, sorted(users))
        now = self._clock.monotonic()
        if now - self._reviewed >= ASK_AGAIN_SECONDS:
            self._reviewed = now
            await self._review()
        for user_id, asked in self._asked.items():
            if now - asked.heard >= SILENT_SECONDS:
                self._lose(user_id)
        if self._curious:
            await self._ask(list(self._asked))

    def _lose(self, user_id: str) -> None:
        """Take a user for offline of whom nothing is heard."""
        if self._is_there(user_id):
            self._people.heard(user_id, OFFLINE)

    async def _review(self) -> None:
        """Tell other servers whom we do not want to know of any more, and forget for whom interest has lapsed."""
        company = await self._database.read("presence-company", presence.company, self._curious, self._server_name)
        ended: defaultdict[str, list[str]] = defaultdict(list)
        for user_id in self._asked.keys() - company:
            del self._asked[user_id]
            self._lose(user_id)
            ended[domain_of(user_id)].append(user_id)
        for server, users in ended.items():
            await self._send(server, "unpoll", sorted(users))
        await self._database.write("presence-interest", presence.forget_interest, now_ms=self._clock.now_ms())

    # What other servers say.

    async def receive(self, origin: str, content: Mapping[str, Any]) -> None:
        """Another server tells of its users, and asks for ours."""
        for item in _list(content, "push"):
            self._hear(origin, item)
        polled, unpolled = self._own_users(content, "poll"), self._own_users(content, "unpoll")
        if unpolled:
            await self._database.write("presence-unpoll", presence.end_interest, origin, unpolled)
        if polled:
            now_ms = self._clock.now_ms()
            until = now_ms + int(INTEREST_SECONDS * 1000)
            allowed = await self._database.write(
                "presence-poll", presence.add_interest, origin, polled, now_ms=now_ms, until=until
            )
            await self._push_to(origin, allowed)

    def _own_users(self, content: Mapping[str, Any], key: str) -> list[str]:
        named = [name for name in _list(content, key) if isinstance(name, str) and name.count(":") and len(name) <= 255]
        return sorted({canonical_user_id(name) for name in named if self._is_ours(name) and name.startswith("@")})

    def _hear(self, origin: str, item: object) -> None:
        """Take over what a server says of one of its users, if we want to know."""
        if not isinstance(item, dict):
            return
        user_id, state = item.get("user_id"), item.get("presence")
        if not isinstance(user_id, str) or not isinstance(state, str) or user_id not in self._asked:
            return
        if domain_of(user_id) != origin or (state not in AVAILABILITY and state != HIDDEN):
            return
        asked = self._asked[user_id]
        asked.heard = self._clock.monotonic()
        asked.wait = ASK_AGAIN_SECONDS
        self._people.heard(user_id, OFFLINE if state == HIDDEN else state, item)


def _list(content: Mapping[str, Any], key: str) -> list[Any]:
    found = content.get(key)
    return found[:MOST_NAMED] if isinstance(found, list) else []
