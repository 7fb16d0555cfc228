"""Home servers and an identity server: addresses linked, looked up, invited, and what comes of that (ID-1)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPSConnection
from ssl import CERT_NONE, create_default_context
from typing import Any

import pytest
from signedjson.key import encode_verify_key_base64, generate_signing_key, get_verify_key, read_signing_keys
from signedjson.sign import sign_json

from tests.conftest import NewDatabase
from tests.scenarios.conftest import Unique, known
from tests.scenarios.federation.conftest import IMPATIENT, in_good_order
from tests.support.client import Answer, Client, Json, quote, refused
from tests.support.federation import Federation
from tests.support.identity import IdentityServer
from tests.support.processes import wait_until
from tests.support.server import HomeServer
from tests.support.smtp_server import SmtpServer

each_version = pytest.mark.parametrize("version", ["spec-2014", "6", "12"])


@pytest.fixture(scope="session")
def trusted(
    tmp_path_factory: pytest.TempPathFactory, new_database: NewDatabase, mail: SmtpServer
) -> Iterator[IdentityServer]:
    """The identity server that the home servers trust."""
    with new_database() as url:
        server = IdentityServer(tmp_path_factory.mktemp("identity") / "data", mail, url)
        yield server.start()
        server.close()


@pytest.fixture(scope="session")
def shared_homes(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    new_database: NewDatabase,
    trusted: IdentityServer,
) -> Iterator[Federation]:
    """Two home servers that trust it."""
    with ExitStack() as stack:
        urls = [stack.enter_context(new_database()) for _ in range(2)]
        settings = {**IMPATIENT, "identity_servers.trusted": [trusted.url]}
        federation = Federation(tmp_path_factory.mktemp("homes"), urls, settings)
        stack.callback(federation.close)
        for server in federation.servers:
            stack.enter_context(known(request, server))
        yield federation.start()


@pytest.fixture
def homes(shared_homes: Federation) -> Iterator[Federation]:
    with in_good_order(shared_homes) as federation:
        yield federation


@pytest.fixture
def alice(homes: Federation, unique: Unique) -> Client:
    return Client(homes.servers[0]).register(unique("alice"))


@pytest.fixture
def bob(homes: Federation, unique: Unique) -> Client:
    """Somebody on the other server."""
    return Client(homes.servers[1]).register(unique("bob"))


@pytest.fixture
def email(unique: Unique) -> str:
    return f"{unique('bob')}@example.org"


def name_of(server: IdentityServer) -> str:
    """How clients call an identity server."""
    return f"127.0.0.1:{server.port}"


def key_of(server: IdentityServer) -> Any:
    """The key by which an identity server signs."""
    with (server.data_dir / "signing.key").open() as file:
        return read_signing_keys(file)[0]


def invite(client: Client, room: str, server: IdentityServer, email: str, txn: str | None = None) -> Answer:
    """Invite an address."""
    body = {"id_server": name_of(server), "medium": "email", "address": email}
    if txn is not None:
        return client.request("PUT", f"/rooms/{quote(room)}/invite/{txn}", body)
    return client.request("POST", f"/rooms/{quote(room)}/invite", body)


def link(client: Client, server: IdentityServer, email: str) -> None:
    """Prove an address, and link it by way of the home server."""
    sid, secret = server.validate(email)
    credentials = {"idServer": name_of(server), "sid": sid, "clientSecret": secret}
    client.call("POST", "/account/3pid", {"threePidCreds": credentials, "bind": True})


def is_invited(client: Client, room: str) -> bool:
    rooms = client.call("GET", "/initialSync", limit=0)["rooms"]
    return any(item["room_id"] == room and item["membership"] == "invite" for item in rooms)


def lookup(client: Client, email: str, **query: object) -> Json:
    return dict(client.call("GET", "/account/3pid/lookup", medium="email", address=email, **query))


def test_linked_address_is_looked_up_until_it_is_unlinked(
    alice: Client, bob: Client, trusted: IdentityServer, email: str
) -> None:
    """ID-1: link, look up and unlink, for logged-in users, by the signed word of a trusted server."""
    with refused(404, "M_NOT_FOUND"):
        lookup(alice, email)
    link(bob, trusted, email)
    expected = {"medium": "email", "address": email, "user_id": bob.user_id}
    assert lookup(alice, email.upper()) == expected
    assert lookup(alice, email, id_server=name_of(trusted)) == expected
    [linked] = bob.call("GET", "/account/3pid")["threepids"]
    assert (linked["address"], linked["id_server"]) == (email, trusted.url)
    body = {"medium": "email", "address": email}
    with refused(404, "M_NOT_FOUND"):
        alice.call("POST", "/account/3pid/delete", body)
    assert bob.call("POST", "/account/3pid/delete", body) == {"id_server_unbind_result": "success"}
    assert bob.call("GET", "/account/3pid") == {"threepids": []}
    assert trusted.lookup(email) is None
    with refused(404, "M_NOT_FOUND"):
        lookup(alice, email)


def test_linked_address_is_no_way_into_the_account(bob: Client, trusted: IdentityServer, email: str) -> None:
    """ID-1: what others may find somebody by does not reset their password."""
    link(bob, trusted, email)
    with refused(403, "M_FORBIDDEN"):
        bob.call("POST", "/login/reset", {"user_id": bob.user_id, "email": email}, token="")


def test_only_trusted_identity_servers_are_asked(alice: Client, trusted: IdentityServer, email: str) -> None:
    """ID-1, SEC-1: a client cannot have the server knock anywhere."""
    room = alice.create_room()
    for name in ("127.0.0.1:1", "localhost:22", "http://127.0.0.1:1", "example.org", "", "\0", f"{name_of(trusted)}/x"):
        body = {"id_server": name, "medium": "email", "address": email}
        with refused(403, "M_FORBIDDEN"):
            alice.call("POST", f"/rooms/{quote(room)}/invite", body)
        credentials = {"idServer": name, "sid": "x", "clientSecret": "x"}
        with refused(403, "M_FORBIDDEN"):
            alice.call("POST", "/account/3pid", {"threePidCreds": credentials})
        with refused(403, "M_FORBIDDEN"):
            lookup(alice, email, id_server=name)


def test_bad_input_is_refused(alice: Client, trusted: IdentityServer) -> None:
    """ID-1: every fault has its sentence."""
    room = alice.create_room()
    path, name = f"/rooms/{quote(room)}/invite", name_of(trusted)
    bodies: list[Json] = [
        {},
        {"id_server": name, "medium": "email"},
        {"id_server": name, "medium": "email", "address": "x"},
        {"id_server": name, "medium": "fax", "address": "x@example.org"},
        {"id_server": name, "medium": "email", "address": "x@example.org", "user_id": "@a:b"},
        {"id_server": 5, "medium": "email", "address": "x@example.org"},
    ]
    for body in bodies:
        with refused(400, "M_BAD_JSON"):
            alice.call("POST", path, body)
    for body in ({}, {"threePidCreds": 5}, {"threePidCreds": {"sid": "x"}}):
        with refused(400, "M_BAD_JSON"):
            alice.call("POST", "/account/3pid", body)
    credentials = {"idServer": name, "sid": "unknown", "clientSecret": "x"}
    with refused(403, "M_FORBIDDEN"):
        alice.call("POST", "/account/3pid", {"threePidCreds": credentials})
    with refused(400, "M_BAD_JSON"):
        alice.call("POST", "/account/3pid", {"threePidCreds": credentials, "bind": False})
    with refused(401, "M_MISSING_TOKEN"):
        alice.call("POST", path, bodies[1], token="")


@each_version
def test_known_address_is_invited_as_the_user_who_has_it(
    alice: Client, bob: Client, trusted: IdentityServer, email: str, version: str
) -> None:
    """ID-1: invite by 3PID."""
    link(bob, trusted, email)
    room = alice.create_room(room_version=version)
    assert invite(alice, room, trusted, email).status == 200
    wait_until("the invite", lambda: is_invited(bob, room))
    assert bob.join(room) == room


@each_version
def test_invite_to_an_unknown_address_becomes_one_to_its_owner(
    alice: Client, bob: Client, trusted: IdentityServer, email: str, version: str
) -> None:
    """ID-1: pending invites become room invites at binding, in rooms of every kind, across servers."""
    room = alice.create_room(room_version=version)
    assert invite(alice, room, trusted, email).status == 200
    assert f"{alice.user_id} has invited you" in trusted.mail_to(email)
    pending = [event for event in alice.state(room) if event["type"] == "m.room.third_party_invite"]
    if version == "spec-2014":
        assert not pending
    else:
        [shown] = pending
        assert email not in json.dumps(shown)
        assert len(shown["content"]["public_keys"]) == 2
    link(bob, trusted, email)
    wait_until("the invite", lambda: is_invited(bob, room))
    assert bob.join(room) == room
    content = alice.state_content(room, "m.room.member", bob.user_id)
    assert content["membership"] == "join"


def test_invite_of_a_user_of_the_same_server(
    alice: Client, trusted: IdentityServer, unique: Unique, email: str
) -> None:
    """ID-1: one home server is the inviter's and the invited one's."""
    carol = Client(alice.server).register(unique("carol"))
    for version in ("spec-2014", "11"):
        address = f"{version}-{email}"
        room = alice.create_room(room_version=version)
        assert invite(alice, room, trusted, address).status == 200
        trusted.mail_to(address)
        link(carol, trusted, address)
        wait_until("the invite", lambda room=room: is_invited(carol, room))
        assert carol.join(room) == room


def test_user_who_declines_is_not_invited_again(
    homes: Federation, alice: Client, bob: Client, trusted: IdentityServer, email: str
) -> None:
    """ID-1: an invite to an address is good once, however often the identity server tells of it."""
    for version in ("spec-2014", "11"):
        room, address = alice.create_room(room_version=version), f"{version}-{email}"
        assert invite(alice, room, trusted, address).status == 200
        trusted.mail_to(address)
        link(bob, trusted, address)
        wait_until("the invite", lambda room=room: is_invited(bob, room))
        bob.leave(room)
        wait_until("it to be declined", lambda room=room: _membership(alice, room, bob) == "leave")
        said = {"mxid": bob.user_id, "token": _token_of(homes.servers[0], room)}
        signed = sign_json(said, trusted.name, key_of(trusted))
        told = {"room_id": room, "sender": alice.user_id, "signed": signed}
        assert tell(homes.servers[1], {"mxid": bob.user_id, "invites": [told]}).status == 200
        assert not is_invited(bob, room)
        assert _membership(alice, room, bob) == "leave"


def _membership(client: Client, room: str, member: Client) -> object:
    return client.state_content(room, "m.room.member", member.user_id)["membership"]


def test_same_request_leaves_one_invite(alice: Client, trusted: IdentityServer, email: str) -> None:
    """ID-1, API-4: a PUT that is made again sends no second mail."""
    room = alice.create_room(room_version="11")
    assert invite(alice, room, trusted, email, "txn1").status == 200
    trusted.mail_to(email)
    assert invite(alice, room, trusted, email, "txn1").status == 200
    assert not trusted.mail.has_new()
    assert len([event for event in alice.state(room) if event["type"] == "m.room.third_party_invite"]) == 1


@each_version
def test_who_may_not_invite_asks_nobody_and_sends_nothing(
    alice: Client, unique: Unique, trusted: IdentityServer, email: str, version: str
) -> None:
    """ID-1: an address is neither looked up nor written to for somebody whom the room would not let invite."""
    room = alice.create_room(room_version=version)
    stranger = Client(alice.server).register(unique("stranger"))
    answer = invite(stranger, room, trusted, email)
    assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN")
    answer = invite(stranger, "!unknown:example.org", trusted, email)
    assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN")
    assert not trusted.mail.has_new()


def test_inviter_who_has_left_a_room_of_2014_invites_nobody_any_more(
    alice: Client, bob: Client, unique: Unique, trusted: IdentityServer, email: str
) -> None:
    """ID-1: the rules of the room hold when the invite becomes real, not only when it was sent."""
    carol = Client(alice.server).register(unique("carol"))
    room = carol.create_room(room_version="spec-2014", visibility="public")
    alice.join(room)
    assert invite(alice, room, trusted, email).status == 200
    trusted.mail_to(email)
    alice.leave(room)
    link(bob, trusted, email)
    time.sleep(1)
    assert not is_invited(bob, room)


@pytest.mark.parametrize("version", ["6", "12"])
def test_invite_that_was_taken_back_is_not_made(
    alice: Client, bob: Client, trusted: IdentityServer, email: str, version: str
) -> None:
    """ID-1: in rooms of Matrix's versions an invite to an address is state, which can be emptied."""
    room = alice.create_room(room_version=version)
    assert invite(alice, room, trusted, email).status == 200
    trusted.mail_to(email)
    [shown] = [event for event in alice.state(room) if event["type"] == "m.room.third_party_invite"]
    alice.set_state(room, "m.room.third_party_invite", {}, shown["state_key"])
    link(bob, trusted, email)
    time.sleep(1)
    assert not is_invited(bob, room)


