"""Registering and logging in by pages, in a real browser (LOGIN-7, LOGIN-8, LOGIN-9).

What the pages show lies above storage, so that all this runs on SQLite alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection
from itertools import combinations, permutations
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Request

from tests.scenarios.conftest import Unique, known, must_not_have_failed
from tests.support import browser as browsers
from tests.support.client import PASSWORD, PREFIX, Client
from tests.support.needed import needed
from tests.support.oidc import HOW_TO_INSTALL as HOW_TO_INSTALL_OIDC
from tests.support.oidc import OidcProviders, authorize, find_node
from tests.support.server import QUICK, HomeServer
from tests.support.smtp_server import Letter, SmtpServer
from tests.support.sydent import HOW_TO_INSTALL as HOW_TO_INSTALL_SYDENT
from tests.support.sydent import Sydent, find_sydent

WORD, TOKEN, OAUTH2 = "m.login.password", "m.login.registration_token", "m.login.oauth2"
CODE, URL, IDENTITY = "m.login.email.code", "m.login.email.url", "m.login.email.identity"
STAGES = (WORD, CODE, URL, OAUTH2, IDENTITY)
PAIRS = list(permutations(STAGES, 2))
SECRET_WORD = "sesame"

#: What clients of 2014 have run in a page when it was there, to be told of its end. They intercept addresses `js:…`.
SENDING = """
sendObjectMessage = function (parameters) {
  var iframe = document.createElement('iframe');
  iframe.setAttribute('src', 'js:' + JSON.stringify(parameters));
  document.documentElement.appendChild(iframe);
  iframe.parentNode.removeChild(iframe);
  (window.sent = window.sent || []).push(parameters);
};
"""
HOOKS = {
    "login": SENDING
    + "matrixLogin.onLogin = function (response) { sendObjectMessage({action: 'onLogin', response: response}); };",
    "register": SENDING
    + """matrixRegistration.onRegistered = function (homeserverUrl, userId, accessToken) {
      sendObjectMessage({homeServer: homeserverUrl, response: {user_id: userId, access_token: accessToken}});
    };""",
}


class World:
    """All that the pages deal with."""

    def __init__(self, stack: ExitStack, new_folder: Callable[[str], Path], request: pytest.FixtureRequest) -> None:
        node = needed(find_node(), "OIDC", HOW_TO_INSTALL_OIDC)
        sydent = needed(find_sydent(), "SYDENT", HOW_TO_INSTALL_SYDENT)
        self.smtp = SmtpServer(new_folder("smtp")).start()
        stack.callback(self.smtp.stop)
        self.sydent = Sydent(sydent, new_folder("sydent"), self.smtp.port)
        stack.callback(self.sydent.stop)
        self.oidc = OidcProviders(node, new_folder("oidc"))
        stack.callback(self.oidc.stop)
        #: One server where one stage is enough, and one where it takes two.
        self.one = self._server(new_folder("home"))
        self.two = self._server(new_folder("home"))
        _configure(self.one, [[WORD], [CODE], [URL], [OAUTH2], [IDENTITY]])
        registration = [[WORD], [CODE], [URL], [OAUTH2], [TOKEN, WORD], [IDENTITY, WORD]]
        _configure(self.one, registration, "registration")
        for section in ("login", "registration"):
            _configure(self.two, PAIRS, section)
        self.oidc.start()
        for server in (self.one, self.two):
            stack.enter_context(known(request, server))
            server.start()

    def _server(self, folder: Path) -> HomeServer:
        server = HomeServer(
            folder / "data",
            settings={
                **QUICK,
                "mail.host": "127.0.0.1",
                "mail.port": self.smtp.port,
                "mail.security": "none",
                "identity_servers.trusted": [self.sydent.url],
                "registration.tokens": [SECRET_WORD],
                "oauth2.providers": [
                    self.oidc.settings("first", "First ID"),
                    self.oidc.settings("second", "Second & <b>Co</b>", number=1, new_accounts="by_name"),
                ],
            },
        )
        self.oidc.know(f"http://127.0.0.1:{server.port}")
        return server


def _configure(server: HomeServer, flows: Sequence[Sequence[str]], section: str = "login") -> None:
    """Change the flows in the settings of a server that does not run yet."""
    text = server.config.read_text()
    head, found, tail = text.partition(f"\n{section}:\n")
    assert found
    changed = re.sub(
        r"^  #?flows:.*$", f"  flows: {json.dumps([list(flow) for flow in flows])}", tail, count=1, flags=re.MULTILINE
    )
    assert changed != tail
    server.config.write_text(head + found + changed)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all."""
    program = needed(browsers.find_chromium() if browsers.AXE.exists() else None, "CHROMIUM", browsers.HOW_TO_INSTALL)
    with browsers.chromium(program) as browser:
        yield browser


