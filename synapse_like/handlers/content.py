"""The content repository: files that users upload, and copies of those of other servers (MEDIA-1, EVS-10).

What comes in, from a client or from another server, is written to the disk while it arrives. What goes out is read
while it is sent (`OpenFile`). Of another server's files a copy is fetched when it is first wanted, by one request
however many want it, of whatever process, and kept as long as there is room (`ContentStore.shrink_copies`).
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from msgspec import Struct
from twisted.internet.defer import DeferredSemaphore

from synapse_like.background import Shared
from synapse_like.byte_streams import ByteStream
from synapse_like.clock import Clock
from synapse_like.federation.client import FederationClient
from synapse_like.federation.errors import RemoteRefusal
from synapse_like.handlers.content_store import ContentStore, Means
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import Forbidden, LimitExceeded, MatrixError, NotFound, Unavailable
from synapse_like.protocol.identifiers import parse_server_name
from synapse_like.storage import content
from synapse_like.storage.content import Content as Content  # what the endpoints are given
from synapse_like.storage.content_files import ContentFolder, Unfinished
from synapse_like.storage.transactions import Transaction

UNKNOWN_TYPE = "application/octet-stream"
#: Bytes that are read from the disk at once, for each answer that is being sent.
PIECE_BYTES = 256 * 1024
#: Uploads of one user at the same time.
MOST_UPLOADS = 4
#: Files that are fetched from other servers at the same time, and how many more may wait for their turn.
MOST_FETCHES = 16
MOST_WAITING = 200
#: How often it is looked whether another process has fetched what is wanted here, too; and after how long that one is
#: not waited for any more, for it may hang; in seconds.
LOOK_SECONDS, LOOKING_SECONDS = 0.1, 60.0
#: How often it is written down which copies were used, in seconds; and how many are remembered until then.
NOTE_SECONDS = 60
MOST_NOTED = 10_000

#: How long a stopping server waits for what was coming in to be cleared away, in seconds.
STOP_SECONDS = 5

_CONTENT_ID = re.compile(r"[\w.=~-]{1,255}", re.ASCII)
_MIMETYPE = re.compile(r"[\w.+-]{1,60}/[\w.+-]{1,60}", re.ASCII)
_LONGEST_FILENAME = 255

_log = get_logger(__name__)


class Statistics(Struct):
    """What came and went, counted since the start (for the measuring programs and the metrics)."""

    uploads: int = 0
    uploaded_bytes: int = 0
    downloads: int = 0
    fetches: int = 0
    fetched_bytes: int = 0
    failed_fetches: int = 0
    deleted_copies: int = 0


class Bounds(Struct, frozen=True):
    """How much there may be, in bytes.

    :ivar user_quota: all uploads of one user; 0 for any number.
    :ivar most_copied: copies of other servers' files, with the smaller pictures of them.
    :ivar most_fetched: one file of another server.
    """

    user_quota: int
    most_copied: int
    most_fetched: int


class OpenFile:
    """A file, or a part of one, that is read piece by piece. Whoever has opened it closes it.

    :ivar length: bytes from here to the end of what is wanted.
    """

    def __init__(self, means: Means, descriptor: int, length: int) -> None:
        self._means = means
        self._descriptor = descriptor
        self._at = 0
        self._is_reading = False
        self._is_closed = False
        self.length = length

    def narrow(self, start: int, length: int) -> None:
        """Read only a part."""
        self._at, self.length = start, length

    async def read(self) -> bytes:
        """The next piece; nothing at the end, or once it is closed.

        :raises OSError: it is shorter than it should be, or cannot be read.
        """
        if self._is_closed or not self.length:
            return b""
        self._is_reading = True
        try:
            piece = await self._means.in_thread(os.pread, self._descriptor, min(self.length, PIECE_BYTES), self._at)
        finally:
            self._is_reading = False
            self._close_if_over()
        if not piece:
            raise OSError(errno.EIO, "the file has become shorter")
        self._at += len(piece)
        self.length -= len(piece)
        return piece

    @property
    def descriptor(self) -> int:
        return self._descriptor

    def close(self) -> None:
        """Read no more."""
        if not self._is_closed:
            self._is_closed = True
            self._close_if_over()

    def _close_if_over(self) -> None:
        # A descriptor that is closed while a thread reads may be another file's before it has read.
        if self._is_closed and not self._is_reading:
            os.close(self._descriptor)


class ContentRepository:
    """Takes, finds and fetches files.

    :param server_name: ours.
    :param client: asks other servers; None if there are none.
    :param is_shared: whether other processes take uploads, and fetch files, too.
    """

    def __init__(
        self,
        means: Means,
        folder: ContentFolder,
        store: ContentStore,
        clock: Clock,
        client: FederationClient | None,
        server_name: str,
        bounds: Bounds,
        *,
        is_shared: bool = False,
    ) -> None:
        self._is_shared = is_shared
        self._means = means
        self._folder = folder
        self._store = store
        self._clock = clock
        self._client = client
        self._server_name = server_name
        self._bounds = bounds
        self._uploading: Counter[str] = Counter()
        self._fetches = DeferredSemaphore(MOST_FETCHES)
        self._fetching: Shared[tuple[str, str], Content] = Shared()
        self._used: dict[tuple[str, str], int] = {}
        self._incoming: set[ByteStream] = set()
        self.statistics = Statistics()

    # Uploading.

    async def upload(self, user_id: str, body: ByteStream, mimetype: str | None, filename: str | None) -> str:
        """Keep a file that a user sends; its content ID.

        :param mimetype: the Content-Type of the upload; one that is not well-formed counts as unknown.
        :raises Forbidden: the user's quota is used up.
        :raises LimitExceeded: the user uploads too much at the same time.
        """
        async with self._one_of_few_uploads(user_id):
            # Before anything of it is read, as far as one can tell.
            await self._means.read("content-quota", self._check_quota, user_id, body.length or 0)

            def record(txn: Transaction, sha256: str) -> Content:
                self._check_quota(txn, user_id, file.size)
                uploaded = self._content("", secrets.token_urlsafe(18), sha256, file.size, mimetype, filename)
                return content.add(txn, uploaded, user_id=user_id)

            with disk_may_be_full():
                async with self._coming_in(body) as file:
                    uploaded = await self._store.keep(file, record)
        self.statistics.uploads += 1
        self.statistics.uploaded_bytes += uploaded.size
        return uploaded.content_id

    @asynccontextmanager
    async def _one_of_few_uploads(self, user_id: str) -> AsyncIterator[None]:
        too_many = LimitExceeded(f"No more than {MOST_UPLOADS} uploads at the same time.", 1000)
        if self._uploading[user_id] >= MOST_UPLOADS:
            raise too_many
        self._uploading[user_id] += 1
        try:
            if not self._is_shared:
                yield
                return
            turn = await self._means.in_thread(self._folder.turn, user_id, MOST_UPLOADS)
            if turn is None:
                raise too_many
            try:
                yield
            finally:
                await self._means.in_thread(turn.release)
        finally:
            self._uploading[user_id] -= 1
            if not self._uploading[user_id]:
                del self._uploading[user_id]

    def _check_quota(self, txn: Transaction, user_id: str, size: int) -> None:
        quota = self._bounds.user_quota
        if quota and content.used_by(txn, user_id) + size > quota:
            raise Forbidden(f"With this file your uploads would have more than the {quota} bytes that they may have.")

    @asynccontextmanager
    async def _coming_in(self, body: ByteStream) -> AsyncIterator[Unfinished]:
        """Write what comes in to a file, which does not stay unless it is kept."""
        self._incoming.add(body)
        try:
            file = await self._means.in_thread(self._folder.new_file)
            try:
                while piece := await body.read():
                    await self._means.in_thread(file.write, piece)
                yield file
            finally:
                await self._means.in_thread(file.discard)
        finally:
            self._incoming.discard(body)

    def _content(
        self, server: str, content_id: str, sha256: str, size: int, mimetype: str | None, filename: str | None
    ) -> Content:
        plain = (mimetype or "").partition(";")[0].strip().lower()
        known = plain if _MIMETYPE.fullmatch(plain) else UNKNOWN_TYPE
        name = "".join(letter for letter in filename or "" if letter.isprintable())[:_LONGEST_FILENAME]
        return Content(server, content_id, sha256, size, known, name or None, self._clock.now_ms())

    # Finding.

    async def find(self, server: str, content_id: str, *, fetch: bool = True) -> Content:
        """A file, fetched from its server if there is no copy of it.

        :param fetch: False to look only at what is here.
        :raises NotFound: there is no such file.
        :raises MatrixError: its server did not give it.
        """
        server = parse_server_name(server)
        own = server == self._server_name
        found = None
        if _CONTENT_ID.fullmatch(content_id):
            found = await self._means.read("content", content.find, "" if own else server, content_id)
            if found is None and fetch and not own:
                found = await self._fetch(server, content_id)
        if found is None:
            raise _no_such_content()
        if not own:
            self._note_use(server, content_id)
        return found

    async def open(self, found: Content) -> OpenFile:
        """Open a file that was found.

        :raises NotFound: it is not on the disk any more.
        """
        try:
            opened = await self._open(found.sha256, found.size)
        except FileNotFoundError as error:
            if not found.server:
                # It may have been purged just now. If not, somebody has to be told.
                if await self._means.read("content", content.find, "", found.content_id) is not None:
                    _log.error("the file of an upload is not there", sha256=found.sha256)
                raise _no_such_content() from error
            # The copy was deleted since it was found, or its file was lost.
            await self._store.remove(found)
            again = await self._fetch(found.server, found.content_id)
            try:
                opened = await self._open(again.sha256, again.size)
            except FileNotFoundError:
                raise Unavailable("This file was deleted just now. Please try again.") from error
        self.statistics.downloads += 1
        return opened

    async def open_thumbnail(self, thumbnail: content.Thumbnail) -> OpenFile:
        """Open a smaller picture.

        :raises FileNotFoundError: it is not there.
        """
        return await self._open(thumbnail.sha256, thumbnail.size)

    async def _open(self, sha256: str, size: int) -> OpenFile:
        return OpenFile(self._means, await self._means.in_thread(self._folder.open, sha256), size)

    def _note_use(self, server: str, content_id: str) -> None:
        self._used[server, content_id] = self._clock.now_ms()
        if len(self._used) > MOST_NOTED:
            del self._used[next(iter(self._used))]

    async def note_uses(self) -> None:
        """Write down which copies were used, and when."""
        used, self._used = self._used, {}
        if used:
            rows = [(server, content_id, now_ms) for (server, content_id), now_ms in used.items()]
            await self._means.write("content-used", content.note_uses, rows)

    async def stop(self) -> None:
        """Take nothing more of what is coming in, and let it be cleared away; write down what was used."""
        for body in list(self._incoming):
            body.fail(Unavailable("The server is stopping."))
        deadline = self._clock.monotonic() + STOP_SECONDS
        while self._incoming and self._clock.monotonic() < deadline:
            await self._clock.sleep(0.02)
        await self.note_uses()

    # Fetching.

    async def _fetch(self, server: str, content_id: str) -> Content:
        client = self._client
        if client is None:
            raise _no_such_content()
        return await self._fetching.do((server, content_id), lambda: self._fetch_in_turn(client, server, content_id))

    async def _fetch_in_turn(self, client: FederationClient, server: str, content_id: str) -> Content:
        if len(self._fetches.waiting) >= MOST_WAITING:
            raise Unavailable("Too many files of other servers are being fetched. Please try again later.")
        await self._fetches.acquire()
        try:
            with disk_may_be_full():
                if self._is_shared:
                    fetched = await self._fetch_once(client, server, content_id)
                else:
                    fetched = await self._fetch_now(client, server, content_id)
        except MatrixError:
            self.statistics.failed_fetches += 1
            raise
        finally:
            self._fetches.release()
        # So that this one, which was used last, is not the first to go.
        self._note_use(server, content_id)
        await self.note_uses()
        self.statistics.deleted_copies += await self._store.shrink_copies(self._bounds.most_copied)
        return fetched

    async def _fetch_once(self, client: FederationClient, server: str, content_id: str) -> Content:
        """Fetch a file, or wait for another process that does; if that fails, it is our turn."""
        patience_ends = self._clock.monotonic() + LOOKING_SECONDS
        while (turn := await self._means.in_thread(self._folder.hold_fetch, f"{server}/{content_id}")) is None:
            if self._clock.monotonic() >= patience_ends:
                return await self._fetch_now(client, server, content_id)
            await self._clock.sleep(LOOK_SECONDS)
        try:
            found = await self._means.read("content", content.find, server, content_id)
            return found or await self._fetch_now(client, server, content_id)
        finally:
            await self._means.in_thread(turn.release)

    async def _fetch_now(self, client: FederationClient, server: str, content_id: str) -> Content:
        def record(txn: Transaction, sha256: str) -> Content:
            copy = self._content(server, content_id, sha256, file.size, answer.mimetype, answer.filename)
            return content.add(txn, copy, user_id=None)

        try:
            async with (
                client.content(server, content_id, most_bytes=self._bounds.most_fetched) as answer,
                self._coming_in(answer.body) as file,
            ):
                fetched = await self._store.keep(file, record)
        except RemoteRefusal as error:
            if error.status == 404:
                raise _no_such_content() from error
            raise
        self.statistics.fetches += 1
        self.statistics.fetched_bytes += fetched.size
        return fetched


@contextmanager
def disk_may_be_full() -> Iterator[None]:
    """Tell whoever sends a file that there is no room for it.

    :raises Unavailable: so it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Unavailable("The server has no room for more files at the moment.", reason=str(error)) from error


def _no_such_content() -> NotFound:
    return NotFound("There is no such content.")
