"""Old history that is taken out, users who are forgotten, and what is known of one: by commands, beside the server."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from synapse_like.commands import main
from tests.conftest import NewDatabase
from tests.scenarios.conftest import any_process, known, must_not_have_failed
from tests.support.client import Client, id_of, refused, texts
from tests.support.databases import contains, files_contain
from tests.support.processes import wait_until
from tests.support.server import HomeServer

VERSIONS = ("spec-2014", "11")


@pytest.fixture(scope="module")
def purged_server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    new_database: NewDatabase,
    usual_settings: Mapping[str, object],
) -> Iterator[HomeServer]:
    folder = tmp_path_factory.mktemp("p") / "data"
    with new_database() as url, known(request, HomeServer(folder, url, usual_settings)) as server:
        yield server.start()
        # After all that was taken out, everything still holds together.
        checked = run(server, "verify")
        assert checked.exit_code == 0, checked.output


@pytest.fixture
def server(purged_server: HomeServer) -> Iterator[HomeServer]:
    purged_server.forget_log()
    yield purged_server
    must_not_have_failed(purged_server)


def run(server: HomeServer, name: str, *words: str | Path) -> Result:
    done = CliRunner().invoke(main, [name, "--config", str(server.config), *map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def is_gone(server: HomeServer, text: str) -> bool:
    """Whether a text stands neither in the tables nor, where that can be told, in the bytes of their files."""
    if contains(server.database, server.data_dir, text):
        return False
    return server.database != "sqlite" or not files_contain(server.data_dir, text)


def must_be_gone(server: HomeServer, text: str) -> None:
    # The log that SQLite writes ahead is emptied when nobody is reading; the server tries until it can.
    wait_until(f"{text} to leave the files", lambda: is_gone(server, text))


@pytest.mark.parametrize("version", VERSIONS)
def test_old_messages_leave_room_and_files_and_the_room_goes_on(server: HomeServer, version: str) -> None:
    alice, bob = Client(server).register(f"alice-{version}"), Client(server).register(f"bob-{version}")
    room = alice.create_room(visibility="public", name="The kitchen", room_version=version)
    bob.join(room)
    for number in range(4):
        alice.send(room, f"forgettable {version} {number}")
    alice.redact(room, alice.send(room, f"redacted {version}"))
    limit = bob.send(room, f"remembered {version}")
    bob.send(room, f"last {version}")
    assert contains(server.database, server.data_dir, f"forgettable {version}")
    present = bob.present()

    done = run(server, "purge-history", room, "--before-event", limit)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Deleted 6 events of ")
    must_be_gone(server, f"forgettable {version}")
    wait_until("them to go", lambda: texts(bob.history(room)) == [f"remembered {version}", f"last {version}"])
    assert alice.state_content(room, "m.room.name") == {"name": "The kitchen"}
    assert alice.members(room) == {alice.user_id: "join", bob.user_id: "join"}

    after = alice.send(room, "afterwards")
    heard, _ = bob.events_until(present, after)
    assert texts(heard) == ["afterwards"]
    again = run(server, "purge-history", room, "--before-event", limit)
    assert again.stdout.startswith("Deleted 0 events of ")


def test_messages_up_to_now_go_but_the_newest_one_stays(server: HomeServer) -> None:
    alice = Client(server).register("alice-days")
    room = alice.create_room()
    for number in range(3):
        alice.send(room, f"of a moment ago {number}")
    assert run(server, "purge-history", room, "--days", "1").stdout.startswith("Deleted 0 events")
    assert run(server, "purge-history", room, "--before", "2001-01-01").stdout.startswith("Deleted 0 events")
    assert run(server, "purge-history", room, "--days", "0").stdout.startswith("Deleted 2 events")
    wait_until("them to go", lambda: texts(alice.history(room)) == ["of a moment ago 2"])
    alice.send(room, "and on")
    assert texts(alice.history(room)) == ["of a moment ago 2", "and on"]


def test_what_there_is_not_is_said(server: HomeServer) -> None:
    alice = Client(server).register("alice-nothing")
    room = alice.create_room()
    assert "does not know the room" in run(server, "purge-history", "!no:such", "--days", "1").output
    assert "no event $no" in run(server, "purge-history", room, "--before-event", "$no:such").output
    assert run(server, "purge-history", room).exit_code == 2
    assert "There was never a user" in run(server, "export-user", "nobody", server.data_dir / "x.tar").output
    assert "There was never a user" in run(server, "deactivate-user", "nobody", "--erase").output


def somebody(server: HomeServer, name: str) -> tuple[Client, Client, str, str]:
    """A user who has said and uploaded something, somebody they talk with, their room, and the address of the file."""
    carol, dave = Client(server).register(name), Client(server).register(f"friend-of-{name}")
    carol.tell("displayname", f"Name of {name}")
    carol.tell("org.example.hobby", f"hobby of {name}", "private")
    room = carol.create_room(visibility="public", name=f"room of {name}")
    dave.join(room)
    carol.send(room, f"words of {name}")
    dave.send(room, f"words of friend-of-{name}")
    headers = {"Content-Type": "text/plain"}
    uri = carol.call("POST", "/_matrix/media/v1/upload", f"file of {name}".encode(), headers=headers)["content_uri"]
    return carol, dave, room, str(uri)


@any_process
def test_forgotten_user_is_gone_from_tables_files_and_rooms(server: HomeServer) -> None:
    carol, dave, room, uri = somebody(server, "carol")
    present = dave.present()
    done = run(server, "deactivate-user", "carol", "--erase")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"Forgot {carol.user_id}: ")
    assert "1 uploads" in done.stdout
    for text in ("words of carol", "Name of carol", "hobby of carol"):
        must_be_gone(server, text)
    stored = server.data_dir / "content"
    assert not any(b"file of carol" in path.read_bytes() for path in stored.rglob("*") if path.is_file())
    # What the server has in memory it forgets within some seconds.
    wait_until("the end of the login", lambda: carol.request("GET", "/initialSync").status == 401)
    assert carol.request("GET", "/_matrix/media/v1/download/" + uri.removeprefix("mxc://")).status == 404

    # Who talked with them keeps their own words, and the room; they see that the other one has gone.
    wait_until("the words to go", lambda: texts(dave.history(room)) == [None, "words of friend-of-carol"])
    assert dave.state_content(room, "m.room.name") == {"name": "room of carol"}
    wait_until("carol to leave", lambda: dave.members(room)[carol.user_id] == "leave")
    heard = dave.events(present, timeout=1000)["chunk"]
    assert any(event.get("state_key") == carol.user_id for event in heard)
    with refused(400, "M_USER_IN_USE"):
        Client(server).register("carol")
    assert ": 0 rows, 0 uploads, the content of 0 events" in run(server, "deactivate-user", "carol", "--erase").stdout


def test_user_is_given_all_that_is_known_of_them_and_nothing_secret(server: HomeServer, tmp_path: Path) -> None:
    erin, friend, room, uri = somebody(server, "erin")
    done = run(server, "export-user", "erin", tmp_path / "erin.tar")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "erin.tar").stat().st_mode & 0o777 == 0o600
    with tarfile.open(tmp_path / "erin.tar") as archive:
        members = {name: archive.extractfile(name) for name in archive.getnames()}
        files = {name: member.read() for name, member in members.items() if member is not None}
    data = json.loads(files["data.json"])
    assert data["user_id"] == erin.user_id
    assert {"field": "org.example.hobby", "value": '"hobby of erin"', "visibility": "private"} in data["profile_fields"]
    assert {"room_id": room, "membership": "join"} in data["memberships"]
    said = [json.loads(line) for line in files["events.jsonl"].splitlines()]
    assert any(line["event"]["content"].get("body") == "words of erin" for line in said)
    assert files[f"files/{uri.rpartition('/')[2]}"] == b"file of erin"
    everything = b"".join(files.values())
    assert b"argon2" not in everything
    assert b"words of friend-of-erin" not in everything
    assert id_of(friend).encode() not in files["data.json"]
    assert "is there already" in run(server, "export-user", "erin", tmp_path / "erin.tar").output
