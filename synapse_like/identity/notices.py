"""Telling home servers: a user of yours has an address to which there were invites.

When an address becomes somebody's, by our word or a sibling's, the invites that waited for it here are signed for that
user: with the key of the invite, which the room has known from the beginning, and with the server's own. The user's
home server is told of them, in JSON that we have signed when it was sent, and turns each into an invite with the help
of the server of whoever invited. It is told until it answers; what nobody wanted to hear for a month is forgotten.
"""

from __future__ import annotations

from typing import Any

import orjson
from signedjson.key import decode_signing_key_base64
from unpaddedbase64 import encode_base64

from synapse_like.clock import Clock
from synapse_like.identity.asking import Answer, AsksHomeServers, object_in
from synapse_like.identity.deliveries import Delivery
from synapse_like.identity.signer import Signer
from synapse_like.logs import get_logger
from synapse_like.protocol import canonical_json
from synapse_like.protocol.errors import Unavailable
from synapse_like.protocol.identifiers import domain_of
from synapse_like.protocol.signing import sign_json
from synapse_like.protocol.third_party_ids import ThirdPartyId
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.identity import invites
from synapse_like.storage.identity.destinations import HOME, Destination
from synapse_like.storage.identity.invites import Invite, NoticeStored
from synapse_like.storage.transactions import Transaction

PATH = "/_matrix/federation/v1/3pid/onbind"
#: The longest pause between two attempts; how long is tried at all, in milliseconds.
LONGEST_PAUSE_MS, GIVE_UP_MS = 60 * 60 * 1000, 30 * 24 * 60 * 60 * 1000
#: Home servers that are remembered while there is nothing to tell them.
MOST_REMEMBERED = 1000
MOST_ANSWER_BYTES = 64 * 1024
#: The name of the key of an invite.
EPHEMERAL_KEY = "ephemeral"
#: What a home server may answer without having refused for good.
_TRY_AGAIN = frozenset({408, 425, 429})
_KNOWS_NO_SUCH_PATH = frozenset({404, 405})

_log = get_logger(__name__)


class Notices:
    """Settles invites, and tells home servers of them."""

    def __init__(self, database: Database, bus: Bus, clock: Clock, signer: Signer, ask: AsksHomeServers) -> None:
        self._database = database
        self._clock = clock
        self._signer = signer
        self._ask = ask
        self._deliveries: dict[str, Delivery] = {}
        bus.subscribe(NoticeStored, lambda news: self._delivery(news.server).wake())

    def settle(self, txn: Transaction, threepid: ThirdPartyId, mxid: str) -> None:
        """An address is a user's now: let those who invited it know by way of the user's home server."""
        now = self._clock.now_ms()
        redeemed = invites.redeem(txn, threepid, now)
        if redeemed:
            notice = {
                "medium": threepid.medium,
                "address": threepid.address,
                "mxid": mxid,
                "invites": [self._told(invite, mxid) for invite in redeemed],
            }
            invites.add_notice(txn, domain_of(mxid), orjson.dumps(notice).decode(), now)

    def _told(self, invite: Invite, mxid: str) -> dict[str, Any]:
        assert invite.private_key is not None, "an invite that waits has its key"
        own_key = decode_signing_key_base64("ed25519", EPHEMERAL_KEY, encode_base64(invite.private_key))
        signed = self._signer.sign({"mxid": mxid, "token": invite.token})
        return {
            "medium": invite.threepid.medium,
            "address": invite.threepid.address,
            "mxid": mxid,
            "room_id": invite.room_id,
            "sender": invite.sender,
            "signed": sign_json(signed, self._signer.name, own_key),
        }

    async def start(self) -> None:
        """Go on where the last run of the server ended."""
        for server in await self._database.read("servers-to-tell", invites.servers_to_tell):
            self._delivery(server).wake()

    async def stop(self) -> None:
        """Begin nothing new."""
        for delivery in self._deliveries.values():
            await delivery.stop()

    async def forget_old(self) -> None:
        """Give up what could not be told for long."""
        before = self._clock.now_ms() - GIVE_UP_MS
        count = await self._database.write("forget-notices", invites.delete_old_notices, created_before=before)
        if count:
            _log.warning("home servers could not be told of invites for a month", notices=count)

    def _delivery(self, server: str) -> Delivery:
        known = self._deliveries.get(server)
        if known is None:
            for name in [name for name, item in self._deliveries.items() if item.is_idle][:-MOST_REMEMBERED]:
                del self._deliveries[name]
            known = self._deliveries[server] = Delivery(
                self._database, self._clock, HOME, server, self._tell, longest_ms=LONGEST_PAUSE_MS
            )
        return known

    async def _tell(self, home_server: Destination) -> bool:
        server = home_server.server
        waiting = await self._database.read("next-notice", invites.next_notice, server)
        if waiting is None:
            return False
        notice = orjson.loads(waiting.notice)
        signed = self._signer.sign({**notice, "destination": server, "ts": self._clock.now_ms()})
        answer = await self._post(server, canonical_json.encode(signed))
        if answer.status >= 500 or answer.status in _TRY_AGAIN:
            raise Unavailable(f"{server} cannot take this now.", reason=f"it answered {answer.status}")
        if answer.status != 200:
            _log.warning(
                "a home server does not want to hear of invites",
                server=server,
                status=answer.status,
                reason=answer.body[:200].decode("utf-8", "replace"),
            )
        await self._database.write("notice-told", invites.delete_notice, waiting.notice_id)
        return True

    async def _post(self, server: str, body: bytes) -> Answer:
        """Tell it in the way of the day, or else in that of today."""
        options: dict[str, Any] = {"body": body, "most_bytes": MOST_ANSWER_BYTES}
        answer = await self._ask.request("POST", server, PATH, **options)
        if answer.status in _KNOWS_NO_SUCH_PATH and _errcode(answer) == "M_UNRECOGNIZED":
            return await self._ask.request("PUT", server, PATH, **options)
        return answer


def _errcode(answer: Answer) -> object:
    try:
        return object_in(answer).get("errcode")
    except Unavailable:
        return None
