"""What other servers want of us about memberships (FED-7): to let their users into rooms that are here, to hear that
they have left, and to take invites for our users.

We put our signature under an event of another server only after every field of it has been looked at that the signature
covers: what is redacted away is not covered, and neither is what `from_pdu` has not checked let through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson
from msgspec import Struct

from synapse_like.background import run_in_background
from synapse_like.handlers import event_pdus, outside_memberships
from synapse_like.handlers.event_checks import CheckedEvent, EventChecks, Lacking, Verdict, read_foreign
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.event_reception import admit
from synapse_like.handlers.policy import INVITES, Policy, about
from synapse_like.handlers.remote_membership import shown_by_others, stripped
from synapse_like.handlers.restricted_rooms import voucher_for
from synapse_like.handlers.room_access import is_inhabited
from synapse_like.handlers.unwanted import check_invite
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import AuthError, BadJson, Forbidden, MatrixError, NotFound
from synapse_like.protocol.events import Event, EventDraft, Pdu
from synapse_like.protocol.identifiers import domain_of, historical_user_id
from synapse_like.protocol.join_rules import VOUCHER
from synapse_like.protocol.membership import INVITE, JOIN, KNOCK, LEAVE
from synapse_like.protocol.membership_templates import write_template
from synapse_like.protocol.room_versions import RoomRules, rules_for
from synapse_like.protocol.shapes import string
from synapse_like.protocol.signing import sign_pdu
from synapse_like.protocol.wire_formats import encode_pdu
from synapse_like.storage import accounts, events, membership, rooms, state, unwanted
from synapse_like.storage.database import Database
from synapse_like.storage.events import Standing
from synapse_like.storage.rooms import RoomHead
from synapse_like.storage.state import MEMBER
from synapse_like.storage.transactions import Transaction

Step = Literal["join", "leave", "knock"]
MEMBERSHIPS: Mapping[Step, str] = {"join": JOIN, "leave": LEAVE, "knock": KNOCK}
#: After what pauses it is looked whether an invite has come into a room that we are in; in seconds.
INVITE_PAUSES = (0.1, 0.3, 1.0, 3.0, 10.0)
#: Keys that old events have at their top and that we do not know otherwise, and what may stand there.
_OF_OLD = ("origin", "membership", "prev_state")

_log = get_logger(__name__)


class _Taken(Struct, frozen=True):
    """An event that was let into its room.

    :ivar before: the snapshot of the state before it.
    """

    room_nid: int
    before: int


class _Invite(Struct, frozen=True):
    """An invite that we have signed.

    :ivar origin: the server that has asked us to.
    :ivar shown: what its user is to see of the room.
    """

    origin: str
    item: CheckedEvent
    shown: Sequence[dict[str, Any]]


class MembershipRequests:
    """Answers servers that are not in a room, for the sake of their users, and takes invites for ours.

    :param policy: None if nobody is asked about invites.
    """

    def __init__(
        self, database: Database, checks: EventChecks, creation: EventCreation, policy: Policy | None = None
    ) -> None:
        self._policy = policy
        self._database = database
        self._checks = checks
        self._creation = creation
        self._server_name = creation.server_name

    # The first step: a template.

    async def template(
        self, origin: str, step: Step, room_id: str, user_id: str, versions: Sequence[str]
    ) -> dict[str, Any]:
        """What the event of a user's coming, going or knocking must name.

        :param versions: of rooms, that the other server knows; empty if it does not say.
        :raises Forbidden: the user is not of that server, or the room does not allow it.
        :raises NotFound: this server is not in the room.
        """
        historical_user_id(user_id)
        if domain_of(user_id) != origin:
            raise Forbidden("A server can speak only for its own users.")
        return await self._database.write_to_room(room_id, "template", self._template, step, room_id, user_id, versions)

    def _template(
        self, txn: Transaction, step: Step, room_id: str, user_id: str, versions: Sequence[str]
    ) -> dict[str, Any]:
        room = self._room(txn, room_id)
        if versions and room.rules.name not in versions:
            raise _incompatible(room.rules.name)
        content: dict[str, Any] = {"membership": MEMBERSHIPS[step]}
        if step == "join":
            content |= voucher_for(txn, room, user_id, self._server_name)
        draft = EventDraft(room.room_id, MEMBER, user_id, content, user_id)
        return {
            "room_version": room.rules.name,
            "event": write_template(room.rules, self._creation.outline(txn, room, draft)),
        }

    # The second: the event.

    async def take(self, origin: str, step: Step, room_id: str, event_id: str, pdu: object) -> bytes:
        """Let the event of a user of another server into its room, and tell the room of it; the answer, in JSON.

        :raises Forbidden: it is not what it must be, or the room does not allow it.
        """
        rules = await self._database.read("room-rules", rooms.rules_of, room_id)
        if rules is None:
            raise _not_here()
        event, kept = read_foreign(rules, pdu)
        self._check_is_theirs(origin, MEMBERSHIPS[step], room_id, event_id, event)
        if event.state_key != event.sender:
            raise Forbidden("The event is about somebody else than its sender.")
        if rules.restricted_joins and event.content.get(VOUCHER) is not None:
            kept = await self._vouch(rules, event, kept)
        checked = await self._checks.check(rules, event, kept)
        if checked.event is not event:
            raise Forbidden("The content of the event does not have the hash that it claims.")
        taken = await self._database.write_to_room(event.room_id, "take-membership", self._take, checked)
        if isinstance(taken, Verdict):
            raise AuthError(taken.refusal or "The room does not allow this any more.")
        return await self._database.read("answer-membership", self._answer, step, taken, checked)

    def _take(self, txn: Transaction, checked: CheckedEvent) -> _Taken | Verdict:
        room = self._room(txn, checked.event.room_id)
        verdict = admit(txn, self._creation.persistence, room, checked, is_ours=True)
        if isinstance(verdict, Lacking):
            raise BadJson("The event names others that are not here.")
        if verdict.standing is not Standing.ACCEPTED:
            return verdict
        [known] = events.known(txn, [checked.event.event_id]).values()
        before, _ = events.snapshots_of(txn, known.event_nid)
        return _Taken(room.room_nid, before or 0)

    def _answer(self, txn: Transaction, step: Step, taken: _Taken, checked: CheckedEvent) -> bytes:
        if step == "leave":
            return b"{}"
        if step == "knock":
            return orjson.dumps({"knock_room_state": self._shown(txn, taken.room_nid)})
        held = state.ids_at(txn, taken.before)
        chain = event_pdus.auth_chain(txn, {*held.values(), *checked.event.auth_events})
        return orjson.dumps(
            {
                "origin": self._server_name,
                "state": event_pdus.fragments(txn, held.values()),
                "auth_chain": event_pdus.fragments(txn, chain),
                "event": orjson.Fragment(checked.pdu),
            }
        )

    def _shown(self, txn: Transaction, room_nid: int) -> list[dict[str, Any]]:
        slots = [(name, "") for name in outside_memberships.SHOWN_TYPES]
        found = state.current_in_slots(txn, [room_nid], slots)
        return [stripped(stored.event) for stored in events.load(txn, list(found.values()))]

    async def _vouch(self, rules: RoomRules, event: Event, pdu: Pdu) -> Pdu:
        """Sign for a member of ours who lets a user in, if that is so."""
        if domain_of(historical_user_id(string("content", event.content[VOUCHER]))) != self._server_name:
            return pdu
        expected = await self._database.write_to_room(event.room_id, "vouch", self._expected_voucher, event)
        if not expected:
            raise Forbidden("Nobody here can let this user in.")
        _check_covered(rules, event)
        return sign_pdu(rules, pdu, self._server_name, self._creation.signing_key)

    def _expected_voucher(self, txn: Transaction, event: Event) -> dict[str, str]:
        return voucher_for(txn, self._room(txn, event.room_id), event.sender, self._server_name)

    # Invites.

    async def take_invite(
        self, origin: str, room_id: str, event_id: str, version: str, pdu: object, shown: object
    ) -> Pdu:
        """Take an invite for a user of ours; the event with our signature.

        :param shown: stripped state events of the room, for the user to see.
        :raises Forbidden: it is not an invite of that server for one of our users.
        """
        try:
            rules = rules_for(version)
        except BadJson as error:
            raise _incompatible(version) from error
        event, kept = read_foreign(rules, pdu)
        self._check_is_theirs(origin, INVITE, room_id, event_id, event)
        invited = event.state_slot[1]
        if ":" not in invited or domain_of(invited) != self._server_name:
            raise Forbidden("The invited user is not of this server.")
        checked = await self._checks.check(rules, event, kept)
        if checked.event is not event:
            raise Forbidden("The content of the event does not have the hash that it claims.")
        _check_covered(rules, event)
        if self._policy is not None:
            await self._policy.check(INVITES, **about(INVITES, event))
        signed = sign_pdu(rules, kept, self._server_name, self._creation.signing_key)
        event, _ = read_foreign(rules, signed)
        item = CheckedEvent(rules, event, encode_pdu(signed))
        invite = _Invite(origin, item, shown_by_others(shown))
        if not await self._database.write("take-invite", self._take_invite, invite):
            run_in_background("wait-for-invite", self._wait_for, invite)
        return signed

    async def _wait_for(self, invite: _Invite) -> None:
        """See that an invite comes into its room. It may be that we are not in it any more by the time, for the other
        server, and that what says so is still under way: then it never comes.
        """
        for pause in INVITE_PAUSES:
            await self._creation.clock.sleep(pause)
            try:
                if await self._database.write("take-invite", self._take_invite, invite):
                    return
            except MatrixError as error:
                # By now the user has come in, or does not want it.
                _log.info("an invite is of no use any more", event_id=invite.item.event.event_id, reason=error.message)
                return

    def _take_invite(self, txn: Transaction, invite: _Invite) -> bool:
        """Let a user know of an invite; False if it has yet to come into its room, as every event of that does."""
        item = invite.item
        event = item.event
        if accounts.find(txn, event.state_slot[1]) is None:
            raise NotFound(f"There is no user {event.state_key} here.")
        known_rules = rooms.rules_of(txn, event.room_id)
        if known_rules is not None and known_rules is not item.rules:
            raise Forbidden("The room has another version.")
        room = rooms.head(txn, event.room_id)
        user_id = event.state_slot[1]
        if unwanted.ignores(txn, user_id, event.sender):
            # Whoever is ignored does not learn it: the invite goes into its room, and the user is not told.
            return True
        present = membership.in_room(txn, room.room_nid, user_id) if room is not None else None
        check_invite(txn, event.sender, user_id, present=present)
        known = events.known(txn, [event.event_id]).get(event.event_id)
        if known is not None and known.is_judged:
            return True
        if room is not None and is_inhabited(txn, room):
            return False
        outside_memberships.begin(txn, item, server=invite.origin, shown=invite.shown)
        return True

    # What they have in common.

    def _room(self, txn: Transaction, room_id: str) -> RoomHead:
        room = rooms.head(txn, room_id)
        if room is None or not is_inhabited(txn, room):
            raise _not_here()
        return room

    def _check_is_theirs(self, origin: str, membership: str, room_id: str, event_id: str, event: Event) -> None:
        if (event.room_id, event.event_id) != (room_id, event_id):
            raise BadJson("The event is not the one that the path names.")
        if event.type != MEMBER or event.state_key is None or event.content.get("membership") != membership:
            raise BadJson(f"The event is not an m.room.member with the membership '{membership}'.")
        if event.domain != origin or event.origin != origin:
            raise Forbidden("A server can speak only for its own users.")


def _not_here() -> MatrixError:
    return NotFound("This server is not in the room.")


def _incompatible(version: str) -> MatrixError:
    return MatrixError(
        400,
        "M_INCOMPATIBLE_ROOM_VERSION",
        "The room has a version that one of the servers does not know.",
        extra={"room_version": version[:64]},
    )


def _check_covered(rules: RoomRules, event: Event) -> None:
    """See that there is nothing in an event that our signature would cover and that we do not know.

    :raises BadJson: there is.
    """
    for name, value in event.extra.items():
        if name not in rules.redaction_keeps:
            continue
        expected = {"origin": event.domain, "membership": event.content.get("membership")}
        if name not in _OF_OLD or (name in expected and value != expected[name]) or (name == "prev_state" and value):
            raise BadJson(f"We do not sign an event with such a '{name}'.")
