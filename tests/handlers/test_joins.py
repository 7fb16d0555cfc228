"""Who is coming into which room elsewhere, as the processes of a server tell each other (FED-7)."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as HandMovedTime

from synapse_like.clock import ReactorClock
from synapse_like.handlers.joins import BELIEVED_SECONDS, JoinBegun, JoinOver, Joins
from synapse_like.storage.bus import Bus

ROOM = "!room:there"


def test_a_process_that_dies_while_it_comes_into_a_room_is_believed_in_for_a_while_and_forgotten() -> None:
    time, bus = HandMovedTime(), Bus()
    joins = Joins(Mock(is_shared=True), bus, ReactorClock(time))
    bus.publish(JoinBegun(ROOM, "dead"))
    time.advance(1)
    bus.publish(JoinBegun(ROOM, "alive"))
    waited: list[Any] = []
    Deferred.fromCoroutine(joins.over([ROOM], 10 * BELIEVED_SECONDS)).addBoth(waited.append)
    bus.publish(JoinOver(ROOM, "alive"))
    time.advance(BELIEVED_SECONDS - 2)
    assert joins.are_under_way([ROOM])
    assert not waited
    time.advance(1)
    assert waited == [True], "who waits is told so at once"
    assert not joins.are_under_way([ROOM])
    assert not joins._under_way
    assert not time.getDelayedCalls(), "nothing is left of it, though nobody asked"
