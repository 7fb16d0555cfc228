"""The servers and the people of the scenarios.

`server` is one server for all tests, on one kind of database after the other; names of users, rooms and aliases must
therefore be new in each test: `people` and `unique` make them. `fresh_server` is for tests that stop, kill or configure
their server.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count

import pytest

from tests.conftest import NewDatabase
from tests.support.client import Client
from tests.support.server import QUICK, HomeServer

FreshServer = Callable[..., HomeServer]
People = Callable[[str], Client]
Unique = Callable[[str], str]

_SERVERS = pytest.StashKey[list[HomeServer]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the servers logged during a test that failed."""
    report = yield
    if report.failed:
        for server in item.config.stash.get(_SERVERS, []):
            report.sections.append((f"log of {server.name}", server.recent_log()))
    return report


@pytest.fixture(scope="session")
def shared_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, new_database: NewDatabase
) -> Iterator[HomeServer]:
    """The server behind `server`, for as long as its kind of database is tested."""
    with new_database() as url, known(request, HomeServer(tmp_path_factory.mktemp("home") / "data", url)) as server:
        yield server.start()


@pytest.fixture
def server(shared_server: HomeServer) -> Iterator[HomeServer]:
    """A running server that all tests share. None of them may make it fail within."""
    shared_server.forget_log()
    yield shared_server
    must_not_have_failed(shared_server)


@pytest.fixture
def fresh_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, new_database: NewDatabase
) -> Iterator[FreshServer]:
    """Makes servers for this test alone: `fresh_server({"registration.mode": "closed"})`."""
    with ExitStack() as stack:

        def make(settings: Mapping[str, object] | None = None) -> HomeServer:
            url = stack.enter_context(new_database())
            data_dir = tmp_path_factory.mktemp("home") / "data"
            made = HomeServer(data_dir, url, {**QUICK, **(settings or {})})
            stack.enter_context(known(request, made))
            made.start()
            stack.callback(must_not_have_failed, made)
            return made

        yield make


@contextmanager
def known(request: pytest.FixtureRequest, server: HomeServer) -> Iterator[HomeServer]:
    """Have a server's log shown with failures while it lives, and see that it ends."""
    known = request.config.stash.setdefault(_SERVERS, [])
    known.append(server)
    try:
        yield server
    finally:
        server.close()
        known.remove(server)


def must_not_have_failed(server: HomeServer) -> None:
    log = server.recent_log()
    assert "Traceback" not in log, f"the server failed within:\n{log}"


@pytest.fixture(scope="session")
def unique() -> Unique:
    """Makes names that no other test has: `unique("thepub")`."""
    numbers = count(1)
    return lambda word: f"{word}-{next(numbers)}"


@pytest.fixture
def people(server: HomeServer, unique: Unique) -> People:
    """Makes users: `people("dave")`."""
    return lambda name: Client(server).register(unique(name))


@pytest.fixture
def alice(people: People) -> Client:
    return people("alice")


@pytest.fixture
def bob(people: People) -> Client:
    return people("bob")


@pytest.fixture
def carol(people: People) -> Client:
    return people("carol")


@pytest.fixture
def room(alice: Client) -> str:
    """A public room that alice has made."""
    return alice.create_room(visibility="public")


@pytest.fixture
def private_room(alice: Client) -> str:
    """A room that alice has made, and that one must be invited to."""
    return alice.create_room()
