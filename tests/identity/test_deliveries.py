"""Telling somebody who may be away, with time moved by hand (ID-1)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from synapse_like.backoff import FIRST_RETRY_MS
from synapse_like.clock import ReactorClock
from synapse_like.identity.deliveries import DATABASE_PAUSE_SECONDS, Delivery
from synapse_like.protocol.errors import Unavailable
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.engines.opening import open_engine
from synapse_like.storage.identity import destinations
from synapse_like.storage.identity.destinations import SIBLING, Destination
from synapse_like.storage.migrations import IDENTITY_SERVER, migrate
from tests.support.threads import ThreadBridge

LONGEST_MS = 60_000


class Scene:
    """A delivery, and the other side of it.

    :ivar told: up to where the other side was told, each time.
    """

    def __init__(self, folder: Path) -> None:
        self.bridge = ThreadBridge()
        self.time = Clock()
        self.time.advance(1000)
        self.database = Database(open_engine("sqlite", data_dir=folder), self.bridge, Bus(), readers=1)
        self.database.prepare(lambda connection: migrate(connection, IDENTITY_SERVER))
        self.database.start()
        self.newest = 0
        self.is_away = False
        self.told: list[int] = []
        self.delivery = self.new_delivery()

    def new_delivery(self) -> Delivery:
        return Delivery(self.database, ReactorClock(self.time), SIBLING, "there", self._send, longest_ms=LONGEST_MS)

    async def _send(self, destination: Destination) -> bool:
        if self.is_away:
            self.told.append(-1)
            raise Unavailable("It is away.")
        if destination.sent_up_to == self.newest:
            return False
        destination.sent_up_to += 1
        self.told.append(destination.sent_up_to)
        return destination.sent_up_to < self.newest

    def settle(self, count: int) -> None:
        """Wait until the other side was told something so many times, and everything is written down."""
        self.bridge.pump(lambda: len(self.told) >= count)
        self.flush()

    def flush(self) -> None:
        for _ in range(3):
            done = self.database.write("flush", lambda txn: None)
            self.bridge.pump(lambda done=done: bool(done.called))

    def row(self) -> Destination:
        found = self.database.read("look", destinations.find, SIBLING, "there")
        self.bridge.pump(lambda: bool(found.called))
        assert isinstance(found.result, Destination)
        return found.result


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.database.stop()


def test_everything_is_told_in_order_and_how_far_is_written_down(scene: Scene) -> None:
    scene.newest = 3
    scene.delivery.wake()
    scene.settle(3)
    assert scene.told == [1, 2, 3]
    assert scene.row().sent_up_to == 3
    scene.newest = 4
    scene.delivery.wake()
    scene.settle(4)
    assert scene.told[-1] == 4


def test_who_is_away_is_left_alone_for_longer_and_longer_also_after_a_restart(scene: Scene) -> None:
    scene.newest, scene.is_away = 1, True
    scene.delivery.wake()
    scene.settle(1)
    for count in (2, 3, 4):
        row = scene.row()
        assert row.failing_since == 1_000_000
        assert row.retry_interval == FIRST_RETRY_MS * 2 ** (count - 2)
        assert row.last_error is not None
        scene.delivery.wake()
        scene.flush()
        assert len(scene.told) == count - 1, "it was tried before its time"
        scene.time.advance(row.retry_interval / 1000)
        scene.settle(count)
    # A new run of the server waits, too.
    another = scene.new_delivery()
    another.wake()
    scene.flush()
    assert len(scene.told) == 4
    scene.is_away = False
    scene.time.advance(LONGEST_MS / 1000)
    scene.settle(5)
    assert scene.told[4:][0] == 1
    assert scene.row().failing_since is None


def test_who_is_heard_from_is_tried_at_once_but_not_all_the_time(scene: Scene) -> None:
    scene.newest, scene.is_away = 1, True
    scene.delivery.wake()
    scene.settle(1)
    scene.delivery.heard_from()
    scene.flush()
    assert len(scene.told) == 1, "it was tried twice within a second"
    for count in (2, 3, 4, 5, 6):
        scene.time.advance(LONGEST_MS / 1000)
        scene.settle(count)
    scene.is_away = False
    scene.time.advance(1.5)
    scene.flush()
    assert len(scene.told) == 6
    scene.delivery.heard_from()
    scene.settle(7)
    assert scene.told[-1] == 1


def test_what_was_lost_is_told_again(scene: Scene) -> None:
    scene.newest = 3
    scene.delivery.wake()
    scene.settle(3)
    scene.delivery.rewind(1)
    scene.settle(5)
    assert scene.told == [1, 2, 3, 2, 3]
    # Nobody can be behind where they begin.
    scene.delivery.rewind(9)
    scene.flush()
    assert scene.told == [1, 2, 3, 2, 3]


def test_fault_of_our_own_is_tried_again_after_a_pause(scene: Scene) -> None:
    faults = [RuntimeError("a fault")]
    send = scene._send

    async def fail_once(destination: Destination) -> bool:
        if faults:
            scene.told.append(0)
            raise faults.pop()
        return await send(destination)

    delivery = Delivery(scene.database, ReactorClock(scene.time), SIBLING, "there", fail_once, longest_ms=LONGEST_MS)
    scene.newest = 1
    delivery.wake()
    scene.settle(1)
    scene.time.advance(DATABASE_PAUSE_SECONDS)
    scene.settle(2)
    assert scene.told == [0, 1]
