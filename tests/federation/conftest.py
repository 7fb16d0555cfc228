"""What the tests of the queues may ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from tests.federation.queue_case import House
from tests.support.threads import ThreadBridge


@pytest.fixture
def house(database: Database, bus: Bus, bridge: ThreadBridge) -> Iterator[House]:
    """A server with queues and without rooms."""
    house = House(database, bus, bridge)
    yield house
    house.close()
