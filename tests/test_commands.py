"""The operator's command line: what each command does, says, and refuses (LOGIN-11, ROOM-8)."""

from __future__ import annotations

import gc
import os
import signal
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from signedjson.key import read_signing_keys

from synapse_like import __version__
from synapse_like.app.parts import engine_of
from synapse_like.commands import main
from synapse_like.config import Config, load
from synapse_like.federation.own_keys import read_signing_file
from synapse_like.federation.tls import ServerTls
from synapse_like.storage import destinations
from synapse_like.storage.connections import Connection
from synapse_like.storage.destinations import Destination
from tests.support.processes import dying_with_us, free_port, wait_until

CHECKOUT = Path(__file__).parent.parent
TWISTD = [str(Path(sys.executable).with_name("twistd")), "--nodaemon", "--pidfile="]
#: Seconds in which a server must start, or stop.
DEADLINE = 30


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def config_file(data_dir: Path) -> Path:
    """The settings of a new server."""
    assert init(data_dir).exit_code == 0
    return data_dir / "homeserver.yaml"


def command(*arguments: str | Path, typed: str = "") -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=typed)


def init(data_dir: Path, *options: str, server_name: str = "localhost:8448") -> Result:
    return command("init", "--data-dir", data_dir, "--server-name", server_name, *options)


def settings(data_dir: Path) -> Config:
    return load(data_dir / "homeserver.yaml", {})


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def assert_refused(result: Result, sentence: str) -> None:
    """It said why on standard error, and that was all."""
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


# init


def test_init_writes_settings_that_only_the_owner_can_read(data_dir: Path) -> None:
    result = init(data_dir, "--client-port", "9001", "--federation-port", "9002", "--bind", "::1")
    assert result.exit_code == 0
    assert permissions(data_dir) == 0o700
    assert permissions(data_dir / "homeserver.yaml") == 0o600
    written = settings(data_dir)
    assert written.server_name == "localhost:8448"
    assert written.client.port == 9001
    assert written.federation.port == 9002
    assert written.client.bind == ("::1",)
    assert written.database.url == "sqlite"


def test_init_says_where_to_chat_if_anywhere(data_dir: Path, tmp_path: Path) -> None:
    assert "open http://127.0.0.1:9001/ in a browser" in init(data_dir, "--client-port", "9001").output
    proxied = init(tmp_path / "proxied", "--set", "client.public_url=https://chat.example.org/")
    assert "open https://chat.example.org/ in a browser" in proxied.output
    assert "browser" not in init(tmp_path / "none", "--set", "webclient.enabled=false").output


def test_init_writes_a_signing_key_that_only_the_owner_can_read(data_dir: Path) -> None:
    init(data_dir)
    path = data_dir / "signing.key"
    assert permissions(path) == 0o600
    with path.open() as file:
        (key,) = read_signing_keys(file)
    assert key.alg == "ed25519"
    assert key.version.startswith("a_")


def test_every_server_gets_its_own_key(tmp_path: Path) -> None:
    init(tmp_path / "a")
    init(tmp_path / "b")
    assert (tmp_path / "a" / "signing.key").read_text() != (tmp_path / "b" / "signing.key").read_text()


def test_init_again_keeps_what_is_there_and_says_so(data_dir: Path) -> None:
    init(data_dir, server_name="Example.org")
    before = {path.name: path.read_bytes() for path in data_dir.iterdir()}
    result = init(data_dir, "--client-port", "9001", server_name="EXAMPLE.ORG")
    assert result.exit_code == 0
    assert f"Kept {data_dir / 'homeserver.yaml'}" in result.output
    assert f"Kept {data_dir / 'signing.key'}" in result.output
    assert {path.name: path.read_bytes() for path in data_dir.iterdir()} == before


def test_init_does_what_an_interrupted_one_left_undone(data_dir: Path) -> None:
    init(data_dir)
    (data_dir / "signing.key").unlink()
    (data_dir / ".signing.key.unfinished").write_text("ed255")
    result = init(data_dir)
    assert f"Wrote {data_dir / 'signing.key'}" in result.output
    assert sorted(path.name for path in data_dir.iterdir()) == ["homeserver.yaml", "signing.key", "tls.crt", "tls.key"]


def test_init_for_another_server_is_refused(data_dir: Path) -> None:
    init(data_dir)
    assert_refused(init(data_dir, server_name="example.org"), "is for another server, localhost:8448")


