"""The demo in a folder of its own, on ports of its own, used by its scripts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.support.client import Client
from tests.support.processes import free_port

HERE = Path(__file__).parents[2] / "demo"
#: Who lives on the servers, one on each.
NAMES = ("alice", "bob", "carol")
PASSWORD = "tea-for-three"

Finished = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class DemoServer:
    """One of its servers.

    :ivar folder: its data directory.
    :ivar port: where clients connect.
    """

    name: str
    folder: Path
    port: int

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect."""
        return ("127.0.0.1", self.port)

    @property
    def url(self) -> str:
        """What a person types into a browser."""
        return f"http://localhost:{self.port}"

    @property
    def log(self) -> Path:
        """What it wrote, over all its starts."""
        return self.folder / "server.log"

    def kill9(self) -> None:
        """End it as a power cut would."""
        os.kill(int((self.folder / "server.pid").read_text()), signal.SIGKILL)


class Demo:
    """Three servers, which are made and started by `demo/start.sh`.

    :param folder: where they keep everything.
    :ivar environment: what keeps them apart from those of another demo; may be changed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client_ports = [free_port() for _ in NAMES]
        self.server_ports = [free_port() for _ in NAMES]
        self.environment = {
            **os.environ,
            "COLUMNS": "120",
            "DEMO_DATA": str(folder),
            "DEMO_PYTHON": sys.executable,
            "DEMO_CLIENT_PORTS": " ".join(map(str, self.client_ports)),
            "DEMO_SERVER_PORTS": " ".join(map(str, self.server_ports)),
        }

    @cached_property
    def servers(self) -> list[DemoServer]:
        """All three."""
        ports = zip(self.client_ports, self.server_ports, strict=True)
        return [
            DemoServer(f"localhost:{server_port}", self.folder / str(number), client_port)
            for number, (client_port, server_port) in enumerate(ports, start=1)
        ]

    @property
    def room(self) -> str:
        """The ID of the room that is ready."""
        return (self.folder / "room").read_text().strip()

    def people(self) -> list[Client]:
        """Those who live there, logged in anew."""
        pairs = zip(NAMES, self.servers, strict=True)
        return [Client(server).login(name, PASSWORD) for name, server in pairs]

    def try_script(self, name: str, *arguments: str) -> Finished:
        """Run a script, which may fail."""
        return self._run(str(HERE / name), *arguments)

    def script(self, name: str, *arguments: str) -> str:
        """Run a script; what it says."""
        done = self.try_script(name, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def python(self, program: str) -> Finished:
        """Run a program among the files of the demo."""
        return self._run(sys.executable, "-c", f"import sys; sys.path.insert(0, {str(HERE)!r})\n{program}")

    def close(self) -> None:
        """Stop everything and remove it."""
        self.try_script("clean.sh")

    def _run(self, *words: str) -> Finished:
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=110, check=False)
