"""One server on two machines, as behind a load balancer: two parents with their processes, on ports of their own.

They share a PostgreSQL, keys and a folder of files, and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPException
from itertools import cycle
from pathlib import Path

import pytest

from synapse_like.app.doctor.here import check_files
from synapse_like.config import load
from tests.scenarios.conftest import Unique, known, must_not_have_failed
from tests.scenarios.test_metrics import figures
from tests.support.client import Client, ids
from tests.support.content import download, upload
from tests.support.federation import whole_history
from tests.support.postgres import PostgreSQL
from tests.support.processes import free_port, wait_until
from tests.support.server import QUICK, HomeServer
from tests.support.talkers import Busy, Listener, Talker, busy

#: Rooms that a user may make at once, on each machine.
ROOMS = 3


class Machines:
    """Two that are one server."""

    def __init__(self, one: HomeServer, two: HomeServer) -> None:
        self.one, self.two = one, two

    def __iter__(self) -> Iterator[HomeServer]:
        return iter((self.one, self.two))


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgresql: PostgreSQL
) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp("machines")
    settings = {
        **QUICK,
        "processes": 2,
        "database.shared": True,
        "content.directory": str(folder / "content"),
        "rate_limits.enabled": True,
        "rate_limits.classes": {
            "registration": {"per_second": 1000, "burst": 1000},
            "creations": {"per_second": 0.001, "burst": ROOMS},
        },
    }
    with postgresql.database() as url:
        one = HomeServer(folder / "one", url, {**settings, "metrics.port": free_port()})
        two = HomeServer(folder / "two", url, {**settings, "metrics.port": free_port()}, one.name)
        (two.data_dir / "signing.key").write_bytes((one.data_dir / "signing.key").read_bytes())
        with known(request, one), known(request, two):
            yield Machines(one, two)


@pytest.fixture
def machines(running: Machines) -> Iterator[Machines]:
    """Both run."""
    for machine in running:
        if not machine.is_running:
            machine.start()
        machine.forget_log()
    yield running
    for machine in running:
        must_not_have_failed(machine)


def at(machine: HomeServer, client: Client) -> Client:
    """The same login at another machine."""
    return Client(machine, token=client.token, user_id=client.user_id)


def say(client: Client, room: str, text: str) -> str:
    """Say something; the text is its transaction ID, too."""
    return client.send_event(room, "m.room.message", {"msgtype": "m.text", "body": text}, text)


def test_any_of_them_answers(machines: Machines, unique: Unique) -> None:
    """API-4: registered at one, said at the other, heard at both; what is asked of both is done once."""
    alice = Client(machines.one).register(unique("alice"))
    there = at(machines.two, alice)
    room = there.create_room(visibility="public")
    since = alice.present()
    said = say(there, room, "from there")
    for machine in machines:
        heard, token = list[str](), since
        while said not in heard:
            answer = at(machine, alice).events(token, timeout=30_000)
            heard += ids(answer["chunk"])
            token = answer["end"]
        assert Counter(heard)[said] == 1
    assert say(alice, room, "from there") == said
    assert Client(machines.two).login(alice.user_id).history(room)[-1]["event_id"] == said


def test_a_file_that_was_uploaded_to_one_is_at_both(machines: Machines, unique: Unique) -> None:
    """MEDIA-1: for that they have the same folder."""
    alice = Client(machines.one).register(unique("alice"))
    uri = upload(alice, b"bytes", "text/plain")
    assert [download(at(machine, alice), uri).body for machine in machines] == [b"bytes"] * 2
    assert files_found(machines.two.config) == ["ok"]
    otherwise = machines.two.data_dir / "otherwise.yaml"
    shared, own = machines.one.data_dir.parent / "content", machines.two.data_dir / "content"
    otherwise.write_text(machines.two.config.read_text().replace(str(shared), str(own)))
    assert files_found(otherwise) == ["fault"]


def files_found(settings: Path) -> list[str]:
    """What `doctor` says of the files."""
    return [finding.state for finding in check_files(load(settings, {}))]


def test_each_counts_what_it_is_asked(machines: Machines, unique: Unique) -> None:
    """RATE-1: limits hold for each machine, and so do figures."""
    alice = Client(machines.one).register(unique("alice"))
    for machine in machines:
        client = at(machine, alice)
        answers = [client.another_connection().request("POST", "/createRoom", {}) for _ in range(ROOMS + 2)]
        assert Counter(answer.status for answer in answers) == {200: ROOMS, 429: 2}
    for machine in machines:
        up = [labels for (name, labels) in figures(machine) if name == "synapse_like_process_up"]
        assert len(up) == 2, "each tells of its own processes"


class Wandering(Busy):
    """Somebody who goes to the other machine when the one that they are at does not answer.

    :ivar goes_to: the machines, by turns.
    """

    goes_to: Iterator[HomeServer]

    def insist(self, attempt: Callable[[], None]) -> None:
        def try_here() -> None:
            try:
                attempt()
            except (OSError, HTTPException):
                self.client = at(next(self.goes_to), self.client)
                raise

        super().insist(try_here)


class WanderingTalker(Wandering, Talker):
    """One who talks."""


class WanderingListener(Wandering, Listener):
    """One who listens."""


def test_nothing_acknowledged_is_lost_and_nothing_missed_when_a_machine_is_killed(
    machines: Machines, unique: Unique
) -> None:
    """API-4: who was there goes on at the other from where they were, and sends again what was not answered."""
    people = [Client(machine).register(unique("person")) for machine in machines]
    room = people[0].create_room(visibility="public")
    people[1].join(room)
    listeners = [WanderingListener(person) for person in people]
    talkers = [WanderingTalker(ears.client.another_connection(), room, ears=ears) for ears in listeners]
    for person in (*listeners, *talkers):
        person.goes_to = cycle(machines)
    for talker in talkers:
        talker.breath = 0.05

    def said() -> list[str]:
        return [event_id for talker in talkers for event_id in talker.said[room].values()]

    def say_more(count: int) -> None:
        before = len(said())
        wait_until("messages", lambda: len(said()) >= before + count, seconds=60)

    with busy(listeners):
        with busy(talkers):
            for victim in machines:
                say_more(20)
                victim.kill9()
                say_more(20)
                victim.start()
        for listener in listeners:
            wait_until("all to be heard", lambda: set(said()) <= set(listener.heard))  # noqa: B023 - called at once
    history = [event for event in whole_history(at(machines.two, people[0]), room) if event["type"] == "m.room.message"]
    stored = [event["event_id"] for event in history]
    assert sorted(stored) == sorted(said()), "acknowledged is what is stored, once"
    for listener in listeners:
        assert [event_id for event_id in listener.heard if event_id in set(stored)] == stored
    verified = machines.one.command("verify")
    assert verified.returncode == 0, verified.stdout


def test_what_was_asked_of_one_that_was_killed_is_asked_of_the_other_and_done_once(
    machines: Machines, unique: Unique
) -> None:
    """API-4: the answer was on its way, and nobody has it."""
    alice = Client(machines.one).register(unique("alice"))
    room = alice.create_room()
    said = [say(alice, room, f"{number}") for number in range(5)]
    machines.one.kill9()
    there = at(machines.two, alice)
    assert [say(there, room, f"{number}") for number in range(5)] == said
    assert [event["event_id"] for event in there.history(room) if event["type"] == "m.room.message"] == said
