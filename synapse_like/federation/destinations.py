"""A queue for each server that we send to (FED-3).

Whatever is stored for a server is sent in its order, and each server is worked on by itself, so that none waits for
another (`sending.py`). How far a server is, is written down a moment after it has acknowledged (`progress.py`). Of
several processes, one sends to a server (`lots.py`); the others hear of the same events, and keep nothing of them in
memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct

from synapse_like.background import run_in_background
from synapse_like.clock import Clock
from synapse_like.federation.lots import HeardFrom, Lots, PassingEdu, lot_of
from synapse_like.federation.outbox import Announced, Outbox
from synapse_like.federation.progress import Progress
from synapse_like.federation.sending import DATABASE_PAUSE_SECONDS, Sender, SendsTransactions
from synapse_like.federation.transactions import encode_edu
from synapse_like.protocol.errors import Unavailable
from synapse_like.storage import destinations
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.destinations import EduStored, Rewound
from synapse_like.storage.event_news import EventPersisted
from synapse_like.storage.news import CommitInDoubt
from synapse_like.storage.transactions import Transaction

#: Servers that began to fail so much earlier than another one may have failed for the same reason, in milliseconds.
SAME_OUTAGE_MS = 60_000
#: Servers that are remembered while nothing waits for them.
MOST_REMEMBERED = 5000


class QueueState(Struct, frozen=True):
    """How it stands with the queue for a server.

    :ivar doing: `waiting` is for the time to try again.
    :ivar behind_seconds: for how long something has been waiting that waits now; 0 if nothing does.
    :ivar events: how many events wait that are in memory; those for a server that is away are in the tables only.
    :ivar passing_edus: how many EDUs wait that are in memory only.
    """

    doing: Literal["idle", "sending", "waiting"]
    behind_seconds: float
    events: int
    passing_edus: int


class DestinationQueues:
    """All the queues. `start` before the first request is served, `stop` before the database.

    :param client: sends transactions.
    :param server_name: ours.
    :param chance: gives numbers between 0 and 1, for the jitter.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        clock: Clock,
        client: SendsTransactions,
        server_name: str,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._clock = clock
        self._server_name = server_name
        self._outboxes: dict[str, Outbox] = {}
        self._lots = Lots(database, bus, clock, got=self._got_some, lost=self._lost)
        self._progress = Progress(database, clock, is_gone=self._is_gone, saved=self._saved)
        self._sender = Sender(
            database,
            bus,
            clock,
            client,
            server_name,
            self._progress,
            is_gone=self._is_gone,
            reached=self._try_fellows,
            chance=chance,
        )
        self._stopping = False
        bus.subscribe(EventPersisted, self._event_persisted)
        bus.subscribe(EduStored, self._edu_stored)
        bus.subscribe(Rewound, self._rewound)
        bus.subscribe(CommitInDoubt, self._commit_in_doubt)
        if self._lots.are_shared:
            bus.subscribe(PassingEdu, self._passing_edu)
            bus.subscribe(HeardFrom, self._heard_elsewhere)

    # What others want of it.

    async def start(self) -> None:
        """Go on where the last run of the server ended."""
        await self._look_until_answered()

    async def look_again(self) -> None:
        """See in the tables for whom something waits, and whom an operator wants tried again."""
        asked, servers, left_alone = await self._database.read("destinations", _look)
        self._lots.know_left_alone(left_alone)
        for server in servers:
            if self._lots.claim(server):
                self._sender.wake(self._outbox(server))
        ours = [server for server in asked if self._lots.claim(server)]
        if ours:
            await self._database.write("forget-retries-asked", destinations.forget_retries_asked, ours)
            for server in ours:
                self._sender.end_backoff(self._outbox(server))

    async def stop(self) -> None:
        """Begin nothing new, wait a moment for what is under way, write down how far everybody is."""
        self._stopping = True
        await self._sender.stop(list(self._outboxes.values()))
        await self._progress.stop()

    async def send_edu(
        self,
        destination: str,
        edu_type: str,
        content: dict[str, Any],
        *,
        key: str | None = None,
        lasting: bool = False,
    ) -> None:
        """Send something that is not an event.

        :param key: a newer EDU of the same type and key takes the place of one that waits.
        :param lasting: whether it must arrive. If not, it is lost when we stop or the destination cannot be reached.
        :raises CanonicalJsonError: there is no JSON for the content.
        """
        edu = encode_edu(self._server_name, destination, edu_type, content)
        if lasting:
            await self._database.write("outgoing-edu", destinations.add_edu, destination, edu_type, key, edu)
            return
        if await self._lots.claimed(destination):
            self._add_passing(destination, edu_type, key, edu)
        else:
            self._lots.pass_on(destination, edu_type, key, edu)

    def _add_passing(self, server: str, edu_type: str, key: str | None, edu: bytes) -> None:
        self._sender.add_passing(self._outbox(server), edu_type, key, edu)

    def heard_from(self, server: str) -> None:
        """A server has asked us something, so it may be reached again: try it now, but not more than once a second."""
        if self._lots.heard_from(server):
            return
        outbox = self._outboxes.get(server)
        if outbox is not None:
            self._sender.heard_from(outbox)

    def is_left_alone(self, server: str) -> bool:
        """Whether nothing is sent to a server at the moment, since it could not be reached."""
        outbox = self._outboxes.get(server)
        return outbox.timer is not None if outbox is not None else self._lots.is_left_alone(server)

    def states(self) -> dict[str, QueueState]:
        """How it stands with each server that is in memory."""
        return {server: self._state(outbox) for server, outbox in self._outboxes.items()}

    def _state(self, outbox: Outbox) -> QueueState:
        since = outbox.announced[0].at if outbox.is_complete and outbox.announced else outbox.behind_since
        doing: Literal["idle", "sending", "waiting"] = "idle"
        if outbox.is_running or outbox.timer is not None:
            doing = "sending" if outbox.is_running else "waiting"
        behind = 0 if since is None else self._clock.monotonic() - since
        return QueueState(doing, behind, len(outbox.announced), len(outbox.passing))

    # What is heard.

    def _event_persisted(self, news: EventPersisted) -> None:
        if news.destinations:
            item = Announced(news.position, news.about.event_nid, self._clock.monotonic(), news.pdu)
            for server in news.destinations:
                if self._lots.claim(server):
                    outbox = self._outbox(server)
                    outbox.announce(item)
                    self._sender.wake(outbox)

    def _edu_stored(self, news: EduStored) -> None:
        if not self._lots.claim(news.server):
            return
        outbox = self._outbox(news.server)
        outbox.has_lasting = True
        self._sender.wake(outbox)

    def _rewound(self, news: Rewound) -> None:
        if not self._lots.claim(news.server):
            return
        outbox = self._outbox(news.server)
        outbox.rewind(news.position)
        self._sender.wake(outbox)

    def _passing_edu(self, news: PassingEdu) -> None:
        if self._lots.have(news.server):
            self._add_passing(news.server, news.edu_type, news.key, news.edu.encode())

    def _heard_elsewhere(self, news: HeardFrom) -> None:
        if self._lots.have(news.server):
            self.heard_from(news.server)

    def _commit_in_doubt(self, _: CommitInDoubt) -> None:
        for outbox in self._outboxes.values():
            outbox.doubt()
        if not self._stopping:
            run_in_background("destinations-in-doubt", self._look_until_answered)

    async def _look_until_answered(self) -> None:
        while not self._stopping:
            try:
                await self.look_again()
                return
            except Unavailable:
                await self._clock.sleep(DATABASE_PAUSE_SECONDS)

    def _try_fellows(self, since: int) -> None:
        """A server that was failing can be reached: try those that began to fail when it did, or later."""
        for outbox in self._outboxes.values():
            failing_since = outbox.row.failing_since if outbox.row is not None else None
            if failing_since is not None and failing_since >= since - SAME_OUTAGE_MS:
                self._sender.try_soon(outbox)

    # Servers that become ours, or another process's.

    def _got_some(self) -> None:
        if not self._stopping:
            run_in_background("destinations-claimed", self._look_until_answered)

    def _lost(self, lot: str) -> None:
        """Some servers may be another's now: forget them, and break off what is under way."""
        for outbox in self._of_lot(lot):
            self._forget(outbox)
            self._sender.break_off(outbox)

    async def even_out(self) -> None:
        """If we have more lots than our share, give up as many in which nothing waits."""
        surplus = await self._lots.surplus()
        if surplus <= 0 or self._stopping:
            return
        if not self._progress.is_written_down:
            # Else there might always be something that is about to be.
            await self._progress.save()
        self._lots.give_up(surplus, self._leave)

    def _leave(self, lot: str) -> bool:
        """Forget the servers of a lot, unless something waits for one of them; whether they were forgotten."""
        outboxes = self._of_lot(lot)
        if any(map(self._is_needed, outboxes)):
            return False
        for outbox in outboxes:
            self._forget(outbox)
        return True

    def _of_lot(self, lot: str) -> list[Outbox]:
        return [outbox for server, outbox in self._outboxes.items() if lot_of(server) == lot]

    # What is in memory.

    def _outbox(self, server: str) -> Outbox:
        outbox = self._outboxes.get(server)
        if outbox is None:
            outbox = self._outboxes[server] = Outbox(server)
        return outbox

    def _is_gone(self, outbox: Outbox) -> bool:
        """Whether a server is another process's by now, or was forgotten."""
        return self._outboxes.get(outbox.server) is not outbox or not self._lots.have(outbox.server)

    def _forget(self, outbox: Outbox) -> None:
        del self._outboxes[outbox.server]
        self._progress.forget(outbox.server)

    def _saved(self) -> None:
        if len(self._outboxes) > MOST_REMEMBERED:
            for outbox in [outbox for outbox in self._outboxes.values() if not self._is_needed(outbox)]:
                self._forget(outbox)

    def _is_needed(self, outbox: Outbox) -> bool:
        """Whether more is known of a server than the tables say."""
        is_busy = outbox.is_running or outbox.timer is not None or outbox.has_work or outbox.server in self._progress
        return is_busy or (outbox.row is not None and outbox.row.failing_since is not None)


def _look(txn: Transaction) -> tuple[list[str], list[str], dict[str, int]]:
    return destinations.retries_asked(txn), destinations.needing_attention(txn), destinations.left_alone(txn)
