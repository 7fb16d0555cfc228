"""Getting in by OAuth 2, with real providers (LOGIN-7): what clients see, and what nobody should be able to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.parse import urlencode, urlsplit

import pytest

from tests.conftest import NewDatabase
from tests.scenarios.conftest import Unique, known, must_not_have_failed
from tests.support.client import PASSWORD, PREFIX, Answer, Client, Json, bad_json, forbidden, not_found, refused
from tests.support.needed import needed
from tests.support.oidc import CLIENT_ID, HOW_TO_INSTALL, OidcProviders, authorize, find_node, query_of
from tests.support.server import QUICK, HomeServer
from tests.support.smtp_server import SmtpServer

OAUTH2, PASSWORD_STAGE, CODE = "m.login.oauth2", "m.login.password", "m.login.email.code"
PAGES = "/_matrix/client/pages/oauth2"


@pytest.fixture(scope="module")
def oidc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcProviders]:
    """The providers, which are not running yet."""
    node = needed(find_node(), "OIDC", HOW_TO_INSTALL)
    providers = OidcProviders(node, tmp_path_factory.mktemp("oidc"))
    yield providers
    providers.stop()


@pytest.fixture(scope="module")
def smtp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmtpServer]:
    """A mail server, by which accounts get e-mail addresses."""
    server = SmtpServer(tmp_path_factory.mktemp("smtp")).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def servers(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    new_database: NewDatabase,
    oidc: OidcProviders,
    smtp: SmtpServer,
) -> Iterator[dict[str, HomeServer]]:
    """Three home servers: with `one` provider, with `several`, each by another rule, and with `two` factors."""
    oidc.stop()
    plain = {
        "issuer": None,
        "authorization_endpoint": f"{oidc.issuer()}/auth",
        "token_endpoint": f"{oidc.issuer()}/token",
        "userinfo_endpoint": f"{oidc.issuer()}/me",
        "scopes": ["openid", "profile"],
    }
    both = {"registration.flows": [[PASSWORD_STAGE], [OAUTH2]], "login.flows": [[PASSWORD_STAGE], [OAUTH2]]}
    settings: dict[str, dict[str, object]] = {
        "one": {**both, "oauth2.providers": [oidc.settings("strict", "Strict")]},
        "several": {
            "registration.flows": [[PASSWORD_STAGE], [OAUTH2], [CODE]],
            "login.flows": [[PASSWORD_STAGE], [OAUTH2]],
            "mail.host": "127.0.0.1",
            "mail.port": smtp.port,
            "mail.security": "none",
            "oauth2.providers": [
                oidc.settings("strict", "Strict"),
                oidc.settings("other", "Other", number=1),
                oidc.settings("new", "New", new_accounts="by_name"),
                oidc.settings("by-name", "By name", link_accounts="by_name"),
                oidc.settings("by-email", "By e-mail", link_accounts="by_email"),
                oidc.settings("plain", "Plain", new_accounts="by_name", **plain),
                oidc.settings(
                    "post", "Post", client_id=f"{CLIENT_ID}_post", client_authentication="post", new_accounts="by_name"
                ),
                oidc.settings("wrong-secret", "Wrong", client_secret="not this", new_accounts="by_name"),
            ],
        },
        "two": {
            "registration.flows": [[PASSWORD_STAGE, OAUTH2], [OAUTH2, PASSWORD_STAGE]],
            "login.flows": [[PASSWORD_STAGE, OAUTH2], [OAUTH2, PASSWORD_STAGE]],
            "oauth2.providers": [oidc.settings("strict", "Strict")],
        },
    }
    with new_database() as url, new_database() as url_2, new_database() as url_3:
        made = {
            name: HomeServer(tmp_path_factory.mktemp("home") / "data", its_url, {**QUICK, **settings[name]})
            for name, its_url in zip(settings, (url, url_2, url_3), strict=True)
        }
        for server in made.values():
            oidc.know(f"http://127.0.0.1:{server.port}")
        oidc.start()
        with known(request, made["one"]), known(request, made["several"]), known(request, made["two"]):
            for server in made.values():
                server.start()
            yield made


@pytest.fixture
def one(servers: dict[str, HomeServer]) -> Iterator[Client]:
    """A client of the server with one provider."""
    yield from _nobody_at(servers["one"])


@pytest.fixture
def several(servers: dict[str, HomeServer]) -> Iterator[Client]:
    yield from _nobody_at(servers["several"])


@pytest.fixture
def two(servers: dict[str, HomeServer]) -> Iterator[Client]:
    yield from _nobody_at(servers["two"])


def _nobody_at(server: HomeServer) -> Iterator[Client]:
    server.forget_log()
    yield Client(server)
    must_not_have_failed(server)


@pytest.fixture
def somebody(unique: Unique, database_kind: str) -> Unique:
    """Names that are new at the providers, too: those serve the servers on both kinds of database."""
    return lambda word: f"{unique(word)}-{database_kind}"


def begin(client: Client, path: str = "/login", **more: object) -> Json:
    answer = client.call("POST", path, {"type": OAUTH2, **more})
    assert isinstance(answer, dict)
    return answer


def visit(address: str, method: str = "GET", fields: Json | None = None, **headers: str) -> Answer:
    """Open an address as a client does, which wants no page."""
    parts = urlsplit(address)
    assert parts.hostname is not None
    connection = HTTPConnection(parts.hostname, parts.port, timeout=20)
    body = None if fields is None else urlencode(fields)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, body, sent)
    response = connection.getresponse()
    answer = Answer(response.status, response.headers, response.read())
    connection.close()
    return answer


class Browser:
    """As much of a browser as it takes: it wants pages, keeps cookies and fills in forms."""

    def __init__(self) -> None:
        self.cookie = ""

    def open(self, address: str, fields: Json | None = None, **headers: str) -> Answer:
        own = {"Accept": "text/html,*/*;q=0.8", "Sec_Fetch_Dest": "document", **headers}
        if self.cookie:
            own["Cookie"] = self.cookie
        answer = visit(address, "GET" if fields is None else "POST", fields, **own)
        if "Set-Cookie" in answer.headers:
            self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
        return answer

    def submit(self, address: str, shown: Answer, **fields: str) -> Answer:
        """Fill in the form of a page, and send it back."""
        hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', shown.body.decode()))
        action = re.search(r'<form method="post" action="([^"]+)"', shown.body.decode())
        parts = urlsplit(address)
        target = f"http://{parts.netloc}{action[1]}" if action else address
        return self.open(target, {**hidden, **fields})


def refusal(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["errcode"]


def come_back(client: Client, begun: Json, name: str) -> Json:
    """Log in at the provider, and visit the redirect URI as a client."""
    answer = visit(authorize(begun["uri"], name))
    assert answer.status == 200, answer.body
    body = answer.json
    assert isinstance(body, dict)
    return body


def is_live(client: Client, token: str) -> bool:
    return client.request("GET", "/initialSync", token=token).status == 200


# What a client is answered.


def test_one_provider_is_led_to_at_once(one: Client, oidc: OidcProviders) -> None:
    """LOGIN-7: with PKCE, a nonce, and a state that is new each time."""
    assert {"type": OAUTH2} in one.call("GET", "/login")["flows"]
    begun = begin(one)
    assert begun["uri"].startswith(f"{oidc.issuer()}/auth?")
    assert begun["session"]
    asked = query_of(begun["uri"])
    assert asked["response_type"] == "code"
    assert asked["client_id"] == CLIENT_ID
    assert asked["scope"] == "openid profile email"
    assert asked["redirect_uri"] == f"http://127.0.0.1:{one.server.port}{PAGES}/return/strict"
    assert asked["code_challenge_method"] == "S256"
    assert len(asked["code_challenge"]) == 43
    again = query_of(begin(one)["uri"])
    for secret in ("state", "nonce", "code_challenge"):
        assert again[secret] != asked[secret]


def test_among_several_providers_a_page_lets_choose(several: Client, oidc: OidcProviders) -> None:
    """LOGIN-7."""
    begun = begin(several)
    assert begun["uri"].startswith(f"http://127.0.0.1:{several.server.port}{PAGES}/choose/")
    browser = Browser()
    page = browser.open(begun["uri"])
    for name in ("Strict", "Other", "New"):
        assert f"Continue with {name}" in page.body.decode()
    leads_on = browser.submit(begun["uri"], page, provider="other")
    link = re.search(r'href="([^"]+)"', leads_on.body.decode())
    assert link is not None
    assert link[1].startswith(f"{oidc.issuer(1)}/auth?")
    # Its link is used up by that.
    assert browser.open(begun["uri"]).status == 403


def test_registering_links_the_account_for_the_login(one: Client, somebody: Unique) -> None:
    """LOGIN-7: under a name of one's own choice, and with one's display name."""
    name, there = somebody("erin"), somebody("erin-there")
    made = come_back(one, begin(one, "/register", user=name), there)
    assert made["user_id"] == f"@{name}:{one.server.name}"
    assert made["home_server"] == one.server.name
    assert is_live(one, made["access_token"])
    shown = one.call("GET", f"/profile/{made['user_id']}/displayname", token=made["access_token"])
    assert shown["displayname"].startswith(f"{there} of ")
    again = come_back(one, begin(one), there)
    assert again["user_id"] == made["user_id"]
    assert again["access_token"] != made["access_token"]
    # The user may be named at login, too.
    assert come_back(one, begin(one, user=name), there)["user_id"] == made["user_id"]


def test_registering_without_a_name_takes_that_of_the_provider(one: Client, somebody: Unique) -> None:
    """LOGIN-7."""
    there = somebody("Frank Müller")
    made = come_back(one, begin(one, "/register"), there)
    escaped = there.lower().replace(" ", "=20").replace("ü", "=c3=bc")
    assert made["user_id"] == f"@{escaped}:{one.server.name}"


def test_registering_a_taken_name_is_refused(one: Client, somebody: Unique) -> None:
    """LOGIN-3, LOGIN-7: before anybody is sent anywhere, and also if it is taken meanwhile."""
    name = somebody("grace")
    begun = begin(one, "/register", user=name)
    Client(one.server).register(name)
    with refused(400, "M_USER_IN_USE"):
        begin(one, "/register", user=name)
    assert refusal(visit(authorize(begun["uri"], somebody("grace-there")))) == (400, "M_USER_IN_USE")
    assert refusal(visit(authorize(begin(one, "/register")["uri"], name))) == (400, "M_USER_IN_USE")


def test_nobody_registers_twice_with_one_identity(one: Client, somebody: Unique) -> None:
    """LOGIN-7."""
    there = somebody("heidi")
    come_back(one, begin(one, "/register"), there)
    answer = visit(authorize(begin(one, "/register", user=somebody("second"))["uri"], there))
    assert refusal(answer) == (403, "M_FORBIDDEN")


def test_identity_without_an_account_is_refused(one: Client, somebody: Unique) -> None:
    """LOGIN-7: accounts come from nothing only where the settings say so."""
    name = somebody("ivan")
    Client(one.server).register(name)
    assert refusal(visit(authorize(begin(one)["uri"], name))) == (403, "M_FORBIDDEN")


def test_login_for_another_user_is_refused(one: Client, somebody: Unique) -> None:
    """LOGIN-2, LOGIN-7."""
    there, other = somebody("judy"), somebody("other")
    come_back(one, begin(one, "/register"), there)
    Client(one.server).register(other)
    assert refusal(visit(authorize(begin(one, user=other)["uri"], there))) == (403, "M_FORBIDDEN")


def test_session_goes_over_to_who_has_come_back(one: Client, somebody: Unique) -> None:
    """LOGIN-2, LOGIN-7: who has begun a login and sent somebody else to the provider gets nothing of it."""
    there = somebody("kim")
    come_back(one, begin(one, "/register"), there)
    begun = begin(one)
    come_back(one, begun, there)
    with forbidden():
        one.call("POST", "/login", {"type": OAUTH2, "session": begun["session"]})


def test_login_can_be_begun_anew_in_its_session(one: Client, somebody: Unique) -> None:
    """LOGIN-7: then only the newest way leads on."""
    there = somebody("laura")
    come_back(one, begin(one, "/register"), there)
    begun = begin(one)
    anew = begin(one, session=begun["session"])
    assert refusal(visit(authorize(begun["uri"], there))) == (403, "M_FORBIDDEN")
    assert come_back(one, anew, there)["access_token"]


def test_login_goes_on_after_a_restart(servers: dict[str, HomeServer], one: Client, somebody: Unique) -> None:
    """LOGIN-2, LOGIN-7."""
    there = somebody("mallory")
    begun = begin(one, "/register")
    servers["one"].restart()
    assert come_back(one, begun, there)["access_token"]


# What goes wrong.


def test_denial_is_an_error_and_can_be_thought_better_of(one: Client, somebody: Unique) -> None:
    """LOGIN-7."""
    begun = begin(one, "/register")
    back = authorize(begun["uri"], "nobody", allow=False)
    assert query_of(back)["error"] == "access_denied"
    answer = visit(back)
    assert refusal(answer) == (403, "M_FORBIDDEN")
    assert "not allowed Strict" in answer.json["error"]
    assert come_back(one, begun, somebody("niaj"))["access_token"]


def test_redirect_uri_is_good_once(one: Client, somebody: Unique) -> None:
    """LOGIN-7."""
    back = authorize(begin(one, "/register")["uri"], somebody("olivia"))
    assert visit(back).status == 200
    assert refusal(visit(back)) == (403, "M_FORBIDDEN")
    # Nor is its code good with another state.
    code, other = query_of(back)["code"], query_of(begin(one)["uri"])["state"]
    mixed = back.partition("?")[0] + "?" + urlencode({**query_of(back), "code": code, "state": other})
    answer = visit(mixed)
    assert refusal(answer) == (403, "M_FORBIDDEN")
    assert "does not confirm" in answer.json["error"]


def test_wrong_state_is_refused(one: Client, somebody: Unique) -> None:
    """LOGIN-7: and takes nothing from the right one."""
    back = authorize(begin(one, "/register")["uri"], somebody("peggy"))
    said = query_of(back)
    without = {key: value for key, value in said.items() if key != "state"}
    for query in ({**said, "state": "x" * 43}, {**said, "state": ""}, without):
        answer = visit(f"{back.partition('?')[0]}?{urlencode(query)}")
        assert refusal(answer) == (403, "M_FORBIDDEN")
    assert visit(back).status == 200


def test_code_of_another_login_is_refused(one: Client, somebody: Unique) -> None:
    """LOGIN-7: PKCE ties a code to the login that it was made for, so that a stolen one is of no use."""
    stolen = query_of(authorize(begin(one, "/register")["uri"], somebody("rupert")))["code"]
    mine = authorize(begin(one, "/register")["uri"], somebody("sybil"))
    mixed = f"{mine.partition('?')[0]}?{urlencode({**query_of(mine), 'code': stolen})}"
    assert refusal(visit(mixed)) == (403, "M_FORBIDDEN")


def test_answer_of_another_provider_is_refused(several: Client, oidc: OidcProviders, somebody: Unique) -> None:
    """LOGIN-7: each provider has a redirect URI of its own, and says who it is."""
    back = authorize(begin(several, "/register", provider="strict")["uri"], somebody("trent"))
    assert refusal(visit(back.replace("/return/strict", "/return/other"))) == (403, "M_FORBIDDEN")
    query = urlencode({**query_of(back), "iss": oidc.issuer(1)})
    assert refusal(visit(f"{back.partition('?')[0]}?{query}")) == (403, "M_FORBIDDEN")
    query = urlencode({key: value for key, value in query_of(back).items() if key != "iss"})
    assert refusal(visit(f"{back.partition('?')[0]}?{query}")) == (403, "M_FORBIDDEN")
    assert visit(back).status == 200


def test_provider_that_is_down_is_an_error_and_can_come_back(
    oidc: OidcProviders, one: Client, somebody: Unique
) -> None:
    """LOGIN-7: what the provider has forgotten meanwhile is begun anew."""
    back = authorize(begin(one, "/register")["uri"], somebody("victor"))
    oidc.stop()
    answer = visit(back)
    assert refusal(answer) == (502, "M_UNREACHABLE")
    assert "access_token" not in answer.json
    one.server.restart()
    with refused(502, "M_UNREACHABLE"):
        begin(one)
    oidc.start()
    # This provider keeps codes in memory only, so that it knows the old one no more.
    assert refusal(visit(back)) == (403, "M_FORBIDDEN")
    assert come_back(one, begin(one, "/register"), somebody("walter"))["access_token"]


def test_provider_that_does_not_know_us_is_an_error(several: Client, somebody: Unique) -> None:
    """LOGIN-7: the log tells the operator why, people are told no details."""
    answer = visit(authorize(begin(several, provider="wrong-secret")["uri"], somebody("wendy")))
    assert refusal(answer) == (502, "M_UNREACHABLE")
    assert "invalid_client" in several.server.recent_log()


@pytest.mark.parametrize("body", [{"provider": "nosuch"}, {"provider": 7}, {"user": 7}])
def test_nonsense_is_refused(one: Client, body: Json) -> None:
    """LOGIN-7, API-3."""
    with bad_json():
        begin(one, **body)


# By which rule an account is found.


def test_account_is_made_for_who_has_none(several: Client, somebody: Unique) -> None:
    """LOGIN-7: if the settings say so."""
    there = somebody("xena")
    made = come_back(several, begin(several, provider="new"), there)
    assert made["user_id"] == f"@{there}:{several.server.name}"
    assert come_back(several, begin(several, provider="new"), there)["user_id"] == made["user_id"]
    # Who has that name already keeps the account.
    taken = somebody("yves")
    Client(several.server).register(taken)
    answer = visit(authorize(begin(several, provider="new")["uri"], taken))
    assert refusal(answer) == (400, "M_USER_IN_USE")


def test_account_is_found_by_its_name(several: Client, somebody: Unique) -> None:
    """LOGIN-7: if the settings say so; then it is linked, and whoever has the name there later does not get in."""
    name = somebody("zoe")
    Client(several.server).register(name)
    assert come_back(several, begin(several, provider="by-name"), name)["user_id"].startswith(f"@{name}:")
    token = Client(several.server).login(name).token
    listed = several.call("GET", "/account/oauth2", token=token)["identities"]
    assert [(one["provider"], one["subject"]) for one in listed] == [("by-name", name)]
    # The provider calls another person so now: same name, another subject (it tells names apart by case, we do not).
    answer = visit(authorize(begin(several, provider="by-name")["uri"], name.upper()))
    assert refusal(answer) == (403, "M_FORBIDDEN")


def test_account_is_found_by_its_address(several: Client, smtp: SmtpServer, somebody: Unique) -> None:
    """LOGIN-7: if the settings say so, and the provider has seen that the address is theirs."""

    def register(name: str, there: str) -> str:
        asked = {"type": CODE, "user": name, "email": f"{there}@example.org"}
        session = several.call("POST", "/register", asked)["session"]
        code = re.search(r"^ +(\d{8})$", smtp.next_letter().part("plain"), re.MULTILINE)
        assert code is not None
        made = several.call("POST", "/register", {"type": CODE, "session": session, "code": code[1]})
        return str(made["user_id"])

    there = somebody("kay-there")
    user_id = register(somebody("kay"), there)
    assert come_back(several, begin(several, provider="by-email"), there)["user_id"] == user_id
    unsure = somebody("unsure-lea")
    register(somebody("lea"), unsure)
    answer = visit(authorize(begin(several, provider="by-email")["uri"], unsure))
    assert refusal(answer) == (403, "M_FORBIDDEN")
    # By another rule an address is of no use.
    assert refusal(visit(authorize(begin(several, provider="by-name")["uri"], there))) == (403, "M_FORBIDDEN")


def test_plain_oauth_2_without_id_tokens(several: Client, somebody: Unique) -> None:
    """LOGIN-7: endpoints by the settings, and who it is from the userinfo endpoint alone."""
    asked = query_of(begin(several, provider="plain")["uri"])
    assert "nonce" not in asked
    there = somebody("abe")
    made = come_back(several, begin(several, provider="plain"), there)
    assert made["user_id"] == f"@{there}:{several.server.name}"


def test_secret_may_be_shown_in_the_body(several: Client, somebody: Unique) -> None:
    """LOGIN-7."""
    there = somebody("bea")
    assert come_back(several, begin(several, provider="post"), there)["user_id"].startswith(f"@{there}:")


# Linking by the owner of an account.


def test_owner_links_and_unlinks_an_identity(several: Client, somebody: Unique) -> None:
    """LOGIN-7: with the password, and a page on which one confirms."""
    alice = Client(several.server).register(somebody("alice"))
    there = somebody("alice-there")
    with forbidden():
        alice.call("POST", "/account/oauth2", {"password": "wrong horse", "provider": "other"})
    uri = alice.call("POST", "/account/oauth2", {"password": PASSWORD, "provider": "other"})["uri"]
    back = authorize(uri, there)
    # Without a page nobody is asked.
    assert refusal(visit(back)) == (403, "M_FORBIDDEN")
    browser = Browser()
    asked = browser.open(back)
    assert alice.user_id in asked.body.decode()
    assert refusal(visit(authorize(begin(several, provider="other")["uri"], there))) == (403, "M_FORBIDDEN")
    done = browser.submit(back, asked)
    assert done.status == 200
    assert "access_token" not in done.body.decode()
    assert come_back(several, begin(several, provider="other"), there)["user_id"] == alice.user_id

    listed = alice.call("GET", "/account/oauth2")
    assert [(one["provider"], one["subject"]) for one in listed["identities"]] == [("other", there)]
    assert {"provider": "other", "name": "Other"} in listed["providers"]
    away = {"password": PASSWORD, "provider": "other", "subject": there}
    with forbidden():
        alice.call("POST", "/account/oauth2/delete", {**away, "password": "wrong horse"})
    alice.call("POST", "/account/oauth2/delete", away)
    with not_found():
        alice.call("POST", "/account/oauth2/delete", away)
    assert refusal(visit(authorize(begin(several, provider="other")["uri"], there))) == (403, "M_FORBIDDEN")


def test_identity_of_another_account_cannot_be_linked(several: Client, somebody: Unique) -> None:
    """LOGIN-7."""
    there = somebody("bob-there")
    come_back(several, begin(several, "/register", provider="other", user=somebody("bob")), there)
    carol = Client(several.server).register(somebody("carol"))
    uri = carol.call("POST", "/account/oauth2", {"password": PASSWORD, "provider": "other"})["uri"]
    assert Browser().open(authorize(uri, there)).status == 403
    assert carol.call("GET", "/account/oauth2")["identities"] == []


# Whose browser it is.


def test_browser_that_did_not_begin_is_asked_first(one: Client, somebody: Unique) -> None:
    """LOGIN-7: so that nobody is logged in to a stranger's account by opening an address."""
    there = somebody("carl")
    user_id = come_back(one, begin(one, "/register"), there)["user_id"]
    browser = Browser()
    back = authorize(begin(one)["uri"], there)
    asked = browser.open(back)
    assert asked.status == 200
    assert user_id in asked.body.decode()
    assert "access_token" not in asked.body.decode()
    # The form of that page is good in this browser only, and with its token only.
    assert Browser().submit(back, asked).status == 403
    assert browser.submit(back, asked, form="0" * 64).status == 403
    stranger = Browser()
    stranger.open(f"http://127.0.0.1:{one.server.port}{PREFIX}/login/fallback")
    page = stranger.open(f"http://127.0.0.1:{one.server.port}{PREFIX}/login/fallback").body.decode()
    token = re.search(r'name="form" value="(\w+)"', page)
    assert token is not None
    assert stranger.submit(back, asked, form=token[1]).status == 403
    done = browser.submit(back, asked)
    assert done.status == 200
    assert "access_token" in done.body.decode()
    assert browser.submit(back, asked).status == 403


