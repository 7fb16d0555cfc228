"""News of events: what is told of them here, and what other processes read of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from synapse_like.protocol.membership import JOIN, MEMBER
from synapse_like.storage.events import StoredEvent, load
from synapse_like.storage.news import CommitInDoubt, Wants, for_others, register
from synapse_like.storage.transactions import Transaction


class Unread(Struct, frozen=True):
    """An event that another process has stored, and that nobody waits for here: what is known without reading it."""

    event_nid: int
    event_type: str
    sender: str
    is_state: bool
    arrivals: tuple[str, ...]


class EventPersisted(Struct, frozen=True):
    """News: an event stands in its room and in the stream of events.

    :ivar stored: the event, or as much of it as is known here.
    :ivar memberships: what members of the room have become by it; more than one if it joined two forks.
    :ivar destinations: the other servers that this server has to send it to.
    :ivar pdu: its wire form, if it has to be sent.
    :ivar is_heard: another process has stored it.
    """

    room_id: str
    position: int
    stored: StoredEvent | Unread
    memberships: Mapping[str, str]
    destinations: frozenset[str] = frozenset()
    pdu: bytes | None = None
    is_heard: bool = False

    @property
    def about(self) -> Unread:
        """What is known of the event in any case."""
        if isinstance(self.stored, Unread):
            return self.stored
        event = self.stored.event
        return Unread(self.stored.event_nid, event.type, event.sender, event.is_state, self.arrivals)

    @property
    def arrivals(self) -> tuple[str, ...]:
        """Who has come into the room by it, and was not in it before; not who only has another name there."""
        if isinstance(self.stored, Unread):
            return self.stored.arrivals
        event = self.stored.event
        stayed = event.state_key if event.type == MEMBER and not is_arrival(self.stored) else None
        return tuple([user_id for user_id, now in self.memberships.items() if now == JOIN and user_id != stayed])


def is_arrival(stored: StoredEvent) -> bool:
    """Whether somebody joins by the event who had not joined before."""
    was = stored.replaced.content.get("membership") if stored.replaced is not None else None
    now = stored.event.content.get("membership")
    return bool(now == JOIN and was != JOIN)


@for_others
class EventRedacted(Struct, frozen=True):
    """News: an event has been stripped of its content."""

    event_nid: int


def _written(news: EventPersisted) -> list[Any]:
    """What other processes need to know to read an event themselves, or not to."""
    about = news.about
    return [
        news.room_id,
        news.position,
        dict(news.memberships),
        sorted(news.destinations),
        about.event_nid,
        about.event_type,
        about.sender,
        about.is_state,
        about.arrivals,
    ]


def _unread(event_nid: int, event_type: str, sender: str, is_state: bool, arrivals: Sequence[str]) -> Unread:
    return Unread(event_nid, event_type, sender, is_state, tuple(arrivals))


def _read(txn: Transaction, written: Sequence[Any], wants: Wants) -> list[EventPersisted | CommitInDoubt]:
    to_read = [nid for room_id, _, memberships, _, nid, *_ in written if wants(room_id, memberships)]
    found = {stored.event_nid: stored for stored in load(txn, to_read)} if to_read else {}
    # One that is gone already was purged: everybody looks again.
    gone = set(to_read) - found.keys()
    return [
        EventPersisted(
            room_id,
            position,
            found.get(about[0]) or _unread(*about),
            memberships,
            frozenset(destinations),
            is_heard=True,
        )
        if about[0] not in gone
        else CommitInDoubt()
        for room_id, position, memberships, destinations, *about in written
    ]


register(EventPersisted, _written, _read)
