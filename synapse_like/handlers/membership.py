"""Coming and going: join, invite, leave, kick, ban, unban, knock (ROOM-6, ROOM-7, MEM).

Whatever way it comes in, a change of membership is one m.room.member event, and the rules of the room decide on it.
What the names add is only which change is meant: a "kick" is not to lift a ban, although both set membership
`leave`.

Most changes are made here, in one transaction. Some take another server: to come into a room that nobody here is in, to
knock on it or to turn down an invite to it, and to invite somebody whose server is not in the room.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec import Struct

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.directory import Directory
from synapse_like.handlers.event_creation import EventCreation, where_of_member
from synapse_like.handlers.policy import INVITES, Policy
from synapse_like.handlers.remote_membership import RemoteMembership
from synapse_like.handlers.restricted_rooms import voucher_for
from synapse_like.handlers.room_access import is_inhabited, room_to_act_in
from synapse_like.handlers.room_locks import RoomLocks
from synapse_like.handlers.unwanted import check_invite
from synapse_like.protocol.contents import check_content
from synapse_like.protocol.errors import Forbidden, MatrixError
from synapse_like.protocol.events import EventDraft
from synapse_like.protocol.identifiers import (
    canonical_alias,
    canonical_user_id,
    domain_of,
    parse_room_id,
    parse_server_name,
)
from synapse_like.protocol.membership import BAN, INVITE, JOIN, KNOCK, LEAVE
from synapse_like.storage import events, outside_memberships, room_servers, rooms, state
from synapse_like.storage.database import Database
from synapse_like.storage.retransmissions import Once, Outcome, once
from synapse_like.storage.rooms import RoomHead
from synapse_like.storage.shared.lanes import Where
from synapse_like.storage.state import MEMBER
from synapse_like.storage.transactions import Transaction

_STANDING = {
    None: "not in this room",
    "leave": "not in this room",
    "ban": "banned from this room; lift the ban instead",
    "join": "not banned from this room",
    "invite": "not banned from this room",
    "knock": "not banned from this room",
}
"""What is told of somebody to whom a thing cannot be done as they are."""


class Elsewhere(Exception):
    """What is wanted takes another server; nothing has been done yet."""


class Wish(Struct, frozen=True):
    """A change of membership that somebody wants.

    :ivar only_from: what the target must be now; None for anything.
    :ivar unless: if the target is one of these by now, nothing is done; for `invite_as_wished`.
    :ivar servers: names of servers that may be in the room, by the client's own word.
    """

    sender: str
    room_id: str
    target: str
    content: Mapping[str, Any]
    required_power_level: int | None = None
    only_from: Collection[str] | None = None
    unless: Collection[str] = ()
    servers: Sequence[str] = ()

    @property
    def where(self) -> Where:
        """Where it is written."""
        return where_of_member(self.room_id, self.target)

    @property
    def membership(self) -> object:
        """What the target is to be."""
        return self.content.get("membership")


class Membership:
    """Changes memberships of rooms.

    :param policy: None if nobody is asked about invites.
    """

    def __init__(
        self,
        database: Database,
        creation: EventCreation,
        directory: Directory,
        remote: RemoteMembership,
        policy: Policy | None = None,
    ) -> None:
        self._policy = policy
        self._database = database
        self._creation = creation
        self._directory = directory
        self._remote = remote
        self._server_name = creation.server_name
        #: What may be sent again while another server is still being asked.
        self._requests = RoomLocks()

    async def join(self, requester: Requester, room: str, request: Once, servers: Sequence[str] = ()) -> str:
        """Join a room by its ID or an alias; the ID of the room.

        :param servers: names of servers that may be in the room.
        :raises NotFound: there is no such room or alias.
        """
        user_id = requester.user_id
        name = canonical_alias(room) if room.startswith("#") else parse_room_id(room)
        try:
            if name.startswith("#"):
                outcome = await self._database.write("join", once, request, self._join, user_id, name)
            else:
                outcome = await self._database.write_to_room(
                    where_of_member(name, user_id), "join", once, request, self._join, user_id, name
                )
        except Elsewhere:
            room_id = name
            if name.startswith("#"):
                found = await self._directory.resolve(name)
                room_id, servers = found.room_id, (*found.servers, *servers)
            outcome = await self._join_elsewhere(Wish(user_id, room_id, user_id, {}, servers=servers), request)
        joined: str = outcome["room_id"]
        return joined

    def _join(self, txn: Transaction, user_id: str, name: str) -> Outcome:
        if name.startswith("#") and domain_of(name) != self._server_name:
            raise Elsewhere
        room_id = self._directory.find(txn, name).room_id if name.startswith("#") else name
        room = rooms.head(txn, room_id)
        if room is None or not self._is_here(txn, room):
            raise Elsewhere
        if self._present(txn, room, user_id) != JOIN:
            content = {"membership": JOIN, **voucher_for(txn, room, user_id, self._server_name)}
            self.change(txn, room, Wish(user_id, room_id, user_id, content))
        return {"room_id": room_id}

    async def _join_elsewhere(self, wish: Wish, request: Once) -> Outcome:
        named = await self._database.write_to_room(wish.room_id, "ways-in", self._ways_in, wish)
        if named is not None:
            content = {key: value for key, value in wish.content.items() if key != "membership"}
            await self._remote.join(wish.target, wish.room_id, named, content)
        return await self._database.write_to_room(
            wish.room_id, "join", once, request, self._join, wish.target, wish.room_id
        )

    def _ways_in(self, txn: Transaction, wish: Wish) -> list[str] | None:
        """The servers through which one may come into a room; None if it is here."""
        room = rooms.head(txn, wish.room_id)
        return None if room is not None and self._is_here(txn, room) else self._servers(txn, wish)

    async def invite(self, requester: Requester, room_id: str, user_id: str, reason: str | None, request: Once) -> None:
        """Invite a user."""
        await self._set(requester, room_id, user_id, INVITE, reason, request)

    async def leave(self, requester: Requester, room_id: str, request: Once) -> None:
        """Leave a room, turn an invite down, or take a knock back."""
        await self._set(requester, room_id, requester.user_id, LEAVE, None, request)

    async def kick(self, requester: Requester, room_id: str, user_id: str, reason: str | None, request: Once) -> None:
        """Make somebody leave, or take back their invite, or turn down their knock."""
        await self._set(requester, room_id, user_id, LEAVE, reason, request, only_from=(JOIN, INVITE, KNOCK))

    async def ban(self, requester: Requester, room_id: str, user_id: str, reason: str | None, request: Once) -> None:
        """Ban somebody."""
        await self._set(requester, room_id, user_id, "ban", reason, request)

    async def unban(self, requester: Requester, room_id: str, user_id: str, reason: str | None, request: Once) -> None:
        """Lift a ban."""
        await self._set(requester, room_id, user_id, LEAVE, reason, request, only_from=(BAN,))

    async def _set(
        self,
        requester: Requester,
        room_id: str,
        user_id: str,
        membership: str,
        reason: str | None,
        request: Once,
        *,
        only_from: Collection[str] | None = None,
    ) -> None:
        content = {"membership": membership} | ({} if reason is None else {"reason": reason})
        target = canonical_user_id(user_id)
        wish = Wish(requester.user_id, parse_room_id(room_id), target, content, only_from=only_from)
        await self.put(wish, request)

    async def take_out(self, user_id: str, room_id: str) -> None:
        """Have a user leave a room whose account is closed, so that no token of theirs asks for it."""
        wish = Wish(user_id, room_id, user_id, {"membership": LEAVE})
        try:
            await self._database.write_to_room(room_id, "membership", self._put, wish)
        except Elsewhere:
            await self._remote.leave(user_id, room_id)

    async def put(self, wish: Wish, request: Once) -> str:
        """Make a change of membership, here or with the help of another server; the ID of the event."""
        await self._ask_policy(wish, request)
        try:
            outcome = await self._database.write_to_room(wish.where, "membership", once, request, self._put, wish)
        except Elsewhere:
            outcome = await self._put_in_turn(wish, request)
        event_id: str = outcome["event_id"]
        return event_id

    async def _put_in_turn(self, wish: Wish, request: Once) -> Outcome:
        """Make a change with the help of another server; if it is being made already, wait for what comes of that."""
        if request.request is None:
            return await self._put_elsewhere(wish, request)
        async with self._requests.hold(f"{request.token_id} {request.request}"):
            try:
                return await self._database.write_to_room(wish.where, "membership", once, request, self._put, wish)
            except Elsewhere:
                try:
                    return await self._put_elsewhere(wish, request)
                except MatrixError as refusal:
                    if not self._database.is_shared:
                        raise
                    return await self._made_meanwhile(wish, request, refusal)

    async def _made_meanwhile(self, wish: Wish, request: Once, refusal: MatrixError) -> Outcome:
        """What another process has made of the same request, which is why it was refused here; or that refusal."""
        try:
            return await self._database.write_to_room(wish.where, "membership", once, request, self._put, wish)
        except Elsewhere:
            raise refusal from None

    def _put(self, txn: Transaction, wish: Wish) -> Outcome:
        room = rooms.head(txn, wish.room_id)
        is_own = wish.sender == wish.target and wish.membership in (JOIN, LEAVE, KNOCK)
        if is_own and (room is None or not self._is_here(txn, room)):
            raise Elsewhere
        room = room_to_act_in(txn, wish.room_id)
        if wish.membership == INVITE and self._needs_telling(txn, room, wish.target):
            raise Elsewhere
        return {"event_id": self.change(txn, room, wish)}

    def _needs_telling(self, txn: Transaction, room: RoomHead, user_id: str) -> bool:
        """Must the server of an invited user be told, as it is not in the room?"""
        server = domain_of(canonical_user_id(user_id))
        return server != self._server_name and server not in room_servers.present(txn, room)

    async def _put_elsewhere(self, wish: Wish, request: Once) -> Outcome:
        if wish.membership == INVITE:
            return await self._invite_elsewhere(wish, request)
        if wish.membership == JOIN:
            await self._join_elsewhere(wish, Once(request.token_id, None, request.now_ms))
            return await self._database.write_to_room(
                wish.room_id, "membership", once, request, self._membership_event, wish
            )
        if wish.membership == KNOCK:
            named = await self._database.read("servers-of-room", self._servers, wish)
            content = {key: value for key, value in wish.content.items() if key != "membership"}
            await self._remote.knock(wish.target, wish.room_id, named, content)
            return await self._database.write_to_room(
                wish.room_id, "membership", once, request, self._membership_event, wish
            )
        await self._remote.leave(wish.target, wish.room_id)
        return await self._database.write_to_room(
            wish.room_id, "membership", once, request, self._membership_event, wish
        )

    async def _invite_elsewhere(self, wish: Wish, request: Once) -> Outcome:
        made = await self._remote.invite(self._draft(wish))

        def admit(txn: Transaction) -> Outcome:
            self._remote.admit_invite(txn, made)
            return {"event_id": made.event.event_id}

        return await self._database.write_to_room(wish.room_id, "invite", once, request, admit)

    async def invite_from_elsewhere(self, sender: str, room_id: str, user_id: str) -> None:
        """Invite a user whose server is not in the room; raises what `RemoteMembership.invite` does."""
        wish = Wish(sender, room_id, user_id, {"membership": INVITE})
        await self._ask_policy(wish)
        await self._invite_by_their_server(wish)

    async def invite_as_wished(self, wish: Wish) -> None:
        """Invite a user, of here or from elsewhere, though it is not a client that asks for it now."""
        await self._ask_policy(wish)
        try:
            await self._database.write_to_room(wish.room_id, "invite", self._put_unless, wish)
        except Elsewhere:
            await self._invite_by_their_server(wish)

    def _put_unless(self, txn: Transaction, wish: Wish) -> None:
        if not self._is_needless(txn, wish):
            self._put(txn, wish)

    def _is_needless(self, txn: Transaction, wish: Wish) -> bool:
        """Has somebody else done what is wished, such as another process?"""
        room = rooms.head(txn, wish.room_id) if wish.unless else None
        return room is not None and self._present(txn, room, wish.target) in wish.unless

    async def _ask_policy(self, wish: Wish, request: Once | None = None) -> None:
        """See that no policy server minds an invite; other changes are not asked about."""
        if self._policy is not None and wish.membership == INVITE:
            about: dict[str, Any] = {
                "user_id": wish.sender,
                "room_id": wish.room_id,
                "target": wish.target,
                "content": wish.content,
            }
            await self._policy.check(INVITES, request, **about)

    async def _invite_by_their_server(self, wish: Wish) -> None:
        made = await self._remote.invite(self._draft(wish))

        def admit(txn: Transaction) -> None:
            if not self._is_needless(txn, wish):
                self._remote.admit_invite(txn, made)

        await self._database.write_to_room(wish.room_id, "invite", admit)

    def _membership_event(self, txn: Transaction, wish: Wish) -> Outcome:
        """The event that says what a user is to a room now."""
        room = rooms.find(txn, wish.room_id)
        nids = state.current_in_slots(txn, [room.room_nid], [(MEMBER, wish.target)]) if room is not None else {}
        if not nids:
            raise Forbidden("You are not in this room.")
        [stored] = events.load(txn, list(nids.values()))
        return {"event_id": stored.event.event_id}

    def change(self, txn: Transaction, room: RoomHead, wish: Wish) -> str:
        """Send the m.room.member event of a change; its ID. Every way in that ends here ends in this room."""
        # Who is not in the room is told by its rules, and learns nothing of the target.
        if wish.only_from is not None and self._present(txn, room, wish.sender) == JOIN:
            present = self._present(txn, room, wish.target)
            if present not in wish.only_from:
                raise Forbidden(f"{wish.target} is {_STANDING[present]}.")
        check_content(room.rules, MEMBER, wish.content, state_key=wish.target)
        if wish.membership == INVITE and self._present(txn, room, wish.sender) == JOIN:
            self._check_wanted(txn, room, wish)
        return self._creation.say(txn, room, self._draft(wish)).event.event_id

    def _check_wanted(self, txn: Transaction, room: RoomHead, wish: Wish) -> None:
        """See that a user of ours takes the invites of who invites; a user of another server is for that to ask."""
        if domain_of(wish.target) == self._server_name:
            check_invite(txn, wish.sender, wish.target, present=self._present(txn, room, wish.target))

    def _draft(self, wish: Wish) -> EventDraft:
        return EventDraft(
            room_id=wish.room_id,
            type=MEMBER,
            sender=wish.sender,
            content=wish.content,
            state_key=wish.target,
            required_power_level=wish.required_power_level,
        )

    def _is_here(self, txn: Transaction, room: RoomHead) -> bool:
        """Can this server make events for a room: because it is in it, or because no other server is?"""
        return is_inhabited(txn, room) or not room_servers.present(txn, room)

    def _servers(self, txn: Transaction, wish: Wish) -> list[str]:
        """The servers through which one may come into a room, those that are likeliest to help first."""
        named = list(wish.servers)
        room = rooms.find(txn, wish.room_id)
        if room is not None:
            outside = outside_memberships.find(txn, room.room_nid, wish.target)
            if outside is not None:
                named = [outside.server, *named]
            named += room_servers.in_room(txn, room.room_nid)
        if ":" in wish.room_id:
            named.append(parse_server_name(domain_of(wish.room_id)))
        return list(dict.fromkeys(named))

    def _present(self, txn: Transaction, room: RoomHead, user_id: str) -> str | None:
        event = rooms.state_at_head(txn, room, [(MEMBER, user_id)]).get((MEMBER, user_id))
        present: str | None = event.content["membership"] if event is not None else None
        return present
