"""Who sees what of a profile, whatever people are to each other; and what is told of changes."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest
from signedjson.key import generate_signing_key
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as HandMovedTime
from twisted.python.failure import Failure

from synapse_like.clock import ReactorClock
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.handlers.profile import Profiles
from synapse_like.handlers.profile_changes import MOST_AT_ONCE, ROOMS_AT_ONCE, ProfileChanges
from synapse_like.protocol.errors import NotFound
from synapse_like.protocol.events import EventDraft
from synapse_like.protocol.profiles import PRESENCE_LIST, PRIVATE, PUBLIC, SHARED_ROOMS, VISIBILITIES
from synapse_like.protocol.room_creation import opening_events
from synapse_like.protocol.room_versions import SPEC_2014
from synapse_like.storage import accounts, rooms
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.event_news import EventPersisted
from synapse_like.storage.profiles import ProfileChanged
from synapse_like.storage.state import MEMBER
from synapse_like.storage.transactions import Transaction
from tests.support.threads import ThreadBridge

OWNER = "@owner:here"
#: What somebody is to the owner, and what is open to them.
RELATIONS = {
    OWNER: {PUBLIC, SHARED_ROOMS, PRESENCE_LIST, PRIVATE},
    "@observer:here": {PUBLIC, PRESENCE_LIST},
    "@friend:here": {PUBLIC, SHARED_ROOMS},
    "@friend-and-observer:here": {PUBLIC, SHARED_ROOMS, PRESENCE_LIST},
    "@invited:here": {PUBLIC},
    "@left:here": {PUBLIC},
    "@banned:here": {PUBLIC},
    "@stranger:here": {PUBLIC},
    "@observed:here": {PUBLIC},
    "": {PUBLIC},
    "another server": {PUBLIC},
}
FRIENDS = ("@friend:here", "@friend-and-observer:here")
OBSERVERS = ("@observer:here", "@friend-and-observer:here")


class House:
    """A server without its front: the owner's profile and rooms."""

    def __init__(self, database: Database, bridge: ThreadBridge, bus: Bus) -> None:
        self.bridge = bridge
        self.database = database
        key = generate_signing_key("a_test")
        self.creation = EventCreation("here", key, ReactorClock(HandMovedTime()), EventPersistence("here"))
        self.changes = ProfileChanges(database, bus, self.creation)
        self.profiles = Profiles(database, None, self.changes, "here", _may_observe)  # type: ignore[arg-type]  # nobody is asked
        self.news: list[object] = []
        bus.subscribe(EventPersisted, self.news.append)
        bus.subscribe(ProfileChanged, self.news.append)
        self.do(database.write("people", self._make_people))

    def _make_people(self, txn: Transaction) -> None:
        for user_id in RELATIONS:
            if user_id.startswith("@"):
                accounts.create(txn, user_id, password_hash=None, now_ms=1)

    def do(self, work: Awaitable[Any]) -> Any:
        """Have something done, and give what comes of it."""

        async def waited() -> Any:
            return await work

        outcome: list[Any] = []
        Deferred.fromCoroutine(waited()).addBoth(outcome.append)
        self.bridge.pump(lambda: bool(outcome))
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()  # type: ignore[no-untyped-call]  # Twisted's
        return outcome[0]

    def show(self, observer: str, field: str | None = None) -> Awaitable[dict[str, Any]]:
        """The owner's profile, or one field of it, for somebody or something among `RELATIONS`."""
        if observer == "another server":
            return self.profiles.public(OWNER, field)
        requester = _requester(observer) if observer else None
        if field is None:
            return self.profiles.whole(requester, OWNER)
        return self.profiles.field(requester, OWNER, field)

    def tell(self, field: str, value: object, visibility: str | None = None) -> None:
        self.do(self.profiles.set(_requester(OWNER), OWNER, field, value, visibility))

    def make_rooms(self, number: int) -> list[str]:
        """Rooms of the owner's, with as few events as will do."""
        return [self.do(self.database.write("room", self._make_room)) for _ in range(number)]

    def _make_room(self, txn: Transaction) -> str:
        room = self.creation.found_room(txn, SPEC_2014, OWNER, is_public=True)
        join, _, join_rules, *_ = opening_events(SPEC_2014, room.room_id, OWNER, is_public=True)
        for draft in (join, join_rules):
            self.creation.say(txn, room, draft)
        return room.room_id

    def set_membership(self, room_id: str, sender: str, target: str, membership: str) -> None:
        def say(txn: Transaction) -> None:
            room = rooms.head(txn, room_id)
            assert room is not None
            self.creation.say(txn, room, EventDraft(room_id, MEMBER, sender, {"membership": membership}, target))

        self.do(self.database.write("membership", say))

    def told(self) -> list[tuple[str, Any]]:
        """The rooms that were told something of the owner since the last look, and what."""
        events = [news.stored.event for news in self.news if isinstance(news, EventPersisted)]
        self.news.clear()
        return [(event.room_id, event.content.get("displayname")) for event in events if event.state_key == OWNER]


def _may_observe(txn: Transaction, observer: str, user_id: str) -> bool:
    return user_id == OWNER and observer in OBSERVERS