@pytest.mark.parametrize(
    ("bind", "mode"), [("127.0.0.1", "open"), ("::1", "open"), ("0.0.0.0", "closed"), ("::", "closed")]
)
def test_registration_is_open_only_where_nobody_else_comes_in(data_dir: Path, bind: str, mode: str) -> None:
    init(data_dir, "--bind", bind)
    assert settings(data_dir).registration.mode == mode


def test_any_setting_can_be_set(data_dir: Path) -> None:
    init(
        data_dir,
        *("--set", "log.level=debug"),
        *("--set", "client.trusted_proxies=[127.0.0.1]"),
        *("--set", "rate_limits.classes.send={per_second: 2, burst: 3}"),
        *("--set", "registration.mode=closed"),
    )
    written = settings(data_dir)
    assert written.log.level == "debug"
    assert written.client.trusted_proxies == ("127.0.0.1/32",)
    assert written.rate_limits.classes.send.burst == 3
    assert written.registration.mode == "closed"


def test_registration_by_token_gets_a_token(data_dir: Path) -> None:
    init(data_dir, "--set", "registration.mode=token")
    assert len(settings(data_dir).registration.tokens) == 1


def test_impossible_settings_leave_nothing_behind(data_dir: Path) -> None:
    result = init(data_dir, "--bind", "localhost", "--database", "mysql://h", "--set", "log.levle=debug")
    for key in ("client.bind[0]", "database.url", "log.levle"):
        assert_refused(result, f"init: {key}: ")
    assert not data_dir.exists()


def test_value_where_a_heading_must_be_is_refused(data_dir: Path) -> None:
    assert_refused(init(data_dir, "--set", "registration=open"), "init: registration: must be a mapping")


@pytest.mark.parametrize("assignment", ["log.level", "=x", "log..level=x", "server_name.x=1", "log.level=["])
def test_malformed_assignment_is_refused(data_dir: Path, assignment: str) -> None:
    result = init(data_dir, "--set", assignment)
    assert result.exit_code == 2
    assert repr(assignment) in result.stderr
    assert not data_dir.exists()


def test_data_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(init(tmp_path / "file" / "data"), "Not a directory")


