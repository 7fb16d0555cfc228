"""`synapse_like identity doctor` and `identity verify`: what they find well, what wrong, and what is mended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import yaml
from click.testing import CliRunner, Result

from synapse_like.app.identity import engine_of
from synapse_like.commands import main
from synapse_like.identity.settings import IDENTITY_SERVER
from synapse_like.storage.connections import Connection
from synapse_like.storage.identity import destinations
from synapse_like.storage.identity.destinations import SIBLING
from tests.conftest import NewDatabase
from tests.support.identity import IdentityServer
from tests.support.processes import free_port, wait_until
from tests.support.smtp_server import SmtpServer

Findings = dict[str, list[dict[str, str]]]
Sql = Callable[..., None]
Pair = tuple[IdentityServer, IdentityServer]


def doctor(server: IdentityServer, *arguments: str) -> tuple[int, Findings]:
    """Its exit code, and what it finds, by check; of two `--config` the last one counts."""
    done = server.command("doctor", "--json", *arguments)
    assert "Traceback" not in done.stderr, done.stderr
    found: Findings = {}
    for finding in json.loads(done.stdout):
        found.setdefault(finding["check"], []).append(finding)
    return done.returncode, found


def verify(server: IdentityServer, *options: str) -> Result:
    done = CliRunner().invoke(main, ["identity", "verify", "--config", str(server.config), *options])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def states(findings: Findings) -> dict[str, set[str]]:
    return {check: {finding["state"] for finding in found} for check, found in findings.items()}


@pytest.fixture
def gateway() -> Iterator[tuple[str, list[bytes]]]:
    """A gateway for text messages: its URL, and what it was asked to send."""
    sent: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(405)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            sent.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/send", sent
    server.shutdown()
    server.server_close()


def has_told(server: IdentityServer, sibling: IdentityServer) -> bool:
    """Whether a server knows that its sibling has taken what it was told."""
    connection = Connection(engine_of(IDENTITY_SERVER.load(server.config, {})))
    try:
        known = connection.transact(destinations.find, SIBLING, sibling.name)
    finally:
        connection.close()
    return known.failing_since is None and known.sent_up_to > 0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, new_database: NewDatabase, mail: SmtpServer) -> Iterator[Pair]:
    """Two siblings. The first has statements of its own and of the other, and an invite that waits."""
    with new_database() as url, new_database() as other_url:
        folder = tmp_path_factory.mktemp("care")
        one, two = IdentityServer(folder / "one", mail, url), IdentityServer(folder / "two", mail, other_url)
        one.know([two])
        two.know([one])
        try:
            one.start()
            two.start()
            one.bind("ours@care.example", "@alice:home.example")
            two.bind("theirs@care.example", "@bob:home.example")
            wait_until("the sibling's word", lambda: one.lookup("theirs@care.example"))
            # The first was started before there was anybody to tell.
            wait_until("the first to have told the other everything", lambda: has_told(one, two))
            body = {"room_id": "!room:home.example", "sender": "@alice:home.example"}
            one.call("POST", "/store-invite", {"medium": "email", "address": "nobody@care.example", **body})
            assert mail.next_letter().recipient == "nobody@care.example"
            yield one, two
        finally:
            one.close()
            two.close()


@pytest.fixture
def running(pair: Pair) -> IdentityServer:
    """The first of the two, which runs."""
    one, _ = pair
    if one.process is None or one.process.poll() is not None:
        one.start()
    return one


def test_everything_that_is_well_is_found_so(
    running: IdentityServer, gateway: tuple[str, list[bytes]], mail: SmtpServer
) -> None:
    """Also that nothing is sent unless it is asked for."""
    one = running
    url, texts = gateway
    one.set(sms={"url": url}, http={"port": one.port, "public_url": one.url, "trusted_proxies": ["127.0.0.1"]})
    letters = mail.count()
    code, found = doctor(one)
    assert (mail.count(), texts) == (letters, [])
    # That certificates of home servers are not checked is one of the settings of the tests, and PostgreSQL does not
    # wait for the disk in them.
    told = {check: found for check, found in states(found).items() if check != "durability"}
    assert {check: found for check, found in told.items() if found != {"ok"}} == {
        "settings": {"warning"},
        "clock": {"skipped", "ok"},
    }
    assert set(found) >= {"settings", "signing key", "data directory", "database", "server", "mail", "siblings"}
    assert code == 0
    code, _ = doctor(one, "--mail-to", "operator@care.example", "--text-to", "+4930123456")
    assert (code, mail.next_letter().recipient, len(texts)) == (0, "operator@care.example", 1)


def test_everything_that_is_wrong_is_found(running: IdentityServer, pair: Pair) -> None:
    """By settings that say otherwise, in a file beside the server's."""
    _, other = pair
    nobody = free_port()
    key = "ed25519:other AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    wrong = {
        "siblings": [
            {"name": "gone.example", "url": f"http://127.0.0.1:{nobody}", "public_keys": [key]},
            {"name": other.name, "url": other.url, "public_keys": [key]},
        ],
        "sms": {"url": f"http://127.0.0.1:{nobody}"},
        "mail": {"host": "127.0.0.1", "port": nobody, "security": "none"},
        "http": {"port": nobody, "public_url": other.url},
    }
    config = running.data_dir / "otherwise.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(running.config.read_text()), **wrong}))
    config.chmod(0o644)
    code, found = doctor(running, "--config", str(config))
    told = states(found)
    assert code == 1
    assert (told["mail"], told["text messages"], told["public URL"]) == ({"fault"}, {"fault"}, {"fault"})
    assert told["server"] == {"warning"}
    assert any(f"Others on this machine may read {config}" in finding["sentence"] for finding in found["settings"])
    sentences = [finding["sentence"] for finding in found["siblings"]]
    assert len(sentences) == 2
    assert "gone.example does not answer" in sentences[0]
    assert f"{other.name} does not have the key ed25519:other" in sentences[1]
    assert "has other keys than this server" in found["public URL"][0]["sentence"]


