"""Registration and login, stage by stage (LOGIN-1, LOGIN-2, LOGIN-8).

A *flow* is a list of stage types; which flows there are is configured. A *stage* is a row of a table: its type, and
what it does at login and at registration. The engine below knows no stage by name; it sees to it that credentials
are given only after all stages of one flow, in order, each in the same session.

What has been proven lives in a session in the database. A flow of one stage needs none. Every step is recorded only
if the session still stands where the step began (`login_sessions.py`), so nothing is done twice, and the last step
ends the session in the transaction that gives out the credentials.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from synapse_like.clock import Clock
from synapse_like.handlers.authentication import Authentication
from synapse_like.handlers.passwords import Passwords, check_strength
from synapse_like.protocol.errors import BadJson, Forbidden, MatrixError, UserInUse
from synapse_like.protocol.identifiers import canonical_user_id, local_part_for_registration
from synapse_like.storage import accounts, login_sessions
from synapse_like.storage.database import Database, Transaction
from synapse_like.storage.login_sessions import LoginSession

Flows = Sequence[Sequence[str]]
Facts = Mapping[str, Any]
LOGIN = "login"
REGISTER = "register"


@dataclass(frozen=True, slots=True)
class Submission:
    """What a client submits for one stage.

    :ivar body: the request's JSON object.
    :ivar facts: what earlier stages of this session found out.
    """

    body: Mapping[str, Any]
    facts: Facts

    def text(self, key: str) -> str:
        """A string of the body.

        :raises BadJson: it is missing or of another type.
        """
        value = self.body.get(key)
        if not isinstance(value, str):
            raise BadJson(f"'{key}' must be a string.")
        return value


#: Does its work and gives the facts it found; raises a MatrixError to refuse.
StageFunction = Callable[[Submission], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Stage:
    """One way to prove something; None where it makes no sense."""

    type: str
    login: StageFunction | None
    register: StageFunction | None


@dataclass(frozen=True, slots=True)
class Credentials:
    """The end of a login or registration."""

    user_id: str
    access_token: str


@dataclass(frozen=True, slots=True)
class NextStage:
    """More is to be proven."""

    session: str
    next: str


class Login:
    """Runs the configured flows over a table of stages.

    :param stages: the table.
    :param login_flows: flows for login; `register_flows` those for registration, none if it is closed.
    :param session_lifetime: in seconds.
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
    ) -> None:
        self._database = database
        self._authentication = authentication
        self._clock = clock
        self._stages = {stage.type: stage for stage in stages}
        self._flows = {LOGIN: login_flows, REGISTER: register_flows}
        self._session_lifetime = session_lifetime

    def flows(self, purpose: str) -> Flows:
        """The flows for ``login`` or ``register``."""
        return self._flows[purpose]

    async def submit(self, purpose: str, body: Mapping[str, Any]) -> Credentials | NextStage:
        """Take one stage's data.

        :param purpose: ``login`` or ``register``.
        :raises Forbidden: the stage refuses, it is not this stage's turn, or the session is gone.
        """
        if not self._flows[purpose]:
            raise Forbidden("Registration is closed on this server.")
        session_id, session = await self._open_session(purpose, body)
        stage_type = body.get("type")
        if not isinstance(stage_type, str):
            raise BadJson("'type' must name a stage of one of the flows.")
        done = session.completed if session else ()
        following = [flow for flow in self._flows[purpose] if tuple(flow[: len(done) + 1]) == (*done, stage_type)]
        if not following:
            raise Forbidden(f"'{stage_type[:64]}' is not the next stage of any flow.")
        before: Facts = session.facts if session else {}
        found = await self._function(purpose, stage_type)(Submission(body, before))
        facts = _joined(before, found)
        done = (*done, stage_type)
        if any(len(flow) == len(done) for flow in following):
            return await self._database.write("log-in", self._finish, purpose, session, facts)
        if session is None or session_id is None:
            session_id = secrets.token_urlsafe(24)
            await self._database.write("begin-login", self._begin, purpose, session_id, done, facts)
        elif not await self._database.write(
            "continue-login", login_sessions.advance, session, completed=done, facts=facts
        ):
            raise Forbidden("Another request has continued this session.")
        return NextStage(session_id, following[0][len(done)])

    def _function(self, purpose: str, stage_type: str) -> StageFunction:
        stage = self._stages[stage_type]
        function = stage.login if purpose == LOGIN else stage.register
        assert function is not None, f"a configured flow has a stage {stage_type} that is not for {purpose}"
        return function

    async def _open_session(self, purpose: str, body: Mapping[str, Any]) -> tuple[str | None, LoginSession | None]:
        session_id = body.get("session")
        if session_id is None:
            return None, None
        if not isinstance(session_id, str):
            raise BadJson("'session' must be a string.")
        session = await self._database.read(
            "login-session",
            login_sessions.find,
            _hash(session_id),
            purpose=purpose,
            now_ms=self._clock.now_ms(),
        )
        if session is None:
            raise Forbidden("This session is unknown, finished or has expired. Please start again.")
        return session_id, session

    def _begin(
        self,
        txn: Transaction,
        purpose: str,
        session_id: str,
        completed: tuple[str, ...],
        facts: dict[str, Any],
    ) -> None:
        now_ms = self._clock.now_ms()
        login_sessions.create(
            txn,
            _hash(session_id),
            purpose=purpose,
            completed=completed,
            facts=facts,
            expires_at=now_ms + self._session_lifetime * 1000,
        )

    def _finish(
        self, txn: Transaction, purpose: str, session: LoginSession | None, facts: dict[str, Any]
    ) -> Credentials:
        user_id = facts.get("user_id")
        if user_id is None:
            raise Forbidden("These stages do not say who you are.")
        account = accounts.find(txn, user_id)
        if purpose == REGISTER and account is not None:
            raise _user_in_use(user_id)
        if "checked_hash" in facts and (account is None or account.password_hash != facts["checked_hash"]):
            raise Forbidden("The user or the password is wrong.")
        if session is not None and not login_sessions.finish(txn, session):
            raise Forbidden("Another request has continued this session.")
        if purpose == REGISTER:
            accounts.create(txn, user_id, password_hash=facts.get("password_hash"), now_ms=self._clock.now_ms())
        return Credentials(user_id, self._authentication.issue(txn, user_id))

    async def forget_expired_sessions(self) -> None:
        """Delete the sessions that were never finished."""
        await self._database.write("expire-login-sessions", login_sessions.delete_expired, now_ms=self._clock.now_ms())


