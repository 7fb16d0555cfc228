"""A whole home server in a process of its own, run as its operator runs it: by its command line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path

from tests.support.command_line import do, must_do
from tests.support.processes import dying_with_us, free_port, wait_until, with_children

ROOT = Path(__file__).parents[2]

#: Of how many processes a server is that has a PostgreSQL, unless its settings say so.
PROCESSES = int(os.environ.get("SYNAPSE_LIKE_TEST_PROCESSES", "1"))

#: Settings for tests of something else than these: no rate limits, passwords that cost little, and no news of who
#: comes and goes in between.
QUICK: Mapping[str, object] = {
    "presence.enabled": False,
    "rate_limits.enabled": False,
    "password_hashing.memory_kib": 64,
    "password_hashing.iterations": 1,
}


class HomeServer:
    """One home server with its data directory.

    :param data_dir: where it keeps everything; made by the server itself.
    :param database: `sqlite`, or the URL of an empty PostgreSQL database.
    :param settings: what its configuration says beside the defaults; keys such as `registration.mode`.
    :param name: its server name, if it is not to be `localhost` and its federation port.
    :param federation_port: where it listens for other servers; any free one if left out.
    :param python: runs it, as it is installed for that; if left out, what lies beside the tests is run.
    """

    def __init__(
        self,
        data_dir: Path,
        database: str = "sqlite",
        settings: Mapping[str, object] = QUICK,
        name: str | None = None,
        federation_port: int | None = None,
        python: Path | None = None,
    ) -> None:
        self._python = python
        self.data_dir = data_dir
        self.database = database
        self.port = free_port()
        self.federation_port = federation_port or free_port()
        self.name = name or f"localhost:{self.federation_port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._log_mark = 0
        if database.startswith("postgresql:") and PROCESSES > 1:
            settings = {"processes": PROCESSES, **settings}
        sets = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        must_do(
            *("init", "--data-dir", str(data_dir), "--server-name", self.name, "--bind", "127.0.0.1"),
            *("--client-port", str(self.port), "--federation-port", str(self.federation_port)),
            *("--database", database, *sets),
        )

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect."""
        return ("127.0.0.1", self.port)

    @property
    def process_id(self) -> int | None:
        """The ID of its process, while it runs."""
        return self._process.pid if self._process is not None and self.is_running else None

    @property
    def process_ids(self) -> list[int]:
        """The IDs of all its processes, while it runs: its own first."""
        parent = self.process_id
        return [] if parent is None else with_children(parent)

    @property
    def config(self) -> Path:
        """Its settings file."""
        return self.data_dir / "homeserver.yaml"

    @property
    def log(self) -> Path:
        """What it wrote to standard output and error, over all its starts."""
        return self.data_dir / "server.log"

    def recent_log(self) -> str:
        """What it wrote since `forget_log`."""
        with self.log.open("rb") as log:
            log.seek(self._log_mark)
            return log.read().decode("utf-8", "replace")

    def forget_log(self) -> None:
        """Let `recent_log` begin here."""
        self._log_mark = self.log.stat().st_size

    # Starting and stopping.

    def start(self) -> HomeServer:
        """Start it, and wait until it serves."""
        self.launch()
        self.wait_until_healthy()
        return self

    def wait_until_healthy(self, seconds: float = 30) -> None:
        """Wait until it serves; it is ended if it never does."""
        try:
            wait_until("the server's health", self._is_healthy, seconds=seconds)
        except BaseException as error:
            self.close()
            error.add_note(f"Its log:\n{self.recent_log()}")
            raise

    def launch(self) -> subprocess.Popen[bytes]:
        """Start its process, without waiting for anything."""
        assert not self.is_running, "it runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._python or sys.executable, "-m", "synapse_like", "run", "--config", self.config],
                cwd=ROOT if self._python is None else self.data_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=dying_with_us(signal.SIGKILL),
            )
        return self._process

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def serves(self) -> bool:
        """Whether it runs, and answers that it is well."""
        return self.is_running and self._is_well()

    def kill9(self) -> None:
        """End it as a power cut would, at whatever point it is."""
        process, everybody = self._its_process(), self.process_ids
        process.kill()
        process.wait()
        for child in everybody[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def ask_to_stop(self) -> None:
        """Send SIGTERM, and do not wait."""
        self._its_process().terminate()

    def wait_for_exit(self, seconds: float = 30) -> int:
        """Wait for the end of its process.

        :returns: the exit code.
        """
        return self._its_process().wait(timeout=seconds)

    def terminate(self, seconds: float = 30) -> int:
        """Send SIGTERM and wait for its end.

        :returns: the exit code.
        """
        self.ask_to_stop()
        return self.wait_for_exit(seconds)

    def restart(self) -> None:
        """Stop it in good order and start it again."""
        code = self.terminate()
        assert code == 0, f"it ended with exit code {code}"
        self.start()

    def close(self) -> None:
        """Make sure that it does not run any more."""
        if self.is_running:
            self.kill9()

    # The operator's commands.

    def command(self, name: str, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        """Run one of the operator's commands on this server's settings.

        :param name: one word or, for one of a group, two: `media status`.
        :param typed: what it reads from standard input.
        """
        return do(*name.split(), "--config", str(self.config), *arguments, typed=typed)

    # What it costs.

    def cpu_seconds(self) -> float:
        """Processor time used by all its processes since it started, in seconds."""
        ticks = 0
        for stat in self._proc("stat"):
            fields = stat.rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # utime and stime, see proc(5)
        return ticks / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Memory that its processes hold, in bytes; what several hold in common is counted for each.

        :raises ProcessLookupError: it does not run.
        """
        if not self.is_running:
            raise ProcessLookupError("it does not run")
        return sum(map(resident_bytes, self.process_ids))

    def _proc(self, file: str) -> list[str]:
        """What the kernel says of each of its processes.

        :raises ProcessLookupError: it does not run.
        """
        if not self.is_running:
            raise ProcessLookupError("it does not run")
        return [Path(f"/proc/{process_id}/{file}").read_text() for process_id in self.process_ids]

    def _its_process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was never started"
        return self._process

    def _is_healthy(self) -> bool:
        if not self.is_running:
            raise RuntimeError("the server ended before it served")
        return self._is_well()

    def _is_well(self) -> bool:
        connection = HTTPConnection(*self.address, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (ConnectionError, TimeoutError):
            return False
        finally:
            connection.close()


def resident_bytes(process_id: int) -> int:
    """Memory that a process holds, in bytes."""
    return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
