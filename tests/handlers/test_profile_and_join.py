"""A profile that changes in one process while its user joins a room in another (PROF-2)."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from signedjson.key import generate_signing_key
from twisted.internet.task import Clock as HandMovedTime

from synapse_like.clock import ReactorClock
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.handlers.profile_changes import ProfileChanges
from synapse_like.protocol.events import EventDraft
from synapse_like.protocol.room_versions import V1
from synapse_like.storage import accounts, profiles, rooms
from synapse_like.storage.profiles import ProfileField
from synapse_like.storage.transactions import Transaction
from tests.storage.test_sharing import Process, prepare
from tests.support.postgres import PostgreSQL

ALICE = "@alice:here"


@pytest.fixture
def processes(postgresql: PostgreSQL) -> Iterator[list[Process]]:
    with postgresql.database() as url:
        prepare(url)
        made = [Process(url), Process(url)]
        yield made
        for process in made:
            process.database.stop()


def test_the_room_has_the_new_name(processes: list[Process]) -> None:
    one, two = processes
    creation = EventCreation("here", generate_signing_key("1"), ReactorClock(HandMovedTime()), EventPersistence("here"))
    changes = ProfileChanges(one.database, one.bus, creation)
    entered, let_go = threading.Event(), threading.Event()

    def make(txn: Transaction) -> str:
        accounts.create(txn, ALICE, password_hash=None, now_ms=1)
        return creation.found_room(txn, V1, ALICE, is_public=True).room_id

    def rename(txn: Transaction) -> None:
        profiles.put(txn, ALICE, ProfileField("displayname", "Alice", "public"))
        changes.begin(txn, ALICE)
        entered.set()
        assert let_go.wait(30)

    def join(txn: Transaction) -> object:
        tries.append(1)
        room = rooms.head(txn, room_id)
        assert room is not None
        draft = EventDraft(room_id, "m.room.member", ALICE, {"membership": "join"}, ALICE)
        return creation.say(txn, room, draft).event.content

    room_id, tries = one.result(one.database.write("make", make)), list[int]()
    renamed = one.database.write("rename", rename)
    assert entered.wait(30)
    joined = two.database.write_to_room(room_id, "join", join)
    # Its first try is over when the next job is done.
    assert two.result(two.database.write_to_room("!other:here", "other", lambda txn: "done")) == "done"
    let_go.set()
    one.result(renamed)
    assert two.result(joined) == {"membership": "join", "displayname": "Alice"}
    assert len(tries) == 2
