"""Rooms, as other servers ask for them: events, states, history, and the steps by which their users come and go (FED-2,
FED-4, FED-7, FED-10)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import orjson
from msgspec import Meta, field

from synapse_like.clock import Clock
from synapse_like.handlers.disclosure import MOST_EVENTS, Disclosure
from synapse_like.handlers.incoming_transactions import IncomingTransactions
from synapse_like.handlers.membership_requests import MembershipRequests, Step
from synapse_like.http.requests import Call
from synapse_like.http.responses import Encoded
from synapse_like.models import Model
from synapse_like.protocol.canonical_json import LARGEST_INTEGER
from synapse_like.protocol.errors import BadJson, BadParam, NotFound

Endpoint = Callable[[Call[str]], Awaitable[object]]


class InviteBody(Model, frozen=True):
    """An invite, as version 2 of the API has it."""

    room_version: str
    event: dict[str, Any]
    invite_room_state: list[Any] = field(default_factory=list)


class MissingEventsBody(Model, frozen=True):
    """Between which events something is missing."""

    earliest_events: list[str]
    latest_events: list[str]
    limit: Annotated[int, Meta(ge=1)] = 10
    min_depth: Annotated[int, Meta(ge=0)] = 0


class FederatedRoomEndpoints:
    """What /_matrix/federation has of rooms."""

    def __init__(
        self,
        server_name: str,
        clock: Clock,
        transactions: IncomingTransactions,
        memberships: MembershipRequests,
        disclosure: Disclosure,
    ) -> None:
        self._server_name = server_name
        self._clock = clock
        self._transactions = transactions
        self._memberships = memberships
        self._disclosure = disclosure

    async def send(self, call: Call[str]) -> object:
        """Take a transaction."""
        return Encoded(await self._transactions.receive(call.requester, call.params["txn_id"], call.body))

    # Fetching.

    async def pdu(self, call: Call[str]) -> object:
        """One event, by the name of its PDU."""
        return await self._one(call, f"${call.params['pdu_id']}:{call.params['origin']}")

    async def event(self, call: Call[str]) -> object:
        """One event, by its ID."""
        return await self._one(call, call.params["event_id"])

    async def _one(self, call: Call[str], event_id: str) -> object:
        return self._transaction(await self._disclosure.event(call.requester, event_id))

    async def state(self, call: Call[str]) -> object:
        """The state of a room, now or before an event."""
        held, chain = await self._disclosure.state(call.requester, call.params["room"], call.query.text("event_id"))
        return self._transaction(held, auth_chain=chain)

    async def state_ids(self, call: Call[str]) -> object:
        """The same, by the IDs of the events."""
        held, chain = await self._disclosure.state_ids(call.requester, call.params["room"], call.query.text("event_id"))
        return {"pdu_ids": held, "auth_chain_ids": chain}

    async def event_auth(self, call: Call[str]) -> object:
        """What an event rests on."""
        chain = await self._disclosure.event_auth(call.requester, call.params["room"], call.params["event_id"])
        return {"auth_chain": chain}

    async def backfill(self, call: Call[str]) -> object:
        """Some events and what was before them."""
        event_ids = call.query.texts("v")
        if not event_ids:
            raise BadParam("The parameter v must name an event.")
        limit = call.query.integer("limit", 10, 0, LARGEST_INTEGER)
        found = await self._disclosure.backfill(call.requester, call.params["room"], event_ids, min(limit, MOST_EVENTS))
        return self._transaction(found)

    async def missing_events(self, call: Call[str]) -> object:
        """What lies between two sets of events."""
        body: MissingEventsBody = call.body
        found = await self._disclosure.missing_events(
            call.requester,
            call.params["room"],
            earliest=body.earliest_events,
            latest=body.latest_events,
            limit=min(body.limit, MOST_EVENTS),
            min_depth=body.min_depth,
        )
        return {"events": found}

    async def pull(self, call: Call[str]) -> object:
        """What this server has sent to the other one after some transaction."""
        found = await self._disclosure.sent_after(call.requester, call.query.texts("v"))
        return self._transaction(found)

    async def query(self, call: Call[str]) -> object:
        """A profile, or an alias."""
        kind = call.params["kind"]
        if kind == "directory":
            return await self._disclosure.directory(call.query.required("room_alias"))
        if kind == "profile":
            return await self._disclosure.profile(call.query.required("user_id"), call.query.text("field"))
        raise NotFound("There is nothing of this kind to be asked for.")

    # Memberships.

    def make(self, step: Step) -> Endpoint:
        """What the event of a step must name."""

        async def endpoint(call: Call[str]) -> object:
            return await self._memberships.template(
                call.requester, step, call.params["room"], call.params["user_id"], call.query.texts("ver")
            )

        return endpoint

    def take(self, step: Step, *, version: int) -> Endpoint:
        """The event of a step, into its room."""

        async def endpoint(call: Call[str]) -> object:
            params = call.params
            answer = await self._memberships.take(call.requester, step, params["room"], params["event_id"], call.body)
            return Encoded(b"[200,%b]" % answer if version == 1 else answer)

        return endpoint

    async def invite(self, call: Call[str]) -> object:
        """An invite for a user of this server, by version 2 of the API."""
        body: InviteBody = call.body
        return {"event": await self._invite(call, body.room_version, body.event, body.invite_room_state)}

    async def invite_by_version_1(self, call: Call[str]) -> object:
        """The same by version 1, which knows the rooms of versions 1 and 2 alone."""
        unsigned = call.body.get("unsigned")
        shown = unsigned.get("invite_room_state") if isinstance(unsigned, dict) else None
        if "event_id" not in call.body:
            raise BadJson("'event_id' is missing: later room versions need version 2 of this path.")
        return [200, {"event": await self._invite(call, "1", call.body, shown)}]

    async def _invite(self, call: Call[str], version: str, pdu: object, shown: object) -> object:
        params = call.params
        return await self._memberships.take_invite(
            call.requester, params["room"], params["event_id"], version, pdu, shown
        )

    def _transaction(self, pdus: list[orjson.Fragment], **more: object) -> dict[str, object]:
        """PDUs in the envelope in which all answers have them."""
        now_ms = self._clock.now_ms()
        return {"origin": self._server_name, "ts": now_ms, "origin_server_ts": now_ms, "pdus": pdus, **more}
