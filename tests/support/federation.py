"""Home servers that speak to each other over real TLS, and the lines between them."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPSConnection
from itertools import product
from pathlib import Path
from typing import TypeAlias

from tests.support.certificates import Authority, CertificateFiles
from tests.support.client import Answer, Client, Json
from tests.support.network import Network
from tests.support.processes import free_port, wait_until
from tests.support.server import QUICK, HomeServer

#: In turn, so that servers are found, and their certificates checked, by DNS names and by addresses.
HOSTS = ("localhost", "127.0.0.1")

#: A place in the state of a room: type and state key.
Slot: TypeAlias = tuple[str, str]


class Federation:
    """Some home servers, each behind a door of a network; started by `start`.

    :param folder: where they keep everything.
    :param databases: one for each: `sqlite`, or the URL of an empty PostgreSQL database.
    :param settings: beside those by which they reach and believe each other.
    """

    def __init__(self, folder: Path, databases: Sequence[str], settings: Mapping[str, object] = QUICK) -> None:
        self.authority = Authority(folder / "authority")
        self.network = Network()
        self._folder = folder
        self._settings = settings
        self.servers: list[HomeServer] = []
        try:
            with ThreadPoolExecutor() as threads:
                hosts = [HOSTS[number % len(HOSTS)] for number in range(len(databases))]
                files = [self.authority.certify(host) for host in hosts]
                self.servers += threads.map(self._make, range(len(databases)), hosts, files, databases)
        except BaseException:
            self.network.close()
            raise

    def _make(self, number: int, host: str, files: CertificateFiles, database: str) -> HomeServer:
        """Make the settings and data of one server."""
        made: list[HomeServer] = []
        port = free_port()
        door = self.network.open_door(f"server {number}", port, lambda: made[0].process_ids if made else [])
        federating = {
            "federation.ca_file": str(self.authority.file),
            "federation.tls_certificate": str(files.certificate),
            "federation.tls_private_key": str(files.private_key),
            "federation.allow_private_addresses": True,
        }
        made.append(
            HomeServer(self._folder / str(number), database, {**federating, **self._settings}, f"{host}:{door}", port)
        )
        return made[0]

    def start(self) -> Federation:
        """Start all servers, and wait until they serve."""
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_until_healthy()
        return self

    def close(self) -> None:
        """End all servers and lines."""
        for server in self.servers:
            server.close()
        self.network.close()

    def ask(self, server: HomeServer, path: str) -> Answer:
        """Ask what any server may ask without a signature, at the door for servers."""
        context = ssl.create_default_context(cafile=str(self.authority.file))
        host, _, port = server.name.rpartition(":")
        connection = HTTPSConnection(host, int(port), context=context, timeout=20)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    # The lines.

    def cut(self, server: HomeServer, *, silently: bool = False) -> None:
        """Cut a server off from everybody else, strangers too."""
        others = [other for other in self.servers if other is not server]
        self.network.cut([(None, self._key(server))])
        self.part([server], others, silently=silently)

    def part(self, group: Collection[HomeServer], others: Collection[HomeServer], *, silently: bool = False) -> None:
        """Let nobody of one group reach anybody of another, either way."""
        ways = [*product(group, others), *product(others, group)]
        self.network.cut([(self._key(origin), self._key(target)) for origin, target in ways], silently=silently)

    def slow(self, server: HomeServer, seconds: float) -> None:
        """Let whatever others say to a server arrive late, and what it answers, too."""
        self.network.slow(self._key(server), seconds)

    def heal(self, server: HomeServer | None = None) -> None:
        """Make all lines good again.

        :param server: only those from and to this one.
        """
        self.network.heal(None if server is None else self._key(server))

    def _key(self, server: HomeServer) -> str:
        return f"server {self.servers.index(server)}"


# What servers agree about.


def state_of(client: Client, room: str) -> dict[Slot, str]:
    """The state of a room as a member's server has it: the IDs of its events."""
    return {(event["type"], event["state_key"]): event["event_id"] for event in client.state(room)}


def whole_history(client: Client, room: str, page: int = 100) -> list[Json]:
    """Everything that a member can read of a room, oldest first, fetched page by page."""
    events: list[Json] = []
    start = None
    while True:
        answer = client.messages(room, dir="b", limit=page, from_=start)
        events += answer["chunk"]
        if len(answer["chunk"]) < page:
            return events[::-1]
        start = answer["end"]


def wait_until_agree(room: str, *clients: Client, seconds: float = 30) -> dict[Slot, str]:
    """Wait until the servers of some members have the same state of a room.

    :returns: that state.
    """
    states: list[dict[Slot, str]] = []

    def they_agree() -> bool:
        states[:] = [state_of(client, room) for client in clients]
        return all(state == states[0] for state in states)

    try:
        wait_until("the servers to agree", they_agree, seconds=seconds)
    except TimeoutError as error:
        error.add_note(_differences(states))
        raise
    return states[0]


def _differences(states: Sequence[Mapping[Slot, str]]) -> str:
    slots = sorted({slot for state in states for slot in state})
    lines = [
        f"{slot}: {[state.get(slot) for state in states]}" for slot in slots if len({s.get(slot) for s in states}) > 1
    ]
    return "They differ in:\n" + "\n".join(lines)


def wait_for_event(client: Client, room: str, event_id: str, seconds: float = 30) -> Json:
    """Wait until an event can be read by a member; it is returned."""

    def look() -> Json | None:
        newest = client.messages(room, dir="b", limit=100)["chunk"]
        return next((event for event in newest if event["event_id"] == event_id), None)

    return wait_until(f"{event_id} to come to {client.user_id}", look, seconds=seconds)


def in_causal_order(events: Sequence[Json], causes: Mapping[str, Collection[str]]) -> bool:
    """Whether no event comes before one that its sender had seen.

    :param causes: by event ID, those that had been seen; only events named here count.
    """
    places = {event["event_id"]: place for place, event in enumerate(events)}
    return all(
        places[cause] < places[event_id]
        for event_id, seen in causes.items()
        if event_id in places
        for cause in seen
        if cause in places
    )
