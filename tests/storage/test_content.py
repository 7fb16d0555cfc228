"""The rows of files, copies and thumbnails, on both databases (MEDIA-1)."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from synapse_like.storage import accounts, content, migrations
from synapse_like.storage.connections import Connection
from synapse_like.storage.content import Content, Selection, Thumbnail, Usage
from synapse_like.storage.engines.engine import Engine
from synapse_like.storage.transactions import Transaction

ONE, TWO, THREE = "aa" * 32, "bb" * 32, "cc" * 32
ALICE = "@alice:here.example"

OURS = Content("", "ours", ONE, 100, "image/png", "cat.png", 1000)
COPY = Content("there.example", "theirs", TWO, 50, "image/jpeg", None, 2000)
SMALL = Thumbnail(ONE, 32, 32, "crop", THREE, 7, "image/png")


def test_uploads_of_earlier_versions_stay(engine: Engine) -> None:
    connection = Connection(engine)
    connection.transact(migrations._make_record)
    for step in migrations.steps():
        if step.number < 9:
            connection.transact(migrations._apply, step)
    connection.transact(accounts.create, ALICE, password_hash=None, now_ms=1)

    def upload_as_before(txn: Transaction) -> None:
        txn.execute(
            "INSERT INTO content (content_id, sha256, size, mimetype, user_id, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            ("old", ONE, 5, "image/png", ALICE, 77),
        )

    connection.transact(upload_as_before)
    migrations.migrate(connection)
    assert connection.transact(content.find, "", "old") == Content("", "old", ONE, 5, "image/png", None, 77)
    assert connection.transact(content.used_by, ALICE) == 5
    connection.close()


@pytest.fixture
def do(connection: Connection) -> Any:
    connection.transact(accounts.create, ALICE, password_hash=None, now_ms=1)
    return connection.transact


def add_all(do: Any) -> None:
    do(content.add, OURS, user_id=ALICE)
    do(content.add, COPY, user_id=None)
    do(content.add_thumbnail, SMALL, now_ms=3000)


def test_what_was_added_is_found(do: Any) -> None:
    add_all(do)
    assert do(content.find, "", "ours") == OURS
    assert do(content.find, "there.example", "theirs") == COPY
    assert do(content.find, "there.example", "ours") is None
    assert do(content.thumbnails_of, ONE) == [SMALL]
    assert do(content.naming, ONE) == ([OURS], [])
    assert do(content.naming, THREE) == ([], [SMALL])


def test_what_is_there_already_stays(do: Any) -> None:
    add_all(do)
    assert do(content.add, replace(COPY, sha256=THREE), user_id=None) == COPY
    assert do(content.add_thumbnail, replace(SMALL, sha256=TWO), now_ms=4000) == SMALL
    assert do(content.unnamed, {ONE, TWO, THREE}) == set()


def test_thumbnail_of_what_has_gone_is_not_recorded(do: Any) -> None:
    assert do(content.add_thumbnail, SMALL, now_ms=1) is None
    assert do(content.unnamed, {THREE}) == {THREE}


def test_thumbnails_go_with_the_last_that_has_their_bytes(do: Any) -> None:
    add_all(do)
    again = replace(OURS, content_id="again")
    do(content.add, again, user_id=ALICE)
    assert do(content.hashes_of, OURS) == {ONE, THREE}
    do(content.delete, OURS)
    assert do(content.thumbnails_of, ONE) == [SMALL]
    assert do(content.unnamed, {ONE, THREE}) == set()
    do(content.delete, again)
    assert do(content.thumbnails_of, ONE) == []
    assert do(content.unnamed, {ONE, THREE}) == {ONE, THREE}


def test_each_user_has_a_sum(do: Any) -> None:
    add_all(do)
    do(content.add, replace(OURS, content_id="again"), user_id=ALICE)
    assert do(content.used_by, ALICE) == 200
    assert do(content.used_by, "@nobody:here.example") == 0
    assert do(content.users_with_most, 5) == [(ALICE, 2, 200)]


def test_bytes_on_the_disk_count_once(do: Any) -> None:
    add_all(do)
    do(content.add, replace(OURS, content_id="again"), user_id=ALICE)
    of_copy = Thumbnail(TWO, 32, 32, "crop", "dd" * 32, 5, "image/png")
    do(content.add_thumbnail, of_copy, now_ms=1)
    assert do(content.usage, copies=False) == Usage(2, 100)
    assert do(content.usage, copies=True) == Usage(1, 50)
    assert do(content.thumbnail_usage, copies=False) == Usage(1, 7)
    assert do(content.thumbnail_usage, copies=True) == Usage(1, 5)
    assert do(content.copied_bytes) == 55
    assert do(content.sizes_by_hash, "aa") == {ONE: 100}
    assert do(content.sizes_by_hash, "") == {ONE: 100, TWO: 50, THREE: 7, "dd" * 32: 5}


def test_copies_are_sorted_by_their_last_use(do: Any) -> None:
    copies = [replace(COPY, content_id=f"copy{n}", created_at=n) for n in (1, 2, 3)]
    for copy in copies:
        do(content.add, copy, user_id=None)
    do(content.note_uses, [("there.example", "copy1", 10), ("there.example", "copy3", 2), ("there.example", "gone", 9)])
    assert [copy.content_id for copy in do(content.longest_unused, 10)] == ["copy2", "copy3", "copy1"]
    assert [copy.content_id for copy in do(content.longest_unused, 1)] == ["copy2"]


def test_selections(do: Any) -> None:
    add_all(do)
    select = partial(do, content.select)
    assert select(Selection(server="", content_id="ours")) == [OURS]
    assert select(Selection(server="*")) == [COPY]
    assert select(Selection(server="there.example")) == [COPY]
    assert select(Selection(server="elsewhere.example")) == []
    assert select(Selection(server="", user_id=ALICE)) == [OURS]
    assert select(Selection(server="", user_id=ALICE, created_before=1000)) == []
    assert select(Selection(server="*", unused_since=2001)) == [COPY]
    assert select(Selection(server="*", unused_since=2000)) == []
