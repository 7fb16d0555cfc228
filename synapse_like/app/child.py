"""One of several processes that are one server, and how it and its parent hear of each other.

A child tells its parent something by a pipe of its own, a line of JSON at a time: `{"tell": sentence}`,
`{"failed": sentence}` and, once it serves, `{"ready": true}`. From then on it counts up a number in memory that both
have, every few seconds. It hears of its parent's end by another pipe, which ends with the parent, however that does;
then it stops in good order.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from synapse_like import logs
from synapse_like.app.reloading import Reloading
from synapse_like.app.siblings import Siblings
from synapse_like.config import Config

#: How long the parent waits before it starts a child again that has died: twice as long each time, until one has lived
#: for long; in seconds.
FIRST_PAUSE, LONGEST_PAUSE, LONG_LIFE = 0.1, 30.0, 60.0
#: How often a child that serves shows that it does, in seconds.
BEAT_SECONDS = 2.0

_log = logs.get_logger(__name__)


class Child:
    """A process of the server: in its parent, what is known of it; in the process itself, what ties it to the parent.

    :param number: from 1.
    :param siblings: what it has in common with the others; None for one that is not the home server.
    """

    def __init__(self, number: int, siblings: Siblings | None) -> None:
        self.number = number
        self.siblings = siblings
        self.process_id: int | None = None
        self.is_ready = False
        #: Why it could not start.
        self.failure: str | None = None
        #: When it is to be started next.
        self.due: float | None = None
        #: The settings that were read at the last SIGHUP, if there was one before it started.
        self.newer: Config | None = None
        self.hangup_waits = False
        self.sentences: list[str] = []
        #: For how many seconds it has not shown that it serves.
        self.silent = 0.0
        self._beats = mmap.mmap(-1, 8)
        self._beats_seen = 0
        self._is_beating = False
        self._pause = 0.0
        self._born = 0.0
        self._report: int | None = None
        self._life = -1
        self._heard = b""

    # In the parent.

    def prepare(self) -> None:
        """It is about to be started: what it shows from now on, it shows in its new life."""
        self.silent, self._beats_seen, self._is_beating = 0.0, self.beats, False

    def born(self, process_id: int, report: int) -> None:
        """It was started.

        :param report: by which it reports.
        """
        os.set_blocking(report, False)
        self.process_id, self._report, self._heard = process_id, report, b""
        self.is_ready, self.failure, self.due, self.hangup_waits = False, None, None, False
        self.sentences.clear()
        self._born = time.monotonic()

    @property
    def beats(self) -> int:
        """How often it has shown that it serves, in all its lives."""
        return int.from_bytes(self._beats[:], sys.byteorder)

    def look(self, seconds: float) -> None:
        """See whether it has shown that it serves.

        :param seconds: since the last look.
        """
        if self.beats != self._beats_seen:
            self.silent, self._beats_seen, self._is_beating = 0.0, self.beats, True
        elif self._is_beating:
            self.silent += seconds

    @property
    def report(self) -> int | None:
        """By which it reports, as long as it may."""
        return self._report

    def listen(self) -> None:
        """Hear what it has to say."""
        while self._report is not None:
            try:
                said = os.read(self._report, 65536)
            except BlockingIOError:
                break
            if not said:
                self.hang_up()
            self._heard += said
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            match json.loads(line):
                case {"tell": str(sentence)}:
                    self.sentences.append(sentence)
                case {"failed": str(sentence)}:
                    self.failure = sentence
                case {"ready": True}:
                    self.is_ready = True

    def hang_up(self) -> None:
        """Hear it no more."""
        if self._report is not None:
            os.close(self._report)
            self._report = None

    def died(self) -> None:
        """It has ended."""
        self.listen()
        self.hang_up()
        self.process_id = None

    def wait(self) -> float:
        """Have it started again after a while; after how many seconds."""
        now = time.monotonic()
        self._pause = FIRST_PAUSE if now - self._born > LONG_LIFE else min(2 * self._pause, LONGEST_PAUSE)
        self._pause = max(self._pause, FIRST_PAUSE)
        self.due = now + self._pause
        return self._pause

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it lives."""
        if self.process_id is not None:
            os.kill(self.process_id, number)

    def reload(self) -> None:
        """Have it read the settings again (SIGHUP); if it is just starting, once it listens."""
        if self.is_ready:
            self.send(signal.SIGHUP)
        else:
            self.hangup_waits = True

    # In the child.

    def be(self, report: int, life: int) -> None:
        """Become it: in the new process.

        :param report: by which it reports.
        :param life: ends with the parent.
        """
        self._report, self._life = report, life

    def tell(self, sentence: str) -> None:
        """Have the parent say something."""
        self._say(tell=sentence)

    def fail(self, sentence: str) -> None:
        """Report that it cannot start."""
        self._say(failed=sentence)

    def beat(self) -> None:
        """Show that it serves."""
        self._beats[:] = (self.beats + 1).to_bytes(8, sys.byteorder)

    def serves(self) -> None:
        """Report that it has started; nothing is reported after that."""
        self._say(ready=True)
        self.hang_up()

    def _say(self, **what: object) -> None:
        if self._report is not None:
            # If there is no parent any more, the other pipe tells.
            with contextlib.suppress(BrokenPipeError):
                os.write(self._report, json.dumps(what).encode() + b"\n")

    def tie(self, loop: Any, reloading: Reloading[Any]) -> None:
        """Have the service that has started here end when the parent wants it, or is no more.

        :param loop: Twisted's reactor.
        """
        is_ending = False

        def stop() -> None:
            nonlocal is_ending
            if not is_ending:
                is_ending = True
                loop.stop()

        def orphaned() -> None:
            loop.removeReader(lifeline)
            if is_ending:
                return
            _log.warning("the parent of this process has ended, and so does it")
            if self.siblings is not None:
                shutil.rmtree(self.siblings.folder, ignore_errors=True)
            stop()

        def beat() -> None:
            self.beat()
            loop.callLater(BEAT_SECONDS, beat)

        def serve() -> None:
            # Not before the reactor has set its own.
            signal.signal(signal.SIGTERM, lambda *_: loop.callFromThread(stop))
            beat()
            self.serves()

        if self.newer is not None and self.siblings is not None:
            reloading.take(self.newer)
        lifeline = _Lifeline(self._life, orphaned)
        loop.addReader(lifeline)
        loop.callWhenRunning(serve)


class _Lifeline(Struct, frozen=True, eq=False):
    """Something to read, for the reactor: it ends with the parent, and nothing else ever comes."""

    file: int
    ended: Callable[[], None]

    def fileno(self) -> int:
        return self.file

    def doRead(self) -> None:  # noqa: N802 - Twisted's name
        self.ended()

    # By which of the two the reactor tells of the end depends on the system.
    def connectionLost(self, _: object) -> None:  # noqa: N802 - Twisted's name
        self.ended()

    def logPrefix(self) -> str:  # noqa: N802 - Twisted's name
        return "parent"
