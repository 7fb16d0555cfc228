"""A PostgreSQL server of the tests' own.

It lives in a temporary directory, listens on a Unix socket in there and nowhere else, and forgets everything at the
end. PostgreSQL refuses to run as root: if we are root it runs as the user `postgres`, or else as `nobody`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from urllib.parse import quote

import psycopg

from tests.support.processes import dying_with_us, is_alive, wait_until, with_children

HOW_TO_INSTALL = "PostgreSQL is not installed (apt-get install postgresql): its half of the tests cannot run"


class PostgreSQL:
    """A running PostgreSQL; `database` makes databases in it.

    :param binaries: the directory of `initdb` and `postgres`, as found by `find_binaries`.
    :param keeps: whether what was committed outlives `crash`, and what is dead is swept out, which takes time.
    """

    def __init__(self, binaries: Path, *, keeps: bool = False) -> None:
        self._binaries = binaries
        self._keeps = keeps
        self._user = _user_for_postgres()
        self._names = (f"test_{number}" for number in count(1))
        self._folder = Path(tempfile.mkdtemp(prefix="synapse-like-pg-"))
        try:
            if self._user is not None:
                shutil.chown(self._folder, self._user)
            self._make_cluster(binaries)
            self._process = self._start()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._wait()

    @property
    def log(self) -> Path:
        """What the server has to say."""
        return self._folder / "log"

    @contextmanager
    def database(self) -> Iterator[str]:
        """An empty database, and its URL. It is gone in the end, whoever still uses it."""
        name = next(self._names)
        self._execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'")
        try:
            yield self._url(name)
        finally:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def stop(self) -> None:
        """Stop the server and remove everything."""
        self.crash()
        shutil.rmtree(self._folder, ignore_errors=True)

    def crash(self) -> None:
        """End it at once, without saving anything."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)  # "immediate shutdown"
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def kill9(self) -> None:
        """End all its processes as a machine does that is switched off."""
        everybody = self._stop_all()
        for process_id in everybody:
            os.kill(process_id, signal.SIGKILL)
        self._process.wait()
        # As long as one holds the memory that they share, it does not start again.
        wait_until("all of PostgreSQL to be gone", lambda: not any(map(is_alive, everybody)))

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Have all its processes stop (SIGSTOP), with everything open, for the length of a `with` block."""
        everybody = self._stop_all()
        try:
            yield
        finally:
            for process_id in everybody:
                with suppress(ProcessLookupError):
                    os.kill(process_id, signal.SIGCONT)

    def _stop_all(self) -> list[int]:
        # The one that starts the others first, so that there are no new ones; none is gone before it sees to that.
        os.kill(self._process.pid, signal.SIGSTOP)
        everybody = with_children(self._process.pid)
        for process_id in everybody:
            os.kill(process_id, signal.SIGSTOP)
        return everybody

    def start_again(self) -> None:
        """Start it after a crash, and wait until it answers."""
        self._process = self._start()
        self._wait()

    def _wait(self) -> None:
        try:
            wait_until("PostgreSQL to answer", self._answers)
        except BaseException:
            self.stop()
            raise

    def _make_cluster(self, binaries: Path) -> None:
        made = subprocess.run(
            [
                *(binaries / "initdb", "-D", self._folder / "data", "-U", "postgres"),
                *("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"),
            ],
            cwd=self._folder,
            user=self._user,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")

    def _start(self) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": self._folder,
            "fsync": "off",
            "synchronous_commit": "on" if self._keeps else "off",
            "full_page_writes": "off",
            "autovacuum": "on" if self._keeps else "off",
            "shared_buffers": "32MB",
            "max_connections": "120",
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [self._binaries / "postgres", "-D", self._folder / "data", *options],
                cwd=self._folder,
                user=self._user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # an interrupt at the keyboard is for the tests, which stop it in order
                preexec_fn=dying_with_us(signal.SIGQUIT),
            )

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"PostgreSQL did not start:\n{self.log.read_text()}")
        try:
            self._execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _url(self, name: str) -> str:
        return f"postgresql://postgres@/{name}?host={quote(str(self._folder), safe='')}"


def find_binaries() -> Path | None:
    """The directory with PostgreSQL's programs: the one in PATH, else the newest that Debian has installed."""
    in_path = shutil.which("initdb")
    if in_path:
        return Path(in_path).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return installed[-1].parent if installed else None


def _user_for_postgres() -> str | None:
    """The user PostgreSQL must run as, or None for the one we are."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
