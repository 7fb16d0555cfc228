"""The parent of the processes that are one server (`processes` above 1).

It loads the program, and forks children. Each of them is the whole server: it opens the database, and listens on the
same ports as the others; the system gives each an equal share of the connections (SO_REUSEPORT). The first starts
alone, since it may have to bring the tables up to date; then come the others. One that ends is started again. If one
cannot start while the server does, nothing starts.

The parent has no reactor, no thread and no connection: there is nothing in it that a child could take over broken.
What it has loaded lies in memory once, for all of them.

A child that does not show any more that it serves hangs, or was stopped: connections would still be given to it, and
nobody would answer them. It is killed. How children and their parent hear of each other is told in `child.py`; of a
child's end, the parent hears by SIGCHLD.
"""

from __future__ import annotations

import gc
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct, field

from synapse_like import logs
from synapse_like.app.child import Child
from synapse_like.app.errors import StartError
from synapse_like.app.reloading import reader, take_log
from synapse_like.app.siblings import Siblings, listening, places
from synapse_like.config import Config, ConfigError, load
from synapse_like.http.shared_limits import SharedBuckets
from synapse_like.identity.settings import IDENTITY_SERVER, IdentityConfig
from synapse_like.storage.shared.machine import Machine

#: How long children may take to stop, in seconds; then they are killed.
STOP_SECONDS = 45.0
#: How often the parent looks whether children show that they serve, in seconds.
LOOK_SECONDS = 5.0
#: One that has shown nothing for so long, in seconds, hangs: it is killed, and started again.
HANG_SECONDS = 60.0

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

_log = logs.get_logger(__name__)


