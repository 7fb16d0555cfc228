"""The persons of whose presence something is known: who is there, and who went lately (PRES-1, PRES-4).

They are in memory, in the order in which others were told of them last; what was told of each is in the tables. With
each is known who may see them: in which rooms they are, and who is allowed to by a list (`presence_lists.py`).

Every process of the server knows them. What is told, the one that keeps presence says (`presence_keeping.py`); the
others learn it by the news that it was recorded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence

from cachetools import LRUCache
from twisted.internet.defer import Deferred

from synapse_like.background import run_in_background
from synapse_like.clock import Clock
from synapse_like.federation.sharing import Shared
from synapse_like.handlers.notifier import Notifier
from synapse_like.handlers.presence_states import Person, Told, told_by
from synapse_like.protocol.errors import Unavailable
from synapse_like.protocol.membership import JOIN
from synapse_like.storage import presence, profiles
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.event_news import EventPersisted
from synapse_like.storage.news import CommitInDoubt
from synapse_like.storage.presence import PresenceRecorded, StoredPresence
from synapse_like.storage.presence_lists import ListChanged
from synapse_like.storage.profiles import Profile
from synapse_like.storage.transactions import Transaction

#: Persons that are remembered without being there.
MOST_REMEMBERED = 20_000
#: Users of whom it is remembered when their list changed last.
MOST_LIST_NEWS = 20_000
#: Rooms of which it is remembered that everybody in them is known.
MOST_LEARNED = 10_000
#: How long to wait when the database fails, in seconds.
DATABASE_PAUSE_SECONDS = 1.0


class Persons:
    """All of them. `start` once the database runs.

    :param position: of the stream of presence, when the server started.
    :ivar position: the newest one that everybody can read.
    :ivar log_since: from which position on it is known without the tables whom others were told of.
    :ivar keeps: whether this process keeps presence.
    """

    def __init__(
        self, database: Database, notifier: Notifier, bus: Bus, clock: Clock, server_name: str, position: int
    ) -> None:
        self._database = database
        self._notifier = notifier
        self._clock = clock
        self._suffix = f":{server_name}"
        self.position = self.log_since = self._lists_since = position
        self.keeps = False
        #: What the keeper has recorded, and is not known here yet.
        self._unknown: list[PresenceRecorded] = []
        #: Who waits until nothing is unknown.
        self._to_settle: list[Deferred[None]] = []
        self._is_learning = False
        self._persons: dict[str, Person] = {}
        #: Those that others were told of, in that order.
        self._log: OrderedDict[str, Person] = OrderedDict()
        self._by_room: dict[str, set[Person]] = {}
        #: The rooms whose members are all known: a user of ours was in them ever since it was seen who they are.
        self._learned: LRUCache[str, bool] = LRUCache(MOST_LEARNED)
        self._learning = Shared(self._read_guests)
        #: Who came into rooms or went while it was read who is in them.
        self._moving: dict[str, set[str]] = {}
        #: Those of our users whose list has changed, in the order of the last change, and where that was.
        self._list_news: OrderedDict[str, int] = OrderedDict()
        bus.subscribe(EventPersisted, self._on_event)
        bus.subscribe(PresenceRecorded, self._on_recorded)
        bus.subscribe(ListChanged, self._on_list)
        bus.subscribe(CommitInDoubt, self._on_doubt)

    async def start(self) -> None:
        """Learn who is there by what others were told."""
        rows = await self._database.read("presence-there", presence.there)
        persons = [self.person(row.user_id) for row in rows]
        await self.load([person for person in persons if not person.is_loaded])
        for person, row in zip(persons, rows, strict=True):
            if person.position <= row.position:
                self._show(person, told_by(row)._replace(profile=person.profile), row.position)

    def begin_to_keep(self) -> None:
        """This process keeps presence from now on: what it knew by another's news, it has to read again."""
        self.keeps = True
        self._unknown.clear()
        for person in self._persons.values():
            person.is_loaded = False

    # Who they are.

    def __iter__(self) -> Iterator[Person]:
        return iter(self._persons.values())

    def person(self, user_id: str) -> Person:
        """What is known of a person, who is remembered from now on."""
        person = self._persons.get(user_id)
        if person is None:
            person = self._persons[user_id] = Person(user_id, user_id.endswith(self._suffix))
        return person

    def known(self, user_id: str) -> Person | None:
        """What is known of a person, if there is anything in memory."""
        return self._persons.get(user_id)

    def is_remembered(self, user_id: str) -> bool:
        """Whether it is known without the tables what others were told of a person."""
        person = self._log.get(user_id)
        return person is not None and person.is_loaded

    def since(self, after: int, end: int) -> list[Person]:
        """Those that others were told of after a position, up to another, in that order."""
        found = []
        for user_id in reversed(self._log):
            person = self._log[user_id]
            if person.position <= after:
                break
            if person.position <= end:
                found.append(person)
        found.reverse()
        return found

    def in_room(self, room_id: str) -> Collection[Person]:
        """Those who are in a room."""
        return self._by_room.get(room_id, ())

    def has_lookers(self, room_id: str, *, but: Collection[str] = ()) -> bool:
        """Whether a user of this server is in a room who looks at others.

        :param but: users that do not count.
        """
        return any(person.is_ours and person.devices and person.user_id not in but for person in self.in_room(room_id))

    def list_changed(self, user_id: str) -> int:
        """The position since which nobody has let a user see them by a list, or asked the user for that."""
        return self._list_news.get(user_id, self._lists_since)

    def told(self, user_id: str, row: StoredPresence | None) -> Told:
        """What others see of a person.

        :param row: what the tables say, if the person is not in memory, or if they know more.
        """
        person = self._persons.get(user_id)
        if person is None or not person.is_loaded:
            return told_by(row)
        if row is not None and row.position > person.position and not self.keeps:
            # The keeper has written down what is still to be learned here.
            return told_by(row)._replace(profile=person.profile)
        return person.told

    def now_ms(self) -> int:
        """The time by which it is told how long ago something was."""
        return self._clock.now_ms()

    # Where they are.

    def _on_event(self, news: EventPersisted) -> None:
        for user_id, membership in news.memberships.items():
            person = self._persons.get(user_id)
            if person is not None:
                self._moved(person, news.room_id, is_in=membership == JOIN)
            if news.room_id in self._moving:
                self._moving[news.room_id].add(user_id)
            if membership != JOIN and user_id.endswith(self._suffix):
                # They may have been the last of ours there, and then nothing is heard of the room any more.
                self._learned.pop(news.room_id, None)
        if news.room_id not in self._learned and any(user_id.endswith(self._suffix) for user_id in news.arrivals):
            run_in_background("presence-in-room", self.learn_rooms, [news.room_id])

    def _moved(self, person: Person, room_id: str, *, is_in: bool) -> None:
        person.has_moved = True
        if is_in:
            person.rooms.add(room_id)
            self._by_room.setdefault(room_id, set()).add(person)
        else:
            person.rooms.discard(room_id)
            self._leave_room(person, room_id)

    async def learn_rooms(self, room_ids: Collection[str]) -> None:
        """See who is in rooms that this server may only now have come into: others were there before."""
        for room_id in room_ids:
            if room_id not in self._learned:
                await self._learning.get(room_id)

    async def _read_guests(self, room_id: str) -> None:
        moving = self._moving[room_id] = set()
        try:
            guests = await self._database.read("presence-guests", presence.guests, room_id)
        finally:
            del self._moving[room_id]
        for user_id in guests:
            person = self._persons.get(user_id)
            if person is not None and user_id not in moving:
                self._moved(person, room_id, is_in=True)
        if not any(user_id.endswith(self._suffix) for user_id in moving):
            self._learned[room_id] = True

    def _leave_room(self, person: Person, room_id: str) -> None:
        present = self._by_room.get(room_id)
        if present is not None:
            present.discard(person)
            if not present:
                del self._by_room[room_id]

    # What is known of each.

    async def load(self, persons: Iterable[Person]) -> None:
        """Read what the tables say of some persons, and who may see them."""
        async for person, (rows, rooms, observers, names) in self._facts_of(persons):
            user_id = person.user_id
            person.adopt(rows.get(user_id))
            person.profile = person.profile or tuple(names[user_id].content().items())
            person.observers |= observers[user_id]
            for room_id in rooms[user_id]:
                self._moved(person, room_id, is_in=True)

    async def _facts_of(self, persons: Iterable[Person]) -> AsyncIterator[tuple[Person, Facts]]:
        """What the tables say of each of some persons; read once more of those who have moved meanwhile."""
        waiting = {person.user_id: person for person in persons}
        while waiting:
            for person in waiting.values():
                person.has_moved = False
            facts = await self._database.read("presence-of", _facts, list(waiting))
            for user_id, person in list(waiting.items()):
                if not person.has_moved:
                    del waiting[user_id]
                    yield person, facts

    def take_up(self, row: StoredPresence) -> Person:
        """Somebody is there, as the tables say: others were told so before."""
        person = self._log[row.user_id] = self.person(row.user_id)
        person.position = max(person.position, row.position)
        return person

    def tidy(self, persons: Iterable[Person] = ()) -> None:
        """If there are too many, forget those who went first.

        :param persons: those who are forgotten anyhow, if others were told nothing of them.
        """
        for person in persons:
            if person.user_id not in self._log:
                self._forget(person)
        surplus = len(self._log) - MOST_REMEMBERED
        for person in list(self._log.values()) if surplus > 0 else ():
            if person.told.state != presence.OFFLINE or person.devices:
                continue
            del self._log[person.user_id]
            self.log_since = max(self.log_since, person.position)
            self._forget(person)
            surplus -= 1
            if surplus <= 0:
                break

    def _forget(self, person: Person) -> None:
        for room_id in person.rooms:
            self._leave_room(person, room_id)
        self._persons.pop(person.user_id, None)

    # What others are told.

    def _on_recorded(self, news: PresenceRecorded) -> None:
        if not self.keeps:
            self._unknown.append(news)
            if len(self._unknown) == 1:
                run_in_background("learn-presence", self._learn_recorded)
            return
        self.position = news.position
        for user_id in news.user_ids:
            person = self.person(user_id)
            person.is_renamed = False
            self._show(person, person.telling, news.position)
        for user_id in news.own_ids:
            self._show_own(self.person(user_id), news.position)

    def _show(self, person: Person, told: Told, position: int) -> None:
        """Others are told of a person, from a position on."""
        person.position = position
        person.told = told
        self._log[person.user_id] = person
        self._log.move_to_end(person.user_id)
        self._notifier.tell_presence(person.rooms, person.observers, position)

    def _show_own(self, person: Person, position: int) -> None:
        person.own_position = position
        self._notifier.tell_presence((), [person.user_id], position)

    async def settled(self) -> None:
        """Wait until all that the keeper has recorded until now is known here."""
        while self._unknown and self._is_learning:
            learned: Deferred[None] = Deferred()
            self._to_settle.append(learned)
            await learned

    async def _learn_recorded(self) -> None:
        """Take over what the keeper has recorded, in its order."""
        self._is_learning = True
        try:
            await self._learn_all()
        finally:
            self._is_learning = False
            waiting, self._to_settle = self._to_settle, []
            for learned in waiting:
                if not learned.called:
                    learned.callback(None)

    async def _learn_all(self) -> None:
        while self._unknown:
            news = self._unknown[0]
            try:
                persons = [self.person(user_id) for user_id in news.user_ids]
                await self.load([person for person in persons if not person.is_loaded])
                rows = await self._database.read("presence-own", presence.of_users, news.own_ids)
            except Unavailable:
                await self._clock.sleep(DATABASE_PAUSE_SECONDS)
                continue
            if not self._unknown or self._unknown[0] is not news:
                return
            self._unknown.pop(0)
            self.position = max(self.position, news.position)
            for person, written in zip(persons, news.told, strict=True):
                told = Told._make([*written[:-1], tuple((key, value) for key, value in written[-1])])
                person.profile = told.profile
                person.state, person.status_msg, person.kind, person.last_active, _ = told
                self._show(person, told, news.position)
            for user_id, row in rows.items():
                person = self.person(user_id)
                person.state, person.status_msg, person.is_hidden = row.state, row.status_msg, row.is_hidden
                self._show_own(person, news.position)
            self.tidy()

    def _on_list(self, news: ListChanged) -> None:
        self.position = max(self.position, news.position)
        person = self._persons.get(news.observed)
        if person is not None:
            person.has_moved = True
            if news.is_accepted:
                person.observers.add(news.observer)
            else:
                person.observers.discard(news.observer)
        told = news.observer if news.is_accepted else news.observed
        if news.is_accepted is not None and told.endswith(self._suffix):
            self._list_news[told] = news.position
            self._list_news.move_to_end(told)
            if len(self._list_news) > MOST_LIST_NEWS:
                _, oldest = self._list_news.popitem(last=False)
                self._lists_since = max(self._lists_since, oldest)
            self._notifier.tell_presence((), [told], news.position)

    def _on_doubt(self, _: CommitInDoubt) -> None:
        run_in_background("presence-after-doubt", self._look_again)

    async def _look_again(self) -> None:
        """Find out where the stream stands, when something may have been written that nobody was told of."""
        self.position = max(self.position, await self._database.read("presence-position", presence.current_position))
        self._lists_since = self.log_since = self.position
        await self._look_who_sees_whom()

    async def _look_who_sees_whom(self) -> None:
        """Learn anew in which rooms everybody is, and who may see them by their lists."""
        known = [person for person in self._persons.values() if person.is_loaded or person.rooms]
        async for person, (_, rooms, observers, _) in self._facts_of(known):
            person.observers = observers[person.user_id]
            for room_id in person.rooms ^ rooms[person.user_id]:
                self._moved(person, room_id, is_in=room_id in rooms[person.user_id])


Facts = tuple[dict[str, StoredPresence], dict[str, set[str]], dict[str, set[str]], dict[str, Profile]]


def _facts(txn: Transaction, user_ids: Sequence[str]) -> Facts:
    return (
        presence.of_users(txn, user_ids),
        presence.rooms_of(txn, user_ids),
        presence.observers_of(txn, user_ids),
        profiles.of_users(txn, user_ids),
    )
