"""Keeps or removes a file of the content repository, and dies by SIGKILL at a chosen moment in the middle of it.

    python -m tests.support.crashing CONFIG ACTION MOMENT

ACTION is `keep` or `remove`; MOMENT is `before` or `after` and the name of a step, such as `after:put`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from synapse_like.app.content import BlockingMeans
from synapse_like.config import load
from synapse_like.handlers.content_store import ContentStore
from synapse_like.storage import content
from synapse_like.storage.connections import Connection
from synapse_like.storage.content import Content
from synapse_like.storage.content_files import ContentFolder, Held, Unfinished
from synapse_like.storage.engines.opening import open_engine
from synapse_like.storage.migrations import migrate
from synapse_like.storage.transactions import Transaction

DATA = b"what is kept"
SERVER, CONTENT_ID = "there.example", "crash"

#: The steps by which files and rows change.
STEPS: dict[str, tuple[type, str]] = {
    "write": (Unfinished, "write"),
    "finish": (Unfinished, "finish"),
    "hold": (ContentFolder, "hold"),
    "put": (ContentFolder, "put"),
    "row": (BlockingMeans, "write"),
    "unlink": (ContentFolder, "remove"),
    "release": (Held, "release"),
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arrange(moment: str) -> None:
    """Have this process die at a moment."""
    when, _, step = moment.partition(":")
    owner, name = STEPS[step]
    original: Callable[..., Any] = getattr(owner, name)

    def dying(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            die()
        result = original(*args, **kwargs)
        if isinstance(result, Coroutine):
            result = finished(result)
        die()
        return result

    setattr(owner, name, dying)


def finished(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        work.send(None)
    except StopIteration as result:
        return result.value
    raise RuntimeError("it waits")


async def keep(store: ContentStore, folder: ContentFolder) -> None:
    file = folder.new_file()
    file.write(DATA)

    def record(txn: Transaction, sha256: str) -> Content:
        return content.add(txn, Content(SERVER, CONTENT_ID, sha256, file.size, "image/png", None, 1), user_id=None)

    await store.keep(file, record)


async def remove(store: ContentStore, means: BlockingMeans) -> None:
    found = await means.read("find", content.find, SERVER, CONTENT_ID)
    assert found is not None, "it must be kept first"
    await store.remove(found)


def main(config_file: str, action: str, moment: str = "never") -> None:
    """Do it.

    :param moment: `never` to live on.
    """
    config = load(Path(config_file), {})
    connection = Connection(open_engine(config.database.url, data_dir=config.data_dir, durability="full"))
    migrate(connection)
    means, folder = BlockingMeans(connection), ContentFolder(config.content_directory)
    store = ContentStore(means, folder)
    if moment != "never":
        arrange(moment)
    finished(keep(store, folder) if action == "keep" else remove(store, means))
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
