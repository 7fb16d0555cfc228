"""No way through registration or login but all the stages of one flow, whatever is submitted in whatever order.

The stages here are simple, and note what was proven to them. Each waits at a gate before it answers, so that
submissions can overtake one another as they do in a server with many clients.
"""

from __future__ import annotations

import secrets
from collections.abc import Coroutine
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as HandMovedTime
from twisted.python.failure import Failure

from synapse_like.clock import ReactorClock
from synapse_like.handlers.authentication import Authentication
from synapse_like.handlers.login import MOST_TRIES, Begun, Credentials, Login, NextStage, Outcome
from synapse_like.handlers.login_stages import LOGIN, REGISTER, Done, Pending, Stage, Submission
from synapse_like.protocol.errors import Forbidden, MatrixError, UserInUse
from synapse_like.storage import accounts
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from tests.support.threads import ThreadBridge

#: At once; in two steps; by a link confirmed elsewhere; by coming back with a ticket; and one that names nobody.
ONE, TWO, LINK, BACK, TOKEN = "one", "two", "link", "back", "token"
STAGES = (ONE, TWO, LINK, BACK, TOKEN)
FLOWS = ((ONE, TWO), (ONE, LINK, BACK), (TWO,), (BACK, TOKEN, ONE), (TOKEN, LINK), (TOKEN, BACK))
USERS = ("alice", "bob")


@dataclass
class Line:
    """One session, whatever IDs it has had.

    :ivar proven: the stages that were done in it, and for whom.
    :ivar user_id: whom it is for, as far as anybody has said.
    :ivar under_way: the stage that has begun.
    """

    purpose: str
    proven: list[tuple[str, str | None]] = field(default_factory=list)
    user_id: str | None = None
    under_way: str | None = None
    is_over: bool = False


@dataclass
class Attempt:
    """One submission under way.

    :ivar line: the session that it is for; None if it begins one.
    :ivar gate: to be opened for the stage to answer; None if the stage was not reached.
    :ivar found: what the stage has said.
    """

    purpose: str
    stage: str
    line: Line | None
    gate: Deferred[None] | None = None
    found: Done | Pending | None = None
    outcome: list[Any] = field(default_factory=list)


