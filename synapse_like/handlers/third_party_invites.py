"""Inviting somebody of whom no more is known than an address, and what comes of that (ID-1).

**Inviting.** The identity server is asked whose the address is. If it is somebody's, they are invited. If not, the
invite is left there, and the room is told of it by an m.room.third_party_invite; a room of 2014 knows no such thing,
and there this server alone remembers it (docs/decisions/0017-invites-to-addresses.md).

**Redeeming.** When the address becomes a user's, the identity server tells that user's home server (`told`), which
hands what was signed to the home server of whoever invited, its own self perhaps (`exchange`). That one makes the
invite, in its user's name and by the rules of the room: in a room of Matrix's versions with what was signed in it, for
all servers to check; in a room of 2014 an ordinary one, after having checked it itself. It happens once for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from synapse_like.background import all_of
from synapse_like.clock import Clock
from synapse_like.federation.client import FederationClient
from synapse_like.federation.identity_client import IdentityClient, StoredInvite
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.membership import Membership, Wish
from synapse_like.handlers.room_access import is_inhabited, room_to_act_in
from synapse_like.handlers.room_locks import RoomLocks
from synapse_like.handlers.third_party_ids import LOOKUP, ThirdPartyIds
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import BadJson, Forbidden, MatrixError, NotFound, Unavailable
from synapse_like.protocol.events import Event, EventDraft
from synapse_like.protocol.identifiers import canonical_user_id, domain_of, historical_room_id, parse_room_id
from synapse_like.protocol.membership import INVITE, JOIN
from synapse_like.protocol.third_party_ids import ThirdPartyId
from synapse_like.protocol.third_party_invites import THIRD_PARTY_INVITE, is_signed_by_any, keys_in
from synapse_like.storage import rooms, third_party_ids
from synapse_like.storage.database import Database
from synapse_like.storage.retransmissions import Once, Outcome, once
from synapse_like.storage.rooms import RoomHead
from synapse_like.storage.state import MEMBER
from synapse_like.storage.third_party_ids import AddressInvite
from synapse_like.storage.transactions import Transaction

#: Invites that an identity server may tell of at once; signatures and characters of what it has signed.
MOST_INVITES, MOST_SIGNATURES, LONGEST = 100, 8, 255
#: How long invites are remembered, in milliseconds; longer than identity servers try to tell of them.
KEPT_MS = 365 * 24 * 60 * 60 * 1000
#: How old what it tells may be, and how far its clock may be ahead, in milliseconds.
MOST_OFF_MS = 10 * 60 * 1000
#: What those are who need no invite.
_INVITED = (JOIN, INVITE)
#: Who may not exist, for the question whether somebody may invite at all.
_NOBODY = "@third-party-invite:"

_log = get_logger(__name__)


class _NotYet(Exception):
    """The request is allowed and was not done before."""


class Redemption(Struct, frozen=True):
    """An invite to an address, and the user who turned out to have it.

    :ivar signed: `{mxid, token, signatures}`, by the identity server.
    """

    room_id: str
    sender: str
    signed: Mapping[str, Any]

    @property
    def target(self) -> str:
        """The user to be invited."""
        return str(self.signed["mxid"])

    @property
    def token(self) -> str:
        """What the invite is known by."""
        return str(self.signed["token"])


class ThirdPartyInvites:
    """Invites addresses, and those who turn out to have them.

    :param limit: counts a request of a class for a key, or raises LimitExceeded.
    :param accept_untrusted: whether identity servers that are not trusted may tell of invites.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        creation: EventCreation,
        membership: Membership,
        third_party_ids: ThirdPartyIds,
        client: IdentityClient,
        federation: FederationClient,
        limit: Callable[[str, str], None],
        *,
        accept_untrusted: bool,
    ) -> None:
        self._database = database
        self._clock = clock
        self._creation = creation
        self._membership = membership
        self._ids = third_party_ids
        self._client = client
        self._federation = federation
        self._limit = limit
        self._accept_untrusted = accept_untrusted
        self._server_name = creation.server_name
        self._requests, self._redeeming = RoomLocks(), RoomLocks()

    # Inviting.

    async def invite(
        self, requester: Requester, room_id: str, id_server: str, threepid: ThirdPartyId, request: Once
    ) -> None:
        """Invite whoever has an address, or will have it.

        :param id_server: whom to ask, as the client names it.
        :raises Forbidden: the room does not allow it, or the identity server is not trusted.
        """
        url = self._client.url_of(id_server)
        room_id = parse_room_id(room_id)
        if request.request is None:
            await self._invite(requester, room_id, url, threepid, request)
            return
        # What is sent again while an identity server is still being asked waits for what comes of it.
        async with self._requests.hold(f"{request.token_id} {request.request}"):
            await self._invite(requester, room_id, url, threepid, request)

    async def _invite(
        self, requester: Requester, room_id: str, url: str, threepid: ThirdPartyId, request: Once
    ) -> None:
        sender = requester.user_id
        try:
            await self._database.write("may-invite", once, request, self._check_may_invite, sender, room_id)
            return
        except _NotYet:
            self._limit(LOOKUP, sender)
        found = await self._client.lookup(url, threepid)
        stored = found or await self._client.store_invite(url, threepid, room_id, sender)
        if isinstance(stored, str):
            await self._membership.invite(requester, room_id, stored, None, request)
        else:
            await self._database.write("invite-address", once, request, self._keep, sender, room_id, stored)

    def _check_may_invite(self, txn: Transaction, sender: str, room_id: str) -> NoReturn:
        """See that a user may invite to a room, before anybody is asked or sent anything."""
        room = room_to_act_in(txn, room_id)
        if not is_inhabited(txn, room):
            raise Forbidden("You are not in this room.")
        if room.rules.third_party_invites:
            draft = _draft(sender, room_id, StoredInvite("token", [{"public_key": "", "key_validity_url": ""}], ""))
        else:
            target = f"{_NOBODY}{self._server_name}"
            draft = EventDraft(room_id, MEMBER, sender, {"membership": INVITE}, target)
        self._creation.make(txn, room, draft)
        raise _NotYet

    def _keep(self, txn: Transaction, sender: str, room_id: str, stored: StoredInvite) -> Outcome:
        room = room_to_act_in(txn, room_id)
        if room.rules.third_party_invites:
            self._creation.say(txn, room, _draft(sender, room_id, stored))
        keys = tuple(key["public_key"] for key in stored.public_keys)
        invite = AddressInvite(stored.token, room_id, sender, keys)
        third_party_ids.add_invite(txn, invite, self._clock.now_ms())
        return {}

    # Redeeming: as the home server of who has the address.

    async def told(self, notice: Mapping[str, Any]) -> None:
        """An identity server tells that a user of ours has an address to which there were invites.

        :raises MatrixError: it is not to be believed, or the user is not there.
        :raises Unavailable: some of it could not be done now; it should tell us again.
        """
        mxid = canonical_user_id(_text(notice, "mxid"))
        if domain_of(mxid) != self._server_name or not await self._ids.is_open(mxid):
            raise NotFound("There is no such user here.")
        redemptions = _redemptions(notice, mxid)
        if not self._accept_untrusted and not await self._is_of_trusted(notice):
            # There are identity servers that sign only what others must believe.
            redemptions = [item for item in redemptions if await self._client.is_signed_by_trusted(item.signed)]
            if not redemptions:
                raise Forbidden("This server does not trust that identity server.")
        by_server: dict[str, list[Redemption]] = {}
        for redemption in redemptions:
            by_server.setdefault(domain_of(redemption.sender), []).append(redemption)
        outcomes = await all_of(
            [Deferred.fromCoroutine(self._hand_over(server, some)) for server, some in by_server.items()]
        )
        if not all(outcomes):
            raise Unavailable("Not all of those who invited can be reached at the moment.")

    async def _is_of_trusted(self, notice: Mapping[str, Any]) -> bool:
        """Whether a trusted identity server has signed what is told, for this server, and now."""
        ts = notice.get("ts")
        is_now = type(ts) is int and abs(ts - self._clock.now_ms()) <= MOST_OFF_MS
        is_for_us = notice.get("destination") == self._server_name
        return is_now and is_for_us and await self._client.is_signed_by_trusted(notice)

    async def _hand_over(self, server: str, redemptions: Sequence[Redemption]) -> bool:
        """Have users invited by the server of those who invited; whether that is done, be it by a refusal."""
        is_done = True
        for redemption in redemptions:
            try:
                if server == self._server_name:
                    await self.exchange(self._server_name, redemption)
                else:
                    await self._federation.exchange_third_party_invite(server, redemption.room_id, _event(redemption))
            except MatrixError as error:
                is_final = error.status < 500 and error.status not in (401, 429)
                is_done = is_done and is_final
                _log.info(
                    "an invite to an address does not become one to its owner",
                    server=server,
                    is_final=is_final,
                    reason=error.reason or error.message,
                )
        return is_done

    # Redeeming: as the home server of who invited.

    async def exchange(self, origin: str, redemption: Redemption) -> None:
        """Invite a user in the name of one of ours, who has invited an address that is that user's now.

        :param origin: the server that asks, which must be the user's.
        :raises Forbidden: there was no such invite, or the room does not allow it any more.
        """
        if domain_of(redemption.target) != origin:
            raise Forbidden("A server can speak only for its own users.")
        if domain_of(redemption.sender) != self._server_name:
            raise Forbidden("It was not a user of this server who invited.")
        async with self._redeeming.hold(f"{redemption.room_id} {redemption.token}"):
            content = await self._database.write("redeem-invite", self._content_of_invite, redemption)
            if content is None:
                return
            # Another process may have been told of the same.
            wish = Wish(redemption.sender, redemption.room_id, redemption.target, content, unless=_INVITED)
            await self._membership.invite_as_wished(wish)
            await self._database.write("invite-redeemed", self._redeemed, redemption)

    def _content_of_invite(self, txn: Transaction, redemption: Redemption) -> dict[str, Any] | None:
        """What the invite says; None if it was made already, or is not needed any more."""
        room = rooms.head(txn, redemption.room_id)
        if room is None or not is_inhabited(txn, room):
            raise NotFound("This server is not in the room.")
        known = third_party_ids.find_invite(txn, redemption.token, redemption.room_id)
        if known is not None and known.redeemed_by is not None:
            if known.redeemed_by != redemption.target:
                raise Forbidden("This invite was redeemed by somebody else.")
            return None
        signers, told = self._invited(txn, room, redemption, known)
        if not is_signed_by_any(redemption.signed, signers):
            raise Forbidden("No identity server that was named in the invite has signed this.")
        members = rooms.state_at_head(txn, room, [(MEMBER, redemption.target)])
        present = members.get((MEMBER, redemption.target))
        if present is not None and present.content.get("membership") in _INVITED:
            return None
        if told is None:
            return {"membership": INVITE}
        shown = {"display_name": str(told.content.get("display_name", "")), "signed": dict(redemption.signed)}
        return {"membership": INVITE, "third_party_invite": shown}

    def _invited(
        self, txn: Transaction, room: RoomHead, redemption: Redemption, known: AddressInvite | None
    ) -> tuple[list[str], Event | None]:
        """The keys that may have signed, and the event by which the room knows of the invite, if such rooms do.

        :raises Forbidden: the invite was never sent, or was taken back.
        """
        never = Forbidden("Nobody invited this address, or the invite was taken back.")
        if not room.rules.third_party_invites:
            if known is None or known.sender != redemption.sender:
                raise never
            return list(known.public_keys), None
        slot = (THIRD_PARTY_INVITE, redemption.token)
        told = rooms.state_at_head(txn, room, [slot]).get(slot)
        if told is None or told.sender != redemption.sender:
            raise never
        return list(keys_in(told.content)), told

    async def forget_old(self) -> None:
        """Forget invites that nobody has taken up for a year."""
        before = self._clock.now_ms() - KEPT_MS
        await self._database.write("forget-address-invites", third_party_ids.delete_old_invites, created_before=before)

    def _redeemed(self, txn: Transaction, redemption: Redemption) -> None:
        known = third_party_ids.find_invite(txn, redemption.token, redemption.room_id)
        invite = known or AddressInvite(redemption.token, redemption.room_id, redemption.sender, ())
        third_party_ids.add_invite(txn, replace(invite, redeemed_by=redemption.target), self._clock.now_ms())


