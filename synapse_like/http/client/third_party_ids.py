"""Addresses of users, and invites to addresses (ID-1).

What is said about the addresses of the account itself, by which one logs in, goes on to where that is dealt with
(`accounts.py`): a body with a password is meant for there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.retransmissions import Retransmissions
from synapse_like.handlers.third_party_ids import Proof, ThirdPartyIds
from synapse_like.handlers.third_party_invites import ThirdPartyInvites
from synapse_like.http.client.accounts import AccountEndpoints, AddressBody
from synapse_like.http.client.membership import MembershipEndpoints, TargetBody
from synapse_like.http.requests import Call, as_object
from synapse_like.models import Model, Unfit
from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.third_party_ids import third_party_id


class CredentialsBody(Model, frozen=True):
    """What shows an identity server that an address is one's own; in the spelling of either day."""

    others: ClassVar[Mapping[str, str]] = {"idServer": "id_server", "clientSecret": "client_secret"}

    id_server: str
    sid: str
    client_secret: str


class LinkBody(Model, frozen=True):
    """An address to be linked."""

    others: ClassVar[Mapping[str, str]] = dict.fromkeys(("threePidCreds", "threepidCreds"), "three_pid_creds")

    three_pid_creds: CredentialsBody
    bind: bool = True


class UnlinkBody(Model, frozen=True):
    """An address to be unlinked."""

    medium: str
    address: str


class InviteBody(Model, frozen=True):
    """Who is to be invited: a user, or whoever has an address."""

    user_id: str | None = None
    reason: str | None = None
    id_server: str | None = None
    medium: str | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        by_address = (self.id_server, self.medium, self.address)
        if self.user_id is None and None in by_address:
            raise Unfit("user_id", "is required, or else id_server, medium and address")
        if self.user_id is not None and by_address != (None, None, None):
            raise Unfit("user_id", "must not stand beside id_server, medium or address")


class ThirdPartyIdEndpoints:
    """/account/3pid, and the invites of rooms."""

    def __init__(
        self,
        ids: ThirdPartyIds,
        invites: ThirdPartyInvites,
        accounts: AccountEndpoints,
        membership: MembershipEndpoints,
        retransmissions: Retransmissions,
    ) -> None:
        self._ids = ids
        self._invites = invites
        self._accounts = accounts
        self._membership = membership
        self._retransmissions = retransmissions

    async def addresses(self, call: Call[Requester]) -> object:
        """The addresses of the account, and those that are linked; these with the server where they are."""
        own: Any = await self._accounts.addresses(call)
        linked = [
            {**one.threepid._asdict(), "validated_at": one.validated_at, "id_server": one.id_server}
            for one in await self._ids.linked(call.requester)
        ]
        return {"threepids": [*own["threepids"], *linked]}

    async def add(self, call: Call[Requester]) -> object:
        """Link an address; with a password, begin to add one to the account."""
        if _is_about_account(call.body):
            return await self._accounts.add_address(_with_body(call, AddressBody))
        body: LinkBody = as_object(call.body, LinkBody)
        if not body.bind:
            raise BadJson(
                "'bind' must be true: without it, an address is added to the account by 'email' and 'password'."
            )
        credentials = body.three_pid_creds
        proof = Proof(credentials.id_server, credentials.sid, credentials.client_secret)
        await self._ids.link(call.requester, proof)
        return {}

    async def delete(self, call: Call[Requester]) -> object:
        """Unlink an address; with a password, take one from the account."""
        if _is_about_account(call.body):
            return await self._accounts.remove_address(_with_body(call, AddressBody))
        body: UnlinkBody = as_object(call.body, UnlinkBody)
        await self._ids.unlink(call.requester, third_party_id(body.medium, body.address))
        return {"id_server_unbind_result": "success"}

    async def lookup(self, call: Call[Requester]) -> object:
        """The user who has an address."""
        threepid = third_party_id(call.query.required("medium"), call.query.required("address"))
        user_id = await self._ids.owner(call.requester, threepid, call.query.text("id_server"))
        return {**threepid._asdict(), "user_id": user_id}

    async def invite(self, call: Call[Requester]) -> object:
        """Invite a user, or whoever has an address."""
        body: InviteBody = call.body
        if body.user_id is not None:
            call.body = TargetBody(user_id=body.user_id, reason=body.reason)
            return await self._membership.invite(call)
        threepid = third_party_id(body.medium or "", body.address or "")
        request = self._retransmissions.request(call.requester, call.retransmit_key)
        await self._invites.invite(call.requester, call.params["room"], body.id_server or "", threepid, request)
        return {}


def _is_about_account(body: Mapping[str, Any]) -> bool:
    return "email" in body or "password" in body


def _with_body(call: Call[Requester], kind: type[Model]) -> Call[Requester]:
    call.body = as_object(call.body, kind)
    return call
