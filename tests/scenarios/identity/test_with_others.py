"""Our identity server and a home server's login; and sydent, an identity server in use, in the place of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.scenarios.conftest import FreshServer, above_storage
from tests.scenarios.identity.conftest import IdentityServers
from tests.scenarios.identity.test_third_party_invites import is_invited
from tests.support.client import PASSWORD, Client, quote
from tests.support.needed import needed
from tests.support.processes import wait_until
from tests.support.smtp_server import SmtpServer
from tests.support.sydent import HOW_TO_INSTALL, Sydent, find_sydent

IDENTITY, PASSWORD_STAGE = "m.login.email.identity", "m.login.password"


def test_who_registers_by_the_word_of_our_identity_server_is_bound_there(
    fresh_server: FreshServer, identity_servers: IdentityServers
) -> None:
    """ID-1, LOGIN-6: both sides of it."""
    identity = identity_servers().start()
    home = fresh_server(
        {
            "registration.flows": [[IDENTITY, PASSWORD_STAGE]],
            "login.flows": [[IDENTITY]],
            "identity_servers.trusted": [identity.url],
        }
    )
    nobody = Client(home)

    def proven() -> dict[str, object]:
        sid, secret = identity.validate("erin@example.org")
        credentials = {"sid": sid, "clientSecret": secret, "idServer": f"127.0.0.1:{identity.port}"}
        return {"type": IDENTITY, "threepidCreds": [credentials]}

    begun = nobody.call("POST", "/register", proven())
    body = {"type": PASSWORD_STAGE, "user": "erin", "password": PASSWORD, "session": begun["session"]}
    user_id = nobody.call("POST", "/register", body)["user_id"]
    wait_until("the address to be bound", lambda: identity.lookup("erin@example.org") == user_id)
    assert nobody.call("POST", "/login", proven())["user_id"] == user_id


def test_invite_outlives_the_key_of_the_identity_server_and_a_restart_of_all(
    fresh_server: FreshServer, identity_servers: IdentityServers
) -> None:
    """ID-1: the key of the invite stays good when that of the server has changed."""
    identity = identity_servers().start()
    home = fresh_server({"identity_servers.trusted": [identity.url]})
    alice, bob = Client(home).register("alice"), Client(home).register("bob")
    rooms = {f"bob-{version}@example.org": alice.create_room(room_version=version) for version in ("spec-2014", "11")}
    for email, room in rooms.items():
        body = {"id_server": f"127.0.0.1:{identity.port}", "medium": "email", "address": email}
        alice.call("POST", f"/rooms/{quote(room)}/invite", body)
        identity.mail_to(email)
    identity.terminate()
    assert identity.command("rotate-key").returncode == 0
    identity.start()
    home.kill9()
    home.start()
    for email, room in rooms.items():
        sid, secret = identity.validate(email)
        credentials = {"sid": sid, "clientSecret": secret, "idServer": f"127.0.0.1:{identity.port}"}
        bob.call("POST", "/account/3pid", {"threePidCreds": credentials})
        wait_until("the invite", lambda room=room: is_invited(bob, room))


@pytest.fixture
def sydent(tmp_path_factory: pytest.TempPathFactory, mail: SmtpServer) -> Iterator[Sydent]:
    program = needed(find_sydent(), "SYDENT", HOW_TO_INSTALL)
    server = Sydent(program, tmp_path_factory.mktemp("sydent"), mail.port)
    yield server
    server.stop()


@above_storage
def test_sydent_links_finds_and_settles_invites_for_us(
    fresh_server: FreshServer, sydent: Sydent, mail: SmtpServer
) -> None:
    """ID-1: with an identity server that others use."""
    home = fresh_server({"identity_servers.trusted": [sydent.url]})
    alice, bob = Client(home).register("alice"), Client(home).register("bob")
    for version in ("spec-2014", "11"):
        email, room = f"bob-{version}@example.org", alice.create_room(room_version=version)
        body = {"id_server": sydent.name, "medium": "email", "address": email}
        alice.call("POST", f"/rooms/{quote(room)}/invite", body)
        assert mail.next_letter().recipient == email
        credentials = sydent.request_token(email)
        found = re.search(r"^ +(\S+)$", mail.next_letter().part("plain"), re.MULTILINE)
        assert found is not None
        sydent.submit_token(credentials, found[1])
        bob.call("POST", "/account/3pid", {"threePidCreds": credentials})
        wait_until("the invite", lambda room=room: is_invited(bob, room))
        answer = alice.call("GET", "/account/3pid/lookup", medium="email", address=email)
        assert answer["user_id"] == bob.user_id
