"""The servers of these scenarios.

`mail` is a real mail server in a process of its own. `identity` is one identity server for all tests, on one kind of
database after the other, so that addresses must be new in each test: `unique` makes them. `identity_servers` makes
others for a test alone; none of them may fail within.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import pytest

from tests.conftest import NewDatabase
from tests.support.identity import IdentityServer
from tests.support.smtp_server import SmtpServer

IdentityServers = Callable[..., IdentityServer]


@pytest.fixture(scope="session")
def mail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmtpServer]:
    """A mail server."""
    server = SmtpServer(tmp_path_factory.mktemp("mail")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_identity(
    tmp_path_factory: pytest.TempPathFactory, new_database: NewDatabase, mail: SmtpServer
) -> Iterator[IdentityServer]:
    """The server behind `identity`."""
    with new_database() as url:
        server = IdentityServer(tmp_path_factory.mktemp("identity") / "data", mail, url)
        yield server.start()
        server.close()


@pytest.fixture
def identity(shared_identity: IdentityServer) -> Iterator[IdentityServer]:
    """An identity server that all tests share."""
    mark = len(shared_identity.log())
    yield shared_identity
    assert "Traceback" not in shared_identity.log()[mark:]


@pytest.fixture
def identity_servers(
    tmp_path_factory: pytest.TempPathFactory, new_database: NewDatabase, mail: SmtpServer
) -> Iterator[IdentityServers]:
    """Makes identity servers, which are still to be started: `identity_servers({"http.port": 1})`."""
    made: list[IdentityServer] = []
    with ExitStack() as stack:

        def make(settings: Mapping[str, object] | None = None) -> IdentityServer:
            url = stack.enter_context(new_database())
            server = IdentityServer(tmp_path_factory.mktemp("identity") / "data", mail, url, settings)
            made.append(server)
            stack.callback(server.close)
            return server

        yield make
        logs = [server.log() for server in made if server.process is not None]
    assert not any("Traceback" in log for log in logs), "\n".join(logs)
