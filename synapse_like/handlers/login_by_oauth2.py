"""The stage m.login.oauth2: a provider of OAuth 2 tells who somebody is (LOGIN-7).

It takes up to four steps. The client begins (`_begin`) and is answered with an address to visit: that of the one
provider's authorization request, or of a page on which one of several is chosen (`_choose`). From the provider people
come back to our redirect URI (`_return`) with a code, by which we learn who they are there. Which account that means
is `_whose`: the one that is linked with them, or by the rules of the settings one that is there, or a new one. Linked
it is at the end, in the transaction that gives out the credentials (`finish`).

All steps but the first come with a ticket and not with the session: the OAuth 2 `state` is one. What one of our pages
has begun is bound to its browser, by the hash of a cookie (`browser`), and goes on nowhere else. What a client has
begun, which then sends people to a browser that we have not seen, cannot be bound from the beginning. There they are
asked before the end whether it is they who want into that account (`asks`). Otherwise anybody could have them log in to
a stranger's account, by sending them to the redirect URI with a code of the stranger's.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from synapse_like.clock import Clock
from synapse_like.handlers.login import user_in_use, wrong
from synapse_like.handlers.login_by_mail import EMAIL
from synapse_like.handlers.login_stages import LINK, LOGIN, REGISTER, Done, Facts, Pending, Stage, Submission
from synapse_like.protocol.email_addresses import canonical_email
from synapse_like.protocol.errors import BadJson, Forbidden, MatrixError
from synapse_like.protocol.identifiers import local_part_for_registration
from synapse_like.protocol.profiles import DISPLAYNAME, PUBLIC, check_value
from synapse_like.storage import account_addresses, accounts, external_identities, profiles
from synapse_like.storage.database import Database
from synapse_like.storage.profiles import ProfileField
from synapse_like.storage.transactions import Transaction

if TYPE_CHECKING:
    from synapse_like.federation.oauth2_client import OAuth2Client

OAUTH2 = "m.login.oauth2"

#: The steps that a stage waits for.
CHOOSE, RETURN, CONFIRM = "choose", "return", "confirm"
#: How the identity has come to the account.
LINKED, FITS, NEW = "linked", "fits", "new"

_LONGEST_SUBJECT = 255
_USER_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._/-+")


class Provider(Struct, frozen=True):
    """A provider, and what its word counts for.

    :ivar id: what it is called in the database and in addresses; `name` on pages.
    :ivar subject_claim: the claim that tells people apart; the others give user name and display name.
    :ivar new_accounts: whether those who have no account get one.
    :ivar link_accounts: how an account is found that nobody has linked yet.
    """

    id: str
    name: str
    client: OAuth2Client
    subject_claim: str
    name_claim: str
    displayname_claim: str
    new_accounts: Literal["never", "by_name"]
    link_accounts: Literal["never", "by_email", "by_name"]


class Person(Struct, frozen=True):
    """Somebody as a provider knows them.

    :ivar user_name: the user name here that goes with what they are called there; None if there is none.
    :ivar email: an address that the provider has confirmed.
    """

    provider: str
    subject: str
    user_name: str | None
    displayname: str | None
    email: str | None


class OAuth2Stage(Struct):
    """m.login.oauth2.

    :ivar choosing_uri: what the address of the page begins with on which a provider is chosen; the ticket follows.
    """

    server_name: str
    database: Database
    clock: Clock
    providers: Sequence[Provider]
    choosing_uri: str

    def row(self) -> Stage:
        """Its row in the table of stages."""
        return Stage(OAUTH2, self.run, self.run, self.finish, open_account=self.open_account, link=self.run)

    async def run(self, submission: Submission) -> Done | Pending:
        """Take whichever step is next."""
        state = submission.state
        if not submission.by_ticket:
            # If it was begun before, it begins anew, and what was sent out for it is void.
            return await self._begin(submission)
        if state is None:
            raise Forbidden("This link was used already, or has expired. Please start again.")
        bound_to = state["browser"]
        if bound_to is not None and not _same(bound_to, submission.body.get("browser")):
            raise Forbidden("This login was begun in another browser. Please go on there, or start again here.")
        match state["step"]:
            case "choose":
                return await self._choose(submission, state)
            case "return":
                return await self._return(submission, state)
            case _:
                return Done(state["user_id"], state["person"])

    # Going there.

    async def _begin(self, submission: Submission) -> Pending:
        user_id = submission.user_id
        if submission.purpose != LINK and submission.body.get("user"):
            user_id = submission.named_user(self.server_name)
        if submission.purpose == REGISTER and user_id is not None:
            await self._must_be_free(user_id)
        browser = submission.body.get("browser")
        browser = browser if isinstance(browser, str) else None
        asks = browser is None
        if "provider" in submission.body:
            return await self._send(self._provider(submission.text("provider")), browser, user_id, asks=asks)
        if len(self.providers) == 1:
            return await self._send(self.providers[0], browser, user_id, asks=asks)
        ticket = secrets.token_urlsafe(32)
        state = {"step": CHOOSE, "browser": browser, "asks": asks}
        return Pending({"uri": self.choosing_uri + ticket}, state, ticket=ticket, user_id=user_id)

    async def _choose(self, submission: Submission, state: Facts) -> Pending:
        """The page is in some browser, to which it is bound from here on."""
        browser = submission.text("browser")
        provider = self._provider(submission.text("provider"))
        return await self._send(provider, browser, submission.user_id, asks=state["asks"])

    async def _send(self, provider: Provider, browser: str | None, user_id: str | None, *, asks: bool) -> Pending:
        ticket, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        uri = await provider.client.authorization_request(ticket, nonce, verifier)
        state = {
            "step": RETURN,
            "provider": provider.id,
            "browser": browser,
            "asks": asks,
            "nonce": nonce,
            "verifier": verifier,
        }
        return Pending({"uri": uri}, state, ticket=ticket, user_id=user_id)

    def _provider(self, provider_id: str) -> Provider:
        for provider in self.providers:
            if provider.id == provider_id:
                return provider
        raise BadJson("There is no such provider.")

    # Coming back.

    async def _return(self, submission: Submission, state: Facts) -> Done | Pending:
        """They are back. In the body, `provider` is whose redirect URI they came to: each has one of its own, so that
        no provider gets the code of another one. `can_ask` tells whether it is a page that they will see.
        """
        body = submission.body
        if submission.purpose == LINK and not body.get("can_ask"):
            raise Forbidden("This address is to be opened as a page.")
        if body.get("provider") != state["provider"]:
            raise Forbidden("This answer is not from the provider that was asked.")
        provider = self._provider(state["provider"])
        if "error" in body or "code" not in body:
            raise _refused(provider, body)
        issuer = body.get("iss")
        claims = await provider.client.claims(
            submission.text("code"), None if issuer is None else str(issuer), state["nonce"], state["verifier"]
        )
        person = self._person(provider, claims)
        user_id, how = await self.database.read("whose-identity", self._whose, submission, provider, person)
        known = {
            "provider": person.provider,
            "subject": person.subject,
            "displayname": person.displayname,
            "how": how,
        }
        if state["asks"] and body.get("can_ask"):
            ticket = secrets.token_urlsafe(32)
            after = {"step": CONFIRM, "browser": submission.text("browser"), "user_id": user_id, "person": known}
            answer = {"ticket": ticket, "user_id": user_id, "provider": provider.name, "is_new": how == NEW}
            return Pending(answer, after, ticket=ticket, user_id=user_id)
        return Done(user_id, known)

    def _person(self, provider: Provider, claims: Mapping[str, Any]) -> Person:
        """What of the claims is of use.

        :raises Forbidden: they do not tell who it is.
        """
        subject = claims.get(provider.subject_claim)
        if isinstance(subject, int) and not isinstance(subject, bool):
            subject = str(subject)
        if not isinstance(subject, str) or not 0 < len(subject) <= _LONGEST_SUBJECT:
            raise Forbidden(
                f"{provider.name} does not tell who you are.", reason=f"there is no claim {provider.subject_claim}"
            )
        email = claims.get("email") if claims.get("email_verified") is True else None
        return Person(
            provider.id,
            subject,
            self._user_name(claims.get(provider.name_claim)),
            _displayname(claims.get(provider.displayname_claim)),
            _address(email),
        )

    def _user_name(self, name: object) -> str | None:
        """The user ID that goes with a name from elsewhere; the characters that none may have are written as `=` and
        two digits for each byte.
        """
        if not isinstance(name, str) or not name:
            return None
        escaped = "".join(
            one if one in _USER_NAME_CHARACTERS else "".join(f"={byte:02x}" for byte in one.encode("utf-8", "replace"))
            for one in name.lower()
        )
        try:
            return f"@{local_part_for_registration(escaped, self.server_name)}:{self.server_name}"
        except BadJson:
            return None

    # Whose account it is.

    def _whose(
        self, txn: Transaction, submission: Submission, provider: Provider, person: Person
    ) -> tuple[str | None, str]:
        """The account that somebody gets into, and why; None at a registration in which another stage names it.

        :raises Forbidden: none.
        :raises UserInUse: the one that they would get is taken.
        """
        owner = external_identities.owner(txn, person.provider, person.subject)
        if submission.purpose == LOGIN:
            return self._whose_login(txn, provider, person, owner)
        if owner is not None and (submission.purpose == REGISTER or owner != submission.user_id):
            raise _of_another(provider.name)
        if submission.purpose == LINK or submission.user_id is not None:
            return submission.user_id, FITS
        if person.user_name is not None and accounts.find(txn, person.user_name) is not None:
            raise user_in_use(person.user_name)
        return person.user_name, NEW

    def _whose_login(self, txn: Transaction, provider: Provider, person: Person, owner: str | None) -> tuple[str, str]:
        if owner is not None:
            account = accounts.find(txn, owner)
            if account is None or account.is_deactivated:
                raise Forbidden("This account is closed.")
            return owner, LINKED
        fitting = _fitting(txn, provider, person)
        if fitting is not None:
            return fitting, FITS
        if provider.new_accounts == "by_name" and person.user_name is not None:
            if accounts.find(txn, person.user_name) is not None:
                raise user_in_use(person.user_name)
            return person.user_name, NEW
        raise Forbidden(f"There is no account here that belongs to your account at {provider.name}.")

    async def _must_be_free(self, user_id: str) -> None:
        if await self.database.read("find-account", accounts.find, user_id) is not None:
            raise user_in_use(user_id)

    # At the end.

    def open_account(self, txn: Transaction, purpose: str, user_id: str, facts: Facts) -> None:
        """At login make the account, if that is what was found to be right."""
        if facts["how"] != NEW:
            return
        if not accounts.create(txn, user_id, password_hash=None, now_ms=self.clock.now_ms()):
            raise user_in_use(user_id)
        self._introduce(txn, user_id, facts)

    def finish(self, txn: Transaction, purpose: str, user_id: str, facts: Facts) -> None:
        """Link the identity to the account; at login see that it still leads there, or may."""
        provider, subject = self._provider(facts["provider"]), facts["subject"]
        if purpose == LOGIN and facts["how"] == LINKED:
            if external_identities.owner(txn, provider.id, subject) != user_id:
                raise wrong()
            return
        if purpose == LOGIN and facts["how"] == FITS and _has_identity(txn, user_id, provider.id):
            raise _of_another(provider.name)
        if not external_identities.link(txn, provider.id, subject, user_id, now_ms=self.clock.now_ms()):
            raise _of_another(provider.name)
        if purpose == REGISTER:
            self._introduce(txn, user_id, facts)

    @staticmethod
    def _introduce(txn: Transaction, user_id: str, facts: Facts) -> None:
        if facts["displayname"] is not None:
            profiles.put(txn, user_id, ProfileField(DISPLAYNAME, facts["displayname"], PUBLIC))


def _fitting(txn: Transaction, provider: Provider, person: Person) -> str | None:
    """The account that is there, and that somebody gets into by the rules.

    An account with an identity at this provider belongs to that one: names and addresses wander.
    """
    found = None
    if provider.link_accounts == "by_email" and person.email is not None:
        found = account_addresses.owner(txn, EMAIL, person.email)
    elif provider.link_accounts == "by_name":
        found = person.user_name
    account = accounts.find(txn, found) if found is not None else None
    if account is None or account.is_deactivated or _has_identity(txn, account.user_id, provider.id):
        return None
    return account.user_id


def _has_identity(txn: Transaction, user_id: str, provider: str) -> bool:
    return any(identity.provider == provider for identity in external_identities.of_user(txn, user_id))


def _refused(provider: Provider, body: Mapping[str, Any]) -> Forbidden:
    """They have come back without a code."""
    reason = f"{str(body.get('error'))[:100]}: {str(body.get('error_description'))[:200]}"
    if body.get("error") == "access_denied":
        return Forbidden(f"You have not allowed {provider.name} to tell who you are.", reason=reason)
    return Forbidden(f"{provider.name} could not tell who you are. Please start again.", reason=reason)


def _of_another(name: str) -> Forbidden:
    return Forbidden(f"Your account at {name} belongs to another account here.")


def _address(email: object) -> str | None:
    try:
        return canonical_email(email) if isinstance(email, str) else None
    except MatrixError:
        return None


def _displayname(name: object) -> str | None:
    try:
        check_value(DISPLAYNAME, name)
    except MatrixError:
        return None
    return name if isinstance(name, str) and name else None


def _same(expected: str, given: object) -> bool:
    return isinstance(given, str) and hmac.compare_digest(expected.encode(), given.encode("utf-8", "surrogatepass"))