def test_login_that_a_page_has_begun_goes_on_in_its_browser_only(several: Client, somebody: Unique) -> None:
    """LOGIN-7, LOGIN-9."""
    there = somebody("dan")
    come_back(several, begin(several, "/register", provider="strict"), there)
    fallback = f"http://127.0.0.1:{several.server.port}{PREFIX}/login/fallback"
    browser = Browser()

    def sent_back() -> str:
        leads_on = browser.submit(fallback, browser.open(fallback), type=OAUTH2, provider="strict")
        link = re.search(r'href="([^"]+)"', leads_on.body.decode())
        assert link is not None, leads_on.body
        return authorize(link[1].replace("&amp;", "&"), there)

    back = sent_back()
    assert Browser().open(back).status == 403
    assert refusal(visit(back)) == (403, "M_FORBIDDEN")
    done = browser.open(back)
    assert done.status == 200
    assert "access_token" in done.body.decode()


def test_choice_of_a_provider_ties_the_login_to_that_browser(several: Client, somebody: Unique) -> None:
    """LOGIN-7: in which one is asked all the same, since a client, and not the browser, has begun."""
    there = somebody("eve")
    begun = begin(several)
    browser = Browser()
    leads_on = browser.submit(begun["uri"], browser.open(begun["uri"]), provider="new")
    link = re.search(r'href="([^"]+)"', leads_on.body.decode())
    assert link is not None
    back = authorize(link[1].replace("&amp;", "&"), there)
    assert Browser().open(back).status == 403
    asked = browser.open(back)
    assert "new account" in asked.body.decode()
    assert "access_token" in browser.submit(back, asked).body.decode()


