"""What only one process may do at a time, of those that share a database.

A process claims such a thing by its name. While it holds the claim, nobody else does; it holds it until it ends,
however it ends: a claim is a lock that PostgreSQL keeps for a connection (`pg_try_advisory_lock`), and gives back when
the connection is gone. What another process holds is tried again every few seconds.

If the connection is lost, all claims are: nothing of what they are for may be begun any more until they are had again.
That is noticed when the connection is looked at next, within `TRY_EVERY_SECONDS`; so for that long two processes may
believe that they hold a claim, and what is done under it must bear that, as it bears that a process dies in the middle.

A process of which PostgreSQL hears nothing for `GIVEN_UP_SECONDS` (`engines/postgresql.py`) is given up: be it that its
machine or network is gone, or that it hangs or was stopped (SIGSTOP) while its connection stands. On its side a process
is sure of its claims for `SURE_SECONDS` since it was last told of them, which is less: one that goes on after it stood
still begins nothing for which another may have the claim by now. (PostgreSQL before 14 gives up only whose connection
is gone.)

A process that is alone on its database holds everything from the beginning, and nothing is asked of the database.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads

from synapse_like.logs import get_logger
from synapse_like.storage.connections import Connection
from synapse_like.storage.engines.engine import DatabaseUnavailable
from synapse_like.storage.engines.postgresql import GIVEN_UP_SECONDS, SERVERS
from synapse_like.storage.shared.lanes import lock_of_claim
from synapse_like.storage.transactions import Transaction

#: How often what others hold is tried again, and the connection looked at.
TRY_EVERY_SECONDS = 2.0
#: For how long after it has asked for the last time a process may believe that it holds what it had; in seconds.
SURE_SECONDS = GIVEN_UP_SECONDS - 2.0
#: The longest pause between attempts to reach the database again, in seconds.
LONGEST_PAUSE = 5.0

#: What is done by one process for all, and by no user's request: the periodic jobs of which one is enough.
CHORES = "chores"
#: To keep presence for all.
PRESENCE = "presence"

_log = get_logger(__name__)


class _TooLate(Exception):
    """It is so long ago that claims were looked at that they may be another's."""