class House:
    """An engine whose stages note everything, and a judge of what comes of it."""

    def __init__(self, database: Database, bridge: ThreadBridge) -> None:
        self.bridge = bridge
        self.database = database
        self.time = HandMovedTime()
        clock = ReactorClock(self.time)
        self.counted: list[tuple[str, str]] = []
        self.login = Login(
            database,
            Authentication(database, Bus(), clock),
            clock,
            [Stage(name, self._run, self._run) for name in STAGES],
            login_flows=FLOWS,
            register_flows=FLOWS,
            session_lifetime=3600,
            limit=lambda rate_class, key: self.counted.append((rate_class, key)),
        )
        self.attempts: list[Attempt] = []
        self.sessions: list[tuple[str, Line]] = []
        self.tickets: list[tuple[str, str, Line]] = []
        self.registered: set[str] = set()
        self.times_in = 0

    # The stages.

    async def _run(self, submission: Submission) -> Done | Pending:
        """Any of them."""
        attempt = self.attempts[submission.body["attempt"]]
        attempt.gate = Deferred()
        await attempt.gate
        attempt.found = await self._judged(attempt.stage, submission)
        return attempt.found

    async def _judged(self, stage: str, submission: Submission) -> Done | Pending:
        state, user_id = submission.state, submission.body["user"]
        if stage == TOKEN:
            return Done()
        if stage == ONE:
            await submission.count_try(user_id)
            if submission.body["is_right"]:
                return Done(user_id)
        elif state is None:
            ticket = None if stage == TWO else secrets.token_urlsafe(8)
            return Pending({"ticket": ticket}, {"user_id": user_id}, ticket=ticket, user_id=user_id)
        elif stage == TWO:
            await submission.count_try(user_id)
            if submission.body["is_right"]:
                return Done(state["user_id"])
        elif stage == BACK and submission.by_ticket:
            return Done(state["user_id"])
        elif stage == LINK and submission.by_ticket:
            return Pending({}, {**state, "is_confirmed": True})
        elif stage == LINK and state.get("is_confirmed"):
            return Done(state["user_id"])
        raise Forbidden("This proves nothing.")

    # Submissions.

    def submit(
        self, purpose: str, stage: str, user_id: str, *, session: int | None = None, is_right: bool = True
    ) -> Attempt:
        """Submit something as a client does; it stops at the gate.

        :param session: which of the sessions that any client has learned of.
        """
        session_id, line = self.sessions[session] if session is not None else (None, None)
        attempt = self._attempt(purpose, stage, line)
        body = {**self._body(user_id, is_right), "type": stage}
        if session_id is not None:
            body["session"] = session_id
        return self._begin(attempt, self.login.submit(purpose, body))

    def submit_ticket(self, number: int, stage: str | None, user_id: str) -> Attempt:
        """Come with a ticket; as one of another stage if `stage` says so."""
        ticket, its_stage, line = self.tickets[number]
        attempt = self._attempt(line.purpose, stage or its_stage, line)
        work = self.login.submit_by_ticket(attempt.stage, ticket, self._body(user_id, True))
        return self._begin(attempt, work)

    def go_on(self, session: int, choice: int, swapped_to: str | None) -> Attempt:
        """Do in a session what an honest client would do next.

        :param choice: which of the flows that are left it has chosen.
        :param swapped_to: the user for whom it does so, if that is not the one for whom it began.
        """
        line = self.sessions[session][1]
        user_id = swapped_to or line.user_id or f"@{USERS[choice % len(USERS)]}:here"
        if line.under_way in (LINK, BACK):
            tickets = [number for number, (_, _, its_line) in enumerate(self.tickets) if its_line is line]
            if line.under_way == BACK or choice % 2:
                return self.submit_ticket(tickets[-1], None, user_id)
        stages = tuple(stage for stage, _ in line.proven)
        left = [flow for flow in FLOWS if flow[: len(stages)] == stages and flow != stages]
        following = left[choice % len(left)][len(stages)] if left else TWO
        return self.submit(line.purpose, line.under_way or following, user_id, session=session)

    def _attempt(self, purpose: str, stage: str, line: Line | None) -> Attempt:
        self.attempts.append(Attempt(purpose, stage, line))
        return self.attempts[-1]

    def _body(self, user_id: str, is_right: bool) -> dict[str, Any]:
        return {"attempt": len(self.attempts) - 1, "user": user_id, "is_right": is_right}

    def _begin(self, attempt: Attempt, work: Coroutine[Any, Any, Outcome]) -> Attempt:
        Deferred.fromCoroutine(work).addBoth(attempt.outcome.append)
        self.bridge.pump(lambda: attempt.gate is not None or bool(attempt.outcome))
        self._settle(attempt)
        return attempt

    def let_pass(self, attempt: Attempt) -> Any:
        """Open the gate; what came of it."""
        if attempt.gate is not None and not attempt.gate.called:
            attempt.gate.callback(None)
            self.bridge.pump(lambda: bool(attempt.outcome))
            self._settle(attempt)
        return attempt.outcome[0]

    def waiting(self) -> list[Attempt]:
        """The attempts at their gates."""
        return [attempt for attempt in self.attempts if attempt.gate is not None and not attempt.gate.called]

    # The judge.

    def _settle(self, attempt: Attempt) -> None:
        """Note what came of an attempt, and see that it is right."""
        if not attempt.outcome:
            return
        outcome = attempt.outcome[0]
        if isinstance(outcome, Failure):
            assert outcome.check(MatrixError), outcome.getTraceback()  # type: ignore[no-untyped-call]  # Twisted's
            return
        line = attempt.line or Line(attempt.purpose)
        assert not line.is_over, "a session was used after its end"
        assert attempt.purpose == line.purpose, "a session was used for something else"
        assert attempt.found is not None, "the stage was not asked"
        line.user_id = line.user_id or attempt.found.user_id
        line.under_way = attempt.stage if isinstance(attempt.found, Pending) else None
        if isinstance(attempt.found, Done):
            line.proven.append((attempt.stage, attempt.found.user_id))
        stages = tuple(stage for stage, _ in line.proven)
        match outcome:
            case Begun(session, answer):
                assert isinstance(attempt.found, Pending)
                if session is not None:
                    self.sessions.append((session, line))
                if answer.get("ticket") is not None:
                    self.tickets.append((answer["ticket"], attempt.stage, line))
            case NextStage(session, following):
                assert any(flow[: len(stages) + 1] == (*stages, following) for flow in FLOWS)
                self.sessions.append((session, line))
            case Credentials(user_id, token):
                assert stages in FLOWS, f"credentials for {stages}"
                assert {user for _, user in line.proven} - {None} == {user_id}, "for somebody else"
                assert token
                line.is_over = True
                self.times_in += 1
                if line.purpose == REGISTER:
                    assert user_id not in self.registered, "a name was given twice"
                    self.registered.add(user_id)


