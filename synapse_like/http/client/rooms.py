"""Rooms as a whole, their aliases, and the list of public ones (ROOM-1, ROOM-3, ROOM-5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec.structs import asdict

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.directory import Directory
from synapse_like.handlers.retransmissions import Retransmissions
from synapse_like.handlers.rooms import Rooms, RoomWish
from synapse_like.http.requests import Call
from synapse_like.models import Model
from synapse_like.protocol.errors import BadPagination
from synapse_like.protocol.identifiers import canonical_alias, parse_room_id

MOST_PUBLIC_ROOMS = 1000


class CreateRoomBody(Model, frozen=True):
    """What a client may wish for a new room; other keys are ignored."""

    room_version: str | None = None
    visibility: Literal["public", "private"] | None = None
    room_alias_name: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: list[str] | None = None


class AliasBody(Model, frozen=True):
    """Where an alias is to lead."""

    room_id: str


class RoomEndpoints:
    """Making and finding rooms.

    :param limit: counts so many requests of a class for a user, or raises LimitExceeded.
    """

    def __init__(
        self,
        rooms: Rooms,
        directory: Directory,
        retransmissions: Retransmissions,
        limit: Callable[[str, str, int], None],
    ) -> None:
        self._limit = limit
        self._rooms = rooms
        self._directory = directory
        self._retransmissions = retransmissions

    async def create(self, call: Call[Requester]) -> object:
        """Make a room."""
        body: CreateRoomBody = call.body
        if body.invite:
            self._limit("invites", call.requester.user_id, len(body.invite))
        wish = RoomWish(
            version=body.room_version,
            is_public=body.visibility == "public",
            alias_localpart=body.room_alias_name,
            name=body.name,
            topic=body.topic,
            invite=body.invite or (),
        )
        request = self._retransmissions.request(call.requester, call.retransmit_key)
        room = await self._rooms.create(call.requester, wish, request)
        return {"room_id": room.room_id} | ({"room_alias": room.alias} if room.alias is not None else {})

    async def public(self, call: Call[Requester]) -> object:
        """A page of the public rooms."""
        limit = call.query.integer("limit", MOST_PUBLIC_ROOMS, 1, MOST_PUBLIC_ROOMS, error=BadPagination)
        page = await self._rooms.public(call.query.text("from"), limit)
        return {"start": page.start, "end": page.end, "chunk": [asdict(room) for room in page.rooms]}

    async def resolve_alias(self, call: Call[Requester]) -> object:
        """Where an alias leads."""
        found = await self._directory.resolve(canonical_alias(call.params["alias"]))
        return {"room_id": found.room_id, "servers": found.servers}

    async def add_alias(self, call: Call[Requester]) -> object:
        """Let an alias lead to a room."""
        body: AliasBody = call.body
        await self._directory.add(call.requester, canonical_alias(call.params["alias"]), parse_room_id(body.room_id))
        return {}

    async def delete_alias(self, call: Call[Requester]) -> object:
        """Take an alias away."""
        await self._directory.delete(call.requester, canonical_alias(call.params["alias"]))
        return {}
