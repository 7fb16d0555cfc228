"""Access tokens, as they are recognised (LOGIN-10); the answers of the database come when the test says so."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as HandMovedTime

from synapse_like.clock import ReactorClock
from synapse_like.handlers.authentication import Authentication, Requester, TokensEnded
from synapse_like.protocol.errors import UnknownToken
from synapse_like.storage.accounts import TokenOwner
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database

ALICE = "@alice:here"


class Scene:
    """Requests with one access token."""

    def __init__(self, database: Database, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: list[Deferred[TokenOwner | None]] = []
        self.outcomes: list[tuple[int, Any]] = []
        self.bus, self.requests = bus, 0
        self.authentication = Authentication(database, bus, ReactorClock(HandMovedTime()))

        def read(*_: object) -> Deferred[TokenOwner | None]:
            self.reads.append(Deferred())
            return self.reads[-1]

        monkeypatch.setattr(database, "read", read)

    def ask(self) -> None:
        number = self.requests = self.requests + 1
        outcome = Deferred.fromCoroutine(self.authentication.authenticate("token"))
        outcome.addBoth(lambda outcome: self.outcomes.append((number, outcome)))


@pytest.fixture
def scene(database: Database, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(database, bus, monkeypatch)


def test_requests_that_come_together_are_recognised_in_their_order(scene: Scene) -> None:
    """EVS-9: what a client asks on one line is done in its order, though several look into the tables."""
    for _ in range(3):
        scene.ask()
    [read] = scene.reads
    read.callback(TokenOwner(7, ALICE, is_admin=False))
    assert scene.outcomes == [(number, Requester(ALICE, 7, is_admin=False)) for number in (1, 2, 3)]
    scene.ask()
    assert scene.outcomes[3] == (4, Requester(ALICE, 7, is_admin=False))
    assert len(scene.reads) == 1, "it is remembered"


def test_token_is_looked_up_anew_once_it_may_have_ended(scene: Scene) -> None:
    scene.ask()
    scene.bus.publish(TokensEnded(ALICE, 7))
    scene.ask()
    before, after = scene.reads
    before.callback(TokenOwner(7, ALICE, is_admin=False))
    assert [number for number, _ in scene.outcomes] == [1], "who asked before it ended may be told either"
    scene.ask()
    assert len(scene.reads) == 2
    after.callback(None)
    assert [(number, outcome.check(UnknownToken)) for number, outcome in scene.outcomes[1:]] == [
        (2, UnknownToken),
        (3, UnknownToken),
    ]