def sharing_out(txn: Transaction, names: Sequence[str]) -> tuple[int, int]:
    """How many processes share the database, and how many of some claims are had by one of them."""
    wanted = {lock_of_claim(name) for name in names}
    rows = txn.all(
        "SELECT classid, objid, mode = 'ShareLock' FROM pg_locks WHERE locktype = 'advisory' AND granted"
        " AND objsubid = 1 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    processes = sum(1 for high, low, is_share in rows if is_share and (high, low) == (0, SERVERS))
    had = sum(1 for high, low, is_share in rows if not is_share and _signed(high << 32 | low) in wanted)
    return processes, had


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


class Claims:
    """The claims of this process. All is called, and told, on the reactor's thread.

    :param connect: makes a connection for the claims alone; None if this process is alone on its database.
    :param lock_of: the lock that stands for a name.
    """

    def __init__(
        self,
        reactor: IReactorFromThreads,
        connect: Callable[[], Connection] | None,
        lock_of: Callable[[str], int],
    ) -> None:
        self._reactor = reactor
        self._connect = connect
        self._lock_of = lock_of
        self._told: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {}
        self._held: set[str] = set()
        self._tried: set[str] = set()
        self._refused: set[str] = set()
        self._waiting: dict[str, list[Deferred[bool]]] = {}
        # Shared with the thread.
        self._wanted: dict[str, int] = {}
        self._given_up: set[str] = set()
        #: Until when what is held is sure, by the monotonic clock.
        self._sure_until = 0.0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="database-claims", daemon=True)

    @property
    def is_alone(self) -> bool:
        """Whether there is nobody to share with."""
        return self._connect is None

    def start(self) -> None:
        """Begin to claim what is wanted."""
        if self._connect is not None:
            self._thread.start()

    def stop(self) -> None:
        """Give all claims back. Blocks for a moment; nobody is told."""
        self._ending = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def holds(self, name: str) -> bool:
        """Whether a claim is ours now."""
        return self._connect is None or (name in self._held and time.monotonic() < self._sure_until)

    def want(self, name: str, got: Callable[[], object], lost: Callable[[], object] = lambda: None) -> None:
        """Have a claim as soon as it can be had, and again if it is lost. What is wanted already is not wanted twice.

        :param got: is called each time that it is ours; at once if we are alone.
        :param lost: is called when it is not ours any more, though it was.
        """
        if name in self._told:
            return
        self._told[name] = got, lost
        if self._connect is None:
            got()
            return
        with self._lock:
            self._wanted[name] = self._lock_of(name)
        self._wake.set()

    def was_anothers(self, name: str) -> bool:
        """Whether a claim that we have just got was had by another process before; asked when it is got."""
        return name in self._refused

    def try_now(self) -> None:
        """Try what others had: they may have given it up."""
        self._wake.set()

    def give_up(self, name: str) -> None:
        """Let another process have a claim of ours, which is not wanted any more; nobody is told."""
        if self._connect is not None and name in self._held:
            self._held.discard(name)
            self._tried.discard(name)
            del self._told[name]
            with self._lock:
                del self._wanted[name]
                self._given_up.add(name)
            self._wake.set()

    async def outcome(self, name: str) -> bool:
        """Whether a claim that is wanted is ours, once that was tried."""
        if not self.holds(name) and name not in self._tried:
            mine: Deferred[bool] = Deferred()
            self._waiting.setdefault(name, []).append(mine)
            await mine
        return self.holds(name)

    # On the thread.

    def _run(self) -> None:
        pause = 0.1
        while not self._ending:
            assert self._connect is not None, "else there is no thread"
            try:
                connection = self._connect()
            except DatabaseUnavailable as error:
                _log.warning("nothing can be claimed", reason=str(error).strip())
                self._tell([], self._names())
                self._wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            pause = 0.1
            held: set[str] = set()
            try:
                connection.engine.end_if_silent(connection.raw, GIVEN_UP_SECONDS)
                while not self._ending:
                    self._try(connection, held)
                    self._wait(TRY_EVERY_SECONDS)
            except _TooLate:
                _log.warning("this process stood still, or the database did not answer: all claims are given back")
            except connection.engine.database_errors as error:
                _log.warning("all claims are lost, connecting again", claims=len(held), reason=str(error).strip())
            except Exception:
                _log.exception("claiming failed, connecting again", claims=len(held))
                self._wait(LONGEST_PAUSE)
            finally:
                connection.close()
            if not self._ending:
                self._reactor.callFromThread(self._lost, frozenset(held))
                self._wait(pause)

    def _try(self, connection: Connection, held: set[str]) -> None:
        asked_at = time.monotonic()
        if held and asked_at >= self._sure_until:
            raise _TooLate
        with self._lock:
            given_up, self._given_up = self._given_up & held, set()
            wanted = {name: lock for name, lock in self._wanted.items() if name not in held or name in given_up}
        if given_up:
            connection.engine.release_locks(connection.raw, [self._lock_of(name) for name in given_up])
            held -= given_up
        # Also where nothing is wanted: so it is seen that the connection stands.
        got = connection.engine.try_locks(connection.raw, list(wanted.values()))
        sure_until = asked_at + SURE_SECONDS
        if time.monotonic() >= sure_until:
            raise _TooLate
        self._sure_until = sure_until
        new = [name for name, lock in wanted.items() if lock in got]
        held.update(new)
        if wanted:
            self._tell(new, wanted)

    def _names(self) -> list[str]:
        with self._lock:
            return list(self._wanted)

    def _tell(self, got: Iterable[str], tried: Iterable[str]) -> None:
        self._reactor.callFromThread(self._were_tried, list(got), list(tried))

    def _wait(self, seconds: float) -> None:
        self._wake.wait(seconds)
        if not self._ending:
            self._wake.clear()

    # On the reactor's thread.

    def _were_tried(self, got: list[str], tried: list[str]) -> None:
        self._held.update(got)
        self._tried.update(tried)
        for name in got:
            self._call(name, self._told[name][0])
        self._refused.update(tried)
        self._refused.difference_update(got)
        for name in tried:
            for waiting in self._waiting.pop(name, ()):
                if not waiting.called:
                    waiting.callback(name in self._held)

    def _lost(self, names: frozenset[str]) -> None:
        lost = names & self._held
        self._held -= lost
        for name in sorted(lost):
            self._call(name, self._told[name][1])

    def _call(self, name: str, told: Callable[[], object]) -> None:
        try:
            told()
        except Exception:
            _log.exception("what is done with a claim failed", claim=name)
