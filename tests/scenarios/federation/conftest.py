"""Several servers for the scenarios, and people on each.

`three` are three servers for all tests that ask for them, on one kind of database after the other: alice lives on the
first, bob on the second, carol on the third. All lines between them are good when a test begins, and all of them run.
`federation_of` is for tests, or modules of tests, that need others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from tests.conftest import NewDatabase
from tests.scenarios.conftest import Unique, known, must_not_have_failed
from tests.support.client import Client
from tests.support.federation import Federation, wait_until_agree
from tests.support.server import QUICK, HomeServer

#: What the tests of federation want of their servers: to be quick to give up, and to try again soon.
IMPATIENT: Mapping[str, object] = {
    **QUICK,
    "federation.connect_timeout": 3.0,
    "federation.answer_timeout": 8.0,
    "federation.body_timeout": 8.0,
}

FederationOf = Callable[..., AbstractContextManager[Federation]]

#: The versions of rooms that differ most in what travels between servers.
VERSIONS = ("spec-2014", "6", "11", "12")
each_version = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture(scope="session")
def federation_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FederationOf:
    """Makes running servers: `with federation_of("sqlite", "sqlite") as federation`, one for each database."""

    @contextmanager
    def make(*databases: str, **settings: object) -> Iterator[Federation]:
        settings = {name.replace("__", "."): value for name, value in settings.items()}
        with ExitStack() as stack:
            federation = Federation(tmp_path_factory.mktemp("homes"), databases, {**IMPATIENT, **settings})
            stack.callback(federation.close)
            for server in federation.servers:
                stack.enter_context(known(request, server))
            yield federation.start()

    return make


@contextmanager
def in_good_order(federation: Federation) -> Iterator[Federation]:
    """Let a test have servers that run and whose lines are good; none of them may fail within."""
    federation.heal()
    for server in federation.servers:
        if not server.is_running:
            server.start()
        server.forget_log()
    yield federation
    federation.heal()
    for server in federation.servers:
        must_not_have_failed(server)


@pytest.fixture(scope="session")
def shared_three(federation_of: FederationOf, new_database: NewDatabase) -> Iterator[Federation]:
    """The servers behind `three`, for as long as their kind of database is tested."""
    with ExitStack() as stack:
        urls = [stack.enter_context(new_database()) for _ in range(3)]
        yield stack.enter_context(federation_of(*urls))


@pytest.fixture
def three(shared_three: Federation) -> Iterator[Federation]:
    """Three servers in good order."""
    with in_good_order(shared_three) as federation:
        yield federation


@pytest.fixture
def server_a(three: Federation) -> HomeServer:
    return three.servers[0]


@pytest.fixture
def server_b(three: Federation) -> HomeServer:
    return three.servers[1]


@pytest.fixture
def server_c(three: Federation) -> HomeServer:
    return three.servers[2]


@pytest.fixture
def alice(server_a: HomeServer, unique: Unique) -> Client:
    return Client(server_a).register(unique("alice"))


@pytest.fixture
def bob(server_b: HomeServer, unique: Unique) -> Client:
    return Client(server_b).register(unique("bob"))


@pytest.fixture
def carol(server_c: HomeServer, unique: Unique) -> Client:
    return Client(server_c).register(unique("carol"))


@pytest.fixture
def room(alice: Client) -> str:
    """A public room that alice has made."""
    return alice.create_room(visibility="public")


@pytest.fixture
def private_room(alice: Client) -> str:
    """A room that alice has made, and that one must be invited to."""
    return alice.create_room()


Meet = Callable[..., str]


@pytest.fixture(scope="session")
def meet(unique: Unique) -> Meet:
    """Brings people together: `meet(alice, bob, room_version="11")` is a public room of alice's that bob has joined."""

    def make(host: Client, *guests: Client, **options: object) -> str:
        name = unique("meeting")
        room = host.create_room(**{"visibility": "public", "room_alias_name": name, **options})
        for guest in guests:
            assert guest.join(f"#{name}:{host.server.name}") == room
        wait_until_agree(room, host, *guests)
        return room

    return make
