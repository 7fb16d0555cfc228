"""The stages m.login.password (LOGIN-3) and m.login.registration_token."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from msgspec import Struct

from synapse_like.handlers.login import user_in_use, wrong
from synapse_like.handlers.login_stages import REGISTER, Done, Facts, Stage, Submission
from synapse_like.handlers.passwords import Passwords, check_strength
from synapse_like.protocol.errors import Forbidden
from synapse_like.storage import accounts
from synapse_like.storage.database import Database
from synapse_like.storage.transactions import Transaction


class PasswordStage(Struct):
    """m.login.password: at login the right password, at registration a free name and a new password."""

    server_name: str
    database: Database
    passwords: Passwords

    def row(self) -> Stage:
        """Its row in the table of stages."""
        return Stage("m.login.password", self.login, self.register, self.finish)

    async def login(self, submission: Submission) -> Done:
        """Check user and password; a wrong user and a wrong password look and take the same."""
        user_id, password = submission.named_user(self.server_name), submission.text("password")
        await submission.count_try(user_id)
        account = await self.database.read("find-account", accounts.find, user_id)
        known = account.password_hash if account is not None and not account.is_deactivated else None
        if not await self.passwords.verify(known, password):
            raise wrong()
        # Until the last stage is done, the password may be changed.
        return Done(user_id, {"checked_hash": known})

    async def register(self, submission: Submission) -> Done:
        """Take a name, if it is free, and a password."""
        user_id, password = submission.named_user(self.server_name), submission.text("password")
        check_strength(password)
        if await self.database.read("find-account", accounts.find, user_id) is not None:
            raise user_in_use(user_id)
        return Done(user_id, {"password_hash": await self.passwords.hash(password)})

    @staticmethod
    def finish(txn: Transaction, purpose: str, user_id: str, facts: Facts) -> None:
        """At registration keep the password; at login see that it still is the one that was checked."""
        if purpose == REGISTER:
            accounts.replace_password(txn, user_id, facts["password_hash"])
            return
        account = accounts.find(txn, user_id)
        if account is None or account.password_hash != facts["checked_hash"]:
            raise wrong()


class RegistrationTokenStage(Struct):
    """m.login.registration_token: one of the words that the operator has given to those who may register."""

    tokens: Sequence[str]

    def row(self) -> Stage:
        """Its row in the table of stages."""
        return Stage("m.login.registration_token", None, self.register)

    async def register(self, submission: Submission) -> Done:
        """Check the token against every configured one, each in the same time."""
        given = submission.text("token").encode("utf-8", "surrogatepass")
        await submission.count_try(None)
        if sum(hmac.compare_digest(given, token.encode()) for token in self.tokens) == 0:
            raise Forbidden("This registration token is not valid.")
        return Done()
