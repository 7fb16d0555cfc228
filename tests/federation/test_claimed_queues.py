"""Queues of several processes on one database: each server is sent to by one of them (FED-3)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from synapse_like.federation.lots import SenderLost, lot_of
from synapse_like.federation.progress import SAVE_SECONDS
from synapse_like.federation.sending import PassingEdusLost
from synapse_like.storage import claims, destinations
from synapse_like.storage.bus import Bus
from synapse_like.storage.connections import Connection
from synapse_like.storage.database import Database
from synapse_like.storage.engines.opening import open_engine
from synapse_like.storage.migrations import migrate
from tests.federation.queue_case import House
from tests.support.postgres import PostgreSQL
from tests.support.threads import ThreadBridge

ROOM = "!room:here"
THERE = "there.example"
ELSEWHERE = "elsewhere.example"


class Sharing(House):
    """A house that shares its database with others."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        bus, bridge = Bus(), ThreadBridge()
        super().__init__(Database(open_engine(url, data_dir=Path()), bridge, bus, shared=True), bus, bridge)
        self._go_on = threading.Event()
        self._go_on.set()
        try_ = self.database.claims._try

        def try_if_it_goes_on(*args: Any) -> None:
            self._go_on.wait()
            try_(*args)

        monkeypatch.setattr(self.database.claims, "_try", try_if_it_goes_on)
        self.database.start()
        self.start()

    def hear(self) -> None:
        """Hear of what everybody has committed until now, and do what comes of it."""
        self.write(lambda txn: txn.take_number())
        self.time.advance(0)
        self.settle()

    def have(self, server: str) -> None:
        """Come to send to a server."""

        def has_it() -> bool:
            self.time.advance(0)
            return self.database.claims.holds(lot_of(server))

        self.bridge.pump(has_it, 30)
        self.time.advance(0)

    def see_sent(self, count: int) -> None:
        self.bridge.pump(lambda: len(self.other.sent) >= count, 30)

    def look_again(self) -> None:
        self.wait_for(Deferred.fromCoroutine(self.queues.look_again()))

    def die(self) -> None:
        """As if killed: nothing is written down any more, and what was claimed is free."""
        self.database.claims.stop()

    def stand_still(self) -> threading.Event:
        """As if stopped (SIGSTOP): nothing is asked of the database for its claims, until it may go on."""
        self._go_on.clear()
        return self._go_on

    def even_out(self) -> None:
        self.wait_for(Deferred.fromCoroutine(self.queues.even_out()))

    @property
    def servers(self) -> set[str]:
        """The ones that it sends to."""
        return {server for server in (THERE, ELSEWHERE) if self.database.claims.holds(lot_of(server))}

    def end(self) -> None:
        self._go_on.set()
        self.close()
        self.database.stop()


def fail_often(house: Sharing) -> None:
    """Let what is sent not arrive until the pause is long, and see that it is known to all."""
    for pause in (1, 2, 4, None):
        house.see_sent(3)
        house.fail(THERE)
        if pause is not None:
            house.advance(pause)
    house.saved()


@pytest.fixture
def url(postgresql: PostgreSQL) -> Iterator[str]:
    with postgresql.database() as url:
        connection = Connection(open_engine(url, data_dir=Path()), exclusive=True)
        migrate(connection)
        connection.close()
        yield url


@pytest.fixture
def houses(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Sharing, Sharing]]:
    """Two, of which the first sends to `THERE` and `ELSEWHERE`, which are in the room."""
    monkeypatch.setattr(claims, "TRY_EVERY_SECONDS", 0.1)
    one, two = Sharing(url, monkeypatch), Sharing(url, monkeypatch)
    try:
        one.make_room(ROOM, THERE, ELSEWHERE)
        one.say(ROOM, "first")
        one.have(THERE)
        one.have(ELSEWHERE)
        one.see_sent(2)
        one.accept_all()
        yield one, two
    finally:
        for house in (one, two):
            house.end()


def test_only_one_sends_whoever_stores_and_the_other_keeps_nothing(houses: tuple[Sharing, Sharing]) -> None:
    one, two = houses
    two.say(ROOM, "by the other")
    one.hear()
    one.see_sent(4)
    assert one.accept_all() == ["by the other"] * 2
    two.hear()
    assert two.other.sent == []
    assert two.queues.states() == {}


def test_when_one_dies_the_other_goes_on_and_skips_nothing(houses: tuple[Sharing, Sharing]) -> None:
    one, two = houses
    one.saved()
    two.hear()
    one.say(ROOM, "under way")
    one.die()
    two.say(ROOM, "after")
    for server in (THERE, ELSEWHERE):
        two.have(server)
    two.see_sent(2)
    assert sorted(two.accept_all()) == sorted(["under way", "after"] * 2)
    # What had been taken and written down does not come again.
    assert all(sent.body["prev_ids"] for sent in two.other.sent)


def test_an_edu_in_memory_is_given_to_who_sends(houses: tuple[Sharing, Sharing]) -> None:
    one, two = houses
    two.hear()
    two.bridge.pump(lambda: lot_of(THERE) in two.database.claims._tried, 30)
    two.send_edu(THERE, {"typing": "é"}, key="room")
    one.see_sent(3)
    assert one.accept(THERE).edus == [{"typing": "é"}]
    assert two.other.sent == []


