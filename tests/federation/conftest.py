"""What the tests of the queues may ask for."""

from __future__ import annotations

import pytest

from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from tests.federation.queue_case import House
from tests.support.threads import ThreadBridge


@pytest.fixture
def house(database: Database, bus: Bus, bridge: ThreadBridge) -> House:
    """A server with queues and without rooms."""
    return House(database, bus, bridge)
