"""Looking into rooms, and the event stream (EVS)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from synapse_like.clock import Clock
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.event_persistence import StoredEvent
from synapse_like.handlers.event_stream import EventStream
from synapse_like.handlers.history import History, Page
from synapse_like.handlers.initial_sync import InitialSync, InvitedRoom, JoinedRoom
from synapse_like.http.client.event_shape import event_v1
from synapse_like.http.requests import Call
from synapse_like.http.responses import Encoded
from synapse_like.protocol.canonical_json import encode_in_any_order
from synapse_like.protocol.errors import BadPagination

MOST_MESSAGES = 1000
USUAL_MESSAGES = 10


class HistoryEndpoints:
    """messages, state, members, events, initialSync.

    :param longest_poll_ms: a longer time-out of /events is cut to this.
    """

    def __init__(
        self,
        history: History,
        initial_sync: InitialSync,
        event_stream: EventStream,
        clock: Clock,
        *,
        longest_poll_ms: int,
    ) -> None:
        self._history = history
        self._initial_sync = initial_sync
        self._event_stream = event_stream
        self._clock = clock
        self._longest_poll_ms = longest_poll_ms

    async def events(self, call: Call[Requester]) -> object:
        """What is new, at once or as soon as there is something (EVS-1)."""
        timeout_ms = min(call.query.integer("timeout", 0, 0, 2**53), self._longest_poll_ms)
        since = call.query.text("from", error=BadPagination)
        requester = call.requester
        # All that came with the request is not needed while it waits.
        del call
        chunk = await self._event_stream.next_chunk(requester, since, timeout_ms)
        return {"start": str(chunk.start), "end": str(chunk.end), "chunk": [*self._events(chunk.events), *chunk.others]}

    async def event(self, call: Call[Requester]) -> object:
        """One event (EVS-3)."""
        stored = await self._history.event(call.requester, call.params["event_id"])
        return event_v1(stored, self._clock.now_ms())

    async def messages(self, call: Call[Requester]) -> object:
        """A page of a room's history (EVS-6)."""
        query = call.query
        direction = query.text("dir", "b", error=BadPagination)
        if direction not in ("b", "f"):
            raise BadPagination("The direction 'dir' must be 'b' (backwards) or 'f' (forwards).")
        page = await self._history.page(
            call.requester,
            call.params["room"],
            start=query.text("from", error=BadPagination),
            end=query.text("to", error=BadPagination),
            backwards=direction == "b",
            limit=query.integer("limit", USUAL_MESSAGES, 1, MOST_MESSAGES, error=BadPagination),
        )
        return self._page(page)

    async def members(self, call: Call[Requester]) -> object:
        """The m.room.member events of a room (EVS-7)."""
        return self._page(await self._history.members(call.requester, call.params["room"]))

    async def state(self, call: Call[Requester]) -> object:
        """All state events of a room (EVS-7)."""
        return self._events(await self._history.state(call.requester, call.params["room"]))

    async def state_content(self, call: Call[Requester]) -> object:
        """The content of one state event (EVS-7)."""
        content = await self._history.state_content(
            call.requester, call.params["room"], call.params["type"], call.params.get("state_key", "")
        )
        return Encoded(encode_in_any_order(content))

    async def initial_sync(self, call: Call[Requester]) -> object:
        """All rooms of the user (EVS-4)."""
        snapshot = await self._initial_sync.all_rooms(call.requester, self._limit(call))
        rooms = [self._joined_room(room) for room in snapshot.joined]
        rooms += [_invited_room(room) for room in snapshot.invited]
        return {"end": str(snapshot.end), "presence": list(snapshot.presence), "rooms": rooms}

    async def room_initial_sync(self, call: Call[Requester]) -> object:
        """One room (EVS-5)."""
        room, presence = await self._initial_sync.one_room(call.requester, call.params["room"], self._limit(call))
        return self._joined_room(room) | {"presence": presence}

    def _limit(self, call: Call[Requester]) -> int:
        return call.query.integer("limit", USUAL_MESSAGES, 0, MOST_MESSAGES, error=BadPagination)

    def _joined_room(self, room: JoinedRoom) -> dict[str, Any]:
        return {
            "room_id": room.room_id,
            "membership": "join",
            "visibility": "public" if room.is_public else "private",
            "messages": self._page(room.messages),
            "state": self._events(room.state),
        }

    def _page(self, page: Page) -> dict[str, Any]:
        return {"start": str(page.start), "end": str(page.end), "chunk": self._events(page.events)}

    def _events(self, events: Iterable[StoredEvent]) -> list[Any]:
        now_ms = self._clock.now_ms()
        return [event_v1(stored, now_ms) for stored in events]


def _invited_room(room: InvitedRoom) -> dict[str, Any]:
    return {"room_id": room.room_id, "membership": "invite", "inviter": room.inviter}
