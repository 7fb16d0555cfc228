"""Who, at providers of OAuth 2, gets into somebody's account: listed, added and taken away by its owner (LOGIN-7).

To add one is a stage like that of a login (`login_by_oauth2.py`), in a session for the account, and gives out no
credentials at its end.
"""

from __future__ import annotations

from collections.abc import Mapping

from synapse_like.handlers.accounts import Accounts
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.login import Login, Outcome
from synapse_like.handlers.login_by_oauth2 import OAUTH2
from synapse_like.protocol.errors import NotFound
from synapse_like.storage import external_identities
from synapse_like.storage.database import Database
from synapse_like.storage.external_identities import ExternalIdentity
from synapse_like.storage.transactions import Transaction


class ExternalIdentities:
    """The ways into accounts by way of providers.

    :ivar providers: the names of the providers that there are, by what the settings call them.
    """

    def __init__(self, database: Database, login: Login, accounts: Accounts, providers: Mapping[str, str]) -> None:
        self._database = database
        self._login = login
        self._accounts = accounts
        self.providers = providers

    async def of(self, requester: Requester) -> list[ExternalIdentity]:
        """Those into the requester's account."""
        return await self._database.read("identities", external_identities.of_user, requester.user_id)

    async def ask_to_link(self, requester: Requester, password: str, provider: str | None) -> Outcome:
        """Begin to add one: it has an address to visit.

        :param provider: None leaves the choice to a page, if there are several.
        :raises Forbidden: the password is wrong, or there is no provider.
        """
        await self._accounts.check_password(requester, password)
        body = {} if provider is None else {"provider": provider}
        return await self._login.begin_link(requester.user_id, OAUTH2, body)

    async def unlink(self, requester: Requester, password: str, provider: str, subject: str) -> None:
        """Take one away.

        :raises Forbidden: the password is wrong.
        :raises NotFound: there is no such way into the account.
        """
        await self._accounts.check_password(requester, password)
        await self._database.write("unlink-identity", self._unlink, requester.user_id, provider, subject)

    @staticmethod
    def _unlink(txn: Transaction, user_id: str, provider: str, subject: str) -> None:
        if not external_identities.unlink(txn, user_id, provider, subject):
            raise NotFound("The account is not linked with this.")
