"""What each endpoint asks of the database and of the processor, counted: it may not cost more, and must not grow.

Counts, not times: a time depends on the machine, and a statement too many is one everywhere. A whole server in this
process is asked by bytes, as clients and other servers do. Each operation is done a few times, and the least counts: so
it is as in a server that has been running for a while, and what happens only now and then (every sixteenth
snapshot of a room's state repeats the fifteen before it) is left out.

Where a cost must not grow with something, the same is asked in rooms that have little of it and much.
"""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import nacl.signing
import orjson
import psycopg
import pytest
from signedjson.key import generate_signing_key, write_signing_keys

from synapse_like.http.site import Site
from synapse_like.protocol.request_signing import encode_content
from synapse_like.protocol.room_versions import SPEC_2014
from synapse_like.storage.connections import Connection
from synapse_like.storage.engines.opening import open_engine
from synapse_like.storage.engines.postgresql_messages import MessageConnection
from synapse_like.storage.migrations import migrate
from tests.conftest import NewDatabase
from tests.support.building import Building
from tests.support.inside import (
    CLIENT_V1,
    FEDERATION_V1,
    FEDERATION_V2,
    PASSWORD,
    PEER,
    US,
    Inside,
    Wire,
    quoted,
    request,
)
from tests.support.peer_rooms import PeerRoom

#: Members and messages of rooms of three sizes. What is done in one room would change what it costs in another, so
#: that clients have rooms of their own, and servers whose users come and go, too.
SIZES = ("small", "large", "old")
ROOMS = {
    ("small", "clients"): (10, 60),
    ("large", "clients"): (1000, 60),
    ("old", "clients"): (10, 1000),
    **dict.fromkeys([("small", "servers"), ("small", "doors")], (10, 20)),
    **dict.fromkeys([("large", "servers"), ("large", "doors")], (300, 20)),
    **dict.fromkeys([("old", "servers"), ("old", "doors")], (10, 300)),
}
ROOMS_TO_BE_SEEN_IN = {("small", "clients"): (3, 1), ("large", "clients"): (200, 1)}
#: How often an operation is done.
TIMES = 6
#: How many users there are who are in no room.
NEWCOMERS = 20


# On a busy machine it takes a while until all rooms are there.
pytestmark = pytest.mark.timeout(300)

Rooms = Mapping[tuple[str, str], tuple[int, int]]


@dataclass(frozen=True)
class Counts:
    """What something cost.

    :ivar statements: of SQL, without BEGIN and COMMIT.
    :ivar commits: transactions that changed something.
    :ivar hops: functions handed to a thread of the database.
    :ivar encodings: values written as JSON.
    :ivar signed: Ed25519 signatures made.
    :ivar verified: those checked.
    :ivar messages: to PostgreSQL, those that begin and commit among them.
    """

    statements: int = 0
    commits: int = 0
    hops: int = 0
    encodings: int = 0
    signed: int = 0
    verified: int = 0
    messages: int = 0

    def each(self, other: Counts, choose: Callable[[int, int], int]) -> Counts:
        """Of each count the one that is chosen."""
        return Counts(*map(choose, astuple(self), astuple(other)))


def least_of(costs: Sequence[Counts]) -> Counts:
    """Of each count the least."""
    least = costs[0]
    for counts in costs[1:]:
        least = least.each(counts, min)
    return least


