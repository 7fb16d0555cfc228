"""The parent of the processes that are one server (`processes` above 1).

It loads the program, and forks children. Each of them is the whole server: it opens the database, and listens on the
same ports as the others; the system gives each an equal share of the connections (SO_REUSEPORT). The first starts
alone, since it may have to bring the tables up to date; then come the others. One that ends is started again. If one
cannot start while the server does, nothing starts.

The parent has no reactor, no thread and no connection: there is nothing in it that a child could take over broken.
What it has loaded lies in memory once, for all of them.

A child that serves counts up a number in memory that it shares with the parent. One that does so no more hangs, or was
stopped: connections would still be given to it, and nobody answer them. It is killed.

Children hear of their parent's end by a pipe, which ends with it, however it does; then they stop in good order. The
parent hears of theirs by SIGCHLD, and what they have to say by a pipe for each, a line of JSON at a time:
`{"tell": sentence}`, `{"failed": sentence}` and, once it serves, `{"ready": true}`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
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
from typing import Any

from msgspec import Struct, field

from synapse_like import logs
from synapse_like.app.errors import StartError
from synapse_like.app.reloading import Reloading, reader, take_log
from synapse_like.app.siblings import Siblings, listening, places
from synapse_like.config import Config, ConfigError, load
from synapse_like.http.shared_limits import SharedBuckets
from synapse_like.identity.settings import IDENTITY_SERVER, IdentityConfig
from synapse_like.storage.shared.urgent import Urgent

#: How long it is waited before a child that has died is started again; twice as long each time, as long as none lives
#: for long; in seconds.
FIRST_PAUSE, LONGEST_PAUSE, LONG_LIFE = 0.1, 30.0, 60.0
#: How long children may take to stop, in seconds; then they are killed.
STOP_SECONDS = 45.0

#: How often a child that serves shows that it does, and how often the parent looks, in seconds.
BEAT_SECONDS, LOOK_SECONDS = 2.0, 5.0
#: One that has shown nothing for so long, in seconds, hangs: it is killed, and started again.
HANG_SECONDS = 60.0

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

_log = logs.get_logger(__name__)


class Child:
    """A process of the server, as the parent sees it; in the process itself, its parent.

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
        self._heard = b""

    # In the parent.

    def born(self, process_id: int, report: int) -> None:
        """It was started.

        :param report: by which it reports.
        """
        os.set_blocking(report, False)
        self.process_id, self._report, self._heard = process_id, report, b""
        self.is_ready, self.failure, self.due, self.hangup_waits = False, None, None, False
        self.sentences.clear()
        self.silent, self._beats_seen, self._is_beating = 0.0, self.beats, False
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

    def hang(self) -> None:
        """Pass SIGHUP on; to one that starts just now, once it listens."""
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
            # Of a parent that is no more one hears by the other pipe.
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
        for number, urgent in enumerate(Urgent.of_several(count), 1):
            self._children.append(Child(number, Siblings(number, count, buckets, urgent, folder)))
        if self._beside is not None:
            self._children.append(Child(count + 1, None))

    # Children.

    def _fork(self, child: Child) -> None:
        report = os.pipe()
        child.newer = self._newer
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
            child.hang()


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
