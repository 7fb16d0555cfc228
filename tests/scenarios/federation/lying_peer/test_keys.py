"""Lies about keys."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from signedjson.key import generate_signing_key, get_verify_key

from synapse_like.protocol.server_keys import ServerKeys, publish
from synapse_like.protocol.signing import sign_json
from tests.scenarios.federation.lying_peer.scene import endless_body
from tests.support.client import Client, refused
from tests.support.lying_peer import KEYS, LyingPeer, quote
from tests.support.peer_rooms import now_ms
from tests.support.server import HomeServer

# Lies about keys.


def test_keys_of_another_server_are_not_believed(
    alice: Client, peer: LyingPeer, stranger: LyingPeer, honest: HomeServer
) -> None:
    """FED-9, SEC-8: neither from the liar itself, nor on the way."""
    room_id = alice.create_room(visibility="public")
    stranger.answers["keys"] = lambda asked: peer.published_keys()
    with refused(401, "M_UNAUTHORIZED"):
        stranger.join(honest, room_id, stranger.user("tess"))
    stranger.answers["keys"] = lambda asked: sign_json(
        {**peer.published_keys(), "server_name": stranger.name}, stranger.name, generate_signing_key("lie")
    )
    with refused(401, "M_UNAUTHORIZED"):
        stranger.join(honest, room_id, stranger.user("tess"))


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(lambda peer: {}, id="nothing"),
        pytest.param(lambda peer: [], id="no object"),
        pytest.param(lambda peer: {**peer.published_keys(), "signatures": {}}, id="unsigned"),
        pytest.param(lambda peer: {**peer.published_keys(), "valid_until_ts": "x"}, id="valid until when"),
        pytest.param(lambda peer: {**peer.published_keys(), "verify_keys": []}, id="no keys"),
        pytest.param(
            lambda peer: publish(
                ServerKeys(peer.name, now_ms() - 3_600_000, {"ed25519:lie": get_verify_key(peer.key)}, {}), peer.key
            ),
            id="expired",
        ),
    ],
)
def test_server_without_good_keys_is_not_believed(
    alice: Client, stranger: LyingPeer, honest: HomeServer, keys: Callable[[LyingPeer], Any]
) -> None:
    """FED-9."""
    room_id = alice.create_room(visibility="public")
    stranger.answers["keys"] = lambda asked: keys(stranger)
    with refused(401, "M_UNAUTHORIZED"):
        stranger.join(honest, room_id, stranger.user("mallory"))


def test_keys_without_end_are_given_up(alice: Client, stranger: LyingPeer, honest: HomeServer) -> None:
    """FED-9, SEC-1."""
    room_id = alice.create_room(visibility="public")
    stranger.answers["keys"] = endless_body
    begun = time.monotonic()
    with refused(401, "M_UNAUTHORIZED"):
        stranger.join(honest, room_id, stranger.user("mallory"))
    assert time.monotonic() - begun < 30


def test_notary_vouches_only_for_keys_that_their_server_has_signed(
    peer: LyingPeer, third: LyingPeer, stranger: LyingPeer, honest: HomeServer
) -> None:
    """FED-9, SEC-8."""
    for name in (third.name, peer.name):
        answer = peer.request(honest, "GET", f"{KEYS}/query/{quote(name)}", header="")
        [told] = answer.json["server_keys"]
        assert told["server_name"] == name
        assert {name, honest.name} == set(told["signatures"])
    stranger.answers["keys"] = lambda asked: peer.published_keys()
    for name in (stranger.name, "localhost:1"):
        answer = peer.request(honest, "GET", f"{KEYS}/query/{quote(name)}", header="")
        assert answer.json["server_keys"] == []