_NUMBERS = count(1)
_ids = st.integers(0, 30)
#: What a client may do next: go on honestly, submit anything, come with a ticket, or let go on what was overtaken.
_actions = st.one_of(
    st.tuples(st.just("go on"), _ids, _ids, st.none(), st.booleans()),
    st.tuples(st.just("go on"), _ids, _ids, st.none() | st.sampled_from(USERS), st.just(True)),
    st.tuples(
        st.just("submit"),
        st.sampled_from([LOGIN, REGISTER]),
        st.sampled_from(STAGES),
        st.sampled_from(USERS),
        st.none() | _ids,
        st.sampled_from([True, True, False]),
        st.booleans(),
    ),
    st.tuples(st.just("ticket"), _ids, st.none() | st.sampled_from(STAGES), st.sampled_from(USERS), st.booleans()),
    st.tuples(st.just("let pass"), _ids),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_actions, min_size=10, max_size=60))
def test_no_order_of_submissions_leads_past_a_stage(
    database: Database, bridge: ThreadBridge, actions: list[tuple[Any, ...]]
) -> None:
    """LOGIN-2, LOGIN-8: not by replays, by swapping sessions, users or tickets, nor by submitting at once."""
    house, number = House(database, bridge), next(_NUMBERS)
    names = {(purpose, user): f"@{user}-{purpose}-{number}:here" for purpose in (LOGIN, REGISTER) for user in USERS}
    for user in USERS:
        _make_user(house, names[LOGIN, user])
    for action in actions:
        attempt: Attempt | None = None
        passes = True
        match action:
            case ("go on", session, choice, user, passes) if house.sessions:
                attempt = house.go_on(session % len(house.sessions), choice, names.get((LOGIN, user)))
            case ("submit", purpose, stage, user, session, is_right, passes):
                if session is not None:
                    session = session % len(house.sessions) if house.sessions else None
                attempt = house.submit(purpose, stage, names[purpose, user], session=session, is_right=is_right)
            case ("ticket", ticket, stage, user, passes) if house.tickets:
                attempt = house.submit_ticket(ticket % len(house.tickets), stage, names[LOGIN, user])
            case ("let pass", which) if house.waiting():
                attempt = house.waiting()[which % len(house.waiting())]
        if attempt is not None and passes:
            house.let_pass(attempt)
    for attempt in house.waiting():
        house.let_pass(attempt)
    event(f"got in {min(house.times_in, 3)} times")


def _make_user(house: House, user_id: str) -> None:
    made: list[Any] = []
    house.database.write("user", accounts.create, user_id, password_hash=None, now_ms=1).addBoth(made.append)
    house.bridge.pump(lambda: bool(made))
    assert made == [True]


@pytest.fixture
def house(database: Database, bridge: ThreadBridge) -> House:
    house = House(database, bridge)
    for user in USERS:
        _make_user(house, f"@{user}:here")
    return house


ALICE, BOB = "@alice:here", "@bob:here"


def _refused(outcome: Any) -> bool:
    return isinstance(outcome, Failure) and outcome.check(Forbidden) is not None  # type: ignore[no-untyped-call]  # Twisted's


def test_of_two_submissions_at_once_one_goes_on(house: House) -> None:
    """LOGIN-2."""
    house.let_pass(house.submit(LOGIN, ONE, ALICE))
    attempts = [house.submit(LOGIN, TWO, ALICE, session=0) for _ in range(2)]
    outcomes = [house.let_pass(attempt) for attempt in attempts]
    assert isinstance(outcomes[0], Begun)
    assert _refused(outcomes[1])
    last = [house.submit(LOGIN, TWO, ALICE, session=1) for _ in range(2)]
    outcomes = [house.let_pass(attempt) for attempt in reversed(last)]
    assert isinstance(outcomes[0], Credentials)
    assert _refused(outcomes[1])


