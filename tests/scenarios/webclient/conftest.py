"""One server for all tests of the chat page, a browser for each module, and people at it.

What the page shows lies above storage, so that all this runs on SQLite alone; on PostgreSQL where servers are asked to
have several processes. Names of people and rooms are new in each test: `unique` makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser

from tests.scenarios.conftest import Unique, known, must_not_have_failed
from tests.support import browser as browsers
from tests.support.chat_page import ChatPage
from tests.support.client import Client
from tests.support.needed import needed
from tests.support.postgres import PostgreSQL
from tests.support.server import PROCESSES, QUICK, HomeServer

SECRET_WORD = "sesame"
#: With presence, and with two ways to register, one of which the page leaves to the server's own pages.
SETTINGS = {
    **{key: value for key, value in QUICK.items() if key != "presence.enabled"},
    "registration.tokens": [SECRET_WORD],
    "registration.flows": [["m.login.password"], ["m.login.registration_token", "m.login.password"]],
}

Visit = Callable[..., ChatPage]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all tests of a module. (While there is one, asyncio cannot run in this thread.)"""
    program = needed(browsers.find_chromium() if browsers.AXE.exists() else None, "CHROMIUM", browsers.HOW_TO_INSTALL)
    with browsers.chromium(program) as browser:
        yield browser


@pytest.fixture(scope="session")
def chat_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the server keeps what is said."""
    if PROCESSES == 1:
        yield "sqlite"
        return
    postgresql: PostgreSQL = request.getfixturevalue("postgresql")
    with postgresql.database() as url:
        yield url


@pytest.fixture(scope="session")
def chat_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, chat_database: str
) -> Iterator[HomeServer]:
    with known(request, HomeServer(tmp_path_factory.mktemp("chat") / "data", chat_database, SETTINGS)) as server:
        yield server.start()


@pytest.fixture
def home(chat_server: HomeServer) -> Iterator[HomeServer]:
    """The server, which may not fail within."""
    chat_server.forget_log()
    yield chat_server
    must_not_have_failed(chat_server)


@pytest.fixture
def visit(chromium: Browser, home: HomeServer) -> Iterator[Visit]:
    """Opens the page in a browser of its own: `visit(dark=True, width=380)`, for a client that is logged in already by
    `visit(client)`. At the end no page may have had an error, or tried what its policy forbids.
    """
    pages: list[ChatPage] = []
    with ExitStack() as stack:

        def make(client: Client | None = None, *, dark: bool = False, width: int = 1280, height: int = 800) -> ChatPage:
            context = chromium.new_context(
                color_scheme="dark" if dark else "light",
                reduced_motion="reduce",
                viewport={"width": width, "height": height},
            )
            stack.callback(context.close)
            page = ChatPage(context, f"http://127.0.0.1:{home.port}")
            pages.append(page)
            return page if client is None else page.take_session(client.user_id, client.token)

        yield make
        for page in pages:
            assert page.problems == []


@pytest.fixture
def person(home: HomeServer, unique: Unique) -> Callable[[str], Client]:
    """Makes users, who act through the API: `person("dave")`."""
    return lambda name: Client(home).register(unique(name))
