"""Rooms as a whole: making them, listing the public ones, purging the abandoned ones (ROOM-1, ROOM-2, ROOM-5,
ROOM-8)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec import Struct

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.directory import Directory
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.membership import Membership, Wish
from synapse_like.handlers.policy import INVITES, ROOM_CREATION, Policy
from synapse_like.handlers.room_deletion import delete_room
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import (
    BadJson,
    BadPagination,
    Forbidden,
    MatrixError,
    NotFound,
    RoomInUse,
    TooLarge,
)
from synapse_like.protocol.identifiers import alias_localpart, canonical_alias, canonical_user_id, domain_of
from synapse_like.protocol.room_creation import description, opening_events
from synapse_like.protocol.room_versions import rules_for
from synapse_like.storage import directory, events, membership, presence_lists, purging, rooms, state
from synapse_like.storage.database import Database
from synapse_like.storage.retransmissions import Once, Outcome, once
from synapse_like.storage.rooms import Room, RoomHead
from synapse_like.storage.transactions import Transaction

Content = Mapping[str, Any]

_log = get_logger(__name__)

NAME = ("m.room.name", "")
TOPIC = ("m.room.topic", "")


#: What stands before the name of a group among those who are invited.
GROUP = "group:"
#: How many users createRoom invites at the most: all of it happens in one transaction.
MOST_INVITED = 500
#: Bytes of a new room's name and topic, so that they are refused before anything is written.
LONGEST_DESCRIPTION = 30_000


class RoomWish(Struct, frozen=True):
    """What somebody wants a new room to be.

    :ivar version: the version of its rules; None for what is usual on this server.
    :ivar alias_localpart: the local part of its first alias.
    :ivar invite: user IDs, and `group:` with the name of a group of the maker's presence list.
    """

    version: str | None = None

    is_public: bool = False
    alias_localpart: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: Sequence[str] = ()


class NewRoom(Struct, frozen=True):
    """A room just made."""

    room_id: str
    alias: str | None


class PublicRoom(Struct, frozen=True):
    """An entry of the list of public rooms."""

    room_id: str
    aliases: list[str]
    name: str | None
    topic: str | None
    num_joined_members: int


class PublicRooms(Struct, frozen=True):
    """A page of the list of public rooms; behind the last one comes an empty one."""

    start: str
    end: str
    rooms: list[PublicRoom]


class Rooms:
    """Makes and lists rooms.

    :param usual_version: the version of rooms whose makers do not ask for one.
    :param policy: None if nobody is asked about new rooms.
    """

    def __init__(
        self,
        database: Database,
        creation: EventCreation,
        directory: Directory,
        membership: Membership,
        server_name: str,
        *,
        usual_version: str,
        policy: Policy | None = None,
    ) -> None:
        self._policy = policy
        self._database = database
        self._creation = creation
        self._directory = directory
        self._membership = membership
        self._server_name = server_name
        self._usual_version = usual_version

    async def create(self, requester: Requester, wish: RoomWish, request: Once) -> NewRoom:
        """Make a room. It is made whole, in one transaction, or not at all.

        :raises RoomInUse: the alias is taken.
        """
        invite = await self._with_members(requester.user_id, wish.invite)
        if len(invite) > MOST_INVITED:
            raise BadJson(f"A new room can invite at most {MOST_INVITED} users; invite the others when it is there.")
        if len(f"{wish.name or ''}{wish.topic or ''}".encode()) > LONGEST_DESCRIPTION:
            raise TooLarge(f"Name and topic together may have at most {LONGEST_DESCRIPTION} bytes.")
        alias = None
        if wish.alias_localpart is not None:
            alias = canonical_alias(f"#{alias_localpart(wish.alias_localpart)}:{self._server_name}")
        invitees = dict.fromkeys(canonical_user_id(user_id) for user_id in invite)
        # Who makes a room is in it anyhow.
        invitees.pop(requester.user_id, None)
        from_here = [user_id for user_id in invitees if domain_of(user_id) == self._server_name]
        if self._policy is not None:
            await self._ask_policy(self._policy, requester.user_id, wish, alias, invitees, from_here, request)
        outcome = await self._database.write(
            "create-room", once, request, self._create, requester.user_id, wish, alias, from_here
        )
        room = NewRoom(outcome["room_id"], outcome["alias"])
        await self._invite_from_elsewhere(requester.user_id, room, [name for name in invitees if name not in from_here])
        return room

    async def _ask_policy(
        self,
        policy: Policy,
        user_id: str,
        wish: RoomWish,
        alias: str | None,
        invitees: Collection[str],
        from_here: Sequence[str],
        request: Once,
    ) -> None:
        """See that no policy server minds a new room, or one of the invites that are made with it."""
        about = {
            "version": wish.version or self._usual_version,
            "is_public": wish.is_public,
            "alias": alias,
            "name": wish.name,
            "topic": wish.topic,
            "invite": list(invitees),
        }
        await policy.check(ROOM_CREATION, request, user_id=user_id, room=about)
        for invitee in from_here:
            await policy.check(INVITES, request, user_id=user_id, target=invitee, content={"membership": "invite"})

    async def _with_members(self, user_id: str, invite: Sequence[str]) -> Sequence[str]:
        """The same invites, with the members of groups in the place of the groups (PRES-3).

        :raises NotFound: there is no such group.
        """
        names = [name.removeprefix(GROUP) for name in invite if name.startswith(GROUP)]
        if not names:
            return invite
        groups = await self._database.read("presence-groups", presence_lists.members_of, user_id, names)
        invited: list[str] = []
        for name in invite:
            if not name.startswith(GROUP):
                invited.append(name)
            elif (group := name.removeprefix(GROUP)) in groups:
                invited += groups[group]
            else:
                raise NotFound(f"Your presence list has no group {group!r}.")
        return invited

    async def _invite_from_elsewhere(self, creator: str, room: NewRoom, invitees: Sequence[str]) -> None:
        """Invite users of other servers. The room is there already: an invite that cannot be delivered spoils nothing,
        and can be tried again."""
        for user_id in invitees:
            try:
                await self._membership.invite_from_elsewhere(creator, room.room_id, user_id)
            except MatrixError as error:
                _log.info("an invite was not delivered", room=room.room_id, reason=error.reason or error.message)

    def _create(
        self, txn: Transaction, creator: str, wish: RoomWish, alias: str | None, invitees: Sequence[str]
    ) -> Outcome:
        if alias is not None and directory.find(txn, alias) is not None:
            raise RoomInUse(f"The room alias {alias} is taken.")
        rules = rules_for(wish.version or self._usual_version)
        room = self._creation.found_room(txn, rules, creator, is_public=wish.is_public)
        for draft in opening_events(rules, room.room_id, creator, is_public=wish.is_public):
            self._creation.say(txn, room, draft)
        if alias is not None:
            self._directory.claim(txn, room, alias, creator=creator)
            self._directory.tell(txn, room, creator)
        self._describe(txn, room, creator, wish)
        for invitee in invitees:
            self._membership.change(txn, room, Wish(creator, room.room_id, invitee, {"membership": "invite"}))
        return {"room_id": room.room_id, "alias": alias}

    def _describe(self, txn: Transaction, room: RoomHead, creator: str, wish: RoomWish) -> None:
        for (event_type, _), key, value in ((NAME, "name", wish.name), (TOPIC, "topic", wish.topic)):
            if value is not None:
                draft = description(room.rules, room.room_id, creator, event_type, {key: value})
                self._creation.say(txn, room, draft)

    async def public(self, start: str | None, limit: int) -> PublicRooms:
        """A page of the public rooms that somebody is in.

        :param start: the `end` of the page before; None for the first.
        :raises BadPagination: it is not one.
        """
        after = _parse_list_token(start)
        return await self._database.read("public-rooms", self._public, after, limit)

    def _public(self, txn: Transaction, after: int, limit: int) -> PublicRooms:
        page = rooms.public(txn, after=after, limit=limit)
        end = page[-1].room_nid if page else after
        return PublicRooms(_list_token(after), _list_token(end), _describe_rooms(txn, page))


def _describe_rooms(txn: Transaction, page: Sequence[Room]) -> list[PublicRoom]:
    numbers = [room.room_nid for room in page]
    joined = membership.count_joined(txn, numbers)
    found = state.current_in_slots(txn, numbers, (NAME, TOPIC))
    contents = {stored.event_nid: stored.event.content for stored in events.load(txn, list(found.values()))}

    def text(room: Room, slot: tuple[str, str], key: str) -> str | None:
        event_nid = found.get((room.room_nid, slot))
        value = contents[event_nid].get(key) if event_nid is not None else None
        return value if isinstance(value, str) else None

    return [
        PublicRoom(
            room.room_id,
            directory.of_room(txn, room.room_nid),
            text(room, NAME, "name"),
            text(room, TOPIC, "topic"),
            joined[room.room_nid],
        )
        for room in page
    ]


def _list_token(room_nid: int) -> str:
    return f"p{room_nid}"


def _parse_list_token(text: str | None) -> int:
    if text is None:
        return 0
    number = text.removeprefix("p")
    if not text.startswith("p") or not (number.isascii() and number.isdigit()) or len(number) > 18:
        raise BadPagination("This token was not given out by this server.")
    return int(number)


def to_be_purged(txn: Transaction, room_id: str, *, server_name: str, force: bool) -> Room:
    """A room that may be deleted with everything in it (ROOM-8), locked until the transaction ends.

    :param force: also if users of this server are still in it.
    :raises NotFound: this server does not know the room.
    :raises Forbidden: somebody is still in it.
    """
    room = rooms.find(txn, room_id)
    if room is None:
        raise NotFound(f"This server does not know the room {room_id}.")
    rooms.lock(txn, room)
    suffix = f":{server_name}"
    still_in = [user for user in membership.users_in_room(txn, room.room_nid) if user.endswith(suffix)]
    if still_in and not force:
        raise Forbidden(f"{len(still_in)} users of this server are still in {room_id}, such as {min(still_in)}.")
    return room


def purge(txn: Transaction, room_id: str, *, server_name: str, force: bool) -> tuple[int, int]:
    """Delete such a room; the number of its events, and their bytes. Raises as `to_be_purged`."""
    room = to_be_purged(txn, room_id, server_name=server_name, force=force)
    size = purging.size_of_room(txn, room.room_nid)
    return delete_room(txn, room), size
