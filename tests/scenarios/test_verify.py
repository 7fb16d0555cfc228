"""`synapse_like verify`: no fault where there is none, each one that is made; and what it mends is well again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from synapse_like.app.parts import engine_of
from synapse_like.commands import main
from synapse_like.config import load
from synapse_like.storage.connections import Connection
from synapse_like.storage.transactions import Transaction
from tests.conftest import NewDatabase
from tests.scenarios.conftest import known
from tests.support.client import Client
from tests.support.server import QUICK, HomeServer

Sql = Callable[..., None]


@pytest.fixture(scope="module")
def stopped(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, new_database: NewDatabase
) -> Iterator[HomeServer]:
    """A server that is stopped and keeps something of everything, in rooms of two kinds."""
    with new_database() as url, known(request, HomeServer(tmp_path_factory.mktemp("v") / "data", url, QUICK)) as server:
        server.start()
        alice, bob = Client(server).register("alice"), Client(server).register("bob")
        for version in ("spec-2014", "11"):
            room = alice.create_room(visibility="public", room_version=version)
            bob.join(room)
            alice.redact(room, alice.send(room, "redacted"))
            for number in range(5):
                bob.send(room, f"message {number}")
            alice.set_state(room, "m.room.topic", {"topic": "the topic"})
            alice.set_state(room, "m.room.topic", {"topic": "another topic"})
            alice.kick(room, bob)
        headers = {"Content-Type": "text/plain"}
        alice.call("POST", "/_matrix/media/v1/upload", b"some text", headers=headers)
        running = verify(server)
        assert running.exit_code == 0, running.output
        assert verify(server, "--repair").exit_code == 1, "a server is running"
        server.terminate()
        yield server


def verify(server: HomeServer, *options: str) -> Result:
    done = CliRunner().invoke(main, ["verify", "--config", str(server.config), *options])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.fixture
def sql(stopped: HomeServer) -> Sql:
    """Changes a table behind the server's back."""

    def change(statement: str, *values: object) -> None:
        connection = Connection(engine_of(load(stopped.config, {})))
        try:
            changed = connection.transact(lambda txn: txn.execute(statement, values).rowcount)
        finally:
            connection.close()
        assert changed > 0, "nothing was changed"

    return change


def test_server_in_good_order_has_no_fault(stopped: HomeServer) -> None:
    done = verify(stopped)
    assert done.exit_code == 0, done.stdout
    assert ": 0 faults." in done.stdout
    assert "Looked at 0 events" not in done.stdout
    assert "0 files" not in done.stdout.partition(":")[0]


FAULTS = {
    "a current state that is not that of the head": (
        "UPDATE current_state SET membership = 'join' WHERE membership = 'leave'",
        "its current state is not that of its head",
    ),
    "a state that is not that of the newest event": (
        "UPDATE room_heads SET snapshot_id = (SELECT MIN(snapshot_id) FROM state_snapshots s"
        " WHERE s.room_nid = room_heads.room_nid)",
        "its state is not that of its newest events",
    ),
    "a server that is not there": (
        "INSERT INTO room_servers (room_nid, server, since, until, joined) SELECT room_nid, 'x.example', 1, NULL, 2"
        " FROM rooms",
        "the other servers in it are not those of its members",
    ),
    "a stream that gives out what is taken": (
        "UPDATE stream_positions SET position = 3 WHERE stream = 'events'",
        "stream events: it stands at 3",
    ),
}


@pytest.mark.parametrize(("statement", "sentence"), FAULTS.values(), ids=FAULTS.keys())
def test_what_is_derived_is_mended(stopped: HomeServer, sql: Sql, statement: str, sentence: str) -> None:
    sql(statement)
    found = verify(stopped)
    assert found.exit_code == 1
    assert sentence in found.stdout
    assert "can be mended by --repair" in found.stdout
    mended = verify(stopped, "--repair")
    assert mended.exit_code == 0, mended.stdout
    assert ": 0 faults" in verify(stopped).stdout


def test_what_somebody_said_is_not_made_up(stopped: HomeServer, sql: Sql) -> None:
    """A byte of a message and of a signature, a file, a state: found, told by name, and left as they are."""
    config = load(stopped.config, {})
    connection = Connection(engine_of(config))
    nid, event_id, pdu = connection.transact(_a_message)
    connection.close()
    file = next(config.content_directory.glob("??/*"))
    data = file.read_bytes()
    try:
        sql("UPDATE events SET pdu = ? WHERE event_nid = ?", pdu.replace(b"message 3", b"massage 3"), nid)
        file.write_bytes(b"x" + data[1:])
        found = verify(stopped, "--repair")
        assert found.exit_code == 1
        assert f"{event_id}: its content is not what was hashed" in found.stdout
        assert "the file is damaged" in found.stdout
        assert ": 2 faults" in found.stdout

        sql("UPDATE events SET pdu = ? WHERE event_nid = ?", _with_another_signature(pdu), nid)
        assert f"{event_id}: it is not well signed" in verify(stopped).stdout
        assert event_id not in verify(stopped, "--start", str(nid)).stdout
    finally:
        sql("UPDATE events SET pdu = ? WHERE event_nid = ?", pdu, nid)
        file.write_bytes(data)
    assert verify(stopped).exit_code == 0


def _a_message(txn: Transaction) -> tuple[int, str, bytes]:
    rows = txn.all("SELECT event_nid, event_id, pdu FROM events ORDER BY event_nid")
    [row, *_] = [row for row in rows if b"message 3" in bytes(row[2])]
    return row[0], row[1], bytes(row[2])


def _with_another_signature(pdu: bytes) -> bytes:
    place = pdu.index(b'"', pdu.index(b"ed25519:", pdu.index(b'"signatures"')) + 15) + 3
    other = b"A" if pdu[place : place + 1] != b"A" else b"B"
    return pdu[:place] + other + pdu[place + 1 :]


def test_event_whose_state_is_gone_is_told(stopped: HomeServer, tmp_path: Path, sql: Sql) -> None:
    sql("UPDATE events SET snapshot_after = snapshot_after + 100000 WHERE event_nid = 9")
    try:
        found = verify(stopped)
        assert found.exit_code == 1
        assert "the state at it cannot be put together" in found.stdout
    finally:
        sql("UPDATE events SET snapshot_after = snapshot_after - 100000 WHERE event_nid = 9")