def redemption_in(invite: Mapping[str, Any], room_id: str, sender: str) -> Redemption:
    """What somebody else tells of an invite that is to be redeemed, with nothing in it that was not asked for.

    :param invite: has `signed`.
    :raises BadJson: it makes no sense.
    """
    signed = invite.get("signed")
    if not isinstance(signed, Mapping):
        raise BadJson("'signed' must be an object.")
    signatures = signed.get("signatures")
    if not isinstance(signatures, Mapping) or not 1 <= len(signatures) <= MOST_SIGNATURES:
        raise BadJson(f"'signed' must have 1 to {MOST_SIGNATURES} signatures.")
    kept: dict[str, dict[str, str]] = {}
    for name, by_key in signatures.items():
        if not isinstance(by_key, Mapping) or len(by_key) > MOST_SIGNATURES or not _are_short(by_key):
            raise BadJson("'signed' has signatures that are none.")
        kept[str(name)[:LONGEST]] = dict(by_key)
    mxid, token = canonical_user_id(_text(signed, "mxid")), _text(signed, "token")
    # A room knows the invite by what was signed, letter by letter.
    if mxid != signed["mxid"]:
        raise BadJson("'signed' names a user who is not spelled in lower case.")
    is_parsed = historical_room_id(room_id) if ":" in room_id else parse_room_id(room_id)
    return Redemption(is_parsed, canonical_user_id(sender), {"mxid": mxid, "token": token, "signatures": kept})