class House:
    """The server, and rooms of all sizes in it."""

    def __init__(self, folder: Path, url: str, rooms: Rooms, *, presence: bool) -> None:
        self.rooms: dict[tuple[str, str], str] = {}
        self.peer_rooms: dict[str, PeerRoom] = {}
        self.tokens: dict[str, str] = {}
        self.numbers = count(1)
        self._newcomers = count(1)
        self._calls = {"encodings": 0, "signed": 0, "verified": 0, "messages": 0}
        key = generate_signing_key("1")
        with (folder / "signing.key").open("w") as file:
            write_signing_keys(file, [key])
        connection = Connection(open_engine(url, data_dir=folder, durability="normal"), exclusive=True)
        migrate(connection)
        self._fill(Building(connection, US, key, SPEC_2014), rooms)
        connection.close()
        database = {"url": url, "durability": "normal"}
        self.inside = Inside(folder, database=database, presence={"enabled": presence})
        self.inside.tokens = self.tokens
        # What is done every so often, or later once more, shall not come in between.
        self.inside.loop.step = 0.001
        self.inside.start(with_tasks=False)

    def _fill(self, site: Building, rooms: Rooms) -> None:
        """Each room has a creator who is in no other."""
        crowd = [self._add(site, f"crowd-{number}") for number in range(max(members for members, _ in rooms.values()))]
        for (size, purpose), (members, messages) in rooms.items():
            creator = self._add(site, f"{size}-{purpose}")
            [room] = site.add_rooms(creator, 1)
            site.join(room, crowd[: members - 1])
            site.talk(room, creator, messages)
            self.rooms[size, purpose] = room
        for number in range(NEWCOMERS):
            self._add(site, f"new-{number}")

    def _add(self, site: Building, name: str) -> str:
        [(user_id, token)] = site.add_users([name])
        self.tokens[name] = token
        return user_id

    @contextmanager
    def counting_calls(self) -> Iterator[None]:
        """Count what is encoded, signed, verified and said to PostgreSQL from here on."""
        with pytest.MonkeyPatch.context() as patch:
            for name, owner, function in (
                ("encodings", orjson, "dumps"),
                ("signed", nacl.signing.SigningKey, "sign"),
                ("verified", nacl.signing.VerifyKey, "verify"),
                ("messages", psycopg.Cursor, "execute"),
                ("messages", MessageConnection, "_exchange"),
            ):
                patch.setattr(owner, function, self._counted(name, getattr(owner, function)))
            yield

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._calls[name] += 1
            return function(*args, **kwargs)

        return call

    def count(self, act: Callable[[], object]) -> Counts:
        """What something costs, once what was begun before has come to its end."""
        self._rest()
        before = self.so_far()
        act()
        return self.so_far().each(before, int.__sub__)

    def _rest(self) -> None:
        """Let everything be done that news of the last commit has begun."""
        database = self.inside.server.database
        for ask in (database.write, *(database.read,) * 6):
            answered: list[object] = []
            ask("rest", lambda txn: True).addCallback(answered.append)
            self.inside.loop.until(lambda answered=answered: bool(answered))

    def so_far(self) -> Counts:
        asked = self.inside.server.database.statistics
        return Counts(asked.statements, asked.commits, asked.jobs + asked.reads, **self._calls)

    def cost_of(self, operation: Operation, size: str = "small") -> Counts:
        """What an operation costs in a room of a size, at the least."""
        found = []
        for _ in range(TIMES):
            site, data = operation(self, size)
            found.append(self.count(lambda site=site, data=data: self.ask(site, data)))
        return least_of(found)

    def ask(self, site: Site[Any], data: bytes) -> None:
        answer = self.inside.send(site, data)
        assert answer.status == 200, answer
        assert b'"error"' not in answer.body, answer

    # Requests.

    def by_client(self, user: str, method: str, path: str, body: object = None) -> tuple[Site[Any], bytes]:
        """A request of a user."""
        content = None if body is None else orjson.dumps(body)
        headers = {"Authorization": f"Bearer {self.tokens[user]}"} if user else {}
        return self.inside.client_site, request(method, CLIENT_V1 + path, content, headers)

    def by_peer(self, method: str, target: str, body: object = None) -> tuple[Site[Any], bytes]:
        """A request of the other server."""
        content = None if body is None else encode_content(body)
        headers = {"Authorization": self.inside.sign(method, target, content)}
        return self.inside.federation_site, request(method, target, content, headers)

    def newcomer(self) -> str:
        """A user who is in no room and has looked before."""
        name = f"new-{next(self._newcomers)}"
        self.inside.ask("GET", "/events?timeout=0", None, name)
        return name


Operation = Callable[[House, str], tuple[Site[Any], bytes]]


def send(house: House, size: str) -> tuple[Site[Any], bytes]:
    place = f"/rooms/{quoted(house.rooms[size, 'clients'])}/send/m.room.message/{next(house.numbers)}"
    return house.by_client(f"{size}-clients", "PUT", place, {"msgtype": "m.text", "body": "Hello."})


def state(house: House, size: str) -> tuple[Site[Any], bytes]:
    place = f"/rooms/{quoted(house.rooms[size, 'clients'])}/state/m.room.topic"
    return house.by_client(f"{size}-clients", "PUT", place, {"topic": f"Topic {next(house.numbers)}"})


