"""Three servers in a federation, and people on them who talk and listen."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.support.client import Client, ids
from tests.support.federation import Federation, in_causal_order, wait_until_agree, whole_history
from tests.support.postgres import PostgreSQL
from tests.support.processes import wait_until
from tests.support.server import QUICK, HomeServer
from tests.support.talkers import Listener, Talker

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


@dataclass
class Report:
    """What there was to see.

    :ivar happened: how often what has happened.
    :ivar messages: that were acknowledged.
    :ivar longest_wait: until a message was acknowledged, in seconds.
    :ivar settled_after: seconds from the end of all harm until everything was everywhere.
    :ivar bytes_resident: memory of the largest server in the end.
    """

    happened: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    longest_wait: float = 0.0
    settled_after: float = 0.0
    bytes_resident: int = 0

    def lines(self) -> list[str]:
        """As text."""
        return [
            *(f"{count:7} x {name}" for name, count in self.happened.most_common()),
            f"{self.messages:7} messages acknowledged, each of them everywhere and nowhere twice",
            f"{self.longest_wait:7.1f} s at the most until one was",
            f"{self.settled_after:7.1f} s until everything was everywhere, once all was well again",
            f"{self.bytes_resident / 2**20:7.1f} MiB resident, the largest server in the end",
        ]


class World:
    """All of it, while it runs.

    :param folder: where the servers keep everything.
    :param postgresql: whose databases they use; None for SQLite.
    :param disk_bytes: how large the disk of each is to be; None for the one that is there.
    """

    def __init__(
        self, stack: ExitStack, folder: Path, postgresql: PostgreSQL | None = None, disk_bytes: int | None = None
    ) -> None:
        self.postgresql = postgresql
        self.has_small_disks = disk_bytes is not None
        if disk_bytes is not None:
            for number in range(SERVERS):
                stack.enter_context(small_disk(folder / str(number), disk_bytes))
        urls = ["sqlite" if postgresql is None else stack.enter_context(postgresql.database()) for _ in range(SERVERS)]
        self.federation = Federation(folder, urls, SETTINGS)
        stack.callback(self.federation.close)
        self.federation.start()
        self.people = [Client(server).register(f"person-{number}") for number, server in enumerate(self.servers)]
        self.rooms = [self._meet(version) for version in VERSIONS]
        self.listeners = [Listener(person) for person in self.people]
        self.talkers = [Talker(ears.client.another_connection(), *self.rooms, ears=ears) for ears in self.listeners]

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

    # In the end.

    def settle(self) -> float:
        """Wait until everything is everywhere, once nobody talks and nothing happens any more; how long it took."""
        began = time.monotonic()
        for room in self.rooms:
            said = set(self._said(room).values())
            wait_until("everything to be everywhere", partial(self._all_can_read, room, said), seconds=PATIENCE)
            for listener in self.listeners:
                wait_until("everything to be heard", partial(said.issubset, listener.heard), seconds=PATIENCE)
            wait_until_agree(room, *self.people, seconds=PATIENCE)
        for server in self.servers:
            wait_until("the queues to be empty", partial(_has_told_everything, server), seconds=PATIENCE)
        return time.monotonic() - began

    def _all_can_read(self, room: str, said: set[str]) -> bool:
        return all(said <= set(ids(whole_history(person, room))) for person in self.people)

    def check(self, happened: Counter[str], settled_after: float) -> Report:
        """See that all is well.

        :raises AssertionError: something is lost, or is there twice, or in another order; or a server failed within.
        """
        for room in self.rooms:
            self._check(room)
        for server in self.servers:
            assert "Traceback" not in server.recent_log(), f"{server.name} failed within:\n{server.recent_log()}"
        return Report(
            happened,
            sum(len(self._said(room)) for room in self.rooms),
            max(talker.longest for talker in self.talkers),
            settled_after,
            max(server.resident_bytes() for server in self.servers),
        )

    def _said(self, room: str) -> dict[str, str]:
        """What was acknowledged in a room: event IDs by text."""
        return {text: event_id for talker in self.talkers for text, event_id in talker.said[room].items()}

    def _check(self, room: str) -> None:
        said = self._said(room)
        assert said, "nothing was said"
        for person in self.people:
            messages = [event for event in whole_history(person, room) if event["type"] == "m.room.message"]
            assert {event["content"]["body"]: event["event_id"] for event in messages} == said
            assert len(messages) == len(said), f"{person.user_id} can read something twice"
            for talker in self.talkers:
                words = [event["event_id"] for event in messages if event["user_id"] == talker.client.user_id]
                assert words == list(talker.said[room].values()), f"{talker.name}'s words are in another order"
                assert in_causal_order(messages, talker.seen), f"{talker.name} answered what comes later"
        for listener in self.listeners:
            heard = Counter(event_id for event_id in listener.heard if event_id in set(said.values()))
            assert heard == Counter(said.values()), f"{listener.name} was told something twice, or not at all"


def _has_told_everything(server: HomeServer) -> bool:
    """Whether nothing waits any more to be sent to anybody."""
    _, *lines = server.command("federation status").stdout.splitlines()
    return all(line.split()[1] == "0" for line in lines)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Put a disk of a certain size, in memory, at a folder; only root may."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
