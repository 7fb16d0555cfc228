"""The reference server of the field, Synapse, as something to measure beside ours.

It is run and asked, nothing else. It lives in a venv of its own, outside of this project, into which it is installed
from PyPI when it is not there yet; its PostgreSQL driver needs `pg_config` for that (`apt-get install libpq-dev`). Its
settings are those of an operator, but for what `tests.support.server.QUICK` means: no rate limits, passwords that
cost little. To other servers on this machine it speaks by TLS, and does not check their certificates.
"""

from __future__ import annotations

import secrets
import signal
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import yaml

from bench.support.installed import install, make
from bench.support.lines import request
from bench.support.subject import Kind
from tests.support.processes import dying_with_us, free_port

PACKAGE = "matrix-synapse[postgres]"
#: So many in a second is no limit.
_ANY = {"per_second": 1e6, "burst_count": 1_000_000}
#: What API v1 has and this server no longer answers there, and where it is asked instead.
ASKED_ELSEWHERE = {"register": "/_matrix/client/v3/register"}


def installed(venv: Path) -> tuple[Path, str]:
    """Install it, if it is not there; the Python that runs it, and its version.

    :raises subprocess.CalledProcessError: that failed.
    """
    python = make(venv)
    tell: list[str | Path] = [python, "-c", "from importlib.metadata import version; print(version('matrix-synapse'))"]
    if subprocess.run(tell, capture_output=True, check=False).returncode:
        install(python, PACKAGE)
    return python, subprocess.run(tell, capture_output=True, text=True, check=True).stdout.strip()


def reference(python: Path) -> Kind:
    """This kind of home server.

    :param python: what runs it.
    """
    return Kind(partial(ReferenceServer, python), _registration)


def _registration(name: str, password: str) -> bytes:
    body = {"username": name, "password": password, "auth": {"type": "m.login.dummy"}}
    return request("POST", "/register", body, prefix="/_matrix/client/v3")


class ReferenceServer:
    """One home server with its data directory, made for a `Subject`.

    :param python: what runs it.
    :param database: `sqlite`, or the URL of an empty PostgreSQL database.
    :param settings: those of our own server; what of them matters here is done likewise.
    """

    def __init__(self, python: Path, data_dir: Path, database: str, settings: Mapping[str, object]) -> None:
        self.data_dir = data_dir
        self._python = python
        self._port, self._federation_port = free_port(), free_port()
        data_dir.mkdir(parents=True)
        self._config = data_dir / "homeserver.yaml"
        self._config.write_text(yaml.safe_dump(self._settings(database, settings)))
        subprocess.run([*self._command(), "--generate-keys"], cwd=data_dir, check=True, capture_output=True)

    def _command(self) -> list[str | Path]:
        return [self._python, "-m", "synapse.app.homeserver", "--config-path", self._config]

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect."""
        return ("127.0.0.1", self._port)

    @property
    def name(self) -> str:
        """By which others find it."""
        return f"localhost:{self._federation_port}"

    @property
    def _log(self) -> Path:
        return self.data_dir / "server.log"

    def recent_log(self) -> str:
        """What it wrote, the last of it."""
        return self._log.read_text(errors="replace")[-10_000:]

    def launch(self) -> subprocess.Popen[bytes]:
        """Start its process, without waiting for anything."""
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command(),
                cwd=self.data_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=dying_with_us(signal.SIGKILL),
            )

    def _settings(self, database: str, ours: Mapping[str, object]) -> dict[str, object]:
        certificate, key = ours.get("federation.tls_certificate"), ours.get("federation.tls_private_key")
        listeners = [_listener(self._port, "client")]
        if certificate is not None:
            listeners.append({**_listener(self._federation_port, "federation"), "tls": True})
        folder = str(self.data_dir)
        return {
            "server_name": self.name,
            "listeners": listeners,
            "database": _database(self.data_dir, database),
            "pid_file": f"{folder}/pid",
            "media_store_path": f"{folder}/media",
            "signing_key_path": f"{folder}/signing.key",
            "macaroon_secret_key": secrets.token_urlsafe(),
            "form_secret": secrets.token_urlsafe(),
            "report_stats": False,
            "enable_registration": True,
            "enable_registration_without_verification": True,
            "bcrypt_rounds": 4,
            "presence": {"enabled": bool(ours.get("presence.enabled", True))},
            # Ours lists the rooms that ask for it.
            "room_list_publication_rules": [{"action": "allow"}],
            "tls_certificate_path": certificate,
            "tls_private_key_path": key,
            "federation_verify_certificates": False,
            "ip_range_blacklist": [],
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            **_no_limits(),
        }


def _listener(port: int, resource: str) -> dict[str, object]:
    addresses = ["127.0.0.1"]
    return {"port": port, "type": "http", "bind_addresses": addresses, "resources": [{"names": [resource]}]}


def _database(folder: Path, database: str) -> dict[str, object]:
    if database == "sqlite":
        return {"name": "sqlite3", "args": {"database": str(folder / "homeserver.db")}}
    url = urlsplit(database)
    [host] = parse_qs(url.query)["host"]
    arguments = {"user": url.username, "database": url.path[1:], "host": host, "cp_min": 5, "cp_max": 10}
    return {"name": "psycopg2", "args": arguments}


def _no_limits() -> dict[str, object]:
    return {
        **{f"rc_{what}": _ANY for what in ("message", "registration", "joins_per_room", "room_creation")},
        "rc_presence": {"per_user": _ANY},
        "rc_login": {"address": _ANY, "account": _ANY, "failed_attempts": _ANY},
        "rc_joins": {"local": _ANY, "remote": _ANY},
        "rc_invites": {"per_room": _ANY, "per_user": _ANY, "per_issuer": _ANY},
        "rc_federation": {"sleep_limit": 1_000_000, "reject_limit": 1_000_000, "concurrent": 1000},
    }
