"""What people do about their own accounts: another password, also for a forgotten one; e-mail addresses (LOGIN-10).

A reset goes by mail, to an address that the account is known to have. Whoever asks for one is answered alike, and after
the same time, whether or not there is such an account: what is only done if there is one is done behind the answer.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from synapse_like.clock import Clock
from synapse_like.handlers.authentication import Authentication, Requester
from synapse_like.handlers.login import TRIES
from synapse_like.handlers.login_by_mail import EMAIL, add_address, is_theirs
from synapse_like.handlers.passwords import Passwords, check_strength
from synapse_like.handlers.postman import Postman
from synapse_like.handlers.stored_secrets import stored_form
from synapse_like.protocol.email_addresses import canonical_email
from synapse_like.protocol.errors import Forbidden, NotFound
from synapse_like.protocol.identifiers import canonical_user_id
from synapse_like.storage import account_addresses, accounts, mail_links
from synapse_like.storage.account_addresses import AccountAddress
from synapse_like.storage.accounts import Account
from synapse_like.storage.database import Database
from synapse_like.storage.mail_links import MailLink
from synapse_like.storage.transactions import Transaction

if TYPE_CHECKING:
    from synapse_like.mail import Offer

#: What links in mails are for, and the pages that they lead to.
RESET = "reset"
ADDRESS = "address"


class Accounts:
    """Changes accounts for their owners.

    :param postman: None if this server sends no mail.
    :param limit: counts a request of a class for a key, or raises LimitExceeded.
    :param link_lifetime: in seconds.
    """

    def __init__(
        self,
        server_name: str,
        database: Database,
        clock: Clock,
        authentication: Authentication,
        passwords: Passwords,
        postman: Postman | None,
        limit: Callable[[str, str], None],
        *,
        link_lifetime: int,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._clock = clock
        self._authentication = authentication
        self._passwords = passwords
        self._postman_if_any = postman
        self._limit = limit
        self._link_lifetime = link_lifetime

    @property
    def _postman(self) -> Postman:
        if self._postman_if_any is None:
            raise Forbidden("This server sends no mail.")
        return self._postman_if_any

    # Passwords.

    async def change_password(self, requester: Requester, password: str, new_password: str) -> None:
        """Change the password of somebody who knows the one that they have; all their other logins end.

        :raises Forbidden: it is not theirs.
        :raises BadJson: the new one will not do.
        """
        check_strength(new_password)
        account = await self.check_password(requester, password)
        new_hash = await self._passwords.hash(new_password)
        await self._database.write("change-password", self._change_password, requester, account.password_hash, new_hash)

    def _change_password(self, txn: Transaction, requester: Requester, old_hash: str | None, new_hash: str) -> None:
        account = accounts.find(txn, requester.user_id)
        if account is None or account.password_hash != old_hash:
            raise Forbidden("The password was changed meanwhile.")
        self._set_password(txn, requester.user_id, new_hash, but=requester.token_id)

    def _set_password(self, txn: Transaction, user_id: str, new_hash: str, but: int | None = None) -> None:
        if not accounts.set_password(txn, user_id, new_hash):
            raise Forbidden("This account is closed.")
        mail_links.delete_of_user(txn, user_id, RESET)
        self._authentication.end_all(txn, user_id, but)

    async def check_password(self, requester: Requester, password: str) -> Account:
        """See that somebody who is logged in also knows the password: a token alone may be stolen.

        :raises Forbidden: they do not.
        """
        self._limit(TRIES, requester.user_id)
        account = await self._database.read("find-account", accounts.find, requester.user_id)
        known = account.password_hash if account is not None else None
        if not await self._passwords.verify(known, password) or account is None:
            raise Forbidden("The password is wrong.")
        return account

    # A forgotten password.

    async def ask_for_reset(self, user: str, email: str) -> None:
        """Send a link by which the password can be reset, if the address is the account's.

        :raises LimitExceeded: too many letters for this address or this user.
        :raises MatrixError: the mail server does not agree to a letter for this address.
        """
        user_id = canonical_user_id(user if user.startswith("@") else f"@{user}:{self._server_name}")
        address = canonical_email(email)
        is_real = await self._database.read("whose-address", is_theirs, user_id, address)
        offer = await self._postman.offer(address, user_id)
        link = MailLink(RESET, user_id, address)
        self._postman.keep_or_not(offer, partial(self._send_link, link, "password_reset") if is_real else None)

    async def _send_link(self, link: MailLink, letter: str, offer: Offer) -> None:
        secret = secrets.token_urlsafe(32)
        expires_at = self._clock.now_ms() + self._link_lifetime * 1000
        await self._database.write("mail-link", mail_links.create, stored_form(secret), link, expires_at=expires_at)
        page = self._postman.link(link.purpose, secret)
        await offer.deliver(self._postman.write(letter, link.address, user_id=link.user_id, link=page))

    async def find_link(self, purpose: str, secret: str) -> MailLink:
        """What a link is good for; it stays so.

        :param purpose: RESET or ADDRESS.
        :raises NotFound: for nothing (any more).
        """
        now_ms = self._clock.now_ms()
        link = await self._database.read("mail-link", mail_links.find, stored_form(secret), purpose, now_ms=now_ms)
        if link is None:
            raise _link_is_void()
        return link

    async def reset_password(self, secret: str, new_password: str) -> None:
        """Set another password by a link, which ends all logins of the user.

        :raises NotFound: the link is void.
        :raises BadJson: the password will not do.
        """
        check_strength(new_password)
        await self.find_link(RESET, secret)
        new_hash = await self._passwords.hash(new_password)
        await self._database.write("reset-password", self._reset_password, secret, new_hash)

    def _reset_password(self, txn: Transaction, secret: str, new_hash: str) -> None:
        link = self._spend(txn, RESET, secret)
        if not is_theirs(txn, link.user_id, link.address):
            raise _link_is_void()
        self._set_password(txn, link.user_id, new_hash)

    # Addresses.

    async def addresses(self, requester: Requester) -> list[AccountAddress]:
        """The addresses of somebody's account."""
        return await self._database.read("addresses", account_addresses.of_user, requester.user_id)

    async def ask_to_add(self, requester: Requester, email: str, password: str) -> None:
        """Send a link by which an address is added to the account, since one can get into it by the address.

        :raises Forbidden: the password is wrong.
        :raises MatrixError: the letter cannot be sent.
        """
        address, postman = canonical_email(email), self._postman
        await self.check_password(requester, password)
        offer = await postman.offer(address, requester.user_id)
        await self._send_link(MailLink(ADDRESS, requester.user_id, address), "link_address", offer)

    async def add_by_link(self, secret: str) -> str:
        """Add the address that a link was sent to; the address.

        :raises NotFound: the link is void.
        :raises Forbidden: the address belongs to another account.
        """
        return await self._database.write("add-address", self._add_by_link, secret)

    def _add_by_link(self, txn: Transaction, secret: str) -> str:
        link = self._spend(txn, ADDRESS, secret)
        account = accounts.find(txn, link.user_id)
        if account is None or account.is_deactivated:
            raise _link_is_void()
        add_address(txn, link.user_id, link.address, now_ms=self._clock.now_ms())
        return link.address

    async def remove(self, requester: Requester, email: str, password: str) -> None:
        """Take an address from the account.

        :raises Forbidden: the password is wrong.
        :raises NotFound: the account does not have it.
        """
        address = canonical_email(email)
        await self.check_password(requester, password)
        await self._database.write("remove-address", self._remove, requester.user_id, address)

    @staticmethod
    def _remove(txn: Transaction, user_id: str, address: str) -> None:
        if not account_addresses.remove(txn, user_id, EMAIL, address):
            raise NotFound("The account does not have this address.")

    # Links.

    def _spend(self, txn: Transaction, purpose: str, secret: str) -> MailLink:
        link = mail_links.spend(txn, stored_form(secret), purpose, now_ms=self._clock.now_ms())
        if link is None:
            raise _link_is_void()
        return link

    async def forget_expired_links(self) -> None:
        """Delete the links that nobody has used in time."""
        await self._database.write("expire-mail-links", mail_links.delete_expired, now_ms=self._clock.now_ms())


def _link_is_void() -> NotFound:
    return NotFound("This link was used already, or has expired. Please ask for another one.")