def _requester(user_id: str) -> Requester:
    return Requester(user_id, 1, False)


@pytest.fixture
def house(database: Database, bridge: ThreadBridge, bus: Bus) -> House:
    return House(database, bridge, bus)


@pytest.mark.parametrize("visibility", VISIBILITIES)
def test_field_is_open_to_whom_it_should_be(house: House, visibility: str) -> None:
    """PROF-3."""
    [room] = house.make_rooms(1)
    for user_id in (*FRIENDS, "@left:here", "@banned:here"):
        house.set_membership(room, user_id, user_id, "join")
    house.set_membership(room, OWNER, "@invited:here", "invite")
    house.set_membership(room, "@left:here", "@left:here", "leave")
    house.set_membership(room, OWNER, "@banned:here", "ban")
    house.tell("age", 36, visibility)

    def seen(observer: str) -> tuple[object, object]:
        """The profile, and the field; None if it is not there."""
        whole = house.do(house.show(observer))
        try:
            return whole, house.do(house.show(observer, "age"))["age"]
        except NotFound:
            return whole, None

    expected = {who: ({"age": 36}, 36) if visibility in opened else ({}, None) for who, opened in RELATIONS.items()}
    assert {who: seen(who) for who in RELATIONS} == expected


def test_friendship_ends_with_the_last_shared_room(house: House) -> None:
    """PROF-3."""
    one, other = house.make_rooms(2)
    house.tell("age", 36, SHARED_ROOMS)
    friend = _requester("@friend:here")
    for room in (one, other):
        house.set_membership(room, friend.user_id, friend.user_id, "join")
    house.set_membership(one, friend.user_id, friend.user_id, "leave")
    assert house.do(house.profiles.whole(friend, OWNER)) == {"age": 36}
    house.set_membership(other, OWNER, OWNER, "leave")
    assert house.do(house.profiles.whole(friend, OWNER)) == {}


def test_change_is_news_once(house: House) -> None:
    """PROF-2: what is not shown to observers and rooms is none."""
    house.tell("displayname", "Olga")
    house.tell("displayname", "Olga")
    house.tell("age", 36, PUBLIC)
    house.tell("avatar_url", "http://a")
    house.tell("displayname", "")
    house.tell("displayname", None)
    assert house.news == [
        ProfileChanged(OWNER, "Olga", None),
        ProfileChanged(OWNER, "Olga", "http://a"),
        ProfileChanged(OWNER, None, "http://a"),
    ]


def test_rooms_are_told_a_few_at_a_time(house: House) -> None:
    """PROF-2: in one transaction no more than some, in one turn no more than in some transactions; each once."""
    made = house.make_rooms((MOST_AT_ONCE + 1) * ROOMS_AT_ONCE + 1)
    house.told()
    house.tell("displayname", "Olga")
    assert house.told() == [(room, "Olga") for room in made[:ROOMS_AT_ONCE]]
    commits = house.database.statistics.commits
    house.do(house.changes.go_on())
    assert house.database.statistics.commits - commits == MOST_AT_ONCE
    assert house.told() == [(room, "Olga") for room in made[ROOMS_AT_ONCE:-1]]
    house.do(house.changes.go_on())
    assert house.told() == [(made[-1], "Olga")]
    commits = house.database.statistics.commits
    house.do(house.changes.go_on())
    assert house.told() == []
    assert house.database.statistics.commits == commits


def test_later_changes_overtake_the_first(house: House) -> None:
    """PROF-2: no room hears what is not true any more when its turn comes, and none the same twice."""
    made = house.make_rooms(2 * ROOMS_AT_ONCE + 1)
    house.told()
    for name in ("Olga", "Olga P.", "O. P."):
        house.tell("displayname", name)
    assert house.told() == [(room, "Olga") for room in made[:ROOMS_AT_ONCE]]
    house.do(house.changes.go_on())
    assert house.told() == [(room, "O. P.") for room in made]
    house.tell("displayname", "Olga")
    house.tell("displayname", "O. P.")
    house.tell("displayname", "Olga")
    house.do(house.changes.go_on())
    assert house.told() == [(room, "Olga") for room in made]


def test_what_is_left_to_tell_is_found_after_a_start(house: House, database: Database, bus: Bus) -> None:
    """PROF-2."""
    made = house.make_rooms(ROOMS_AT_ONCE + 5)
    house.tell("displayname", "Olga")
    house.told()
    house.do(ProfileChanges(database, bus, house.creation).go_on())
    assert house.told() == [(room, "Olga") for room in made[ROOMS_AT_ONCE:]]


def test_room_that_cannot_be_told_holds_up_no_other(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """PROF-2."""
    made = house.make_rooms(3)
    house.told()
    say = EventCreation.say

    def refuse(self: EventCreation, txn: Transaction, room: rooms.RoomHead, draft: EventDraft) -> object:
        if room.room_id == made[1]:
            raise NotFound("It does not work.")
        return say(self, txn, room, draft)

    monkeypatch.setattr(EventCreation, "say", refuse)
    house.tell("displayname", "Olga")
    assert [room for room, _ in house.told()] == [made[0], made[2]]
