"""What is to be sent to one server, as far as it is in memory.

The facts are in tables: events and stays, `destinations`, `outgoing_edus`. In memory are wake-ups: the numbers of
events that were announced since the last look into the tables, so that in steady state only these are read; an event
itself if nothing is before it, so that nothing is; and the EDUs that are worth nothing after a minute.
"""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import NamedTuple

from msgspec import Struct, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from synapse_like.federation.transactions import MOST_EDUS, MOST_PDUS
from synapse_like.storage.destinations import Destination

#: Announced events that are remembered for a server; if there are more, the tables are asked again.
MOST_ANNOUNCED = 1000
#: EDUs in memory that wait for a server; beyond that, the oldest are lost.
MOST_PASSING_EDUS = 500
#: How much a transaction may hold.
MOST_ITEMS = MOST_PDUS + MOST_EDUS

_unique = count()


class Announced(NamedTuple):
    """An event that waits.

    :ivar at: when that was heard of, by the monotonic clock.
    :ivar pdu: its wire form, if it is to be sent at once.
    """

    position: int
    event_nid: int
    at: float
    pdu: bytes | None = None


class Parcel(Struct):
    """What goes into one transaction.

    :ivar pdus: wire forms, in the order of their positions.
    :ivar edus: wire forms.
    :ivar passing: those of the EDUs that are in memory only, by their slot.
    :ivar up_to: the position up to which the server has everything once it has taken this.
    :ivar edus_up_to: the same for lasting EDUs.
    """

    pdus: list[bytes]
    edus: list[bytes]
    passing: dict[object, bytes]
    up_to: int
    edus_up_to: int

    def __len__(self) -> int:
        return len(self.pdus) + len(self.edus)


class Outbox(Struct, eq=False):
    """See the head of this file.

    :ivar row: what the tables say of the server, or are to say soon; None until it has been read.
    :ivar announced: events that wait, oldest first.
    :ivar is_complete: whether no other events wait, except during a look into the tables.
    :ivar is_looking: whether the tables are being asked.
    :ivar doubts: counts the reasons not to believe an answer of the tables that is under way.
    :ivar passing: EDUs that are in memory only, oldest first, by what a newer one takes the place of.
    :ivar has_lasting: whether lasting EDUs may wait.
    :ivar edus_sent_up_to: which of these the server has.
    :ivar most: how much a transaction may hold at the moment.
    :ivar is_searching: the server refuses something, but not everything.
    :ivar rewound: to which position the server was set back while something was under way to it.
    :ivar written: how far the server is as the tables have it, as far as is known.
    :ivar set_back: to which position it was set back while the tables were being read or written.
    :ivar is_running: whether somebody is sending.
    :ivar running: fires when they have ended.
    :ivar timer: runs while the server is left alone.
    :ivar last_attempt: when a transaction was last begun, by the monotonic clock.
    :ivar behind_since: since when something waits.
    """

    server: str
    row: Destination | None = None
    announced: deque[Announced] = field(default_factory=deque)
    is_complete: bool = False
    is_looking: bool = False
    doubts: int = 0
    passing: dict[object, bytes] = field(default_factory=dict)
    has_lasting: bool = True
    edus_sent_up_to: int = 0
    most: int = MOST_ITEMS
    is_searching: bool = False
    rewound: int | None = None
    written: int = 0
    set_back: int | None = None
    is_running: bool = False
    running: Deferred[None] | None = None
    timer: IDelayedCall | None = None
    last_attempt: float = float("-inf")
    behind_since: float | None = None

    @property
    def has_work(self) -> bool:
        """Whether something waits, or may wait."""
        return not self.is_complete or bool(self.announced) or bool(self.passing) or self.has_lasting

    def was_written(self, position: int) -> None:
        """How far the server is as the tables have it, if it was not set back since."""
        self.written = position if self.set_back is None else min(position, self.set_back)

    def announce(self, item: Announced) -> None:
        """An event waits. If the tables have to be asked anyhow, it need not be remembered.

        What does not go at once may be many events, and one may be redacted until it goes: it is read when it does.
        """
        if self.is_running or self.timer is not None or self.announced:
            item = item._replace(pdu=None)
        if not self.is_complete and not self.is_looking:
            return
        if self.row is not None and item.position <= self.row.sent_up_to:
            # The tables have told of it before the news came, by which time it was sent.
            return
        self.announced.append(item)
        if len(self.announced) > MOST_ANNOUNCED and not self.is_looking:
            self.doubt()

    def doubt(self) -> None:
        """Ask the tables before anything else is sent."""
        self.is_complete = False
        self.has_lasting = True
        self.doubts += 1
        self.announced.clear()

    def rewind(self, position: int) -> None:
        """The server may lack something that lies further back."""
        if self.row is not None:
            self.row.sent_up_to = min(self.row.sent_up_to, position)
        self.written = min(self.written, position)
        self.set_back = position if self.set_back is None else min(self.set_back, position)
        if self.is_running:
            self.rewound = position if self.rewound is None else min(self.rewound, position)
        self.doubt()

    def known(self) -> list[Announced] | None:
        """The oldest events that wait, as many as a transaction may hold; None if the tables must be asked."""
        if not self.is_complete:
            return None
        return [self.announced[n] for n in range(min(self.most, MOST_PDUS, len(self.announced)))]

    def add_passing(self, edu_type: str, key: str | None, edu: bytes) -> bool:
        """An EDU waits that is in memory only; it takes the place of one of the same type and key.

        :returns: False if there are too many now, so that the oldest is lost.
        """
        slot: object = (edu_type, key) if key is not None else next(_unique)
        self.passing.pop(slot, None)
        self.passing[slot] = edu
        if len(self.passing) <= MOST_PASSING_EDUS:
            return True
        del self.passing[next(iter(self.passing))]
        return False

    def delivered(self, parcel: Parcel) -> None:
        """The server has this, or never will."""
        assert self.row is not None
        self.row.sent_up_to = max(self.row.sent_up_to, parcel.up_to)
        if self.rewound is not None:
            self.row.sent_up_to, self.rewound = min(self.row.sent_up_to, self.rewound), None
        self.edus_sent_up_to = max(self.edus_sent_up_to, parcel.edus_up_to)
        while self.announced and self.announced[0].position <= self.row.sent_up_to:
            self.announced.popleft()
        for slot, edu in parcel.passing.items():
            # A newer one may have taken its place meanwhile.
            if self.passing.get(slot) is edu:
                del self.passing[slot]
