"""Settings that a running server takes over at SIGHUP, and those that it does not."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from synapse_like.app.reloading import Reloading
from synapse_like.config import Config, load, parse
from tests.support.client import Client, refused
from tests.support.processes import wait_until
from tests.support.server import QUICK, HomeServer


def settings(tmp_path: Path, **sections: Any) -> Config:
    return parse({"server_name": "localhost", **sections}, source="test", folder=tmp_path, environ={})


def test_what_nobody_takes_over_is_named_until_the_restart(tmp_path: Path) -> None:
    taken: list[object] = []
    files = [
        settings(tmp_path, log={"level": "debug"}, client={"port": 9001}),
        settings(tmp_path, log={"level": "error"}, client={"port": 9001}),
    ]
    takes = {"log": lambda config: taken.append(config.log.level)}
    reloading = Reloading(settings(tmp_path), lambda: files.pop(0), takes)
    with capture_logs() as logged:
        reloading.reload()
        reloading.reload()
    assert taken == ["debug", "error"]
    assert [line["taken_over"] for line in logged if "taken_over" in line] == [["log.level"], ["log.level"]]
    assert [line["settings"] for line in logged if "settings" in line] == [["client.port"], ["client.port"]]


def test_hangup_changes_a_running_server_and_a_faulty_file_does_not(tmp_path: Path) -> None:
    server = HomeServer(tmp_path / "data", "sqlite", {**QUICK, "rate_limits.enabled": True})
    config = server.config.read_text()
    try:
        server.start()
        alice = Client(server).register("alice")
        room = alice.create_room()
        hang_up(server, config.replace("#level: info", "level: warning").replace("  port:", "  prot:", 1))
        wait_until("the fault", lambda: "the settings cannot be used and stay as they were" in server.recent_log())
        assert "did you mean port?" in server.recent_log()
        alice.send(room, "still there")

        sends = "#send: {per_second: 10, burst: 50}"
        assert sends in config, "the test knows how the default is written"
        changed = config.replace(sends, "send: {per_second: 0.001, burst: 1}").replace("#readers: 2", "readers: 3")
        hang_up(server, changed)
        wait_until("the change", lambda: "the settings were read again" in server.recent_log())
        assert "rate_limits.classes.send" in server.recent_log()
        assert "database.readers" in server.recent_log()
        with refused(429, "M_LIMIT_EXCEEDED"):
            for _ in range(3):
                alice.send(room, "too much")

        hang_up(server, changed.replace("#level: info", "level: warning"))
        wait_until("silence", lambda: is_silent(server, alice))
        assert server.terminate() == 0
    finally:
        server.close()
    assert load(server.config, {}).log.level == "warning"


def hang_up(server: HomeServer, text: str) -> None:
    server.config.write_text(text)
    assert server.process_id is not None
    os.kill(server.process_id, signal.SIGHUP)


def is_silent(server: HomeServer, client: Client) -> bool:
    """Whether a request leaves no line in the log any more."""
    server.forget_log()
    client.call("GET", "/initialSync")
    return "answered" not in server.recent_log()
