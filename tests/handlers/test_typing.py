"""Who types, and until when (TYP-1); time is moved by hand."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as HandMovedTime

from synapse_like.clock import ReactorClock
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.notifier import Notifier, Watcher
from synapse_like.handlers.streams import NO_ARRIVALS, Arrivals
from synapse_like.handlers.typing import (
    MOST_USERS,
    REMOTE_GRACE_SECONDS,
    REMOTE_SECONDS,
    REPEAT_SECONDS,
    TELL_SECONDS,
    Typing,
)
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from tests.handlers.test_notifier import membership_of

ROOM = "!room:here"
BOB = "@bob:there"


class Scene:
    """A room in which everybody is joined, and somebody who looks."""

    def __init__(self, database: Database, bus: Bus, monkeypatch: pytest.MonkeyPatch, started_at: float = 1000) -> None:
        self.time = HandMovedTime()
        self.time.advance(started_at)
        self.bus = bus
        clock = ReactorClock(self.time)
        self.typing = Typing(database, Notifier(database, bus, clock, 10), bus, clock, None, "here")
        self.watcher = Watcher("@alice:here", 0)
        self.watcher.rooms.add(ROOM)
        self.outsiders: set[str] = set()

        async def joined(room_id: str, users: set[str]) -> frozenset[str]:
            return frozenset(users - self.outsiders)

        monkeypatch.setattr(self.typing, "_joined", joined)

    def hears(self, origin: str = "there", **content: Any) -> None:
        Deferred.fromCoroutine(self.typing.receive(origin, {"room_id": ROOM, **content}))

    def news(self, after: int, arrivals: Arrivals = NO_ARRIVALS) -> tuple[int, list[list[str]]]:
        """The position behind the news, and who types as they say."""
        found: list[Any] = []
        Deferred.fromCoroutine(self.typing.news(self.watcher, after, arrivals)).addCallback(found.append)
        [(position, events)] = found
        return position, [event["content"]["user_ids"] for event in events]


@pytest.fixture
def scene(database: Database, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(database, bus, monkeypatch)


def test_each_change_is_told_once(scene: Scene) -> None:
    assert scene.news(0) == (0, [])
    scene.hears(user_id=BOB, typing=True)
    first, told = scene.news(0)
    assert told == [[BOB]]
    assert scene.news(first) == (first, [])
    scene.hears(user_id=BOB, typing=True)
    assert scene.news(first) == (first, []), "still typing is no news"
    scene.hears(user_id=BOB, typing=False)
    assert scene.news(first) == (0, [[]])
    assert scene.news(0) == (0, [])


def test_both_forms_are_understood(scene: Scene) -> None:
    scene.hears(user_ids=[BOB, "@ben:there"])
    position, told = scene.news(0)
    assert told == [["@ben:there", BOB]]
    scene.hears(user_ids=["@ben:there"])
    assert scene.news(position)[1] == [["@ben:there"]]


def test_servers_speak_for_their_own_users_only(scene: Scene) -> None:
    scene.hears("elsewhere", user_id=BOB, typing=True)
    scene.hears("elsewhere", user_ids=[BOB])
    assert scene.news(0) == (0, [])
    scene.hears(user_id=BOB, typing=True)
    scene.hears("elsewhere", user_ids=[])
    assert scene.news(0)[1] == [[BOB]], "nor for the end of somebody else's typing"


def test_who_is_not_in_the_room_does_not_type_there(scene: Scene) -> None:
    scene.outsiders.add(BOB)
    scene.hears(user_id=BOB, typing=True)
    assert scene.news(0) == (0, [])


def test_typing_ends_by_itself_when_a_server_is_not_heard_from(scene: Scene) -> None:
    scene.hears(user_id=BOB, typing=True)
    scene.time.advance(REMOTE_SECONDS - 1)
    position, told = scene.news(0)
    assert told == [[BOB]]
    scene.time.advance(2)
    assert scene.news(position) == (0, [[]])
    assert not scene.time.getDelayedCalls()


def test_server_that_dies_is_believed_for_as_long_as_it_said(scene: Scene) -> None:
    """And what it says of one of its users does not make another type longer."""
    scene.hears(user_id=BOB, typing=True, timeout=1000, user_ids=[BOB])
    scene.time.advance(REMOTE_GRACE_SECONDS - 1)
    scene.hears(user_id="@ben:there", typing=True, timeout=60_000, user_ids=[BOB, "@ben:there"])
    position, told = scene.news(0)
    assert told == [["@ben:there", BOB]]
    scene.time.advance(3)
    position, told = scene.news(position)
    assert told == [["@ben:there"]]
    scene.time.advance(60 + REMOTE_GRACE_SECONDS)
    assert scene.news(position) == (0, [[]])


@pytest.mark.parametrize("timeout", [-1, 10**9, "x", None, 1.5, []])
def test_time_that_makes_no_sense_is_the_longest(scene: Scene, timeout: object) -> None:
    scene.hears(user_id=BOB, typing=True, timeout=timeout)
    scene.time.advance(REMOTE_SECONDS - 1)
    assert scene.news(0)[1] == [[BOB]]
    scene.time.advance(2)
    assert scene.news(0) == (0, [])


def test_those_who_look_are_woken_a_few_times_a_second(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server could wake a whole room as often as it wrote that somebody types, and does not."""
    woken: list[str] = []
    monkeypatch.setattr(scene.typing._notifier, "wake_room", woken.append)
    for _ in range(100):
        scene.hears(user_id=BOB, typing=True)
        scene.hears(user_id=BOB, typing=False)
    assert len(woken) == 1, "the first at once"
    scene.time.advance(TELL_SECONDS)
    assert len(woken) == 2
    scene.time.advance(10)
    assert len(woken) == 2
    scene.hears(user_id=BOB, typing=True)
    assert len(woken) == 3