def _joined(before: Facts, found: Facts) -> dict[str, Any]:
    """All facts together; two stages may not speak of two users."""
    if "user_id" in before and found.get("user_id", before["user_id"]) != before["user_id"]:
        raise Forbidden("All stages of a session must be for the same user.")
    return {**before, **found}


def _hash(session_id: str) -> bytes:
    return sha256(session_id.encode("utf-8", "surrogatepass")).digest()


def _user_in_use(user_id: str) -> MatrixError:
    return UserInUse(f"The user ID {user_id} is taken.")


@dataclass(slots=True)
class PasswordStage:
    """m.login.password (LOGIN-3): at login the right password, at registration a free name and a new password."""

    server_name: str
    database: Database
    passwords: Passwords
    type: str = field(default="m.login.password", init=False)

    def row(self) -> Stage:
        """Its row in the table of stages."""
        return Stage(self.type, self.login, self.register)

    async def login(self, submission: Submission) -> dict[str, Any]:
        """Check user and password; a wrong user and a wrong password look and take the same."""
        user, password = submission.text("user"), submission.text("password")
        user_id = canonical_user_id(user if user.startswith("@") else f"@{user}:{self.server_name}")
        account = await self.database.read("find-account", accounts.find, user_id)
        if not await self.passwords.verify(account.password_hash if account else None, password):
            raise Forbidden("The user or the password is wrong.")
        # Until the last stage is done, the password may be changed.
        return {"user_id": user_id, "checked_hash": account.password_hash if account else None}

    async def register(self, submission: Submission) -> dict[str, Any]:
        """Take a name, if it is free, and a password."""
        localpart = local_part_for_registration(submission.text("user"), self.server_name)
        password = submission.text("password")
        check_strength(password)
        user_id = f"@{localpart}:{self.server_name}"
        if await self.database.read("find-account", accounts.find, user_id) is not None:
            raise _user_in_use(user_id)
        return {"user_id": user_id, "password_hash": await self.passwords.hash(password)}


@dataclass(slots=True)
class RegistrationTokenStage:
    """m.login.registration_token: one of the words that the operator has given to those who may register."""

    tokens: Sequence[str]
    type: str = field(default="m.login.registration_token", init=False)

    def row(self) -> Stage:
        """Its row in the table of stages."""
        return Stage(self.type, None, self.register)

    async def register(self, submission: Submission) -> dict[str, Any]:
        """Check the token against every configured one, each in the same time."""
        given = submission.text("token").encode("utf-8", "surrogatepass")
        if sum(hmac.compare_digest(given, token.encode()) for token in self.tokens) == 0:
            raise Forbidden("This registration token is not valid.")
        return {}