def test_notice_waits_for_a_home_server_that_is_away(
    homes: Federation, alice: Client, bob: Client, trusted: IdentityServer, email: str
) -> None:
    """ID-1: what a home server must be told is told when it is back."""
    room = alice.create_room()
    assert invite(alice, room, trusted, email).status == 200
    trusted.mail_to(email)
    sid, secret = trusted.validate(email)
    homes.servers[1].kill9()
    trusted.call("POST", "/3pid/bind", {"sid": sid, "client_secret": secret, "mxid": bob.user_id})
    wait_until(
        "the identity server to see that it is away",
        lambda: f"{homes.servers[1].name} (home server)" in trusted.command("status").stdout,
    )
    homes.servers[1].start()
    wait_until("the invite", lambda: is_invited(bob, room), seconds=60)


# What an identity server, or somebody who says so, may not tell.


def tell(server: HomeServer, notice: object, method: str = "POST") -> Answer:
    """Tell a home server that an address was bound."""
    context = create_default_context()
    context.check_hostname = False
    context.verify_mode = CERT_NONE
    connection = HTTPSConnection("127.0.0.1", server.federation_port, timeout=30, context=context)
    try:
        connection.request(method, "/_matrix/federation/v1/3pid/onbind", json.dumps(notice))
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def test_notice_of_a_stranger_is_not_believed(
    homes: Federation, alice: Client, bob: Client, trusted: IdentityServer
) -> None:
    """ID-1, SEC-9: only who is trusted may say whom there were invites for, signed for this server, and now."""
    server = homes.servers[1]
    key = key_of(trusted)
    stranger = generate_signing_key("1")
    now = int(time.time() * 1000)
    notice: Json = {
        "medium": "email",
        "address": "x@example.org",
        "mxid": bob.user_id,
        "invites": [],
        "destination": server.name,
        "ts": now,
    }
    signed = sign_json(dict(notice), trusted.name, key)
    assert tell(server, signed).status == 200
    assert tell(server, signed, "PUT").status == 200
    for bad in (
        notice,
        sign_json(dict(notice), "stranger.example", stranger),
        sign_json(dict(notice), trusted.name, stranger),
        sign_json({**notice, "destination": "another.example"}, trusted.name, key),
        sign_json({**notice, "ts": now - 3600_000}, trusted.name, key),
        {**signed, "address": "y@example.org"},
    ):
        answer = tell(server, bad)
        assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN"), bad
    for mxid in ("@nobody:" + server.name, alice.user_id):
        answer = tell(server, sign_json({**notice, "mxid": mxid}, trusted.name, key))
        assert (answer.status, answer.json["errcode"]) == (404, "M_NOT_FOUND")
    for changes in ({"invites": 5}, {"invites": [{}] * 101}, {"mxid": 5}, {"mxid": "x"}):
        answer = tell(server, sign_json({**notice, **changes}, trusted.name, key))
        assert (answer.status, answer.json["errcode"]) == (400, "M_BAD_JSON"), changes
    # What makes no sense among the invites is left out.
    for senseless in (
        5,
        {},
        {"room_id": "!a:b", "sender": "@a:b"},
        {"room_id": "!a:b", "sender": "@a:b", "signed": {}},
    ):
        assert tell(server, sign_json({**notice, "invites": [senseless]}, trusted.name, key)).status == 200


