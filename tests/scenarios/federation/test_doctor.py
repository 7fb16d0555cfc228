"""`synapse_like doctor`: what it finds well, and what it finds wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.identity_server import IdentityServer
from tests.support.needed import needed
from tests.support.processes import free_port
from tests.support.server import ROOT, HomeServer
from tests.support.smtp_server import SmtpServer
from tests.support.turn import HOW_TO_INSTALL, Coturn, find_coturn

SECRET = "what coturn and the server share"

Findings = dict[str, list[dict[str, str]]]


@pytest.fixture(scope="module")
def coturn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coturn]:
    server = Coturn(needed(find_coturn(), "COTURN", HOW_TO_INSTALL), tmp_path_factory.mktemp("coturn"), SECRET)
    yield server
    server.stop()


@contextmanager
def settings_like(server: HomeServer, more: dict[str, dict[str, Any]]) -> Iterator[Path]:
    """A settings file beside that of a server, which says something else."""
    settings = yaml.safe_load(server.config.read_text())
    for heading, section in more.items():
        settings[heading] = {**(settings.get(heading) or {}), **section}
    path = server.data_dir / "otherwise.yaml"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(settings))
    yield path
    path.unlink()


def doctor(config: Path, *arguments: str) -> tuple[int, Findings]:
    """Its exit code, and what it finds, by check."""
    words = [sys.executable, "-m", "synapse_like", "doctor", "--config", str(config), "--json", *arguments]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    found: Findings = {}
    for finding in json.loads(done.stdout):
        found.setdefault(finding["check"], []).append(finding)
    return done.returncode, found


def states(findings: Findings, check: str) -> set[str]:
    return {finding["state"] for finding in findings[check]}


def test_everything_that_is_well_is_found_so(
    server_a: HomeServer, server_b: HomeServer, coturn: Coturn, tmp_path: Path
) -> None:
    smtp, identity = SmtpServer(tmp_path).start(), IdentityServer()
    more = {
        "voip": {"turn_uris": [coturn.uri], "shared_secret": SECRET},
        "mail": {"host": "127.0.0.1", "port": smtp.port, "security": "none"},
        "identity_servers": {"trusted": [identity.url]},
    }
    try:
        with settings_like(server_a, more) as config:
            code, found = doctor(config, "--ask", server_b.name)
            assert not smtp.has_new(), "nobody has asked for a letter"
            sent, _ = doctor(config, "--mail-to", "operator@example.org")
            assert smtp.next_letter().subject == "A letter to see whether letters arrive"
    finally:
        smtp.stop()
        identity.stop()
    # The tests' servers are on no address of the internet, their certificates are good for some days, and their
    # databases do not wait for the disk.
    elsewhere = ("DNS", "certificate", "durability")
    assert all("fault" not in states(found, check) for check in elsewhere)
    assert {check: states(found, check) for check in found if check not in elsewhere} == {
        check: {"ok"}
        for check in (
            *("settings", "signing key", "data directory", "database", "server", "clock", "federation"),
            *("from outside", "calls", "mail", "identity"),
        )
    }
    assert (code, sent) == (0, 0)


def test_everything_that_is_wrong_is_found(server_a: HomeServer, server_b: HomeServer, coturn: Coturn) -> None:
    nobody = free_port()
    more = {
        "client": {"port": nobody},
        "voip": {"turn_uris": [coturn.uri, f"turn:127.0.0.1:{nobody}?transport=tcp"], "shared_secret": "another one"},
        "mail": {"host": "localhost", "port": nobody},
        "identity_servers": {"trusted": [f"http://127.0.0.1:{nobody}"]},
        # Not the certificate of the one who is asked for under our name.
        "federation": {
            "tls_certificate": str(server_b.data_dir / "tls.crt"),
            "tls_private_key": str(server_a.data_dir / "tls.key"),
        },
    }
    with settings_like(server_a, more) as config:
        config.chmod(0o644)
        code, found = doctor(config, "--ask", f"localhost:{nobody}")
    assert code == 1
    assert "warning" in states(found, "settings")
    assert states(found, "server") == {"warning"}
    assert states(found, "clock") == {"warning"}
    assert states(found, "certificate") == {"fault"}
    assert states(found, "from outside") == {"warning"}
    assert "does not take our credentials" in found["calls"][0]["sentence"]
    assert [finding["state"] for finding in found["calls"]] == ["fault", "fault"]
    assert states(found, "mail") == {"fault"}
    assert states(found, "identity") == {"fault"}
    assert all(finding["advice"] for findings in found.values() for finding in findings if finding["state"] == "fault")


def test_key_that_is_not_the_one_that_is_shown_is_found(server_a: HomeServer, server_b: HomeServer) -> None:
    """As if somebody else's server answered under our name."""
    with settings_like(server_a, {}) as config:
        text = yaml.safe_load(config.read_text())
        config.write_text(yaml.safe_dump({**text, "signing_key_file": str(server_b.data_dir / "signing.key")}))
        code, found = doctor(config)
    assert code == 1
    assert "has other keys than this one" in found["federation"][0]["sentence"]


def test_it_is_told_what_may_be_lost_of_what_was_acknowledged(server_a: HomeServer) -> None:
    with settings_like(server_a, {"database": {"durability": "full"}}) as config:
        _, whole = doctor(config)
    with settings_like(server_a, {"database": {"durability": "normal"}}) as config:
        code, found = doctor(config)
    more = {finding["sentence"] for finding in found["durability"]} - {
        finding["sentence"] for finding in whole["durability"]
    }
    assert any("may take the last moments" in sentence for sentence in more)
    assert (code, states(found, "durability")) == (0, {"warning"})


def test_settings_that_cannot_be_read_are_a_fault(tmp_path: Path) -> None:
    config = tmp_path / "homeserver.yaml"
    config.write_text("server_name: localhost:8448\nclient: {prot: 1}\n")
    code, found = doctor(config)
    assert code == 1
    assert "did you mean port?" in found["settings"][0]["sentence"]
