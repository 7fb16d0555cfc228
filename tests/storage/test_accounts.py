"""Users, their tokens, sessions under way, and answers kept for retransmits."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from synapse_like.protocol.errors import UnknownToken
from synapse_like.storage import accounts, login_sessions, retransmissions
from synapse_like.storage.connections import Connection
from synapse_like.storage.login_sessions import LoginSession
from synapse_like.storage.retransmissions import KEPT_MS, Once, Outcome, once
from synapse_like.storage.transactions import Transaction

ALICE = "@alice:here"


@pytest.fixture
def alice(connection: Connection) -> str:
    assert connection.transact(accounts.create, ALICE, password_hash="hash", now_ms=1)
    return ALICE


def test_a_name_is_given_once(connection: Connection, alice: str) -> None:
    assert not connection.transact(accounts.create, alice, password_hash="other", now_ms=2)
    account = connection.transact(accounts.find, alice)
    assert account is not None
    assert account.password_hash == "hash"


def test_a_password_can_be_changed_only_for_someone_who_exists(connection: Connection, alice: str) -> None:
    assert connection.transact(accounts.replace_password, alice, "new")
    assert not connection.transact(accounts.replace_password, "@nobody:here", "new")
    account = connection.transact(accounts.find, alice)
    assert account is not None
    assert account.password_hash == "new"


def test_a_token_knows_its_owner_until_it_is_ended(connection: Connection, alice: str) -> None:
    first = connection.transact(accounts.add_token, alice, b"1", now_ms=1)
    connection.transact(accounts.add_token, alice, b"2", now_ms=1)
    owner = connection.transact(accounts.token_owner, b"1")
    assert owner is not None
    assert (owner.token_id, owner.user_id, owner.is_admin) == (first, alice, False)
    connection.transact(accounts.delete_token, first)
    assert connection.transact(accounts.token_owner, b"1") is None
    assert connection.transact(accounts.token_owner, b"2") is not None
    connection.transact(accounts.delete_tokens, alice)
    assert connection.transact(accounts.token_owner, b"2") is None


BEGUN = LoginSession(
    b"s",
    purpose="login",
    user_id=ALICE,
    completed=("one",),
    facts={"one": {"number": 1}},
    stage="two",
    state={"sent": True},
    ticket_hash=b"t",
    revision=1,
)


def begin_session(connection: Connection, expires_at: int = 1000) -> LoginSession:
    connection.transact(login_sessions.create, BEGUN, expires_at=expires_at)
    session = connection.transact(login_sessions.find, b"s", purpose="login", now_ms=1)
    assert session == BEGUN
    return session


def test_of_two_steps_at_the_same_time_one_happens(connection: Connection) -> None:
    seen = begin_session(connection)
    step = replace(seen, completed=("one", "two"), stage=None)
    assert connection.transact(login_sessions.advance, seen, step)
    assert not connection.transact(login_sessions.advance, seen, step)
    assert not connection.transact(login_sessions.finish, seen)
    now = connection.transact(login_sessions.find, b"s", purpose="login", now_ms=1)
    assert now == replace(step, revision=2)


def test_a_session_ends_once(connection: Connection) -> None:
    seen = begin_session(connection)
    assert connection.transact(login_sessions.finish, seen)
    assert not connection.transact(login_sessions.finish, seen)


def test_a_session_is_for_one_purpose_and_for_a_time(connection: Connection) -> None:
    begin_session(connection, expires_at=500)
    assert connection.transact(login_sessions.find, b"s", purpose="register", now_ms=1) is None
    assert connection.transact(login_sessions.find, b"s", purpose="login", now_ms=500) is None
    assert connection.transact(login_sessions.find_by_ticket, b"t", now_ms=500) is None
    assert connection.transact(login_sessions.delete_expired, now_ms=499) == 0
    assert connection.transact(login_sessions.delete_expired, now_ms=500) == 1


def test_a_session_is_found_by_its_ticket_until_a_step_takes_it_away(connection: Connection) -> None:
    seen = begin_session(connection)
    assert connection.transact(login_sessions.find_by_ticket, b"t", now_ms=1) == seen
    assert connection.transact(login_sessions.find_by_ticket, b"s", now_ms=1) is None
    assert connection.transact(login_sessions.advance, seen, replace(seen, session_hash=b"other", ticket_hash=None))
    assert connection.transact(login_sessions.find_by_ticket, b"t", now_ms=1) is None
    assert connection.transact(login_sessions.find, b"s", purpose="login", now_ms=1) is None
    assert connection.transact(login_sessions.find, b"other", purpose="login", now_ms=1) is not None


def test_a_session_is_over_after_too_many_tries(connection: Connection) -> None:
    begin_session(connection)
    assert [connection.transact(login_sessions.take_try, b"s", most=2) for _ in range(3)] == [True, True, False]
    assert connection.transact(login_sessions.find, b"s", purpose="login", now_ms=1) is None


class Counter:
    """Something that must be done once."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, txn: Transaction) -> dict[str, Any]:
        self.done += 1
        return {"time": self.done}


