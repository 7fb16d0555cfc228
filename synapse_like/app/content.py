"""The content repository, put together: for the server, and for the commands that look after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from synapse_like.app.parts import connect
from synapse_like.background import Repeating, every
from synapse_like.clock import ReactorClock
from synapse_like.config import Config
from synapse_like.federation.client import FederationClient
from synapse_like.handlers.content import NOTE_SECONDS, Bounds, ContentRepository
from synapse_like.handlers.content_store import ContentStore
from synapse_like.handlers.thumbnails import Bounds as ThumbnailBounds
from synapse_like.handlers.thumbnails import Thumbnails
from synapse_like.protocol.errors import BadParam, NotFound
from synapse_like.protocol.identifiers import local_part_for_registration, parse_server_name
from synapse_like.storage import content as rows
from synapse_like.storage.connections import Connection
from synapse_like.storage.content import Selection
from synapse_like.storage.content_files import ContentFolder
from synapse_like.storage.database import Database
from synapse_like.storage.transactions import Transaction

P = ParamSpec("P")
Result = TypeVar("Result")

#: How often what crashes have left is looked for, in seconds.
TIDY_SECONDS = 600
DAY_MS = 24 * 3600 * 1000
#: Users that `status` names.
MOST_USERS = 10


class ContentParts(Struct):
    """What makes up the content repository of a running server."""

    repository: ContentRepository
    thumbnails: Thumbnails
    store: ContentStore
    tasks: list[Repeating]
    most_copied: int

    async def start(self) -> None:
        """Clear away what the last run has left, and what is too much by the settings of today."""
        await self.store.tidy()
        await self.store.shrink_copies(self.most_copied)


class _ServerMeans:
    """Does what blocks on threads."""

    def __init__(self, database: Database, reactor: Any, threads: ThreadPool, clock: ReactorClock) -> None:
        self.read = database.read
        self.write = database.write
        self.sleep = clock.sleep
        self._reactor = reactor
        self._threads = threads

    def in_thread(self, function: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[Result]:
        return deferToThreadPool(self._reactor, self._threads, function, *args, **kwargs)


def make_content(
    config: Config,
    reactor: Any,
    clock: ReactorClock,
    database: Database,
    threads: ThreadPool,
    client: FederationClient,
) -> ContentParts:
    """Put together the content repository.

    :param threads: where files are read and written.
    :param client: fetches other servers' files.
    """
    settings = config.content
    means = _ServerMeans(database, reactor, threads, clock)
    folder = ContentFolder(config.content_directory)
    store = ContentStore(means, folder)
    repository = ContentRepository(
        means,
        folder,
        store,
        clock,
        client if config.federation.enabled else None,
        config.server_name,
        Bounds(settings.user_quota, settings.remote_cache_size, settings.max_remote_size),
        is_shared=database.is_shared,
    )
    bounds = ThumbnailBounds(
        settings.max_image_pixels,
        settings.thumbnail_memory,
        settings.thumbnail_cpu_time,
        settings.thumbnail_timeout,
        settings.thumbnail_processes,
    )
    thumbnails = Thumbnails(means, folder, store, repository, clock, reactor, bounds, settings.made_sizes)
    tasks = [
        every(clock, "note-used-content", NOTE_SECONDS, repository.note_uses),
        every(clock, "tidy-content", TIDY_SECONDS, store.tidy),
    ]
    return ContentParts(repository, thumbnails, store, tasks, settings.remote_cache_size)


# What the commands do, whether the server runs at the moment or not.


class BlockingMeans:
    """Does everything at once, on this thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def read(
        self, name: str, function: Callable[Concatenate[Transaction, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        txn = self._connection.begin(writable=False)
        try:
            return function(txn, *args, **kwargs)
        finally:
            self._connection.roll_back(txn)

    async def write(
        self, name: str, function: Callable[Concatenate[Transaction, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        return self._connection.transact(function, *args, **kwargs)

    async def in_thread(self, function: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Result:
        return function(*args, **kwargs)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@contextmanager
def _opened(config: Config) -> Iterator[tuple[BlockingMeans, ContentFolder, Connection]]:
    connection = connect(config)
    try:
        yield BlockingMeans(connection), ContentFolder(config.content_directory), connection
    finally:
        connection.close()


def do_at_once(work: Coroutine[Any, Any, Result]) -> Result:
    """Run what never waits, such as all that has only `BlockingMeans`."""
    try:
        work.send(None)
    except StopIteration as result:
        value: Result = result.value
        return value
    work.close()
    raise RuntimeError("something waits in a command")


def media_status(config: Config) -> str:
    """How many files there are, and how large they are, in lines.

    :raises StartError: the database cannot be opened.
    """

    def look(txn: Transaction) -> list[str]:
        ours, copies = rows.usage(txn, copies=False), rows.usage(txn, copies=True)
        small, small_copies = rows.thumbnail_usage(txn, copies=False), rows.thumbnail_usage(txn, copies=True)
        table = [
            ("uploads", ours),
            ("thumbnails of uploads", small),
            ("copies of other servers' files", copies),
            ("thumbnails of copies", small_copies),
        ]
        lines = [f"{name:<32}{usage.count:>10}{usage.bytes:>18,} bytes" for name, usage in table]
        share = copies.bytes + small_copies.bytes
        lines.append(f"{'of remote_cache_size':<32}{share / config.content.remote_cache_size:>10.0%}")
        for user_id, count, size in rows.users_with_most(txn, MOST_USERS):
            lines.append(f"{user_id:<32}{count:>10}{size:>18,} bytes")
        return lines

    with _opened(config) as (means, folder, _):
        lines = do_at_once(means.read("content-status", look))
        lines.append(f"{'being written':<32}{folder.unfinished():>10}")
        lines.append(f"{'in doubt':<32}{len(folder.marks()):>10}")
    return "\n".join(lines)


def media_purge(config: Config, wanted: list[str], *, user: str | None, copies: bool, days: float | None) -> str:
    """Delete files; a sentence about what was deleted.

    :param wanted: `mxc://` URIs of single files, or names of servers.
    :param user: all that this user has uploaded.
    :param copies: all copies of other servers' files.
    :param days: of those, only what is older than that; of copies, what was not used for so long.
    :raises StartError: the database cannot be opened.
    :raises MatrixError: single files were named, and none is there.
    """
    before = None if days is None else int(time.time() * 1000 - days * DAY_MS)
    selections = [_selection(config, word, before) for word in wanted]
    if user is not None:
        user_id = f"@{local_part_for_registration(user, config.server_name)}:{config.server_name}"
        selections.append(Selection(server="", user_id=user_id, created_before=before))
    if copies:
        selections.append(Selection(server="*", unused_since=before))
    count = files = 0
    with _opened(config) as (means, folder, connection):
        store = ContentStore(means, folder)
        for selection in selections:
            for unwanted in do_at_once(means.read("content-selection", rows.select, selection)):
                files += do_at_once(store.remove(unwanted))
                count += 1
        connection.engine.forget_deleted(connection.raw)
    if count:
        return f"Purged {count} uploads or copies, with {files} files on the disk, thumbnails included."
    if user is None and not copies and all(word.startswith("mxc://") for word in wanted):
        raise NotFound("There is no such content.")
    # A job that clears away what is old every night has done well when there is nothing.
    return "There was nothing to purge."


def _selection(config: Config, word: str, before: int | None) -> Selection:
    """What is meant by a URI or the name of a server."""
    if not word.startswith("mxc://"):
        server = parse_server_name(word)
        if server == config.server_name:
            raise BadParam("To delete what was uploaded here, name a user or single files.")
        return Selection(server=server, unused_since=before)
    server, slash, content_id = word.removeprefix("mxc://").partition("/")
    if not slash or not content_id:
        raise BadParam(f"{word} is not the URI of a file: mxc://server/id")
    server = parse_server_name(server)
    return Selection("" if server == config.server_name else server, content_id)


def media_reconcile(config: Config, *, repair: bool) -> tuple[str, bool]:
    """Compare the tables with the disk; what is wrong, in lines, and whether anything is wrong still.

    :param repair: delete files without a row, and forget copies and thumbnails without a file.
    :raises StartError: the database cannot be opened.
    """
    with _opened(config) as (means, folder, _):
        store = ContentStore(means, folder)
        do_at_once(store.tidy())
        found = do_at_once(store.compare())
        if repair and (found.without_file or found.without_row):
            do_at_once(store.mend(found))
            found = do_at_once(store.compare())
    lines = [f"no row for the file {name}" for name in found.without_row]
    lines += [f"no file, or a damaged one, for {sha256}" for sha256 in found.without_file]
    return "\n".join(lines) or "Files and tables agree.", bool(lines)