def _are_short(texts: Mapping[Any, Any]) -> bool:
    return all(isinstance(text, str) and len(text) <= LONGEST for pair in texts.items() for text in pair)


def _redemptions(notice: Mapping[str, Any], mxid: str) -> list[Redemption]:
    """The invites that an identity server tells of; those that make no sense are left out."""
    told = notice.get("invites")
    if not isinstance(told, list) or len(told) > MOST_INVITES:
        raise BadJson(f"'invites' must be a list of at most {MOST_INVITES}.")
    found = []
    for invite in told:
        try:
            redemption = redemption_in(invite, _text(invite, "room_id"), _text(invite, "sender"))
            if redemption.target == mxid:
                found.append(redemption)
        except (BadJson, AttributeError) as error:
            _log.info("an identity server tells of an invite that makes no sense", reason=str(error))
    return found


def _text(value: Any, key: str) -> str:
    text = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(text, str) or len(text) > LONGEST or "\0" in text:
        raise BadJson(f"'{key}' must be a string.")
    return text


def _draft(sender: str, room_id: str, stored: StoredInvite) -> EventDraft:
    content = {
        "display_name": stored.display_name,
        "key_validity_url": stored.public_keys[0]["key_validity_url"],
        "public_key": stored.public_keys[0]["public_key"],
        "public_keys": stored.public_keys,
    }
    return EventDraft(room_id, THIRD_PARTY_INVITE, sender, content, stored.token)


def _event(redemption: Redemption) -> dict[str, Any]:
    """The m.room.member event as far as the invited user's server knows it."""
    shown = {"display_name": "", "signed": dict(redemption.signed)}
    return {
        "type": MEMBER,
        "room_id": redemption.room_id,
        "sender": redemption.sender,
        "state_key": redemption.target,
        "content": {"membership": INVITE, "third_party_invite": shown},
    }
