"""Where an event stands that comes after what follows it (FED-6).

When a gap was bridged, the event after it is shown, and what it follows comes later: from its sender's queue, or
because we ask for it (`backfill`). It gets a place right before the first event in the timeline that follows it. For
one that we asked for, that is the first of those that name it; one that came by itself may come before any event after
a gap that is deeper than it. So no event stands before one that it follows.

Between two events that follow each other in the stream of events there are about a million places
(`storage/events.py`). News is put into them with some distance, since it may lack something in its turn; where that
does not suffice, all that is between the two moves apart. History from before this server came is put in close.
"""

from __future__ import annotations

from collections.abc import Mapping

from synapse_like.protocol.events import Event
from synapse_like.storage import events, gaps, rooms, timeline
from synapse_like.storage.events import GAP, Known
from synapse_like.storage.rooms import RoomHead
from synapse_like.storage.transactions import Transaction

#: How far from the next one an event is put, at the most; and the part of what is free that is used up, at the most.
DISTANCE = 16
PART = 1 / 8


def floor_below(place: int) -> int:
    """The place of the event before a place that came in time, if every position had one in this room."""
    return (-(-place // GAP) - 1) * GAP


def is_news(room: RoomHead, event: Event) -> bool:
    """Did an event happen while this server was in the room, as far as its depth tells?"""
    return event.depth > room.entered_depth


def lacks_news(room: RoomHead, event: Event) -> bool:
    """Is what comes right before an event news, as far as its depth tells?"""
    return event.depth > room.entered_depth + 1


def place_of(txn: Transaction, room: RoomHead, event: Event, known: Mapping[str, Known]) -> int | None:
    """The place of an event that came by itself, if that is before others that are here; None if it is the newest.

    :param known: the events that it follows, as far as they are here.
    """
    missing = gaps.news(txn, room.room_nid) if any(rooms.missing(txn, room).values()) else []
    if not missing:
        return None
    followed = [known[prev].place or 0 for prev in event.prev_events if prev in known]
    depths = {
        stored.event_nid: stored.event.depth for stored in events.load(txn, list({item.event_nid for item in missing}))
    }
    for item in missing:
        comes_before = item.event_id == event.event_id or event.depth < depths[item.event_nid]
        if comes_before and all(place < item.place for place in followed):
            below, top = _room_below(txn, room.room_nid, item.place)
            return below + _distance(below, top) if top - below > 1 else None
    return None


def place_before_gap(txn: Transaction, room_nid: int, event_id: str, *, is_news: bool) -> int | None:
    """The place of an event that we have asked for, right before the first that names it; None if nothing is free."""
    top = gaps.first_place_after(txn, room_nid, event_id)
    if top is None:
        return None
    if is_news:
        below, top = _room_below(txn, room_nid, top)
        return top - _distance(below, top) if top - below > 1 else None
    below = timeline.highest_place(txn, room_nid, above=floor_below(top), below=top)
    return top - 1 if top - below > 1 else None


def _room_below(txn: Transaction, room_nid: int, top: int) -> tuple[int, int]:
    """The place that is taken right below another one, and that other one: it has moved if there was nothing free."""
    floor = floor_below(top)
    below = timeline.highest_place(txn, room_nid, above=floor, below=top)
    if top - below > 1:
        return below, top
    moved = timeline.spread(txn, room_nid, above=floor, below=floor + GAP)
    top = moved.get(top, top)
    return timeline.highest_place(txn, room_nid, above=floor, below=top), top


def _distance(below: int, top: int) -> int:
    return max(1, min(DISTANCE, int((top - below - 1) * PART)))
