"""The three servers of the demo: making, starting, stopping and removing them.

The scripts beside this file call it by `commands.py`, and `conversation.py` asks it where the servers are. All of it
lies in a folder:

    ports           a line for each server: its port for clients, and that for other servers
    ca.crt ca.key   the authority whose certificates the servers trust
    room            the ID of the room that `room.py` has made, once it is ready
    1/ 2/ 3/        the data directory of each server, with its server.log and, while it runs, its server.pid

It uses nothing but the standard library where it stops and removes, so that any Python can do that.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

DATA = "DEMO_DATA"
CLIENT_PORTS, SERVER_PORTS = "DEMO_CLIENT_PORTS", "DEMO_SERVER_PORTS"
DEFAULT_PORTS = {CLIENT_PORTS: "8081 8082 8083", SERVER_PORTS: "8481 8482 8483"}
OTHER_PORTS = {CLIENT_PORTS: "9081 9082 9083", SERVER_PORTS: "9481 9482 9483"}

HOST = "localhost"
START_SECONDS = 60
STOP_SECONDS = 20

#: What `init` is told beside names and ports. Whoever plays with the demo is not to be slowed down.
SETTINGS: dict[str, object] = {
    "federation.ca_file": "../ca.crt",
    "federation.allow_private_addresses": True,
    "registration.mode": "open",
    **{
        f"rate_limits.classes.{name}": {"per_second": 100, "burst": 1000}
        for name in ("login", "registration", "send", "read", "federation", "strangers")
    },
}


class DemoError(Exception):
    """Something stands in the way that a person can mend; says what."""


@dataclass(frozen=True)
class Server:
    """One of the servers.

    :ivar number: 1, 2 or 3.
    :ivar folder: its data directory.
    """

    number: int
    folder: Path
    client_port: int
    server_port: int

    @property
    def name(self) -> str:
        """What stands behind the colon in the names of its users."""
        return f"{HOST}:{self.server_port}"

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://{HOST}:{self.client_port}"

    @property
    def config(self) -> Path:
        return self.folder / "homeserver.yaml"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def pid_file(self) -> Path:
        return self.folder / "server.pid"

    def pid(self) -> int | None:
        """The ID of its process; None if it does not run.

        A file may be left from long ago, when its number meant another process: this looks whose it is.
        """
        try:
            pid = int(self.pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if str(self.config).encode() in command.split(b"\0") else None

    def is_healthy(self) -> bool:
        """Whether it serves."""
        connection = HTTPConnection("127.0.0.1", self.client_port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()


# Which servers there are.


def data_folder() -> Path:
    """Where everything lies."""
    return Path(os.environ.get(DATA) or HERE / "data").absolute()


def find_servers() -> list[Server]:
    """The three servers, with the ports that they were made with or, if there are none yet, will be made with.

    :raises DemoError: what the environment says of ports makes no sense.
    """
    folder = data_folder()
    pairs = _read_ports(folder / "ports") or _wanted_ports()
    return [Server(number, folder / str(number), *pair) for number, pair in enumerate(pairs, start=1)]


def _read_ports(file: Path) -> list[tuple[int, int]]:
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(int(client), int(server)) for client, server in (line.split() for line in lines)]


def _wanted_ports() -> list[tuple[int, int]]:
    clients, servers = (_parse_ports(variable, os.environ.get(variable)) for variable in DEFAULT_PORTS)
    return list(zip(clients, servers, strict=True))


def _parse_ports(variable: str, text: str | None) -> list[int]:
    words = (text or DEFAULT_PORTS[variable]).split()
    ports = [int(word) for word in words if word.isdecimal() and 0 < int(word) < 65536]
    if len(words) != 3 or len(set(ports)) != 3:
        raise DemoError(f"{variable} must be three different ports, such as '{DEFAULT_PORTS[variable]}'")
    return ports


def see_that_nobody_wants_other_ports(servers: Sequence[Server]) -> None:
    """The ports are part of the servers' names, which cannot change."""
    asked = any(os.environ.get(variable) for variable in DEFAULT_PORTS)
    if asked and _wanted_ports() != [(server.client_port, server.server_port) for server in servers]:
        clients = " ".join(str(server.client_port) for server in servers)
        others = " ".join(str(server.server_port) for server in servers)
        raise DemoError(
            f"The servers in {data_folder()} were made with {CLIENT_PORTS}='{clients}' {SERVER_PORTS}='{others}'.\n"
            f"To begin anew with other ports, remove them first: {shown(HERE / 'clean.sh')}"
        )


def choose(servers: Sequence[Server], words: Sequence[str]) -> list[Server]:
    """The servers with the given numbers; all if none is given.

    :raises DemoError: there is no such server.
    """
    numbers = {str(server.number) for server in servers}
    for word in words:
        if word not in numbers:
            raise DemoError(f"There is no server {word}: they are {', '.join(sorted(numbers))}.")
    return [server for server in servers if not words or str(server.number) in words]


