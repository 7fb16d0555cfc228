"""Telling siblings what we know, and hearing what they know, so that mappings outlive any one server.

**Telling.** Our statements have positions in a log of ours. A sibling is pushed, in a request that we have signed for
it alone, what lies behind the position that it has come to; its answer says how far it is now. Where it is is written
down; what waits for it is in the tables anyway. So nothing is lost when either of us is away for however long. When
the server starts it greets all, since they may have given it up for a while, and says how much of their logs it has:
if that is less than they think, its database is another one, or an older one, and they begin there again.

**Hearing.** A sibling may tell only its own statements, each signed by its key in our settings. Of those that we have
heard nothing happens again. A log that we do not know begins anew: that is a sibling with a new database. One whose
database was brought back from a backup has forgotten some positions that we have passed; the positions of each run of a
server begin with the time, so that it does not use them a second time.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any

from msgspec import Meta

from synapse_like.clock import Clock
from synapse_like.identity.asking import AsksByUrl, object_in
from synapse_like.identity.deliveries import Delivery
from synapse_like.identity.notices import Notices
from synapse_like.identity.peers import Sibling
from synapse_like.identity.signer import Signer
from synapse_like.identity.user_keys import check_keys
from synapse_like.logs import get_logger
from synapse_like.models import Model
from synapse_like.protocol.canonical_json import LARGEST_INTEGER
from synapse_like.protocol.errors import BadJson, Forbidden, Unavailable
from synapse_like.protocol.identifiers import canonical_user_id
from synapse_like.protocol.request_signing import authorization, encode_content
from synapse_like.protocol.third_party_ids import ThirdPartyId, check_signed_by, third_party_id
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.identity import destinations, statements
from synapse_like.storage.identity.destinations import SIBLING, Destination
from synapse_like.storage.identity.statements import ASSOCIATION, KEYS, Statement, StatementMade
from synapse_like.storage.transactions import Transaction

PATH = "/_matrix/identity/replicate/v1/push"
#: Statements in one push, and its bytes.
MOST_STATEMENTS, MOST_BYTES = 100, 1024 * 1024
#: The longest pause between two attempts to reach a sibling, in milliseconds.
LONGEST_PAUSE_MS = 5 * 60 * 1000
#: How far a sibling's clock may be ahead of ours, in milliseconds: the latest word counts, so none may be of tomorrow.
MOST_AHEAD_MS = 10 * 60 * 1000
_LOG_BYTES = 12
#: How often at the most a sibling is told everything anew since it says that it lacks it, in seconds.
REWIND_SECONDS = 30
_MOST_SIGNATURES, _LONGEST_SIGNATURE = 8, 200
_WHEN = ("not_before", "not_after")
_IN_COMMON = {"medium", "address", "mxid", "ts", "signatures"}
_KEYS_OF = {ASSOCIATION: _IN_COMMON.union(_WHEN), KEYS: _IN_COMMON | {"keys"}}

_log = get_logger(__name__)


class Told(Model, frozen=True):
    """One statement of a push."""

    position: Annotated[int, Meta(ge=1, le=LARGEST_INTEGER)]
    kind: str
    statement: dict[str, Any]


class Heard(Model, frozen=True):
    """How much a sibling has heard of our log; `log` is None if nothing of any."""

    log: str | None
    position: Annotated[int, Meta(ge=0, le=LARGEST_INTEGER)]


class PushBody(Model, frozen=True):
    """What a sibling tells.

    :ivar log: which log of it this is of.
    :ivar after: the position that the statements follow.
    :ivar heard: in a greeting.
    """

    log: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    after: Annotated[int, Meta(ge=0, le=LARGEST_INTEGER)]
    statements: Annotated[list[Told], Meta(max_length=MOST_STATEMENTS)]
    heard: Heard | None = None


class Replication:
    """Tells siblings and hears them."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        clock: Clock,
        signer: Signer,
        siblings: Sequence[Sibling],
        ask: AsksByUrl,
        notices: Notices,
    ) -> None:
        self._database = database
        self._clock = clock
        self._signer = signer
        self._siblings = {sibling.name: sibling for sibling in siblings}
        self._ask = ask
        self._notices = notices
        self._log_name = ""
        self._unheard = set(self._siblings)
        self._rewinds_from: dict[str, float] = {}
        self._deliveries = {
            name: Delivery(database, clock, SIBLING, name, self._push, longest_ms=LONGEST_PAUSE_MS)
            for name in self._siblings
        }
        bus.subscribe(StatementMade, lambda _: self._wake())

    async def start(self) -> None:
        """Tell all siblings that we are here, and what they lack."""
        self._log_name = await self._database.write("open-log", self._open_log)
        self._wake()

    def _open_log(self, txn: Transaction) -> str:
        destinations.forget_all_but(txn, list(self._siblings))
        statements.begin_run(txn, self._clock.now_ms())
        return destinations.log_name(txn, secrets.token_urlsafe(_LOG_BYTES))

    async def stop(self) -> None:
        """Begin nothing new."""
        for delivery in self._deliveries.values():
            await delivery.stop()

    def heard_from(self, name: str) -> None:
        """A sibling has told us something, so that it can be reached."""
        self._deliveries[name].heard_from()

    def _wake(self) -> None:
        if self._log_name:
            for delivery in self._deliveries.values():
                delivery.wake()

    # Telling.

    async def _push(self, destination: Destination) -> bool:
        """Tell a sibling some of what it lacks; whether there is more."""
        sibling = self._siblings[destination.server]
        after = destination.sent_up_to
        waiting = await self._database.read("statements-for-sibling", statements.own_after, after, MOST_STATEMENTS)
        if not waiting and sibling.name not in self._unheard:
            return False
        content: dict[str, Any] = {
            "log": self._log_name,
            "after": after,
            "statements": [
                {"position": position, "kind": item.kind, "statement": self._signer.sign(item.said)}
                for position, item in waiting
            ],
        }
        if sibling.name in self._unheard:
            heard = await self._database.read("heard", destinations.heard_from, sibling.name)
            content["heard"] = dict(zip(("log", "position"), heard or (None, 0), strict=True))
        position = await self._send(sibling, content)
        self._unheard.discard(sibling.name)
        expected = waiting[-1][0] if waiting else after
        destination.sent_up_to = min(position, expected)
        if position < expected:
            # It has lost something, or says so: again from there, but not without a pause.
            await self._database.write("save-destination", destinations.save, destination)
            raise Unavailable("The sibling lacks what it had.", reason=f"it is at {position} and not at {expected}")
        return bool(waiting)

    async def _send(self, sibling: Sibling, content: Mapping[str, Any]) -> int:
        body = encode_content(content)
        header = authorization(
            method="POST",
            uri=PATH,
            origin=self._signer.name,
            destination=sibling.name,
            content=body,
            key=self._signer.key,
        )
        headers = {"Authorization": header, "Content-Type": "application/json"}
        answer = await self._ask.request("POST", f"{sibling.url}{PATH}", headers=headers, body=body)
        told = object_in(answer)
        position = told.get("position")
        if answer.status != 200 or type(position) is not int or position < 0:
            raise Unavailable(
                f"{sibling.name} has not taken what it was told.",
                reason=f"it answered {answer.status} {str(told.get('error', ''))[:200]}",
            )
        return position

    # Hearing.

    async def hear(self, name: str, push: PushBody) -> int:
        """Take what a sibling tells; the position up to which we have everything now.

        :param name: the sibling, which has signed the push.
        :raises MatrixError: it tells what it may not. Then nothing of the push was taken.
        """
        heard = [self._checked(name, told) for told in push.statements]
        places = [push.after, *(told.position for told in push.statements)]
        if any(later <= earlier for earlier, later in pairwise(places)):
            raise BadJson("The statements are not in the order of their positions.")
        items = list(zip(places[1:], heard, strict=True))
        position = await self._database.write("hear-sibling", self._hear, name, push, items)
        if push.heard is not None:
            await self._greeted(name, push.heard)
        return position

    async def _greeted(self, name: str, heard: Heard) -> None:
        """A sibling has started: see that it has what we think it has."""
        position = heard.position if heard.log == self._log_name else 0
        known = await self._database.read("destination", destinations.find, SIBLING, name)
        now = self._clock.monotonic()
        # Whoever says so all the time is not told everything all the time.
        if position < known.sent_up_to and now >= self._rewinds_from.get(name, 0):
            self._rewinds_from[name] = now + REWIND_SECONDS
            _log.info("a sibling lacks what it had", sibling=name, position=position)
            self._deliveries[name].rewind(position)

    def _hear(self, txn: Transaction, name: str, push: PushBody, items: Sequence[tuple[int, Statement]]) -> int:
        known = destinations.heard_up_to(txn, name, push.log)
        if push.after > known:
            # Something lies between that we have not heard.
            return known
        new = [(position, statement) for position, statement in items if position > known]
        for _, statement in new:
            statements.learn(txn, statement)
        for _, statement in new:
            self._settle(txn, statement.threepid)
        if new:
            known = new[-1][0]
            destinations.set_heard(txn, name, push.log, known)
        return known

    def _settle(self, txn: Transaction, threepid: ThirdPartyId) -> None:
        """Let go of the invites for an address that has become somebody's, by whomever's newest word."""
        owner = statements.newest(txn, ASSOCIATION, [threepid]).get(threepid)
        if owner is not None and owner.mxid is not None:
            self._notices.settle(txn, threepid, owner.mxid)

    def _checked(self, name: str, told: Told) -> Statement:
        """A statement that a sibling may tell.

        :raises MatrixError: it may not.
        """
        said = told.statement
        if set(said) != _KEYS_OF.get(told.kind):
            raise BadJson("A statement is of an unknown kind, or lacks something, or says too much.")
        match said:
            case {"medium": str(medium), "address": str(address), "mxid": str() | None as mxid, "ts": int(ts)}:
                pass
            case _:
                raise BadJson("A statement has values of the wrong type.")
        threepid = third_party_id(medium, address)
        if threepid != (medium, address) or (mxid is not None and canonical_user_id(mxid) != mxid):
            raise BadJson("A statement has an address or a user in another spelling than the one there is.")
        if not _is_signed_by_one(said["signatures"], name):
            raise Forbidden("A sibling may tell only what it says itself.")
        check_signed_by(said, name, self._siblings[name].keys.values())
        if not 0 <= ts <= self._clock.now_ms() + MOST_AHEAD_MS:
            raise BadJson("A statement is of the future: whose clock is wrong?")
        if told.kind == KEYS:
            check_keys(_an_object(said["keys"]))
            if said["keys"]["mxid"] != mxid:
                raise BadJson("The keys are another user's.")
        elif not all(type(said[key]) is int and abs(said[key]) <= LARGEST_INTEGER for key in _WHEN):
            raise BadJson("An association does not say when it holds.")
        return Statement(told.kind, threepid, name, mxid, ts, said)


def _is_signed_by_one(signatures: object, name: str) -> bool:
    if not isinstance(signatures, dict) or set(signatures) != {name} or not isinstance(signatures[name], dict):
        return False
    by_key = signatures[name]
    return len(by_key) <= _MOST_SIGNATURES and all(
        isinstance(text, str) and len(text) <= _LONGEST_SIGNATURE for text in (*by_key, *by_key.values())
    )


def _an_object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadJson("The keys are no object.")
    return value
