"""Who is there: what our users' devices and other servers say, told to those who may know (PRES-1, PRES-2, PRES-4).

In memory are the persons who are there, and those who went lately; what was told of each is in the tables. What changes
is collected: about once a second all who have changed are written in one transaction, and so told at most once a
second, however often they change. Sending a message only leaves a mark in memory.

Of several processes of the server one *keeps* presence: what devices do and other servers say comes to it
(`presence_input.py`), and it writes down what follows. The others learn of that as everybody's clients do, by its news.

Nothing is copied for each of those who may see a person. Those who look are woken by the rooms they are in
(`notifier.py`), and find what is new by walking back through the persons in the order of their changes, seeing
whether they may: they share a room, or are allowed to by a list (`presence_lists.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Any

from cachetools import LRUCache
from msgspec import Struct
from twisted.internet.defer import Deferred

from synapse_like.background import run_in_background
from synapse_like.clock import Clock
from synapse_like.federation.sharing import Shared
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.notifier import Notifier, Watcher
from synapse_like.handlers.presence_states import NO_DEVICE, Device, Person, Told, told_by
from synapse_like.handlers.streams import NO_ARRIVALS, Arrivals, Json, News, came
from synapse_like.protocol.errors import Forbidden, Unavailable
from synapse_like.protocol.identifiers import canonical_user_id
from synapse_like.protocol.membership import JOIN
from synapse_like.storage import presence, presence_lists, profiles
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import CommitInDoubt, Database, Transaction
from synapse_like.storage.events import EventPersisted
from synapse_like.storage.presence import PresenceRecorded, StoredPresence
from synapse_like.storage.presence_lists import ListChanged
from synapse_like.storage.profiles import Profile

#: How long a device is there without an event stream, in seconds.
CLOSED_SECONDS = 30.0
#: How often it is seen who has gone, in seconds.
SWEEP_SECONDS = 5.0
#: How often a person's changes are told at the most, in seconds.
TELL_SECONDS = 1.0
#: How often it is written down when those were active who are not there, in seconds.
MARK_SECONDS = 60.0
#: Persons that are remembered without being there.
MOST_REMEMBERED = 20_000
#: Users of whom it is remembered when their list changed last.
MOST_LIST_NEWS = 20_000
#: Rooms of which it is remembered that everybody in them is known.
MOST_LEARNED = 10_000


class LookersChanged(Struct, frozen=True):
    """News: users of this server have begun to look at others, or look no longer; whether others see that or not."""

    came: Sequence[str]
    went: Sequence[str]


class Presence:
    """Knows who is there. `start` once the database runs.

    :param position: of the stream of presence, when the server started.
    :ivar position: the newest one that everybody can read.
    :ivar keeps: whether this process keeps presence.
    :ivar is_telling: whether changes are being written at the moment.
    """

    def __init__(
        self, database: Database, notifier: Notifier, bus: Bus, clock: Clock, server_name: str, position: int
    ) -> None:
        self._database = database
        self._notifier = notifier
        self._bus = bus
        self._clock = clock
        self._suffix = f":{server_name}"
        self.position = self._started_at = self._log_since = position
        self.keeps = False
        #: What the keeper has recorded, and is not known here yet.
        self._unknown: list[PresenceRecorded] = []
        #: Who waits until nothing is unknown.
        self._to_settle: list[Deferred[None]] = []
        self._is_learning = False
        #: How often it was kept.
        self._terms = 0
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
        self._changed: dict[str, Person] = {}
        self._waiting: list[Deferred[None]] = []
        self.is_telling = False
        self._told_at = float("-inf")
        #: The devices without an event stream, and since when; who went first comes first.
        self._leaving: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._marks: dict[str, int] = {}
        self._marks_written = clock.monotonic()
        bus.subscribe(EventPersisted, self._on_event)
        bus.subscribe(PresenceRecorded, self._on_recorded)
        bus.subscribe(ListChanged, self._on_list)
        bus.subscribe(CommitInDoubt, self._on_doubt)

    async def start(self) -> None:
        """Learn who is there by what others were told."""
        rows = await self._database.read("presence-there", presence.there)
        persons = [self.person(row.user_id) for row in rows]
        await self._load([person for person in persons if not person.is_loaded])
        for person, row in zip(persons, rows, strict=True):
            if person.position <= row.position:
                self._show(person, told_by(row)._replace(profile=person.profile), row.position)

    async def keep(self) -> None:
        """From now on, keep presence. Take up those who were there before: they have a while to come back."""
        self.keeps = True
        self._terms = term = self._terms + 1
        self._unknown.clear()
        for known in self._persons.values():
            known.is_loaded = False
        there = await self._database.read("presence-there", presence.there)
        if not self.keeps or self._terms != term:
            # It was let go meanwhile, and whoever keeps it now writes down who is there.
            return
        for row in there:
            person = self._log[row.user_id] = self.person(row.user_id)
            person.position = max(person.position, row.position)
            if person.is_ours and not person.devices:
                person.devices[NO_DEVICE] = Device()
                person.choices[str(NO_DEVICE)] = row.state
                self._leaving[row.user_id, NO_DEVICE] = self._clock.monotonic()
            elif not person.is_ours and not person.is_loaded:
                person.state, person.status_msg, person.last_active = row.state, row.status_msg, row.last_active
            self.changed(person)

    def let_go(self) -> None:
        """Another process may keep presence now."""
        self.keeps = False
        self._leaving.clear()
        self._changed.clear()
        self._marks.clear()
        for person in self._persons.values():
            person.devices.clear()
            person.has_chosen = False
        waiting, self._waiting = self._waiting, []
        for written in waiting:
            if not written.called:
                written.errback(Unavailable("Presence cannot be set at the moment. Please try again."))

    # What our users do.

    def seen(self, user_id: str, token_id: int) -> None:
        """A device of a user is there, with another process."""
        person = self.person(user_id)
        device = person.devices.get(token_id)
        if device is None:
            device = person.devices[token_id] = Device()
            self.changed(person)
        if not device.streams:
            self._leaves(user_id, token_id)

    def opened(self, requester: Requester) -> None:
        """A device of a user follows the event stream."""
        person = self.person(requester.user_id)
        device = person.devices.get(requester.token_id)
        if device is None:
            device = person.devices[requester.token_id] = Device()
            self.changed(person)
        device.streams += 1
        self._leaving.pop((requester.user_id, requester.token_id), None)

    def closed(self, requester: Requester) -> None:
        """It does so no longer, or is about to ask again."""
        person = self.person(requester.user_id)
        device = person.devices.setdefault(requester.token_id, Device(1))
        device.streams -= 1
        if not device.streams:
            self._leaves(requester.user_id, requester.token_id)

    def _leaves(self, user_id: str, token_id: int) -> None:
        self._leaving[user_id, token_id] = self._clock.monotonic()
        self._leaving.move_to_end((user_id, token_id))

    async def choose(
        self,
        user_id: str,
        token_id: int,
        state: str,
        status_msg: str | None,
        *,
        idle_ms: int | None,
        device_type: str | None,
    ) -> None:
        """A user says what they want to be seen as. Returns when that is written down.

        :param token_id: the device that says so.
        :param idle_ms: for how long nobody has touched the device.
        """
        person = self.person(user_id)
        device = person.devices.setdefault(token_id, Device())
        device.kind = device_type
        device.is_idle = idle_ms is not None
        was_hidden = person.is_hidden
        # What they say now is newer than what they were before a restart.
        person.leave(NO_DEVICE)
        person.choose(token_id, state, status_msg)
        if idle_ms is not None:
            person.was_active(self._clock.now_ms() - idle_ms)
        elif was_hidden and not person.is_hidden:
            person.was_active(self._clock.now_ms())
        if not device.streams:
            self._leaves(user_id, token_id)
        written: Deferred[None] = Deferred()
        self._waiting.append(written)
        self.changed(person)
        await written

    async def sweep(self) -> None:
        """See who has gone, and write down when who sent something."""
        oldest = self._clock.monotonic() - CLOSED_SECONDS
        for (user_id, token_id), since in list(self._leaving.items()):
            if since > oldest:
                break
            del self._leaving[user_id, token_id]
            person = self.person(user_id)
            person.leave(token_id)
            self.changed(person)
        if self._marks and self._clock.monotonic() - self._marks_written >= MARK_SECONDS:
            marks, self._marks = self._marks, {}
            self._marks_written = self._clock.monotonic()
            await self._database.write("presence-marks", presence.were_active, marks)

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
        if news.room_id not in self._learned and any(user_id.endswith(self._suffix) for user_id in came(news)):
            run_in_background("presence-in-room", self._learn, [news.room_id])
        sender = news.about.sender
        if sender.endswith(self._suffix):
            self._sent_something(sender)

    def _sent_something(self, user_id: str) -> None:
        if not self.keeps:
            return
        person = self._persons.get(user_id)
        if person is None or not person.devices:
            self._marks[user_id] = self._clock.now_ms()
            return
        person.was_active(self._clock.now_ms())
        if person.was_silent:
            self.changed(person)

    def profile_changed(self, user_id: str, displayname: str | None, avatar_url: str | None) -> None:
        """A user has another name or picture (PROF-2)."""
        if not self.keeps and user_id not in self._persons:
            return
        person = self.person(user_id)
        shown = {"displayname": displayname, "avatar_url": avatar_url}
        person.profile = tuple((key, value) for key, value in shown.items() if value is not None)
        person.is_renamed = True
        self.changed(person)

    def heard(self, user_id: str, state: str, said: Mapping[str, Any] | None = None) -> None:
        """What another server says of one of its users.

        :param said: what else it says; nothing if it was only not heard of.
        """
        person = self.person(user_id)
        person.state = state
        if said is not None:
            person.hear(said, self._clock.now_ms())
        if not person.is_loaded or person.has_news:
            self.changed(person)

    def _on_doubt(self, _: CommitInDoubt) -> None:
        run_in_background("presence-after-doubt", self._look_again)

    async def _look_again(self) -> None:
        """Find out where the stream stands, when something may have been written that nobody was told of."""
        self.position = max(self.position, await self._database.read("presence-position", presence.current_position))
        self._started_at = self._log_since = self.position
        await self._look_who_sees_whom()

    async def _look_who_sees_whom(self) -> None:
        """Learn anew in which rooms everybody is, and who may see them by their lists."""
        waiting = {name: person for name, person in self._persons.items() if person.is_loaded or person.rooms}
        while waiting:
            for person in waiting.values():
                person.has_moved = False
            _, rooms, observers, _ = await self._database.read("presence-of", _facts, list(waiting))
            for user_id, person in list(waiting.items()):
                if person.has_moved:
                    continue
                del waiting[user_id]
                person.observers = observers[user_id]
                for room_id in person.rooms ^ rooms[user_id]:
                    self._moved(person, room_id, is_in=room_id in rooms[user_id])

    # Persons.

    def person(self, user_id: str) -> Person:
        """What is known of a person."""
        person = self._persons.get(user_id)
        if person is None:
            person = self._persons[user_id] = Person(user_id, user_id.endswith(self._suffix))
        return person

    def has_lookers(self, room_id: str, *, but: Collection[str] = ()) -> bool:
        """Whether a user of this server is in a room who looks at others.

        :param but: users that do not count.
        """
        present = self._by_room.get(room_id, ())
        return any(person.is_ours and person.devices and person.user_id not in but for person in present)

    def now_ms(self) -> int:
        """The time by which it is told how long ago something was."""
        return self._clock.now_ms()

    def known(self, user_id: str) -> Person | None:
        """The same, if there is anything in memory."""
        return self._persons.get(user_id)

    def _moved(self, person: Person, room_id: str, *, is_in: bool) -> None:
        person.has_moved = True
        if is_in:
            person.rooms.add(room_id)
            self._by_room.setdefault(room_id, set()).add(person)
        else:
            person.rooms.discard(room_id)
            self._leave_room(person, room_id)

    async def _learn(self, room_ids: Collection[str]) -> None:
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

    def _forget(self, person: Person) -> None:
        for room_id in person.rooms:
            self._leave_room(person, room_id)
        self._persons.pop(person.user_id, None)

    # Telling.

    def changed(self, person: Person) -> None:
        """A person may have changed: see soon whether anybody is to be told."""
        if not self.keeps:
            return
        if not self._changed and not self.is_telling:
            pause = self._told_at + TELL_SECONDS - self._clock.monotonic()
            self._clock.call_later(max(0, pause), self._begin_telling)
        self._changed[person.user_id] = person

    def _begin_telling(self) -> None:
        self.is_telling = True
        self._told_at = self._clock.monotonic()
        changed, self._changed = self._changed, {}
        waiting, self._waiting = self._waiting, []
        run_in_background("tell-presence", self._tell_in_turn, list(changed.values()), waiting)

    async def _tell_in_turn(self, persons: Sequence[Person], waiting: Sequence[Deferred[None]]) -> None:
        failure: Exception | None = None
        try:
            await self._tell(persons)
        except Exception as error:
            failure = error
            self._changed = {person.user_id: person for person in persons} | self._changed
        finally:
            self.is_telling = False
            again, self._changed = self._changed, {}
            for person in again.values():
                self.changed(person)
        for written in waiting:
            if not written.called and failure is None:
                written.callback(None)
            elif not written.called:
                written.errback(failure)
        if failure is not None:
            raise failure

    async def _tell(self, persons: Sequence[Person]) -> None:
        """Write down how it stands with some persons, and tell of those with whom it stands otherwise than was told."""
        await self._load([person for person in persons if not person.is_loaded])
        now_ms = self._clock.now_ms()
        changed, kept = [], []
        choosers = [person for person in persons if person.has_chosen]
        for person in persons:
            person.settle(now_ms)
            if person.has_news:
                person.telling = person.now()
                changed.append(person.row())
            elif person.has_chosen:
                kept.append(person.row())
            person.has_chosen = False
        if changed or kept:
            try:
                own_ids = [person.user_id for person in choosers]
                told = [self.person(row.user_id).telling for row in changed] if self._database.is_shared else ()
                await self._database.write("presence", presence.record, changed, kept, own_ids, told)
            except BaseException:
                for person in choosers:
                    person.has_chosen = True
                raise
        self._announce_lookers(persons)
        for person in persons:
            if not person.devices and person.user_id not in self._log and person.user_id not in self._changed:
                self._forget(person)
        self._trim()

    def _announce_lookers(self, persons: Sequence[Person]) -> None:
        came = [person.user_id for person in persons if person.devices and not person.is_looking]
        went = [person.user_id for person in persons if not person.devices and person.is_looking]
        for person in persons:
            person.is_looking = bool(person.devices)
        if came or went:
            self._bus.publish(LookersChanged(came, went))

    async def _load(self, persons: Sequence[Person]) -> None:
        waiting = {person.user_id: person for person in persons}
        while waiting:
            for person in waiting.values():
                person.has_moved = False
            rows, rooms, observers, names = await self._database.read("presence-of", _facts, list(waiting))
            for user_id, person in list(waiting.items()):
                if person.has_moved:
                    continue
                del waiting[user_id]
                person.adopt(rows.get(user_id))
                person.profile = person.profile or tuple(names[user_id].content().items())
                person.observers |= observers[user_id]
                for room_id in rooms[user_id]:
                    self._moved(person, room_id, is_in=True)

    def _trim(self) -> None:
        surplus = len(self._log) - MOST_REMEMBERED
        for person in list(self._log.values()) if surplus > 0 else ():
            if person.told.state != presence.OFFLINE or person.devices:
                continue
            del self._log[person.user_id]
            self._log_since = max(self._log_since, person.position)
            self._forget(person)
            surplus -= 1
            if surplus <= 0:
                break

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
                await self._load([person for person in persons if not person.is_loaded])
                rows = await self._database.read("presence-own", presence.of_users, news.own_ids)
            except Unavailable:
                await self._clock.sleep(TELL_SECONDS)
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
            self._trim()

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
                self._started_at = max(self._started_at, oldest)
            self._notifier.tell_presence((), [told], news.position)

    # The stream.

    def present(self) -> int:
        return self.position

    def may_have_news(self, watcher: Watcher, after: int) -> bool:
        newest = watcher.newest_presence
        return after < (self.position if newest is None else newest)

    async def news(self, watcher: Watcher, after: int, arrivals: Arrivals) -> tuple[int, Sequence[News]]:
        end = self.position
        if watcher.newest_presence is None:
            watcher.newest_presence = end
        user_id, now_ms = watcher.user_id, self._clock.now_ms()
        older: dict[str, Told] = {}
        looked_up_to = 0
        while 0 < after < self._log_since and looked_up_to < self._log_since:
            # Some may be forgotten while the tables are read.
            looked_up_to = self._log_since
            rows = await self._database.read("presence-since", presence.changed_between, user_id, after, looked_up_to)
            older = {row.user_id: told_by(row) for row in rows}
        if arrivals.entered:
            await self._learn(arrivals.entered)
        requests: Sequence[str] = ()
        allowed: Sequence[str] = ()
        if after < self._list_news.get(user_id, self._started_at):
            requests, allowed = await self._database.read("presence-lists-since", _list_news, user_id, after, end)
        found: dict[str, Person] = {}
        for person in self._since(after, end):
            if self._may_see(watcher, person) and (after or person.told.state != presence.OFFLINE):
                found[person.user_id] = person
        for person in self._newly_seen(watcher, arrivals, allowed):
            found.setdefault(person.user_id, person)
        ignored = watcher.ignored or frozenset()
        older = {name: told for name, told in older.items() if not self._is_remembered(name) and name not in ignored}
        events: list[News] = [invite_event(observer, user_id) for observer in requests if observer not in ignored]
        events += [told.event(name, now_ms) for name, told in older.items()]
        events += [person.event(now_ms) for name, person in found.items() if name not in older and name not in ignored]
        own = self._persons.get(user_id)
        if own is not None and own.own_position > after > 0:
            # What another device of the user has chosen.
            events.append(self._own_event(own))
        return end, events

    def _is_remembered(self, user_id: str) -> bool:
        """Whether it is known without the tables what others were told of a person."""
        person = self._log.get(user_id)
        return person is not None and person.is_loaded

    def _since(self, after: int, end: int) -> list[Person]:
        found = []
        for user_id in reversed(self._log):
            person = self._log[user_id]
            if person.position <= after:
                break
            if person.position <= end:
                found.append(person)
        found.reverse()
        return found

    def _own_event(self, person: Person) -> Json:
        content = {"user_id": person.user_id, **person.own_status(self._clock.now_ms()), **dict(person.profile)}
        return {"type": "m.presence", "content": content}

    def _newly_seen(self, watcher: Watcher, arrivals: Arrivals, allowed: Iterable[str]) -> list[Person]:
        """Those who are there, and whom a user may see only since lately."""
        found = [person for name in allowed if (person := self._persons.get(name)) is not None]
        for name, room_ids in arrivals.newcomers.items():
            person = self._persons.get(name)
            if person is not None and not self._may_see(watcher, person, but_for=room_ids):
                found.append(person)
        for room_id in arrivals.entered & watcher.rooms:
            present = self._by_room.get(room_id, ())
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
        person = self._persons.get(user_id)
        row, may_see = await self._database.read("presence-status", _status, requester.user_id, user_id)
        if not may_see:
            raise Forbidden("You may see the presence of those who share a room with you, or allow you to.")
        now_ms = self._clock.now_ms()
        if user_id == requester.user_id and person is not None and person.is_loaded:
            return person.own_status(now_ms)
        if user_id == requester.user_id and row is not None and row.is_hidden:
            return {**told_by(row).status(now_ms), "presence": "hidden"}
        return self.told(user_id, row).status(now_ms)

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

    async def everybody(self, requester: Requester) -> tuple[int, list[News]]:
        """Those who are there and whom a user may see, and what they are asked; and the position of that."""
        watcher = await self._notifier.watch(requester.user_id)
        position, events = await self.news(watcher, 0, NO_ARRIVALS)
        person = self._persons.get(requester.user_id)
        own = [self._own_event(person)] if person is not None and person.is_loaded and person.is_there else []
        return position, [*events, *own]

    async def of_room(self, requester: Requester, room_id: str) -> list[Json]:
        """What is known of those who are in a room, but for those whom the requester ignores."""
        watcher = await self._notifier.watch(requester.user_id)
        ignored = watcher.ignored or frozenset()
        rows = await self._database.read("presence-of-room", presence.of_members, room_id)
        now_ms = self._clock.now_ms()
        return [self.told(row.user_id, row).event(row.user_id, now_ms) for row in rows if row.user_id not in ignored]


def invite_event(observer: str, observed: str) -> Json:
    """A request to see somebody, as an event of the stream."""
    return {"type": "m.presence_invite", "content": {"observed_user": observed, "observer_user": observer}}


Facts = tuple[dict[str, StoredPresence], dict[str, set[str]], dict[str, set[str]], dict[str, Profile]]


def _facts(txn: Transaction, user_ids: Sequence[str]) -> Facts:
    return (
        presence.of_users(txn, user_ids),
        presence.rooms_of(txn, user_ids),
        presence.observers_of(txn, user_ids),
        profiles.of_users(txn, user_ids),
    )


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
