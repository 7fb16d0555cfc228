"""The servers and the people of the scenarios.

`server` is one server for all tests, on one kind of database after the other; names of users, rooms and aliases must
therefore be new in each test: `people` and `unique` make them. `fresh_server` is for tests that stop, kill or configure
their server. What is marked `above_storage` runs on SQLite alone, unless servers are of several processes. What is
marked `any_process` runs once more, on a server of three processes.

Rooms have the version that `room_version` says. What is marked `every_room_version`, a test or a whole module by its
`pytestmark`, runs once for each of `ROOM_VERSIONS`; within such a module `of_2014` marks what depends on spec-2014.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count

import pytest

from synapse_like.protocol.room_versions import DEFAULT_VERSION
from tests.conftest import DATABASE_KINDS, SHARED, NewDatabase
from tests.support.client import Client
from tests.support.processes import free_port
from tests.support.server import PROCESSES, QUICK, HomeServer

FreshServer = Callable[..., HomeServer]
People = Callable[[str], Client]
Unique = Callable[[str], str]

#: Those that differ most: in their wire format, in what redactions keep, and in who has power.
ROOM_VERSIONS = ("spec-2014", "6", "11", "12")

every_room_version = pytest.mark.room_versions(*ROOM_VERSIONS)
of_2014 = pytest.mark.room_versions("spec-2014")
above_storage = pytest.mark.above_storage
# If all servers on PostgreSQL have several processes, once on each kind of database is enough.
any_process = pytest.mark.parametrize(
    "database_kind", (*DATABASE_KINDS, SHARED) if PROCESSES == 1 else DATABASE_KINDS, indirect=True, scope="session"
)

_SERVERS = pytest.StashKey[list[HomeServer]]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that has to do with rooms in each of the versions that it, or its module, is marked with."""
    marker = metafunc.definition.get_closest_marker("room_versions")
    if marker is not None and "room_version" in metafunc.fixturenames:
        metafunc.parametrize("room_version", marker.args, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, where the database is PostgreSQL, the later room versions and what lies above storage."""
    left_out = {item for item in items if isinstance(item, pytest.Function) and _is_left_out(item)}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def _is_left_out(item: pytest.Function) -> bool:
    chosen = item.callspec.params if hasattr(item, "callspec") else {}
    later_version = any(chosen.get(name, DEFAULT_VERSION) != DEFAULT_VERSION for name in ("room_version", "version"))
    # What is in the memory of several processes is held together by their database.
    above_storage = item.get_closest_marker("above_storage") is not None and PROCESSES == 1
    return (later_version or above_storage) and chosen.get("database_kind") in ("postgresql", SHARED)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the servers logged during a test that failed."""
    report = yield
    if report.failed:
        for server in item.config.stash.get(_SERVERS, []):
            report.sections.append((f"log of {server.name}", server.recent_log()))
    return report


@pytest.fixture(scope="session")
def usual_settings(database_kind: str) -> Mapping[str, object]:
    """Settings of servers on a kind of database, if nothing else is asked for."""
    return {**QUICK, "processes": 3} if database_kind == SHARED else QUICK


@pytest.fixture(scope="session")
def shared_server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    new_database: NewDatabase,
    usual_settings: Mapping[str, object],
) -> Iterator[HomeServer]:
    """The server behind `server`, for as long as its kind of database is tested."""
    with new_database() as url:
        settings = {**usual_settings, "metrics.port": free_port()}
        made = HomeServer(tmp_path_factory.mktemp("home") / "data", url, settings)
        with known(request, made) as server:
            yield server.start()


@pytest.fixture
def server(shared_server: HomeServer) -> Iterator[HomeServer]:
    """A running server that all tests share. None of them may make it fail within."""
    shared_server.forget_log()
    yield shared_server
    must_not_have_failed(shared_server)


@pytest.fixture
def room_version(request: pytest.FixtureRequest) -> str:
    """The version of the rooms that are made in a test, if it does not say otherwise.

    What a room's version changes lies above storage: to save time, all versions but spec-2014 run on SQLite alone.
    """
    return str(getattr(request, "param", DEFAULT_VERSION))


@pytest.fixture
def fresh_server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    new_database: NewDatabase,
    usual_settings: Mapping[str, object],
    room_version: str,
) -> Iterator[FreshServer]:
    """Makes servers for this test alone: `fresh_server({"registration.mode": "closed"})`."""
    version = {} if room_version == DEFAULT_VERSION else {"rooms.default_version": room_version}
    with ExitStack() as stack:

        def make(settings: Mapping[str, object] | None = None) -> HomeServer:
            url = stack.enter_context(new_database())
            data_dir = tmp_path_factory.mktemp("home") / "data"
            made = HomeServer(data_dir, url, {**usual_settings, **version, **(settings or {})})
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
def people(server: HomeServer, unique: Unique, room_version: str) -> People:
    """Makes users: `people("dave")`."""
    version = None if room_version == DEFAULT_VERSION else room_version
    return lambda name: Client(server, room_version=version).register(unique(name))


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
