"""Files that users upload and others fetch (EVS-10).

The bytes are kept in files named by their SHA-256, each once however often it is uploaded. A file is written under
another name, synced and renamed before its row is: a crash leaves no row without a file.
"""

from __future__ import annotations

import os
import re
import secrets
from hashlib import file_digest
from io import BufferedIOBase
from pathlib import Path
from shutil import copyfileobj
from tempfile import NamedTemporaryFile

from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from synapse_like.clock import Clock
from synapse_like.handlers.authentication import Requester
from synapse_like.protocol.errors import NotFound
from synapse_like.storage import content
from synapse_like.storage.content import Content as Content  # what the endpoints are given
from synapse_like.storage.database import Database

UNKNOWN_TYPE = "application/octet-stream"
_CONTENT_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
_MIMETYPE = re.compile(r"[\w.+-]{1,60}/[\w.+-]{1,60}", re.ASCII)


class ContentStore:
    """Keeps uploaded files.

    :param folder: where the bytes go; made when first needed.
    :param threads: where files are written and read.
    """

    def __init__(
        self, database: Database, clock: Clock, reactor: IReactorFromThreads, threads: ThreadPool, folder: Path
    ) -> None:
        self._database = database
        self._clock = clock
        self._reactor = reactor
        self._threads = threads
        self._folder = folder

    async def upload(self, requester: Requester, body: BufferedIOBase, mimetype: str | None) -> str:
        """Keep a file; its content ID.

        :param mimetype: the Content-Type of the upload; one that is not well-formed counts as unknown.
        """
        plain = (mimetype or "").partition(";")[0].strip().lower()
        sha256, size = await deferToThreadPool(self._reactor, self._threads, self._keep, body)
        uploaded = content.Content(
            secrets.token_urlsafe(18), sha256, size, plain if _MIMETYPE.fullmatch(plain) else UNKNOWN_TYPE
        )
        await self._database.write(
            "upload", content.add, uploaded, user_id=requester.user_id, now_ms=self._clock.now_ms()
        )
        return uploaded.content_id

    def _keep(self, body: BufferedIOBase) -> tuple[str, int]:
        """Write the bytes to their file, unless they are there; their hash and number."""
        sha256 = file_digest(body, "sha256").hexdigest()
        size = body.tell()
        body.seek(0)
        path = self._path(sha256)
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_whole(body, path)
        return sha256, size

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256[2:]

    async def find(self, content_id: str) -> tuple[Content, bytes]:
        """An uploaded file and its bytes.

        :raises NotFound: there is no such file.
        """
        found = None
        if _CONTENT_ID.fullmatch(content_id):
            found = await self._database.read("content", content.find, content_id)
        if found is None:
            raise NotFound("There is no such content.")
        data = await deferToThreadPool(self._reactor, self._threads, self._path(found.sha256).read_bytes)
        return found, data


def _write_whole(body: BufferedIOBase, path: Path) -> None:
    """Write a file wholly or not at all, so that a power cut does not undo it."""
    with NamedTemporaryFile(dir=path.parent, prefix=".unfinished-", delete=False) as file:
        try:
            copyfileobj(body, file)
            file.flush()
            os.fsync(file.fileno())
            os.rename(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
