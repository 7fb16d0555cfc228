"""A server that lies, and the one that must not believe it.

Alice lives on the honest server, mallory on the lying one; a third server, where tess lives, is there to be lied about.
Whatever is tried: it is refused and logged, nobody sees anything of it, nothing fails within, and the room works on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import NewDatabase
from tests.scenarios.conftest import Unique
from tests.scenarios.federation.conftest import FederationOf, in_good_order
from tests.scenarios.federation.lying_peer.scene import (
    PATIENCE,
    Scene,
    scene_of,
)
from tests.support.client import Client
from tests.support.federation import Federation
from tests.support.lying_peer import LyingPeer
from tests.support.server import HomeServer


@pytest.fixture(scope="session")
def lone(federation_of: FederationOf, new_database: NewDatabase) -> Iterator[Federation]:
    """One honest server, which soon loses its patience; on one kind of database after the other."""
    patience = {"federation__answer_timeout": PATIENCE, "federation__body_timeout": PATIENCE}
    with new_database() as url, federation_of(url, **patience) as federation:
        yield federation


@pytest.fixture
def honest(lone: Federation) -> Iterator[HomeServer]:
    with in_good_order(lone) as federation:
        yield federation.servers[0]


@pytest.fixture(scope="session")
def shared_peers(lone: Federation) -> Iterator[list[LyingPeer]]:
    """The peers behind `peer` and `third`."""
    with LyingPeer(lone.authority, "localhost") as peer, LyingPeer(lone.authority, "127.0.0.1") as third:
        yield [peer, third]


@contextmanager
def in_order(peer: LyingPeer) -> Iterator[LyingPeer]:
    """A peer that is honest and has heard nothing, and to whom no request may come that is not signed as it should."""
    peer.forget()
    yield peer
    assert not peer.faults


@pytest.fixture
def peer(shared_peers: list[LyingPeer], honest: HomeServer) -> Iterator[LyingPeer]:
    with in_order(shared_peers[0]) as peer:
        yield peer


@pytest.fixture
def third(shared_peers: list[LyingPeer], honest: HomeServer) -> Iterator[LyingPeer]:
    with in_order(shared_peers[1]) as peer:
        yield peer


@pytest.fixture
def stranger(lone: Federation, honest: HomeServer) -> Iterator[LyingPeer]:
    """A peer that nobody knows yet."""
    with LyingPeer(lone.authority) as peer, in_order(peer):
        yield peer


@pytest.fixture
def alice(honest: HomeServer, unique: Unique) -> Client:
    return Client(honest).register(unique("alice"))


@pytest.fixture
def scene(alice: Client, peer: LyingPeer, third: LyingPeer, version: str) -> Scene:
    return scene_of(alice, peer, third, version)


@pytest.fixture
def old_scene(alice: Client, peer: LyingPeer, third: LyingPeer) -> Scene:
    """For what does not depend on the room's version."""
    return scene_of(alice, peer, third, "spec-2014")
