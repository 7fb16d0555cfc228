"""The files of the content repository on the disk. Everything here blocks, and belongs on a thread.

    ab/cdef…          a file, named by the SHA-256 of its bytes
    incoming/…        one that is being written; who writes holds a lock on it (flock)
    uploading/…       one of the few uploads that a user may have at a time, where several processes share the folder;
                      who uploads holds a lock on it
    fetching/…        something that is being fetched, by its name's hash; who fetches it holds a lock on it
    backup/ab/cdef…   another name of a file, while a backup is being made, so that it stays for that long
    doubtful/abcdef…  a mark: the file of this hash and the rows that name it may not agree; who is changing one of
                      them holds a lock on it

A file and its rows cannot change at the same instant. So the hash is marked before either does, and the mark is taken
away when both have. What a crash leaves is a mark without a lock, and then the rows decide whether the file stays.
Locks are the kernel's, so that they end with their process, whatever happens to it, and bind commands that run beside
the server as well as the server itself.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_HASH = re.compile(r"[0-9a-f]{64}")
_SHARD = re.compile(r"[0-9a-f]{2}")


class ContentFolder:
    """The folder of all files; made when it is first needed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / "incoming"
        self._fetching = root / "fetching"
        self._doubtful = root / "doubtful"
        self._uploading = root / "uploading"

    def _make(self, folder: Path) -> None:
        """Make a folder in ours, both for their owner alone: `parents` would let others look into ours."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)

    # Writing.

    def new_file(self) -> Unfinished:
        """Begin a file. It must be ended by `put` or `discard`."""
        self._make(self._incoming)
        return Unfinished(*_new_locked(self._incoming))

    def put(self, file: Unfinished, sha256: str) -> None:
        """Give a finished file its place. Its hash must be held."""
        path = self._path(sha256)
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(self._root)
        file.move_to(path)
        _sync_folder(path.parent)

    def remove(self, hashes: Collection[str]) -> int:
        """Delete files, if they are there; how many were. Their hashes must be held."""
        count = 0
        for sha256 in hashes:
            with suppress(FileNotFoundError):
                self._path(sha256).unlink()
                count += 1
        return count

    def turn(self, user_id: str, most: int) -> Held | None:
        """One of the uploads that a user may have at a time, with all processes together; None if there is none left.

        It must be ended by `release`.
        """
        self._make(self._uploading)
        name, held = hashlib.sha256(user_id.encode()).hexdigest(), Held()
        return held if any(held.take(self._uploading / f"{name}-{number}") for number in range(most)) else None

    # Reading.

    def open(self, sha256: str) -> int:
        """Open a file for reading; its descriptor.

        :raises FileNotFoundError: it is not there.
        """
        return os.open(self._path(sha256), os.O_RDONLY | os.O_CLOEXEC)

    def sizes(self, shard: str) -> dict[str, int]:
        """The hashes of the files that begin with two letters, and how many bytes each file has.

        What lies there under a name that no file has is given by that name.
        """
        folder = self._root / shard
        found: dict[str, int] = {}
        if folder.is_dir():
            for entry in os.scandir(folder):
                with suppress(FileNotFoundError):
                    found[shard + entry.name] = entry.stat(follow_symlinks=False).st_size
        return found

    # Backups.

    @contextmanager
    def staged(self) -> Iterator[Staged]:
        """A place where files stay, whoever deletes them meanwhile.

        :raises BlockingIOError: another backup is being made.
        """
        root = self._root / "backup"
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._root, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # What a killed backup has left.
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir(mode=0o700)
            yield Staged(self._root, root)
            shutil.rmtree(root)
        finally:
            os.close(lock)

    # Marks.

    def hold(self, hashes: Collection[str]) -> Held | None:
        """Mark hashes as doubtful and lock them, all or none; None if somebody else holds one of them."""
        self._make(self._doubtful)
        held = Held()
        for sha256 in hashes:
            if not held.take(self._doubtful / sha256):
                held.give_back()
                return None
        _sync_folder(self._doubtful)
        return held

    def hold_fetch(self, name: str) -> Held | None:
        """Be the only one who fetches something; None if another process does. It must be given back."""
        self._make(self._fetching)
        held = Held()
        return held if held.take(self._fetching / hashlib.sha256(name.encode()).hexdigest()) else None

    def marks(self) -> list[str]:
        """The hashes that are marked, sorted."""
        if not self._doubtful.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(self._doubtful) if _HASH.fullmatch(entry.name))

    def forget_unfinished(self) -> int:
        """Delete the files that were being written when their process ended; how many there were."""
        count = 0
        if self._incoming.is_dir():
            for entry in os.scandir(self._incoming):
                with suppress(FileNotFoundError):
                    descriptor = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC)
                    try:
                        if _lock(descriptor):
                            os.unlink(entry.path)
                            count += 1
                    finally:
                        os.close(descriptor)
        return count

    def forget_turns(self) -> None:
        """Take away what is left of uploads and fetches whose process has ended."""
        for folder in (self._uploading, self._fetching):
            for entry in os.scandir(folder) if folder.is_dir() else ():
                held = Held()
                if held.take(Path(entry.path)):
                    held.release()

    def unfinished(self) -> int:
        """How many files are being written, or were when their process ended."""
        return len(os.listdir(self._incoming)) if self._incoming.is_dir() else 0

    def _path(self, sha256: str) -> Path:
        return self._root / sha256[:2] / sha256[2:]


class Staged:
    """The files that stay while a backup is being made."""

    def __init__(self, root: Path, place: Path) -> None:
        self._root = root
        self._place = place

    def add_all(self) -> None:
        """Have all files stay that are there now."""
        for shard in os.scandir(self._root):
            if _SHARD.fullmatch(shard.name):
                folder = self._place / shard.name
                folder.mkdir(mode=0o700, exist_ok=True)
                for entry in os.scandir(shard.path):
                    # Deleted since the folder was read, or there already.
                    with suppress(FileNotFoundError, FileExistsError):
                        os.link(entry.path, folder / entry.name)

    def path(self, sha256: str) -> Path:
        """Where a file is, if it is there."""
        return self._place / sha256[:2] / sha256[2:]


class Unfinished:
    """A file that is being written.

    :ivar size: in bytes, so far.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path: Path | None = path
        self._descriptor = descriptor
        self._hash = hashlib.sha256()
        self.size = 0

    def fileno(self) -> int:
        """Its descriptor."""
        return self._descriptor

    def write(self, data: bytes) -> None:
        """Append to it."""
        self._hash.update(data)
        self.size += len(data)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def measure(self) -> None:
        """Learn size and hash of what another process has written into it."""
        self._hash, self.size = hashlib.sha256(), 0
        while data := os.pread(self._descriptor, 1024 * 1024, self.size):
            self._hash.update(data)
            self.size += len(data)

    def finish(self) -> str:
        """See that all of it is on the disk; the hash."""
        os.fsync(self._descriptor)
        return self._hash.hexdigest()

    def move_to(self, path: Path) -> None:
        """Let it stay, under another name."""
        assert self._path is not None, "it is moved once"
        os.replace(self._path, path)
        self._path = None
        os.close(self._descriptor)

    def discard(self) -> None:
        """Delete it, if it was not moved."""
        if self._path is not None:
            path, self._path = self._path, None
            os.unlink(path)
            os.close(self._descriptor)


