"""Backups that are made while the server runs, and what is restored of them; databases that are copied."""

from __future__ import annotations

import json
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from synapse_like.commands import main
from synapse_like.storage.connections import Connection
from synapse_like.storage.copying import content_of, table_names
from synapse_like.storage.engines.sqlite import SqliteEngine
from tests.conftest import NewDatabase
from tests.scenarios.conftest import known
from tests.support.client import Client, texts
from tests.support.postgres import PostgreSQL
from tests.support.processes import free_port
from tests.support.server import QUICK, HomeServer

SQLITE = {"SYNAPSE_LIKE_DATABASE_URL": "sqlite"}


def run(*words: str | Path, **environ: str) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], env=environ)


@pytest.fixture(scope="module")
def made(shared_server: HomeServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Client, str]:
    """A backup that was made while somebody sent and uploaded; that somebody, and their room."""
    alice = Client(shared_server).register("alice-of-the-backup")
    room = alice.create_room(visibility="public")
    alice.send(room, "said before")
    upload(alice, b"uploaded before")
    folder = tmp_path_factory.mktemp("backups")
    done, begun = threading.Event(), threading.Event()

    def keep_busy(client: Client) -> None:
        for number in range(300):
            if done.is_set():
                return
            content = {"msgtype": "m.text", "body": f"meanwhile {number}"}
            client.send_event(room, "m.room.message", content, txn=f"meanwhile-{number}")
            if number % 10 == 0:
                upload(client, f"meanwhile {number}".encode())
            if number == 3:
                begun.set()

    busy = threading.Thread(target=keep_busy, args=(alice.another_connection(),))
    busy.start()
    try:
        assert begun.wait(60)
        shared_server.command("backup", str(folder / "b")).check_returncode()
        as_tar = shared_server.command("backup", str(folder / "b.tar"))
        as_tar.check_returncode()
    finally:
        done.set()
        busy.join()
    return folder, alice, room


def upload(client: Client, data: bytes) -> str:
    answer = client.call("POST", "/_matrix/media/v1/upload", data, headers={"Content-Type": "text/plain"})
    return str(answer["content_uri"])


def one_process(config: Path) -> None:
    """Write the settings as an operator does who goes to SQLite."""
    settings = yaml.safe_load(config.read_text())
    settings.pop("processes", None)
    config.write_text(yaml.safe_dump(settings))


def elsewhere(config: Path, server: HomeServer) -> None:
    """Have a restored server listen where the other one does not."""
    settings = yaml.safe_load(config.read_text())
    settings["client"]["port"] = server.port
    settings["federation"]["port"] = server.federation_port
    settings["metrics"] = {}
    settings["database"]["url"] = server.database
    config.write_text(yaml.safe_dump(settings))


def test_restored_server_goes_on_where_it_was(
    request: pytest.FixtureRequest,
    made: tuple[Path, Client, str],
    shared_server: HomeServer,
    new_database: NewDatabase,
    tmp_path: Path,
) -> None:
    folder, alice, room = made
    manifest = json.loads((folder / "b" / "manifest.json").read_text())
    assert manifest["missing"] == []
    with new_database() as url:
        data_dir = tmp_path / "restored"
        result = run("restore", folder / "b", "--data-dir", data_dir, SYNAPSE_LIKE_DATABASE_URL=url)
        assert result.exit_code == 0, result.output
        restored = HomeServer(data_dir, url, QUICK, name=shared_server.name, federation_port=free_port())
        elsewhere(data_dir / "homeserver.yaml", restored)
        with known(request, restored):
            restored.start()
            again = Client(restored).login(alice.user_id)
            said = texts(again.history(room))
            assert said[0] == "said before"
            assert said[1:] == [f"meanwhile {number}" for number in range(len(said) - 1)]
            assert len(said) > 3
            again.send(room, "said after")
            compared = restored.command("media reconcile")
            assert compared.stdout == "Files and tables agree.\n"


