"""Whom an account at a provider leads to."""

from __future__ import annotations

import pytest

from synapse_like.storage import accounts, external_identities
from synapse_like.storage.connections import Connection
from synapse_like.storage.external_identities import ExternalIdentity

ALICE, BOB = "@alice:here", "@bob:here"


@pytest.fixture(autouse=True)
def people(connection: Connection) -> None:
    for user_id in (ALICE, BOB):
        assert connection.transact(accounts.create, user_id, password_hash=None, now_ms=1)


def link(connection: Connection, provider: str, subject: str, user_id: str, now_ms: int = 1) -> bool:
    return connection.transact(external_identities.link, provider, subject, user_id, now_ms=now_ms)


def test_identity_leads_to_one_account(connection: Connection) -> None:
    assert link(connection, "x", "1", ALICE)
    assert not link(connection, "x", "1", BOB)
    assert connection.transact(external_identities.owner, "x", "1") == ALICE
    # The same again is no fault, and changes nothing.
    assert link(connection, "x", "1", ALICE, now_ms=2)
    assert connection.transact(external_identities.of_user, ALICE) == [ExternalIdentity("x", "1", 1)]


def test_account_has_any_number_of_them(connection: Connection) -> None:
    for provider, subject in (("y", "1"), ("x", "2"), ("x", "1")):
        assert link(connection, provider, subject, ALICE)
    assert link(connection, "y", "2", BOB)
    found = connection.transact(external_identities.of_user, ALICE)
    assert [(one.provider, one.subject) for one in found] == [("x", "1"), ("x", "2"), ("y", "1")]


def test_only_its_owner_gives_it_up(connection: Connection) -> None:
    link(connection, "x", "1", ALICE)
    assert not connection.transact(external_identities.unlink, BOB, "x", "1")
    assert connection.transact(external_identities.unlink, ALICE, "x", "1")
    assert not connection.transact(external_identities.unlink, ALICE, "x", "1")
    assert connection.transact(external_identities.owner, "x", "1") is None


def test_closed_account_has_none(connection: Connection) -> None:
    link(connection, "x", "1", ALICE)
    assert connection.transact(accounts.deactivate, ALICE, now_ms=2)
    assert connection.transact(external_identities.owner, "x", "1") is None
