"""Smaller pictures of pictures (MEDIA-1).

What a stranger calls a picture is opened by no one but a process that can do nothing else (`thumbnail_process.py`), for
one picture each, a few at a time. What comes out is kept like any other file, by the hash of the picture it is of, so
that two uploads of the same bytes share it. A picture that could not be made smaller is not tried again for a while.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import orjson
from cachetools import TTLCache
from msgspec import Struct
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from synapse_like.background import Shared
from synapse_like.clock import Clock
from synapse_like.handlers.content import Content, ContentRepository, OpenFile, disk_may_be_full
from synapse_like.handlers.content_store import ContentStore, Means
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import BadParam, MatrixError, NotFound, TooLarge, Unavailable
from synapse_like.storage import content
from synapse_like.storage.content import Thumbnail as Thumbnail  # what the endpoints are given
from synapse_like.storage.content_files import ContentFolder, Unfinished
from synapse_like.storage.transactions import Transaction

Method = Literal["scale", "crop"]

#: Smaller pictures that wait to be made.
MOST_WAITING = 100
#: For how long a picture is not tried again that could not be made smaller, in seconds; how many are remembered.
HOPELESS_SECONDS = 3600
MOST_HOPELESS = 10_000
#: Where any size may be asked for: the largest side, what sides are rounded up to, and how many pictures are kept of
#: each picture. The one made first gives way.
LARGEST_SIDE = 1600
STEP = 16
MOST_KEPT = 16
#: Bytes of what the process says.
MOST_SAID = 4096

_PROGRAM = Path(__file__).with_name("thumbnail_process.py")

_log = get_logger(__name__)


class Bounds(Struct, frozen=True):
    """What making one smaller picture may take.

    :ivar pixels: that the picture may have.
    :ivar memory: in bytes.
    :ivar cpu_seconds: of processor time.
    :ivar seconds: from its start to its end.
    :ivar processes: at the same time.
    """

    pixels: int
    memory: int
    cpu_seconds: int
    seconds: float
    processes: int


class _Said(TypedDict, total=False):
    mimetype: str
    fault: str
    message: str
    reason: str


class Thumbnails:
    """Finds or makes smaller pictures.

    :param reactor: Twisted's reactor, which starts processes.
    :param sizes: (width, height) of those that are made; none for any that is asked for.
    """

    def __init__(
        self,
        means: Means,
        folder: ContentFolder,
        store: ContentStore,
        repository: ContentRepository,
        clock: Clock,
        reactor: Any,
        bounds: Bounds,
        sizes: Sequence[tuple[int, int]],
    ) -> None:
        self._means = means
        self._folder = folder
        self._store = store
        self._repository = repository
        self._clock = clock
        self._reactor = reactor
        self._bounds = bounds
        self._sizes = sorted(sizes, key=lambda size: size[0] * size[1])
        self._free = DeferredSemaphore(bounds.processes)
        self._making: Shared[tuple[str, int, int, Method], Thumbnail] = Shared()
        self._hopeless: TTLCache[str, tuple[type[TooLarge | _Hopeless], str]] = TTLCache(
            MOST_HOPELESS, HOPELESS_SECONDS, clock.monotonic
        )
        #: How many were made since the start, and how many could not be.
        self.made = 0
        self.failed = 0

    async def get(self, found: Content, width: int, height: int, method: Method) -> Thumbnail:
        """A smaller picture.

        It is at least as large as what is asked for, unless the picture itself is smaller or no such size is made.

        :param width, height: of what the picture is to fit into, or to fill (`crop`).
        :raises TooLarge: the picture is too large for it.
        :raises MatrixError: it is broken, or no picture.
        """
        if not found.mimetype.startswith("image/"):
            raise _Hopeless("This is not a picture.")
        width, height = self._size(width, height)
        for known in await self._means.read("thumbnails", content.thumbnails_of, found.sha256):
            if (known.width, known.height, known.method) == (width, height, method):
                return known
        key = (found.sha256, width, height, method)
        return await self._making.do(key, lambda: self._make(found, width, height, method))

    async def open(self, thumbnail: Thumbnail) -> OpenFile:
        """Open the file of a smaller picture.

        :raises NotFound: it is not on the disk any more; when it is next asked for, it is made again.
        """
        try:
            return await self._repository.open_thumbnail(thumbnail)
        except FileNotFoundError as error:
            await self._store.remove_thumbnail(thumbnail)
            raise _gone() from error

    def _size(self, width: int, height: int) -> tuple[int, int]:
        """The size that is made for what is asked for."""
        if not self._sizes:
            return _rounded(width), _rounded(height)
        for size in self._sizes:
            if size[0] >= width and size[1] >= height:
                return size
        return self._sizes[-1]

    async def _make(self, found: Content, width: int, height: int, method: Method) -> Thumbnail:
        hopeless = self._hopeless.get(found.sha256)
        if hopeless is not None:
            kind, message = hopeless
            raise kind(message)
        if len(self._free.waiting) >= MOST_WAITING:
            raise Unavailable("Too many pictures are being made smaller. Please try again later.")
        await self._free.acquire()
        try:
            with disk_may_be_full():
                made = await self._make_now(found, width, height, method)
        except (TooLarge, _Hopeless) as error:
            self.failed += 1
            self._hopeless[found.sha256] = type(error), error.message
            raise
        finally:
            self._free.release()
        self.made += 1
        await self._keep_few(found)
        return made

    async def _make_now(self, found: Content, width: int, height: int, method: Method) -> Thumbnail:
        def record(txn: Transaction, sha256: str) -> Thumbnail | None:
            thumbnail = Thumbnail(found.sha256, width, height, method, sha256, file.size, said["mimetype"])
            return content.add_thumbnail(txn, thumbnail, now_ms=self._clock.now_ms())

        source = await self._repository.open(found)
        try:
            file = await self._means.in_thread(self._folder.new_file)
            try:
                said = await self._run(source, file, width, height, method)
                await self._means.in_thread(file.measure)
                made = await self._store.keep(file, record, found.sha256)
            finally:
                await self._means.in_thread(file.discard)
        finally:
            source.close()
        if made is None:
            raise _gone()
        return made

    async def _run(self, source: OpenFile, target: Unfinished, width: int, height: int, method: Method) -> _Said:
        """Have a process do it; what it has said."""
        bounds = self._bounds
        numbers = map(str, (width, height, bounds.pixels, bounds.memory, bounds.cpu_seconds))
        process = _Process()
        transport = self._reactor.spawnProcess(
            process,
            sys.executable,
            [sys.executable, "-I", str(_PROGRAM), method, *numbers],
            env={},
            path="/",
            childFDs={0: source.descriptor, 1: target.fileno(), 2: "r"},
        )

        def kill() -> None:
            try:
                transport.signalProcess("KILL")
            except ProcessExitedAlready:
                _log.debug("the process ended just when its time was over")

        too_long = self._clock.call_later(bounds.seconds, kill)
        signal = await process.ended
        if too_long.active():
            too_long.cancel()
        elif signal is not None:
            # It has not used up its processor time; the machine is busy, and the picture may be a good one.
            raise Unavailable("To make this picture smaller takes too long at the moment. Please try again later.")
        return _read(process.said, signal)

    async def _keep_few(self, found: Content) -> None:
        """Delete the smaller pictures of a picture that were made first, if any size may be asked for."""
        if not self._sizes:
            for thumbnail in (await self._means.read("thumbnails", content.thumbnails_of, found.sha256))[:-MOST_KEPT]:
                await self._store.remove_thumbnail(thumbnail)


class _Hopeless(MatrixError):
    """This picture cannot be made smaller."""

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(400, "M_UNKNOWN", message, reason=reason)


class _Process(ProcessProtocol):
    """Listens to the process.

    :ivar ended: fires with the signal that ended it, or None.
    """

    def __init__(self) -> None:
        self.said = b""
        self.ended: Deferred[int | None] = Deferred()

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803 - Twisted's names
        if len(self.said) < MOST_SAID:
            self.said += data

    def processEnded(self, reason: Failure) -> None:  # noqa: N802 - Twisted's name
        self.ended.callback(getattr(reason.value, "signal", None))


def _read(said: bytes, signal: int | None) -> _Said:
    """What the process has said.

    :raises TooLarge: the picture takes more than it may.
    :raises OSError: the disk is full.
    :raises _Hopeless: there is something else wrong with it.
    """
    if signal is not None:
        raise TooLarge(
            "It takes too long to make this picture smaller.", reason=f"the process ended by signal {signal}"
        )
    try:
        told: _Said = orjson.loads(said)
    except orjson.JSONDecodeError:
        # What the interpreter says when it cannot go on, for want of memory for instance.
        reason = said.decode("utf-8", "replace")[-500:]
        raise _Hopeless("This picture cannot be made smaller.", reason) from None
    if "fault" not in told:
        return told
    match told["fault"]:
        case "too-large":
            raise TooLarge(told["message"])
        case "no-room":
            raise OSError(errno.ENOSPC, told["message"])
    raise _Hopeless(told["message"], told.get("reason"))


def _rounded(side: int) -> int:
    return min(-(-side // STEP) * STEP, LARGEST_SIDE)


def method_of(name: str) -> Method:
    """A method by its name.

    :raises BadParam: there is no such.
    """
    match name:
        case "scale" | "crop":
            return name
    raise BadParam("The parameter method must be scale or crop.")


def _gone() -> NotFound:
    return NotFound("There is no such content.")