def test_tar_file_is_the_same(made: tuple[Path, Client, str], tmp_path: Path) -> None:
    folder, _, _ = made
    with tarfile.open(folder / "b.tar") as archive:
        names = archive.getnames()
        assert {member.mode for member in archive.getmembers()} == {0o600}
    assert {"homeserver.yaml", "signing.key", "database.sqlite"} <= set(names)
    assert names[-1] == "manifest.json"
    result = run("restore", folder / "b.tar", "--data-dir", tmp_path / "r", **SQLITE)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "r" / "homeserver.db").stat().st_mode & 0o777 == 0o600
    again = run("restore", folder / "b.tar", "--data-dir", tmp_path / "r", **SQLITE)
    assert "is not empty: a backup is never restored over something" in again.output
    one_process(tmp_path / "r" / "homeserver.yaml")
    over = run("backup", "--config", tmp_path / "r" / "homeserver.yaml", folder / "b.tar")
    assert "a backup is never written over something" in over.output


def flip_a_byte(backup: Path) -> None:
    file = next((backup / "content").glob("*/*"))
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)


def forget_the_manifest(backup: Path) -> None:
    (backup / "manifest.json").unlink()


def lose_a_file(backup: Path) -> None:
    (backup / "signing.key").unlink()


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (flip_a_byte, "the backup is damaged: content/"),
        (forget_the_manifest, "is no backup, or one that was not finished"),
        (lose_a_file, "the backup is not whole: signing.key is missing"),
    ],
)
def test_damaged_backup_is_refused_before_anything_is_written(
    made: tuple[Path, Client, str], harm: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    folder, _, _ = made
    shutil.copytree(folder / "b", tmp_path / "b")
    harm(tmp_path / "b")
    result = run("restore", tmp_path / "b", "--data-dir", tmp_path / "r", **SQLITE)
    assert result.exit_code == 1
    assert sentence in result.output
    assert list((tmp_path / "r").iterdir()) == []


def test_server_goes_from_one_database_to_another(
    made: tuple[Path, Client, str], postgresql: PostgreSQL, tmp_path: Path
) -> None:
    folder, _, _ = made
    run("restore", folder / "b", "--data-dir", tmp_path / "r", **SQLITE)
    config = tmp_path / "r" / "homeserver.yaml"
    one_process(config)
    with postgresql.database() as url:
        copied = run("copy-database", "--config", config, url, **SQLITE)
        assert copied.exit_code == 0, copied.output
        assert "both are the same. Now set database.url to the new one." in copied.output
        again = run("copy-database", "--config", config, url, **SQLITE)
        assert again.exit_code == 1
        assert "the database that is to be filled is in use" in again.output
        # And back.
        back = run("copy-database", "--config", config, f"sqlite:{tmp_path / 'b.db'}", SYNAPSE_LIKE_DATABASE_URL=url)
        assert back.exit_code == 0, back.output
    manifest = json.loads((folder / "b" / "manifest.json").read_text())
    connection = Connection(SqliteEngine(tmp_path / "b.db"))
    rows = {table: content_of(connection, table).rows for table in table_names(connection)}
    connection.close()
    assert rows == manifest["rows"]


def test_database_is_copied_only_while_the_server_is_stopped(server: HomeServer, tmp_path: Path) -> None:
    refused = server.command("copy-database", f"sqlite:{tmp_path / 'copy.db'}")
    assert refused.returncode == 1
    assert "running on" in refused.stderr
    assert not (tmp_path / "copy.db").exists()


def test_identity_server_is_restored_too(tmp_path: Path, new_database: NewDatabase) -> None:
    with new_database() as url, new_database() as another_url:
        words = ("--data-dir", tmp_path / "i", "--server-name", "id.example.org", "--database", url)
        assert run("identity", "init", *words).exit_code == 0
        config = tmp_path / "i" / "identity.yaml"
        run("identity", "migrate", "--config", config)
        done = run("identity", "backup", "--config", config, tmp_path / "b")
        assert done.exit_code == 0, done.output
        here = {"SYNAPSE_LIKE_IDENTITY_DATABASE_URL": another_url}
        restored = run("restore", tmp_path / "b", "--data-dir", tmp_path / "r", **here)
        assert restored.exit_code == 0, restored.output
        assert "identity run --config" in restored.output
        keys = [(tmp_path / folder / "signing.key").read_bytes() for folder in ("i", "r")]
        assert keys[0] == keys[1]
        up_to_date = run("identity", "migrate", "--config", tmp_path / "r" / "identity.yaml", **here)
        assert "The database is up to date." in up_to_date.output