# Starting.


def start(servers: Sequence[Server]) -> None:
    """Make and start those servers that do not run, and wait until they serve.

    :raises DemoError: one of them cannot.
    """
    to_start = []
    for server in servers:
        if server.pid() is None:
            to_start.append(server)
        else:
            print(f"{server.name} runs already")
    _see_that_ports_are_free(to_start)
    for server in to_start:
        _make(server)
    processes = [(server, _launch(server)) for server in to_start]
    for server, process in processes:
        _wait_until_healthy(server, process)
        print(f"{server.name} has started")


def _see_that_ports_are_free(servers: Sequence[Server]) -> None:
    faults = []
    for server in servers:
        for port, variable in ((server.client_port, CLIENT_PORTS), (server.server_port, SERVER_PORTS)):
            reason = _why_not(port)
            if reason is not None:
                faults.append(f"Port {port} ({variable}) of server {server.number} {reason}.")
    if faults:
        clean = f"{shown(HERE / 'clean.sh')} && " if (data_folder() / "ports").exists() else ""
        ports = " ".join(f"{variable}='{ports}'" for variable, ports in OTHER_PORTS.items())
        faults.append(f"To take other ports: {clean}{ports} {shown(HERE / 'start.sh')}")
        raise DemoError("\n".join(faults))


def _why_not(port: int) -> str | None:
    """Why a port cannot be listened on; None if it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return "is in use by another program" if error.errno == errno.EADDRINUSE else f"cannot be had: {error}"
    return None


def _make(server: Server) -> None:
    """Make the server's data directory, unless it is there: by `init`, with a certificate from an authority."""
    from certificates import make  # here, since only starting has the libraries that it needs

    server.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ports = server.folder.parent / "ports"
    if not ports.exists():
        pairs = [(other.client_port, other.server_port) for other in find_servers()]
        ports.write_text("".join(f"{client} {federation}\n" for client, federation in pairs))
    if server.config.exists() and (server.folder / "signing.key").exists():
        return
    make(server.folder.parent, HOST, server.folder / "tls.crt", server.folder / "tls.key")
    sets = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    words = ["init", "--data-dir", str(server.folder), "--server-name", server.name]
    words += ["--client-port", str(server.client_port), "--federation-port", str(server.server_port), *sets]
    made = subprocess.run(_program(*words), cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False)
    if made.returncode:
        raise DemoError(f"{server.folder} cannot be made:\n{made.stdout}{made.stderr}")


def _launch(server: Server) -> subprocess.Popen[bytes]:
    """Start its process, which outlives ours."""
    with server.log.open("ab") as log:
        process = subprocess.Popen(
            _program("run", "--config", str(server.config)),
            cwd=ROOT,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    server.pid_file.write_text(f"{process.pid}\n")
    return process


def _program(*words: str) -> list[str]:
    return [sys.executable, "-m", "synapse_like", *words]


def _environment() -> dict[str, str]:
    """Ours, without what is meant for another server."""
    return {key: value for key, value in os.environ.items() if not key.startswith("SYNAPSE_LIKE_")}


def _wait_until_healthy(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not server.is_healthy():
        if process.poll() is not None:
            last_words = "\n".join(server.log.read_text("utf-8", "replace").splitlines()[-5:])
            raise DemoError(f"{server.name} ended at once. {server.log} ends with:\n{last_words}")
        if time.monotonic() > deadline:
            raise DemoError(f"{server.name} does not answer after {START_SECONDS} seconds; see {server.log}")
        time.sleep(0.1)


def shown(path: Path) -> str:
    """A path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


# Stopping.


def stop(servers: Sequence[Server]) -> None:
    """Stop those servers that run, and wait until they have."""
    running = [(server, pid) for server in servers if (pid := server.pid()) is not None]
    for _, pid in running:
        os.kill(pid, signal.SIGTERM)
    for server, pid in running:
        if not _is_gone_within(STOP_SECONDS, server):
            os.kill(pid, signal.SIGKILL)
            _is_gone_within(STOP_SECONDS, server)
            print(f"{server.name} did not stop within {STOP_SECONDS} seconds and has been killed; see {server.log}")
        else:
            print(f"{server.name} has stopped")
    for server in servers:
        server.pid_file.unlink(missing_ok=True)
    if not running:
        print("Nothing runs.")


def _is_gone_within(seconds: float, server: Server) -> bool:
    deadline = time.monotonic() + seconds
    while server.pid() is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def clean(servers: Sequence[Server]) -> None:
    """Stop the servers and remove what they have, and nothing that somebody else has put there."""
    stop(servers)
    folder = data_folder()
    if not folder.exists():
        return
    for server in servers:
        if server.folder.exists():
            shutil.rmtree(server.folder)
    for name in ("ports", "ca.crt", "ca.key", "room"):
        (folder / name).unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError as error:
        raise DemoError(f"{folder} is not empty, so it stays: {error.strerror}") from error
    print(f"Removed {shown(folder)}")
