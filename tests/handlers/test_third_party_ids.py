"""Addresses of users whose accounts were closed, and what identity servers that are away have to do with it (ID-1)."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from synapse_like.federation.errors import ServerUnreachable
from synapse_like.federation.identity_client import IdentityClient
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.third_party_ids import MOST_LINKED, Proof, ThirdPartyIds
from synapse_like.protocol.errors import Forbidden, LimitExceeded
from synapse_like.protocol.third_party_ids import ThirdPartyId
from synapse_like.storage import accounts, third_party_ids
from synapse_like.storage.database import Database
from synapse_like.storage.third_party_ids import LinkedAddress
from synapse_like.storage.transactions import Transaction
from tests.support.threads import ThreadBridge

ALICE, BOB = "@alice:here", "@bob:here"


class Client(IdentityClient):
    """An identity server's client that notes what is asked of it.

    :ivar away: URLs of servers that cannot be reached.
    """

    @property
    def usual(self) -> str:
        return "http://id"

    def __init__(self) -> None:
        self.away: set[str] = set()
        self.unlinked: list[tuple[str, str, ThirdPartyId, str]] = []

    def url_of(self, id_server: str) -> str:
        return id_server

    async def unlink(self, url: str, id_name: str, threepid: ThirdPartyId, user_id: str) -> None:
        if url in self.away:
            raise ServerUnreachable(url, "it is away")
        self.unlinked.append((url, id_name, threepid, user_id))

    async def lookup(self, url: str, threepid: ThirdPartyId) -> str | None:
        return BOB


def address(number: int, server: str = "http://id") -> LinkedAddress:
    return LinkedAddress(ThirdPartyId("email", f"a{number}@example.org"), server, "id.example", 5)


def run(bridge: ThreadBridge, work: Coroutine[Any, Any, object]) -> None:
    """Do something to its end; what it raises is raised."""
    outcome: list[Any] = []
    Deferred.fromCoroutine(work).addBoth(outcome.append)
    bridge.pump(lambda: bool(outcome))
    if hasattr(outcome[0], "raiseException"):
        outcome[0].raiseException()


@pytest.fixture
def _people(database: Database, bridge: ThreadBridge) -> None:
    def make(txn: Transaction) -> None:
        for user_id in (ALICE, BOB):
            accounts.create(txn, user_id, password_hash=None, now_ms=1)
        third_party_ids.link(txn, ALICE, address(1))
        third_party_ids.link(txn, ALICE, address(2, "http://away"))
        third_party_ids.link(txn, BOB, address(3))
        accounts.deactivate(txn, ALICE, now_ms=2)

    done = database.write("people", make)
    bridge.pump(lambda: bool(done.called))


@pytest.mark.usefixtures("_people")
def test_addresses_of_closed_accounts_are_unlinked_as_soon_as_that_can_be_done(
    database: Database, bridge: ThreadBridge
) -> None:
    client = Client()
    client.away.add("http://away")
    ids = ThirdPartyIds(database, client, lambda kind, key: None)
    run(bridge, ids.unlink_closed())
    assert client.unlinked == [("http://id", "id.example", address(1).threepid, ALICE)]
    client.away.clear()
    run(bridge, ids.unlink_closed())
    run(bridge, ids.unlink_closed())
    assert [told[2] for told in client.unlinked] == [address(1).threepid, address(2).threepid]
    left = database.read("left", third_party_ids.linked_by, BOB)
    bridge.pump(lambda: bool(left.called))
    assert left.result == [address(3)]


@pytest.mark.usefixtures("_people")
def test_look_ups_are_counted_per_user_and_links_bounded(database: Database, bridge: ThreadBridge) -> None:
    counted: list[tuple[str, str]] = []

    def limit(kind: str, key: str) -> None:
        counted.append((kind, key))
        if len(counted) > 1:
            raise LimitExceeded("Too many requests.", 1)

    ids = ThirdPartyIds(database, Client(), limit)
    bob = Requester(BOB, 1, False)
    run(bridge, ids.owner(bob, address(9).threepid, None))
    with pytest.raises(LimitExceeded):
        run(bridge, ids.owner(bob, address(9).threepid, None))
    assert counted == [("lookup", BOB)] * 2

    def fill(txn: Transaction) -> None:
        for number in range(MOST_LINKED):
            third_party_ids.link(txn, BOB, address(number))

    done = database.write("fill", fill)
    bridge.pump(lambda: bool(done.called))
    with pytest.raises(Forbidden):
        run(bridge, ids.link(bob, Proof("http://id", "sid", "secret")))