def join(house: House, size: str) -> tuple[Site[Any], bytes]:
    return house.by_client(house.newcomer(), "POST", f"/rooms/{quoted(house.rooms[size, 'clients'])}/join", {})


def create_room(house: House, size: str) -> tuple[Site[Any], bytes]:
    return house.by_client("new-0", "POST", "/createRoom", {"name": "A room"})


def initial_sync(house: House, size: str) -> tuple[Site[Any], bytes]:
    return house.by_client(f"{size}-clients", "GET", "/initialSync?limit=10")


def page(house: House, size: str) -> tuple[Site[Any], bytes]:
    place = f"/rooms/{quoted(house.rooms[size, 'clients'])}/messages?limit=50"
    return house.by_client(f"{size}-clients", "GET", place)


def poll_for_nothing(house: House, size: str) -> tuple[Site[Any], bytes]:
    return house.by_client(f"{size}-clients", "GET", "/events?timeout=0")


def typing(house: House, size: str) -> tuple[Site[Any], bytes]:
    user = f"{size}-clients"
    place = f"/rooms/{quoted(house.rooms[size, 'clients'])}/typing/{quoted(f'@{user}:{US}')}"
    return house.by_client(user, "PUT", place, {"typing": next(house.numbers) % 2 == 1, "timeout": 30_000})


def register(house: House, size: str) -> tuple[Site[Any], bytes]:
    stage = {"type": "m.login.password", "user": f"registered-{next(house.numbers)}", "password": PASSWORD}
    return house.by_client("", "POST", "/register", stage)


def log_in(house: House, size: str) -> tuple[Site[Any], bytes]:
    if "bob" not in house.tokens:
        house.inside.register("bob")
    return house.by_client("", "POST", "/login", {"type": "m.login.password", "user": "bob", "password": PASSWORD})


def federation_send(house: House, size: str, pdus: int = 1) -> tuple[Site[Any], bytes]:
    room = house.peer_rooms.get(size)
    if room is None:
        room = house.peer_rooms[size] = house.inside.join_as_peer(house.rooms[size, "servers"], f"@eve:{PEER}")
    body = {
        "origin": PEER,
        "origin_server_ts": 1,
        "pdus": [room.text(f"@eve:{PEER}", f"Message {number}") for number in range(pdus)],
    }
    return house.by_peer("PUT", f"{FEDERATION_V1}/send/{next(house.numbers)}", body)


def federation_send_many(house: House, size: str) -> tuple[Site[Any], bytes]:
    return federation_send(house, size, 50)


def _door(house: House, size: str) -> tuple[str, str]:
    user_id = f"@guest-{next(house.numbers)}:{PEER}"
    return user_id, f"/{quoted(house.rooms[size, 'doors'])}/{quoted(user_id)}?ver={SPEC_2014.name}"


def make_join(house: House, size: str) -> tuple[Site[Any], bytes]:
    return house.by_peer("GET", f"{FEDERATION_V1}/make_join{_door(house, size)[1]}")


def send_join(house: House, size: str) -> tuple[Site[Any], bytes]:
    room_id = house.rooms[size, "doors"]
    begun = house.inside.ask_as_peer("GET", f"{FEDERATION_V1}/make_join{_door(house, size)[1]}")
    room = PeerRoom(SPEC_2014, room_id, PEER, house.inside.peer_key)
    event = room.complete(begun["event"])
    return house.by_peer("PUT", f"{FEDERATION_V2}/send_join/{quoted(room_id)}/{quoted(room.id_of(event))}", event)


#: What each may cost at the most, whatever the size of the room.
CEILINGS: dict[Operation, Counts] = {
    send: Counts(statements=6, commits=1, hops=1, encodings=8, signed=1, messages=4),
    state: Counts(statements=8, commits=1, hops=1, encodings=6, signed=1, messages=5),
    join: Counts(statements=13, commits=1, hops=1, encodings=6, signed=1, messages=9),
    create_room: Counts(statements=41, commits=1, hops=1, encodings=34, signed=8, messages=23),
    initial_sync: Counts(statements=6, hops=1, encodings=1, messages=7),
    page: Counts(statements=5, hops=1, encodings=1, messages=6),
    poll_for_nothing: Counts(encodings=1),
    typing: Counts(statements=3, hops=1, encodings=1, messages=4),
    register: Counts(statements=7, commits=1, hops=2, encodings=1, messages=9),
    log_in: Counts(statements=5, commits=1, hops=2, encodings=1, messages=7),
    federation_send: Counts(statements=7, commits=1, hops=2, encodings=8, verified=2, messages=8),
    federation_send_many: Counts(statements=57, commits=1, hops=2, encodings=204, verified=51, messages=57),
    make_join: Counts(statements=2, hops=1, encodings=2, verified=1, messages=3),
    send_join: Counts(statements=18, commits=1, hops=3, encodings=8, verified=2, messages=19),
}


