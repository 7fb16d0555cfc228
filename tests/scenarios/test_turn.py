"""TURN credentials, shown to a real TURN server."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.scenarios.conftest import FreshServer
from tests.support.client import Client, Json, refused
from tests.support.needed import needed
from tests.support.turn import HOW_TO_INSTALL, Coturn, allocate, find_coturn

SECRET = "north wind"


@pytest.fixture(scope="module")
def coturn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coturn]:
    program = needed(find_coturn(), "COTURN", HOW_TO_INSTALL)
    server = Coturn(program, tmp_path_factory.mktemp("coturn"), SECRET)
    yield server
    server.stop()


def turn_server(client: Client, **options: str) -> Json:
    return dict(client.call("GET", "/voip/turnServer", **options))


def member_of(fresh_server: FreshServer, **voip: object) -> Client:
    """Somebody on a server with these settings."""
    settings = {f"voip.{name}": value for name, value in voip.items()}
    return Client(fresh_server({"registration.mode": "open", **settings})).register("alice")


def test_turn_server_lets_in_whom_we_gave_credentials(fresh_server: FreshServer, coturn: Coturn) -> None:
    """VOIP-1: and nobody who has altered them."""
    before = int(time.time())
    alice = member_of(fresh_server, turn_uris=[coturn.uri], shared_secret=SECRET)
    given = turn_server(alice)
    expiry, _, user_id = given["username"].partition(":")
    assert (user_id, given["ttl"], given["uris"]) == (alice.user_id, 86400, [coturn.uri])
    assert before + 86400 <= int(expiry) <= time.time() + 86400

    username, password = given["username"], given["password"]
    assert allocate(coturn.uri, username, password) == 0
    assert allocate(coturn.uri, f"{int(expiry) + 1}:{user_id}", password) == 401
    assert allocate(coturn.uri, f"{expiry}:@bob:example.org", password) == 401
    assert allocate(coturn.uri, username, password.swapcase()) == 401
    with refused(401, "M_MISSING_TOKEN"):
        turn_server(alice, token="")


def test_turn_server_believes_only_the_secret_that_it_shares(fresh_server: FreshServer, coturn: Coturn) -> None:
    """VOIP-1."""
    given = turn_server(member_of(fresh_server, turn_uris=[coturn.uri], shared_secret="south wind"))
    assert allocate(coturn.uri, given["username"], given["password"]) == 401


def test_credentials_expire(fresh_server: FreshServer, coturn: Coturn) -> None:
    """VOIP-1."""
    given = turn_server(member_of(fresh_server, turn_uris=[coturn.uri], shared_secret=SECRET, lifetime=2))
    assert given["ttl"] == 2
    assert allocate(coturn.uri, given["username"], given["password"]) == 0
    time.sleep(3.1)
    assert allocate(coturn.uri, given["username"], given["password"]) == 401


def test_without_a_turn_server_there_is_nothing_to_tell(alice: Client) -> None:
    """VOIP-1."""
    assert turn_server(alice) == {}
