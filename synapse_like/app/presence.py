"""What knows who is there, put together."""

from __future__ import annotations

from msgspec import Struct

from synapse_like.app.foundation import Foundation
from synapse_like.background import Repeating, every, run_in_background
from synapse_like.clock import ReactorClock
from synapse_like.federation.destinations import DestinationQueues
from synapse_like.handlers.incoming_transactions import EduHandler
from synapse_like.handlers.notifier import Notifier
from synapse_like.handlers.presence import Presence
from synapse_like.handlers.presence_federation import EDU_TYPE as PRESENCE
from synapse_like.handlers.presence_federation import SWEEP_SECONDS as FEDERATION_SECONDS
from synapse_like.handlers.presence_federation import PresenceFederation
from synapse_like.handlers.presence_input import PresenceInput
from synapse_like.handlers.presence_keeping import SWEEP_SECONDS, PresenceKeeper
from synapse_like.handlers.presence_lists import ACCEPT, DENY, INVITE, PresenceLists
from synapse_like.handlers.presence_persons import Persons
from synapse_like.storage.claims import PRESENCE as PRESENCE_CLAIM
from synapse_like.storage.claims import Claims
from synapse_like.storage.profiles import ProfileChanged

#: The types of those EDUs that must not be lost.
LASTING_EDUS = (INVITE, ACCEPT, DENY)


class People(Struct):
    """What knows who is there.

    :ivar persons: what is known of them.
    :ivar keeper: writes down what others are told.
    :ivar presence: what those see who look.
    :ivar input: takes what devices, users and other servers say.
    :ivar federation: None if other servers are not told.
    :ivar claims: by which one process comes to keep presence.
    """

    persons: Persons
    keeper: PresenceKeeper
    presence: Presence
    input: PresenceInput
    lists: PresenceLists
    federation: PresenceFederation | None
    clock: ReactorClock
    claims: Claims

    async def start(self) -> None:
        """Learn who is there; and keep presence, as soon as there is nobody else to do it."""
        if self.claims.is_alone:
            await self.keep()
            return
        await self.persons.start()
        self.claims.want(PRESENCE_CLAIM, lambda: run_in_background("keep-presence", self.keep), self.let_go)

    async def keep(self) -> None:
        """Keep presence, for all processes."""
        await self.keeper.keep()
        self.input.keep()
        if self.federation is not None:
            await self.federation.start()

    def let_go(self) -> None:
        """Another process may keep it."""
        self.keeper.let_go()

    def profile_changed(self, news: ProfileChanged) -> None:
        """A user has another name or picture, and whoever sees them is told (PROF-2)."""
        self.keeper.profile_changed(news.user_id, news.displayname, news.avatar_url)

    @property
    def edus(self) -> dict[str, EduHandler]:
        """What takes EDUs, by their type."""
        if self.federation is None:
            return {}
        lists = self.lists
        return {
            PRESENCE: self.input.receive,
            INVITE: lists.invited,
            ACCEPT: lists.accepted,
            DENY: lists.denied,
        }

    @property
    def tasks(self) -> list[Repeating]:
        """What is to be done every so often."""
        tasks = [
            every(self.clock, "presence", SWEEP_SECONDS, self.keeper.sweep),
            every(self.clock, "presence-input", SWEEP_SECONDS, self.input.sweep),
        ]
        if self.federation is not None:
            sweep = self.federation.sweep
            tasks.append(every(self.clock, "presence-elsewhere", FEDERATION_SECONDS, sweep))
        return tasks


def make_people(on: Foundation, notifier: Notifier, queues: DestinationQueues, position: int) -> People | None:
    """Put it together; None if presence is turned off.

    :param position: where its stream stands.
    """
    config = on.config
    if not config.presence.enabled:
        return None
    federates = config.presence.federation and config.federation.enabled
    database, bus, clock, name = on.database, on.bus, on.clock, on.name
    persons = Persons(database, notifier, bus, clock, name, position)
    keeper = PresenceKeeper(database, persons, bus, clock, name)
    presence = Presence(database, persons, notifier, clock)
    lists = PresenceLists(database, persons, name, auto_accept=config.presence.auto_accept, federates=federates)
    federation = PresenceFederation(database, persons, keeper, queues, bus, clock, name) if federates else None
    comes_in = PresenceInput(database, persons, keeper, federation, bus, clock)
    people = People(persons, keeper, presence, comes_in, lists, federation, clock, database.claims)
    bus.subscribe(ProfileChanged, people.profile_changed)
    return people
