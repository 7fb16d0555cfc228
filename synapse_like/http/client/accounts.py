"""Registration, login, logout (LOGIN)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from synapse_like.handlers.accounts import Accounts
from synapse_like.handlers.authentication import Authentication, Requester
from synapse_like.handlers.external_identities import ExternalIdentities
from synapse_like.handlers.login import Begun, Credentials, Linked, Login, Outcome
from synapse_like.handlers.login_stages import LOGIN, REGISTER
from synapse_like.http.requests import Call
from synapse_like.models import Model

#: The classes of rate limits in which beginnings are counted, and what comes after.
BEGINNINGS = {LOGIN: "login", REGISTER: "registration"}
STEPS = "login_steps"


class ChangePasswordBody(Model, frozen=True):
    """The password that is, and the one that is to be."""

    password: str
    new_password: str


class ResetBody(Model, frozen=True):
    """Whose password is forgotten, and an e-mail address of theirs."""

    user_id: str
    email: str


class AddressBody(Model, frozen=True):
    """An e-mail address, and the password of the account."""

    email: str
    password: str


class LinkBody(Model, frozen=True):
    """The provider with which one wants to log in, if there is more than one, and the password of the account."""

    password: str
    provider: str | None = None


class UnlinkBody(Model, frozen=True):
    """Whom a provider shall not let into the account any more, and the password of the account."""

    password: str
    provider: str
    subject: str


class AccountEndpoints:
    """Getting an access token, and giving it back; changing the account that it is for.

    :param limit: counts a request of a class for a key, or raises LimitExceeded.
    """

    def __init__(
        self,
        login: Login,
        accounts: Accounts,
        identities: ExternalIdentities,
        authentication: Authentication,
        limit: Callable[[str, str], None],
        server_name: str,
    ) -> None:
        self._limit = limit
        self._login = login
        self._accounts = accounts
        self._identities = identities
        self._authentication = authentication
        self._server_name = server_name

    async def register_flows(self, call: Call[Requester]) -> object:
        """The ways to register."""
        return self._flows(REGISTER)

    async def login_flows(self, call: Call[Requester]) -> object:
        """The ways to log in."""
        return self._flows(LOGIN)

    def _flows(self, purpose: str) -> dict[str, Any]:
        return {
            "flows": [
                {"type": flow[0]} | ({"stages": list(flow)} if len(flow) > 1 else {})
                for flow in self._login.flows(purpose)
            ]
        }

    async def register(self, call: Call[Requester]) -> object:
        """One stage of a registration."""
        return await self._submit(REGISTER, call)

    async def login(self, call: Call[Requester]) -> object:
        """One stage of a login."""
        return await self._submit(LOGIN, call)

    async def _submit(self, purpose: str, call: Call[Requester]) -> dict[str, Any]:
        # A session counts its tries itself, and who waits for a link to be opened asks often.
        begins = call.body.get("session") is None
        self._limit(BEGINNINGS[purpose] if begins else STEPS, call.client_address)
        return outcome_body(await self._login.submit(purpose, call.body), self._server_name)

    async def log_out(self, call: Call[Requester]) -> object:
        """End this access token."""
        await self._authentication.log_out(call.requester)
        return {}

    async def log_out_everywhere(self, call: Call[Requester]) -> object:
        """End all access tokens of the user."""
        await self._authentication.log_out_everywhere(call.requester)
        return {}

    async def ask_for_reset(self, call: Call[Requester]) -> object:
        """Have a link sent by which a forgotten password can be reset; tells nothing about whether it is."""
        body: ResetBody = call.body
        await self._accounts.ask_for_reset(body.user_id, body.email)
        return {}

    async def change_password(self, call: Call[Requester]) -> object:
        """Set another password."""
        body: ChangePasswordBody = call.body
        await self._accounts.change_password(call.requester, body.password, body.new_password)
        return {}

    async def addresses(self, call: Call[Requester]) -> object:
        """The addresses of the account."""
        found = await self._accounts.addresses(call.requester)
        return {
            "threepids": [
                {"medium": one.medium, "address": one.address, "validated_at": one.validated_at} for one in found
            ]
        }

    async def add_address(self, call: Call[Requester]) -> object:
        """Have a link sent by which an address is added."""
        body: AddressBody = call.body
        await self._accounts.ask_to_add(call.requester, body.email, body.password)
        return {}

    async def remove_address(self, call: Call[Requester]) -> object:
        """Take an address away."""
        body: AddressBody = call.body
        await self._accounts.remove(call.requester, body.email, body.password)
        return {}

    async def identities(self, call: Call[Requester]) -> object:
        """Who, at which providers, gets into the account; and the providers that there are."""
        found = await self._identities.of(call.requester)
        return {
            "identities": [
                {"provider": one.provider, "subject": one.subject, "linked_at": one.linked_at} for one in found
            ],
            "providers": [
                {"provider": provider, "name": name} for provider, name in self._identities.providers.items()
            ],
        }

    async def link_identity(self, call: Call[Requester]) -> object:
        """Give an address to visit, by which somebody at a provider gets into the account from then on."""
        body: LinkBody = call.body
        outcome = await self._identities.ask_to_link(call.requester, body.password, body.provider)
        return {"uri": outcome_body(outcome, self._server_name)["uri"]}

    async def unlink_identity(self, call: Call[Requester]) -> object:
        """Take such a way into the account away."""
        body: UnlinkBody = call.body
        await self._identities.unlink(call.requester, body.password, body.provider, body.subject)
        return {}


def outcome_body(outcome: Outcome, server_name: str) -> dict[str, Any]:
    """How a client is told what has come of a stage (LOGIN-2)."""
    if isinstance(outcome, Credentials):
        return {"user_id": outcome.user_id, "access_token": outcome.access_token, "home_server": server_name}
    if isinstance(outcome, Linked):
        return {"user_id": outcome.user_id}
    if isinstance(outcome, Begun):
        return {**outcome.answer, **({} if outcome.session is None else {"session": outcome.session})}
    return {"session": outcome.session, "next": outcome.next}
