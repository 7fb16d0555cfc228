"""Keeping presence: what devices, users and other servers say becomes what others are told (PRES-1, PRES-2).

What changes is collected: about once a second all who have changed are written in one transaction, and so told at most
once a second, however often they change. Sending a message only leaves a mark in memory.

Of several processes of the server one *keeps* presence: what devices do and other servers say comes to it
(`presence_input.py`), and it writes down what follows. The others learn that by its news (`presence_persons.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred

from synapse_like.background import run_in_background
from synapse_like.clock import Clock
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.presence_persons import Persons
from synapse_like.handlers.presence_states import NO_DEVICE, Device, Person
from synapse_like.protocol.errors import Unavailable
from synapse_like.storage import presence
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.event_news import EventPersisted

#: How long a device is there without an event stream, in seconds.
CLOSED_SECONDS = 30.0
#: How often it is seen who has gone, in seconds.
SWEEP_SECONDS = 5.0
#: How often a person's changes are told at the most, in seconds.
TELL_SECONDS = 1.0
#: How often it is written down when those were active who are not there, in seconds.
MARK_SECONDS = 60.0


class LookersChanged(Struct, frozen=True):
    """News: users of this server have begun to look at others, or look no longer; whether others see that or not."""

    came: Sequence[str]
    went: Sequence[str]


class PresenceKeeper:
    """Keeps presence, from `keep` on until `let_go`.

    :ivar is_telling: whether changes are being written at the moment.
    """

    def __init__(self, database: Database, persons: Persons, bus: Bus, clock: Clock, server_name: str) -> None:
        self._database = database
        self._persons = persons
        self._bus = bus
        self._clock = clock
        self._suffix = f":{server_name}"
        #: How often it was kept.
        self._terms = 0
        self._changed: dict[str, Person] = {}
        self._waiting: list[Deferred[None]] = []
        self.is_telling = False
        self._told_at = float("-inf")
        #: The devices without an event stream, and since when; who went first comes first.
        self._leaving: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._marks: dict[str, int] = {}
        self._marks_written = clock.monotonic()
        bus.subscribe(EventPersisted, self._on_event)

    async def keep(self) -> None:
        """From now on, keep presence. Take up those who were there before: they have a while to come back."""
        self._terms = term = self._terms + 1
        self._persons.begin_to_keep()
        there = await self._database.read("presence-there", presence.there)
        if not self._persons.keeps or self._terms != term:
            # It was let go meanwhile, and whoever keeps it now writes down who is there.
            return
        for row in there:
            person = self._persons.take_up(row)
            if person.is_ours and not person.devices:
                person.devices[NO_DEVICE] = Device()
                person.choices[str(NO_DEVICE)] = row.state
                self._leaving[row.user_id, NO_DEVICE] = self._clock.monotonic()
            elif not person.is_ours and not person.is_loaded:
                person.state, person.status_msg, person.last_active = row.state, row.status_msg, row.last_active
            self.changed(person)

    def let_go(self) -> None:
        """Another process may keep presence now."""
        self._persons.keeps = False
        self._leaving.clear()
        self._changed.clear()
        self._marks.clear()
        for person in self._persons:
            person.devices.clear()
            person.has_chosen = False
        waiting, self._waiting = self._waiting, []
        for written in waiting:
            if not written.called:
                written.errback(Unavailable("Presence cannot be set at the moment. Please try again."))

    # What our users do.

    def seen(self, user_id: str, token_id: int) -> None:
        """A device of a user follows the event stream with another process."""
        person = self._persons.person(user_id)
        device = person.devices.get(token_id)
        if device is None:
            device = person.devices[token_id] = Device()
            self.changed(person)
        if not device.streams:
            self._leaves(user_id, token_id)

    def opened(self, requester: Requester) -> None:
        """A device of a user follows the event stream."""
        person = self._persons.person(requester.user_id)
        device = person.devices.get(requester.token_id)
        if device is None:
            device = person.devices[requester.token_id] = Device()
            self.changed(person)
        device.streams += 1
        self._leaving.pop((requester.user_id, requester.token_id), None)

    def closed(self, requester: Requester) -> None:
        """It does not any more, or is about to ask again."""
        person = self._persons.person(requester.user_id)
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
        person = self._persons.person(user_id)
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
            person = self._persons.person(user_id)
            person.leave(token_id)
            self.changed(person)
        if self._marks and self._clock.monotonic() - self._marks_written >= MARK_SECONDS:
            marks, self._marks = self._marks, {}
            self._marks_written = self._clock.monotonic()
            await self._database.write("presence-marks", presence.were_active, marks)

    def _on_event(self, news: EventPersisted) -> None:
        sender = news.about.sender
        if self._persons.keeps and sender.endswith(self._suffix):
            self._sent_something(sender)

    def _sent_something(self, user_id: str) -> None:
        person = self._persons.known(user_id)
        if person is None or not person.devices:
            self._marks[user_id] = self._clock.now_ms()
            return
        person.was_active(self._clock.now_ms())
        if person.was_silent:
            self.changed(person)

    def profile_changed(self, user_id: str, displayname: str | None, avatar_url: str | None) -> None:
        """A user has another name or picture (PROF-2)."""
        if not self._persons.keeps and self._persons.known(user_id) is None:
            return
        person = self._persons.person(user_id)
        shown = {"displayname": displayname, "avatar_url": avatar_url}
        person.profile = tuple((key, value) for key, value in shown.items() if value is not None)
        person.is_renamed = True
        self.changed(person)

    # What other servers say.

    def heard(self, user_id: str, state: str, said: Mapping[str, Any] | None = None) -> None:
        """What another server says of one of its users.

        :param said: what else it says; nothing if it was only not heard of.
        """
        person = self._persons.person(user_id)
        person.state = state
        if said is not None:
            person.hear(said, self._clock.now_ms())
        if not person.is_loaded or person.has_news:
            self.changed(person)

    # Telling.

    def changed(self, person: Person) -> None:
        """A person may have changed: see soon whether anybody is to be told."""
        if not self._persons.keeps:
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
        await self._persons.load([person for person in persons if not person.is_loaded])
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
                told = (
                    [self._persons.person(row.user_id).telling for row in changed] if self._database.is_shared else ()
                )
                await self._database.write("presence", presence.record, changed, kept, own_ids, told)
            except BaseException:
                for person in choosers:
                    person.has_chosen = True
                raise
        self._announce_lookers(persons)
        self._persons.tidy(one for one in persons if not one.devices and one.user_id not in self._changed)

    def _announce_lookers(self, persons: Sequence[Person]) -> None:
        came = [person.user_id for person in persons if person.devices and not person.is_looking]
        went = [person.user_id for person in persons if not person.devices and person.is_looking]
        for person in persons:
            person.is_looking = bool(person.devices)
        if came or went:
            self._bus.publish(LookersChanged(came, went))