@pytest.fixture(scope="module")
def one_world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack, tmp_path_factory.mktemp, request)


@pytest.fixture
def world(one_world: World) -> Iterator[World]:
    """The servers, none of which may fail within."""
    for server in (one_world.one, one_world.two):
        server.forget_log()
    yield one_world
    while one_world.smtp.has_new():
        one_world.smtp.next_letter()
    for server in (one_world.one, one_world.two):
        must_not_have_failed(server)


class Visitor:
    """A person with a browser of their own.

    :ivar visited: all addresses that the browser has asked for.
    """

    def __init__(self, context: BrowserContext, world: World, name: str) -> None:
        self.context = context
        self.page = context.new_page()
        self.name = name
        self._world = world
        self.visited: list[str] = []
        self._blocked: list[str] = []
        self._elsewhere: list[Request] = []
        self.page.on("console", self._heard)
        self.page.on("request", self._asked)
        self.page.set_default_timeout(10_000)

    def _heard(self, message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text and "frame-ancestors" not in message.text:
            self._blocked.append(message.text)

    def _asked(self, request: Request) -> None:
        self.visited.append(request.url)
        if request.is_navigation_request() and "/_matrix/" not in request.url:
            self._elsewhere.append(request)

    def done(self) -> None:
        """Nothing that the pages do is against their own policy, no token stands in an address, and no address of ours
        is told to others.
        """
        assert self._blocked == []
        for request in self._elsewhere:
            assert "/_matrix/" not in str(request.all_headers().get("referer")), request.url
        assert not any("access_token" in address for address in self.visited if not address.startswith("js:"))

    # Pages.

    def begin(self, server: HomeServer, purpose: str) -> None:
        self.page.goto(f"http://127.0.0.1:{server.port}{PREFIX}/{purpose}/fallback")

    @property
    def text(self) -> str:
        return self.page.locator("main").inner_text()

    def press(self) -> None:
        """Press the button of the form that is shown."""
        self.page.locator("main > form").first.locator("button").first.click()

    def fill(self, **fields: str) -> None:
        """Fill in those fields that are there."""
        for name, value in fields.items():
            if self.page.locator(f"#{name}").count():
                self.page.fill(f"#{name}", value)

    def wait_for_focus(self, field: str) -> None:
        """Until what is typed goes into a field: a browser gives the focus only when it draws the page."""
        self.page.wait_for_function("field => document.activeElement?.id === field", arg=field)

    def look(self) -> None:
        """Everybody can use the page that is shown."""
        assert browsers.faults(self.page) == [], self.text
        wide = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"it is wider than the screen: {self.text}"

    def walk(self, stages: Sequence[str], look: Callable[[], None] = lambda: None) -> None:
        """Go through some stages.

        :param look: called at each page of ours.
        """
        for stage in stages:
            choice = self.page.locator(f'button[name=show][value="{stage}"]')
            look()
            if choice.count():
                choice.click()
                look()
            self.fill(user=self.name)
            getattr(self, f"_{stage.rpartition('.')[2]}")(look)
        look()

    def _password(self, look: Callable[[], None]) -> None:
        self.fill(password=PASSWORD, repeated=PASSWORD)
        self.press()

    def _registration_token(self, look: Callable[[], None]) -> None:
        self.fill(token=SECRET_WORD)
        self.press()

    def _code(self, look: Callable[[], None]) -> None:
        self.fill(email=f"{self.name}@example.org")
        self.press()
        look()
        self.fill(code=in_letter(self._world.smtp.next_letter(), r"^ +(\d{8})$"))
        self.press()

    def _url(self, look: Callable[[], None]) -> None:
        self.fill(email=f"{self.name}@example.org")
        self.press()
        look()
        confirm_elsewhere(in_letter(self._world.smtp.next_letter(), r"(https?://\S+)"))
        if self.runs_scripts:
            self.page.wait_for_selector("#waiting", state="detached")
        else:
            self.press()

    def _identity(self, look: Callable[[], None]) -> None:
        self.fill(email=f"{self.name}@example.org")
        self.press()
        look()
        self.fill(code=in_letter(self._world.smtp.next_letter(), r"^ +(\w+)\s*$"))
        self.press()

    def _oauth2(self, look: Callable[[], None]) -> None:
        self.page.click("text=Continue with First ID")
        self.at_provider()

    def at_provider(self, name: str | None = None, *, allow: bool = True) -> None:
        """Log in there, if that is needed, and allow it to tell who one is."""
        page = self.page
        page.wait_for_url(re.compile(r"/interaction/|/oauth2/return/"))
        if page.locator("input[name=login]").count():
            page.fill("input[name=login]", name or self.name)
            page.fill("input[name=password]", "any")
            page.click("button[type=submit]")
            page.wait_for_selector("text=Authorize")
        if "/interaction/" in page.url:
            page.click("button[type=submit]" if allow else "text=Cancel")
        page.wait_for_url("**/oauth2/return/**")

    @property
    def runs_scripts(self) -> bool:
        return self.page.locator("noscript").count() == 0 or not self.page.locator("noscript").first.is_visible()

    def is_in(self) -> bool:
        return self.page.locator("h1").inner_text() == "You are logged in"

    def handed_over(self, purpose: str) -> dict[str, str]:
        """What a client of 2014 is told, which has this page shown."""
        self.page.evaluate(f"{HOOKS[purpose]}; null")
        self.page.wait_for_function("window.sent")
        sent = self.page.evaluate("window.sent")
        assert len(sent) == 1
        response = sent[0]["response"]
        assert isinstance(response, dict)
        return response


Visit = Callable[..., Visitor]


@pytest.fixture
def visit(chromium: Browser, world: World, unique: Unique) -> Iterator[Visit]:
    """Makes people with browsers: `visit(dark=True)`."""
    with ExitStack() as stack:

        def make(*, dark: bool = False, scripts: bool = True, width: int = 900, name: str | None = None) -> Visitor:
            context = chromium.new_context(
                color_scheme="dark" if dark else "light",
                java_script_enabled=scripts,
                viewport={"width": width, "height": 700},
            )
            stack.callback(context.close)
            visitor = Visitor(context, world, name or unique("person"))
            stack.callback(visitor.done)
            return visitor

        yield make


def in_letter(letter: Letter, pattern: str) -> str:
    found = re.search(pattern, letter.part("plain"), re.MULTILINE)
    assert found is not None, letter.part("plain")
    return found[1]


def confirm_elsewhere(link: str) -> None:
    """Press the button on the page of a link, on another device."""
    parts = urlsplit(link)
    assert parts.hostname is not None
    connection = HTTPConnection(parts.hostname, parts.port, timeout=20)
    connection.request("POST", parts.path, "", {"Content-Type": "application/x-www-form-urlencoded"})
    assert connection.getresponse().status == 200
    connection.close()


def check_in(visitor: Visitor, server: HomeServer, purpose: str) -> None:
    """They are in, and their client gets credentials that are good."""
    assert visitor.is_in(), visitor.text
    given = visitor.handed_over(purpose)
    assert given["user_id"] == f"@{visitor.name}:{server.name}"
    assert Client(server).request("GET", "/initialSync", token=given["access_token"]).status == 200


# Every stage and combination.


@pytest.mark.parametrize(
    ("registration", "login"),
    [
        ([WORD], [WORD]),
        ([TOKEN, WORD], [WORD]),
        ([CODE], [CODE]),
        ([URL], [URL]),
        ([OAUTH2], [OAUTH2]),
        ([IDENTITY, WORD], [IDENTITY]),
    ],
)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_stage(world: World, visit: Visit, registration: list[str], login: list[str], dark: bool) -> None:
    """LOGIN-7, LOGIN-9: on pages that everybody can use, light or dark, wide or narrow."""
    visitor = visit(dark=dark, width=320 if dark else 900)
    for purpose, stages in (("register", registration), ("login", login)):
        visitor.begin(world.one, purpose)
        visitor.walk(stages, visitor.look)
        check_in(visitor, world.one, purpose)


@pytest.mark.parametrize(
    "pair", list(combinations(STAGES, 2)), ids=lambda pair: "-".join(stage.rpartition(".")[2] for stage in pair)
)
def test_every_two_stages(world: World, visit: Visit, pair: tuple[str, str]) -> None:
    """LOGIN-8, LOGIN-9: in one order in registration, and in the other in login."""
    visitor = visit()
    for purpose, (first, second) in (("register", pair), ("login", pair[::-1])):
        visitor.begin(world.two, purpose)
        visitor.walk([first])
        assert "Step 2 of 2" in visitor.text
        visitor.walk([second])
        check_in(visitor, world.two, purpose)


@pytest.mark.parametrize("stages", [[WORD], [TOKEN, WORD], [CODE], [URL], [OAUTH2], [IDENTITY, WORD]])
def test_every_stage_without_scripts(world: World, visit: Visit, stages: list[str]) -> None:
    """LOGIN-9: nothing but the hand-over to a client takes one."""
    visitor = visit(scripts=False)
    visitor.begin(world.one, "register")
    visitor.walk(stages)
    assert visitor.is_in(), visitor.text
    assert "scripts are turned off here" in visitor.text


def test_keyboard_alone_is_enough(world: World, visit: Visit) -> None:
    """LOGIN-9: what is to be typed in first has the focus."""
    visitor = visit()
    Client(world.one).register(visitor.name)
    visitor.begin(world.one, "login")
    visitor.wait_for_focus("user")
    visitor.page.keyboard.type(visitor.name)
    visitor.page.keyboard.press("Tab")
    visitor.page.keyboard.type("wrong horse")
    visitor.page.keyboard.press("Enter")
    visitor.page.wait_for_selector("#password-fault")
    visitor.wait_for_focus("password")
    visitor.page.keyboard.type(PASSWORD)
    visitor.page.keyboard.press("Enter")
    visitor.page.wait_for_selector("text=You are logged in")
    check_in(visitor, world.one, "login")


# Faults.


@pytest.mark.parametrize(
    ("purpose", "stage", "given", "field", "says"),
    [
        ("login", WORD, {"password": "wrong horse"}, "password", "user or the password is wrong"),
        ("register", WORD, {"user": "two words", "password": PASSWORD, "repeated": PASSWORD}, "user", "may hold only"),
        ("register", WORD, {"password": "short", "repeated": "short"}, "password", "password"),
        ("register", WORD, {"password": PASSWORD, "repeated": "another horse"}, "repeated", "not the same"),
        ("register", TOKEN, {"token": "wrong"}, "token", "not valid"),
        ("register", CODE, {"email": "no@address@at.all"}, "email", "e-mail address"),
        ("register", IDENTITY, {"email": "no@address@at.all"}, "email", "e-mail address"),
    ],
)
def test_fault_stands_beside_its_field(
    world: World, visit: Visit, purpose: str, stage: str, given: dict[str, str], field: str, says: str
) -> None:
    """LOGIN-9: what was typed in is still there, but for passwords."""
    visitor = visit()
    page = visitor.page
    visitor.begin(world.one, purpose)
    choice = page.locator(f'button[name=show][value="{stage}"]')
    if choice.count():
        choice.click()
    # The browser itself would catch some of them.
    page.evaluate("document.querySelector('main > form').noValidate = true")
    visitor.fill(**{"user": visitor.name, **given})
    visitor.press()
    fault = page.locator(f"#{field}-fault")
    assert says in fault.inner_text()
    assert page.locator(f"#{field}").get_attribute("aria-invalid") == "true"
    assert f"{field}-fault" in str(page.locator(f"#{field}").get_attribute("aria-describedby"))
    visitor.wait_for_focus(field)
    assert page.title().startswith("Error: ")
    visitor.look()
    if page.locator("#user").count():
        assert page.input_value("#user") == given.get("user", visitor.name)
    for name in ("password", "repeated"):
        if page.locator(f"#{name}").count():
            assert page.input_value(f"#{name}") == ""


def test_taken_name_is_said_at_its_field(world: World, visit: Visit) -> None:
    """LOGIN-3, LOGIN-9."""
    visitor = visit()
    Client(world.one).register(visitor.name)
    for stage in (WORD, CODE, OAUTH2):
        visitor.begin(world.one, "register")
        choice = visitor.page.locator(f'button[name=show][value="{stage}"]')
        if choice.count():
            choice.click()
        visitor.fill(user=visitor.name, password=PASSWORD, repeated=PASSWORD, email="someone@example.org")
        visitor.press()
        assert "is taken" in visitor.page.locator("#user-fault").inner_text()


def test_empty_field_is_asked_for(world: World, visit: Visit) -> None:
    """LOGIN-9: also of a browser that lets it pass."""
    visitor = visit()
    visitor.begin(world.one, "login")
    visitor.page.evaluate("document.querySelector('main > form').noValidate = true")
    visitor.fill(user=visitor.name)
    visitor.press()
    assert "fill in" in visitor.page.locator("#password-fault").inner_text()


def test_wrong_code_can_be_mended_and_another_one_sent(world: World, visit: Visit) -> None:
    """LOGIN-4, LOGIN-9: until there were too many tries."""
    visitor = visit()
    page = visitor.page
    visitor.begin(world.one, "register")
    page.click(f'button[value="{CODE}"]')
    visitor.fill(user=visitor.name, email=f"{visitor.name}@example.org")
    visitor.press()
    first = in_letter(world.smtp.next_letter(), r"^ +(\d{8})$")
    visitor.fill(code="00000000" if first != "00000000" else "00000001")
    visitor.press()
    assert "wrong" in page.locator("#code-fault").inner_text()
    page.click("text=Send another code")
    second = in_letter(world.smtp.next_letter(), r"^ +(\d{8})$")
    for _ in range(9):
        visitor.fill(code=first)
        visitor.press()
        assert "wrong" in page.locator("#code-fault").inner_text()
    visitor.fill(code=second)
    visitor.press()
    assert page.locator("h1").inner_text() == "That did not work"
    page.click("text=Start again")
    assert page.url.endswith("/register/fallback")


def test_link_is_waited_for(world: World, visit: Visit) -> None:
    """LOGIN-5, LOGIN-9: one can ask by hand, too, and have another link sent."""
    visitor = visit(scripts=False)
    visitor.begin(world.one, "register")
    visitor.page.click(f'button[value="{URL}"]')
    visitor.fill(user=visitor.name, email=f"{visitor.name}@example.org")
    visitor.press()
    first = in_letter(world.smtp.next_letter(), r"(https?://\S+)")
    visitor.press()
    assert "not opened and confirmed yet" in visitor.text
    visitor.page.click("text=Send another link")
    second = in_letter(world.smtp.next_letter(), r"(https?://\S+)")
    assert second != first
    confirm_elsewhere(second)
    visitor.press()
    assert visitor.is_in()


def test_too_many_submissions_are_told_on_the_page(
    world: World, visit: Visit, chromium: Browser, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """LOGIN-9, RATE-1."""
    limits = {"rate_limits.enabled": True, "rate_limits.classes.login": {"per_second": 0.01, "burst": 1}}
    server = HomeServer(tmp_path / "data", settings={**QUICK, **limits})
    with known(request, server):
        server.start()
        visitor = visit()
        visitor.begin(server, "login")
        for _ in range(2):
            visitor.fill(user="alice", password="wrong horse")
            visitor.press()
        assert visitor.page.locator("[role=alert]").count() == 1
        assert "Too many" in visitor.text
        assert visitor.page.input_value("#user") == "alice"


def test_closed_registration_is_told_on_the_page(
    visit: Visit, world: World, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """LOGIN-9, LOGIN-11."""
    server = HomeServer(tmp_path / "data", settings={**QUICK, "registration.mode": "closed"})
    with known(request, server):
        server.start()
        visitor = visit()
        visitor.begin(server, "register")
        assert "Registration is closed" in visitor.text
        visitor.look()


# Providers.


def test_denial_leads_back(world: World, visit: Visit) -> None:
    """LOGIN-7, LOGIN-9."""
    visitor = visit()
    visitor.begin(world.one, "login")
    visitor.page.click("text=Continue with First ID")
    visitor.at_provider(allow=False)
    assert "not allowed First ID" in visitor.text
    visitor.look()
    visitor.page.click("text=Start again")
    visitor.page.wait_for_selector("text=Continue with First ID")


def test_client_sends_people_to_the_choice_and_they_confirm(world: World, visit: Visit) -> None:
    """LOGIN-7: names of providers are shown as they are, and the account is named before anything happens."""
    visitor = visit()
    visitor.page.goto(Client(world.one).call("POST", "/login", {"type": OAUTH2})["uri"])
    assert "Continue with Second & <b>Co</b>" in visitor.text
    visitor.look()
    visitor.page.click("text=Continue with Second")
    visitor.at_provider()
    assert f"a new account here, @{visitor.name}:{world.one.name}" in visitor.text
    visitor.look()
    visitor.press()
    check_in(visitor, world.one, "login")
    # The address that they came back to is good for nothing any more.
    visitor.page.goto(next(address for address in visitor.visited if "/oauth2/return/" in address))
    assert visitor.page.locator("h1").inner_text() == "That did not work"


def test_redirect_uri_of_somebody_else_logs_nobody_in(world: World, visit: Visit) -> None:
    """LOGIN-7: a page has begun, and in another browser it does not go on."""
    mallory, victim = visit(), visit()
    mallory.begin(world.one, "register")
    mallory.walk([OAUTH2])
    mallory.begin(world.one, "login")
    mallory.context.route("**/auth?**", lambda route: route.abort())
    with mallory.page.expect_event("requestfailed") as failed:
        mallory.page.click("text=Continue with First ID")
    address = authorize(failed.value.url, mallory.name)
    victim.page.goto(address)
    assert "begun in another browser" in victim.text
    victim.look()


def test_owner_of_an_account_adds_a_way_into_it(world: World, visit: Visit) -> None:
    """LOGIN-7."""
    visitor = visit()
    client = Client(world.one).register(visitor.name)
    uri = client.call("POST", "/account/oauth2", {"password": PASSWORD, "provider": "first"})["uri"]
    visitor.page.goto(uri)
    visitor.at_provider()
    assert client.user_id in visitor.text
    visitor.look()
    visitor.press()
    assert visitor.page.locator("h1").inner_text() == "Done"
    visitor.look()
    visitor.begin(world.one, "login")
    visitor.page.click("text=Continue with First ID")
    visitor.at_provider()
    check_in(visitor, world.one, "login")


# The end.


def test_client_is_told_by_whatever_function_it_has(world: World, visit: Visit) -> None:
    """LOGIN-9: set before the page is there or after; once, and only to one."""
    before, after = visit(), visit()
    Client(world.one).register(before.name)
    before.page.add_init_script("window.told = []; window.onLogin = function (response) { told.push(response); };")
    before.begin(world.one, "login")
    before.walk([WORD])
    before.page.wait_for_function("told.length")
    before.page.evaluate(f"{HOOKS['login']}; null")
    assert before.page.evaluate("[told.length, window.sent === undefined]") == [1, True]
    told = before.page.evaluate("told[0]")
    assert set(told) == {"user_id", "access_token", "home_server"}
    assert told["access_token"] not in before.page.content()

    after.name = before.name
    after.begin(world.one, "login")
    after.walk([WORD])
    after.page.evaluate(
        "window.told = []; matrixLogin.onLogin = function (url, user, token) { told.push([url, user, token]); }; null"
    )
    after.page.wait_for_function("told.length")
    [[url, user_id, token]] = after.page.evaluate("told")
    assert (url, user_id) == (f"http://127.0.0.1:{world.one.port}", told["user_id"])
    assert token not in (told["access_token"], "")


def test_no_other_page_may_frame_or_forge_the_forms(world: World, visit: Visit, tmp_path: Path) -> None:
    """LOGIN-9: another page cannot have somebody log in to an account of its own choice."""
    visitor = visit()
    Client(world.one).register(visitor.name)
    address = f"http://127.0.0.1:{world.one.port}{PREFIX}/login/fallback"
    visitor.page.goto(address)
    token = visitor.page.locator("input[name=form]").first.get_attribute("value")
    for form in (token, "0" * 64):
        forged = tmp_path / "forged.html"
        forged.write_text(
            f'<form method="post" action="{address}"><input name="form" value="{form}">'
            f'<input name="type" value="{WORD}"><input name="user" value="{visitor.name}">'
            f'<input name="password" value="{PASSWORD}"><button>Win a prize</button></form>'
        )
        visitor.page.goto(forged.as_uri())
        visitor.page.click("button")
        assert visitor.page.locator("h1").inner_text() == "That did not work"
        assert "cookie" in visitor.text
    framing = tmp_path / "framing.html"
    framing.write_text(f'<iframe src="{address}"></iframe>')
    visitor.page.goto(framing.as_uri())
    frame = visitor.page.frames[1]
    frame.wait_for_load_state()
    assert frame.locator("form").count() == 0


def test_policy_is_strict(world: World) -> None:
    """LOGIN-9: no page has anything from elsewhere, and only what it needs of its own."""
    for purpose in ("login", "register"):
        answer = Client(world.one).request("GET", f"/{purpose}/fallback")
        assert answer.headers.get_content_type() == "text/html"
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert policy["form-action"] == "'self'"
        assert "script-src" not in policy
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert not re.search(rb'(src|href)="?(https?:)?//', answer.body)
