"""The stages m.login.email.code (LOGIN-4) and m.login.email.url (LOGIN-5).

At registration the address need only be the client's own, and then belongs to the account. At login it must be one of
the account's. Whether it is, is not shown: the mail server is asked in any case whether it takes a mail for the
address, and then the client is answered; a letter goes out behind the answer, or none.
"""

from __future__ import annotations

import hmac
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from synapse_like.clock import Clock
from synapse_like.handlers.login import user_in_use, wrong
from synapse_like.handlers.login_stages import REGISTER, Done, Facts, Pending, Stage, Submission
from synapse_like.handlers.postman import Postman
from synapse_like.handlers.stored_secrets import stored_form
from synapse_like.protocol.email_addresses import canonical_email
from synapse_like.protocol.errors import Forbidden, LoginEmailUrlNotYet
from synapse_like.storage import account_addresses, accounts
from synapse_like.storage.database import Database
from synapse_like.storage.transactions import Transaction

if TYPE_CHECKING:
    from synapse_like.mail import Offer

EMAIL = "email"
CODE_DIGITS = 8


class _MailStage(Struct):
    """What the two have in common."""

    server_name: str
    database: Database
    clock: Clock
    postman: Postman

    async def _send(self, submission: Submission, letter: str, **values: object) -> dict[str, Any]:
        """Send a letter to the address, if at login it is the account's; what to remember of it.

        :raises UserInUse: at registration the name is taken.
        :raises LimitExceeded: too many letters.
        :raises MatrixError: the mail server cannot be reached, or does not take it.
        """
        state = submission.state or {}
        user_id = submission.named_user(self.server_name)
        address = canonical_email(submission.text("email") if "email" in submission.body else state.get("address", ""))
        values = {"purpose": submission.purpose, **values}
        is_real = True
        if submission.purpose == REGISTER:
            if await self.database.read("find-account", accounts.find, user_id) is not None:
                raise user_in_use(user_id)
            await self.postman.post(letter, address, user_id, **values)
        else:
            is_real = await self.database.read("whose-address", is_theirs, user_id, address)
            text = self.postman.write(letter, address, user_id=user_id, **values)
            offer = await self.postman.offer(address, user_id)
            self.postman.keep_or_not(offer, partial(_deliver, text) if is_real else None)
        return {"user_id": user_id, "address": address, "is_real": is_real}

    async def _proven(self, purpose: str, state: Facts) -> Done:
        """The client has received the letter.

        :raises Forbidden: at registration: the address is another account's.
        """
        if purpose == REGISTER:
            owner = await self.database.read("address-owner", account_addresses.owner, EMAIL, state["address"])
            if owner is not None:
                raise _of_another()
        return Done(state["user_id"], {"address": state["address"]})

    def finish(self, txn: Transaction, purpose: str, user_id: str, facts: Facts) -> None:
        """At registration give the address to the account; at login see that it is still the account's."""
        address = facts["address"]
        if purpose == REGISTER:
            add_address(txn, user_id, address, now_ms=self.clock.now_ms())
        elif account_addresses.owner(txn, EMAIL, address) != user_id:
            raise wrong()


class MailCodeStage(_MailStage):
    """m.login.email.code: the client is sent a code, and submits it."""

    def row(self) -> Stage:
        """Its row in the table of stages."""
        return Stage("m.login.email.code", self.run, self.run, self.finish)

    async def run(self, submission: Submission) -> Done | Pending:
        """Send a code, or check it."""
        if "code" not in submission.body:
            code = f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}}"
            state = await self._send(submission, "login_code", code=code)
            answer = {"type": "m.login.email.code"}
            return Pending(answer, {**state, "code": stored_form(code).hex()}, user_id=state["user_id"])
        code = "".join(submission.text("code").split())
        if submission.state is None:
            raise Forbidden("No code was sent yet in this session.")
        await submission.count_try(submission.user_id)
        is_right = hmac.compare_digest(stored_form(code).hex(), submission.state["code"])
        if not is_right or not submission.state["is_real"]:
            raise Forbidden("The code is wrong.")
        return await self._proven(submission.purpose, submission.state)


class MailUrlStage(_MailStage):
    """m.login.email.url: the client is sent a link, and asks again until its page was confirmed."""

    def row(self) -> Stage:
        """Its row in the table of stages."""
        return Stage("m.login.email.url", self.run, self.run, self.finish)

    async def run(self, submission: Submission) -> Done | Pending:
        """Send a link, have it confirmed, or see whether it was."""
        state = submission.state
        if state is not None and submission.by_ticket:
            return Pending({}, {**state, "is_confirmed": True})
        if state is None or "email" in submission.body:
            ticket = secrets.token_urlsafe(32)
            state = await self._send(submission, "login_link", link=self.postman.link("login", ticket))
            return Pending({"type": "m.login.email.url"}, state, ticket=ticket, user_id=state["user_id"])
        if not state.get("is_confirmed"):
            raise LoginEmailUrlNotYet("The link in the mail was not opened and confirmed yet.")
        return await self._proven(submission.purpose, state)


async def _deliver(letter: bytes, offer: Offer) -> None:
    await offer.deliver(letter)


def add_address(txn: Transaction, user_id: str, address: str, *, now_ms: int) -> None:
    """Give an e-mail address to a user who has proven that it is theirs.

    :raises Forbidden: it belongs to another account.
    """
    if not account_addresses.add(txn, user_id, EMAIL, address, now_ms=now_ms):
        raise _of_another()


def _of_another() -> Forbidden:
    return Forbidden("This e-mail address belongs to another account.")


def is_theirs(txn: Transaction, user_id: str, address: str) -> bool:
    """Whether an e-mail address belongs to a user who may log in."""
    account = accounts.find(txn, user_id)
    owner = account_addresses.owner(txn, EMAIL, address)
    return account is not None and not account.is_deactivated and owner == user_id