def test_what_is_stored_for_a_server_and_a_wish_of_the_operator_reach_who_sends(
    houses: tuple[Sharing, Sharing],
) -> None:
    one, two = houses
    two.send_edu(THERE, {"lasting": 1}, lasting=True)
    one.hear()
    fail_often(one)
    two.hear()
    assert two.queues.is_left_alone(THERE)
    assert one.queues.is_left_alone(THERE)
    two.write(destinations.ask_retry, THERE)
    for house in (two, one):
        house.look_again()
    one.see_sent(7)
    assert one.accept(THERE).edus == [{"lasting": 1}]
    one.saved()
    two.hear()
    assert not two.queues.is_left_alone(THERE)


def test_who_is_heard_from_anywhere_is_tried_again(houses: tuple[Sharing, Sharing]) -> None:
    one, two = houses
    one.send_edu(THERE, {"lasting": 1}, lasting=True)
    fail_often(one)
    two.hear()
    two.queues.heard_from(THERE)
    one.see_sent(7)
    assert one.accept(THERE).edus == [{"lasting": 1}]


def test_who_loses_what_it_had_forgets_it(houses: tuple[Sharing, Sharing]) -> None:
    one, _ = houses
    lost: list[PassingEdusLost] = []
    one.news.subscribe(PassingEdusLost, lost.append)
    one.say(ROOM, "under way")
    one.send_edu(THERE, {"typing": 1})
    one.database.claims._lost(frozenset([lot_of(THERE)]))
    assert set(one.queues.states()) == {ELSEWHERE}
    assert lost == [PassingEdusLost(THERE)]


def test_who_dies_takes_edus_with_it_and_those_who_can_say_it_again_are_told(houses: tuple[Sharing, Sharing]) -> None:
    """PRES-5: who was to be told how it stands with somebody is told anew."""
    one, two = houses
    one.saved()
    two.hear()
    two.bridge.pump(lambda: lot_of(THERE) in two.database.claims._refused, 30)
    told: list[SenderLost] = []
    two.news.subscribe(SenderLost, told.append)
    one.say(ROOM, "under way")
    one.send_edu(THERE, {"presence": 1})
    one.die()
    two.have(THERE)
    two.have(ELSEWHERE)
    assert {lot for news in told for lot in news.lots} == {lot_of(THERE), lot_of(ELSEWHERE)}


@pytest.fixture
def soon_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is not heard of loses its claims sooner than otherwise."""
    monkeypatch.setattr(claims, "GIVEN_UP_SECONDS", 8)
    monkeypatch.setattr(claims, "SURE_SECONDS", 6.0)


@pytest.mark.usefixtures("soon_given_up")
def test_who_stands_still_is_replaced_and_sends_nothing_when_it_goes_on(houses: tuple[Sharing, Sharing]) -> None:
    """FED-3: its connection stands, but PostgreSQL hears nothing of it."""
    one, two = houses
    one.saved()
    two.hear()
    one.say(ROOM, "under way")
    before = len(one.other.sent)
    go_on = one.stand_still()
    for server in (THERE, ELSEWHERE):
        two.have(server)
    assert one.servers == set()
    two.say(ROOM, "after")
    assert sorted(two.accept_all()) == sorted(["under way", "after"] * 2)
    two.saved()
    stored = two.write(destinations.find, THERE)
    one.hear()
    one.accept_all()
    one.say(ROOM, "more")
    one.advance(SAVE_SECONDS)
    assert len(one.other.sent) == before
    assert one.write(destinations.find, THERE) == stored
    go_on.set()
    one.bridge.pump(lambda: one.queues.states() == {}, 30)
    two.hear()
    assert two.accept_all() == ["more"] * 2
    assert len(one.other.sent) == before


def test_who_has_more_servers_than_its_share_leaves_some_to_others(houses: tuple[Sharing, Sharing]) -> None:
    """FED-3: a process that was started again comes to send, too, and the other side sees nothing of that."""
    one, two = houses
    told: list[SenderLost] = []
    two.news.subscribe(SenderLost, told.append)
    two.hear()
    one.say(ROOM, "under way")
    one.even_out()
    assert one.servers == {THERE, ELSEWHERE}, "something waits for both"
    one.accept_all()
    one.even_out()
    [kept] = one.servers
    [left] = {THERE, ELSEWHERE} - one.servers
    two.have(left)
    for house in houses:
        house.even_out()
    assert (one.servers, two.servers) == ({kept}, {left})
    two.say(ROOM, "after")
    one.hear()
    two.see_sent(1)
    one.see_sent(5)
    assert (one.accept_all(), two.accept_all()) == (["after"], ["after"])
    assert told == []


def test_what_nobody_has_is_sent_by_whoever_comes_first(houses: tuple[Sharing, Sharing]) -> None:
    """FED-3: also by the one that has left it a moment ago."""
    one, two = houses
    one.even_out()
    [left] = {THERE, ELSEWHERE} - one.servers
    two.die()
    one.say(ROOM, "after")
    one.have(left)
    one.see_sent(4)
    assert one.accept_all() == ["after"] * 2
