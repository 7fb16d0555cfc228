"""Large events: answers with many of them are cut, and nothing is lost or told twice where they are (SEC-1, EVS-1,
EVS-6)."""

from __future__ import annotations

from typing import Any

import pytest
from signedjson.key import generate_signing_key
from twisted.internet.task import Clock as HandMovedTime

from synapse_like.clock import ReactorClock
from synapse_like.handlers import event_stream, history
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.handlers.event_stream import visible_since
from synapse_like.handlers.history import Page, page_back, page_forward
from synapse_like.handlers.initial_sync import InitialSync
from synapse_like.handlers.stream_tokens import StreamToken
from synapse_like.protocol.errors import TooLarge
from synapse_like.protocol.events import EventDraft
from synapse_like.protocol.room_versions import SPEC_2014
from synapse_like.storage import events, rooms, state
from synapse_like.storage.connections import Connection
from synapse_like.storage.transactions import Transaction

ALICE = "@alice:here"
MESSAGES = 200
#: Bytes of each message, and of a few of them.
SIZE, SOME = 2000, 10_000


class Scene:
    """A room with many large messages.

    :ivar said: their IDs, oldest first.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._creation = EventCreation(
            "here", generate_signing_key("1"), ReactorClock(HandMovedTime()), EventPersistence("here")
        )
        self.said, self.room_nid, self.room_id = connection.transact(self._make_room)
        self.newest = connection.transact(events.current_position)

    def _make_room(self, txn: Transaction) -> tuple[list[str], int, str]:
        room = self._creation.found_room(txn, SPEC_2014, ALICE, is_public=True)
        draft = EventDraft(room.room_id, "m.room.member", ALICE, {"membership": "join"}, ALICE)
        self._creation.say(txn, room, draft)
        contents = [{"msgtype": "m.text", "body": f"{n} {'x' * SIZE}"} for n in range(MESSAGES)]
        drafts = [EventDraft(room.room_id, "m.room.message", ALICE, content) for content in contents]
        said = [self._creation.say(txn, room, draft).event.event_id for draft in drafts]
        return said, room.room_nid, room.room_id

    def add_state(self, txn: Transaction, number: int) -> None:
        """Add so many large pieces of state."""
        room = rooms.head(txn, self.room_id)
        assert room is not None
        for n in range(number):
            self._creation.say(txn, room, EventDraft(self.room_id, "x", ALICE, {"x": "x" * SIZE}, f"{n}"))

    def walk(self, *, backwards: bool) -> tuple[list[str], int]:
        """All messages, page by page, and how many pages that were."""
        oldest, newest = StreamToken(0), StreamToken(self.newest)
        found: list[str] = []
        at, pages = (newest if backwards else oldest), 0
        while True:
            page = self._page(at, oldest, newest, backwards=backwards)
            assert sum(stored.size for stored in page.events[:-1]) < SOME
            found += [stored.event.event_id for stored in page.events if stored.event.type == "m.room.message"]
            pages += 1
            if not page.events:
                return found, pages
            assert page.end != at
            at = page.end

    def _page(self, at: StreamToken, oldest: StreamToken, newest: StreamToken, *, backwards: bool) -> Page:
        usual: dict[str, Any] = {"limit": 1000, "ignored": frozenset(), "remember": False}
        if backwards:
            return self.connection.transact(page_back, self.room_nid, at, oldest, most_bytes=SOME, **usual)
        return self.connection.transact(page_forward, self.room_nid, at, newest, **usual)


@pytest.fixture
def scene(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(history, "MOST_BYTES", SOME)
    monkeypatch.setattr(event_stream, "MOST_BYTES", SOME)
    return Scene(connection)


def test_pages_of_large_events_are_short_and_leave_nothing_out(scene: Scene) -> None:
    """Twenty-five clients that asked for pages of a thousand large events once took two gigabytes."""
    back, pages_back = scene.walk(backwards=True)
    assert back == scene.said[::-1]
    forward, pages_forward = scene.walk(backwards=False)
    assert forward == scene.said
    assert min(pages_back, pages_forward) > MESSAGES * SIZE / SOME / 2


def test_page_is_as_long_as_was_asked_for_where_its_events_are_few(scene: Scene) -> None:
    page = scene.connection.transact(
        page_back, scene.room_nid, StreamToken(scene.newest), StreamToken(0), 150, ignored=frozenset(), remember=False
    )
    assert [stored.event.event_id for stored in page.events] == scene.said[: MESSAGES - 151 : -1]
    assert page.is_full


def test_stream_of_large_events_comes_in_pieces_and_whole(scene: Scene) -> None:
    after, found, pieces = 0, list[str](), 0
    while after < scene.newest:
        after, told = scene.connection.transact(visible_since, ALICE, after, scene.newest, 500)
        assert sum(stored.size for stored in told[:-1]) < SOME
        found += [stored.event.event_id for stored in told if stored.event.type == "m.room.message"]
        pieces += 1
    assert found == scene.said
    assert pieces > MESSAGES * SIZE / SOME / 2


def test_state_that_is_too_large_is_refused_whole_and_shown_in_part_where_one_begins(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may set state in a room could have made the server hold gigabytes of it."""
    monkeypatch.setattr(events, "MOST_WHOLE_BYTES", SOME)
    monkeypatch.setattr(events, "LOADED_AT_ONCE", 3)
    scene.connection.transact(scene.add_state, 20)
    nids = scene.connection.transact(lambda txn: state.current(txn, scene.room_nid))
    with pytest.raises(TooLarge):
        scene.connection.transact(events.load_whole, nids)
    with pytest.raises(TooLarge):
        scene.connection.transact(lambda txn: events.pdus(txn, events.ids_of(txn, nids).values()))
    unused: Any = None
    [room] = scene.connection.transact(InitialSync(unused, unused, None)._all_rooms, ALICE, 1).joined
    assert 3 < len(room.state) < len(nids)
    assert room.state[0].event.type == "m.room.create"
    monkeypatch.setattr(events, "MOST_WHOLE_BYTES", 10 * SIZE * 20)
    assert len(scene.connection.transact(events.load_whole, nids)) == len(nids)


def test_rooms_of_an_initial_sync_share_what_there_is(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    Scene(scene.connection)
    unused: Any = None
    sync = InitialSync(unused, unused, None)
    snapshot = scene.connection.transact(sync._all_rooms, ALICE, 1000)
    sizes = sorted(room.messages.size for room in snapshot.joined)
    assert sizes[0] < 2 * SIZE
    assert SOME <= sizes[1] < SOME + 2 * SIZE
    assert [len(room.messages.events) for room in snapshot.joined].count(1) == 1
