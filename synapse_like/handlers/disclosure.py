"""What other servers may read here: events, states and history of the rooms that they are in, aliases, profiles (FED-4,
FED-10, SEC-11).

A server gets what happens in a room because it is in it; it may ask for what it missed. One that is not in it any more
may ask for what happened up to its end there, for without that it might not understand, and so not believe, how it
came to that end: a server that has missed something could not be banned. Where a room shows its history
only to those who were there, a server whose users were not gets such events in their redacted form, which is all
that it needs to judge the others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import heappop, heappush
from typing import Any

import orjson

from synapse_like.federation.transactions import position_of
from synapse_like.handlers import event_pdus
from synapse_like.handlers.directory import Directory
from synapse_like.handlers.event_persistence import StoredEvent, is_about
from synapse_like.handlers.profile import Profiles
from synapse_like.protocol.canonical_json import encode_in_any_order
from synapse_like.protocol.errors import BadParam, Forbidden, NotFound
from synapse_like.protocol.identifiers import canonical_alias, domain_of, parse_event_id
from synapse_like.protocol.membership import INVITE, JOIN
from synapse_like.protocol.redaction import redact
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.visibility import HISTORY_VISIBILITY, INVITED, JOINED
from synapse_like.protocol.wire_formats import to_pdu
from synapse_like.storage import destinations, events, membership, room_servers, rooms, state
from synapse_like.storage.database import Database
from synapse_like.storage.rooms import RoomView
from synapse_like.storage.state import MEMBER
from synapse_like.storage.transactions import Transaction

#: Events in one answer at the most.
MOST_EVENTS = 100
#: Events that are sent anew at the most.
MOST_PULLED = 50
#: Events that are named in one question at the most.
MOST_NAMED = 50


class Disclosure:
    """Answers what other servers ask.

    Every method takes the name of the server that asks, and gives the answer in JSON, or what it is made of.

    :raises Forbidden: the server is not in the room, or we are not.
    """

    def __init__(self, database: Database, directory: Directory, profiles: Profiles, server_name: str) -> None:
        self._database = database
        self._directory = directory
        self._profiles = profiles
        self._server_name = server_name

    async def event(self, origin: str, event_id: str) -> list[orjson.Fragment]:
        """One event.

        :raises NotFound: it is not here, or the server may not have it.
        """
        return await self._database.read("disclose-event", self._event, origin, parse_event_id(event_id))

    def _event(self, txn: Transaction, origin: str, event_id: str) -> list[orjson.Fragment]:
        stored = events.find(txn, event_id)
        if stored is None or not _was_there(_last_place(txn, stored.room_nid, origin), stored.place):
            raise NotFound("There is no such event, or this server may not have it.")
        return _Eyes(txn, rooms.view(txn, stored.event.room_id), origin).see([stored])

    async def state(
        self, origin: str, room_id: str, event_id: str | None
    ) -> tuple[list[orjson.Fragment], list[orjson.Fragment]]:
        """The state of a room, now or before an event, and what it rests on."""
        return await self._database.read("disclose-state", self._state, origin, room_id, event_id)

    def _state(
        self, txn: Transaction, origin: str, room_id: str, event_id: str | None
    ) -> tuple[list[orjson.Fragment], list[orjson.Fragment]]:
        held = self._held(txn, origin, room_id, event_id)
        return event_pdus.fragments(txn, held), event_pdus.fragments(txn, event_pdus.auth_chain(txn, held))

    async def state_ids(self, origin: str, room_id: str, event_id: str | None) -> tuple[list[str], list[str]]:
        """The same, by the IDs of the events."""

        def read(txn: Transaction) -> tuple[list[str], list[str]]:
            held = self._held(txn, origin, room_id, event_id)
            return held, event_pdus.auth_chain(txn, held)

        return await self._database.read("disclose-state-ids", read)

    def _held(self, txn: Transaction, origin: str, room_id: str, event_id: str | None) -> list[str]:
        room, last_place = self._room(txn, origin, room_id)
        if event_id is None:
            if last_place < _NOW:
                raise Forbidden(f"{origin} is not in this room.")
            return sorted(state.ids_at(txn, room.snapshot_id).values())
        stored = events.find(txn, parse_event_id(event_id))
        before = events.snapshots_of(txn, stored.event_nid)[0] if stored is not None else None
        if stored is None or stored.room_nid != room.room_nid or before is None:
            raise NotFound("There is no such event here, or the state before it is not known.")
        if not _was_there(last_place, stored.place):
            raise Forbidden(f"{origin} was not in this room any more.")
        return sorted(state.ids_at(txn, before).values())

    async def event_auth(self, origin: str, room_id: str, event_id: str) -> list[orjson.Fragment]:
        """What an event rests on.

        Of a change of a membership its user's server is told it too, if it is not in the room: it must be able to see
        that whoever ended an invite had the right to.
        """

        def read(txn: Transaction) -> list[orjson.Fragment]:
            stored = events.find(txn, parse_event_id(event_id))
            if stored is None or stored.event.room_id != room_id or not is_about(stored.event, origin):
                room, last_place = self._room(txn, origin, room_id)
                if stored is None or stored.room_nid != room.room_nid or not _was_there(last_place, stored.place):
                    raise NotFound("There is no such event in this room.")
            chain = event_pdus.auth_chain(txn, [stored.event.event_id])
            rules = rooms.rules_of(txn, room_id)
            if rules is not None and not rules.create_in_auth_events:
                # Everything rests on the creation, though nothing names it.
                chain.append("$" + room_id[1:])
            return event_pdus.fragments(txn, chain)

        return await self._database.read("disclose-auth", read)

    async def backfill(self, origin: str, room_id: str, event_ids: Sequence[str], limit: int) -> list[orjson.Fragment]:
        """Some events and what was before them, newest first."""
        return await self._database.read("disclose-history", self._backfill, origin, room_id, _named(event_ids), limit)

    def _backfill(
        self, txn: Transaction, origin: str, room_id: str, event_ids: Sequence[str], limit: int
    ) -> list[orjson.Fragment]:
        room, last_place = self._room(txn, origin, room_id)
        found = _walk_back(txn, room, event_ids, (), min(limit, MOST_EVENTS), last_place=last_place)
        return _Eyes(txn, room, origin).see(found)

    async def missing_events(
        self,
        origin: str,
        room_id: str,
        *,
        earliest: Sequence[str],
        latest: Sequence[str],
        limit: int,
        min_depth: int,
    ) -> list[orjson.Fragment]:
        """What lies between two sets of events, oldest first."""
        _named(earliest)
        _named(latest)

        def read(txn: Transaction) -> list[orjson.Fragment]:
            room, last_place = self._room(txn, origin, room_id)
            ends = events.by_ids(txn, latest)
            before = [prev for stored in ends.values() for prev in stored.event.prev_events]
            most = min(limit, MOST_EVENTS)
            stop = {*earliest, *latest}
            found = _walk_back(txn, room, before, stop, most, last_place=last_place, min_depth=min_depth)
            return _Eyes(txn, room, origin).see(found[::-1])

        return await self._database.read("disclose-missing", read)

    async def sent_after(self, origin: str, transaction_ids: Sequence[str]) -> list[orjson.Fragment]:
        """What was for a server after the transactions that it names, as far as one answer goes."""
        after = min((position_of(name) for name in _named(transaction_ids)), default=0)

        def read(txn: Transaction) -> list[orjson.Fragment]:
            waiting = destinations.waiting(txn, origin, after=after, most_pdus=MOST_PULLED, edus_after=0, most_edus=0)
            return [orjson.Fragment(pdu) for _, pdu in waiting.pdus]

        return await self._database.read("disclose-sent", read)

    # What is not a room's.

    async def directory(self, alias: str) -> dict[str, Any]:
        """Where an alias of this server leads.

        :raises NotFound: nowhere.
        """
        alias = canonical_alias(alias)
        if domain_of(alias) != self._server_name:
            raise NotFound(f"{alias} is not an alias of this server.")
        found = await self._directory.resolve_here(alias)
        return {"room_id": found.room_id, "servers": found.servers}

    async def profile(self, user_id: str, field: str | None) -> dict[str, Any]:
        """What a user of this server lets everybody know, or one field of it.

        :raises NotFound: there is no such user or field.
        """
        return await self._profiles.public(user_id, field)

    def _room(self, txn: Transaction, origin: str, room_id: str) -> tuple[RoomView, int]:
        """A room, for a server that is or was in it, and up to which place it was there."""
        room = rooms.find(txn, room_id)
        last_place = _last_place(txn, room.room_nid, origin) if room is not None else None
        if room is None or last_place is None:
            raise Forbidden(f"{origin} is not in this room.")
        if not membership.has_own_users(txn, room.room_nid):
            raise Forbidden("This server is not in the room any more.")
        return rooms.view(txn, room_id), last_place


#: The place up to which a server was in a room that it is in.
_NOW = room_servers.EVER * events.GAP


def _last_place(txn: Transaction, room_nid: int, server: str) -> int | None:
    """Up to which place in its timeline a server was in a room; None if it never was."""
    position = room_servers.last_position(txn, room_nid, server)
    return None if position is None else position * events.GAP


def _was_there(last_place: int | None, place: int | None) -> bool:
    """Whether a server was in the room when an event came.

    :param last_place: up to which place it was there.
    :param place: of the event; None if it has none, and is for those who are in the room now.
    """
    if last_place is None:
        return False
    return last_place >= _NOW if place is None else place <= last_place


class _Eyes:
    """What a server may see of the events of a room."""

    def __init__(self, txn: Transaction, room: RoomView, server: str) -> None:
        self._txn = txn
        self._rules: RoomRules = room.rules
        self._server = server
        self._slot = state.slot_id(txn, HISTORY_VISIBILITY) if room.rules.history_visibility else None
        self._verdicts: dict[int, bool] = {}

    def see(self, found: Sequence[StoredEvent]) -> list[orjson.Fragment]:
        """The PDUs of some events, redacted where the server was not there to see them."""
        whole = events.pdus(self._txn, [stored.event.event_id for stored in found])
        return [
            orjson.Fragment(whole[event_id] if self._may_see(stored) else self._redacted(stored))
            for stored in found
            if (event_id := stored.event.event_id) in whole
        ]

    def _redacted(self, stored: StoredEvent) -> bytes:
        return encode_in_any_order(to_pdu(self._rules, redact(self._rules, stored.event)))

    def _may_see(self, stored: StoredEvent) -> bool:
        if self._slot is None or stored.event.is_state:
            return True
        before, _ = events.snapshots_of(self._txn, stored.event_nid)
        if before is None:
            # Nobody knows what held then; what comes to us from others was shown to us by them.
            return True
        verdict = self._verdicts.get(before)
        if verdict is None:
            verdict = self._verdicts[before] = self._may_see_at(before)
        return verdict

    def _may_see_at(self, snapshot_id: int) -> bool:
        slots = [self._slot] if self._slot is not None else []
        held = events.load(self._txn, list(state.in_slots_at_snapshot(self._txn, snapshot_id, slots).values()))
        said = held[0].event.content.get("history_visibility") if held else None
        if said not in (INVITED, JOINED):
            return True
        enough = (JOIN, INVITE) if said == INVITED else (JOIN,)
        ids = state.ids_at(self._txn, snapshot_id)
        suffix = f":{self._server}"
        theirs = [event_id for slot, event_id in ids.items() if slot[0] == MEMBER and slot[1].endswith(suffix)]
        members = events.by_ids(self._txn, theirs).values()
        return any(stored.event.content["membership"] in enough for stored in members)


def _walk_back(
    txn: Transaction,
    room: RoomView,
    start: Sequence[str],
    stop: Collection[str],
    limit: int,
    *,
    last_place: int,
    min_depth: int = 0,
) -> list[StoredEvent]:
    """Some events and what was before them, the deepest first, as far as it is here and of this room.

    :param last_place: what comes after it is left out, and what was before that, too.
    """
    seen = set(stop)
    found: list[StoredEvent] = []
    waiting: list[tuple[int, str, StoredEvent]] = []

    def add(event_ids: Sequence[str]) -> None:
        new = [event_id for event_id in dict.fromkeys(event_ids) if event_id not in seen]
        seen.update(new)
        known = events.known(txn, new)
        # Also what was soft-failed: who does not get it cannot get at what was before it.
        shown = [
            item.event_nid
            for item in known.values()
            if item.room_nid == room.room_nid and item.is_history and _was_there(last_place, item.place)
        ]
        for stored in events.load(txn, shown, remember=False):
            if stored.event.depth >= min_depth:
                heappush(waiting, (-stored.event.depth, stored.event.event_id, stored))

    add(start)
    while waiting and len(found) < limit:
        *_, stored = heappop(waiting)
        found.append(stored)
        add(stored.event.prev_events)
    return found


def _named(event_ids: Sequence[str]) -> Sequence[str]:
    """IDs of events in a question.

    :raises BadParam: they are too many.
    """
    if len(event_ids) > MOST_NAMED:
        raise BadParam(f"At most {MOST_NAMED} events may be named.")
    return event_ids