# What it keeps.


@pytest.fixture
def stopped(running: IdentityServer) -> IdentityServer:
    """The first of the two, which does not run any more."""
    found = verify(running)
    assert found.exit_code == 0, found.stdout
    assert verify(running, "--repair").exit_code == 1, "a server is running"
    running.terminate()
    return running


@pytest.fixture
def sql(stopped: IdentityServer) -> Sql:
    """Changes a table behind the server's back."""

    def change(statement: str, *values: object) -> None:
        connection = Connection(engine_of(IDENTITY_SERVER.load(stopped.config, {})))
        try:
            changed = connection.transact(lambda txn: txn.execute(statement, values).rowcount)
        finally:
            connection.close()
        assert changed > 0, "nothing was changed"

    return change


def test_what_is_derived_is_mended_and_what_was_said_is_told(stopped: IdentityServer, sql: Sql) -> None:
    """Hashes, and where the stream stands, are made again; statements and invites are not made up."""
    well = verify(stopped)
    assert (well.exit_code, ": 0 faults." in well.stdout) == (0, True), well.stdout
    assert "Looked at 2 statements and 1 invites" in well.stdout

    sql("DELETE FROM lookup_hashes WHERE address = 'ours@care.example'")
    sql("UPDATE lookup_hashes SET hash = 'x' WHERE address = 'theirs@care.example'")
    sql("UPDATE stream_positions SET position = 1 WHERE stream = 'statements'")
    found = verify(stopped)
    assert found.exit_code == 1
    assert "1 are missing of addresses" in found.stdout or "2 are missing of addresses" in found.stdout
    assert "1 are not those of addresses" in found.stdout
    assert "stream statements: it stands at 1" in found.stdout
    mended = verify(stopped, "--repair")
    assert mended.exit_code == 0, mended.stdout
    assert ": 0 faults." in verify(stopped).stdout

    theirs = "WHERE address = 'theirs@care.example'"
    sql(f"UPDATE statements SET statement = replace(statement, '@bob', '@eve'), mxid = '@eve:home.example' {theirs}")
    ours = "WHERE address = 'ours@care.example'"
    sql(f"UPDATE statements SET mxid = '@eve:home.example' {ours}")
    sql("UPDATE invites SET public_key = 'A' || public_key")
    try:
        found = verify(stopped, "--repair")
        assert found.exit_code == 1
        assert "has not signed this" in found.stdout
        assert "it says something else than its row" in found.stdout
        assert "its two keys do not belong together" in found.stdout
        assert ": 3 faults." in found.stdout
    finally:
        sql(
            f"UPDATE statements SET statement = replace(statement, '@eve', '@bob'), mxid = '@bob:home.example' {theirs}"
        )
        sql(f"UPDATE statements SET mxid = '@alice:home.example' {ours}")
        sql("UPDATE invites SET public_key = substr(public_key, 2)")


def test_words_of_a_server_that_is_no_sibling_any_more_are_counted(pair: Pair) -> None:
    """Nobody can tell whether they are well signed, since its key is in no settings."""
    one, _ = pair
    settings = one.config.read_text()
    try:
        one.set(siblings=[])
        assert "Of 1 statements the signer's key is not known here" in verify(one).stdout
    finally:
        one.config.write_text(settings)
