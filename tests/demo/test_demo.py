"""The demo, used as its README says: started, talked on, stopped, started again and removed."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from operator import itemgetter
from pathlib import Path

import pytest

from tests.support.client import Client, Json, quote
from tests.support.demo import Demo
from tests.support.processes import wait_until

#: What `demo/start.sh` does, but broken off when two things have been said in the room.
BROKEN_OFF = """
import commands, people
say, words = people.Person.say, iter("12")
people.Person.say = lambda *what: say(*what) if next(words, None) else sys.exit(3)
commands.main(["start"])
"""


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """A demo that is not started yet; nothing of it runs on after the test."""
    demo = Demo(tmp_path / "data")
    yield demo
    demo.close()


@pytest.fixture(scope="module")
def lasting_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A demo for several tests, since it takes a while to make; the last of them removes it."""
    demo = Demo(tmp_path_factory.mktemp("demo") / "data")
    yield demo
    demo.close()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def sees(person: Client, demo: Demo) -> Json:
    """What somebody's own server tells of the room that is ready."""
    room = demo.room
    aliases = [f"#kitchen:{server.name}" for server in demo.servers]
    members = sorted(
        (event for event in person.state(room) if event["type"] == "m.room.member"), key=itemgetter("state_key")
    )
    said = [event for event in person.history(room) if event["type"] == "m.room.message"]
    return {
        "rooms": {person.call("GET", f"/directory/room/{quote(alias)}")["room_id"] for alias in aliases},
        "members": [(event["content"]["displayname"], event["content"]["membership"]) for event in members],
        "pictures": [person.profile_field(event["state_key"], "avatar_url")["avatar_url"] for event in members],
        "said": [(event["user_id"], event["content"]["body"]) for event in said],
    }


@pytest.mark.timeout(300)
def test_three_people_share_a_room_from_the_beginning_and_whatever_is_broken_off(lasting_demo: Demo) -> None:
    demo = lasting_demo
    alone = demo.script("start.sh", "1")
    assert "Once all servers run" in alone
    assert "password" not in alone

    broken_off = demo.python(BROKEN_OFF)
    assert broken_off.returncode == 3, broken_off.stdout + broken_off.stderr
    assert "password" not in broken_off.stdout

    started = demo.script("start.sh")
    assert all(f"{server.name} runs already" in started for server in demo.servers)
    people = demo.people()
    found = [sees(person, demo) for person in people]
    assert found[0]["rooms"] == {demo.room}
    assert found[0]["members"] == [("Alice", "join"), ("Bob", "join"), ("Carol", "join")]
    assert len(found[0]["said"]) == len(set(found[0]["said"])) == 6
    assert found == [found[0]] * 3
    for person, server in zip(people, demo.servers, strict=True):
        assert f"{server.url}/    user {person.user_id[1:].partition(':')[0]}" in started
        assert any(uri.startswith(f"mxc://{server.name}/") for uri in found[0]["pictures"])

    # What they make of it is theirs.
    people[0].tell("displayname", "Queen Alice")
    people[2].leave(demo.room)
    gone = ("Carol", "leave")
    wait_until("Alice's server to know that Carol has gone", lambda: gone in sees(people[0], demo)["members"])
    before = sees(people[0], demo)
    demo.servers[1].kill9()
    assert "tea-for-three" in demo.script("start.sh")
    assert sees(people[0], demo) == before


@pytest.mark.timeout(300)
def test_three_servers_hold_a_conversation_and_one_catches_up(lasting_demo: Demo) -> None:
    demo = lasting_demo
    names = [server.name for server in demo.servers]
    started = demo.script("start.sh")
    for name, port in zip(names, demo.client_ports, strict=True):
        assert re.search(rf"{name} (has started|runs already)", started)
        assert f"http://localhost:{port}" in started
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()

    told = demo.script("conversation.py")
    missed = "bob: Then I keep her a scone."
    before, _, after = told.partition("demo/start.sh 3")
    assert before.count(missed) == 1, told
    # In the history that each of the three servers has.
    assert re.search(rf"{re.escape(missed)} +\| {re.escape(missed)} +\| {re.escape(missed)}", after), told
    assert "All three servers have the same 8 messages in the same order" in " ".join(after.split())

    again = demo.script("start.sh")
    assert [f"{name} runs already" in again for name in names] == [True] * 3
    assert demo.script("stop.sh", "2") == f"{names[1]} has stopped\n"
    assert [is_listening(port) for port in demo.client_ports] == [True, False, True]
    alone = demo.try_script("conversation.py")
    assert alone.returncode == 1
    assert f"{names[1]} cannot have a conversation" in alone.stderr

    assert f"{names[0]} has stopped" in demo.script("stop.sh")
    assert not any(is_listening(port) for port in demo.client_ports + demo.server_ports)
    assert "Removed" in demo.script("clean.sh")
    assert not demo.folder.exists()


def test_port_that_is_in_use_is_named_and_nothing_is_started(demo: Demo) -> None:
    taken = demo.server_ports[1]
    with socket.create_server(("127.0.0.1", taken)):
        refused = demo.try_script("start.sh")
    assert refused.returncode == 1
    assert f"Port {taken} (DEMO_SERVER_PORTS) of server 2 is in use by another program." in refused.stderr
    assert not demo.folder.exists()


@pytest.mark.parametrize("ports", ["8081 8082", "8081 8082 8082", "8081 8082 none", "8081 8082 65536"])
def test_ports_that_are_none_are_refused(demo: Demo, ports: str) -> None:
    demo.environment["DEMO_CLIENT_PORTS"] = ports
    refused = demo.try_script("start.sh")
    assert refused.returncode == 1
    assert "DEMO_CLIENT_PORTS must be three different ports" in refused.stderr


def test_server_that_is_none_is_refused(demo: Demo) -> None:
    refused = demo.try_script("start.sh", "4")
    assert refused.returncode == 1
    assert "There is no server 4" in refused.stderr