def test_a_retransmit_gets_the_first_answer(connection: Connection, alice: str) -> None:
    token_id = connection.transact(accounts.add_token, alice, b"1", now_ms=1)
    other = connection.transact(accounts.add_token, alice, b"2", now_ms=1)
    work = Counter()
    assert connection.transact(once, Once(token_id, "PUT /a/1", 1), work) == {"time": 1}
    assert connection.transact(once, Once(token_id, "PUT /a/1", 2), work) == {"time": 1}
    assert connection.transact(once, Once(token_id, "PUT /a/2", 3), work) == {"time": 2}
    assert connection.transact(once, Once(other, "PUT /a/1", 3), work) == {"time": 3}
    assert connection.transact(once, Once(token_id, None, 3), work) == {"time": 4}
    assert connection.transact(once, Once(token_id, None, 3), work) == {"time": 5}


def test_what_is_asked_for_twice_is_done_once_if_both_share_a_commit(connection: Connection, alice: str) -> None:
    token_id = connection.transact(accounts.add_token, alice, b"1", now_ms=1)
    work = Counter()

    def both(txn: Transaction) -> list[Outcome]:
        request = Once(token_id, "PUT /a/1", 1)
        assert not retransmissions.was_done(txn, request)
        outcomes = [once(txn, request, work), once(txn, Once(token_id, "PUT /a/2", 1), work), once(txn, request, work)]
        assert retransmissions.was_done(txn, request)
        return outcomes

    assert connection.transact(both) == [{"time": 1}, {"time": 2}, {"time": 1}]
    assert connection.transact(once, Once(token_id, "PUT /a/2", 2), work) == {"time": 2}


def test_what_is_done_once_may_share_a_commit_with_the_end_of_its_token(connection: Connection, alice: str) -> None:
    token_id = connection.transact(accounts.add_token, alice, b"1", now_ms=1)
    work = Counter()

    def do_and_log_out(txn: Transaction) -> Outcome:
        outcome = once(txn, Once(token_id, "PUT /a/1", 1), work)
        accounts.delete_token(txn, token_id)
        return outcome

    assert connection.transact(do_and_log_out) == {"time": 1}
    assert connection.look("SELECT * FROM retransmissions") == []
    with pytest.raises(UnknownToken):
        connection.transact(once, Once(token_id, "PUT /a/1", 1), work)


def test_answers_are_kept_for_a_day_and_no_longer_than_their_token(connection: Connection, alice: str) -> None:
    token_id = connection.transact(accounts.add_token, alice, b"1", now_ms=1)
    work = Counter()
    connection.transact(once, Once(token_id, "PUT /a/1", 1000), work)
    assert connection.transact(retransmissions.delete_old, now_ms=1000 + KEPT_MS) == 0
    assert connection.transact(retransmissions.delete_old, now_ms=1001 + KEPT_MS) == 1
    connection.transact(once, Once(token_id, "PUT /a/1", 1000), work)
    connection.transact(accounts.delete_token, token_id)
    assert connection.transact(lambda txn: txn.one("SELECT COUNT(*) FROM retransmissions")) == (0,)


@pytest.mark.parametrize("request_key", [None, "PUT /a/1"])
def test_nothing_is_done_for_a_token_that_was_ended_meanwhile(
    connection: Connection, alice: str, request_key: str | None
) -> None:
    token_id = connection.transact(accounts.add_token, alice, b"1", now_ms=1)
    connection.transact(accounts.delete_token, token_id)
    work = Counter()
    with pytest.raises(UnknownToken):
        connection.transact(once, Once(token_id, request_key, 1), work)
    assert work.done == 0


def test_numbers_of_tokens_are_never_given_out_again(connection: Connection, alice: str) -> None:
    first = connection.transact(accounts.add_token, alice, b"1", now_ms=1)
    connection.transact(accounts.delete_token, first)
    assert connection.transact(accounts.add_token, alice, b"2", now_ms=1) != first


def test_what_fails_is_not_recorded_as_done(connection: Connection, alice: str) -> None:
    token_id = connection.transact(accounts.add_token, alice, b"1", now_ms=1)

    def fail(txn: Transaction) -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        connection.transact(once, Once(token_id, "PUT /a/1", 1), fail)
    assert connection.transact(once, Once(token_id, "PUT /a/1", 1), Counter()) == {"time": 1}