def test_others_are_told_again_before_they_forget(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    async def send(servers: Any, content: Any, key: str) -> None:
        told.append((content["typing"], content.get("timeout")))

    anything: Any = object()
    scene.typing._queues = anything
    monkeypatch.setattr(scene.typing, "_send", send)
    monkeypatch.setattr(scene.typing, "_servers", lambda *_: ["there"])

    async def read(_: str, function: Any, *args: Any) -> Any:
        return function(None, *args)

    monkeypatch.setattr(scene.typing._database, "read", read)

    def types(timeout_ms: int) -> None:
        requester = Requester("@alice:here", 1, False)
        update = scene.typing.update(requester, ROOM, "@alice:here", typing=True, timeout_ms=timeout_ms)
        Deferred.fromCoroutine(update)

    types(1000)
    scene.time.advance(0.5)
    types(20_000)
    assert told == [(True, 1000)], "they believe it for long enough"
    types(60_000)
    assert told == [(True, 1000), (True, 60_000)]
    scene.time.advance(REPEAT_SECONDS)
    types(60_000)
    assert told[2:] == [(True, 60_000)]
    scene.time.advance(61)
    assert told[3:] == [(False, None)]


def test_who_leaves_types_no_more(scene: Scene) -> None:
    scene.hears(user_id=BOB, typing=True)
    position, _ = scene.news(0)
    scene.bus.publish(membership_of(BOB, "leave", 11, ROOM))
    assert scene.news(position) == (0, [[]])


def test_other_rooms_are_nobodys_business(scene: Scene) -> None:
    scene.watcher.rooms.clear()
    scene.hears(user_id=BOB, typing=True)
    assert not scene.typing.may_have_news(scene.watcher, 0)
    assert scene.news(0) == (0, [])


def test_who_comes_in_is_told_who_types(scene: Scene) -> None:
    scene.watcher.rooms = {"!other:here"}
    Deferred.fromCoroutine(scene.typing.receive("there", {"room_id": "!other:here", "user_id": BOB, "typing": True}))
    scene.hears(user_id="@ben:there", typing=True)
    position, _ = scene.news(0)
    scene.watcher.rooms.add(ROOM)
    assert scene.news(position, Arrivals(entered=frozenset({ROOM})))[1] == [["@ben:there"]]


def test_token_of_an_earlier_run_is_told_what_holds_now(
    database: Database, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may have stopped typing while the server was down: the client still believes that they type."""
    before = Scene(database, bus, monkeypatch, started_at=1000)
    before.hears(user_id=BOB, typing=True)
    position, _ = before.news(0)
    after = Scene(database, bus, monkeypatch, started_at=1010)
    assert after.news(position) == (0, [[]])
    after.hears(user_id="@ben:there", typing=True)
    assert after.news(position)[1] == [["@ben:there"]]
    later = 10**15
    assert after.news(later)[1] == [["@ben:there"]], "also if the clock was set back"


def test_a_room_has_a_bounded_number_of_typists(scene: Scene) -> None:
    for number in range(MOST_USERS + 5):
        scene.hears(user_id=f"@user{number}:there", typing=True)
    [users] = scene.news(0)[1]
    assert len(users) == MOST_USERS


@pytest.mark.parametrize(
    "content",
    [
        {"room_id": 5},
        {"room_id": "!a\0:b", "user_id": BOB, "typing": True},
        {"typing": True, "user_id": "@a\0:there"},
        {"typing": True, "user_id": 5},
        {"user_ids": [5, None, "x"]},
        {"typing": "yes"},
        {"user_ids": {}},
    ],
)
def test_what_makes_no_sense_changes_nothing(scene: Scene, content: dict[str, Any]) -> None:
    failed: list[Any] = []
    Deferred.fromCoroutine(scene.typing.receive("there", {"room_id": ROOM, **content})).addErrback(failed.append)
    assert all(failure.value.errcode == "M_BAD_JSON" for failure in failed)
    assert scene.news(0) == (0, [])
