"""Which servers this process sends to, of several that share a database; and what it tells the others of theirs.

Servers are divided into lots. A lot is sent to by one process, which has claimed it (`storage/claims.py`): the first
that had something for one of its servers. The others try to claim it now and then. Whoever gets it begins by the
tables, as after a start. What is in memory only, and that a server was heard from, is told to the process that sends to
it.

Who has more lots than its share gives some of them up in which nothing waits: whoever is first when something does has
them next. So a process that was started again comes to send, too.

A process that is alone sends to all servers, and does nothing of this.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from hashlib import blake2b

from msgspec import Struct

from synapse_like.clock import Clock
from synapse_like.logs import get_logger
from synapse_like.storage.bus import Bus
from synapse_like.storage.claims import sharing_out
from synapse_like.storage.database import Database
from synapse_like.storage.destinations import LeftAlone
from synapse_like.storage.news import for_others

#: How many lots of servers there are. A claim is a lock, of which PostgreSQL has no more than some thousands.
LOTS = 256
#: How often it is looked whether this process has more of them than its share, in seconds.
EVEN_OUT_SECONDS = 30
#: For how long it is remembered that another process has given a lot up, in seconds.
LEFT_SECONDS = 10.0
#: How often the process that sends to a server is told that it was heard from, at the most, in seconds.
HEARD_SECONDS = 1.0

_ALL_LOTS = [f"destinations {number}" for number in range(LOTS)]

_log = get_logger(__name__)


@for_others
class PassingEdu(Struct, frozen=True):
    """News for the process that sends to a server: an EDU that is in memory only.

    :ivar key: as in `DestinationQueues.send_edu`.
    :ivar edu: its wire form.
    """

    server: str
    edu_type: str
    key: str | None
    edu: str


@for_others
class HeardFrom(Struct, frozen=True):
    """News for the process that sends to a server: it has asked another process something."""

    server: str


@for_others
class LotsLeft(Struct, frozen=True):
    """News for other processes: nothing waits in some lots, and another may have them."""

    lots: list[str]


@for_others
class SenderLost(Struct, frozen=True):
    """News: the process that sent to some lots has died; EDUs that it had in memory only are lost."""

    lots: list[str]


def lot_of(server: str) -> str:
    """The lot that a server belongs to: the name of a claim."""
    return _ALL_LOTS[blake2b(server.encode(), digest_size=8).digest()[0] % LOTS]


class Lots:
    """The lots of this process.

    :param got: is called when we have got some: the tables tell what waits for their servers.
    :param lost: is called with one that may be another's now.
    """

    def __init__(
        self, database: Database, bus: Bus, clock: Clock, *, got: Callable[[], object], lost: Callable[[str], object]
    ) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._got = got
        self._lost = lost
        self._claims = database.claims
        self._ours: set[str] = set()
        #: Those that others have given up in good order, and when.
        self._left: dict[str, float] = {}
        #: Those of a process that has died, as long as nobody was told.
        self._taken_over: list[str] = []
        self._is_about_to_begin = False
        #: Servers that are left alone: until when, and when others were last told that they were heard from.
        self._left_alone: dict[str, tuple[int, float]] = {}
        if self.are_shared:
            bus.subscribe(LeftAlone, self._on_left_alone)
            bus.subscribe(LotsLeft, self._on_left)

    @property
    def are_shared(self) -> bool:
        """Whether other processes may have some of them."""
        return not self._claims.is_alone

    def have(self, server: str) -> bool:
        """Whether it is this process that sends to a server."""
        return self._claims.is_alone or self._claims.holds(lot_of(server))

    def claim(self, server: str) -> bool:
        """The same; if not, it wants to from now on."""
        if self._claims.is_alone:
            return True
        lot = lot_of(server)
        if self._claims.holds(lot):
            return True
        self._claims.want(lot, partial(self._lot_got, lot), partial(self._lot_lost, lot))
        return False

    async def claimed(self, server: str) -> bool:
        """The same, once that was tried."""
        return self.claim(server) or await self._claims.outcome(lot_of(server))

    def _lot_got(self, lot: str) -> None:
        _log.debug("some servers are sent to from here now", claim=lot)
        self._ours.add(lot)
        left_at = self._left.pop(lot, float("-inf"))
        if self._claims.was_anothers(lot) and self._clock.monotonic() - left_at > LEFT_SECONDS:
            self._taken_over.append(lot)
        if not self._is_about_to_begin:
            # One look into the tables is for all that are got together.
            self._is_about_to_begin = True
            self._clock.call_later(0, self._begin)

    def _begin(self) -> None:
        """Go on where the processes before us ended."""
        self._is_about_to_begin = False
        lots, self._taken_over = self._taken_over, []
        if lots:
            _log.info("servers are sent to from here that were another process's, which is gone", lots=len(lots))
            news = SenderLost(lots)
            self._bus.publish(news)
            self._database.tell_others(news)
        self._got()

    def _lot_lost(self, lot: str) -> None:
        self._ours.discard(lot)
        self._lost(lot)

    # Evening out.

    async def surplus(self) -> int:
        """How many we have beyond our share of those that somebody has; negative if fewer."""
        processes, had = await self._database.read("sharing-out", sharing_out, _ALL_LOTS)
        return len(self._ours) - -(-had // max(processes, 1))

    def give_up(self, most: int, leave: Callable[[str], bool]) -> None:
        """Let others have some.

        :param leave: forgets the servers of a lot, unless something waits for one of them; whether it did.
        """
        given_up: list[str] = []
        # Not those first that were had first: they may always be the same.
        for lot in sorted(self._ours, key=lambda _: random.random()):
            if len(given_up) < most and self._claims.holds(lot) and leave(lot):
                self._ours.discard(lot)
                self._claims.give_up(lot)
                given_up.append(lot)
        if given_up:
            _log.info("servers are left to other processes", lots=len(given_up), kept=len(self._ours))
            self._database.tell_others(LotsLeft(given_up))

    def _on_left(self, news: LotsLeft) -> None:
        self._left.update(dict.fromkeys(news.lots, self._clock.monotonic()))
        self._claims.try_now()

    # What others send to.

    def pass_on(self, server: str, edu_type: str, key: str | None, edu: bytes) -> None:
        """Have an EDU sent by the process that sends to a server."""
        self._database.tell_others(PassingEdu(server, edu_type, key, edu.decode()))

    def heard_from(self, server: str) -> bool:
        """A server has asked us something: whether another process leaves it alone, which is told then."""
        if server not in self._left_alone or self.have(server):
            return False
        until, told = self._left_alone[server]
        now = self._clock.monotonic()
        if now - told >= HEARD_SECONDS:
            self._left_alone[server] = until, now
            self._database.tell_others(HeardFrom(server))
        return True

    def is_left_alone(self, server: str) -> bool:
        """Whether another process sends nothing to a server at the moment, since it could not be reached."""
        until, _ = self._left_alone.get(server, (0, 0))
        return until > self._clock.now_ms() and not self.have(server)

    def know_left_alone(self, servers: dict[str, int]) -> None:
        """Learn which servers are left alone, and until when, in milliseconds since 1970."""
        self._left_alone = {server: (until, float("-inf")) for server, until in servers.items()}

    def _on_left_alone(self, news: LeftAlone) -> None:
        if news.until is None:
            self._left_alone.pop(news.server, None)
        else:
            self._left_alone[news.server] = news.until, float("-inf")