class Held:
    """Hashes, or turns to upload or fetch, that are marked and locked. It must be ended by `release` or `leave`."""

    def __init__(self) -> None:
        self._marks: dict[Path, tuple[int, bool]] = {}

    @property
    def hashes(self) -> set[str]:
        return {path.name for path in self._marks}

    def take(self, path: Path) -> bool:
        """Mark and lock one more; False if somebody else has."""
        while True:
            try:
                descriptor, was_there = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), False
            except FileExistsError:
                try:
                    descriptor, was_there = os.open(path, os.O_RDWR | os.O_CLOEXEC), True
                except FileNotFoundError:
                    continue
            if not _lock(descriptor):
                os.close(descriptor)
                return False
            # Who held it before may have taken the name away since it was opened.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    self._marks[path] = (descriptor, was_there)
                    return True
            os.close(descriptor)

    def release(self) -> None:
        """File and rows agree: take the marks away."""
        self._end(lambda was_there: True)

    def give_back(self) -> None:
        """Nothing was changed: take away the marks that were not there before."""
        self._end(lambda was_there: not was_there)

    def leave(self) -> None:
        """They may not agree: let the marks stay for later."""
        self._end(lambda was_there: False)

    def _end(self, is_settled: Callable[[bool], bool]) -> None:
        while self._marks:
            path, (descriptor, was_there) = self._marks.popitem()
            if is_settled(was_there):
                path.unlink(missing_ok=True)
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file; False if somebody else has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def _new_locked(folder: Path) -> tuple[Path, int]:
    """Make a file and lock it; its path and descriptor."""
    while True:
        path = folder / secrets.token_hex(16)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if _lock(descriptor) and path.exists():
            return path, descriptor
        # Whoever tidies up has taken it for one that was left behind.
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """See that names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
