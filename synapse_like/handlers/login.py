"""Registration and login, stage by stage (LOGIN-1, LOGIN-2, LOGIN-8).

A *flow* is a list of stage types; which flows there are is configured. What a stage is tells `login_stages.py`. The
engine below knows no stage by name; it sees to it that credentials are given only after all stages of one flow, in
order, each in the same session and for the same user.

What has been proven lives in a session in the database. A flow of one stage that is proven at once needs none. Every
step is recorded only if the session still stands where the step began (`login_sessions.py`), so nothing is done twice,
and the last step ends the session in the transaction that gives out the credentials.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from msgspec import Struct
from msgspec.structs import replace

from synapse_like.clock import Clock
from synapse_like.handlers.authentication import Authentication
from synapse_like.handlers.login_stages import (
    LINK,
    LOGIN,
    REGISTER,
    Done,
    Pending,
    Stage,
    StageFunction,
    Submission,
    another_user,
)
from synapse_like.handlers.policy import REGISTRATION, Policy
from synapse_like.handlers.stored_secrets import stored_form
from synapse_like.protocol.errors import BadJson, Forbidden, UserInUse
from synapse_like.storage import accounts, login_sessions
from synapse_like.storage.database import Database
from synapse_like.storage.login_sessions import LoginSession
from synapse_like.storage.transactions import Transaction

Flows = Sequence[Sequence[str]]
#: What the pages see of a session.
Session = LoginSession

#: How often something may be tried in one session.
MOST_TRIES = 10
#: The class of rate limits in which tries are counted for each user.
TRIES = "tries"


class Credentials(Struct, frozen=True):
    """The end of a login or registration."""

    user_id: str
    access_token: str


class NextStage(Struct, frozen=True):
    """More is to be proven."""

    session: str
    next: str


class Begun(Struct, frozen=True):
    """The stage has begun, and waits.

    :ivar session: None for who came with a ticket, and does not learn the session.
    """

    session: str | None
    answer: Mapping[str, Any]


class Linked(Struct, frozen=True):
    """There is another way into somebody's account."""

    user_id: str


Outcome = Credentials | NextStage | Begun | Linked


