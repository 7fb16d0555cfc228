"""What comes to this process that tells who is there, brought to the process that keeps presence.

Of several processes one keeps presence (`presence_keeping.py`): it alone makes of all devices what their user is, and
writes that down. The others tell it which devices follow the event stream with them, what users choose, and what other
servers say. What it makes of that, all learn by its news.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred

from synapse_like.background import run_in_background
from synapse_like.clock import Clock
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.presence_federation import PresenceFederation
from synapse_like.handlers.presence_keeping import PresenceKeeper
from synapse_like.handlers.presence_persons import Persons
from synapse_like.protocol.errors import Forbidden, Unavailable
from synapse_like.protocol.identifiers import canonical_user_id
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.news import for_others

#: How often the keeper is told that a device is still there, in seconds; often enough for it to miss one.
REPEAT_SECONDS = 10.0
#: For how long is collected what the keeper is told of devices, in seconds.
COLLECT_SECONDS = 1.0
#: How often the keeper is asked to write down a choice, and how long it has for that each time, in seconds.
TRIES, TRY_SECONDS = 4, 3.0


class Choice(Struct, frozen=True):
    """What a user wants to be seen as: see `PresenceKeeper.choose`."""

    user_id: str
    token_id: int
    state: str
    status_msg: str | None
    idle_ms: int | None
    device_type: str | None


@for_others
class DevicesSeen(Struct, frozen=True):
    """News: these devices, of users, are there."""

    devices: Sequence[tuple[str, int]]


@for_others
class PresenceChosen(Struct, frozen=True):
    """News: a user has chosen something, and a process waits for it to be written down."""

    ticket: str
    choice: Choice


@for_others
class ChoiceKept(Struct, frozen=True):
    """News: it is written down."""

    ticket: str


@for_others
class PresenceHeard(Struct, frozen=True):
    """News: another server tells of its users, or asks for ours."""

    origin: str
    content: Mapping[str, Any]


class PresenceInput:
    """See the head of this file.

    :param federation: takes what other servers say; None if they are not listened to.
    """

    def __init__(
        self,
        database: Database,
        persons: Persons,
        keeper: PresenceKeeper,
        federation: PresenceFederation | None,
        bus: Bus,
        clock: Clock,
    ) -> None:
        self._database = database
        self._persons = persons
        self._keeper = keeper
        self._federation = federation
        self._clock = clock
        #: How many event streams the devices have open here, and when the keeper was told of them.
        self._streams: dict[Requester, int] = {}
        self._told: dict[Requester, float] = {}
        self._to_tell: set[Requester] = set()
        self._waiting: dict[str, Deferred[bool]] = {}
        bus.subscribe(DevicesSeen, self._on_devices)
        bus.subscribe(PresenceChosen, self._on_choice)
        bus.subscribe(ChoiceKept, self._on_kept)
        bus.subscribe(PresenceHeard, self._on_heard)

    # What comes to this process.

    def opened(self, requester: Requester) -> None:
        """A device of a user follows the event stream."""
        self._streams[requester] = self._streams.get(requester, 0) + 1
        if self._persons.keeps:
            self._keeper.opened(requester)
        else:
            self._tell(requester)

    def closed(self, requester: Requester) -> None:
        """It does so no longer, or is about to ask again."""
        left = self._streams.get(requester, 1) - 1
        if left:
            self._streams[requester] = left
        else:
            self._streams.pop(requester, None)
        if self._persons.keeps:
            self._keeper.closed(requester)

    async def choose(
        self,
        requester: Requester,
        user_id: str,
        state: str,
        status_msg: str | None,
        *,
        idle_ms: int | None,
        device_type: str | None,
    ) -> None:
        """A user says what they want to be seen as: see `PresenceKeeper.choose`. Returns when that is written down.

        :raises Forbidden: it is somebody else's presence.
        :raises Unavailable: nobody keeps presence at the moment.
        """
        if canonical_user_id(user_id) != requester.user_id:
            raise Forbidden("You can only set your own presence.")
        choice = Choice(requester.user_id, requester.token_id, state, status_msg, idle_ms, device_type)
        for _ in range(TRIES):
            if self._persons.keeps:
                await self._keep(choice)
                return
            if await self._is_kept_elsewhere(choice):
                return
        raise Unavailable("Presence cannot be set at the moment. Please try again.")

    async def _is_kept_elsewhere(self, choice: Choice) -> bool:
        """Have the keeper write down a choice; whether it did in time."""
        ticket = secrets.token_hex(8)
        kept = self._waiting[ticket] = Deferred()
        too_long = self._clock.call_later(TRY_SECONDS, lambda: None if kept.called else kept.callback(False))
        self._database.tell_others(PresenceChosen(ticket, choice))
        try:
            is_kept = await kept
        finally:
            del self._waiting[ticket]
            if too_long.active():
                too_long.cancel()
        if is_kept:
            # Who goes on here sees it.
            await self._database.come_up_to_date()
            await self._persons.settled()
        return is_kept

    async def _keep(self, choice: Choice) -> None:
        await self._keeper.choose(
            choice.user_id,
            choice.token_id,
            choice.state,
            choice.status_msg,
            idle_ms=choice.idle_ms,
            device_type=choice.device_type,
        )

    async def receive(self, origin: str, content: Mapping[str, Any]) -> None:
        """Another server tells of its users, and asks for ours."""
        if self._persons.keeps:
            await self._hear(origin, content)
        else:
            self._database.tell_others(PresenceHeard(origin, content))

    # What the keeper is told.

    def _tell(self, requester: Requester) -> None:
        if self._clock.monotonic() - self._told.get(requester, float("-inf")) < REPEAT_SECONDS:
            return
        if not self._to_tell:
            self._clock.call_later(COLLECT_SECONDS, self._tell_all)
        self._to_tell.add(requester)

    def _tell_all(self) -> None:
        devices, self._to_tell = self._to_tell, set()
        now = self._clock.monotonic()
        self._told.update(dict.fromkeys(devices, now))
        if self._persons.keeps:
            self._on_devices(DevicesSeen([(device.user_id, device.token_id) for device in devices]))
        else:
            self._database.tell_others(DevicesSeen([(device.user_id, device.token_id) for device in devices]))

    async def sweep(self) -> None:
        """Tell the keeper which devices are still there."""
        if self._persons.keeps:
            return
        for requester in self._streams:
            self._tell(requester)
        oldest = self._clock.monotonic() - REPEAT_SECONDS
        self._told = {requester: told for requester, told in self._told.items() if told > oldest}

    def keep(self) -> None:
        """From now on this process keeps presence: what is here counts."""
        for requester, count in self._streams.items():
            for _ in range(count):
                self._keeper.opened(requester)

    # What the keeper hears.

    def _on_devices(self, news: DevicesSeen) -> None:
        if self._persons.keeps:
            for user_id, token_id in news.devices:
                self._keeper.seen(user_id, token_id)

    def _on_choice(self, news: PresenceChosen) -> None:
        if self._persons.keeps:
            run_in_background("keep-choice", self._keep_choice, news)

    async def _keep_choice(self, news: PresenceChosen) -> None:
        await self._keep(news.choice)
        self._database.tell_others(ChoiceKept(news.ticket))

    def _on_kept(self, news: ChoiceKept) -> None:
        waiting = self._waiting.get(news.ticket)
        if waiting is not None and not waiting.called:
            waiting.callback(True)

    def _on_heard(self, news: PresenceHeard) -> None:
        if self._persons.keeps:
            run_in_background("presence-heard", self._hear, news.origin, news.content)

    async def _hear(self, origin: str, content: Mapping[str, Any]) -> None:
        if self._federation is not None:
            await self._federation.receive(origin, content)
