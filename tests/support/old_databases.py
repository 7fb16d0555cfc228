"""Makes the databases of older versions that `tests/storage/test_upgrade.py` opens.

    .venv/bin/python -m tests.support.old_databases [COMMIT …]

runs the server of each commit (all that have changed the tables, if none is named: those of `git log --first-parent`,
not those within branches) with a fresh SQLite database, has two users talk in a room, stops it, and writes what is
in the database to `tests/storage/databases/NN-COMMIT.sql.xz`, a few kB, with the signing key in its first line. What
is there stays as it is. NN counts them, oldest first.

Run it when a migration was added and committed, so that the next one finds a database of this one.
"""

from __future__ import annotations

import json
import lzma
import signal
import sqlite3
import subprocess
import sys
import tempfile
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support.processes import dying_with_us, free_port, wait_until

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests/storage/databases"
SCHEMA = "synapse_like/storage/schema"
#: What is in each of them.
SERVER_NAME = "us.example"
USERS = ("alice", "bob")
PASSWORD = "correct horse"
ALIAS = "#here:us.example"
SAID = ("hello, bob", "hello, alice", "goodbye")
KEY_MARK = "-- signing.key: "


def read(file: Path) -> tuple[str, str]:
    """The signing key of the server that a file is of, and the SQL that makes its database."""
    text = lzma.decompress(file.read_bytes()).decode()
    first, _, dump = text.partition("\n")
    return first.removeprefix(KEY_MARK), dump


def commits() -> list[str]:
    """Those that have changed the tables, oldest first."""
    command = ["git", "log", "--first-parent", "--reverse", "--abbrev=7", "--format=%h", "--", SCHEMA]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def dump_of(commit: str) -> str:
    """The SQL that makes the database of a commit's server."""
    with tempfile.TemporaryDirectory() as name:
        code, data = Path(name) / "code", Path(name) / "data"
        code.mkdir()
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", str(code)], input=archive, check=True)
        port = free_port()
        settings = [
            *("client.port", str(port), "registration.mode", "open", "rate_limits.enabled", "false"),
            *("password_hashing.memory_kib", "64", "password_hashing.iterations", "1"),
        ]
        sets = [f"{key}={value}" for key, value in zip(settings[::2], settings[1::2], strict=True)]
        if "federation" in (code / "synapse_like/config.py").read_text().lower().split("class registration")[0]:
            sets.append(f"federation.port={free_port()}")
        arguments = [word for setting in sets for word in ("--set", setting)]
        run(code, "init", "--data-dir", str(data), "--server-name", SERVER_NAME, *arguments)
        with (data / "log").open("wb") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "synapse_like", "run", "--config", str(data / "homeserver.yaml")],
                cwd=code,
                stdout=log,
                stderr=log,
                preexec_fn=dying_with_us(signal.SIGKILL),
            )
        try:
            wait_until("the server's health", lambda: is_healthy(port))
            talk(port)
        finally:
            server.terminate()
            server.wait(60)
        connection = sqlite3.connect(data / "homeserver.db")
        dump = "\n".join(connection.iterdump())
        connection.close()
        return f"{KEY_MARK}{(data / 'signing.key').read_text().strip()}\n{dump}\n"


def run(code: Path, *words: str) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "synapse_like", *words], cwd=code, capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise SystemExit(f"{words[0]} failed:\n{made.stdout}{made.stderr}")


def is_healthy(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def talk(port: int) -> None:
    """Have two users talk in a room."""
    tokens = {name: ask(port, "POST", "/register", credentials(name))["access_token"] for name in USERS}
    wish = {"visibility": "public", "room_alias_name": "here", "name": "Here", "topic": "there"}
    room = ask(port, "POST", "/createRoom", wish, tokens["alice"])["room_id"]
    ask(port, "POST", f"/join/{quote(room)}", {}, tokens["bob"])
    for name, text in zip((*USERS, USERS[0]), SAID, strict=True):
        content = {"msgtype": "m.text", "body": text}
        ask(port, "POST", f"/rooms/{quote(room)}/send/m.room.message", content, tokens[name])
    ask(port, "PUT", f"/rooms/{quote(room)}/state/m.room.topic", {"topic": "here"}, tokens["alice"])


def credentials(name: str) -> dict[str, str]:
    """What one registers and logs in by."""
    return {"type": "m.login.password", "user": name, "password": PASSWORD}


def ask(port: int, method: str, path: str, body: object, token: str = "") -> Any:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection.request(method, f"/_matrix/client/api/v1{path}", json.dumps(body), headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    if response.status != 200:
        raise SystemExit(f"{method} {path}: {response.status} {answer}")
    return answer


def main() -> None:
    """Make what is not there yet."""
    FOLDER.mkdir(exist_ok=True)
    for commit in sys.argv[1:] or commits():
        there = sorted(FOLDER.glob("*.sql.xz"))
        if any(file.name.endswith(f"-{commit}.sql.xz") for file in there):
            continue
        file = FOLDER / f"{len(there) + 1:02}-{commit}.sql.xz"
        file.write_bytes(lzma.compress(dump_of(commit).encode(), preset=9))
        sys.stdout.write(f"{file.name}: {file.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
