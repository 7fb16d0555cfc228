"""A file of another server is fetched once, however many processes it is wanted of (MEDIA-1)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as HandMovedTime

from synapse_like.app.content import BlockingMeans
from synapse_like.byte_streams import ByteStream
from synapse_like.clock import ReactorClock
from synapse_like.federation.client import IncomingFile
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.handlers.content import LOOK_SECONDS, LOOKING_SECONDS, Bounds, ContentRepository
from synapse_like.handlers.content_store import ContentStore
from synapse_like.storage.connections import Connection
from synapse_like.storage.content import Content
from synapse_like.storage.content_files import ContentFolder

THERE = "there.example"


class Process:
    """One of those that share a folder; what it asks other servers for comes when the test says so."""

    def __init__(self, connection: Connection, folder: Path, time: HandMovedTime) -> None:
        means, files = BlockingMeans(connection), ContentFolder(folder)
        client: Any = self
        self.bodies: list[ByteStream] = []
        self.found: list[Content] = []
        self.failed: list[Any] = []
        self.repository = ContentRepository(
            means,
            files,
            ContentStore(means, files),
            ReactorClock(time),
            client,
            "here.example",
            Bounds(0, 10**9, 10**9),
            is_shared=True,
        )

    @asynccontextmanager
    async def content(self, _server: str, _content_id: str, *, most_bytes: int) -> AsyncIterator[IncomingFile]:
        self.bodies.append(ByteStream(lambda: None, lambda: None))
        yield IncomingFile("text/plain", None, self.bodies[-1])

    def want(self) -> None:
        wanted = Deferred.fromCoroutine(self.repository.find(THERE, "file"))
        wanted.addCallbacks(self.found.append, self.failed.append)

    def come(self) -> None:
        """What was asked for comes."""
        self.bodies[-1].push(b"data")
        self.bodies[-1].end()


@pytest.fixture
def time() -> HandMovedTime:
    return HandMovedTime()


@pytest.fixture
def processes(connection: Connection, tmp_path: Path, time: HandMovedTime) -> tuple[Process, Process]:
    """Two, of which both want the same file, the first one first."""
    one, two = (Process(connection, tmp_path / "content", time) for _ in range(2))
    one.want()
    two.want()
    return one, two


def test_who_comes_second_waits_for_what_the_first_fetches(
    processes: tuple[Process, Process], time: HandMovedTime
) -> None:
    one, two = processes
    time.advance(LOOK_SECONDS)
    assert (len(one.bodies), len(two.bodies), two.found) == (1, 0, [])
    one.come()
    time.advance(LOOK_SECONDS)
    assert one.found == two.found != []
    assert two.bodies == []
    assert (one.repository.statistics.fetches, two.repository.statistics.fetches) == (1, 0)


def test_if_the_first_fails_the_second_tries(processes: tuple[Process, Process], time: HandMovedTime) -> None:
    one, two = processes
    one.bodies[0].fail(ServerUnreachable(THERE, "it took too long"))
    assert len(one.failed) == 1
    time.advance(LOOK_SECONDS)
    two.come()
    assert len(two.found) == 1


def test_one_that_hangs_is_not_waited_for_for_ever(processes: tuple[Process, Process], time: HandMovedTime) -> None:
    one, two = processes
    for _ in range(int(LOOKING_SECONDS / LOOK_SECONDS) + 1):
        time.advance(LOOK_SECONDS)
    two.come()
    assert len(two.found) == 1
    one.come()
    assert [found.sha256 for found in one.found] == [two.found[0].sha256]


def test_what_a_killed_process_was_fetching_leaves_nothing(tmp_path: Path) -> None:
    folder = ContentFolder(tmp_path / "content")
    left = tmp_path / "content" / "fetching" / "left"
    held = folder.hold_fetch("a")
    assert held is not None
    assert folder.hold_fetch("a") is None
    left.touch()
    folder.forget_turns()
    assert not left.exists()
    assert folder.hold_fetch("a") is None
    held.release()
    again = folder.hold_fetch("a")
    assert again is not None
    again.release()
    assert list(left.parent.iterdir()) == []
