"""Room aliases: the names of rooms (ROOM-3, ROOM-4)."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from synapse_like.federation.client import FederationClient
from synapse_like.federation.errors import RemoteRefusal, ServerUnreachable
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.room_access import room_to_act_in, room_to_read
from synapse_like.protocol.errors import BadJson, Forbidden, NotFound, RoomInUse
from synapse_like.protocol.events import EventDraft
from synapse_like.protocol.identifiers import domain_of, parse_room_id, parse_server_name
from synapse_like.protocol.power_levels import PowerLevels
from synapse_like.protocol.shapes import string
from synapse_like.storage import directory, membership, room_servers, rooms
from synapse_like.storage.database import Database
from synapse_like.storage.directory import Alias
from synapse_like.storage.rooms import RoomHead
from synapse_like.storage.transactions import Transaction

ALIASES = "m.room.aliases"
#: How many of the servers are remembered that another one names for a room.
MOST_SERVERS = 20


class ResolvedAlias(Struct, frozen=True):
    """Where an alias leads, and the servers through which one can join."""

    room_id: str
    servers: list[str]


def _read_resolved(answer: dict[str, Any], server: str) -> ResolvedAlias:
    """What another server says of an alias.

    :raises ServerUnreachable: nothing that makes sense.
    """
    room_id, servers = answer.get("room_id"), answer.get("servers")
    try:
        room_id = parse_room_id(string("room_id", room_id))
        named = [parse_server_name(string("server", name)) for name in servers] if isinstance(servers, list) else []
    except BadJson as error:
        raise ServerUnreachable(server, error.message) from error
    return ResolvedAlias(room_id, list(dict.fromkeys([*named[:MOST_SERVERS], server])))


class Directory:
    """The aliases of this server, and the way to those of others."""

    def __init__(self, database: Database, creation: EventCreation, client: FederationClient, server_name: str) -> None:
        self._database = database
        self._creation = creation
        self._client = client
        self._server_name = server_name

    async def resolve(self, alias: str) -> ResolvedAlias:
        """Look an alias up, at its own server.

        :raises NotFound: there is no such alias, as far as can be told.
        """
        server = domain_of(alias)
        if server == self._server_name:
            return await self.resolve_here(alias)
        try:
            answer = await self._client.query(server, "directory", {"room_alias": alias})
        except RemoteRefusal as error:
            if error.status == 404:
                raise NotFound(f"There is no room alias {alias}.", reason=error.reason) from error
            raise
        except ServerUnreachable as error:
            raise NotFound(f"The server of the room alias {alias} cannot be reached.", reason=error.reason) from error
        return _read_resolved(answer, server)

    async def resolve_here(self, alias: str) -> ResolvedAlias:
        """Look an alias of this server up.

        :raises NotFound: there is no such alias.
        """
        return await self._database.read("resolve-alias", self._resolve, alias)

    def _resolve(self, txn: Transaction, alias: str) -> ResolvedAlias:
        found = self.find(txn, alias)
        room = rooms.find(txn, found.room_id)
        others = room_servers.in_room(txn, room.room_nid) if room is not None else []
        return ResolvedAlias(found.room_id, sorted([self._server_name, *others]))

    def find(self, txn: Transaction, alias: str) -> Alias:
        """An alias.

        :raises NotFound: there is no such alias.
        """
        found = directory.find(txn, alias)
        if found is None:
            raise NotFound(f"There is no room alias {alias}.")
        return found

    async def add(self, requester: Requester, alias: str, room_id: str) -> None:
        """Let an alias of this server point to a room that the requester is in.

        :raises RoomInUse: the alias is taken.
        """
        await self._database.write("add-alias", self._add_and_tell, requester, alias, room_id)

    def _add_and_tell(self, txn: Transaction, requester: Requester, alias: str, room_id: str) -> None:
        # The membership first: refusals must come before anything is written.
        room_to_read(txn, room_id, requester.user_id)
        room = room_to_act_in(txn, room_id)
        self.claim(txn, room, alias, creator=requester.user_id)
        self.tell(txn, room, requester.user_id)

    def claim(self, txn: Transaction, room: RoomHead, alias: str, *, creator: str) -> None:
        """Take an alias for a room.

        :raises BadJson: it is not an alias of this server.
        :raises RoomInUse: it is taken.
        """
        if domain_of(alias) != self._server_name:
            raise BadJson(f"{alias} is not an alias of this server; ask {domain_of(alias)} for it.")
        if directory.find(txn, alias) is not None:
            raise RoomInUse(f"The room alias {alias} is taken.")
        directory.add(txn, alias, room.room_nid, creator=creator)

    async def delete(self, requester: Requester, alias: str) -> None:
        """Take an alias away: its maker may, an operator of its room, an admin of this server.

        :raises NotFound: there is no such alias.
        :raises Forbidden: it is none of the requester's business.
        """
        await self._database.write("delete-alias", self._delete, requester, alias)

    def _delete(self, txn: Transaction, requester: Requester, alias: str) -> None:
        found = self.find(txn, alias)
        room = room_to_act_in(txn, found.room_id)
        if not self._may_delete(txn, requester, found, room):
            raise Forbidden("Only its maker, an operator of the room or a server admin may delete this alias.")
        directory.delete(txn, alias)
        teller = self._teller(txn, room, requester.user_id)
        if teller is not None:
            self.tell(txn, room, teller)

    def _may_delete(self, txn: Transaction, requester: Requester, alias: Alias, room: RoomHead) -> bool:
        if requester.is_admin or requester.user_id == alias.creator:
            return True
        if membership.in_room(txn, room.room_nid, requester.user_id) != "join":
            return False
        levels = PowerLevels.from_state(room.rules, rooms.state_at_head(txn, room, PowerLevels.slots(room.rules)))
        return levels.user(requester.user_id) >= max(levels.ban, levels.kick)

    def _teller(self, txn: Transaction, room: RoomHead, user_id: str) -> str | None:
        """A user of this server who may send m.room.aliases: any who is joined; None if nobody is left."""
        members = membership.users_in_room(txn, room.room_nid)
        if user_id in members:
            return user_id
        return min((member for member in members if domain_of(member) == self._server_name), default=None)

    def tell(self, txn: Transaction, room: RoomHead, sender: str) -> None:
        """Send the room the whole list of this server's aliases for it (ROOM-4).

        Only where the rules let a server speak of its aliases: later rooms know of them by the directory alone.
        """
        if room.rules.aliases_by_server is None:
            return
        content = {"aliases": directory.of_room(txn, room.room_nid)}
        draft = EventDraft(
            room_id=room.room_id, type=ALIASES, sender=sender, content=content, state_key=self._server_name
        )
        self._creation.say(txn, room, draft)
