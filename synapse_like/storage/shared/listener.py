"""The listener: hears that others have committed something, and reads it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import orjson

from synapse_like.logs import get_logger
from synapse_like.storage.connections import Connection
from synapse_like.storage.continuity import DatabaseWentBack
from synapse_like.storage.engines.engine import BUSY_SECONDS, DatabaseUnavailable
from synapse_like.storage.news import from_log
from synapse_like.storage.shared.commit_log import Reading, Told

#: After how many seconds the log is read if nobody said that there is something to read.
LOOK_EVERY_SECONDS = 2.0
#: How long it is read on after something was heard or found; in seconds.
READ_ON_SECONDS = 0.1
#: The pause after a look at the log, if nobody here is waiting for what stands there; in seconds.
PACE_SECONDS = 0.03
#: How many commits are read at once.
MOST_AT_ONCE = 500
#: The longest pause between attempts to reach the database again, in seconds.
LONGEST_PAUSE = 5.0

_log = get_logger(__name__)


class Listener:
    """Reads what others have committed, on a thread of its own.

    :param connect: makes its connection.
    :param reading: how far this process has read.
    :param tell: is given commits as they are read.
    :param missed: is given a number when what was before it cannot be read any more.
    :param tell_passing: is given news of others that stands in no log.
    :param went_back: is called, and nothing more is read, if what was committed is not there any more.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        reading: Reading,
        tell: Callable[[list[Told]], None],
        missed: Callable[[int], None],
        tell_passing: Callable[[list[object]], None],
        went_back: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._reading = reading
        self._tell = tell
        self._went_back = went_back
        self._missed = missed
        self._tell_passing = tell_passing
        #: What has been said so far by those who are not at the end of it.
        self._parts: dict[str, str] = {}
        self._ending = threading.Event()
        self._listens = threading.Event()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="database-listener", daemon=True)

    def start(self) -> None:
        """Begin to listen. Blocks until that is so: what passes before, this process never hears."""
        self._thread.start()
        # If the database is not there just now, it is listened to later.
        self._listens.wait(BUSY_SECONDS)

    def hurry(self) -> None:
        """Somebody waits for what has been committed, and cannot wait until it would be read."""
        self._hurry.set()

    def stop(self, connection: Connection | None = None) -> None:
        """End.

        :param connection: by which the listener can be woken; without it, it may take `LOOK_EVERY_SECONDS`.
        """
        self._ending.set()
        self._hurry.set()
        if connection is not None:
            with contextlib.suppress(*connection.engine.database_errors):
                connection.engine.notify(connection.raw)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause = 0.1
        while not self._ending.is_set():
            try:
                connection = self._connect()
            except DatabaseUnavailable as error:
                _log.warning("others cannot be listened to", reason=str(error).strip())
                self._ending.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            try:
                connection.engine.listen(connection.raw)
                # Who was cut short is not heard to the end.
                self._parts.clear()
                connection.see_that_all_is_there(self._reading.continuity)
                self._listens.set()
                pause = 0.1
                self._read_on(connection)
            except DatabaseWentBack:
                self._went_back()
                return
            except connection.engine.database_errors as error:
                _log.warning("what others said could not be read, connecting again", reason=str(error).strip())
            except Exception:
                _log.exception("what others said could not be understood, connecting again")
                self._ending.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            finally:
                connection.close()

    def _read_on(self, connection: Connection) -> None:
        """Read when there is something to read, until the end."""
        # What was said before it listened may have been to read on.
        until = time.monotonic() + READ_ON_SECONDS
        while not self._ending.is_set():
            # Before the look: the last one has to come after all that was not said because everybody was reading.
            now = time.monotonic()
            is_last, is_in_a_hurry = now >= until, self._hurry.is_set()
            self._hurry.clear()
            # Who commits has read what was committed before.
            pause = self._reading.complete_at + PACE_SECONDS - now
            if is_last or is_in_a_hurry or pause <= 0:
                count, pause = self._read(connection), PACE_SECONDS
                if count == MOST_AT_ONCE:
                    continue
                if is_last and not count:
                    pause = 0
            self._hurry.wait(pause)
            if self._hear(connection, LOOK_EVERY_SECONDS if is_last else 0):
                until = time.monotonic() + READ_ON_SECONDS

    def _hear(self, connection: Connection, seconds: float) -> bool:
        """Hear whether to read on; what passes is told at once, after what was committed before it.

        :param seconds: how long to wait for the first that another says, be it only that there is something to read.
        """
        until = time.monotonic() + seconds
        is_to_read_on = False
        while True:
            notices = connection.engine.notices(connection.raw, max(0, until - time.monotonic()))
            others = [notice for notice in notices if notice.partition(" ")[0] != self._reading.name]
            for notice in others:
                is_to_read_on |= self._understand(connection, notice)
            if others or not notices or time.monotonic() >= until:
                return is_to_read_on

    def _understand(self, connection: Connection, notice: str) -> bool:
        """Take in what another has said; whether it is to read on."""
        maker, _, rest = notice.partition(" ")
        if rest in ("", "+"):
            return rest == "+"
        left, _, text = rest.partition(" ")
        text = self._parts.pop(maker, "") + text
        if left != "0":
            self._parts[maker] = text
            return False
        while self._read(connection) == MOST_AT_ONCE:
            pass
        self._tell_passing(list(from_log(connection.without_begin(), orjson.loads(text))))
        return False

    def _read(self, connection: Connection) -> int:
        """Read on; how many commits there were."""
        rows = connection.look(
            "SELECT number, maker, rooms, kinds, news FROM commits WHERE number > ? ORDER BY number LIMIT ?",
            (self._reading.last, MOST_AT_ONCE),
        )
        if not rows:
            return 0
        # What was committed by then can be read by every statement: none of them needs a transaction around it.
        txn = connection.without_begin()
        if rows[0][0] > self._reading.last + 1:
            txn.caches.clear()
            self._missed(rows[0][0] - 1)
            self._reading.has_read(rows[0][0] - 1)
        # What comes after a leap (`continuity.py`) comes next time, with what is missed by it.
        rows = [row for place, row in enumerate(rows) if row[0] == rows[0][0] + place]
        self._tell(self._reading.read(txn, rows))
        return len(rows)
