"""What a stage of a registration or login is (LOGIN-1, LOGIN-8).

A stage is a row of a table: its type, what it does at login, what at registration, and what is to be done for it in
the transaction that gives out the credentials. Its function is handed a `Submission` and

- returns `Done`: it is proven;
- returns `Pending`: something has been begun (a mail was sent), and the client is to submit more to the same stage;
- raises a `MatrixError`: refused; the session, if there is one, stands where it stood.

Who knows the secret of a `Pending` stage (its *ticket*: the link in a mail, the `state` of OAuth 2) takes part in it
without knowing the session: `Login.submit_by_ticket`. A ticket is good for one submission that is not refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec import Struct, field

from synapse_like.protocol.errors import BadJson, Forbidden
from synapse_like.protocol.identifiers import canonical_user_id, local_part_for_registration
from synapse_like.storage.transactions import Transaction

LOGIN = "login"
REGISTER = "register"
#: To add a way into the account of somebody who is logged in.
LINK = "link"

Facts = Mapping[str, Any]


class Submission(Struct, frozen=True):
    """What is submitted for one stage.

    :ivar purpose: ``login``, ``register`` or ``link``.
    :ivar body: the client's JSON object, or what came with the ticket.
    :ivar user_id: whom the session is for; None if no stage has said so yet.
    :ivar facts: what earlier stages of this session found out, by their types.
    :ivar state: what this stage wanted to remember (`Pending.state`); None if it begins now.
    :ivar by_ticket: whether it comes with the stage's ticket, and not from the client that has the session.
    :ivar count_try: `await submission.count_try(user_id)` before a secret is compared. It raises LimitExceeded or
        Forbidden if there were too many tries in this session or for this user, whether or not there is such a user.
    """

    purpose: str
    body: Mapping[str, Any]
    user_id: str | None
    facts: Mapping[str, Facts]
    state: Facts | None
    by_ticket: bool
    count_try: Callable[[str | None], Awaitable[None]]

    def text(self, key: str) -> str:
        """A string of the body.

        :raises BadJson: it is missing or of another type.
        """
        value = self.body.get(key)
        if not isinstance(value, str):
            raise BadJson(f"'{key}' must be a string.")
        return value

    def named_user(self, server_name: str) -> str:
        """The user that ``user`` names, as a user ID; the session's, if it has one and nothing is said.

        At registration the name has to be one that this server gives out; at login any will do.

        :raises BadJson: nobody is named, or not by a possible name.
        :raises Forbidden: the session is for another user.
        """
        if "user" not in self.body and self.user_id is not None:
            return self.user_id
        user = self.text("user")
        if self.purpose == REGISTER:
            named = f"@{local_part_for_registration(user, server_name)}:{server_name}"
        else:
            named = canonical_user_id(user if user.startswith("@") else f"@{user}:{server_name}")
        if self.user_id not in (None, named):
            raise another_user()
        return named


class Done(Struct, frozen=True):
    """The stage is proven.

    :ivar user_id: whom it is about, if it says so; all stages of a session must agree.
    :ivar facts: JSON to remember: for later stages, and for this one's `finish`.
    """

    user_id: str | None = None
    facts: Facts = field(default_factory=dict)


class Pending(Struct, frozen=True):
    """The stage has been begun; it is submitted to again.

    :ivar answer: what the client is answered; the session is added to it.
    :ivar state: JSON that the stage is handed next time.
    :ivar ticket: a new secret by which one may take part in it from elsewhere; the one before is void.
    :ivar user_id: as in `Done`.
    """

    answer: Mapping[str, Any]
    state: Facts
    ticket: str | None = None
    user_id: str | None = None


StageFunction = Callable[[Submission], Awaitable[Done | Pending]]

#: Given the purpose, the user and the stage's facts. May raise a MatrixError: then nobody is logged in.
FinishFunction = Callable[[Transaction, str, str, Facts], None]


class Stage(Struct, frozen=True):
    """One way to prove something.

    :ivar login: what it does at login; None where it makes no sense. So `register`.
    :ivar finish: what is to be done for it in the transaction that ends the session, when all stages are done; at
        registration the account is there already. It may run more than once, so it changes nothing but the tables.
    :ivar open_account: the same, before it is looked whether there is an account to log in to: it may make it.
    :ivar link: what it does to become a way into an account.
    """

    type: str
    login: StageFunction | None
    register: StageFunction | None
    finish: FinishFunction | None = None
    open_account: FinishFunction | None = None
    link: StageFunction | None = None


def another_user() -> Forbidden:
    """Two stages of a session speak of two users."""
    return Forbidden("All stages of a session must be for the same user.")