def test_who_comes_back_with_a_ticket_takes_the_session_along(house: House) -> None:
    """LOGIN-2, LOGIN-7: nobody can have another prove something to a session of theirs."""
    house.let_pass(house.submit(LOGIN, BACK, ALICE))
    outcome = house.let_pass(house.submit_ticket(0, None, ALICE))
    assert isinstance(outcome, NextStage)
    assert outcome.session != house.sessions[0][0]
    assert _refused(house.let_pass(house.submit(LOGIN, TOKEN, ALICE, session=0)))
    assert _refused(house.let_pass(house.submit_ticket(0, None, ALICE)))
    assert isinstance(house.let_pass(house.submit(LOGIN, TOKEN, ALICE, session=1)), NextStage)
    assert isinstance(house.let_pass(house.submit(LOGIN, ONE, ALICE, session=1)), Credentials)


def test_ticket_is_good_for_its_own_stage_only(house: House) -> None:
    """LOGIN-2."""
    house.let_pass(house.submit(REGISTER, TOKEN, ALICE))
    house.let_pass(house.submit(REGISTER, LINK, ALICE, session=0))
    for stage in (BACK, ONE, TOKEN):
        assert _refused(house.let_pass(house.submit_ticket(0, stage, ALICE)))
    assert isinstance(house.let_pass(house.submit_ticket(0, None, ALICE)), Begun)


def test_stage_that_has_begun_is_not_left_for_another(house: House) -> None:
    """LOGIN-2, LOGIN-8."""
    house.let_pass(house.submit(LOGIN, TWO, ALICE))
    for stage in (ONE, BACK, TOKEN):
        assert _refused(house.let_pass(house.submit(LOGIN, stage, ALICE, session=0)))
    assert isinstance(house.let_pass(house.submit(LOGIN, TWO, ALICE, session=0)), Credentials)


def test_session_is_for_one_user(house: House) -> None:
    """LOGIN-2."""
    house.let_pass(house.submit(LOGIN, ONE, ALICE))
    assert _refused(house.let_pass(house.submit(LOGIN, TWO, BOB, session=0)))
    house.let_pass(house.submit(LOGIN, TWO, ALICE, session=0))
    assert isinstance(house.let_pass(house.submit(LOGIN, TWO, ALICE, session=1)), Credentials)


def test_tries_are_counted_in_each_session_and_for_each_user(house: House) -> None:
    """LOGIN-2, LOGIN-4."""
    house.let_pass(house.submit(LOGIN, TWO, ALICE))
    for _ in range(MOST_TRIES):
        assert _refused(house.let_pass(house.submit(LOGIN, TWO, ALICE, session=0, is_right=False)))
    assert _refused(house.let_pass(house.submit(LOGIN, TWO, ALICE, session=0)))
    assert house.counted == [("tries", ALICE)] * (MOST_TRIES + 1)


def test_closed_account_cannot_be_logged_in_to(house: House) -> None:
    """LOGIN-3, LOGIN-11: whatever was proven."""
    house.let_pass(house.submit(LOGIN, TWO, ALICE))
    attempt = house.submit(LOGIN, TWO, ALICE, session=0)
    closed: list[Any] = []
    house.database.write("close", accounts.deactivate, ALICE, now_ms=1).addBoth(closed.append)
    house.bridge.pump(lambda: bool(closed))
    assert _refused(house.let_pass(attempt))


def test_session_expires(house: House) -> None:
    """LOGIN-2."""
    house.let_pass(house.submit(LOGIN, BACK, ALICE))
    house.time.advance(3600)
    assert _refused(house.let_pass(house.submit(LOGIN, BACK, ALICE, session=0)))
    assert _refused(house.let_pass(house.submit_ticket(0, None, ALICE)))


def test_name_that_was_taken_meanwhile_is_not_given_again(house: House) -> None:
    """LOGIN-3."""
    for _ in range(2):
        house.let_pass(house.submit(REGISTER, TWO, "@carol:here"))
    assert isinstance(house.let_pass(house.submit(REGISTER, TWO, "@carol:here", session=0)), Credentials)
    outcome = house.let_pass(house.submit(REGISTER, TWO, "@carol:here", session=1))
    assert outcome.check(UserInUse)