@pytest.mark.parametrize(
    ("server_name", "named"),
    [
        ("Example.org:8448", "example.org"),
        ("127.0.0.1:8448", ip_address("127.0.0.1")),
        ("[::1]:8448", ip_address("::1")),
        (f"{'a' * 63}.{'b' * 63}.example.org", f"{'a' * 63}.{'b' * 63}.example.org"),
    ],
)
def test_init_makes_a_certificate_for_the_server_name(data_dir: Path, server_name: str, named: object) -> None:
    assert init(data_dir, server_name=server_name).exit_code == 0
    assert permissions(data_dir / "tls.key") == 0o600
    certificate = x509.load_pem_x509_certificate((data_dir / "tls.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [named]
    ServerTls(data_dir / "tls.crt", data_dir / "tls.key")


def test_init_makes_the_certificate_for_a_key_that_is_there(data_dir: Path) -> None:
    init(data_dir)
    (data_dir / "tls.crt").unlink()
    key = (data_dir / "tls.key").read_bytes()
    assert f"Kept {data_dir / 'tls.key'}" in init(data_dir).output
    assert (data_dir / "tls.key").read_bytes() == key
    ServerTls(data_dir / "tls.crt", data_dir / "tls.key")


@pytest.mark.parametrize(
    "settings",
    [
        ["federation.enabled=false"],
        ["federation.tls=false"],
        ["federation.tls_certificate=/a/b.crt", "federation.tls_private_key=/a/b.key"],
    ],
)
def test_init_makes_no_certificate_that_is_not_wanted(data_dir: Path, settings: list[str]) -> None:
    init(data_dir, *(word for setting in settings for word in ("--set", setting)))
    assert sorted(path.name for path in data_dir.iterdir()) == ["homeserver.yaml", "signing.key"]


# rotate-key


def test_rotate_key_puts_a_new_key_in_front(config_file: Path, data_dir: Path) -> None:
    [old] = read_signing_file(data_dir / "signing.key")
    result = command("rotate-key", "--config", config_file)
    new, kept = read_signing_file(data_dir / "signing.key")
    assert result.exit_code == 0
    assert f"{new.alg}:{new.version}" in result.output
    assert (kept.version, bytes(kept)) == (old.version, bytes(old))
    assert new.version != old.version
    assert permissions(data_dir / "signing.key") == 0o600


def test_rotate_key_without_a_key_is_a_sentence(config_file: Path, data_dir: Path) -> None:
    (data_dir / "signing.key").unlink()
    assert_refused(command("rotate-key", "--config", config_file), "cannot read the signing key")


# check-config


def test_check_config_says_ok(config_file: Path) -> None:
    result = command("check-config", "--config", config_file)
    assert (result.exit_code, result.stdout) == (0, "OK\n")


def test_check_config_names_all_faults(config_file: Path) -> None:
    config_file.write_text("server_name: a b\nclient: {prot: 1}\n")
    result = command("check-config", "--config", config_file)
    assert_refused(result, f"{config_file}: server_name: ")
    assert_refused(result, f"{config_file}: client.prot: is not a setting; did you mean port?")


# The commands that work on the database


def test_migrate_makes_the_database_and_then_finds_it_up_to_date(config_file: Path, data_dir: Path) -> None:
    assert command("migrate", "--config", config_file).exit_code == 0
    assert (data_dir / "homeserver.db").exists()
    result = command("migrate", "--config", config_file)
    assert (result.exit_code, result.stdout) == (0, "The database is up to date.\n")


def test_register_user_makes_an_account_once(config_file: Path) -> None:
    result = command("register-user", "--config", config_file, "Alice", "--password", "wonderland")
    assert (result.exit_code, result.stdout) == (0, "Registered @alice:localhost:8448\n")
    again = command("register-user", "--config", config_file, "@alice:localhost:8448", "--password", "wonderland")
    assert_refused(again, "taken")


def test_password_is_read_from_standard_input(config_file: Path) -> None:
    assert command("register-user", "--config", config_file, "alice", typed="wonderland\n").exit_code == 0
    result = command("reset-password", "--config", config_file, "alice", typed="looking-glass\n")
    assert (result.exit_code, result.stdout) == (0, "The password of alice has been changed\n")


def test_no_password_is_refused(config_file: Path) -> None:
    assert_refused(command("register-user", "--config", config_file, "alice"), "there is no password")


def test_password_of_an_unknown_user_cannot_be_reset(config_file: Path) -> None:
    result = command("reset-password", "--config", config_file, "alice", "--password", "wonderland")
    assert_refused(result, "no user @alice:localhost:8448")


def test_unknown_room_cannot_be_purged(config_file: Path) -> None:
    assert_refused(command("purge-room", "--config", config_file, "!none:localhost:8448"), "room")


def test_servers_that_are_sent_to_are_listed_and_tried_again(config_file: Path) -> None:
    result = command("federation", "status", "--config", config_file)
    assert (result.exit_code, result.output) == (0, "Nothing was ever to be sent to another server.\n")
    refused = command("federation", "retry", "--config", config_file, "there.example")
    assert_refused(refused, "Nothing was ever sent to there.example.")

    connection = Connection(engine_of(load(config_file, {})))
    failing = Destination(
        "there.example", failing_since=1, retry_at=2, retry_interval=1000, last_error="nobody is there"
    )
    connection.transact(destinations.save, [failing], [])
    connection.close()
    listed = command("federation", "status", "--config", config_file)
    assert "there.example" in listed.output
    assert "nobody is there" in listed.output
    result = command("federation", "retry", "--config", config_file, "there.example")
    assert (result.exit_code, result.output) == (0, "there.example is to be tried again at once.\n")
    result = command("federation", "retry", "--config", config_file, "--all")
    assert (result.exit_code, result.output) == (0, "Servers to be tried again at once: 1.\n")
    assert command("federation", "retry", "--config", config_file).exit_code == 2


def test_database_that_cannot_be_opened_is_a_sentence(config_file: Path, data_dir: Path) -> None:
    (data_dir / "homeserver.db").mkdir()
    assert_refused(command("migrate", "--config", config_file), "homeserver.db")


# The processes


def run_module(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "synapse_like", *map(str, arguments)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def test_package_can_be_run_as_a_module() -> None:
    result = run_module("--version")
    assert (result.returncode, result.stdout) == (0, f"synapse_like, version {__version__}\n")


def is_healthy(process: subprocess.Popen[str], port: int) -> bool:
    assert process.poll() is None, process.communicate()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=DEADLINE) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.parametrize(
    ("start", "exit_code"),
    [
        ([sys.executable, "-m", "synapse_like", "run"], 0),
        # Whatever it runs, twistd ends by the signal that it was sent.
        ([*TWISTD, "synapse_like"], -signal.SIGTERM),
    ],
    ids=["run", "twistd"],
)
def test_server_serves_until_sigterm(data_dir: Path, start: Sequence[str], exit_code: int) -> None:
    port = free_port()
    init(data_dir, "--client-port", str(port), "--federation-port", str(free_port()))
    process = subprocess.Popen(
        [*start, "--config", str(data_dir / "homeserver.yaml")],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=dying_with_us(signal.SIGKILL),
    )
    try:
        wait_until("the server to answer", lambda: is_healthy(process, port), seconds=DEADLINE)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == exit_code, output
    assert "the server has stopped" in output
    assert "Traceback" not in output
    assert "/health" in output


def test_start_loads_nothing_that_not_every_server_needs(data_dir: Path, tmp_path: Path) -> None:
    """Each of these takes several milliseconds of the time until the first answer, and memory for good."""
    port = free_port()
    init(data_dir, "--client-port", str(port), "--federation-port", str(free_port()))
    with (tmp_path / "log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", "synapse_like", "run", "--config", data_dir / "homeserver.yaml"],
            cwd=CHECKOUT,
            stdout=subprocess.DEVNULL,
            stderr=log,
            text=True,
            preexec_fn=dying_with_us(signal.SIGKILL),
        )
        try:
            wait_until("the server to answer", lambda: is_healthy(process, port), seconds=DEADLINE)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        loaded = {line.rpartition("|")[2].strip() for line in log if line.startswith("import time:")}
    assert "twisted.web.http" in loaded
    asks_others = {"twisted.web.client", "twisted.names.client", "twisted.internet.endpoints", "authlib"}
    writes_letters = {"synapse_like.mail", "twisted.mail.smtp", "jinja2"}
    of_some_requests = {"PIL", "phonenumbers", "vobject"}
    of_several_processes = {"synapse_like.app.parent", "synapse_like.app.child"}
    of_other_settings = {"psycopg", "prometheus_client", "synapse_like.identity", *of_several_processes}
    assert not loaded & (asks_others | writes_letters | of_some_requests | of_other_settings)


@pytest.mark.parametrize("words", [("check-config",), ("identity", "--help"), ("run",), ("identity", "run")])
def test_garbage_is_looked_for_again_once_a_command_is_known(tmp_path: Path, words: Sequence[str]) -> None:
    """While the program is loaded none is looked for, which must not go on where no server runs."""
    missing = [] if "--help" in words else ["--config", tmp_path / "missing.yaml"]
    gc.disable()
    try:
        command(*words, *missing)
        assert gc.isenabled()
    finally:
        gc.enable()


def test_run_without_a_signing_key_is_a_sentence(config_file: Path, data_dir: Path) -> None:
    (data_dir / "signing.key").unlink()
    result = run_module("run", "--config", config_file)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ")
    assert "signing.key" in result.stderr
    assert "Traceback" not in result.stderr


def test_run_without_a_certificate_is_a_sentence(config_file: Path, data_dir: Path) -> None:
    (data_dir / "tls.crt").unlink()
    result = run_module("run", "--config", config_file)
    assert result.returncode == 1
    assert "tls.crt" in result.stderr
    assert "synapse_like init" in result.stderr
    assert "Traceback" not in result.stderr


def said_by_twistd(config_file: Path) -> str:
    """What twistd says of settings with which it cannot run."""
    result = subprocess.run(
        [*TWISTD, "synapse_like", "--config", str(config_file)],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return result.stdout + result.stderr


def test_twistd_names_the_faults_of_the_settings(config_file: Path) -> None:
    config_file.write_text("server_name: a b\n")
    said = said_by_twistd(config_file)
    assert f"{config_file}: server_name: " in said
    assert "Traceback" not in said


def test_twistd_runs_one_process_and_names_what_runs_several(config_file: Path) -> None:
    config_file.write_text("server_name: example.org\ndatabase: {url: 'postgresql://localhost/none'}\nprocesses: 4\n")
    said = said_by_twistd(config_file)
    assert "processes: twistd runs one. For several use `synapse_like run`" in said
    assert "Traceback" not in said
