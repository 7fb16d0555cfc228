"""Keeping files and their rows together (MEDIA-1).

The one place where a file comes to stay, or goes. What it needs of the world is handed in (`Means`), so that the
operator's commands do it in just the way the server does, beside it or without it.

A crash at any point leaves at the most a mark (`storage/content_files.py`); `settle` deletes the file if no row names
it, and takes the mark away. So there is never a row without its file, nor for long a file without a row.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from msgspec import Struct

from synapse_like.logs import get_logger
from synapse_like.storage import content
from synapse_like.storage.content import Content
from synapse_like.storage.content_files import ContentFolder, Held, Unfinished
from synapse_like.storage.transactions import Transaction

P = ParamSpec("P")
Result = TypeVar("Result")

#: How long to wait for somebody who is changing the same file, in seconds, before the next look.
WAIT_SECONDS = 0.02
#: Copies that are looked at in one go when there is too much.
MOST_AT_ONCE = 20
_log = get_logger(__name__)


class Means(Protocol):
    """What it takes: the database, threads for what blocks, and time."""

    def read(
        self, name: str, function: Callable[Concatenate[Transaction, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[Result]:
        """Run a storage function in a reading transaction."""

    def write(
        self, name: str, function: Callable[Concatenate[Transaction, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[Result]:
        """Run a storage function in a writing transaction."""

    def in_thread(self, function: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[Result]:
        """Run a function that blocks."""

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Return that much later."""


class Differences(Struct):
    """In what files and rows do not agree.

    :ivar without_file: hashes that rows name and that have no file, or one of another size.
    :ivar without_row: names of files that no row names.
    """

    without_file: list[str]
    without_row: list[str]


class ContentStore:
    """Files with their rows."""

    def __init__(self, means: Means, folder: ContentFolder) -> None:
        self._means = means
        self._folder = folder

    async def keep(self, file: Unfinished, record: Callable[[Transaction, str], Result], *also: str) -> Result:
        """Let a file stay that has been written, and record it.

        :param record: writes the row, given the hash; if it raises or leaves it, the file does not stay.
        :param also: other hashes whose rows it looks at.
        :returns: what `record` returned.
        """
        sha256 = await self._means.in_thread(file.finish)
        held = await self._hold({sha256, *also})
        try:
            await self._means.in_thread(self._folder.put, file, sha256)
            return await self._means.write("record-content", record, sha256)
        finally:
            await self._settle(held)

    async def remove(self, unwanted: Content) -> int:
        """Delete a file's row; with it the smaller pictures and the bytes, where no other row names them.

        :returns: how many files went from the disk.
        """
        while True:
            hashes = await self._means.read("content-hashes", content.hashes_of, unwanted)
            held = await self._hold(hashes)
            # From here on nobody makes smaller pictures of it; somebody may have until here.
            if await self._means.read("content-hashes", content.hashes_of, unwanted) <= hashes:
                break
            await self._means.in_thread(held.give_back)
        try:
            await self._means.write("delete-content", content.delete, unwanted)
        finally:
            gone = await self._settle(held)
        return gone

    async def remove_thumbnail(self, unwanted: content.Thumbnail) -> None:
        """Delete a smaller picture."""
        held = await self._hold({unwanted.sha256})
        try:
            await self._means.write("delete-thumbnail", content.delete_thumbnail, unwanted)
        finally:
            await self._settle(held)

    async def shrink_copies(self, most_bytes: int) -> int:
        """Delete copies of other servers' files until the rest is small enough, the longest unused ones first.

        :returns: how many were deleted.
        """
        deleted = 0
        while (total := await self._means.read("copied-bytes", content.copied_bytes)) > most_bytes:
            oldest = await self._means.read("unused-copies", content.longest_unused, MOST_AT_ONCE)
            if not oldest:
                break
            for unwanted in oldest:
                await self.remove(unwanted)
                deleted += 1
                total -= unwanted.size
                if total <= most_bytes:
                    break
        return deleted

    async def settle_doubtful(self) -> int:
        """Have the rows decide about all files of which a crash has left a mark; how many files were deleted."""
        deleted = 0
        for sha256 in await self._means.in_thread(self._folder.marks):
            held = await self._means.in_thread(self._folder.hold, [sha256])
            if held is not None:
                deleted += await self._settle(held)
        return deleted

    async def tidy(self) -> None:
        """Clear away what a crash has left behind."""
        unfinished = await self._means.in_thread(self._folder.forget_unfinished)
        await self._means.in_thread(self._folder.forget_turns)
        doubtful = await self.settle_doubtful()
        if unfinished or doubtful:
            _log.info("files were cleared away that were not finished", unfinished=unfinished, without_row=doubtful)

    async def compare(self) -> Differences:
        """Compare all rows with all files. What somebody is changing meanwhile does not count."""
        found = Differences([], [])
        for number in range(256):
            shard = f"{number:02x}"
            named = await self._means.read("content-sizes", content.sizes_by_hash, shard)
            there = await self._means.in_thread(self._folder.sizes, shard)
            for name in sorted(named.keys() | there.keys()):
                if named.get(name) != there.get(name):
                    await self._look_closer(name, found)
        return found

    async def _look_closer(self, name: str, found: Differences) -> None:
        """Compare one file with its rows again, while nobody can change them."""
        held = await self._hold({name})
        try:
            size = (await self._means.read("content-sizes", content.sizes_by_hash, name)).get(name)
            there = (await self._means.in_thread(self._folder.sizes, name[:2])).get(name)
        finally:
            await self._means.in_thread(held.give_back)
        if size is None and there is not None:
            found.without_row.append(name)
        elif size != there:
            found.without_file.append(name)

    async def mend(self, found: Differences) -> None:
        """Delete files without a row, and rows without a file, as far as the file can be had again.

        What our users have uploaded cannot: it is kept in the tables, since the file may come back from a backup.
        """
        for name in found.without_row:
            await self._settle(await self._hold({name}))
        for sha256 in found.without_file:
            contents, thumbnails = await self._means.read("content-naming", content.naming, sha256)
            for thumbnail in thumbnails:
                await self.remove_thumbnail(thumbnail)
            for copy in contents:
                if copy.server:
                    await self.remove(copy)

    async def _hold(self, hashes: Collection[str]) -> Held:
        """Mark and lock hashes; waits until nobody else has one of them."""
        while True:
            held = await self._means.in_thread(self._folder.hold, sorted(hashes))
            if held is not None:
                return held
            await self._means.sleep(WAIT_SECONDS)

    async def _settle(self, held: Held) -> int:
        """Delete those of the files that no row names, and let go; how many they were.

        If the database does not answer, the marks stay for later.
        """
        try:
            unnamed = await self._means.read("content-unnamed", content.unnamed, held.hashes)
            gone = await self._means.in_thread(self._folder.remove, unnamed)
        except Exception:
            _log.exception("nobody can tell which files are still needed; they are looked at again later")
            await self._means.in_thread(held.leave)
            return 0
        await self._means.in_thread(held.release)
        return gone
