"""Three servers in a federation, and people on them who talk and listen."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from tests.chaos.figures import MIB, Holding, Memory, holding
from tests.support.client import Client, Json, ids
from tests.support.federation import Federation, in_causal_order, wait_until_agree, whole_history
from tests.support.postgres import PostgreSQL
from tests.support.processes import wait_until
from tests.support.server import QUICK, HomeServer
from tests.support.talkers import BREATH, Listener, Talker

#: To be quick to give up on others.
SETTINGS = {
    **QUICK,
    "federation.connect_timeout": 3.0,
    "federation.answer_timeout": 8.0,
    "federation.body_timeout": 8.0,
}
SERVERS = 3
VERSIONS = ("spec-2014", "11")
#: How long the servers may take in the end to tell each other everything, in seconds.
PATIENCE = 180
#: Events of a page of history. There are many of them.
PAGE = 1000


@dataclass
class Report:
    """What there was to see.

    :ivar happened: how often what has happened.
    :ivar messages: that were acknowledged.
    :ivar longest_wait: until a message was acknowledged, in seconds.
    :ivar settled_after: seconds from the end of all harm until everything was everywhere, by what that is.
    :ivar holdings: what each server holds in the end.
    :ivar memory: of the servers meanwhile.
    """

    happened: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    longest_wait: float = 0.0
    settled_after: dict[str, float] = field(default_factory=dict)
    holdings: list[Holding] = field(default_factory=list)
    memory: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """As text."""
        return [
            *(f"{count:7} x {name}" for name, count in self.happened.most_common()),
            f"{self.messages:7} messages acknowledged, each of them everywhere and nowhere twice",
            f"{self.longest_wait:7.1f} s at the most until one was",
            *(
                f"{seconds:7.1f} s until {what}, once all was well again"
                for what, seconds in self.settled_after.items()
            ),
            *(
                f"server {number}: {held.bytes_resident / MIB:.0f} MiB resident at rest; {held.bytes_stored / MIB:.1f}"
                f" MiB stored, {held.bytes_stored // held.events} bytes for each of {held.events} events; newest of"
                f" each room: {list(held.newest)}; {held.gaps} gaps, {held.waiting} events wait"
                for number, held in enumerate(self.holdings)
            ),
            *self.memory,
        ]


class World:
    """All of it, while it runs.

    :param folder: where the servers keep everything.
    :param postgresql: whose databases they use; None for SQLite.
    :param disk_bytes: how large the disk of each is to be; None for the one that is there.
    :param breath: seconds between two things that somebody says.
    :param processes: of how many each server is.
    """

    def __init__(
        self,
        stack: ExitStack,
        folder: Path,
        postgresql: PostgreSQL | None = None,
        disk_bytes: int | None = None,
        breath: float = BREATH,
        processes: int = 1,
    ) -> None:
        self.postgresql = postgresql
        self.processes = processes
        #: By which it is decided what happens to whom.
        self.dice = Random()
        self.disk_bytes = disk_bytes
        if disk_bytes is not None:
            for number in range(SERVERS):
                stack.enter_context(small_disk(folder / str(number), disk_bytes))
        urls = ["sqlite" if postgresql is None else stack.enter_context(postgresql.database()) for _ in range(SERVERS)]
        self.federation = Federation(folder, urls, {**SETTINGS, "processes": processes})
        stack.callback(self.federation.close)
        self.federation.start()
        self.memory = Memory(self.servers)
        self.people = [Client(server).register(f"person-{number}") for number, server in enumerate(self.servers)]
        self.rooms = [self._meet(version) for version in VERSIONS]
        self.listeners = [Listener(person) for person in self.people]
        self.talkers = [Talker(ears.client.another_connection(), *self.rooms, ears=ears) for ears in self.listeners]
        for talker in self.talkers:
            talker.breath = breath

    def _meet(self, version: str) -> str:
        host, *guests = self.people
        name = f"room-{version}"
        room = host.create_room(visibility="public", room_alias_name=name, room_version=version)
        for guest in guests:
            guest.join(f"#{name}:{host.server.name}")
        wait_until_agree(room, *self.people)
        return room

    @property
    def servers(self) -> list[HomeServer]:
        """The servers."""
        return self.federation.servers

    def acknowledged(self) -> int:
        """How many messages have been acknowledged so far."""
        return sum(len(said) for talker in self.talkers for said in talker.said.values())

    # In the end.

    def settle(self) -> dict[str, float]:
        """Wait until everything is everywhere, once nobody talks and nothing happens any more.

        What costs least is asked first, so that the servers are busy with each other and not with the answers.

        :returns: after how many seconds what was so.
        """
        began = time.monotonic()
        settled: dict[str, float] = {}

        def settle(what: str, is_so: Callable[[], bool], missing: Callable[[], str] = str) -> None:
            try:
                wait_until(what, is_so, seconds=PATIENCE)
            except TimeoutError as error:
                error.add_note(missing())
                raise
            settled[what] = time.monotonic() - began

        said = {event_id for room in self.rooms for event_id in self._said(room).values()}
        settle("everything was heard everywhere", partial(self._all_have_heard, said), partial(self._unheard, said))
        settle("the queues were empty", lambda: all(map(_has_told_everything, self.servers)), self._queues)
        settle("everything could be read everywhere", partial(self._all_can_read, said))
        for room in self.rooms:
            wait_until_agree(room, *self.people, seconds=PATIENCE)
        return settled

    def _all_have_heard(self, said: set[str]) -> bool:
        time.sleep(0.2)  # looking costs, too
        for listener in self.listeners:
            if listener.failure is not None:
                raise listener.failure
        return all(said.issubset(listener.heard) for listener in self.listeners)

    def _unheard(self, said: set[str]) -> str:
        lines = [f"{listener.name} has not heard {len(said.difference(listener.heard))}" for listener in self.listeners]
        return "\n".join([*lines, self._queues()])

    def _queues(self) -> str:
        """How it stands with everybody, for who wants to know why something does not come."""
        stand = [f"{server.name}: {holding(server)}" for server in self.servers]
        return "\n".join([*stand, *map(_queues_of, self.servers)])

    def _all_can_read(self, said: set[str]) -> bool:
        return all(
            said.issubset(event_id for room in self.rooms for event_id in ids(self._history(person, room)))
            for person in self.people
        )

    def _history(self, person: Client, room: str) -> list[Json]:
        return whole_history(person, room, PAGE)

    def check(self, happened: Counter[str], settled_after: dict[str, float]) -> Report:
        """See that all is well.

        :raises AssertionError: something is lost, or is there twice, or in another order; or a server failed within.
        """
        for room in self.rooms:
            self._check(room)
        for server in self.servers:
            assert "Traceback" not in server.recent_log(), f"{server.name} failed within:\n{server.recent_log()}"
            verified = server.command("verify")
            assert verified.returncode == 0, f"{server.name} does not hold together:\n{verified.stdout}"
        return Report(
            happened,
            self.acknowledged(),
            max(talker.longest for talker in self.talkers),
            settled_after,
            [holding(server) for server in self.servers],
            self.memory.lines(),
        )

    def _said(self, room: str) -> dict[str, str]:
        """What was acknowledged in a room: event IDs by text."""
        return {text: event_id for talker in self.talkers for text, event_id in talker.said[room].items()}

    def _check(self, room: str) -> None:
        said = self._said(room)
        assert said, "nothing was said"
        for person in self.people:
            messages = [event for event in self._history(person, room) if event["type"] == "m.room.message"]
            assert {event["content"]["body"]: event["event_id"] for event in messages} == said
            assert len(messages) == len(said), f"{person.user_id} can read something twice"
            for talker in self.talkers:
                words = [event["event_id"] for event in messages if event["user_id"] == talker.client.user_id]
                assert words == list(talker.said[room].values()), f"{talker.name}'s words are in another order"
                assert in_causal_order(messages, talker.seen), f"{talker.name} answered what comes later"
        for listener in self.listeners:
            heard = Counter(filter(set(said.values()).__contains__, listener.heard))
            assert heard == Counter(said.values()), f"{listener.name} was told something twice, or not at all"


def _has_told_everything(server: HomeServer) -> bool:
    """Whether nothing waits any more to be sent to anybody."""
    _, *lines = _queues_of(server).splitlines()
    return all(line.split()[1] == "0" for line in lines)


def _queues_of(server: HomeServer) -> str:
    """How it stands with whom a server sends to, as its operator is told."""
    told = server.command("federation status")
    assert told.returncode == 0, told.stderr
    return told.stdout


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Put a disk of a certain size, in memory, at a folder; only root may."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def resize_disk(folder: Path, size: int) -> bool:
    """Make a small disk as large as this, at once; False if it holds more."""
    return subprocess.run(["mount", "-o", f"remount,size={size}", folder], capture_output=True).returncode == 0