class Parent(Struct):
    """Starts the processes of a server, and sees to them until it is told to stop.

    :ivar config: the settings.
    :ivar path: their file.
    :ivar tell: is told, in a sentence, where the server listens.
    """

    config: Config
    path: Path
    tell: Callable[[str], object]
    _children: list[Child] = field(default_factory=list)
    _claims: list[socket.socket] = field(default_factory=list)
    _beside: IdentityConfig | None = None
    _newer: Config | None = None
    _has_started: bool = False
    _failure: str | None = None
    _kill_at: float | None = None
    _had_to_kill: bool = False
    _looked_at: float = 0.0
    _life: tuple[int, int] = (-1, -1)
    _wake: tuple[int, int] = (-1, -1)

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; the exit code.

        :raises StartError: a child could not start, or a port is taken.
        :raises ConfigError: the settings of the identity server beside cannot be read.
        """
        beside = self.config.identity_servers.beside
        self._beside = IDENTITY_SERVER.load(beside, os.environ) if beside is not None else None
        self._have_ports()
        self._load()
        self._life = os.pipe()
        with self._signals():
            folder = Path(tempfile.mkdtemp(prefix="synapse_like-"))
            try:
                self._make_children(folder)
                gc.enable()
                self._fork(self._children[0])
                while any(child.process_id is not None for child in self._children) or not self._is_stopping:
                    self._step()
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        if self._failure is not None:
            raise StartError(self._failure)
        _log.info("all processes have stopped")
        return int(self._had_to_kill)

    # Before the first child.

    def _have_ports(self) -> None:
        """See that nobody else has the ports, nor takes them until the children do: they let each other in."""
        for address, port in places(self.config):
            claim = socket.socket(socket.AF_UNIX)
            self._claims.append(claim)
            try:
                # A name that is free again when this process ends, however it does (unix(7)).
                claim.bind(f"\0synapse_like/{address}/{port}")
                with listening(address, port, with_others=False):
                    pass
            except OSError as error:
                raise StartError(f"cannot listen on {address} port {port}: {error}") from error

    def _load(self) -> None:
        """Load what every child needs, also with its first request to another server: once for all of them."""
        import twisted.internet.epollreactor
        import twisted.names.client  # noqa: F401

        import synapse_like.app.server
        import synapse_like.federation.connections
        from synapse_like.app.parts import engine_of

        # The driver of the database.
        engine_of(self.config)
        if self.config.metrics.port is not None:
            import synapse_like.app.metrics
        if self.config.mail.host is not None:
            import synapse_like.mail  # noqa: F401
        assert "twisted.internet.reactor" not in sys.modules, "a reactor cannot be shared"
        # It stays, and stays where it is: to look at it would be to copy it, in each child.
        gc.freeze()

    def _make_children(self, folder: Path) -> None:
        buckets, count = SharedBuckets(), self.config.processes
        machines = Machine.of_several(count, is_alone=not self.config.database.shared)
        for number, machine in enumerate(machines, 1):
            self._children.append(Child(number, Siblings(number, count, buckets, machine, folder)))
        if self._beside is not None:
            self._children.append(Child(count + 1, None))

    # Children.

    def _fork(self, child: Child) -> None:
        report = os.pipe()
        child.newer = self._newer
        child.prepare()
        # No signal may come while handlers are the parent's, and the process is the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            process_id = os.fork()
            if process_id == 0:
                self._become(child, report)
            child.born(process_id, report[0])
        except OSError as error:
            os.close(report[0])
            if not self._has_started:
                raise StartError(f"no process can be started: {error.strerror}") from error
            _log.error("no process can be started", process=child.number, reason=error.strerror)
            child.wait()
        finally:
            os.close(report[1])
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _become(self, child: Child, report: tuple[int, int]) -> None:
        """Be the child, until its end; in the new process, where nothing of the parent may go on."""
        code = 1
        gc.disable()
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            # The terminal's interrupt is for the parent; what is to be read again can be once the service is there.
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            for file in (report[0], self._life[1], *self._wake):
                os.close(file)
            for claim in self._claims:
                claim.close()
            for other in self._children:
                other.hang_up()
            child.be(report[1], self._life[0])
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            with logs.bind(process=child.number):
                code = self._serve(child)
        except StartError as error:
            child.fail(str(error))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _serve(self, child: Child) -> int:
        from synapse_like.app.service import run_here

        if child.siblings is not None:
            return run_here(self.config, self.path, child.tell, child)
        beside = self.config.identity_servers.beside
        assert self._beside is not None, "there is a child for it"
        assert beside is not None, "they were read from there"
        return run_here(self._beside, beside, child.tell, child)

    # What happens.

    def _signals(self) -> _Wakened:
        self._wake = os.pipe()
        return _Wakened(*self._wake)

    @property
    def _is_stopping(self) -> bool:
        return self._kill_at is not None

    def _step(self) -> None:
        """Wait until something happens, and see to it."""
        for number in self._wait():
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop()
            elif number == signal.SIGHUP and not self._is_stopping:
                self._reload()
        for child in self._children:
            child.listen()
        self._bury()
        now = time.monotonic()
        if self._kill_at is not None:
            if now > self._kill_at:
                self._kill()
            return
        self._go_on(now)

    def _go_on(self, now: float) -> None:
        """Start who is to be started, and see that those who have been serve."""
        if now >= self._looked_at + LOOK_SECONDS:
            # If nobody looked for longer, this process itself stood still, and they perhaps with it.
            since, self._looked_at = min(now - self._looked_at, 2 * LOOK_SECONDS), now
            for child in self._children:
                child.look(since)
                if child.silent >= HANG_SECONDS and child.process_id is not None:
                    _log.error("a process hangs and is killed", process=child.number, seconds=round(child.silent))
                    child.silent = 0.0
                    child.send(signal.SIGKILL)
        for child in self._children:
            if child.is_ready and child.hangup_waits:
                child.hangup_waits = False
                child.send(signal.SIGHUP)
            if child.due is not None and child.due <= now:
                self._fork(child)
        if self._has_started or not self._children[0].is_ready:
            return
        for child in self._children:
            if child.process_id is None:
                self._fork(child)
        if all(child.is_ready for child in self._children):
            self._has_started = True
            for sentence in dict.fromkeys(said for child in self._children for said in child.sentences):
                self.tell(sentence)
            _log.info("all processes serve", processes=len(self._children))
            self._count_processors()

    def _count_processors(self) -> None:
        """Say so if there are too few: processes that take turns on one need more for everything."""
        processors = len(os.sched_getaffinity(0))
        if self.config.processes > processors:
            _log.warning(
                "there are more processes than processors: everything costs more so",
                processes=self.config.processes,
                processors=processors,
            )

    def _wait(self) -> Iterator[int]:
        """Wait for a signal, a word of a child, or the time to do something; the signals."""
        moments = [child.due for child in self._children if child.due is not None] if not self._is_stopping else []
        moments.append(self._kill_at if self._kill_at is not None else self._looked_at + LOOK_SECONDS)
        timeout = max(0.0, min(moments) - time.monotonic())
        with selectors.DefaultSelector() as selector:
            for file in (self._wake[0], *(child.report for child in self._children)):
                if file is not None:
                    selector.register(file, selectors.EVENT_READ)
            ready = {key.fd for key, _ in selector.select(timeout)}
        yield from os.read(self._wake[0], 4096) if self._wake[0] in ready else b""

    def _bury(self) -> None:
        """See who has ended."""
        while True:
            try:
                process_id, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if process_id == 0:
                return
            for child in self._children:
                if child.process_id == process_id:
                    child.died()
                    self._mourn(child, os.waitstatus_to_exitcode(status))

    def _mourn(self, child: Child, code: int) -> None:
        """See what is to be done now that a child has ended.

        :param code: its exit code, or the number of the signal that has killed it with a minus.
        """
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if self._is_stopping:
            # One that has not begun to serve ends at once.
            if code != 0 and not (code == -signal.SIGTERM and not child.is_ready):
                _log.warning("a process did not stop in good order", process=child.number, how=how)
        elif self._has_started:
            pause = child.wait()
            _log.error(
                "a process has ended and is started again",
                process=child.number,
                how=how,
                reason=child.failure,
                seconds=round(pause, 1),
            )
        else:
            self._failure = child.failure or f"a process ended before it served, by {how}"
            self._stop()

    def _stop(self) -> None:
        """Have all of them stop, at the same time."""
        if self._is_stopping:
            return
        self._kill_at = time.monotonic() + STOP_SECONDS
        for child in self._children:
            child.due = None
            child.send(signal.SIGTERM)

    def _kill(self) -> None:
        for child in self._children:
            if child.process_id is not None:
                _log.error("a process did not stop in time and is killed", process=child.number)
                self._had_to_kill = True
                child.send(signal.SIGKILL)
        self._kill_at = time.monotonic() + STOP_SECONDS

    def _reload(self) -> None:
        """Have all of them read the settings again; keep them for those that are started later."""
        try:
            self._newer = reader(load, self.path)()
        except ConfigError:
            # They all say so.
            pass
        else:
            take_log(self._newer)
        for child in self._children:
            child.reload()


class _Wakened:
    """For the length of a `with` block, signals do nothing but write their numbers into a pipe.

    :param there: its end to be read.
    :param here: the other one.
    """

    def __init__(self, there: int, here: int) -> None:
        self._files = there, here

    def __enter__(self) -> None:
        for file in self._files:
            os.set_blocking(file, False)
        self._before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        self._woken = signal.set_wakeup_fd(self._files[1], warn_on_full_buffer=False)

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._woken)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for file in self._files:
            os.close(file)
