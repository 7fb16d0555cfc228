"""Coming into rooms that live elsewhere, knocking on them, leaving them, and inviting people from elsewhere (FED-7).

A server that is not in a room cannot make events for it alone. It asks one that is in the room for a template
(`make_join` and its like), makes the event, and hands it over (`send_join`); for a join it is given the state of the
room with everything that it rests on, all of which is checked as what it is: a stranger's word. Several servers are
tried.

An invite goes the other way: the invited user's server signs it, too, so that it is sure to have heard of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar

from msgspec import Struct

from synapse_like.federation.client import FederationClient
from synapse_like.federation.errors import RemoteRefusal, ServerUnreachable
from synapse_like.handlers import outside_memberships, room_state
from synapse_like.handlers.event_checks import CheckedEvent, EventChecks, Verdict, read_foreign
from synapse_like.handlers.event_creation import ID_BYTES, EventCreation, MadeEvent
from synapse_like.handlers.event_reception import admit
from synapse_like.handlers.joins import Joins
from synapse_like.handlers.outliers import store_outliers
from synapse_like.handlers.room_access import is_inhabited
from synapse_like.handlers.room_deletion import delete_room
from synapse_like.handlers.room_locks import RoomLocks
from synapse_like.logs import get_logger
from synapse_like.protocol.authorisation import auth_types_for, authorise
from synapse_like.protocol.building import build
from synapse_like.protocol.canonical_json import decode
from synapse_like.protocol.errors import BadJson, Forbidden, MatrixError, NotFound
from synapse_like.protocol.events import Event, EventDraft, Pdu, StateSlot
from synapse_like.protocol.identifiers import domain_of
from synapse_like.protocol.join_rules import VOUCHER
from synapse_like.protocol.membership import BAN, JOIN, LEAVE
from synapse_like.protocol.membership_templates import hashes_told, read_template
from synapse_like.protocol.room_versions import ALL_RULES, RoomRules, rules_for
from synapse_like.protocol.state_resolution import StateIds
from synapse_like.protocol.wire_formats import encode_pdu
from synapse_like.storage import events, profiles, rooms
from synapse_like.storage import outside_memberships as stored_outside
from synapse_like.storage import state as stored_state
from synapse_like.storage.database import Database
from synapse_like.storage.events import Standing, StoredEvent
from synapse_like.storage.profiles import Profile
from synapse_like.storage.rooms import RoomHead
from synapse_like.storage.state import MEMBER
from synapse_like.storage.transactions import Transaction

#: How many servers are tried.
MOST_SERVERS = 8
#: How long a server is given to hear that somebody had left, in seconds, before it is asked again to let them in.
PAUSES = (0.5, 1.0, 2.0)
#: How many stripped state events of a room are kept to be shown.
MOST_SHOWN = 50
#: The version of a room whose server does not say it (server-server API, "GET /make_join").
UNSAID_VERSION = "1"

Step = Literal["join", "leave", "knock"]
Result = TypeVar("Result")
_log = get_logger(__name__)


class _Made(Struct, frozen=True):
    """An event that is to be handed over.

    :ivar profile: of its user, as it was when the event was made.
    """

    rules: RoomRules
    event: Event
    pdu: Pdu
    profile: Profile


class RemoteMembership:
    """Changes memberships of our users in rooms that live elsewhere, and of others in rooms that live here."""

    def __init__(
        self,
        database: Database,
        client: FederationClient,
        checks: EventChecks,
        creation: EventCreation,
        locks: RoomLocks,
        joins: Joins,
    ) -> None:
        self._database = database
        self._client = client
        self._checks = checks
        self._creation = creation
        self._locks = locks
        self._joins = joins
        self._server_name = creation.server_name

    # Coming in.

    async def join(self, user_id: str, room_id: str, servers: Sequence[str], content: dict[str, Any]) -> None:
        """Join a room through one of some servers; nothing happens if this server is in it by now.

        :param content: of the m.room.member event, beside the membership.
        :raises Forbidden: the room does not let the user in.
        :raises NotFound: none of the servers is in the room, or there is none to ask.
        :raises ServerUnreachable: none of them could be reached.
        """
        async with self._locks.hold(room_id):
            if await self._database.write_to_room(room_id, "is-here", self._is_here, room_id):
                # Somebody else came in while we waited; from now on joins are made here.
                return
            await self._first_that_works(
                servers, lambda server: self._join_through(server, user_id, room_id, {**content, "membership": JOIN})
            )

    def _is_here(self, txn: Transaction, room_id: str) -> bool:
        room = rooms.head(txn, room_id)
        return room is not None and is_inhabited(txn, room)

    async def _join_through(self, server: str, user_id: str, room_id: str, content: dict[str, Any]) -> None:
        made, end = await self._make_join(server, user_id, room_id, content)
        # From now on it sends us what happens there.
        async with self._joins.under_way(room_id):
            await self._be_let_in(server, user_id, room_id, made, end)

    async def _be_let_in(self, server: str, user_id: str, room_id: str, made: _Made, end: Event | None) -> None:
        answer = await self._client.send_membership(server, "join", room_id, made.event.event_id, made.pdu)
        join = await self._countersigned(made, answer.get("event"))
        state = await self._checks.read_many(made.rules, room_id, _pdus(answer, "state"))
        read = await self._checks.read_many(made.rules, room_id, _pdus(answer, "auth_chain")) | state
        if end is not None and end.event_id not in read:
            raise _is_behind(server, end)
        known = await self._database.read("known-events", events.known, list(read))
        unknown = [pair for event_id, pair in read.items() if event_id not in known]
        checked = await self._checks.check_many(made.rules, unknown, relayed_by=server)
        held = {event.state_slot: event_id for event_id, (event, _) in state.items() if event.is_state}

        def enter(txn: Transaction) -> None:
            txn.hold_room(room_id)
            self._enter(txn, join, checked, held)
            if profiles.find(txn, user_id) != made.profile:
                # It has changed on the way, when this was not yet one of the user's rooms.
                profiles.begin_telling(txn, user_id)

        await self._database.write("enter-room", enter)
        _log.info("joined a room", room=room_id, server=server, state=len(held))

    async def _make_join(
        self, server: str, user_id: str, room_id: str, content: dict[str, Any]
    ) -> tuple[_Made, Event | None]:
        """The join of a user who comes, or comes back; and how their last stay ended, as far as is known here.

        A server that has not heard of that end would let them in as if they had never gone. What we say would come
        before the end in its history, and after it in that of others, so that they would never agree.
        """
        pauses = iter(PAUSES)
        while True:
            made = await self._make("join", server, user_id, room_id, content)
            # Not before: that a ban was lifted may have come here while the other server was asked.
            end = await self._database.read("end-of-stay", self._end_of_stay, user_id, room_id)
            if end is None or end.event_id in made.event.auth_events:
                return made, end
            if not await self._database.read("is-all-here", self._is_all_here, made.event.auth_events):
                # What came after the end is not here yet, and the join rests on it.
                return made, end
            pause = next(pauses, None)
            if pause is None:
                raise _is_behind(server, end)
            await self._creation.clock.sleep(pause)

    def _end_of_stay(self, txn: Transaction, user_id: str, room_id: str) -> Event | None:
        """The event by which a user left a room, or was put out."""
        room = rooms.find(txn, room_id)
        held = stored_state.current_in_slots(txn, [room.room_nid], [(MEMBER, user_id)]) if room is not None else {}
        for stored in events.load(txn, list(held.values())):
            known = events.known(txn, [stored.event.event_id])[stored.event.event_id]
            if stored.event.content["membership"] in (LEAVE, BAN) and known.snapshot_after is not None:
                return stored.event
        return None

    def _is_all_here(self, txn: Transaction, event_ids: Sequence[str]) -> bool:
        return events.known(txn, event_ids).keys() >= set(event_ids)

    async def _countersigned(self, made: _Made, returned: object) -> CheckedEvent:
        """The join as it entered the room: with the signature of a member's server, where one had to vouch."""
        if VOUCHER not in made.event.content:
            return CheckedEvent(made.rules, made.event, encode_pdu(made.pdu))
        event, pdu = read_foreign(made.rules, returned)
        if {**pdu, "signatures": {}} != {**made.pdu, "signatures": {}}:
            raise BadJson("The other server has changed our event.")
        return await self._checks.check(made.rules, event, pdu)

    def _enter(self, txn: Transaction, join: CheckedEvent, checked: Sequence[CheckedEvent], held: StateIds) -> None:
        """Come into a room: with a state that another server tells, and the event by which we came."""
        event = join.event
        room_nid = self._room_to_enter(txn, event.room_id, join.rules)
        store_outliers(txn, room_nid, checked)
        state = _usable(txn, room_nid, checked, held)
        # Whoever lets us in must be able to say why; it cannot lead us into a room that does not exist.
        slots = auth_types_for(join.rules, event)
        authorise(join.rules, event, {slot: state[slot].event for slot in slots if slot in state})
        ids = {slot: found.event.event_id for slot, found in state.items()}
        for user_id in {event.sender, *(slot[1] for slot in ids if slot[0] == MEMBER)}:
            if user_id.endswith(f":{self._server_name}"):
                stored_outside.delete(txn, room_nid, user_id)
        room = rooms.enter(txn, event.room_id)
        if is_inhabited(txn, room):
            # Somebody else has come in meanwhile, and the room has gone on here.
            self._admit(txn, room, join, bridge=ids)
            return
        before = room_state.keep(txn, room, ids, [room.snapshot])
        stored = self._creation.persistence.enter(txn, room, event, join.pdu, before, state)
        rooms.add_gaps(txn, room, stored.event_nid, events.unplaced(txn, event.prev_events), is_news=False)

    def _room_to_enter(self, txn: Transaction, room_id: str, rules: RoomRules) -> int:
        """The number of a room that we come into.

        Of a room that nobody here was ever in, the version is known by the word of whoever invited somebody, and that
        may have been a lie.
        """
        room, known = rooms.find(txn, room_id), rooms.rules_of(txn, room_id)
        if room is not None and known is not None and known is not rules:
            if rooms.is_entered(txn, room.room_nid):
                raise Forbidden("The room has another version here.")
            _log.warning("a room has another version than was said", room=room_id, said=known.name, version=rules.name)
            delete_room(txn, room)
        return rooms.know(txn, room_id, rules)

    # Knocking, and leaving what one was never in.

    async def knock(self, user_id: str, room_id: str, servers: Sequence[str], content: dict[str, Any]) -> None:
        """Ask to be let into a room; raises what `join` does."""

        async def knock_through(server: str) -> None:
            made = await self._make("knock", server, user_id, room_id, {**content, "membership": "knock"})
            answer = await self._client.send_membership(server, "knock", room_id, made.event.event_id, made.pdu)
            shown = shown_by_others(answer.get("knock_room_state"))
            item = CheckedEvent(made.rules, made.event, encode_pdu(made.pdu))

            def begin(txn: Transaction) -> None:
                outside_memberships.begin(txn, item, server=server, shown=shown)

            await self._database.write("knock", begin)

        async with self._locks.hold(room_id):
            await self._first_that_works(servers, knock_through)

    async def leave(self, user_id: str, room_id: str) -> None:
        """Turn down an invite to a room that we are not in, or take back a knock.

        If no server that is in the room can be reached, the user is rid of it all the same.

        :raises NotFound: there is nothing of the kind.
        """
        async with self._locks.hold(room_id):
            rules, known, servers = await self._database.read("outside", self._outside, user_id, room_id)

            async def leave_through(server: str) -> CheckedEvent:
                made = await self._make("leave", server, user_id, room_id, {"membership": LEAVE})
                await self._client.send_membership(server, "leave", room_id, made.event.event_id, made.pdu)
                return CheckedEvent(rules, made.event, encode_pdu(made.pdu))

            try:
                item = await self._first_that_works(servers, leave_through)
            except MatrixError as error:
                _log.info("left without telling the room", room=room_id, reason=error.reason or error.message)
                item = self._leave_unheard(rules, known)

            def end(txn: Transaction) -> None:
                # It may be ended from elsewhere at the same time.
                txn.hold_room(room_id)
                if stored_outside.find(txn, rooms.know(txn, room_id, rules), user_id) is not None:
                    outside_memberships.end(txn, item)

            await self._database.write("leave", end)

    def _outside(self, txn: Transaction, user_id: str, room_id: str) -> tuple[RoomRules, Event, list[str]]:
        room, rules = rooms.find(txn, room_id), rooms.rules_of(txn, room_id)
        outside = stored_outside.find(txn, room.room_nid, user_id) if room is not None else None
        if outside is None or rules is None:
            raise Forbidden("You are not in this room.")
        [stored] = events.load(txn, [outside.event_nid])
        return rules, stored.event, list(dict.fromkeys([outside.server, stored.event.domain]))

    def _leave_unheard(self, rules: RoomRules, known: Event) -> CheckedEvent:
        """The event by which a user leaves what nobody could be told of; it never goes anywhere."""
        draft = EventDraft(known.room_id, MEMBER, known.state_slot[1], {"membership": LEAVE}, known.state_key)
        event, pdu = self._build(rules, draft, known)
        return CheckedEvent(rules, event, encode_pdu(pdu))

    # Inviting.

    async def invite(self, draft: EventDraft) -> MadeEvent:
        """Make an invite of another server's user, and have that server sign it.

        :return: the event as it shall enter the room; `admit_invite` lets it.
        :raises Forbidden: the room does not allow it, or the other server does not.
        :raises ServerUnreachable: the other server does not answer.
        """
        made, rules, shown = await self._database.write_to_room(draft.room_id, "make-invite", self._make_invite, draft)
        pdu = decode(made.pdu)
        assert isinstance(pdu, dict)
        server = domain_of(made.event.state_slot[1])
        answer = await self._client.invite(server, draft.room_id, made.event.event_id, rules.name, pdu, shown)
        event, returned = read_foreign(rules, answer["event"])
        if {**returned, "signatures": {}} != {**pdu, "signatures": {}}:
            raise BadJson(f"{server} has changed our event.")
        await self._checks.check(rules, event, returned, also_by=server)
        return MadeEvent(event, encode_pdu(returned), made.replaced, made.before)

    def _make_invite(self, txn: Transaction, draft: EventDraft) -> tuple[MadeEvent, RoomRules, list[dict[str, Any]]]:
        room = rooms.head(txn, draft.room_id)
        if room is None:
            raise Forbidden("You are not in this room.")
        made = self._creation.make(txn, room, draft)
        slots = [*((name, "") for name in outside_memberships.SHOWN_TYPES), (MEMBER, draft.sender)]
        shown = rooms.state_at_head(txn, room, slots).values()
        return made, room.rules, [stripped(event) for event in shown]

    def admit_invite(self, txn: Transaction, made: MadeEvent) -> None:
        """Let an invite into its room that the other server has signed.

        :raises Forbidden: the room does not allow it any more.
        """
        room = rooms.head(txn, made.event.room_id)
        if room is None:
            raise Forbidden("You are not in this room.")
        self._admit(txn, room, CheckedEvent(room.rules, made.event, made.pdu), is_ours=True)

    def _admit(
        self,
        txn: Transaction,
        room: RoomHead,
        item: CheckedEvent,
        *,
        bridge: StateIds | None = None,
        is_ours: bool = False,
    ) -> None:
        """Let an event of ours into its room that another server has let in, or signed.

        :raises Forbidden: the room does not allow it any more.
        """
        verdict = admit(txn, self._creation.persistence, room, item, bridge=bridge, is_ours=is_ours)
        if not isinstance(verdict, Verdict) or verdict.standing is not Standing.ACCEPTED:
            raise Forbidden("The room has changed meanwhile, and does not allow this any more.")

    # What they have in common.

    async def _make(self, step: Step, server: str, user_id: str, room_id: str, content: dict[str, Any]) -> _Made:
        """Make the event of a step, from the template that a server in the room gives."""
        profile = await self._database.read("profile", profiles.find, user_id)
        content = {**profile.content(), **content}
        versions = [rules.name for rules in ALL_RULES]
        answer = await self._client.make_membership(server, step, room_id, user_id, versions)
        rules = rules_for(answer.get("room_version") or UNSAID_VERSION)
        draft = EventDraft(room_id, MEMBER, user_id, content, user_id)
        template = read_template(rules, answer["event"], draft, self._server_name)
        voucher = template.content.get(VOUCHER)
        if rules.restricted_joins and step == "join" and isinstance(voucher, str):
            draft = EventDraft(room_id, MEMBER, user_id, {**content, VOUCHER: voucher}, user_id)
        event, pdu = self._build(rules, draft, template)
        read_foreign(rules, pdu)
        return _Made(rules, event, pdu, profile)

    def _build(self, rules: RoomRules, draft: EventDraft, template: Event) -> tuple[Event, Pdu]:
        """Finish an event: its own words and what it names from a template, and nothing else."""
        return build(
            rules,
            draft,
            local_id=secrets.token_urlsafe(ID_BYTES),
            origin=self._server_name,
            origin_server_ts=self._creation.clock.now_ms(),
            depth=template.depth,
            prev_events=template.prev_events,
            auth_events=template.auth_events,
            replaces=template.replaces_state,
            power_level=template.power_level or 0,
            key=self._creation.signing_key,
            reference_hashes=hashes_told(template),
        )

    async def _first_that_works(self, servers: Sequence[str], attempt: Callable[[str], Awaitable[Result]]) -> Result:
        """Try one server after another.

        :raises MatrixError: what the most telling failure was: a refusal tells more than silence.
        """
        failure: MatrixError | None = None
        for server in [name for name in dict.fromkeys(servers) if name != self._server_name][:MOST_SERVERS]:
            try:
                return await attempt(server)
            except MatrixError as error:
                _log.info("a server did not help", server=server, reason=error.reason or error.message)
                if failure is None or _tells_more(error, failure):
                    failure = error
        if failure is None:
            raise NotFound("No server is known that is in this room.")
        if isinstance(failure, RemoteRefusal) and failure.status == 403:
            raise Forbidden(failure.message, reason=failure.reason) from failure
        raise failure


