"""The stage m.login.email.identity: an identity server vouches for an e-mail address (LOGIN-6).

At registration the address then belongs to the account, and the identity server is told so; if it cannot be reached
just then, it is told later. At login the account is the one that the address belongs to.

A session of an identity server is good here once, and only for a while after the address was proven in it: whoever else
was shown it should not be able to come in by it later.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from synapse_like.clock import Clock
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.federation.identity_client import IdentityClient
from synapse_like.handlers.login import wrong
from synapse_like.handlers.login_by_mail import EMAIL, add_address
from synapse_like.handlers.login_stages import REGISTER, Done, Facts, Stage, Submission
from synapse_like.handlers.postman import MAIL
from synapse_like.logs import get_logger
from synapse_like.protocol.email_addresses import canonical_email
from synapse_like.protocol.errors import BadJson, Forbidden
from synapse_like.storage import account_addresses, accounts, identity_sessions
from synapse_like.storage.database import Database
from synapse_like.storage.identity_sessions import Binding
from synapse_like.storage.transactions import Transaction

#: Addresses that may be proven at once.
MOST_ADDRESSES = 5
#: For how long after it was proven an address counts, and how far the clock of an identity server may be ahead.
FRESH_MS, AHEAD_MS = 3600 * 1000, 300 * 1000
#: Bindings that are tried in one round; how often; and the longest pause between two tries of one, in seconds.
MOST_BINDINGS, BINDING_SECONDS, LONGEST_PAUSE = 20, 5, 3600
#: Tries after which a binding is given up: about three days.
MOST_FAILURES = 80

_log = get_logger(__name__)


class IdentityStage(Struct):
    """m.login.email.identity.

    :ivar limit: counts a request of a class for a key, or raises LimitExceeded.
    """

    server_name: str
    database: Database
    clock: Clock
    client: IdentityClient
    limit: Callable[[str, str], None]

    def row(self) -> Stage:
        """Its row in the table of stages."""
        return Stage("m.login.email.identity", self.run, self.run, self.finish)

    async def run(self, submission: Submission) -> Done:
        """Have the identity servers confirm the addresses.

        :raises Forbidden: they do not, one of them is not trusted, or at login no account has the addresses.
        :raises ServerUnreachable: one of them cannot be asked.
        """
        await submission.count_try(submission.user_id)
        proven = [await self._proven(credentials) for credentials in _credentials(submission)]
        if submission.purpose == REGISTER:
            user_id = submission.named_user(self.server_name) if "user" in submission.body else submission.user_id
        else:
            addresses = [address["address"] for address in proven]
            user_id = await self.database.read("whose-addresses", _owner, addresses)
        return Done(user_id, {"addresses": proven})

    # For people whose client does not speak to identity servers: the pages do.

    @property
    def servers(self) -> Sequence[str]:
        """The URLs of the identity servers that may be chosen."""
        return self.client.servers

    async def send_mail(self, id_server: str, email: str) -> dict[str, str]:
        """Have an identity server send a mail; the credentials that will be good once its code is confirmed.

        :raises Forbidden: it does not want to, or is not trusted.
        :raises LimitExceeded: too many mails for this address.
        :raises ServerUnreachable: it cannot be asked.
        """
        address = canonical_email(email)
        self.limit(MAIL, address)
        secret = secrets.token_urlsafe(32)
        sid = await self.client.request_token(self.client.url_of(id_server), address, secret)
        return {"idServer": id_server, "sid": sid, "clientSecret": secret}

    async def confirm(self, given: Mapping[str, str], code: str) -> None:
        """Confirm the address by the code in the mail.

        :raises Forbidden: it is wrong.
        :raises ServerUnreachable: the identity server cannot be asked.
        """
        url = self.client.url_of(given["idServer"])
        await self.client.submit_token(url, given["sid"], given["clientSecret"], code)

    async def _proven(self, credentials: tuple[str, str, str]) -> dict[str, str]:
        id_server, sid, client_secret = credentials
        url = self.client.url_of(id_server)
        found = await self.client.validated(url, sid, client_secret)
        if found.medium != EMAIL:
            raise Forbidden("The identity server has confirmed something other than an e-mail address.")
        age = self.clock.now_ms() - found.validated_at
        if not -AHEAD_MS <= age <= FRESH_MS:
            raise Forbidden("This address was confirmed too long ago. Please have it confirmed again.")
        return {"server": url, "sid": sid, "client_secret": client_secret, "address": canonical_email(found.address)}

    def finish(self, txn: Transaction, purpose: str, user_id: str, facts: Facts) -> None:
        """Use up the sessions; at registration give the addresses to the account."""
        now_ms = self.clock.now_ms()
        for proven in facts["addresses"]:
            server, sid, address = proven["server"], proven["sid"], proven["address"]
            if not identity_sessions.use(txn, server, sid, now_ms=now_ms):
                raise Forbidden("This session of the identity server was used already.")
            if purpose == REGISTER:
                add_address(txn, user_id, address, now_ms=now_ms)
                identity_sessions.add_binding(txn, server, sid, proven["client_secret"], user_id, now_ms=now_ms)
            elif account_addresses.owner(txn, EMAIL, address) != user_id:
                raise wrong()

    async def tell_bindings(self) -> None:
        """Tell identity servers of whom has registered by them, and try those again that could not be told."""
        due = await self.database.read(
            "due-bindings", identity_sessions.due_bindings, now_ms=self.clock.now_ms(), most=MOST_BINDINGS
        )
        for binding in due:
            await self._tell(binding)

    async def _tell(self, binding: Binding) -> None:
        try:
            url = self.client.url_of(binding.server)
            await self.client.bind(url, binding.sid, binding.client_secret, binding.user_id)
        except ServerUnreachable as error:
            _log.warning("an identity server could not be told", server=binding.server, reason=error.reason)
            if binding.failures + 1 < MOST_FAILURES:
                pause = min(BINDING_SECONDS * 2**binding.failures, LONGEST_PAUSE)
                due_at = self.clock.now_ms() + pause * 1000
                await self.database.write(
                    "binding-failed", identity_sessions.binding_failed, binding.binding_id, due_at=due_at
                )
                return
        except Forbidden as error:
            _log.warning("an identity server does not bind an address", server=binding.server, reason=error.reason)
        await self.database.write("binding-done", identity_sessions.binding_done, binding.binding_id)

    async def forget_used(self) -> None:
        """Forget sessions that are too old to be used again anyhow."""
        before = self.clock.now_ms() - FRESH_MS - AHEAD_MS
        await self.database.write("forget-identity-sessions", identity_sessions.forget_used, before=before)


def _credentials(submission: Submission) -> list[tuple[str, str, str]]:
    """Server, session and secret of each of the credentials.

    :raises BadJson: they are none.
    """
    given = submission.body.get("threepidCreds", submission.body.get("threepid_creds"))
    given = [given] if isinstance(given, dict) else given
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_ADDRESSES:
        raise BadJson(f"'threepidCreds' must be a list of 1 to {MOST_ADDRESSES} objects.")
    return [
        (
            _either(one, "idServer", "id_server"),
            _either(one, "sid", "sid"),
            _either(one, "clientSecret", "client_secret"),
        )
        for one in given
    ]


def _either(given: object, key: str, other: str) -> str:
    value: Any = given.get(key, given.get(other)) if isinstance(given, Mapping) else None
    if not isinstance(value, str):
        raise BadJson(f"Each of 'threepidCreds' must have a string '{key}'.")
    return value


def _owner(txn: Transaction, addresses: list[str]) -> str:
    """The one user who has all these addresses."""
    owners = {account_addresses.owner(txn, EMAIL, address) for address in addresses}
    user_id = owners.pop()
    if owners or user_id is None:
        raise Forbidden("No account has this e-mail address.")
    account = accounts.find(txn, user_id)
    if account is None or account.is_deactivated:
        raise Forbidden("No account has this e-mail address.")
    return user_id
