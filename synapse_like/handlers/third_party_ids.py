"""Addresses of users, as identity servers know them: linked, unlinked, looked up (ID-1).

To link an address is to let everybody who knows it find the user, which is for the user to say; it is no way into the
account. The identity server has seen that the address is theirs, and says whose it is from then on. Only servers that
the operator trusts are asked, and each user can ask for so much only: nobody shall walk through all addresses.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from synapse_like.federation.identity_client import IdentityClient
from synapse_like.handlers.authentication import Requester
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import Forbidden, MatrixError, NotFound
from synapse_like.protocol.third_party_ids import ThirdPartyId, third_party_id
from synapse_like.storage import accounts, third_party_ids
from synapse_like.storage.database import Database
from synapse_like.storage.third_party_ids import LinkedAddress
from synapse_like.storage.transactions import Transaction

#: The class of the rate limit for look-ups, per user.
LOOKUP = "lookup"
#: Addresses that a user may link.
MOST_LINKED = 50
#: Addresses of closed accounts that are unlinked in one round, and how often that is looked for, in seconds.
MOST_CLOSED, CLOSED_SECONDS = 20, 300

_log = get_logger(__name__)


class Proof(Struct, frozen=True):
    """What shows an identity server that an address is one's own.

    :ivar id_server: the server, as the client names it.
    """

    id_server: str
    sid: str
    client_secret: str


class ThirdPartyIds:
    """Links, unlinks and looks up.

    :param limit: counts a request of a class for a key, or raises LimitExceeded.
    """

    def __init__(self, database: Database, client: IdentityClient, limit: Callable[[str, str], None]) -> None:
        self._database = database
        self._client = client
        self._limit = limit

    async def link(self, requester: Requester, proof: Proof) -> ThirdPartyId:
        """Have an identity server tell everybody that an address is the requester's.

        :raises Forbidden: the server is not trusted, or does not confirm that.
        :raises ServerUnreachable: it cannot be asked.
        """
        url = self._client.url_of(proof.id_server)
        if await self._database.read("count-linked", third_party_ids.count_linked, requester.user_id) >= MOST_LINKED:
            raise Forbidden(f"A user may link {MOST_LINKED} addresses at the most.")
        validated = await self._client.validated(url, proof.sid, proof.client_secret)
        threepid = third_party_id(validated.medium, validated.address)
        bound = await self._client.link(url, proof.sid, proof.client_secret, threepid, requester.user_id)
        linked = LinkedAddress(threepid, url, bound.id_name, validated.validated_at)
        await self._database.write("link-address", third_party_ids.link, requester.user_id, linked)
        return threepid

    async def linked(self, requester: Requester) -> list[LinkedAddress]:
        """What the requester has linked."""
        return await self._database.read("linked", third_party_ids.linked_by, requester.user_id)

    async def unlink(self, requester: Requester, threepid: ThirdPartyId) -> None:
        """Have no identity server say any more that an address is the requester's.

        :raises NotFound: the requester has not linked it.
        :raises ServerUnreachable: a server that says so cannot be asked; it is to be tried again.
        """
        found = await self._database.read("linked", third_party_ids.linked_by, requester.user_id, threepid)
        if not found:
            raise NotFound("You have not linked this address.")
        for linked in found:
            await self._unlink(requester.user_id, linked)

    async def _unlink(self, user_id: str, linked: LinkedAddress) -> None:
        await self._client.unlink(linked.id_server, linked.id_name, linked.threepid, user_id)
        await self._database.write("unlink-address", third_party_ids.unlink, user_id, linked)

    async def unlink_closed(self) -> None:
        """Unlink the addresses of users whose accounts were closed."""
        found = await self._database.read("linked-by-closed", third_party_ids.linked_by_closed, MOST_CLOSED)
        for user_id, linked in found:
            try:
                await self._unlink(user_id, linked)
            except MatrixError as error:
                _log.warning(
                    "an address of a closed account is still linked",
                    server=linked.id_server,
                    reason=error.reason or error.message,
                )

    async def owner(self, requester: Requester, threepid: ThirdPartyId, id_server: str | None) -> str:
        """The user who has an address.

        :param id_server: whom to ask; None for the first of those that are trusted.
        :raises NotFound: nobody has it, as far as the server knows.
        """
        url = self._client.usual if id_server is None else self._client.url_of(id_server)
        self._limit(LOOKUP, requester.user_id)
        found = await self._client.lookup(url, threepid)
        if found is None:
            raise NotFound("No user is known to have this address.")
        return found

    async def is_open(self, user_id: str) -> bool:
        """Whether a user of this server is there to be told something."""
        return await self._database.read("find-account", _is_open, user_id)


def _is_open(txn: Transaction, user_id: str) -> bool:
    account = accounts.find(txn, user_id)
    return account is not None and not account.is_deactivated