def _is_behind(server: str, end: Event) -> MatrixError:
    """Why a server cannot let somebody in again that has not heard of the end of their last stay."""
    reason = f"{server} has not heard of {end.event_id}"
    if end.content["membership"] == BAN:
        return Forbidden("You are banned from this room.", reason=reason)
    return MatrixError(
        502, "M_UNREACHABLE", f"{server} has not heard yet that you left. Please try again later.", reason=reason
    )


def _tells_more(error: MatrixError, than: MatrixError) -> bool:
    if isinstance(than, ServerUnreachable):
        return not isinstance(error, ServerUnreachable)
    return error.status == 403 and than.status != 403


def stripped(event: Event) -> dict[str, Any]:
    """What somebody outside is shown of a state event (server-server API, "Stripped state")."""
    return {"type": event.type, "state_key": event.state_key, "content": event.content, "sender": event.sender}


def shown_by_others(value: object) -> list[dict[str, Any]]:
    """Stripped state events that another server shows, as far as they are any."""
    listed = value if isinstance(value, list) else []
    names = ("type", "state_key", "sender")
    return [
        {name: item[name] for name in (*names, "content")}
        for item in listed[:MOST_SHOWN]
        if isinstance(item, dict)
        and all(isinstance(item.get(name), str) for name in names)
        and isinstance(item.get("content"), dict)
    ]


def _usable(
    txn: Transaction, room_nid: int, checked: Sequence[CheckedEvent], held: StateIds
) -> dict[StateSlot, StoredEvent]:
    """Those of the events of a state that are here and count.

    :param checked: what has just been stored, so that it need not be read.
    """
    known = {
        event_id: item
        for event_id, item in events.known(txn, held.values()).items()
        if item.standing is not Standing.REJECTED and item.room_nid == room_nid
    }
    usable = {
        item.event.event_id: StoredEvent(known[item.event.event_id].event_nid, room_nid, None, item.event)
        for item in checked
        if item.event.event_id in known
    }
    usable |= events.by_ids(txn, known.keys() - usable.keys())
    return {slot: usable[event_id] for slot, event_id in held.items() if event_id in usable}


def _pdus(answer: dict[str, Any], key: str) -> list[Pdu]:
    """A list of PDUs in an answer.

    :raises BadJson: it is none.
    """
    value = answer.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadJson(f"'{key}' must be a list of objects.")
    return value
