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
from typing import Any
from urllib.parse import quote

import psycopg

from tests.support.processes import dying_with_us, is_alive, wait_until, with_children

#: By which name a primary knows its replica.
REPLICA = "replica"
HOW_TO_INSTALL = "PostgreSQL is not installed (apt-get install postgresql): its half of the tests cannot run"


class PostgreSQL:
    """A running PostgreSQL; `database` makes databases in it.

    :param binaries: the directory of `initdb` and `postgres`, as found by `find_binaries`.
    :param keeps: whether what was committed outlives `crash`, and what is dead is swept out, which takes time.
    :param primary: is followed by this one, which can be read meanwhile.
    """

    def __init__(self, binaries: Path, *, keeps: bool = False, primary: PostgreSQL | None = None) -> None:
        self._binaries = binaries
        self._keeps = keeps
        self._user = _user_for_postgres()
        self._names = (f"test_{number}" for number in count(1))
        self._folder = Path(tempfile.mkdtemp(prefix="synapse-like-pg-"))
        try:
            if self._user is not None:
                shutil.chown(self._folder, self._user)
            if primary is None:
                self._make_cluster()
            else:
                self._copy(primary)
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
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

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

    def _make_cluster(self) -> None:
        self._do("initdb", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")

    def _copy(self, primary: PostgreSQL) -> None:
        where = f"host={primary._folder} user=postgres application_name={REPLICA}"
        self._do("pg_basebackup", "-d", where, "-R", "--checkpoint=fast", "--no-sync")

    def _do(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binaries / program, "-D", self._folder / "data", *arguments],
            cwd=self._folder,
            user=self._user,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed:\n{done.stdout}{done.stderr}")

    # Replication.

    def follow(self, primary: PostgreSQL) -> None:
        """Be a replica of another one from now on, forgetting everything."""
        self.crash()
        shutil.rmtree(self._folder / "data")
        self._copy(primary)
        self.start_again()

    def follow_no_more(self) -> None:
        """Receive nothing any more of what the primary writes."""
        self.execute("ALTER SYSTEM SET primary_conninfo = ''")
        self.execute("SELECT pg_reload_conf()")
        wait_until("nothing to be received", lambda: not self.execute("SELECT 1 FROM pg_stat_wal_receiver"))

    def wait_for_replica(self, *, is_synchronous: bool) -> None:
        """See that it is followed.

        :param is_synchronous: whether nothing is acknowledged from now on that the replica has not got.
        """
        names = REPLICA if is_synchronous else ""
        self.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        self.execute("SELECT pg_reload_conf()")
        wanted = "sync" if is_synchronous else "async"
        seen = f"SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = '{wanted}'"
        wait_until("the replica", lambda: self.execute(seen))

    def promote(self) -> None:
        """Make a primary of a replica."""
        self.execute("SELECT pg_promote()")

    def _start(self) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": self._folder,
            "fsync": "off",
            "synchronous_commit": "on" if self._keeps else "off",
            "full_page_writes": "off",
            "autovacuum": "on" if self._keeps else "off",
            "shared_buffers": "32MB",
            "max_connections": "400",
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
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Have it do something; the rows of the answer."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def url(self, name: str, *others: PostgreSQL) -> str:
        """The URL of a database.

        :param others: servers on which it may be as well.
        """
        hosts = ",".join(quote(str(server._folder), safe="") for server in (self, *others))
        return f"postgresql://postgres@/{name}?host={hosts}"


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