class Login:
    """Runs the configured flows over a table of stages.

    :param stages: the table.
    :param login_flows: flows for login; `register_flows` those for registration, none if it is closed.
    :param session_lifetime: in seconds.
    :param limit: counts a request of a class for a key, or raises LimitExceeded.
    """

    def __init__(
        self,
        database: Database,
        authentication: Authentication,
        clock: Clock,
        stages: Sequence[Stage],
        *,
        login_flows: Flows,
        register_flows: Flows,
        session_lifetime: int,
        limit: Callable[[str, str], None],
        policy: Policy | None = None,
    ) -> None:
        self._policy = policy
        self._database = database
        self._authentication = authentication
        self._clock = clock
        self._stages = {stage.type: stage for stage in stages}
        linking = tuple((stage.type,) for stage in stages if stage.link is not None)
        self._flows: dict[str, Flows] = {LOGIN: login_flows, REGISTER: register_flows, LINK: linking}
        self._session_lifetime = session_lifetime
        self._limit = limit

    def flows(self, purpose: str) -> Flows:
        """The flows for ``login`` or ``register``."""
        return self._flows[purpose]

    async def submit(self, purpose: str, body: Mapping[str, Any]) -> Outcome:
        """Take what a client submits for a stage.

        :param purpose: ``login`` or ``register``.
        :param body: with `type`, and `session` from the second request on.
        :raises Forbidden: the stage refuses, it is not this stage's turn, or the session is gone.
        """
        if not self._flows[purpose]:
            raise Forbidden("Registration is closed on this server.")
        session_id = body.get("session")
        if session_id is not None and not isinstance(session_id, str):
            raise BadJson("'session' must be a string.")
        session = None if session_id is None else await self._session(purpose, session_id)
        stage_type = body.get("type")
        if not isinstance(stage_type, str):
            raise BadJson("'type' must name a stage of one of the flows.")
        if session is not None and session.stage not in (None, stage_type):
            raise Forbidden(f"This session is in the middle of the stage '{session.stage}'.")
        return await self._step(session, session_id, purpose, stage_type, body)

    async def begin_link(self, user_id: str, stage_type: str, body: Mapping[str, Any]) -> Outcome:
        """Begin to add a way into somebody's account, who has shown that it is theirs.

        :raises Forbidden: there is no such way.
        """
        return await self._step(None, None, LINK, stage_type, body, user_id=user_id)

    async def find_session(self, purpose: str, session_id: str) -> Session:
        """A session, which nothing is done to.

        :raises Forbidden: there is none (any more).
        """
        return await self._session(purpose, session_id)

    async def find_ticket(self, stage_type: str, ticket: str) -> LoginSession:
        """The session that a ticket belongs to, which nothing is done to.

        :raises Forbidden: the ticket is not good (any more).
        """
        session = await self._database.read(
            "login-ticket", login_sessions.find_by_ticket, stored_form(ticket), now_ms=self._clock.now_ms()
        )
        if session is None or session.stage != stage_type:
            raise Forbidden("This link was used already, or has expired. Please start again.")
        return session

    async def submit_by_ticket(self, stage_type: str, ticket: str, body: Mapping[str, Any]) -> Outcome:
        """Take part in the stage that a ticket belongs to, which spends the ticket unless the stage refuses.

        If the stage is done by that, the session goes over to who had the ticket: it gets a new ID.

        :param body: what the stage is to know.
        :raises Forbidden: the ticket is not good (any more), or the stage refuses.
        """
        session = await self.find_ticket(stage_type, ticket)
        if not self._flows[session.purpose]:
            raise Forbidden("Registration is closed on this server.")
        return await self._step(session, None, session.purpose, stage_type, body)

    async def _step(
        self,
        session: LoginSession | None,
        session_id: str | None,
        purpose: str,
        stage_type: str,
        body: Mapping[str, Any],
        user_id: str | None = None,
    ) -> Outcome:
        """One submission to one stage.

        :param session_id: None if there is no session yet, or if the submission comes with a ticket.
        :param user_id: whom a new session is for, if that is known.
        """
        completed = session.completed if session is not None else ()
        done = (*completed, stage_type)
        following = [flow for flow in self._flows[purpose] if tuple(flow[: len(done)]) == done]
        if not following:
            raise Forbidden(f"'{stage_type[:64]}' is not the next stage of any flow.")

        async def count_try(user_id: str | None) -> None:
            await self._count_try(session, user_id)

        submission = Submission(
            purpose,
            body,
            user_id=session.user_id if session is not None else user_id,
            facts=session.facts if session is not None else {},
            state=session.state if session is not None and session.stage == stage_type else None,
            by_ticket=session is not None and session_id is None,
            count_try=count_try,
        )
        result = await self._function(purpose, stage_type)(submission)
        return await self._take(result, submission, session, session_id, following, done)

    async def _take(
        self,
        result: Done | Pending,
        submission: Submission,
        session: LoginSession | None,
        session_id: str | None,
        following: Flows,
        done: tuple[str, ...],
    ) -> Outcome:
        """Record what a stage has said, if the session still stands where it stood before.

        :param following: the flows that the session may be in.
        :param done: the stages that are done if this one is, which is the last of them.
        """
        *completed, stage_type = done
        new_id = session_id or secrets.token_urlsafe(24)
        now = LoginSession(
            stored_form(new_id),
            submission.purpose,
            _agreed_user(session, result),
            tuple(completed),
            submission.facts,
            stage=None,
            state={},
            ticket_hash=None,
            revision=session.revision if session is not None else 1,
        )
        if isinstance(result, Pending):
            ticket_hash = None if result.ticket is None else stored_form(result.ticket)
            now = replace(now, stage=stage_type, state=result.state, ticket_hash=ticket_hash)
            if session is not None and submission.by_ticket:
                # Whoever has the session goes on with it.
                now = replace(now, session_hash=session.session_hash)
            await self._database.write("begin-stage", self._record, session, now)
            return Begun(None if submission.by_ticket else new_id, result.answer)
        now = replace(now, completed=done, facts={**now.facts, stage_type: result.facts})
        if any(len(flow) == len(done) for flow in following):
            if now.purpose == REGISTER and self._policy is not None and now.user_id is not None:
                await self._policy.check(REGISTRATION, **_about(now.user_id, now))
            return await self._database.write("log-in", self._finish, session, now)
        await self._database.write("end-stage", self._record, session, now)
        return NextStage(new_id, following[0][len(done)])

    def _function(self, purpose: str, stage_type: str) -> StageFunction:
        stage = self._stages[stage_type]
        function = {LOGIN: stage.login, REGISTER: stage.register, LINK: stage.link}[purpose]
        assert function is not None, f"a configured flow has a stage {stage_type} that is not for {purpose}"
        return function

    async def _session(self, purpose: str, session_id: str) -> LoginSession:
        session = await self._database.read(
            "login-session", login_sessions.find, stored_form(session_id), purpose=purpose, now_ms=self._clock.now_ms()
        )
        if session is None:
            raise Forbidden("This session is unknown, finished or has expired. Please start again.")
        return session

    async def _count_try(self, session: LoginSession | None, user_id: str | None) -> None:
        if user_id is not None:
            self._limit(TRIES, user_id)
        if session is not None and not await self._database.write(
            "count-try", login_sessions.take_try, session.session_hash, most=MOST_TRIES
        ):
            raise Forbidden("There were too many tries in this session. Please start again.")

    def _record(self, txn: Transaction, session: LoginSession | None, now: LoginSession) -> None:
        """Let a session begin or go on."""
        if session is None:
            login_sessions.create(txn, now, expires_at=self._clock.now_ms() + self._session_lifetime * 1000)
        elif not login_sessions.advance(txn, session, now):
            _too_late()

    def _finish(self, txn: Transaction, session: LoginSession | None, now: LoginSession) -> Credentials | Linked:
        user_id = now.user_id
        if user_id is None:
            raise Forbidden("These stages do not say who you are.")
        stages = [(self._stages[stage_type], now.facts[stage_type]) for stage_type in now.completed]
        if now.purpose == LOGIN:
            for stage, facts in stages:
                if stage.open_account is not None:
                    stage.open_account(txn, now.purpose, user_id, facts)
        account = accounts.find(txn, user_id)
        if now.purpose == REGISTER:
            if account is not None:
                raise user_in_use(user_id)
        elif account is None or account.is_deactivated:
            raise wrong()
        if session is not None and not login_sessions.finish(txn, session):
            _too_late()
        if now.purpose == REGISTER:
            accounts.create(txn, user_id, password_hash=None, now_ms=self._clock.now_ms())
        for stage, facts in stages:
            if stage.finish is not None:
                stage.finish(txn, now.purpose, user_id, facts)
        if now.purpose == LINK:
            return Linked(user_id)
        return Credentials(user_id, self._authentication.issue(txn, user_id))

    async def forget_expired_sessions(self) -> None:
        """Delete the sessions that were never finished."""
        await self._database.write("expire-login-sessions", login_sessions.delete_expired, now_ms=self._clock.now_ms())


def _agreed_user(session: LoginSession | None, result: Done | Pending) -> str | None:
    """Whom the session is for; two stages may not speak of two users."""
    before = session.user_id if session is not None else None
    if before is not None and result.user_id not in (None, before):
        raise another_user()
    return before or result.user_id


def _about(user_id: str, session: LoginSession) -> dict[str, Any]:
    """What a policy server is told of somebody who registers."""
    found = [facts["address"] for facts in session.facts.values() if isinstance(facts.get("address"), str)]
    return {"user_id": user_id, "stages": list(session.completed), "emails": found}


def _too_late() -> NoReturn:
    raise Forbidden("Another request has continued this session.")


def wrong() -> Forbidden:
    """How a wrong user, a wrong password and a closed account are answered alike (LOGIN-3)."""
    return Forbidden("The user or the password is wrong.")


def user_in_use(user_id: str) -> UserInUse:
    """The wanted name is taken."""
    return UserInUse(f"The user ID {user_id} is taken.")
