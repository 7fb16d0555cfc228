"""Who is there, as others see it: the stream of presence, and what clients ask for (PRES-1, PRES-4).

Nothing is copied for each of those who may see a person. Those who look are woken by the rooms they are in
(`notifier.py`), and find what is new by walking back through the persons in the order of their changes
(`presence_persons.py`), seeing whether they may: they share a room, or are allowed to by a list (`presence_lists.py`).
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence, Set
from typing import Any

from synapse_like.clock import Clock
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.notifier import Notifier, Watcher
from synapse_like.handlers.presence_persons import Persons
from synapse_like.handlers.presence_states import Person, Told, told_by
from synapse_like.handlers.streams import NO_ARRIVALS, Arrivals, Json, News
from synapse_like.protocol.errors import Forbidden
from synapse_like.protocol.identifiers import canonical_user_id
from synapse_like.storage import presence, presence_lists
from synapse_like.storage.database import Database
from synapse_like.storage.presence import StoredPresence
from synapse_like.storage.transactions import Transaction


class Presence:
    """What those see who look."""

    def __init__(self, database: Database, persons: Persons, notifier: Notifier, clock: Clock) -> None:
        self._database = database
        self._persons = persons
        self._notifier = notifier
        self._clock = clock

    # The stream.

    def present(self) -> int:
        return self._persons.position

    def settled(self) -> Coroutine[Any, Any, None]:
        return self._persons.settled()

    def may_have_news(self, watcher: Watcher, after: int) -> bool:
        newest = watcher.newest_presence
        return after < (self._persons.position if newest is None else newest)

    async def news(self, watcher: Watcher, after: int, arrivals: Arrivals) -> tuple[int, Sequence[News]]:
        persons = self._persons
        end = persons.position
        if watcher.newest_presence is None:
            watcher.newest_presence = end
        user_id, now_ms = watcher.user_id, self._clock.now_ms()
        older: dict[str, Told] = {}
        looked_up_to = 0
        while 0 < after < persons.log_since and looked_up_to < persons.log_since:
            # Some may be forgotten while the tables are read.
            looked_up_to = persons.log_since
            rows = await self._database.read("presence-since", presence.changed_between, user_id, after, looked_up_to)
            older = {row.user_id: told_by(row) for row in rows}
        if arrivals.entered:
            await persons.learn_rooms(arrivals.entered)
        requests: Sequence[str] = ()
        allowed: Sequence[str] = ()
        if after < persons.list_changed(user_id):
            requests, allowed = await self._database.read("presence-lists-since", _list_news, user_id, after, end)
        found: dict[str, Person] = {}
        for person in persons.since(after, end):
            if self._may_see(watcher, person) and (after or person.told.state != presence.OFFLINE):
                found[person.user_id] = person
        for person in self._newly_seen(watcher, arrivals, allowed):
            found.setdefault(person.user_id, person)
        ignored = watcher.ignored or frozenset()
        older = {name: told for name, told in older.items() if not persons.is_remembered(name) and name not in ignored}
        events: list[News] = [invite_event(observer, user_id) for observer in requests if observer not in ignored]
        events += [told.event(name, now_ms) for name, told in older.items()]
        events += [person.event(now_ms) for name, person in found.items() if name not in older and name not in ignored]
        own = persons.known(user_id)
        if own is not None and own.own_position > after > 0:
            # What another device of the user has chosen.
            events.append(self._own_event(own))
        return end, events

    def _own_event(self, person: Person) -> Json:
        content = {"user_id": person.user_id, **person.own_status(self._clock.now_ms()), **dict(person.profile)}
        return {"type": "m.presence", "content": content}

    def _newly_seen(self, watcher: Watcher, arrivals: Arrivals, allowed: Iterable[str]) -> list[Person]:
        """Those who are there, and whom a user may see only since lately."""
        found = [person for name in allowed if (person := self._persons.known(name)) is not None]
        for name, room_ids in arrivals.newcomers.items():
            person = self._persons.known(name)
            if person is not None and not self._may_see(watcher, person, but_for=room_ids):
                found.append(person)
        for room_id in arrivals.entered & watcher.rooms:
            present = self._persons.in_room(room_id)
            found += [one for one in present if not self._may_see(watcher, one, but_for=arrivals.entered)]
        return [person for person in found if person.told.state != presence.OFFLINE and self._may_see(watcher, person)]

    def _may_see(self, watcher: Watcher, person: Person, but_for: Set[str] = frozenset()) -> bool:
        if person.user_id == watcher.user_id:
            return False
        if watcher.user_id in person.observers:
            return True
        if not but_for:
            return not watcher.rooms.isdisjoint(person.rooms)
        return bool((watcher.rooms & person.rooms) - but_for)

    # What clients ask for.

    async def status(self, requester: Requester, user_id: str) -> Json:
        """The presence of a user.

        :raises Forbidden: the requester may not see it.
        """
        user_id = canonical_user_id(user_id)
        person = self._persons.known(user_id)
        row, may_see = await self._database.read("presence-status", _status, requester.user_id, user_id)
        if not may_see:
            raise Forbidden("You may see the presence of those who share a room with you, or allow you to.")
        now_ms = self._clock.now_ms()
        if user_id == requester.user_id and person is not None and person.is_loaded:
            return person.own_status(now_ms)
        if user_id == requester.user_id and row is not None and row.is_hidden:
            return {**told_by(row).status(now_ms), "presence": "hidden"}
        return self._persons.told(user_id, row).status(now_ms)

    async def everybody(self, requester: Requester) -> tuple[int, list[News]]:
        """Those who are there and whom a user may see, and what they are asked; and the position of that."""
        watcher = await self._notifier.watch(requester.user_id)
        position, events = await self.news(watcher, 0, NO_ARRIVALS)
        person = self._persons.known(requester.user_id)
        own = [self._own_event(person)] if person is not None and person.is_loaded and person.is_there else []
        return position, [*events, *own]

    async def of_room(self, requester: Requester, room_id: str) -> list[Json]:
        """What is known of those who are in a room, but for those whom the requester ignores."""
        watcher = await self._notifier.watch(requester.user_id)
        ignored = watcher.ignored or frozenset()
        rows = await self._database.read("presence-of-room", presence.of_members, room_id)
        now_ms, told = self._clock.now_ms(), self._persons.told
        return [told(row.user_id, row).event(row.user_id, now_ms) for row in rows if row.user_id not in ignored]


def invite_event(observer: str, observed: str) -> Json:
    """A request to see somebody, as an event of the stream."""
    return {"type": "m.presence_invite", "content": {"observed_user": observed, "observer_user": observer}}


def _list_news(txn: Transaction, user_id: str, after: int, up_to: int) -> tuple[list[str], list[str]]:
    return (
        presence_lists.requests_to(txn, user_id, after=after, up_to=up_to),
        presence_lists.accepted_for(txn, user_id, after=after, up_to=up_to),
    )


def _status(txn: Transaction, observer: str, observed: str) -> tuple[StoredPresence | None, bool]:
    may_see = observer == observed or may_be_seen(txn, observed, by=observer)
    return presence.of_users(txn, [observed]).get(observed), may_see


def may_be_seen(txn: Transaction, observed: str, *, by: str) -> bool:
    """Whether one user may see the presence of another (PRES-4)."""
    entry = presence_lists.find(txn, by, observed)
    return (entry is not None and entry.is_accepted) or presence.share_a_room(txn, by, observed)
