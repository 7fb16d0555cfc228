"""What was acknowledged stays, whatever becomes of the server."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.scenarios.conftest import FreshServer
from tests.support.client import Client, ids, quote, refused, texts
from tests.support.processes import wait_until
from tests.support.server import QUICK, HomeServer


class Talker:
    """Somebody who sends messages until the server breaks down.

    `sent` are the event IDs of what was acknowledged, by text; `unsure` is the text on its way when it broke down.
    """

    def __init__(self, client: Client, room: str, name: str) -> None:
        self._client, self._room, self._name = client, room, name
        self.sent: dict[str, str] = {}
        self.unsure: str | None = None

    def talk(self) -> None:
        """Send one message after the other."""
        while True:
            self.unsure = f"{self._name} {len(self.sent)}"
            try:
                self.say(self.unsure)
            except (OSError, HTTPException):
                return

    def say(self, text: str) -> None:
        """Send a message; the same text is a retransmit."""
        content = {"msgtype": "m.text", "body": text}
        self.sent[text] = self._client.send_event(self._room, "m.room.message", content, text)


def _have_said(talkers: list[Talker], count: int) -> bool:
    return sum(len(talker.sent) for talker in talkers) >= count


def test_kill_9_amid_many_senders_loses_and_doubles_nothing(fresh_server: FreshServer) -> None:
    """API-4, EVS-1: nothing is acknowledged before it is stored, and nothing is stored by half."""
    server = fresh_server()
    alice = Client(server).register("alice")
    room = alice.create_room(visibility="public")
    talkers = []
    for number in range(5):
        client = Client(server).register(f"talker-{number}")
        client.join(room)
        talkers.append(Talker(client, room, f"talker {number}"))
    since = alice.present()
    acknowledged: dict[str, str] = {}

    for _ in range(3):
        with ThreadPoolExecutor(len(talkers)) as threads:
            talking = [threads.submit(talker.talk) for talker in talkers]
            wait_until("many messages", partial(_have_said, talkers, len(acknowledged) + 40))
            server.kill9()
            for talk in talking:
                talk.result(timeout=30)
        acknowledged = {text: event_id for talker in talkers for text, event_id in talker.sent.items()}
        server.start()

        history = alice.history(room)
        stored = {event["content"]["body"]: event["event_id"] for event in history if event["type"] == "m.room.message"}
        assert Counter(texts(history)).most_common(1)[0][1] == 1, "a message was stored twice"
        assert acknowledged.items() <= stored.items(), "an acknowledged message is lost"
        assert set(stored) - set(acknowledged) <= {talker.unsure for talker in talkers}
        for event in history[-20:]:
            assert alice.event(event["event_id"])["content"] == event["content"]

        for talker in talkers:
            assert talker.unsure is not None
            talker.say(talker.unsure)
            assert stored.get(talker.unsure, talker.sent[talker.unsure]) == talker.sent[talker.unsure]
        acknowledged = {text: event_id for talker in talkers for text, event_id in talker.sent.items()}

    last = alice.send(room, "the end")
    everything = ids(alice.events_until(since, last)[0])
    assert len(everything) == len(set(everything))
    assert sorted(everything) == sorted([*acknowledged.values(), last])


def test_kill_9_leaves_no_room_half_made(fresh_server: FreshServer) -> None:
    """ROOM-1, ROOM-2, API-4."""
    server = fresh_server()
    alice = Client(server).register("alice")
    asked = {str(number): {"name": f"room {number}", "room_alias_name": f"room-{number}"} for number in range(30)}
    attempts = {txn: alice.start("PUT", f"/createRoom/{txn}", body) for txn, body in asked.items()}
    made = {txn: attempts[txn].json()["room_id"] for txn in list(asked)[:3]}
    server.kill9()
    for txn in list(asked)[3:]:
        try:
            made[txn] = attempts[txn].json()["room_id"]
        except (OSError, HTTPException):
            attempts[txn].abandon()
    server.start()

    rooms = {synced["room_id"]: synced for synced in alice.initial_sync(limit=100)["rooms"]}
    assert set(made.values()) <= set(rooms)
    for synced in rooms.values():
        assert len(synced["messages"]["chunk"]) == len(synced["state"]) == 9, "from m.room.create to m.room.name"
    again = {txn: alice.call("PUT", f"/createRoom/{txn}", body)["room_id"] for txn, body in asked.items()}
    assert made.items() <= again.items()
    assert set(again.values()) == set(alice.synced_rooms())
    assert len(again) == len(set(again.values())) == 30


def test_restart_keeps_accounts_logins_and_rooms(fresh_server: FreshServer) -> None:
    """LOGIN-2, EVS-4."""
    server = fresh_server()
    alice, bob = Client(server).register("alice"), Client(server).register("bob")
    room = alice.create_room(visibility="public", name="Kept", room_alias_name="kept", invite=[bob.user_id])
    alice.send(room, "kept")
    before = [_without_age(client.initial_sync(limit=50)["rooms"]) for client in (alice, bob)]
    server.restart()
    assert [_without_age(client.initial_sync(limit=50)["rooms"]) for client in (alice, bob)] == before
    alias = quote(f"#kept:{server.name}")
    assert bob.call("GET", f"/directory/room/{alias}")["room_id"] == room
    assert [listed["name"] for listed in bob.call("GET", "/publicRooms")["chunk"]] == ["Kept"]
    assert Client(server).login("alice").user_id == alice.user_id
    with refused(400, "M_USER_IN_USE"):
        Client(server).register("alice")
    bob.join(room)
    bob.send(room, "also after the restart")


def _without_age(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_age(item) for key, item in value.items() if key != "age"}
    return [_without_age(item) for item in value] if isinstance(value, list) else value


def test_sigterm_answers_who_waits_and_ends_well(fresh_server: FreshServer) -> None:
    """EVS-1: and the stream goes on from there."""
    server = fresh_server()
    alice = Client(server).register("alice")
    room = alice.create_room()
    since = alice.present()
    polls = [alice.poll(since, timeout=120_000) for _ in range(10)]
    alice.messages(room)
    server.ask_to_stop()
    pages = [poll.json(within=15) for poll in polls]
    assert [page["chunk"] for page in pages] == [[]] * 10
    assert server.wait_for_exit() == 0
    server.start()
    event_id = alice.send(room, "hello again")
    assert ids(alice.events(pages[0]["end"])["chunk"]) == [event_id]


def test_sigterm_finishes_what_was_begun(fresh_server: FreshServer) -> None:
    """API-4: a request that got in is answered, and its answer holds."""
    server = fresh_server()
    alice = Client(server).register("alice")
    room = alice.create_room()
    path = f"/rooms/{quote(room)}/send/m.room.message"
    flying = [alice.start("PUT", f"{path}/{n}", {"msgtype": "m.text", "body": str(n)}) for n in range(20)]
    first = flying[0].json()["event_id"]
    server.ask_to_stop()
    sent = [first]
    for pending in flying[1:]:
        try:
            answer = pending.answer()
        except (OSError, HTTPException):
            continue  # it had not got in
        assert answer.status == 200
        sent.append(answer.json["event_id"])
    assert server.wait_for_exit() == 0
    server.start()
    assert set(sent) <= set(ids(alice.history(room)))


def test_second_server_on_one_database_refuses_to_start(fresh_server: FreshServer, tmp_path: Path) -> None:
    """One at a time, unless they are to share it; and the way is free when the first is gone, even by kill -9."""
    first = fresh_server()
    alice = Client(first).register("alice")
    room = alice.create_room()
    database = f"sqlite:{first.data_dir}/homeserver.db" if first.database == "sqlite" else first.database
    second = HomeServer(tmp_path / "second", database, {**QUICK, "processes": 1}, name=first.name)
    try:
        second.launch()
        assert second.wait_for_exit() == 1
        assert "Traceback" not in second.recent_log()
        assert "Error: " in second.recent_log()
        assert texts([alice.event(alice.send(room, "undisturbed"))]) == ["undisturbed"]

        first.kill9()
        second.start()
        assert texts(Client(second, token=alice.token).history(room)) == ["undisturbed"]
    finally:
        second.close()


@pytest.mark.parametrize("command", ["check-config", "migrate"])
def test_operator_commands_are_fine_with_a_stopped_server(fresh_server: FreshServer, command: str) -> None:
    """LOGIN-11: and change nothing of what it knows."""
    server = fresh_server()
    alice = Client(server).register("alice")
    room = alice.create_room()
    server.terminate()
    done = server.command(command)
    assert done.returncode == 0, done.stderr
    server.start()
    assert set(alice.synced_rooms()) == {room}
