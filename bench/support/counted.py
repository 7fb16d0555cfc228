"""A server that tells what it has asked of its database: `python -m bench.support.counted CONFIG`.

It is the server of `synapse_like run`, put together by the same `app`. At SIGUSR1 it writes a line of JSON
to standard output: the fields of `Counts`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from synapse_like import logs
from synapse_like.app.service import HomeServerService
from synapse_like.config import load


@dataclass(frozen=True)
class Counts:
    """What was asked of the database since the start.

    :ivar statements: those of SQL, without BEGIN, COMMIT and ROLLBACK.
    :ivar commits: transactions that changed something.
    :ivar jobs: functions handed over to the writing thread.
    :ivar reads: functions handed over to the reading threads.
    :ivar returns: calls from other threads back to the reactor's.
    """

    statements: int
    commits: int
    jobs: int
    reads: int
    returns: int


def main() -> None:
    """Serve until killed."""
    from twisted.internet import reactor

    loop: Any = reactor
    config = load(Path(sys.argv[1]), os.environ)
    logs.configure(config.log.format, config.log.level)
    returns = 0
    call_from_thread = loop.callFromThread

    def call_from_thread_counted(function: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal returns
        returns += 1
        call_from_thread(function, *args, **kwargs)

    loop.callFromThread = call_from_thread_counted
    service = HomeServerService(config, loop, lambda _: None)
    service.startService()
    loop.addSystemEventTrigger("before", "shutdown", service.stopService)
    assert service.server is not None
    database = service.server.database

    def tell(*_: object) -> None:
        so_far = database.statistics
        counts = Counts(so_far.statements, so_far.commits, so_far.jobs, so_far.reads, returns)
        os.write(sys.stdout.fileno(), json.dumps(asdict(counts)).encode() + b"\n")

    signal.signal(signal.SIGUSR1, tell)
    loop.run()


if __name__ == "__main__":
    main()
