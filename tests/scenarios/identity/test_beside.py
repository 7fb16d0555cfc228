"""An identity server beside a home server, in one process; and as one of Twisted's services (ID-1)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.scenarios.conftest import FreshServer
from tests.scenarios.identity.conftest import IdentityServers
from tests.support.client import Client
from tests.support.identity import IdentityServer
from tests.support.processes import dying_with_us, wait_until
from tests.support.server import ROOT


def test_both_serve_and_stop_together(fresh_server: FreshServer, identity_servers: IdentityServers) -> None:
    """ID-1: one process, two servers, each with its own database and key."""
    identity = identity_servers()
    home = fresh_server({"identity_servers.trusted": [identity.url], "identity_servers.beside": str(identity.config)})
    wait_until("the identity server", lambda: _is_healthy(identity))
    alice = Client(home).register("alice")
    sid, secret = identity.validate("alice@example.org")
    credentials = {"idServer": f"127.0.0.1:{identity.port}", "sid": sid, "clientSecret": secret}
    alice.call("POST", "/account/3pid", {"threePidCreds": credentials})
    assert identity.lookup("alice@example.org") == alice.user_id
    home.kill9()
    home.start()
    # Of several processes it is one, and the home server serves before all of them do.
    wait_until("the identity server", lambda: _is_healthy(identity))
    assert identity.lookup("alice@example.org") == alice.user_id
    assert home.terminate() == 0
    log = home.recent_log()
    assert "the identity server has stopped" in log
    assert "the server has stopped" in log


def test_fault_in_the_settings_of_the_one_beside_is_a_sentence(
    fresh_server: FreshServer, identity_servers: IdentityServers
) -> None:
    """ID-1: the operator is told which file is wrong."""
    identity = identity_servers()
    home = fresh_server()
    home.terminate()
    values = yaml.safe_load(home.config.read_text())
    values["identity_servers"] = {"beside": str(identity.config)}
    home.config.write_text(yaml.safe_dump(values))
    identity.set(server_name="a b")
    result = home.command("run")
    assert result.returncode == 1
    assert f"{identity.config}: server_name: " in result.stderr
    assert "Traceback" not in result.stderr


def test_one_database_is_not_for_two_kinds_of_servers(
    fresh_server: FreshServer, identity_servers: IdentityServers
) -> None:
    """ID-1: an identity server that is pointed at a home server's database leaves it alone."""
    home = fresh_server()
    home.terminate()
    identity = identity_servers()
    database = f"sqlite:{home.data_dir / 'homeserver.db'}" if home.database == "sqlite" else home.database
    identity.set(database={"url": database})
    result = identity.command("run")
    assert result.returncode == 1
    assert "of another kind of server" in result.stderr
    home.start()


@pytest.mark.parametrize("is_wrong", [False, True], ids=["settings-right", "settings-wrong"])
def test_twistd_runs_it_or_says_what_is_wrong(identity_servers: IdentityServers, is_wrong: bool) -> None:
    """ID-1: `twistd synapse_like --identity`."""
    identity = identity_servers()
    if is_wrong:
        identity.set(server_name="a b")
    process = subprocess.Popen(
        [
            *(str(Path(sys.executable).with_name("twistd")), "--nodaemon", "--pidfile="),
            *("synapse_like", "--identity", "--config", str(identity.config)),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=dying_with_us(signal.SIGKILL),
    )
    try:
        if not is_wrong:
            wait_until("it to answer", lambda: _is_healthy(identity))
            process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in output
    expected = f"{identity.config}: server_name: " if is_wrong else "the identity server has stopped"
    assert expected in output


def _is_healthy(server: IdentityServer) -> bool:
    try:
        return server.request("GET", "/health").status == 200
    except ConnectionError:
        return False