def test_images_and_frames_of_other_pages_log_nobody_in(one: Client, somebody: Unique) -> None:
    """LOGIN-7."""
    back = authorize(begin(one, "/register")["uri"], somebody("fay"))
    for place in ("image", "iframe", "script", "empty"):
        assert visit(back, Sec_Fetch_Dest=place).status == 403
    assert visit(back).status == 200


def test_pages_say_what_they_may_do(one: Client) -> None:
    """LOGIN-7: nothing but to show themselves; their address is told to nobody."""
    page = Browser().open(f"http://127.0.0.1:{one.server.port}{PAGES}/return/strict?state=x&code=y")
    assert page.status == 403
    assert page.headers.get_content_type() == "text/html"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cache-Control"] == "no-store"


# With other stages.


@pytest.mark.parametrize("order", [[PASSWORD_STAGE, OAUTH2], [OAUTH2, PASSWORD_STAGE]])
def test_two_factors_in_either_order(two: Client, somebody: Unique, order: list[str]) -> None:
    """LOGIN-2, LOGIN-7, LOGIN-8: the redirect URI ends in the next stage, if there is one."""
    name, there = somebody("gus"), somebody("gus-there")
    for path in ("/register", "/login"):
        done: Json = {}
        for stage in order:
            body = {"type": stage, "user": name, **({"session": done["session"]} if done else {})}
            if stage == PASSWORD_STAGE:
                done = two.call("POST", path, {**body, "password": PASSWORD})
            else:
                done = come_back(two, two.call("POST", path, body), there)
            if stage == order[0]:
                assert done["next"] == order[1]
                assert "access_token" not in done
        assert done["user_id"] == f"@{name}:{two.server.name}"


def test_second_factor_must_be_of_the_same_person(two: Client, somebody: Unique) -> None:
    """LOGIN-2, LOGIN-7, LOGIN-8."""
    people = {}
    for word in ("hal", "ida"):
        name = somebody(word)
        done = two.call("POST", "/register", {"type": PASSWORD_STAGE, "user": name, "password": PASSWORD})
        begun = begin(two, "/register", session=done["session"])
        people[word] = come_back(two, begun, f"{name}-there")["user_id"]
    done = two.call("POST", "/login", {"type": PASSWORD_STAGE, "user": people["hal"], "password": PASSWORD})
    begun = begin(two, session=done["session"])
    there = f"{people['ida'][1:].partition(':')[0]}-there"
    assert refusal(visit(authorize(begun["uri"], there))) == (403, "M_FORBIDDEN")
    # The first factor alone, or the stage of somebody who was never linked, is not enough either.
    assert refusal(visit(authorize(begin(two, session=done["session"])["uri"], somebody("jim")))) == (
        403,
        "M_FORBIDDEN",
    )
