"""Getting in by the word of an identity server: one of our own making, and sydent."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.scenarios.conftest import FreshServer, above_storage
from tests.support.client import PASSWORD, Client, Json, bad_json, forbidden, refused
from tests.support.identity_server import IdentityServer
from tests.support.needed import needed
from tests.support.processes import wait_until
from tests.support.server import HomeServer
from tests.support.smtp_server import SmtpServer
from tests.support.sydent import HOW_TO_INSTALL, Sydent, find_sydent

PASSWORD_STAGE = "m.login.password"
IDENTITY = "m.login.email.identity"
FLOWS = {
    "registration.flows": [[IDENTITY, PASSWORD_STAGE]],
    "login.flows": [[IDENTITY], [PASSWORD_STAGE]],
}


@pytest.fixture
def identity() -> Iterator[IdentityServer]:
    server = IdentityServer()
    yield server
    server.stop()


@pytest.fixture
def server(fresh_server: FreshServer, identity: IdentityServer) -> HomeServer:
    return fresh_server({**FLOWS, "identity_servers.trusted": [identity.url], "identity_servers.timeout": 2.0})


@pytest.fixture
def nobody(server: HomeServer) -> Client:
    return Client(server)


def stage(*credentials: Json, **more: object) -> Json:
    return {"type": IDENTITY, "threepidCreds": list(credentials), **more}


def register(nobody: Client, credentials: Json, name: str = "erin") -> Client:
    """Make an account with an address."""
    begun = nobody.call("POST", "/register", stage(credentials))
    assert begun["next"] == PASSWORD_STAGE
    body = {"type": PASSWORD_STAGE, "user": name, "password": PASSWORD, "session": begun["session"]}
    made = nobody.call("POST", "/register", body)
    return Client(nobody.server, token=made["access_token"], user_id=made["user_id"])


def test_confirmed_address_registers_and_logs_in(nobody: Client, identity: IdentityServer) -> None:
    """LOGIN-6, LOGIN-8: and the identity server is told whose it is now."""
    erin = register(nobody, identity.session("erin@example.org"))
    wait_until("the address to be bound", lambda: bool(identity.bound))
    assert identity.bound == {"erin@example.org": erin.user_id}
    (address,) = erin.call("GET", "/account/3pid")["threepids"]
    assert address["address"] == "erin@example.org"
    again = nobody.call("POST", "/login", stage(identity.session("Erin@Example.org")))
    assert again["user_id"] == erin.user_id


def test_credentials_in_either_spelling_and_more_than_one(nobody: Client, identity: IdentityServer) -> None:
    """LOGIN-6."""
    given = identity.session("erin@example.org")
    other = {"sid": given["sid"], "client_secret": given["clientSecret"], "id_server": identity.url}
    begun = nobody.call("POST", "/register", stage(other, identity.session("e@example.org")))
    body = {"type": PASSWORD_STAGE, "user": "erin", "password": PASSWORD, "session": begun["session"]}
    erin = Client(nobody.server, token=nobody.call("POST", "/register", body)["access_token"])
    addresses = [one["address"] for one in erin.call("GET", "/account/3pid")["threepids"]]
    assert addresses == ["e@example.org", "erin@example.org"]
    both = [identity.session("e@example.org"), identity.session("erin@example.org")]
    assert nobody.call("POST", "/login", stage(*both))["access_token"]
    with forbidden():
        nobody.call("POST", "/login", stage(identity.session("e@example.org"), identity.session("x@example.org")))


def test_what_the_identity_server_does_not_confirm_is_refused(nobody: Client, identity: IdentityServer) -> None:
    """LOGIN-6."""
    register(nobody, identity.session("erin@example.org"))
    good = identity.session("erin@example.org")
    bad = [
        {**good, "sid": "made-up"},
        {**good, "clientSecret": "made-up"},
        identity.session("erin@example.org", is_validated=False),
        identity.session("erin@example.org", age_seconds=3700),
        identity.session("erin@example.org", age_seconds=-3700),
        identity.session("erin@example.org", medium="msisdn"),
        identity.session("nobody@example.org"),
    ]
    for credentials in bad:
        with forbidden():
            nobody.call("POST", "/login", stage(credentials))
    with forbidden():
        nobody.call("POST", "/login", stage(good, bad[0]))
    assert nobody.call("POST", "/login", stage(good))["access_token"]


def test_session_of_the_identity_server_is_good_once(nobody: Client, identity: IdentityServer) -> None:
    """LOGIN-6, LOGIN-2: also if it is shown twice at the same time."""
    credentials = identity.session("erin@example.org")
    register(nobody, credentials)
    with forbidden():
        nobody.call("POST", "/login", stage(credentials))
    credentials = identity.session("erin@example.org")
    attempts = [nobody.start("POST", "/login", stage(credentials)) for _ in range(5)]
    assert sorted(attempt.answer().status for attempt in attempts) == [200, 403, 403, 403, 403]


def test_address_belongs_to_one_account(nobody: Client, identity: IdentityServer) -> None:
    """LOGIN-6."""
    register(nobody, identity.session("erin@example.org"))
    with forbidden():
        register(nobody, identity.session("erin@example.org"), "frank")
    with forbidden():
        nobody.login("frank")


@above_storage
def test_what_are_no_credentials_is_refused(nobody: Client) -> None:
    """LOGIN-6."""
    half, wrong = {"sid": "a", "clientSecret": "b"}, {"sid": 1, "clientSecret": "b", "idServer": "c"}
    cases: list[object] = [None, [], {}, "x", [{}], [5], [half], [wrong]]
    for given in cases:
        with bad_json():
            nobody.call("POST", "/login", {"type": IDENTITY, "threepidCreds": given})


def test_only_trusted_servers_are_asked(nobody: Client, identity: IdentityServer) -> None:
    """LOGIN-6: whatever they would say."""
    stranger = IdentityServer()
    try:
        session = stranger.session("erin@example.org")
        for name in (stranger.name, stranger.url, f"{identity.name}@{stranger.name}", "", "localhost", "[::1"):
            with forbidden():
                nobody.call("POST", "/register", stage({**session, "idServer": name}))
        assert stranger.asked == []
        assert identity.asked == []
    finally:
        stranger.stop()


@above_storage
def test_identity_server_that_is_down_or_talks_nonsense_is_told_of(nobody: Client, identity: IdentityServer) -> None:
    """LOGIN-6: and one can try again."""
    credentials = identity.session("erin@example.org")
    for nonsense in (b"", b"<html>", b"[]", b'{"medium": "email"}', b"{" * 300_000):
        identity.nonsense = nonsense
        with refused(502, "M_UNREACHABLE"):
            nobody.call("POST", "/register", stage(credentials))
    identity.nonsense = None
    identity.stop()
    with refused(502, "M_UNREACHABLE"):
        nobody.call("POST", "/register", stage(credentials))
    identity.start()
    register(nobody, credentials)


def test_identity_server_is_told_later_if_it_is_down(nobody: Client, identity: IdentityServer) -> None:
    """LOGIN-6: also after a restart of this server."""
    begun = nobody.call("POST", "/register", stage(identity.session("erin@example.org")))
    identity.stop()
    body = {"type": PASSWORD_STAGE, "user": "erin", "password": PASSWORD, "session": begun["session"]}
    user_id = nobody.call("POST", "/register", body)["user_id"]
    server = nobody.server
    wait_until("it to fail", lambda: "an identity server could not be told" in server.recent_log())
    server.kill9()
    identity.start()
    server.start()
    wait_until("the address to be bound", lambda: bool(identity.bound))
    assert identity.bound == {"erin@example.org": user_id}


@pytest.fixture
def sydent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sydent, SmtpServer]]:
    program = needed(find_sydent(), "SYDENT", HOW_TO_INSTALL)
    smtp = SmtpServer(tmp_path_factory.mktemp("smtp")).start()
    server = Sydent(program, tmp_path_factory.mktemp("sydent"), smtp.port)
    yield server, smtp
    server.stop()
    smtp.stop()


@above_storage
def test_sydent_confirms_an_address_and_learns_whose_it_is(
    fresh_server: FreshServer, sydent: tuple[Sydent, SmtpServer]
) -> None:
    """LOGIN-6: with an identity server that others use."""
    identity, smtp = sydent
    nobody = Client(fresh_server({**FLOWS, "identity_servers.trusted": [identity.url]}))

    def confirmed() -> dict[str, str]:
        credentials = identity.request_token("erin@example.org")
        with forbidden():
            nobody.call("POST", "/register", stage(credentials))
        found = re.search(r"^ +(\S+)$", smtp.next_letter().part("plain"), re.MULTILINE)
        assert found is not None
        identity.submit_token(credentials, found[1])
        return credentials

    erin = register(nobody, confirmed())
    wait_until("sydent to know", lambda: identity.lookup("erin@example.org"))
    assert identity.lookup("erin@example.org") == erin.user_id
    with forbidden():
        nobody.call("POST", "/login", stage({**identity.request_token("e@example.org")}))
