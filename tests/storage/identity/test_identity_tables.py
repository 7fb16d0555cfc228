"""The tables of the identity server, on both databases (ID-1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from synapse_like.protocol.third_party_ids import ThirdPartyId
from synapse_like.storage.connections import Connection
from synapse_like.storage.engines.engine import Engine
from synapse_like.storage.identity import destinations, invites, peppers, statements, validations
from synapse_like.storage.identity.destinations import HOME, SIBLING, Destination
from synapse_like.storage.identity.invites import Invite
from synapse_like.storage.identity.statements import ASSOCIATION, Statement
from synapse_like.storage.migrations import IDENTITY_SERVER, migrate, steps
from synapse_like.storage.transactions import Transaction

ALICE, BOB = ThirdPartyId("email", "alice@example.org"), ThirdPartyId("msisdn", "442079460018")
HERE, THERE = "here.example", "there.example"


@pytest.fixture
def tables(engine: Engine) -> Iterator[Connection]:
    """A connection to a database with all tables of an identity server."""
    connection = Connection(engine)
    assert [step.number for step in migrate(connection, IDENTITY_SERVER)] == [
        step.number for step in steps(IDENTITY_SERVER)
    ]
    yield connection
    connection.close()


def said(threepid: ThirdPartyId, mxid: str | None, ts: int, origin: str = HERE) -> Statement:
    return Statement(ASSOCIATION, threepid, origin, mxid, ts, {"mxid": mxid, "ts": ts})


def owner(txn: Transaction, threepid: ThirdPartyId) -> str | None:
    found = statements.newest(txn, ASSOCIATION, [threepid]).get(threepid)
    return found.mxid if found is not None else None


def test_newest_word_of_all_servers_counts_whatever_came_last(tables: Connection) -> None:
    def check(txn: Transaction) -> None:
        statements.make(txn, said(ALICE, "@a:x", 10))
        assert statements.learn(txn, said(ALICE, "@b:x", 20, THERE))
        assert owner(txn, ALICE) == "@b:x"
        # An older one of the same server is not even kept.
        assert not statements.learn(txn, said(ALICE, "@c:x", 15, THERE))
        assert not statements.learn(txn, said(ALICE, "@c:x", 20, THERE))
        assert owner(txn, ALICE) == "@b:x"
        statements.make(txn, said(ALICE, None, 21))
        assert owner(txn, ALICE) is None
        # At the same moment the names decide, so that all servers agree.
        statements.learn(txn, said(ALICE, "@d:x", 21, THERE))
        assert owner(txn, ALICE) == "@d:x"
        assert owner(txn, BOB) is None

    tables.transact(check)


def test_siblings_are_told_the_last_word_on_each_address_in_its_order(tables: Connection) -> None:
    def check(txn: Transaction) -> None:
        statements.make(txn, said(ALICE, "@a:x", 10))
        statements.make(txn, said(BOB, "@b:x", 11))
        statements.make(txn, said(ALICE, "@c:x", 12))
        statements.learn(txn, said(ThirdPartyId("email", "x@y"), "@x:x", 13, THERE))
        waiting = statements.own_after(txn, 0, 10)
        assert [(item.threepid, item.mxid) for _, item in waiting] == [(BOB, "@b:x"), (ALICE, "@c:x")]
        positions = [position for position, _ in waiting]
        assert positions == sorted(positions)
        assert statements.own_after(txn, positions[0], 10) == waiting[1:]
        assert statements.count_own_after(txn, 0) == 2
        assert [item.mxid for item in statements.of_user(txn, ASSOCIATION, "@c:x", 10)] == ["@c:x"]
        # What was theirs once is not theirs.
        assert statements.of_user(txn, ASSOCIATION, "@a:x", 10) == []

    tables.transact(check)


def test_positions_of_a_run_lie_behind_those_that_may_be_lost(tables: Connection) -> None:
    # The second time the clock was set back, which does no harm.
    for now_ms, threepid in ((1000, ALICE), (900, BOB), (2000, ThirdPartyId("email", "x@y"))):
        tables.transact(statements.begin_run, now_ms)
        tables.transact(statements.make, said(threepid, "@a:x", 10))
    told = tables.transact(statements.own_after, 0, 10)
    assert [position for position, _ in told] == [1001, 1002, 2001]


def test_new_pepper_is_good_when_all_addresses_are_hashed_and_the_third_goes(tables: Connection) -> None:
    many = [ThirdPartyId("email", f"a{number}@example.org") for number in range(7)]

    def check(txn: Transaction) -> None:
        peppers.begin(txn, "one", 1)
        assert not peppers.fill(txn, 3, 1)
        for threepid in many:
            statements.make(txn, said(threepid, "@a:x", 1))
        peppers.begin(txn, "two", 2)
        peppers.begin(txn, "another", 2)
        assert peppers.fill(txn, 3, 2)
        assert [item.pepper for item in peppers.good(txn)] == ["one"]
        # What comes while the hashes are made has both.
        statements.make(txn, said(BOB, "@b:x", 2))
        assert peppers.fill(txn, 3, 2)
        assert not peppers.fill(txn, 3, 2)
        assert [item.pepper for item in peppers.good(txn)] == ["two", "one"]
        for pepper in ("one", "two"):
            hashes = {threepid.hashed(pepper): threepid for threepid in [*many, BOB]}
            assert peppers.find(txn, pepper, [*hashes, "x"]) == hashes
        peppers.begin(txn, "three", 3)
        while peppers.fill(txn, 3, 3):
            pass
        assert [item.pepper for item in peppers.good(txn)] == ["three", "two"]
        assert peppers.find(txn, "one", [BOB.hashed("one")]) == {}

    tables.transact(check)


def test_validation_is_its_clients_and_counts_attempts(tables: Connection) -> None:
    secret = validations.hash_secret("secret")
    times: dict[str, Any] = {"next_link": None, "created_after": 0}

    def check(txn: Transaction) -> None:
        begun = validations.begin(txn, "sid1", ALICE, secret, now_ms=5, **times)
        assert validations.begin(txn, "sid2", ALICE, secret, now_ms=6, **times) == begun
        other = validations.begin(txn, "sid3", ALICE, validations.hash_secret("other"), now_ms=6, **times)
        assert other.sid == "sid3"
        assert validations.claim_attempt(txn, "sid1", 1)
        assert not validations.claim_attempt(txn, "sid1", 1)
        validations.give_back_attempt(txn, "sid1", 1, 0)
        assert validations.claim_attempt(txn, "sid1", 1)
        assert validations.find(txn, "sid1", validations.hash_secret("other")) is None
        validations.prove(txn, "sid1", 7)
        validations.prove(txn, "sid1", 8)
        found = validations.find(txn, "sid1", secret)
        assert found is not None
        assert (found.validated_at, found.send_attempt, found.threepid) == (7, 1, ALICE)
        # An expired one begins anew.
        anew = validations.begin(txn, "sid4", ALICE, secret, next_link="x", created_after=5, now_ms=9)
        assert (anew.sid, anew.validated_at, anew.next_link) == ("sid4", None, "x")
        assert validations.delete_old(txn, 6) == 1

    tables.transact(check)


def test_invites_are_redeemed_once_and_their_keys_forgotten(tables: Connection) -> None:
    def invite(token: str, threepid: ThirdPartyId) -> Invite:
        return Invite(token, threepid, "!r:x", "@s:x", f"key of {token}", token.encode())

    def check(txn: Transaction) -> None:
        for number, (token, threepid) in enumerate([("t1", ALICE), ("t2", ALICE), ("t3", BOB)]):
            invites.add(txn, invite(token, threepid), number)
        assert invites.count_pending(txn, ALICE) == 2
        assert invites.redeem(txn, ALICE, 9) == [invite("t1", ALICE), invite("t2", ALICE)]
        assert invites.redeem(txn, ALICE, 9) == []
        assert invites.count_pending(txn, ALICE) == 0
        assert txn.all("SELECT private_key FROM invites WHERE token = 't1'") == [(None,)]
        assert invites.has_key(txn, "key of t1")
        assert invites.delete_old(txn, created_before=1) == 1
        assert not invites.has_key(txn, "key of t1")

    tables.transact(check)


def test_notices_wait_in_their_order_for_each_server(tables: Connection) -> None:
    def check(txn: Transaction) -> None:
        for number in range(3):
            invites.add_notice(txn, THERE, f"{number}", number)
        invites.add_notice(txn, HERE, "x", 0)
        assert invites.servers_to_tell(txn) == [HERE, THERE]
        first = invites.next_notice(txn, THERE)
        assert first is not None
        assert first.notice == "0"
        invites.delete_notice(txn, first.notice_id)
        second = invites.next_notice(txn, THERE)
        assert second is not None
        assert second.notice == "1"
        assert invites.count_notices(txn, THERE) == 2
        assert invites.delete_old_notices(txn, created_before=2) == 2

    tables.transact(check)


def test_siblings_that_are_none_any_more_are_forgotten(tables: Connection) -> None:
    def check(txn: Transaction) -> None:
        for server in (HERE, THERE):
            destinations.save(txn, Destination(SIBLING, server, sent_up_to=5))
            destinations.set_heard(txn, server, "log", 7)
        destinations.save(txn, Destination(HOME, THERE, failing_since=5, retry_interval=1))
        destinations.forget_all_but(txn, [HERE])
        assert destinations.find(txn, SIBLING, HERE).sent_up_to == 5
        assert destinations.find(txn, SIBLING, THERE).sent_up_to == 0
        assert destinations.find(txn, HOME, THERE).failing_since == 5
        assert destinations.heard_up_to(txn, HERE, "log") == 7
        assert destinations.heard_up_to(txn, HERE, "another") == 0
        assert destinations.heard_from(txn, THERE) is None
        # A home server that is well need not be remembered.
        destinations.save(txn, Destination(HOME, THERE))
        assert [item.server for item in destinations.all_of(txn)] == [HERE]
        name = destinations.log_name(txn, "first")
        assert destinations.log_name(txn, "second") == name == "first"

    tables.transact(check)