@each_version
def test_invite_that_no_named_key_has_signed_is_not_made(
    homes: Federation, alice: Client, bob: Client, trusted: IdentityServer, email: str, version: str
) -> None:
    """ID-1, SEC-8: the inviter's server checks who says that the address is whose."""
    room = alice.create_room(room_version=version)
    assert invite(alice, room, trusted, email).status == 200
    trusted.mail_to(email)
    server = homes.servers[1]
    key = key_of(trusted)
    token = _token_of(homes.servers[0], room)

    def told(signed: Json, signer: Any = key) -> Answer:
        notice = {
            "mxid": bob.user_id,
            "invites": [{"room_id": room, "sender": alice.user_id, "signed": signed}],
            "destination": server.name,
            "ts": int(time.time() * 1000),
        }
        return tell(server, sign_json(notice, trusted.name, signer))

    stranger = generate_signing_key("1")
    said = {"mxid": bob.user_id, "token": token}
    for signed in (
        sign_json(dict(said), "stranger.example", stranger),
        sign_json({**said, "token": "another"}, trusted.name, key),
        {**sign_json({**said, "token": "another"}, trusted.name, key), "token": token},
    ):
        assert told(signed).status == 200
        assert not is_invited(bob, room)
    # Whoever passes on what the identity server has signed need not be it.
    assert told(sign_json(dict(said), trusted.name, stranger), signer=stranger).status == 403
    assert told(sign_json(dict(said), trusted.name, key), signer=stranger).status == 200
    wait_until("the invite", lambda: is_invited(bob, room))