def test_documentation_tells_these_ceilings() -> None:
    told = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    for operation, ceiling in CEILINGS.items():
        name = operation.__name__.replace("_", " ")
        assert f"\n| {name} | {' | '.join(map(str, astuple(ceiling)))} |\n" in told, name


def at_most(cost: Counts, ceiling: Counts) -> bool:
    """Is no count above its ceiling?"""
    return cost.each(ceiling, max) == ceiling


@contextmanager
def built(new_database: NewDatabase, folder: Path, rooms: Rooms, *, presence: bool = False) -> Iterator[House]:
    """A house, for as long as the context lasts."""
    with new_database() as url:
        house = House(folder, url, rooms, presence=presence)
        try:
            with house.counting_calls():
                yield house
        finally:
            house.inside.stop()


@pytest.fixture(scope="module")
def house(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with built(new_database, tmp_path_factory.mktemp("house"), ROOMS) as house:
        yield house


@pytest.mark.parametrize("operation", CEILINGS, ids=lambda operation: operation.__name__)
def test_costs_no_more_and_no_more_in_a_large_or_old_room(house: House, operation: Operation) -> None:
    costs = {size: house.cost_of(operation, size) for size in SIZES}
    assert at_most(costs["small"], CEILINGS[operation]), costs
    assert costs["large"] == costs["small"]
    assert costs["old"] == costs["small"]


@pytest.mark.parametrize("polls", [1, 50])
def test_delivery_to_polls_asks_the_database_nothing(house: House, polls: int) -> None:
    """An event is encoded once for all who wait for it; then each poll has an answer of its own."""
    users = [f"crowd-{number}" for number in range(polls)]
    waiting = house.inside.server.event_stream
    costs = []
    for _ in range(TIMES):
        wires: list[Wire] = []
        for user in users:
            since = house.inside.ask("GET", "/events?timeout=0", None, user)["end"]
            site, data = house.by_client(user, "GET", f"/events?timeout=2000&from={since}")
            wires.append(Wire())
            channel = site.buildProtocol(None)
            channel.makeConnection(wires[-1])
            channel.dataReceived(data)
        house.inside.loop.until(lambda: waiting.polls == polls)
        site, data = send(house, "large")

        def deliver(site: Site[Any] = site, data: bytes = data, wires: list[Wire] = wires) -> None:
            house.ask(site, data)
            house.inside.loop.until(lambda: all(b"m.room.message" in wire.value() for wire in wires))

        costs.append(house.count(deliver))
        house.inside.loop.until(lambda: waiting.polls == 0)
    sending = CEILINGS[send]
    least = least_of(costs)
    assert at_most(least, replace(sending, encodings=sending.encodings + 1 + polls)), least


def test_change_of_presence_costs_one_row_however_many_might_see_it(new_database: NewDatabase, tmp_path: Path) -> None:
    """PRES-1: nobody looks; who does is told from memory."""
    with built(new_database, tmp_path, ROOMS_TO_BE_SEEN_IN, presence=True) as house:
        # It is told a second later at the most.
        house.inside.loop.step = 0.1
        costs = {size: _cost_of_presence(house, f"{size}-clients") for size in ("small", "large")}
    assert at_most(costs["small"], Counts(statements=4, commits=1, hops=2, encodings=2, messages=5)), costs
    assert costs["large"] == costs["small"]


def _cost_of_presence(house: House, user: str) -> Counts:
    """What it costs that a user is there, and away, and there again."""
    found = []
    place = f"/presence/{quoted(f'@{user}:{US}')}/status"
    for presence in ("online", "unavailable") * 3:
        site, data = house.by_client(user, "PUT", place, {"presence": presence})

        def change(site: Site[Any] = site, data: bytes = data) -> None:
            before = house.so_far()
            house.ask(site, data)
            # It is written, and then asked which servers are to be told.
            house.inside.loop.until(lambda: house.so_far().hops >= before.hops + 2)

        found.append(house.count(change))
    return least_of(found[2:])