def _token_of(server: HomeServer, room: str) -> str:
    """The token of the one invite to an address in a room."""
    return str(wait_until("the invite in the table", lambda: next(iter(_tokens(server, room)), None)))


def _tokens(server: HomeServer, room: str) -> list[Any]:
    if server.database == "sqlite":
        import sqlite3

        connection = sqlite3.connect(f"file:{server.data_dir / 'homeserver.db'}?mode=ro", uri=True)
        try:
            rows = connection.execute("SELECT token FROM address_invites WHERE room_id = ?", (room,)).fetchall()
        finally:
            connection.close()
    else:
        import psycopg

        with psycopg.connect(server.database) as connection:
            rows = connection.execute("SELECT token FROM address_invites WHERE room_id = %s", (room,)).fetchall()
    return [row[0] for row in rows]


def test_answers_of_the_key_are_those_of_the_room(trusted: IdentityServer, alice: Client, email: str) -> None:
    """ID-1: the keys that a room is told are said to be valid where the room is told to ask."""
    room = alice.create_room(room_version="11")
    assert invite(alice, room, trusted, email).status == 200
    trusted.mail_to(email)
    [shown] = [event for event in alice.state(room) if event["type"] == "m.room.third_party_invite"]
    for entry in shown["content"]["public_keys"]:
        path = entry["key_validity_url"].removeprefix(trusted.url)
        assert trusted.call("GET", path, public_key=entry["public_key"]) == {"valid": True}
        stranger = encode_verify_key_base64(get_verify_key(generate_signing_key("1")))
        assert trusted.call("GET", path, public_key=stranger) == {"valid": False}
